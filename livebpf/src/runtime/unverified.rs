//! The one door for programs without a proof.
#![allow(unsafe_code)]

use super::builder::Runtime;
use super::error::Error;
use crate::link::Program as Linked;
use crate::run::Program;
use crate::verify::Verified;

impl Runtime {
    /// Loads a program that has not been verified: only its shape is checked (jumps, calls, registers, endings). It has no maps.
    ///
    /// For conformance suites and code generators' tests.
    ///
    /// # Safety
    /// With [`Engine::Jit`](super::Engine::Jit) or [`Engine::Slot`](super::Engine::Slot) the program can read and write any memory and
    /// may never end: the caller vouches for every access it makes on the contexts it will be run with. With
    /// [`Engine::Interp`](super::Engine::Interp) every access is checked and nothing is asked of the caller.
    ///
    /// # Errors
    /// [`Error::Rejected`] for a program that is not well formed; otherwise as [`load`](Self::load).
    pub unsafe fn load_unverified(&self, program: Linked) -> Result<Program, Error> {
        let name = program.name.clone();
        let verified =
            Verified::unproven(program).map_err(|rejection| Error::Rejected { program: name, rejection })?;
        self.install(verified, Vec::new())
    }
}
