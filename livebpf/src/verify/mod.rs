//! Program → [`Verified`]: a proof that it is safe to run, and the facts the code generator uses.

mod alu;
mod argument;
mod branch;
mod call;
mod callback;
mod cfg;
#[doc(hidden)]
pub mod claims;
mod compute;
mod depth;
mod dynptr;
mod explore;
pub mod facts;
mod global;
mod help;
mod history;
mod iterator;
mod live;
mod lock;
pub mod log;
mod looping;
mod map_use;
mod memory;
mod notation;
mod notes;
mod origin;
mod pointer;
mod prune;
mod range;
pub mod reject;
mod resource;
mod scalar;
mod stack;
mod state;
mod tnum;
mod unproven;
mod untrusted;

pub(crate) use cfg::mentioned;
pub use facts::{Facts, FuncFacts, InsnFacts, Known, TailCall};
pub use log::Log;
pub use reject::{Decision, Origin, Place, Rejection, Rule};

use crate::context;
use crate::helper;
use crate::insn::{Insn, Pc, Reg};
use crate::link::{Program, SubprogId};

use cfg::Flow;
use claims::Claims;
use context::TypeDesc;
use explore::Verifier;
use log::Trace;
use state::{Kind, State, Value};

/// Bytes of stack a function, and a chain of calls, may use.
pub const MAX_STACK: u32 = 512;
/// Instructions the verifier processes before it gives up.
pub const MAX_PROCESSED: u64 = 1_000_000;

/// CPU numbers are below this where nothing else is said (the kernel's `NR_CPUS` on x86).
pub const MAX_CPUS: u32 = 8192;

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
    /// CPU numbers are below this.
    pub cpus: u32,
    /// Where the trace goes, in the form of the kernel's log; nothing is traced without it.
    pub log: Option<&'a dyn Log>,
    /// Where tests keep what is claimed about registers on the way.
    #[doc(hidden)]
    pub claims: Option<&'a Claims>,
}

