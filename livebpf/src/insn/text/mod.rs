//! Kernel-syntax text ↔ [`Insn`], the language of the verifier's log and of `bpftool prog dump xlated`.
//!
//! [`Insn`]'s `Display` writes one instruction; [`parse()`] reads one back and [`assemble()`] reads a listing. Two
//! different instructions (of those that have an encoding) never have the same text, and the text of each parses
//! back to it. Where the kernel's own text is ambiguous or empty, ours says more: `r1 = 0x5 ll` (two slots),
//! `call kfunc:7@2` (BTF id 7 in BTF object 2), `r1 = map[idx:0][0]+16`.
//!
//! Reading is a little wider than writing: any spacing, decimal or hexadecimal numbers, `goto +3` and `w1 =
//! *(u32 *)(r2 + 0x8)` as llvm-objdump writes them. It never guesses: what does not fit is an error with its place.

mod assemble;
mod cursor;
mod names;
mod parse;
mod print;

use super::{Insn, Insns};

/// Why text is not an instruction. Lines and columns count from 1, columns in characters.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}, column {column}: found {found}, wanted {wanted}")]
pub struct TextError {
    /// The line; 1 from [`parse()`].
    pub line: u32,
    /// The column.
    pub column: u32,
    /// What stands there.
    pub found: String,
    /// What may stand there.
    pub wanted: String,
}

/// Reads one instruction, for instance `if r1 s> 0x5 goto pc+3`. Jumps and calls are relative (`pc+3`): there are no
/// labels here.
pub fn parse(text: &str) -> Result<Insn, TextError> {
    assemble::single(text)
}

/// Reads a listing, one instruction a line.
///
/// A line may begin with its slot as in kernel dumps (`7:`; the first one given sets the origin and the others must
/// agree) and with the opcode (`(b7)`, which must be the instruction's), or with labels (`loop:`). `;`, `//` and `#`
/// begin a comment. `goto loop`, `call func` and `r1 = subprog[func]` refer to labels; `call bpf_ktime_get_ns#5` is the
/// helper by its number.
///
/// ```
/// use livebpf::insn::text;
///
/// let program = text::assemble(
///     "        r0 = 10
///      loop:   r0 -= 1            ; a comment
///              if r0 != 0 goto loop
///              exit",
/// )?;
/// assert_eq!(program.to_string(), "0: (b7) r0 = 10\n1: (17) r0 -= 1\n2: (55) if r0 != 0x0 goto pc-2\n3: (95) exit\n");
/// assert_eq!(text::assemble(&program.to_string())?, program);
/// # Ok::<(), text::TextError>(())
/// ```
pub fn assemble(text: &str) -> Result<Insns, TextError> {
    assemble::listing(text)
}
