//! As many suites of all kinds as one likes, in every engine, part of them in the kernel as well. A unit's number gives its kind and its
//! suite, so that every difference can be had again.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use livebpf::link::Program;
use livebpf::object::MapType;

use super::kernel::{Kernel, Totals};
use super::{Counts, Engines, Wrong, count, make};
use crate::border::{self, Border};
use crate::loops::may_be_long;
use crate::objects::Objects;
use crate::{Generator, Source, Suite, graph, probe, straight};

/// Kinds of suites.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// Single instructions, with everything that they can change.
    Probes,
    /// Straight-line arithmetic.
    Straight,
    /// Call graphs with tail calls.
    Graphs,
    /// Programs near the border of what verifiers accept.
    Border,
    /// Structured programs without mistakes.
    Structured,
    /// The same with mistakes.
    Mistakes,
    /// The same with damaged instructions.
    Damaged,
    /// Real objects with damaged instructions.
    Objects,
    /// Real objects with damaged files.
    Files,
}

/// All kinds, and how many of [`ROUND`] units are of each.
pub const STREAMS: [(Stream, u64); 9] = [
    (Stream::Probes, 20),
    (Stream::Straight, 4),
    (Stream::Graphs, 20),
    (Stream::Border, 4),
    (Stream::Structured, 8),
    (Stream::Mistakes, 3),
    (Stream::Damaged, 3),
    (Stream::Objects, 1),
    (Stream::Files, 1),
];
/// Units after which the kinds come again.
pub const ROUND: u64 = 64;

impl Stream {
    fn of(unit: u64) -> Stream {
        let mut at = unit % ROUND;
        for (stream, units) in STREAMS {
            if at < units {
                return stream;
            }
            at -= units;
        }
        Stream::Probes
    }

    /// As in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Stream::Probes => "single instructions",
            Stream::Straight => "straight line",
            Stream::Graphs => "call graphs",
            Stream::Border => "near the border",
            Stream::Structured => "structured",
            Stream::Mistakes => "with mistakes",
            Stream::Damaged => "damaged",
            Stream::Objects => "objects, damaged programs",
            Stream::Files => "objects, damaged files",
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Accepted programs.
    pub programs: u64,
    /// The first unit.
    pub seed: u64,
    /// Units, at most.
    pub units: u64,
    /// Threads. Beside the kernel several are of use on one CPU: emptying a slot there waits for a grace period.
    pub threads: u32,
    /// One unit of so many goes to the kernel as well; 0: none.
    pub kernel_share: u64,
    /// Differences after which it ends.
    pub most: usize,
    /// How often it says how far it is.
    pub progress: Option<Duration>,
    /// Says each unit before it begins: for runs that end the process.
    pub trace: bool,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            programs: 10_000,
            seed: 1,
            units: u64::MAX,
            threads: 1,
            kernel_share: 0,
            most: 10,
            progress: None,
            trace: false,
        }
    }
}

/// Something that must not be.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The unit's number.
    pub unit: u64,
    /// Its kind.
    pub stream: Stream,
    /// What is wrong, and the programs.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DIFFERENCE in unit {} ({}): {}", self.unit, self.stream.name(), self.what)
    }
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The unit after the last one.
    pub next: u64,
    /// By kind, as in [`STREAMS`].
    pub counts: [Counts; STREAMS.len()],
    /// How long runs took: interpreter, patched and slot-mode machine code.
    pub times: [Duration; 3],
    /// Beside the kernel.
    pub kernel: Totals,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Accepted programs.
    pub fn accepted(&self) -> u64 {
        self.counts.iter().map(|counts| counts.accepted).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| kind | accepted | refused | suites not compared | runs per engine | programs entered | updates |"
        )?;
        writeln!(f, "| --- | ---: | ---: | ---: | ---: | ---: | ---: |")?;
        let mut all = Counts::default();
        let row = |f: &mut fmt::Formatter<'_>, name: &str, c: &Counts| {
            let aside = c.incomparable + c.long;
            writeln!(
                f,
                "| {name} | {} | {} | {aside} | {} | {} | {} |",
                c.accepted, c.refused, c.runs, c.bodies, c.updates
            )
        };
        for ((stream, _), counts) in STREAMS.iter().zip(&self.counts) {
            row(f, stream.name(), counts)?;
            all += *counts;
        }
        row(f, "all", &all)?;
        let each = |time: Duration| time.as_nanos() / u128::from(all.runs.max(1));
        let [interp, jit, slot] = self.times;
        write!(f, "a run, on average: interp {} ns, jit {} ns, slot {} ns", each(interp), each(jit), each(slot))?;
        if self.kernel.runs > 0 {
            write!(f, ", kernel {} ns by its own clock", self.kernel.time.as_nanos() / u128::from(self.kernel.runs))?;
        }
        writeln!(f, "\nunits up to {}", self.next.saturating_sub(1))?;
        if self.kernel.suites + self.kernel.left_out + self.kernel.not_run > 0 {
            self.kernel.fmt(f)?;
        }
        Ok(())
    }
}

