//! A thread's licence to run programs: its reader record, its CPU number, and the way into the code.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::current::{self, Current};
use super::effects::Effects;
use super::error::RunError;
use super::generation::Generation;
use super::host::Host;
use super::program::{Entry, Loaded, Program};
use super::shared::Shared;
use super::stack;
use super::stub::{self, Landing};
use crate::context::Context;
use crate::interp;
use crate::map::prog_array::Execution;
use crate::rcu::{Reader, Section};

/// Most runs inside each other on one thread.
const MAX_DEPTH: u32 = 8;

/// Runs programs on the calling thread. Make one per thread; it can be sent to another thread between runs.
pub struct Worker {
    core: Core,
}

/// What a worker and the runs nested in its runs share.
pub(super) struct Core {
    /// Declared first: with the last handle of the runtime goes its reclaimer, which waits for every reader there still is.
    reader: Reader,
    shared: Arc<Shared>,
    cpu: u32,
    /// What the last outermost run asked for; `asked`: it is not empty.
    effects: RefCell<Effects>,
    asked: Cell<bool>,
    cookie: u64,
    /// Memory that programs may probe, by its address; no two overlap.
    declared: BTreeMap<u64, Vec<u8>>,
}

/// A worker inside a read-side section that lasts for several runs: cheaper per run, and reclaim waits for all of them.
/// Each run still sees the updates made before it started.
pub struct Pinned<'a> {
    core: &'a Core,
    _section: Section<'a>,
}

impl Worker {
    pub(crate) fn new(shared: &Arc<Shared>) -> Result<Worker, RunError> {
        if shared.domain.forked() {
            return Err(RunError::Forked);
        }
        let cpu = shared.take_cpu().ok_or(RunError::NoCpu { cpus: shared.cpus })?;
        // Takes long the first time on a thread, and this is most likely the one that will run.
        let _ = stack::remaining();
        let reader = shared.domain.reader();
        let (effects, asked, declared) = (RefCell::default(), Cell::new(false), BTreeMap::new());
        Ok(Worker { core: Core { shared: shared.clone(), reader, cpu, effects, asked, cookie: 0, declared } })
    }

    /// The CPU number that this worker's runs see, and whose per-CPU values they use.
    pub fn cpu(&self) -> u32 {
        self.core.cpu
    }

    /// Runs `program` on `ctx`; returns the low 32 bits of R0, which is what Linux takes as the verdict.
    ///
    /// # Errors
    /// [`RunError`]; the context is unchanged unless the program was started.
    pub fn run(&mut self, program: &Program, ctx: &mut Context) -> Result<u32, RunError> {
        self.core.run(program, ctx).map(|r0| r0 as u32)
    }

    /// What the last run asked for: where the packet is to go, and so on. Empty when nothing was run yet.
    pub fn effects(&self) -> Effects {
        self.core.effects.borrow().clone()
    }

    /// What `bpf_get_attach_cookie` answers in this worker's runs.
    pub fn set_attach_cookie(&mut self, cookie: u64) {
        self.core.cookie = cookie;
    }

    /// Lets programs read a copy of `bytes` at the address `addr` by `bpf_probe_read_kernel` and its kin: as if they lay there. In
    /// place of what was declared at any of these addresses before. Nothing else can be read there, and the process's own
    /// memory at that address, if there is any, has nothing to do with it.
    pub fn declare(&mut self, addr: u64, bytes: &[u8]) {
        let Some(end) = addr.checked_add(bytes.len() as u64) else { return };
        self.core.declared.retain(|start, old| *start >= end || start + old.len() as u64 <= addr);
        if !bytes.is_empty() {
            self.core.declared.insert(addr, bytes.to_vec());
        }
    }

    /// Takes all declared memory away.
    pub fn forget_declared(&mut self) {
        self.core.declared.clear();
    }

    /// Runs `program` in the checking interpreter, whatever the runtime's engine, with what the verifier said about it held
    /// against what it does; returns all of R0. Never for production: a claim that is wrong ends the run.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    #[cfg(feature = "fault-injection")]
    #[doc(hidden)]
    pub fn run_witnessed(
        &mut self,
        program: &Program,
        ctx: &mut Context,
        limits: interp::Limits,
        claims: &[&crate::verify::claims::Claims],
    ) -> Result<u64, RunError> {
        let core = &self.core;
        let _section = core.reader.enter();
        core.check_process()?;
        core.check(&program.entry.loaded, ctx)?;
        let generation = core.shared.generations.current();
        core.interpreted(&program.entry, current::depth(), generation, |exe, host| {
            interp::run_witnessed(exe, ctx, host, limits, claims)
        })
    }

    /// Enters a read-side section for a batch of runs.
    ///
    /// # Errors
    /// [`RunError::Forked`] in a fork's child.
    pub fn pin(&mut self) -> Result<Pinned<'_>, RunError> {
        self.core.check_process()?;
        Ok(Pinned { core: &self.core, _section: self.core.reader.enter() })
    }
}

impl Pinned<'_> {
    /// As [`Worker::run`], inside this section.
    ///
    /// # Errors
    /// As [`Worker::run`].
    #[inline]
    pub fn run(&mut self, program: &Program, ctx: &mut Context) -> Result<u32, RunError> {
        self.core.run_in_section(&program.entry, ctx).map(|r0| r0 as u32)
    }

    /// As [`Worker::effects`].
    pub fn effects(&self) -> Effects {
        self.core.effects.borrow().clone()
    }
}

