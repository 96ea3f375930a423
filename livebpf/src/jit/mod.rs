//! Verified → [`Code`]: bytes, relocations, poke sites, line table. Pure: no memory is mapped here.
//!
//! Three layers, each ignorant of the one above: [`x64`] encodes instructions and knows no BPF; the `emit_*` files
//! turn one construct each into instructions and know no ModRM; [`compile`] walks the program.
//!
//! Registers: R0 rax, R1-R5 rdi rsi rdx rcx r8, R6-R9 rbx r13 r14 r15, R10 rbp. Scratch: r9, r10, r11. The low half of r12 is
//! the invocation's tail-call count: generated code increments it and does nothing else to it. The high half is the number of the
//! CPU that the run counts as, for lookups of per-CPU values, `bpf_get_smp_processor_id`, and the notes of the run's worker.
//!
//! Nothing is emitted for hooks: attaching one makes a new image, whose entry calls it.

pub mod code;
mod emit;
mod emit_alu;
mod emit_atomic;
mod emit_blind;
mod emit_call;
mod emit_div;
mod emit_idiom;
mod emit_jmp;
mod emit_mem;
mod emit_missed;
mod emit_packet;
mod emit_prologue;
mod emit_redirect;
mod emit_tail_call;
mod frame;
pub mod options;
mod plan;
pub mod x64;

pub use code::{Code, FrameInfo, PokeSite, Reloc, RelocKind, Symbol};
pub use emit_prologue::MAX_LOOPS;
pub use emit_tail_call::MAX_TAIL_CALL_CNT;
pub use options::{CpuFeatures, JitError, Options, TailCalls};

use crate::verify::Verified;

/// Compiles a verified program.
///
/// The result is position-independent but for its relocations; it is to be placed at a 64-byte aligned address.
///
/// # Errors
/// When the program contains something that generated code does not support (kernel functions, `callx`), or when the
/// facts about it contradict its instructions.
pub fn compile(verified: &Verified, options: &Options) -> Result<Code, JitError> {
    emit::Emitter::new(verified.program(), verified.facts(), options)?.run()
}