/// Does it.
///
/// # Errors
/// Where the system refuses executable memory, the objects cannot be read, or the kernel is asked for and refuses.
pub fn run(plan: &Plan) -> Result<Report, String> {
    let objects = Objects::of_the_tests().map_err(|error| format!("the objects of the tests: {error}"))?;
    let field = Field {
        plan,
        objects,
        next: AtomicU64::new(plan.seed),
        accepted: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        report: Mutex::new(Report::default()),
    };
    let begin = Instant::now();
    let failed: Mutex<Option<String>> = Mutex::new(None);
    std::thread::scope(|scope| {
        let work = || {
            if let Err(why) = field.work() {
                field.stop.store(true, Ordering::Relaxed);
                *failed.lock().unwrap_or_else(|e| e.into_inner()) = Some(why);
            }
        };
        let workers: Vec<_> = (0..plan.threads.max(1)).map(|_| scope.spawn(work)).collect();
        let mut said = Instant::now();
        while workers.iter().any(|worker| !worker.is_finished()) {
            std::thread::sleep(Duration::from_millis(5));
            if plan.progress.is_some_and(|every| said.elapsed() >= every) {
                said = Instant::now();
                let (accepted, seconds) = (field.accepted.load(Ordering::Relaxed), begin.elapsed().as_secs_f64());
                let (next, findings) = (field.next.load(Ordering::Relaxed), field.report().findings.len());
                let rate = accepted as f64 / seconds;
                println!(
                    "{seconds:>6.0} s: unit {next}, {accepted} programs, {rate:.0} a second, {findings} differences"
                );
            }
        }
    });
    if let Some(why) = failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
        return Err(why);
    }
    let mut report = field.report.into_inner().unwrap_or_else(|e| e.into_inner());
    report.next = field.next.into_inner();
    Ok(report)
}

/// What the threads share.
struct Field<'p> {
    plan: &'p Plan,
    objects: Objects,
    next: AtomicU64,
    accepted: AtomicU64,
    stop: AtomicBool,
    report: Mutex<Report>,
}