impl<'a> Options<'a> {
    /// Trusted programs, the usual limit.
    pub fn new(helpers: &'a helper::Table) -> Options<'a> {
        Options { helpers, trust: Trust::Trusted, limit: MAX_PROCESSED, cpus: MAX_CPUS, log: None, claims: None }
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
    /// Takes program and facts as they are, so that tests can show what code comes out of which fact; what is unused follows from
    /// the others. Never for production: false facts make wrong code.
    #[cfg(feature = "fault-injection")]
    #[doc(hidden)]
    pub fn with_facts(program: Program, mut facts: Facts) -> Verified {
        facts.find_unused(&program);
        Verified { program, facts }
    }
    /// [`Verified::unproven`] for tests of code generation, whose programs read no argument after a call.
    ///
    /// # Errors
    /// A rejection when a jump, call, map or function boundary is wrong.
    #[cfg(feature = "fault-injection")]
    #[doc(hidden)]
    pub fn without_proof(program: Program) -> Result<Verified, Box<Rejection>> {
        let mut verified = Verified::unproven(program)?;
        verified.facts.reads_after_calls = false;
        Ok(verified)
    }
}

/// Proves that `program` is safe to run: it ends, touches only what it may, and keeps the helpers' contracts.
///
/// # Errors
/// A [`Rejection`] that says which rule is broken where; [`Rule::Unsupported`] when the program may be fine but
/// uses something this verifier does not know.
pub fn verify(program: Program, options: &Options<'_>) -> Result<Verified, Box<Rejection>> {
    match shape(&program, options.trust) {
        Ok((desc, flow)) => prove(program, options, desc, &flow),
        Err(rejection) => {
            if let Some(log) = options.log {
                Trace::new(log).say(&rejection.message);
            }
            Err(rejection)
        }
    }
}

/// The type of the program, and its control flow if that is as it must be.
fn shape(program: &Program, trust: Trust) -> Result<(&'static TypeDesc, Flow), Box<Rejection>> {
    let Some(desc) = context::describe_kind(&program.kind) else {
        let text = format!("unsupported: programs of type {}", program.kind.prog_type);
        return Err(Rejection::new(program, Pc(0), Rule::Unsupported, text));
    };
    let flow = Flow::new(program)?;
    if trust == Trust::Untrusted {
        untrusted::check_shape(program)?;
    }
    memory::check_direct_values(program)?;
    depth::check_results(program, &flow)?;
    depth::check(program, &flow, &vec![0; program.subprogs.len()])?;
    Ok((desc, flow))
}

/// Explores everything.
fn prove(
    program: Program,
    options: &Options<'_>,
    desc: &'static TypeDesc,
    flow: &Flow,
) -> Result<Verified, Box<Rejection>> {
    let moves_packet = global::moves_packet(&program, flow, options.helpers);
    if let Some(claims) = options.claims {
        claims.begin(program.insns.len());
    }
    let mut v = Verifier::new(&program, options, desc, flow, moves_packet);
    v.trace = options.log.map(Trace::new);
    v.say(|| log::overview(&program, options.helpers, &live::registers(&program, flow)));
    let result = explore_all(&mut v).and_then(|()| {
        depth::check(&program, flow, &v.notes.depth)?;
        if let Some(claims) = options.claims {
            claims.end(&v.live);
        }
        Ok(gather(&program, &v))
    });
    v.conclude(&result);
    result.map(|facts| Verified { program, facts })
}

/// The main function with the context, and each global function with what its signature says.
fn explore_all(v: &mut Verifier<'_>) -> Result<(), Box<Rejection>> {
    let mut main = State::new(explore::first_frame(v.program, SubprogId(0)));
    main.set(Reg::R1, Value::pointer(Kind::Ctx));
    v.explore(SubprogId(0), main)?;
    for (i, sub) in v.program.subprogs.iter().enumerate().skip(1) {
        if sub.global && sub.signature.is_some() {
            let func = SubprogId(i as u32);
            let entry = global::entry(v, func)?;
            v.explore(func, entry)?;
            v.say(|| format!("Func#{i} ('{}') is safe for any args that match its prototype", sub.name));
        }
    }
    Ok(())
}

fn gather(program: &Program, v: &Verifier<'_>) -> Facts {
    let notes = &v.notes;
    let func = |i: usize| FuncFacts {
        stack_depth: notes.depth[i],
        reads_unwritten: notes.reads_unwritten[i],
        unread: !notes.read[i],
        ..FuncFacts::default()
    };
    let mut facts = Facts {
        processed: v.processed,
        peak_states: v.peak_states,
        total_states: v.total_states,
        max_states_per_insn: v.max_states_per_insn,
        changes_packet: notes.changes_packet,
        shows_addresses: notes.shows_addresses,
        wide_index: v.options.trust == Trust::Untrusted,
        funcs: (0..notes.depth.len()).map(func).collect(),
        ..Facts::default()
    };
    let tail_call = |insn: Option<Insn>| insn == Some(Insn::Call { helper: helper::id::TAIL_CALL });
    notes.finish(&mut facts, |pc| tail_call(program.insns.get(pc)));
    for (pc, insn) in program.insns.iter() {
        let fact = &mut facts.insns[pc.index()];
        if !fact.reached {
            continue;
        }
        fact.dead = live::dead_after(&v.live, pc, &insn);
        let func = &mut facts.funcs[v.flow.func[pc.index()] as usize];
        fact.unused = func.is_unused(&insn, fact.dead);
        func.mention(cfg::mentioned(&insn), fact.unused);
        match insn {
            Insn::Call { .. } if tail_call(Some(insn)) => {
                func.tail_call = true;
                facts.has_tail_call = true;
            }
            Insn::Call { .. } | Insn::LoadAbs { .. } | Insn::LoadInd { .. } => func.calls_helper = true,
            Insn::CallSubprog { .. } => func.calls_subprog = true,
            Insn::CallKfunc { .. } => func.calls_helper = true,
            Insn::Alu { .. }
            | Insn::Neg { .. }
            | Insn::Mov { .. }
            | Insn::MovSx { .. }
            | Insn::Endian { .. }
            | Insn::LoadImm64 { .. }
            | Insn::Load { .. }
            | Insn::LoadSx { .. }
            | Insn::Store { .. }
            | Insn::Atomic { .. }
            | Insn::LoadAcquire { .. }
            | Insn::StoreRelease { .. }
            | Insn::Ja { .. }
            | Insn::JaL { .. }
            | Insn::MayGoto { .. }
            | Insn::Jmp { .. }
            | Insn::CallX { .. }
            | Insn::Exit => {}
        }
    }
    facts
}
