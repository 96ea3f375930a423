//! Program → [`Verified`]: a proof that it is safe to run, and the facts the code generator uses.

pub mod facts;

pub use facts::{Facts, FuncFacts, InsnFacts, TailCall};

use crate::link::Program;

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
}
