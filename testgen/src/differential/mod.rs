//! One generated suite in every engine: what the verifier accepts runs in the checking interpreter without a fault, and
//! machine code, patched or not, leaves the same behind: results, packets, context fields, maps, how often each program
//! was entered, which tail calls were missed, and what every update of a slot answered.
//!
//! The engines are made once and used for many suites; what a suite took of the code memory is given back. The running kernel can
//! be one of them ([`kernel`]); [`campaign`] goes through as many suites of all kinds as one likes.

pub mod campaign;
mod count;
pub mod kernel;
mod plan;
mod play;
#[cfg(test)]
mod tests;
mod trace;

use std::fmt;
use std::time::Duration;

use livebpf::helper::{Table, id};
use livebpf::insn::{Insn, Insns};
use livebpf::object::{ProgType, ProgramKind};
use livebpf::runtime::{Ebpf, Engine, Error};
use livebpf::verify::{self, Options, Trust, Verified};

use crate::bench::{Bench, CPUS};
use crate::checks::listings;
use crate::{Generator, Shape, Source, Suite, mutate, straight};
use kernel::Kernel;
use plan::Plan;
use play::play;
use trace::Trace;

/// Suites that are given back together.
const SUITES_AT_ONCE: u32 = 16;
/// Suites between two looks at the code memory.
const SUITES_PER_BARRIER: u32 = 64;

/// How wrong the programs of a suite may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wrong {
    /// Mistakes per thousand opportunities.
    pub mistakes: u32,
    /// About every second program is damaged after it was made.
    pub damage: bool,
}

/// What became of the suites.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Programs that the verifier took, and that ran.
    pub accepted: u64,
    /// Programs that it refused.
    pub refused: u64,
    /// Suites in which a program was accepted that can see an address or a clock: run, and not compared.
    pub incomparable: u64,
    /// Suites of which a run took too long in the interpreter: not compared.
    pub long: u64,
    /// Outermost runs, each in all engines.
    pub runs: u64,
    /// Programs entered in them: those started, and those reached by a tail call.
    pub bodies: u64,
    /// Slots set or cleared between the runs.
    pub updates: u64,
    /// Tail calls missed in them, as far as they are counted: in about every second suite.
    pub missed: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.incomparable += other.incomparable;
        self.long += other.long;
        self.runs += other.runs;
        self.bodies += other.bodies;
        self.updates += other.updates;
        self.missed += other.missed;
    }
}

/// Two engines that disagree, or an accepted program that faults.
#[derive(Debug)]
pub struct Difference {
    what: String,
    listings: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.what, self.listings)
    }
}

/// One runtime of each engine, ready for suites.
pub struct Engines {
    benches: [Bench; 3],
    helpers: Table,
    suites: u32,
    times: [Duration; 3],
    /// What was loaded and has run: given back a few together, because each giving back wakes the thread that waits for it.
    done: Vec<Ebpf>,
}

impl Engines {
    /// # Errors
    /// Where the system refuses executable memory.
    pub fn new() -> Result<Engines, Error> {
        // The interpreter first: it is the one that the others are compared with.
        let benches = [Bench::new(Engine::Interp)?, Bench::new(Engine::Jit)?, Bench::new(Engine::Slot)?];
        Ok(Engines { benches, helpers: Table::builtin(), suites: 0, times: [Duration::ZERO; 3], done: Vec::new() })
    }

    /// How long each engine's runs took together: interpreter, patched and slot-mode machine code.
    pub fn times(&self) -> [Duration; 3] {
        self.times
    }

    /// Makes a suite and runs it everywhere.
    ///
    /// # Errors
    /// [`Difference`] where engines disagree or an accepted program faults.
    pub fn check(&mut self, generator: &mut Generator<'_>, wrong: Wrong) -> Result<Counts, Box<Difference>> {
        let suite = make(generator, wrong);
        self.check_suite(generator.source(), suite)
    }

