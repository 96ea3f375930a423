//! Making a runtime.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::error::Error;
use crate::helper::{Arg, Class, FIRST_CUSTOM, Proto, Ret, Table};
use crate::rcu::Domain;
use crate::run::{self, Custom, Engine, Function, HelperCall, Lent, PlainHelper, Shared, TraceLog, Worker};
use crate::text::CoreSync;
use crate::text::patch::Patcher;
use crate::text::symbols::SymbolSink;
use crate::text::{Region, RegionOptions};

/// A runtime: a set of programs and maps that can refer to each other, and the code memory they lie in.
///
/// Handles are cheap to clone; the runtime goes when the last handle, program, map and worker is gone.
#[derive(Clone)]
pub struct Runtime {
    pub(super) shared: Arc<Shared>,
    pub(super) ids: Arc<Ids>,
}

/// Numbers of programs and maps, never given out twice.
#[derive(Debug, Default)]
pub(super) struct Ids {
    program: AtomicU32,
    map: AtomicU32,
}

impl Ids {
    pub(super) fn next_program(&self) -> u32 {
        self.program.fetch_add(1, Ordering::Relaxed) + 1
    }
    pub(super) fn next_map(&self) -> u32 {
        self.map.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Options of a [`Runtime`].
pub struct RuntimeBuilder {
    engine: Engine,
    cpus: u32,
    code_bytes: u64,
    count_missed: bool,
    log: Box<dyn TraceLog>,
    custom: Vec<Custom>,
    lend: BTreeMap<Class, u32>,
    sinks: Vec<Box<dyn SymbolSink>>,
    report_traps: bool,
}

/// What a runtime holds at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Bytes of code memory.
    pub code_bytes: u64,
    /// Direct tail calls that are patched when their slot changes.
    pub sites: usize,
    /// Workers, each of which is a reader that a grace period may wait for.
    pub workers: usize,
    /// Pieces of work that wait for a grace period.
    pub pending: u64,
}

/// Most grace periods between dropping a handle and the end of what hangs on it: a map's last handle empties its array, the
/// programs in it go, then their code, maps and indices, and those maps' memory.
const RECLAIM_STAGES: u32 = 5;

/// The default destination of `trace_printk`: the `log` crate, target `livebpf::trace`, level info.
struct LogCrate;

impl TraceLog for LogCrate {
    fn line(&self, cpu: u32, text: &str) {
        log::info!(target: "livebpf::trace", "[{cpu:03}] {text}");
    }
}

impl Default for RuntimeBuilder {
    fn default() -> RuntimeBuilder {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        RuntimeBuilder {
            engine: Engine::Jit,
            cpus,
            code_bytes: RegionOptions::default().capacity,
            count_missed: false,
            log: Box::new(LogCrate),
            custom: Vec::new(),
            lend: BTreeMap::new(),
            sinks: Vec::new(),
            report_traps: false,
        }
    }
}

impl RuntimeBuilder {
    /// How programs are executed. Default: [`Engine::Jit`], or [`Engine::Slot`] where the system cannot patch running code.
    pub fn engine(mut self, engine: Engine) -> Self {
        self.engine = engine;
        self
    }

    /// How many workers there can be at once, which is also how many values an entry of a per-CPU map has. Default: the
    /// number of CPUs this process may use.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Bytes of address space for machine code; memory is used as it fills. Default: 256 MiB, at most 1 GiB.
    pub fn code_bytes(mut self, bytes: u64) -> Self {
        self.code_bytes = bytes;
        self
    }

    /// Whether programs count the tail calls that they miss, for [`ProgramArray::missed`](super::ProgramArray::missed); a
    /// load can decide otherwise for one array ([`LoadOptions::count_missed`](super::LoadOptions::count_missed)). Default: no.
    ///
    /// What a call that succeeds executes is the same either way. It is off because the others pay: a miss takes 1 to 2
    /// nanoseconds more, for a locked addition to a shared word (and more where several cores miss the same slot all
    /// the time), and every tail call has 30 to 50 bytes more code.
    pub fn count_missed(mut self, count: bool) -> Self {
        self.count_missed = count;
        self
    }

    /// Where `trace_printk` writes. Default: the `log` crate, target `livebpf::trace`.
    pub fn trace_log(mut self, log: impl TraceLog + 'static) -> Self {
        self.log = Box::new(log);
        self
    }

