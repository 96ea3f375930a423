//! What would make a refused program acceptable, by what is wrong with it.
//!
//! A place that refuses may say something more fitting itself ([`super::reject::Fail::help`]); for everything else the
//! phrase that tools match on decides, and at last the rule. Never decides anything itself.

use super::reject::Rule;

/// Phrases of messages, the more special first, each with what to do.
const BY_PHRASE: &[(&str, &str)] = &[
    ("!read_ok", "set the register on every path that leads here; R1 to R5 do not survive a call"),
    ("or_null'", "compare the pointer with NULL before using it"),
    ("_or_null prohibited", "compare the pointer with NULL before using it"),
    (
        "invalid mem access 'scalar'",
        "the register holds a number here: use the pointer it was made from, and change it by + and - only",
    ),
    (
        "invalid mem access 'map_ptr'",
        "look the element up with bpf_map_lookup_elem() and use the pointer that comes back",
    ),
    ("invalid mem access 'pkt_end'", "data_end is for comparisons only: read through a pointer made from data"),
    ("invalid mem access", "this kind of pointer cannot be read or written through"),
    ("invalid access to packet", "compare the end of what is accessed with data_end first, on every path"),
    (
        "invalid access to map value",
        "keep offset and size within the map's value: bound the index with a comparison or a mask",
    ),
    ("invalid access to memory", "keep offset and size within the memory: bound the index with a comparison or a mask"),
    ("unbounded memory access", "bound the number with `if (x < LIMIT)` or `x &= LIMIT - 1` before using it"),
    ("min value is negative", "make the number unsigned, or compare it with 0 first"),
    ("invalid zero-sized read", "make sure that the size is at least 1"),
    ("unbounded min value", "compare the number with a lower bound, or mask it, before adding it to the pointer"),
    ("makes pkt pointer be out of bounds", "bound the number before adding it to the pointer"),
    ("pointer be out of bounds", "bound the number before adding it to the pointer"),
    ("is not allowed: offset", "keep the offset small"),
    (
        "32-bit pointer arithmetic",
        "use 64-bit variables for pointers and offsets, so that the compiler does not cut them",
    ),
    (
        "pointer arithmetic",
        "only + and - with a bounded number work on pointers: compute the offset first, then add it",
    ),
    ("bitwise operator", "only + and - with a bounded number work on pointers: mask the offset, not the pointer"),
    ("subtract pointer from scalar", "subtract the number from the pointer, not the pointer from the number"),
    ("subtraction from stack pointer", "add a negative number instead"),
    ("pointer comparison", "compare pointers with NULL, or packet pointers with data_end, only"),
    ("misaligned", "align the access to its size, or copy the bytes one by one"),
    ("invalid read from stack", "initialise the variable on every path, padding included: `= {}` or memset"),
    ("invalid indirect read from stack", "initialise the variable on every path, padding included: `= {}` or memset"),
    ("variable-offset", "bound the index on both sides before using it on the stack"),
    ("invalid write to stack", "write below the frame pointer, at most 512 bytes: is the index within the array?"),
    ("leaks addr", "store a number instead: programs that are not trusted may not show addresses"),
    ("leaking pointer", "store a number instead: programs that are not trusted may not show addresses"),
    ("partial copy of pointer", "use 64-bit variables for pointers"),
    ("register spill", "store pointers as a whole: eight bytes, aligned to eight"),
    ("register fill", "load pointers as a whole: eight bytes, aligned to eight"),
    ("modified ctx ptr", "pass and use the context as it came: add no offset to it"),
    ("negative offset ctx ptr", "pass and use the context as it came: add no offset to it"),
    ("variable ctx access", "read context fields by their names, not by a computed offset"),
    (
        "invalid bpf_context access",
        "the context of this program type has no such field, or not for reading or writing at this size",
    ),
    (
        "same insn cannot be used with different pointers",
        "read the fields in separate statements, so that the compiler does not share the load",
    ),
    ("R6 != pointer to skb", "keep the context in R6 for BPF_LD_ABS and BPF_LD_IND"),
    ("BPF_LD_[ABS|IND]", "read the packet through data and data_end, or with bpf_skb_load_bytes()"),
    ("invalid func unknown", "there is no such helper: is the object built for a newer kernel?"),
    (
        "program of this type cannot use helper",
        "use a helper that this program type has, or load the program as another type",
    ),
    ("GPL", "declare a GPL-compatible licence in section \"license\""),
    ("map_type", "this helper works on other types of maps: change the map's type, or use the helper for it"),
    ("write into map forbidden", "the map is read-only for programs: take `const` or BPF_F_RDONLY_PROG away"),
    ("read from map forbidden", "the map is write-only for programs: take BPF_F_WRONLY_PROG away"),
    ("expected=map_ptr", "pass the address of the map itself, `&map`"),
    ("expected=ctx", "pass the context that the program was called with"),
    ("expected=scalar", "pass a number, not an address"),
    ("expected=", "pass memory that the program owns: stack, checked packet bytes or a map value"),
    ("helper access to the packet is not allowed", "copy the bytes to the stack first and pass that"),
    ("reference leak", "give back on every path what was acquired: submit, discard, release or destroy it"),
    ("Unreleased reference", "give back on every path what was acquired: submit, discard, release or destroy it"),
    ("bpf_spin_lock-ed region", "unlock first"),
    ("while holding a lock", "unlock first, or move the call out of the locked region"),
    (
        "is too large",
        "the program is explored path by path: use fewer branches in loops, smaller bounds, bpf_loop() or global functions",
    ),
    (
        "jumps is too complex",
        "use fewer branches that stay open at a time: split the function, or make parts of it global",
    ),
    ("infinite loop", "let the loop's condition depend on something that changes, and bound it by a constant"),
    ("back-edge", "bound the loop by a constant, or use bpf_loop()"),
    ("combined stack size", "use less stack in these functions, or keep large buffers in a per-CPU array"),
    ("call stack of", "call fewer functions from functions, or let the compiler inline some"),
    ("tail_calls are not allowed when call stack", "use less stack in the functions that call this one"),
    ("is only allowed in functions that return 'int'", "let the function return int"),
    ("not allowed in subprogs without BTF", "compile with -g, so that the object has BTF"),
    ("missing btf func_info", "compile with -g, so that the object has BTF"),
    ("recursive call", "replace the recursion by a loop with a constant bound"),
    ("doesn't return scalar", "let the function return a number, or declare it static"),
    ("invalid args into func", "pass what the function's prototype says; pointers are checked before the call"),
    ("size cannot be determined", "give the parameter a pointer to a complete type, or declare the function static"),
    ("arg#", "pass what the function's prototype says, or declare the function static"),
    ("should have been in", "return a number of that range on every path"),
    ("not a known value", "return a constant of the range that the program type allows"),
    ("return stack pointer", "the frame is gone after the return: let the caller pass the buffer"),
    ("into stack frame of the caller", "the frame is gone after the return: let the caller pass the buffer"),
    ("last insn is not an exit or jmp", "end every function with a return"),
    ("jump out of range", "jumps stay within their function: call it, or put both into one"),
    ("middle of ldimm64", "a 64-bit constant takes two slots: jump in front of it or behind it"),
    ("unreachable insn", "remove the code that nothing leads to; compile with -O2"),
    ("frame pointer is read only", "copy R10 to another register and change that"),
    ("div by zero", "divide by something else than the constant 0"),
    ("invalid shift", "shift by less than the width: 32 or 64"),
    ("unknown opcode 8d", "call a function by its name, or choose between several with `if` or a tail call"),
    ("not pointing to valid bpf_map", "declare the map in section .maps and name it in the program"),
    ("BPF_ATOMIC", "atomic operations work on stack and map values: copy the value first"),
    ("stack", "keep within the 512 bytes below the frame pointer"),
    ("lock", "lock and unlock the same element, one at a time, and unlock on every path"),
    ("release", "give it back exactly once, with the pointer that was acquired"),
];

