//! One generated suite in every engine: what the verifier accepts runs in the checking interpreter without a fault, and
//! machine code, patched or not, leaves the same behind: results, packets, context fields, maps, how often each program
//! was entered, which tail calls were missed, and what every update of a slot answered.
//!
//! The engines are made once and used for many suites; what a suite took of the code memory is given back.

mod count;
mod plan;
mod play;
#[cfg(test)]
mod tests;
mod trace;

use std::fmt;

use livebpf::helper::{Table, id};
use livebpf::insn::{Insn, Insns};
use livebpf::link::Program;
use livebpf::object::{ProgType, ProgramKind};
use livebpf::runtime::{Ebpf, Engine, Error};
use livebpf::verify::{self, Options};

use crate::bench::Bench;
use crate::checks::listings;
use crate::{Generator, Shape, Source, Suite, mutate, straight};
use plan::Plan;
use play::play;

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
    suites: u32,
}

impl Engines {
    /// # Errors
    /// Where the system refuses executable memory.
    pub fn new() -> Result<Engines, Error> {
        // The interpreter first: it is the one that the others are compared with.
        let benches = [Bench::new(Engine::Interp)?, Bench::new(Engine::Jit)?, Bench::new(Engine::Slot)?];
        Ok(Engines { benches, suites: 0 })
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
    pub fn check_suite(&mut self, source: &mut Source<'_>, mut suite: Suite) -> Result<Counts, Box<Difference>> {
        let total = suite.programs.len();
        let ready = self.benches[0].load_accepted(&mut suite);
        let counts = match ready {
            Ok(ebpf) if suite.programs.is_empty() => {
                drop(ebpf);
                Ok(Counts::default())
            }
            Ok(ebpf) => self.compare(source, &suite, ebpf),
            Err(error) => Err(format!("interp refuses: {error}")),
        };
        let reclaimed = self.reclaim();
        let outcome = counts.and_then(|counts| reclaimed.map(|()| counts));
        let mut counts = outcome.map_err(|what| Box::new(Difference { what, listings: listings(&suite) }))?;
        counts.accepted = suite.programs.len() as u64;
        counts.refused = (total - suite.programs.len()) as u64;
        Ok(counts)
    }

    fn compare(&mut self, source: &mut Source<'_>, suite: &Suite, interpreted: Ebpf) -> Result<Counts, String> {
        let plan = Plan::choose(source, suite);
        let comparable = suite.programs.iter().all(comparable);
        let [interp, compiled @ ..] = &mut self.benches;
        let wanted = play(interp, &interpreted, &plan);
        drop(interpreted);
        wanted.check_faultless()?;
        for bench in compiled {
            let engine = bench.engine();
            let ebpf = bench.load(suite).map_err(|error| format!("{engine} refuses: {error}"))?;
            let found = play(bench, &ebpf, &plan);
            if comparable {
                found.check_same(&wanted, engine, &plan)?;
            }
        }
        Ok(Counts {
            incomparable: u64::from(!comparable),
            runs: plan.runs(),
            bodies: wanted.bodies(),
            updates: plan.updates(),
            missed: wanted.missed(),
            ..Counts::default()
        })
    }

    /// Every now and then: the code memory is as empty as at the start.
    fn reclaim(&mut self) -> Result<(), String> {
        self.suites += 1;
        if !self.suites.is_multiple_of(SUITES_PER_BARRIER) {
            return Ok(());
        }
        self.benches.iter().try_for_each(Bench::check_empty)
    }
}

/// A suite of any shape: several types, one to five programs.
fn make(generator: &mut Generator<'_>, wrong: Wrong) -> Suite {
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

/// Whether nothing that the program can see depends on where it runs, or when.
fn comparable(program: &Program) -> bool {
    let clock = |insn| matches!(insn, Insn::Call { helper: id::KTIME_GET_NS | id::GET_PRANDOM_U32 });
    if program.insns.iter().any(|(_, insn)| clock(insn)) {
        return false;
    }
    let helpers = Table::builtin();
    verify::verify(program.clone(), &Options::new(&helpers)).is_ok_and(|verified| !verified.facts().shows_addresses)
}
