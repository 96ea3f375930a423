//! An x86-64 assembler that knows no BPF.
//!
//! [`operand`] has the typed operands, [`asm`] one method per instruction form, [`encode`] the only place that builds
//! prefixes and ModRM bytes, [`layout`] labels, branch sizes and alignment.
//!
//! *Architecture Invariant:* nothing here mentions BPF, and nothing outside builds machine code bytes.

pub mod asm;
mod encode;
pub mod layout;
mod nop;
pub mod operand;
#[cfg(test)]
mod tests;

pub use asm::Asm;
pub use layout::{Label, Laid, Pos, TooLarge};
pub use operand::{Alu, Cc, Gpr, Mem, Scale, Shift, Size};