fn by_rule(rule: Rule) -> Option<&'static str> {
    Some(match rule {
        Rule::Unsupported => {
            "the program may be fine, but livebpf does not know this: docs/verifier.md lists what is left out"
        }
        Rule::Uninitialised => "set it on every path that leads here",
        Rule::Memory => "bound offset and size by what the pointer allows",
        Rule::Pointer => "keep pointers and numbers apart: only + and - with a bounded number work on pointers",
        Rule::Context => "use the fields that the context of this program type has",
        Rule::Helper => "pass what the helper's prototype says",
        Rule::Call => "call functions with what their prototypes say, at most 8 deep",
        Rule::Stack => "use less stack: large buffers belong into a per-CPU array",
        Rule::TailCall => "make the tail call where its rules hold: in the main function, or in one that returns int",
        Rule::Resource => "give back on every path what was acquired, once",
        Rule::Return => "return a number that the program type allows",
        Rule::Termination => "bound loops by a constant",
        Rule::Licence => "declare a GPL-compatible licence in section \"license\"",
        Rule::Structure => return None,
    })
}

/// What to do about `message`, where one can tell.
pub(super) fn advice(rule: Rule, message: &str) -> Option<&'static str> {
    if rule == Rule::Unsupported {
        return by_rule(rule);
    }
    let found = BY_PHRASE.iter().find(|(phrase, _)| message.contains(phrase)).map(|(_, text)| *text);
    found.or_else(|| by_rule(rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_phrase_hides_a_later_one() {
        for (i, (phrase, _)) in BY_PHRASE.iter().enumerate() {
            let first = BY_PHRASE.iter().position(|(other, _)| phrase.contains(other));
            assert_eq!(first, Some(i), "{phrase}");
        }
    }

    #[test]
    fn the_special_goes_before_the_rule() {
        let help = |message: &str| advice(Rule::Memory, message).unwrap();
        assert!(help("R0 invalid mem access 'map_value_or_null'").contains("NULL"));
        assert!(help("something new").contains("bound"));
        assert!(advice(Rule::Unsupported, "unsupported: R1 !read_ok").unwrap().contains("docs/verifier.md"));
        assert_eq!(advice(Rule::Structure, "something new"), None);
    }
}