    /// Runs a suite everywhere, on packets and with updates that `source` chooses.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn check_suite(&mut self, source: &mut Source<'_>, suite: Suite) -> Result<Counts, Box<Difference>> {
        self.check_beside(source, suite, None)
    }

    /// The same, and beside the kernel where there is one.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn check_beside(
        &mut self,
        source: &mut Source<'_>,
        mut suite: Suite,
        kernel: Option<&mut Kernel>,
    ) -> Result<Counts, Box<Difference>> {
        let total = suite.programs.len();
        let counts = self.check_programs(source, &mut suite, kernel);
        let reclaimed = self.reclaim();
        let outcome = counts.and_then(|counts| reclaimed.map(|()| counts));
        let mut counts = outcome.map_err(|what| Box::new(Difference { what, listings: listings(&suite) }))?;
        counts.refused = total as u64 - counts.accepted;
        Ok(counts)
    }

    /// Takes the programs that are refused out of the suite and compares the others.
    fn check_programs(
        &mut self,
        source: &mut Source<'_>,
        suite: &mut Suite,
        mut kernel: Option<&mut Kernel>,
    ) -> Result<Counts, String> {
        let options = Options { cpus: CPUS, ..Options::new(&self.helpers) };
        let mut judged: Vec<_> =
            suite.programs.drain(..).map(|program| (verify::verify(program.clone(), &options), program)).collect();
        let accepted = judged.iter().filter(|(verdict, _)| verdict.is_ok()).count() as u64;
        let beside = match &mut kernel {
            Some(kernel) => kernel.judge(&mut judged, &options)?,
            None => None,
        };
        let proofs: Vec<Verified> = judged.into_iter().filter_map(|(verdict, _)| verdict.ok()).collect();
        suite.programs = proofs.iter().map(|proof| proof.program().clone()).collect();
        if proofs.is_empty() {
            return Ok(Counts { accepted, ..Counts::default() });
        }
        let mut plan = Plan::choose(source, suite);
        if beside.is_some() {
            plan = plan.for_kernel();
        }
        let comparable = proofs.iter().all(comparable);
        let Some(wanted) = self.compare(&proofs, &plan, comparable)? else { return Ok(Counts::default()) };
        if let (Some(kernel), Some(loaded)) = (kernel, beside) {
            if comparable && !wanted.long && !proofs.iter().any(kernel::reads_upper_bytes) {
                kernel.compare(&loaded, suite, &plan, &wanted)?;
            } else {
                kernel.pass_over(&proofs);
            }
        }
        Ok(Counts {
            accepted,
            incomparable: u64::from(!comparable),
            long: u64::from(wanted.long),
            runs: plan.runs(),
            bodies: wanted.bodies(),
            updates: plan.updates(),
            missed: wanted.missed(),
            ..Counts::default()
        })
    }

    /// Plays the plan everywhere. Gives what the interpreter saw; `None` where all refuse the maps: those of a damaged object.
    fn compare(&mut self, proofs: &[Verified], plan: &Plan, comparable: bool) -> Result<Option<Trace>, String> {
        let mut refused = 0;
        let mut wanted: Option<Trace> = None;
        for (bench, time) in self.benches.iter_mut().zip(&mut self.times) {
            let engine = bench.engine();
            let ebpf = match bench.load_proven(proofs.to_vec()) {
                Err(Error::Map { .. } | Error::Options(_)) if wanted.is_none() => {
                    refused += 1;
                    continue;
                }
                loaded => loaded.map_err(|error| format!("{engine} refuses: {error}"))?,
            };
            if refused > 0 {
                return Err(format!("{engine} takes maps that others refuse"));
            }
            let found = play(bench, &ebpf, plan);
            *time += found.time;
            self.done.push(ebpf);
            match &wanted {
                None if found.long => return Ok(Some(found)),
                None => {
                    found.check_faultless()?;
                    wanted = Some(found);
                }
                Some(wanted) if comparable => found.check_same(wanted, engine, plan)?,
                Some(_) => {}
            }
        }
        Ok(wanted)
    }

    /// Every now and then: the code memory is as empty as at the start.
    fn reclaim(&mut self) -> Result<(), String> {
        self.suites += 1;
        if self.suites.is_multiple_of(SUITES_AT_ONCE) {
            self.done.clear();
        }
        if !self.suites.is_multiple_of(SUITES_PER_BARRIER) {
            return Ok(());
        }
        self.benches.iter().try_for_each(Bench::check_empty)
    }
}