    /// Adds a helper of the embedder. `proto.id` is at least [`FIRST_CUSTOM`]. The function is called on the thread that
    /// runs the program; a panic in it ends the run with [`RunError::HelperPanicked`](super::RunError::HelperPanicked).
    ///
    /// The runtime holds the function, and programs and maps hold the runtime: a function that holds one of them, to run it, holds it
    /// weakly, or none of them ever goes.
    pub fn helper(mut self, proto: Proto, function: impl Fn(&HelperCall<'_>) -> u64 + Send + Sync + 'static) -> Self {
        self.custom.push(Custom::new(proto, Function::Closure(Box::new(function))));
        self
    }

    /// The same for a function that is called directly, with R1 to R5 and nothing around it: for what is called often and does little.
    /// Addresses among its arguments are good for what the prototype says, during the call. A panic in it ends the process, as in
    /// every `extern "C"` function. What is lent, and memory that programs need not initialise, is for [`helper`](Self::helper).
    pub fn plain_helper(mut self, proto: Proto, function: PlainHelper) -> Self {
        self.custom.push(Custom::new(proto, Function::Plain(function)));
        self
    }

    /// Memory for helpers that hand some out ([`Ret::AcquiredOrNull`] with a size): `count` blocks for those of `class`, which
    /// live as long as the runtime. A closure answers the number of a block, from 1; programs get its address, or null
    /// for any other number. [`HelperCall::to_lend`] and [`HelperCall::block`] give the bytes.
    ///
    /// That a block is with one program at a time is the closure's business: programs that have the same one share it.
    pub fn lend(mut self, class: Class, count: u32) -> Self {
        self.lend.insert(class, count);
        self
    }

    /// Tells `sink` where each function's machine code lies, after it was published, and when it is gone. On a thread of
    /// its own, which ends after the runtime: however slow or broken the sink is, no load, update or run waits for it.
    /// [`crate::observe::PerfMap`] is one.
    pub fn symbols(mut self, sink: impl SymbolSink + 'static) -> Self {
        self.sinks.push(Box::new(sink));
        self
    }

    /// Installs a handler, for the process, of SIGTRAP, SIGSEGV, SIGBUS and SIGILL: when one of them is raised by an instruction in
    /// this runtime's code, a report on standard error says in which program, or in whose freed memory; then the signal's default action
    /// follows. Signals from elsewhere go to the handlers that were there before. Default: no.
    pub fn report_traps(mut self, report: bool) -> Self {
        self.report_traps = report;
        self
    }

    /// Makes the runtime.
    ///
    /// # Errors
    /// [`Error::Options`] for contradictions; [`Error::Text`] where the system refuses executable memory.
    pub fn build(self) -> Result<Runtime, Error> {
        if self.cpus == 0 || self.cpus > 4096 {
            return Err(Error::Options(format!("cpus is {}, wanted 1 to 4096", self.cpus)));
        }
        let mut helpers = Table::builtin();
        let mut custom = BTreeMap::new();
        for helper in self.custom {
            let id = helper.proto.id;
            if id < FIRST_CUSTOM || custom.contains_key(&id) {
                let why = if id < FIRST_CUSTOM { "is reserved for built-in helpers" } else { "is given twice" };
                return Err(Error::Options(format!("helper {}: number {id} {why}", helper.proto.name)));
            }
            if let Some(why) = helper.refusal() {
                return Err(Error::Options(format!("helper {}: {why}", helper.proto.name)));
            }
            helpers.register(helper.proto.clone()).map_err(|e| Error::Options(e.to_string()))?;
            custom.insert(id, Box::new(helper));
        }
        let lent = lent(&custom, &self.lend)?;
        for helper in custom.values_mut() {
            find_lent(helper, &lent);
        }
        let sync = CoreSync::detect();
        let no_patching = sync.refusal().filter(|_| self.engine == Engine::Jit).map(str::to_owned);
        if let Some(why) = &no_patching {
            log::warn!(target: "livebpf", "running code cannot be patched here ({why}): tail calls go through their slots");
        }
        let engine = if no_patching.is_some() { Engine::Slot } else { self.engine };
        let capacity = if engine == Engine::Interp { 64 << 10 } else { self.code_bytes };
        let near = Some(run::helpers::anchor());
        let region = Region::new(RegionOptions { capacity, near, reuse: sync.available() })?;
        region.tell(self.sinks)?;
        if self.report_traps {
            region.report_traps()?;
        }
        let domain = Domain::new(sync.clone())?;
        let patcher = Patcher::new(region.clone(), sync, domain.clone());
        let generations = run::Generations::new(run::STACK_NEED);
        let shared = Shared {
            engine,
            updates: run::Updates::new(patcher.clone(), domain.clone()),
            no_patching,
            count_missed: self.count_missed,
            cpus: self.cpus,
            region,
            patcher,
            domain,
            generations,
            registry: run::Registry::default(),
            relink: run::Relink::default(),
            helpers,
            custom,
            lent,
            log: self.log,
            taken: Mutex::new(vec![false; self.cpus as usize]),
            noted: (0..self.cpus).map(|_| AtomicU64::new(0)).collect(),
        };
        Ok(Runtime { shared: Arc::new(shared), ids: Arc::default() })
    }
}

/// The memory of each class that some helper hands out with a size.
fn lent(custom: &BTreeMap<u32, Box<Custom>>, lend: &BTreeMap<Class, u32>) -> Result<BTreeMap<Class, Arc<Lent>>, Error> {
    let mut sizes: BTreeMap<Class, u32> = BTreeMap::new();
    for helper in custom.values() {
        let Ret::AcquiredOrNull { class, size } = helper.proto.ret else { continue };
        let known = *sizes.entry(class).or_insert(size);
        if known != size {
            let name = &helper.proto.name;
            let text =
                format!("helper {name}: hands out {size} bytes of class {}, wanted {known} as others do", class.0);
            return Err(Error::Options(text));
        }
    }
    let mut out = BTreeMap::new();
    for (class, size) in sizes.into_iter().filter(|(_, size)| *size > 0) {
        let Some(count) = lend.get(&class) else {
            let text = format!("class {}: handed out with memory, wanted a number of blocks (`lend`)", class.0);
            return Err(Error::Options(text));
        };
        let blocks = Lent::new(size, *count).map_err(|e| Error::Options(format!("class {}: {e}", class.0)))?;
        out.insert(class, Arc::new(blocks));
    }
    Ok(out)
}

/// Tells `helper` where the memory of the classes in its contract is.
fn find_lent(helper: &mut Custom, lent: &BTreeMap<Class, Arc<Lent>>) {
    for (i, arg) in helper.proto.args.iter().enumerate() {
        if let Arg::Borrowed(class) | Arg::Released(class) = arg {
            helper.lent[i] = lent.get(class).cloned();
        }
    }
    if let Ret::AcquiredOrNull { class, .. } = helper.proto.ret {
        helper.lent[5] = lent.get(&class).cloned();
    }
}

impl Runtime {
    /// A runtime with the default options.
    ///
    /// # Errors
    /// As [`RuntimeBuilder::build`].
    pub fn new() -> Result<Runtime, Error> {
        Runtime::builder().build()
    }

