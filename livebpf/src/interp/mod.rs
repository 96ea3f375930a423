//! The executable specification: the same inputs give the same results as generated code, with every bound checked.
//!
//! Programs run on real addresses. Each access is looked up among the memory that the executing program may touch (its
//! own and its callers' frames, the context field by field, the packet, its maps' values, declared regions), without
//! using any fact of the verifier; what lies elsewhere is a [`Fault`]. So is everything else that a verified program
//! never does. New frames are zero, so that runs can be compared.
//!
//! The tail-call count is kept in one place for the whole run: 33 succeed per outermost invocation, whichever function
//! makes them. A tail call replaces the body of the function that makes it and keeps its callers waiting; one that
//! fails leaves every register as it is.

pub mod alu;
mod atomic;
mod call;
mod callback;
mod fault;
mod machine;
mod memory;
mod witness;

pub use fault::{Fault, FaultKind};

use std::sync::Arc;

use crate::context::{Context, ContextDesc, describe_kind};
use crate::helper::Proto;
use crate::link::{MapId, Program};
use crate::map::Map;
use crate::map::cell::Slice;
use crate::map::prog_array::missed::Miss;
use crate::verify::Verified;

/// Tail calls that succeed in one outermost invocation.
pub const MAX_TAIL_CALLS: u32 = 33;
/// Functions on the way from a program's main function to its innermost call, both included.
pub const MAX_CALL_DEPTH: u32 = 8;
/// How often one function activation may pass its `may_goto` instructions.
pub const MAX_MAY_GOTO: u64 = crate::helper::MAX_LOOPS;

/// A program with its maps, ready to run.
#[derive(Debug)]
pub struct Executable {
    /// The program.
    pub verified: Arc<Verified>,
    /// Its maps, in the order of `Program::maps`.
    pub maps: Vec<Arc<Map>>,
    /// The program arrays among them whose missed calls it counts, where they have counters.
    pub counted: Vec<MapId>,
}

impl Executable {
    /// Binds a program to its maps, in the order of `Program::maps`. A missing map faults when it is used.
    pub fn new(verified: Arc<Verified>, maps: Vec<Arc<Map>>) -> Arc<Executable> {
        Executable::counting(verified, maps, Vec::new())
    }
    /// The same for a program that counts the calls it misses through the program arrays `counted`.
    pub fn counting(verified: Arc<Verified>, maps: Vec<Arc<Map>>, counted: Vec<MapId>) -> Arc<Executable> {
        Arc::new(Executable { verified, maps, counted })
    }
    fn program(&self) -> &Program {
        self.verified.program()
    }
    fn context_desc(&self) -> Option<&'static ContextDesc> {
        describe_kind(&self.program().kind).map(|desc| desc.context)
    }
    /// Counts a missed tail call through `map`, where this program does that.
    fn missed(&self, map: &Map, index: u32, why: Miss) {
        let is_counted = |id: &MapId| self.maps.get(id.0 as usize).is_some_and(|m| std::ptr::eq(&raw const **m, map));
        if self.counted.iter().any(is_counted)
            && let Some(counters) = map.prog_array().and_then(|array| array.counters())
        {
            counters.count(index, why);
        }
    }
    /// The map whose object is at `addr`.
    fn map_at(&self, addr: u64) -> Option<&Arc<Map>> {
        self.maps.iter().find(|map| Arc::as_ptr(map).addr() as u64 == addr)
    }
}

/// What programs call: helpers and the programs in program arrays.
pub trait Host {
    /// The contract of helper `id`; `None` where there is no such helper.
    fn proto(&self, id: u32) -> Option<&Proto>;
    /// Calls helper `id`. The arguments keep its contract: memory is the program's, maps are the program's, the
    /// context is the run's. An error (from [`FaultKind::Helper`]) stops the run.
    fn call(&mut self, id: u32, args: [u64; 5]) -> Result<u64, FaultKind>;
    /// The number of the CPU that the run counts as.
    fn cpu(&self) -> u32 {
        0
    }
    /// The program in slot `index` of program array `map`; `None` where the slot is empty or does not exist.
    fn tail_target(&mut self, map: &Map, index: u32) -> Option<Arc<Executable>>;
}

/// A host without helpers and programs.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHost;

impl Host for NoHost {
    fn proto(&self, _id: u32) -> Option<&Proto> {
        None
    }
    fn call(&mut self, id: u32, _args: [u64; 5]) -> Result<u64, FaultKind> {
        Err(FaultKind::NoHelper { id })
    }
    fn tail_target(&mut self, _map: &Map, _index: u32) -> Option<Arc<Executable>> {
        None
    }
}

/// Limits of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Instructions before [`FaultKind::Budget`].
    pub max_insns: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_insns: u64::MAX }
    }
}

/// Runs a program on a context; the result is R0.
pub fn run(exe: &Arc<Executable>, ctx: &Context, host: &mut dyn Host) -> Result<u64, Fault> {
    run_limited(exe, ctx, host, Limits::default())
}

/// The same; the program may also touch `regions`, of which its helpers hand out addresses.
pub fn run_with(
    exe: &Arc<Executable>,
    ctx: &Context,
    regions: &[Slice<'_>],
    host: &mut dyn Host,
) -> Result<u64, Fault> {
    machine::Machine::new(exe, Some(ctx), regions, host, Limits::default()).run(ctx.record_addr(), 0)
}

/// The same within limits.
pub fn run_limited(exe: &Arc<Executable>, ctx: &Context, host: &mut dyn Host, limits: Limits) -> Result<u64, Fault> {
    machine::Machine::new(exe, Some(ctx), &[], host, limits).run(ctx.record_addr(), 0)
}

/// The same, with what the verifier said about the program held against what it does.
#[cfg(feature = "fault-injection")]
#[doc(hidden)]
pub fn run_witnessed(
    exe: &Arc<Executable>,
    ctx: &Context,
    host: &mut dyn Host,
    limits: Limits,
    claims: &[&crate::verify::claims::Claims],
) -> Result<u64, Fault> {
    let mut machine = machine::Machine::new(exe, Some(ctx), &[], host, limits);
    machine.witness = witness::Witness::new(exe, claims, ctx.record_addr());
    machine.run(ctx.record_addr(), 0)
}

/// Runs a program without a context: R1 and R2 are what the caller says, and it may also touch `regions`.
pub fn run_raw(
    exe: &Arc<Executable>,
    r1: u64,
    r2: u64,
    regions: &[Slice<'_>],
    host: &mut dyn Host,
    limits: Limits,
) -> Result<u64, Fault> {
    machine::Machine::new(exe, None, regions, host, limits).run(r1, r2)
}

/// Takes a program without proof, for tests of the engines: the interpreter checks everything itself.
#[cfg(any(test, feature = "fault-injection"))]
#[doc(hidden)]
pub fn unproven(program: Program) -> Result<Verified, Box<crate::verify::Rejection>> {
    Verified::unproven(program)
}
