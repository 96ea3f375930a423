//! What the interpreter needs from outside: helper functions and the programs in slots.
#![allow(unsafe_code)]

use std::sync::Arc;

use super::custom;
use super::helpers;
use super::program::Loaded;
use super::shared::Shared;
use crate::helper::Proto;
use crate::interp::{self, Executable, FaultKind};
use crate::map::Map;
use crate::primitive::caught;

/// The interpreter's host for runs of one runtime.
pub(super) struct Host<'a> {
    shared: &'a Shared,
    /// Which slots the run sees.
    generation: u64,
    panicked: bool,
}

impl<'a> Host<'a> {
    /// For a run of generation number `generation`.
    pub(super) fn new(shared: &'a Shared, generation: u64) -> Host<'a> {
        Host { shared, generation, panicked: false }
    }
    /// A helper panicked, which is why the run ended with a fault.
    pub(super) fn panicked(&self) -> bool {
        self.panicked
    }
}

impl interp::Host for Host<'_> {
    fn proto(&self, id: u32) -> Option<&Proto> {
        self.shared.helpers.get(id)
    }

    fn call(&mut self, id: u32, args: [u64; 5]) -> Result<u64, FaultKind> {
        let result = match self.shared.custom.get(&id) {
            Some(custom) => custom::call(custom, args),
            None => {
                let native = helpers::native(id).ok_or(FaultKind::NoHelper { id })?;
                // SAFETY: the interpreter has checked the arguments against the helper's prototype.
                caught(|| unsafe { (native.inner)(args) })
            }
        };
        result.ok_or_else(|| {
            self.panicked = true;
            FaultKind::Helper(format!("helper {id} panicked"))
        })
    }

    fn cpu(&self) -> u32 {
        super::current::cpu()
    }

    fn tail_target(&mut self, map: &Map, index: u32) -> Option<Arc<Executable>> {
        let member = map.prog_array()?.table(self.generation).get(index)?;
        member.as_any().downcast_ref::<Loaded>().map(|l| l.executable().clone())
    }
}