/// A suite of any shape: several types, one to five programs.
pub(crate) fn make(generator: &mut Generator<'_>, wrong: Wrong) -> Suite {
    let source = generator.source();
    if source.chance(1, 16) {
        let len = source.between(5, 120);
        return Suite::single(straight::program(source, len));
    }
    let types = [ProgType::XDP, ProgType::SCHED_CLS, ProgType::SCHED_CLS, ProgType::XDP, ProgType::SOCKET_FILTER];
    let shape = Shape {
        programs: source.between(1, 5),
        statements: source.pick(&[20, 8, 14, 30]),
        subprograms: source.below(5),
        ordered: source.chance(1, 3),
        legacy: source.chance(1, 3),
        mistakes: wrong.mistakes,
        ..Shape::new(ProgramKind::new(source.pick(&types)))
    };
    let mut suite = generator.suite(&shape);
    if generator.source().chance(1, 4) {
        suite.programs.iter_mut().for_each(|program| widen_jumps(&mut program.insns));
    }
    if wrong.damage {
        mutate::suite(generator.source(), &mut suite);
    }
    count::instrument(&mut suite);
    suite
}

/// Gives unconditional jumps the encoding with 32-bit offsets.
fn widen_jumps(insns: &mut Insns) {
    let jumps: Vec<_> = insns.iter().filter(|(_, insn)| matches!(insn, Insn::Ja { .. })).collect();
    for (pc, insn) in jumps {
        if let Insn::Ja { off } = insn {
            insns.replace(pc, Insn::JaL { off: off.into() });
        }
    }
}

/// Helpers whose answers follow from what a run is given.
const REPEATABLE: [u32; 12] = [
    id::MAP_LOOKUP_ELEM,
    id::MAP_UPDATE_ELEM,
    id::MAP_DELETE_ELEM,
    id::GET_SMP_PROCESSOR_ID,
    id::SKB_STORE_BYTES,
    id::L3_CSUM_REPLACE,
    id::L4_CSUM_REPLACE,
    id::TAIL_CALL,
    id::SKB_LOAD_BYTES,
    id::XDP_ADJUST_HEAD,
    id::XDP_ADJUST_META,
    id::XDP_ADJUST_TAIL,
];

/// Whether nothing that the program can see depends on where it runs, or when.
fn comparable(proof: &Verified) -> bool {
    let other = |insn| match insn {
        Insn::Call { helper } => !REPEATABLE.contains(&helper),
        Insn::CallKfunc { .. } => true,
        _ => false,
    };
    let facts = proof.facts();
    if facts.shows_addresses || proof.program().insns.iter().any(|(_, insn)| other(insn)) {
        return false;
    }
    // A packet pointer that is stale is some number to an author who is trusted; who is not may not read it.
    let helpers = Table::builtin();
    let strict = Options { trust: Trust::Untrusted, cpus: CPUS, ..Options::new(&helpers) };
    let moves = |insn| matches!(insn, Insn::Call { helper } if MOVE_PACKETS.contains(&helper));
    let moves = proof.program().insns.iter().any(|(_, insn)| moves(insn));
    match verify::verify(proof.program().clone(), &strict) {
        Ok(_) => true,
        Err(refused) => !moves && !refused.message.contains("!read_ok"),
    }
}

/// Helpers after which packet pointers are stale.
const MOVE_PACKETS: [u32; 3] = [id::XDP_ADJUST_HEAD, id::XDP_ADJUST_META, id::XDP_ADJUST_TAIL];
