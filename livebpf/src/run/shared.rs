//! What all workers and programs of one runtime share.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::Lent;
use super::custom::Custom;
use super::generation::{EntryId, Generations};
use super::registry::Registry;
use super::relink::Relink;
use super::updates::Updates;
use crate::helper::redirect::Noted;
use crate::helper::{Class, Table};
use crate::map::prog_array::Execution;
use crate::rcu::Domain;
use crate::text::Region;
use crate::text::patch::Patcher;

/// How programs are executed. The results are the same in all three.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Engine {
    /// The checking interpreter: slow, and the specification.
    Interp,
    /// Machine code whose tail calls through a known slot are direct jumps, patched when the slot changes.
    Jit,
    /// Machine code that reads the slot at every tail call and is never patched.
    Slot,
}

impl Engine {
    /// Who executes its programs: those of one program array must agree.
    pub(crate) const fn execution(self) -> Execution {
        match self {
            Engine::Interp => Execution::Interpreted,
            Engine::Jit | Engine::Slot => Execution::Native,
        }
    }

    /// `interp`, `jit` or `slot`.
    pub const fn name(self) -> &'static str {
        match self {
            Engine::Interp => "interp",
            Engine::Jit => "jit",
            Engine::Slot => "slot",
        }
    }
}

impl std::str::FromStr for Engine {
    type Err = String;
    fn from_str(s: &str) -> Result<Engine, String> {
        [Engine::Interp, Engine::Jit, Engine::Slot]
            .into_iter()
            .find(|e| e.name() == s)
            .ok_or_else(|| format!("unknown engine {s:?}, wanted interp, jit or slot"))
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Receives the lines of `trace_printk`.
pub trait TraceLog: Send + Sync {
    /// One line, without the line feed; `cpu` is the worker's number.
    fn line(&self, cpu: u32, text: &str);
}

/// One runtime's common part.
pub(crate) struct Shared {
    /// How programs are executed.
    pub(crate) engine: Engine,
    /// Updates that are made a moment later.
    pub(crate) updates: Updates,
    /// Why running code cannot be patched, where it was asked for and that made the engine [`Engine::Slot`].
    pub(crate) no_patching: Option<String>,
    /// Whether loads count missed tail calls, where they do not say otherwise.
    pub(crate) count_missed: bool,
    /// How many CPU numbers workers can have.
    pub(crate) cpus: u32,
    /// Where code lies; small for the interpreter, which has none.
    pub(crate) region: Arc<Region>,
    /// The update lock and everything under it.
    pub(crate) patcher: Arc<Patcher>,
    /// Read-side sections and deferred reclaim.
    pub(crate) domain: Arc<Domain>,
    /// Entries of all programs.
    pub(crate) generations: Generations,
    /// What there is of programs and program arrays.
    pub(crate) registry: Registry,
    /// Loads and transactions, one at a time.
    pub(crate) relink: Relink,
    /// Contracts of all helpers.
    pub(crate) helpers: Table,
    /// The embedder's helpers, each at a fixed address that code refers to.
    pub(crate) custom: BTreeMap<u32, Box<Custom>>,
    /// Memory that the embedder's helpers hand out, by class.
    pub(crate) lent: BTreeMap<Class, Arc<Lent>>,
    /// Where `trace_printk` goes.
    pub(crate) log: Box<dyn TraceLog>,
    /// CPU numbers in use.
    pub(crate) taken: Mutex<Vec<bool>>,
    /// By CPU number: the address of its worker's [`Noted`], for generated code, which only runs with a number that is in use.
    pub(crate) noted: Box<[AtomicU64]>,
}

impl Shared {
    /// A number that no other runtime has at the same time.
    #[inline]
    pub(super) fn token(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Takes the lowest free CPU number.
    pub(super) fn take_cpu(&self) -> Option<u32> {
        let mut taken = self.taken.lock().unwrap_or_else(|e| e.into_inner());
        let cpu = taken.iter().position(|t| !t)?;
        taken[cpu] = true;
        Some(cpu as u32)
    }

    /// Says where the worker with this number has its notes, which is where they stay until another one has the number.
    pub(super) fn set_noted(&self, cpu: u32, noted: &Noted) {
        if let Some(place) = self.noted.get(cpu as usize) {
            place.store(std::ptr::from_ref(noted).expose_provenance() as u64, Ordering::Relaxed);
        }
    }

    /// The last handle of a program is gone, and a grace period is over since.
    ///
    /// A run that began meanwhile, in a generation that has been replaced since, may still find the entry there. So the index is
    /// given to another program only when that run is over as well.
    pub(super) fn forget_entry(self: &Arc<Self>, id: EntryId) {
        // Refused in a fork's child only, where there is nothing to clean up.
        let Ok(lock) = self.patcher.update() else { return };
        // Both under one lock: a transaction in between would give the next generation an entry that nobody takes away.
        self.registry.forget_entry(&lock, id);
        let redirect = self.generations.forget(&lock, id);
        drop(lock);
        // May be the last reference to a program: with no lock held.
        drop(redirect);
        let shared = Arc::downgrade(self);
        self.domain.defer(move || {
            if let Some(shared) = shared.upgrade() {
                shared.generations.release(id);
            }
        });
    }

    /// Gives a CPU number back. Not in a fork's child: the lock may be held there by a thread that does not exist.
    pub(super) fn release_cpu(&self, cpu: u32) {
        if self.domain.forked() {
            return;
        }
        self.taken.lock().unwrap_or_else(|e| e.into_inner())[cpu as usize] = false;
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("engine", &self.engine).field("cpus", &self.cpus).finish_non_exhaustive()
    }
}