impl Core {
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }
    pub(super) fn attach_cookie(&self) -> u64 {
        self.cookie
    }
    /// [addr, addr + len) of declared memory.
    pub(super) fn declared(&self, addr: u64, len: usize) -> Option<&[u8]> {
        let (start, bytes) = self.declared.range(..=addr).next_back()?;
        let from = usize::try_from(addr - start).ok()?;
        bytes.get(from..from.checked_add(len)?)
    }
    /// `None` where a signal handler's run meets the change that it interrupts.
    pub(super) fn change_effects<R>(&self, change: impl FnOnce(&mut Effects) -> R) -> Option<R> {
        self.asked.set(true);
        self.effects.try_borrow_mut().ok().map(|mut effects| change(&mut effects))
    }
    #[cold]
    fn forget_effects(&self) {
        if let Ok(mut effects) = self.effects.try_borrow_mut() {
            *effects = Effects::default();
            self.asked.set(false);
        }
    }
    pub(super) fn cpu(&self) -> u32 {
        self.cpu
    }

    fn check_process(&self) -> Result<(), RunError> {
        if self.reader.forked() { Err(RunError::Forked) } else { Ok(()) }
    }

    /// One run in a section of its own; nested in another run where the thread is inside one.
    #[inline]
    pub(super) fn run(&self, program: &Program, ctx: &mut Context) -> Result<u64, RunError> {
        let _section = self.reader.enter();
        self.run_in_section(&program.entry, ctx)
    }

    /// One run. The caller is inside a read-side section.
    #[inline]
    fn run_in_section(&self, entry: &Entry, ctx: &mut Context) -> Result<u64, RunError> {
        // Also for a section that was entered before the fork.
        self.check_process()?;
        self.check(&entry.loaded, ctx)?;
        let depth = current::depth();
        if depth >= MAX_DEPTH {
            return Err(RunError::TooDeep { found: depth + 1, limit: MAX_DEPTH });
        }
        if self.asked.get() && depth == 0 {
            self.forget_effects();
        }
        let generation = if depth == 0 { self.shared.generations.current() } else { self.nested_generation() };
        let address = generation.resolve(entry.id);
        if address == 0 {
            return Err(RunError::Younger { program: entry.loaded.linked().name.clone() });
        }
        match entry.loaded.contract.execution {
            Execution::Interpreted => self.interpret(entry, ctx, depth, generation),
            Execution::Native => self.call(entry, address, ctx, depth, generation),
        }
    }

    /// The generation of the outermost run, for one inside it.
    #[cold]
    fn nested_generation(&self) -> &Generation {
        // Around this run there may be one of another worker, which has nothing to say about this worker's.
        current::generation(self).unwrap_or_else(|| self.shared.generations.current())
    }

    #[inline]
    fn check(&self, program: &Loaded, ctx: &Context) -> Result<(), RunError> {
        if !Arc::ptr_eq(&program.shared, &self.shared) {
            return Err(RunError::OtherRuntime { program: program.linked().name.clone() });
        }
        let wanted = program.contract.kind.prog_type;
        if ctx.prog_type() != wanted {
            let program = program.linked().name.clone();
            return Err(RunError::Context { program, wanted, found: ctx.prog_type() });
        }
        Ok(())
    }

    #[cold]
    fn interpret(
        &self,
        entry: &Entry,
        ctx: &mut Context,
        depth: u32,
        generation: &Generation,
    ) -> Result<u64, RunError> {
        let lent: Vec<_> = self.shared.lent.values().flat_map(|lent| lent.blocks()).collect();
        self.interpreted(entry, depth, generation, |exe, host| interp::run_with(exe, ctx, &lent, host))
    }

    /// `run` inside this worker's scope, on the program where `entry`'s runs begin.
    fn interpreted(
        &self,
        entry: &Entry,
        depth: u32,
        generation: &Generation,
        run: impl FnOnce(&Arc<interp::Executable>, &mut Host<'_>) -> Result<u64, interp::Fault>,
    ) -> Result<u64, RunError> {
        let started = generation.redirect(entry.id);
        let program = started.as_ref().unwrap_or(&entry.loaded);
        let current = Current { entry, worker: self, generation, depth, landing: Cell::new(std::ptr::null_mut()) };
        let mut host = Host::new(&self.shared, generation.number());
        let result = current::scope(&current, || run(program.executable(), &mut host));
        let name = || program.linked().name.clone();
        match result {
            Ok(r0) => Ok(r0),
            Err(_) if host.panicked() => Err(RunError::HelperPanicked { program: name() }),
            Err(fault) => Err(RunError::Fault { program: name(), fault }),
        }
    }

    #[inline]
    fn call(
        &self,
        entry: &Entry,
        address: u64,
        ctx: &mut Context,
        depth: u32,
        generation: &Generation,
    ) -> Result<u64, RunError> {
        if let Some(found) = stack::remaining()
            && found < generation.stack()
        {
            return Err(RunError::Stack { found, wanted: generation.stack() });
        }
        let mut landing = Landing::default();
        let current = Current { entry, worker: self, generation, depth, landing: Cell::new(&raw mut landing) };
        // SAFETY: the address is an entry's of this run's generation, whose images stay in place, with all that their tail calls lead
        // to, until the section that the caller is in is left. The context is of the program's type (a program that a
        // transaction put in its place has the same), and the stack suffices.
        let r0 = current::scope(&current, || unsafe { stub::enter(address, ctx.record_addr(), 0, &raw mut landing) });
        if landing.left() {
            return Err(RunError::HelperPanicked { program: entry.loaded.linked().name.clone() });
        }
        Ok(r0)
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.shared.release_cpu(self.cpu);
    }
}
