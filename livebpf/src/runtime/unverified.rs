//! The one door for programs without a proof.
#![allow(unsafe_code)]

use super::builder::Runtime;
use super::ebpf::Ebpf;
use super::error::Error;
use super::load::{LoadOptions, Prove};
use crate::link::Program as Linked;
use crate::object::Object;
use crate::verify::Verified;

/// Programs that were verified already.
#[cfg(feature = "fault-injection")]
impl Runtime {
    /// Loads programs with their proofs, in order: they are not verified again. Their maps are taken as they are bound, from
    /// `options` or new ones, and have to be defined as when they were verified.
    ///
    /// # Errors
    /// As [`load_linked`](Self::load_linked).
    #[doc(hidden)]
    pub fn load_proven(&self, programs: Vec<Verified>, options: &LoadOptions) -> Result<Ebpf, Error> {
        let linked = programs.iter().map(|verified| verified.program().clone()).collect();
        let proofs = std::cell::RefCell::new(programs.into_iter());
        self.load_programs(linked, options, &|shared, program, trust| match proofs.borrow_mut().next() {
            Some(verified) if *verified.program() == program => Ok(verified),
            _ => super::load::verified(shared, program, trust),
        })
    }
}

/// Only the shape is checked: jumps, calls, registers, endings.
const UNPROVEN: Prove<'static> = &|_, program, _| Verified::unproven(program);

impl Runtime {
    /// Loads an object whose programs are not verified: only their shape is checked (jumps, calls, registers, endings).
    ///
    /// For conformance suites and tests of code generators.
    ///
    /// # Safety
    /// With [`Engine::Jit`](super::Engine::Jit) or [`Engine::Slot`](super::Engine::Slot) the programs can read and write any memory and
    /// may never end: the caller vouches for every access they make on the contexts they will be run with. What they need of the stack
    /// beyond what verified programs do is asked for by runs and batches that begin after the load: the caller also vouches for the stack
    /// of threads that are in one now, and may reach them by a tail call. With
    /// [`Engine::Interp`](super::Engine::Interp) every access is checked and nothing is asked of the caller.
    ///
    /// # Errors
    /// [`Error::Rejected`] for a program that is not well formed; otherwise as [`load_with`](Self::load_with).
    pub unsafe fn load_unverified(&self, object: &Object, options: &LoadOptions) -> Result<Ebpf, Error> {
        self.load_object(object, options, UNPROVEN)
    }

    /// The same for programs that are linked already.
    ///
    /// # Safety
    /// As [`load_unverified`](Self::load_unverified).
    ///
    /// # Errors
    /// As [`load_linked`](Self::load_linked).
    pub unsafe fn load_linked_unverified(&self, programs: Vec<Linked>) -> Result<Ebpf, Error> {
        self.load_programs(programs, &LoadOptions::default(), UNPROVEN)
    }
}