impl Field<'_> {
    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn work(&self) -> Result<(), String> {
        let mut engines = Engines::new().map_err(|error| error.to_string())?;
        let mut kernel = if self.plan.kernel_share > 0 { Some(Kernel::new()?) } else { None };
        let mut counts = [Counts::default(); STREAMS.len()];
        while !self.stop.load(Ordering::Relaxed) && self.accepted.load(Ordering::Relaxed) < self.plan.programs {
            let unit = self.next.fetch_add(1, Ordering::Relaxed);
            if unit - self.plan.seed >= self.plan.units {
                break;
            }
            let stream = Stream::of(unit);
            if self.plan.trace {
                eprintln!("unit {unit}");
            }
            let shares = self.plan.kernel_share > 0 && (unit / ROUND).is_multiple_of(self.plan.kernel_share);
            let beside = kernel.as_mut().filter(|_| shares);
            let checked = catch_unwind(AssertUnwindSafe(|| check(&mut engines, &self.objects, unit, stream, beside)));
            match checked {
                Ok(Ok(found)) => {
                    counts[stream as usize] += found;
                    self.accepted.fetch_add(found.accepted, Ordering::Relaxed);
                }
                Ok(Err(what)) => self.found(Finding { unit, stream, what }),
                Err(panic) => {
                    let text = panic.downcast_ref::<String>().cloned();
                    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                    self.found(Finding { unit, stream, what: format!("a panic: {}", text.unwrap_or_default()) });
                    engines = Engines::new().map_err(|error| error.to_string())?;
                }
            }
        }
        let mut report = self.report();
        report.counts.iter_mut().zip(counts).for_each(|(all, counts)| *all += counts);
        report.times.iter_mut().zip(engines.times()).for_each(|(all, time)| *all += time);
        if let Some(kernel) = kernel {
            report.kernel.add(kernel.totals);
        }
        Ok(())
    }

    fn found(&self, finding: Finding) {
        if self.plan.progress.is_some() {
            println!("{finding}");
        }
        let mut report = self.report();
        report.findings.push(finding);
        if report.findings.len() >= self.plan.most {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// One unit.
fn check(
    engines: &mut Engines,
    objects: &Objects,
    unit: u64,
    stream: Stream,
    kernel: Option<&mut Kernel>,
) -> Result<Counts, String> {
    let mut generator = Generator::new(unit.wrapping_mul(0xd6e8_feb8_6659_fd93));
    let Some(suite) = suite(&mut generator, objects, stream) else { return Ok(Counts::default()) };
    engines.check_beside(generator.source(), suite, kernel).map_err(|difference| difference.to_string())
}

fn suite(generator: &mut Generator<'_>, objects: &Objects, stream: Stream) -> Option<Suite> {
    let source = generator.source();
    Some(match stream {
        Stream::Probes => {
            let count = source.between(1, 3);
            Suite::single(probe::together(&(0..count).map(|_| probe::random(source)).collect::<Vec<_>>()))
        }
        Stream::Straight => {
            let len = source.between(5, 60);
            Suite::single(straight::program(source, len))
        }
        Stream::Graphs => counted(graph::suite(source)),
        Stream::Border => {
            let maps = |prog_type| border::maps(prog_type);
            let program = border::program(source, &Border { slips: 4, steps: 6 }, &maps);
            // Millions of passes of a loop are of no use here.
            if may_be_long(&program) {
                return None;
            }
            Suite::single(program)
        }
        Stream::Structured => make(generator, Wrong::default()),
        Stream::Mistakes => make(generator, Wrong { mistakes: 15, damage: false }),
        Stream::Damaged => make(generator, Wrong { mistakes: 0, damage: true }),
        Stream::Objects => from_object(objects.suite(source), source),
        Stream::Files => from_object(objects.damaged(source)?, source),
    })
}

fn counted(mut suite: Suite) -> Suite {
    count::instrument(&mut suite);
    suite
}

/// Programs that tail-call are counted, mostly.
fn from_object(suite: Suite, source: &mut Source<'_>) -> Suite {
    let calls = |program: &Program| program.maps.iter().any(|map| map.map_type == MapType::PROG_ARRAY);
    if suite.programs.iter().any(calls) && source.chance(3, 4) { counted(suite) } else { suite }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_of_all_kinds() {
        assert_eq!(STREAMS.iter().map(|(_, units)| units).sum::<u64>(), ROUND);
        for (index, (stream, units)) in STREAMS.into_iter().enumerate() {
            assert_eq!(stream as usize, index);
            let found = (5 * ROUND..6 * ROUND).filter(|unit| Stream::of(*unit) == stream).count();
            assert_eq!(found as u64, units);
        }
    }

    #[test]
    fn a_unit_is_the_same_whenever_it_is_made() {
        let objects = Objects::of_the_tests().expect("the objects are there");
        for unit in 0..3 * ROUND {
            let make = || suite(&mut Generator::new(unit), &objects, Stream::of(unit));
            assert_eq!(make(), make());
        }
    }
}