    /// Options, to be followed by `build`.
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder::default()
    }

    /// How programs are executed: what was asked for, or [`Engine::Slot`] where patching is not available.
    pub fn engine(&self) -> Engine {
        self.shared.engine
    }

    /// Why running code cannot be patched here, where [`Engine::Jit`] was asked for and [`Runtime::engine`] is
    /// [`Engine::Slot`] for that reason: the system refuses the barrier that patching needs. Every tail call then reads
    /// its slot; results are the same.
    pub fn no_patching(&self) -> Option<&str> {
        self.shared.no_patching.as_deref()
    }

    /// How many workers there can be at once.
    pub fn cpus(&self) -> u32 {
        self.shared.cpus
    }

    /// Bytes of code memory in use.
    pub fn code_used(&self) -> u64 {
        self.shared.region.used()
    }

    /// What it holds at this moment: for leak tests, and to look at. Takes the update lock.
    ///
    /// # Errors
    /// [`Error::Update`].
    pub fn usage(&self) -> Result<Usage, Error> {
        drop(self.shared.patcher.update()?);
        let (domain, code_bytes) = (&self.shared.domain, self.code_used());
        let (workers, pending) = (domain.readers(), domain.pending());
        Ok(Usage { code_bytes, sites: self.shared.patcher.tracked(), workers, pending })
    }

    /// Returns when every symbol sink was told of everything that happened before. Waits for the sinks, however slow they are.
    pub fn flush_symbols(&self) {
        self.shared.region.flush_symbols();
    }

    /// Core syncs made so far: what updates, loads and grace periods cost those who run programs. Callers that waited at the
    /// same time count once.
    pub fn core_syncs(&self) -> u64 {
        self.shared.patcher.core_sync().calls()
    }

    /// A worker for one thread.
    ///
    /// # Errors
    /// [`RunError::NoCpu`](super::RunError::NoCpu) when [`RuntimeBuilder::cpus`] workers exist.
    pub fn worker(&self) -> Result<Worker, Error> {
        Ok(Worker::new(&self.shared)?)
    }

    /// Leaves protections out from now on, so that tests can show that they notice.
    #[cfg(feature = "fault-injection")]
    #[doc(hidden)]
    pub fn inject(&self, faults: crate::text::patch::Faults) {
        self.shared.patcher.inject(faults);
    }

    /// Nothing that is deferred waits for runs from now on.
    #[cfg(feature = "fault-injection")]
    #[doc(hidden)]
    pub fn inject_no_grace(&self) {
        self.shared.domain.inject_no_grace(true);
    }

    /// Waits until everything retired so far is reclaimed: replaced programs, closed sites, cleared arrays.
    ///
    /// # Errors
    /// [`Error::Wait`] when called from inside a run, which it would wait for.
    pub fn barrier(&self) -> Result<(), Error> {
        // What is reclaimed lets go of other things: the last handle of an array, of its programs, those of their code.
        for _ in 0..RECLAIM_STAGES {
            self.shared.domain.barrier()?;
            if self.shared.domain.pending() == 0 {
                break;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}
