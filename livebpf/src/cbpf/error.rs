//! Why something is no classic program that the kernel would take.

use super::{MAX_INSNS, SCRATCH_WORDS};

/// Why text, bytes or instructions are no classic program. Instructions count from 0, as in `tcpdump -d`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum CbpfError {
    #[error("line {line}: found {found:?}, wanted {wanted}")]
    Line { line: usize, found: String, wanted: &'static str },
    #[error("the text ends after {found} of {wanted} instructions")]
    Cut { found: usize, wanted: usize },
    #[error("line {line}: found a line behind the last of {wanted} instructions, wanted the end")]
    More { line: usize, wanted: usize },
    #[error("{len} bytes, wanted instructions of 8 bytes each")]
    Length { len: usize },
    #[error("{found} instructions, wanted 1 to {MAX_INSNS}")]
    Count { found: usize },
    #[error("instruction {at}: code {code:#06x} is no operation of classic BPF")]
    Code { at: usize, code: u16 },
    #[error("instruction {at}: division by the constant 0, wanted another")]
    DivisionByZero { at: usize },
    #[error("instruction {at}: a shift by {found} bits, wanted at most 31")]
    Shift { at: usize, found: u32 },
    #[error("instruction {at}: scratch word M[{found}], wanted M[0] to M[{}]", SCRATCH_WORDS - 1)]
    Scratch { at: usize, found: u32 },
    #[error("instruction {at}: M[{word}] is read, but on a way to here nothing was stored into it")]
    Unset { at: usize, word: u32 },
    #[error("instruction {at}: a jump to {to}, wanted at most {}, the last instruction", len - 1)]
    Jump { at: usize, to: u64, len: usize },
    #[error("instruction {at}: ancillary data at SKF_AD_OFF + {found} does not exist")]
    Ancillary { at: usize, found: u32 },
    #[error("instruction {at}, the last one, has code {code:#06x}, wanted a return (0x06 or 0x16)")]
    NoReturn { at: usize, code: u16 },
}
