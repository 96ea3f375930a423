//! A thread's licence to run programs: its reader record, its CPU number, and the way into the code.
#![allow(unsafe_code)]

use std::cell::{Ref, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::current::{self, Current};
use super::effects::{Effects, Redirect, Target};
use super::error::RunError;
use super::generation::Generation;
use super::host::Host;
use super::hot::Hot;
use super::program::{Entry, Loaded, Program};
use super::shared::Shared;
use super::stack;
use super::stub::{self, Landing};
use crate::context::Context;
use crate::helper::redirect::Noted;
use crate::interp;
use crate::map::cell::Slice;
use crate::map::prog_array::Execution;
use crate::rcu::{Reader, Section};

/// Most runs inside each other on one thread.
const MAX_DEPTH: u32 = 8;

/// Runs programs on the calling thread. Make one per thread; it can be sent to another thread between runs.
pub struct Worker {
    /// At an address that stays: the record of its runs refers to it.
    core: Box<Core>,
}

/// What a worker and the runs nested in its runs share.
pub(super) struct Core {
    /// Declared first: with the last handle of the runtime goes its reclaimer, which waits for every reader there still is.
    pub(super) reader: Reader,
    pub(super) shared: Arc<Shared>,
    pub(super) cpu: u32,
    /// What the last outermost run asked for.
    pub(super) effects: RefCell<Effects>,
    /// Whether that is anything, and what generated code has noted of it.
    pub(super) noted: Noted,
    cookie: u64,
    /// Memory that programs may probe, by its address; no two overlap.
    declared: BTreeMap<u64, Vec<u8>>,
    pub(super) hot: Hot,
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
        let (effects, noted, declared) = (RefCell::default(), Noted::default(), BTreeMap::new());
        let (hot, shared) = (Hot::new(), shared.clone());
        let core = Box::new(Core { shared, reader, cpu, effects, noted, cookie: 0, declared, hot });
        core.shared.set_noted(cpu, &core.noted);
        Ok(Worker { core })
    }

    /// The CPU number that this worker's runs see, and whose per-CPU values they use.
    pub fn cpu(&self) -> u32 {
        self.core.cpu
    }

    /// Runs `program` on `ctx`; returns the low 32 bits of R0, which is what Linux takes as the verdict.
    ///
    /// # Errors
    /// [`RunError`]; the context is unchanged unless the program was started.
    #[inline]
    pub fn run(&mut self, program: &Program, ctx: &mut Context) -> Result<u32, RunError> {
        self.core.run(program, ctx).map(|r0| r0 as u32)
    }

    /// Runs `program` on plain memory instead of a context: R1 is the address of `memory` (0 where it is empty) and R2 its length, as
    /// conformance suites have it; returns all of R0. With [`Engine::Interp`](super::Engine::Interp) every access is checked
    /// against this memory, the stack and the program's maps, and nothing is asked of the caller.
    ///
    /// # Safety
    /// The caller vouches for every access that the program makes when it is started like this, whatever its type, and that it
    /// ends; a proof of the verifier says nothing about it. Helpers that take the context must not be called.
    ///
    /// # Errors
    /// As [`run`](Self::run), but that there is no context to be wrong.
    pub unsafe fn run_unverified(&mut self, program: &Program, memory: &mut [u8]) -> Result<u64, RunError> {
        // SAFETY: as the caller promises.
        unsafe { self.core.run_on_memory(&program.entry, memory) }
    }

    /// What the last run asked for: where the packet is to go, and so on. Empty when nothing was run yet.
    pub fn effects(&self) -> Effects {
        self.core.effects().clone()
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
        self.core.run_in_section(&program.entry, ctx, ()).map(|r0| r0 as u32)
    }

    /// Runs `program` on each of `contexts`, in order, and hands each to `done` with the verdict and with what the run asked for. What
    /// [`run`](Self::run) does around each run is done around several here; each still sees the updates made before it started.
    /// `done` comes some runs later, but before the next one where a run has asked for something.
    ///
    /// # Errors
    /// As [`Worker::run`]: then the contexts before have been handed to `done`, and those behind were not run.
    #[inline]
    pub fn run_batch(
        &mut self,
        program: &Program,
        contexts: &mut [Context],
        done: impl FnMut(&mut Context, u32, &Effects),
    ) -> Result<(), RunError> {
        self.core.run_batch(&program.entry, contexts, done)
    }

    /// As [`Worker::effects`].
    pub fn effects(&self) -> Effects {
        self.core.effects().clone()
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
    /// Notes in addition what the bits `what` say. `None` where a signal handler's run meets the change that it interrupts.
    pub(super) fn change_effects<R>(&self, change: impl FnOnce(&mut Effects) -> R) -> Option<R> {
        self.noted.set(Noted::MORE);
        self.effects.try_borrow_mut().ok().map(|mut effects| change(&mut effects))
    }
    /// The same of where the packet is to go, in place of what generated code has noted.
    #[inline]
    pub(super) fn redirect(&self, redirect: Option<Redirect>) {
        self.noted.set(Noted::REDIRECT);
        if let Ok(mut effects) = self.effects.try_borrow_mut() {
            self.noted.clear(Noted::HERE);
            effects.redirect = redirect;
        }
    }
    /// What the last run has asked for.
    #[inline]
    pub(super) fn effects(&self) -> Ref<'_, Effects> {
        if self.noted.has(Noted::HERE) {
            let Noted { map, key, value, flags, .. } = &self.noted;
            let (map, key, flags) = (map.get(), key.get(), flags.get());
            let to = match map {
                0 => Target::Interface(key),
                _ => Target::Map { map, key, value: Some(value.get()) },
            };
            self.redirect(Some(Redirect { to, flags }));
        }
        self.effects.borrow()
    }
    /// False where a signal handler's run meets the change that it interrupts.
    #[inline]
    pub(super) fn forget_effects(&self) -> bool {
        let Ok(mut effects) = self.effects.try_borrow_mut() else { return false };
        effects.redirect = None;
        if self.noted.has(Noted::MORE) {
            forget_more(&mut effects);
        }
        self.noted.asked.set(0);
        true
    }
    pub(super) fn cpu(&self) -> u32 {
        self.cpu
    }

    fn check_process(&self) -> Result<(), RunError> {
        if self.reader.forked() { Err(RunError::Forked) } else { Ok(()) }
    }

    /// One run in a section of its own; nested in another run where the thread is inside one.
    #[inline(always)]
    pub(super) fn run(&self, program: &Program, ctx: &mut Context) -> Result<u64, RunError> {
        self.run_in_section(&program.entry, ctx, self.reader.enter_run())
    }

    /// One run, inside a read-side section: the caller's, or `section`, which is dropped behind the run. Always inlined: the stub wants all
    /// registers, and who runs programs in a loop puts his own away before the loop.
    #[inline(always)]
    fn run_in_section<S>(&self, entry: &Entry, ctx: &mut Context, section: S) -> Result<u64, RunError> {
        if ctx.prog_type() != entry.prog_type || !self.is_plain(entry, self.shared.generations.current()) {
            let checked = self.run_checked(entry, ctx);
            drop(section);
            return checked;
        }
        // SAFETY: `is_plain` was asked, and the context is of the program's type.
        let r0 = current::outermost(&self.hot.current, || unsafe { self.run_plain(ctx) });
        drop(section);
        if self.noted.has(Noted::LEFT) && self.take_left() { Err(panicked(entry)) } else { Ok(r0) }
    }

    /// Any other run: those that are refused, too.
    #[cold]
    #[inline(never)]
    pub(super) fn run_checked(&self, entry: &Entry, ctx: &mut Context) -> Result<u64, RunError> {
        // Also for a section that was entered before the fork.
        self.check_process()?;
        self.check(&entry.loaded, ctx)?;
        let (depth, generation, address) = self.begin(entry)?;
        match entry.loaded.contract.execution {
            Execution::Interpreted => self.interpret(entry, ctx, depth, generation),
            // SAFETY: the context is of the program's type, for which it was verified.
            Execution::Native => unsafe { self.call(entry, address, [ctx.record_addr(), 0], depth, generation) },
        }
    }

    /// One run on plain memory.
    ///
    /// # Safety
    /// As [`Worker::run_unverified`].
    unsafe fn run_on_memory(&self, entry: &Entry, memory: &mut [u8]) -> Result<u64, RunError> {
        let _section = self.reader.enter_run();
        self.check_process()?;
        self.check_runtime(&entry.loaded)?;
        let (depth, generation, address) = self.begin(entry)?;
        let region = Slice::from_mut(memory);
        let [r1, r2] = if region.is_empty() { [0; 2] } else { [region.addr(), region.len() as u64] };
        match entry.loaded.contract.execution {
            Execution::Interpreted => self.interpreted(entry, depth, generation, |exe, host| {
                interp::run_raw(exe, r1, r2, &[region], host, interp::Limits::default())
            }),
            // SAFETY: the caller vouches for what the program does when it is started like this.
            Execution::Native => unsafe { self.call(entry, address, [r1, r2], depth, generation) },
        }
    }

    /// How deep a run that begins now is, in which generation, and where its code is.
    #[inline]
    fn begin(&self, entry: &Entry) -> Result<(u32, &Generation, u64), RunError> {
        let depth = current::depth();
        if depth >= MAX_DEPTH {
            return Err(RunError::TooDeep { found: depth + 1, limit: MAX_DEPTH });
        }
        if self.noted.any() && depth == 0 {
            self.forget_effects();
        }
        let generation = if depth == 0 { self.shared.generations.current() } else { self.nested_generation() };
        let address = generation.resolve(entry.id);
        if address == 0 {
            return Err(RunError::Younger { program: entry.loaded.linked().name.clone() });
        }
        Ok((depth, generation, address))
    }

    /// The generation of the outermost run, for one inside it.
    #[cold]
    fn nested_generation(&self) -> &Generation {
        // Around this run there may be one of another worker, which has nothing to say about this worker's.
        current::generation(self).unwrap_or_else(|| self.shared.generations.current())
    }

    #[inline]
    fn check(&self, program: &Loaded, ctx: &Context) -> Result<(), RunError> {
        self.check_runtime(program)?;
        let wanted = program.contract.kind.prog_type;
        if ctx.prog_type() != wanted {
            let program = program.linked().name.clone();
            return Err(RunError::Context { program, wanted, found: ctx.prog_type() });
        }
        Ok(())
    }

    #[inline]
    fn check_runtime(&self, program: &Loaded) -> Result<(), RunError> {
        match Arc::ptr_eq(&program.shared, &self.shared) {
            true => Ok(()),
            false => Err(RunError::OtherRuntime { program: program.linked().name.clone() }),
        }
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
        let current = Current::new(depth);
        current.set(entry, self, generation);
        let mut host = Host::new(&self.shared, generation.number());
        let result = current::scope(&current, || run(program.executable(), &mut host));
        let name = || program.linked().name.clone();
        match result {
            Ok(r0) => Ok(r0),
            Err(_) if host.panicked() => Err(RunError::HelperPanicked { program: name() }),
            Err(fault) => Err(RunError::Fault { program: name(), fault }),
        }
    }

    /// Runs generated code with R1 and R2 as given.
    ///
    /// # Safety
    /// `address` is what [`begin`](Self::begin) answered, inside the same read-side section; the program keeps to what may be
    /// accessed when it is started with these arguments.
    #[inline]
    unsafe fn call(
        &self,
        entry: &Entry,
        address: u64,
        [r1, r2]: [u64; 2],
        depth: u32,
        generation: &Generation,
    ) -> Result<u64, RunError> {
        if let Some(found) = stack::remaining()
            && found < generation.stack()
        {
            return Err(RunError::Stack { found, wanted: generation.stack() });
        }
        let mut landing = Landing::default();
        let current = Current::new(depth);
        current.set(entry, self, generation);
        current.landing.set(&raw mut landing);
        // SAFETY: the address is an entry's of this run's generation, whose images stay in place, with all that their tail calls lead
        // to, until the section that the caller is in is left. The arguments are right, as the caller promises (a program that a
        // transaction put in its place has the same type), and the stack suffices.
        let r0 = current::scope(&current, || unsafe { stub::enter(address, r1, r2, self.cpu, &raw mut landing) });
        if landing.left() { Err(panicked(entry)) } else { Ok(r0) }
    }
}

#[cold]
fn forget_more(effects: &mut Effects) {
    *effects = Effects::default();
}

#[cold]
pub(super) fn panicked(entry: &Entry) -> RunError {
    RunError::HelperPanicked { program: entry.loaded.linked().name.clone() }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.shared.release_cpu(self.cpu);
    }
}
