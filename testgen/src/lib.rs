//! Generators of BPF programs for tests and fuzzing. Test support: not published, not part of livebpf.
//!
//! Everything comes out of a [`Source`] of choices: a seed gives the same programs on every machine and in every
//! release of the standard library, and a fuzzer's bytes give programs that change little when a byte does.
//!
//! * [`single`]: one instruction between corner values, with its operands: for comparing engines.
//! * [`probe`]: one instruction of any kind, with everything that it can change looked at.
//! * [`straight`]: straight-line arithmetic that initialises its registers first: always accepted.
//! * [`structured`]: branches, bounded loops, packets, maps, subprograms, tail calls: mostly accepted; with
//!   [`Shape::mistakes`] subtly wrong, so that a verifier that accepts too much is found out.
//! * [`border`]: near the border between safe and unsafe, for finding a verifier that accepts too much.
//! * [`graph`]: up to five programs of up to four subprograms that call and tail-call each other: always accepted.
//! * [`loops`]: loops that are not unrolled; [`dynptrs`]: what is held, and what belongs to it.
//! * [`mutate`]: damage to wire bytes; [`objects`]: damage to real objects.
//! * [`mod@bench`]: runs a suite in the checking interpreter.
//! * [`checks`]: what must hold for any input; the fuzz targets call these.
//!
//! ```
//! use livebpf_testgen::{Generator, Shape};
//!
//! let program = Generator::new(42).program(&Shape::xdp());
//! assert_eq!(program, Generator::new(42).program(&Shape::xdp()));
//! assert!(program.insns.len() > 4);
//! ```
#![forbid(unsafe_code)]

pub mod bench;
pub mod border;
#[cfg(feature = "campaign")]
pub mod campaign;
pub mod checks;
pub mod corners;
#[cfg(feature = "campaign")]
pub mod differential;
pub mod dynptrs;
pub mod graph;
pub mod loops;
#[cfg(feature = "campaign")]
pub mod machine;
pub mod mutate;
pub mod objects;
pub mod probe;
pub mod single;
mod source;
pub mod straight;
pub mod structured;

pub use source::Source;
pub use structured::{Shape, Suite};

use livebpf::insn::Insn;
use livebpf::link::Program;

/// Makes programs, one after the other, from one [`Source`].
#[derive(Clone, Debug)]
pub struct Generator<'a> {
    source: Source<'a>,
}

impl Generator<'static> {
    /// Choices from a pseudo-random sequence.
    pub fn new(seed: u64) -> Generator<'static> {
        Generator { source: Source::seeded(seed) }
    }
}

impl<'a> Generator<'a> {
    /// Choices from a fuzzer's bytes; when they run out, the simplest choice each time.
    pub fn from_bytes(bytes: &'a [u8]) -> Generator<'a> {
        Generator { source: Source::bytes(bytes) }
    }
    /// Any instruction that has an encoding.
    pub fn insn(&mut self) -> Insn {
        single::any(&mut self.source)
    }
    /// A straight-line program of about `len` arithmetic instructions.
    pub fn straight_line(&mut self, len: u32) -> Program {
        straight::program(&mut self.source, len)
    }
    /// A structured program.
    pub fn program(&mut self, shape: &Shape) -> Program {
        structured::suite(&mut self.source, &Shape { programs: 1, ..*shape }).programs.swap_remove(0)
    }
    /// Several structured programs that share their maps and tail-call each other.
    pub fn suite(&mut self, shape: &Shape) -> Suite {
        structured::suite(&mut self.source, shape)
    }
    /// The choices, to go on by hand.
    pub fn source(&mut self) -> &mut Source<'a> {
        &mut self.source
    }
}
