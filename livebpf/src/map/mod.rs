//! Map types. [`cell`] is the only raw storage; [`prog_array`] knows no machine code.
