//! A campaign: as many programs near the border ([`border`](crate::border)) as one likes, all that the verifier accepts run on
//! inputs that are made for them, with everything that the verifier said held against what happens.
//!
//! What is wrong, and so a [`Finding`]:
//!
//! * an accepted program that faults in the checking interpreter, or runs longer than [`BUDGET`];
//! * a register that holds what no state that was explored at its instruction allows (bounds, bits, copies that are equal,
//!   pointers and their offsets); a fact that is false; a stack deeper than it is said to be ([`livebpf::verify::claims`]);
//! * machine code that leaves anything else behind than the interpreter;
//! * a program that this verifier accepts and the kernel refuses for safety ([`kernel`]);
//! * a panic.
//!
//! Everything follows from a seed.

mod field;
mod inputs;
pub mod kernel;
pub(crate) mod shrink;
#[cfg(test)]
mod tests;
mod unit;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use livebpf::link::Program;

pub use field::{BUDGET, Field};

use crate::border::Border;
use unit::Unit;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Programs, made or changed.
    pub programs: u64,
    /// Where to begin.
    pub seed: u64,
    /// Threads.
    pub threads: u32,
    /// Inputs per accepted program.
    pub inputs: u32,
    /// One accepted program of so many is verified once more with every number counting, and all its numbers are compared.
    pub second_share: u64,
    /// Instructions that the verifier may look at; what takes more counts as refused.
    pub limit: u64,
    /// One program of so many goes to the kernel as well; 0: none.
    pub kernel_share: u64,
    /// Findings after which it ends.
    pub most_findings: usize,
    /// How programs are made.
    pub border: Border,
    /// How often it says how far it is.
    pub progress: Option<Duration>,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            programs: 10_000,
            seed: 1,
            threads: 1,
            inputs: 4,
            second_share: 1,
            limit: 1_000_000,
            kernel_share: 0,
            most_findings: 10,
            border: Border::default(),
            progress: None,
        }
    }
}

/// What became of the programs.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Programs made by the generator.
    pub generated: u64,
    /// Programs made by changing an accepted one.
    pub changed: u64,
    /// Of both: accepted.
    pub accepted: u64,
    /// Of those changed: accepted.
    pub changed_accepted: u64,
    /// Accepted programs that were verified once more with every number counting, and whose numbers were all compared.
    pub every_number: u64,
    /// Runs in the interpreter, and as many of machine code.
    pub runs: u64,
    /// Programs that can see an address or a clock: run, R0 and maps not compared.
    pub incomparable: u64,
    /// Programs whose loops were left after many passes: a helper, an iterator or `may_goto` ends them much later.
    pub long: u64,
    /// Refusals by rule and message, numbers removed.
    pub refused: BTreeMap<String, u64>,
    /// Verdicts beside the kernel's.
    pub kernel: kernel::Verdicts,
}

impl Counts {
    /// Programs that were verified.
    pub fn programs(&self) -> u64 {
        self.generated + self.changed
    }

    fn add(&mut self, other: Counts) {
        self.generated += other.generated;
        self.changed += other.changed;
        self.accepted += other.accepted;
        self.changed_accepted += other.changed_accepted;
        self.every_number += other.every_number;
        self.runs += other.runs;
        self.incomparable += other.incomparable;
        self.long += other.long;
        for (message, count) in other.refused {
            *self.refused.entry(message).or_default() += count;
        }
        self.kernel.add(other.kernel);
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |n: u64, of: u64| n as f64 * 100.0 / of.max(1) as f64;
        writeln!(
            f,
            "programs {} (generated {}, changed {}), accepted {} ({:.1} %; of the changed ones {:.1} %)",
            self.programs(),
            self.generated,
            self.changed,
            self.accepted,
            share(self.accepted, self.programs()),
            share(self.changed_accepted, self.changed),
        )?;
        writeln!(
            f,
            "runs {} in each engine, of programs with every number compared {}, not comparable {}, left before their end {}",
            self.runs, self.every_number, self.incomparable, self.long
        )?;
        let mut refused: Vec<_> = self.refused.iter().collect();
        refused.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (message, count) in refused.into_iter().take(40) {
            writeln!(f, "  refused {count:>9}  {message}")?;
        }
        self.kernel.fmt(f)
    }
}

/// Something that must not be.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The unit's number: with it alone as the seed of a plan of one unit the finding returns.
    pub unit: u64,
    /// What is wrong.
    pub what: String,
    /// The program as it was.
    pub program: Program,
    /// The smallest program found that shows it.
    pub small: Program,
    /// What is wrong with that.
    pub small_what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "FINDING in unit {} (type {}): {}", self.unit, self.program.kind.prog_type, self.what)?;
        let shape: Vec<String> =
            self.small.subprogs.iter().map(|s| format!("{} from {} global {}", s.name, s.start, s.global)).collect();
        writeln!(f, "smallest ({}): {}\n{}", shape.join(", "), self.small_what, self.small.insns)?;
        if self.small.insns.len() > 60 {
            writeln!(f, "(not made small)")?;
        }
        Ok(())
    }
}

/// Does it. The findings come in no order where there are several threads.
///
/// # Errors
/// Where the system refuses executable memory, or the kernel is asked for and refuses.
pub fn run(plan: &Plan) -> Result<(Counts, Vec<Finding>), String> {
    let next = AtomicU64::new(plan.seed);
    let done = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let all = Mutex::new((Counts::default(), Vec::<Finding>::new()));
    let begin = Instant::now();
    let failed: Mutex<Option<String>> = Mutex::new(None);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..plan.threads.max(1))
            .map(|_| {
                scope.spawn(|| {
                    let ended = work(plan, &next, &done, &stop, &all);
                    if let Err(why) = ended {
                        stop.store(true, Ordering::Relaxed);
                        *failed.lock().unwrap_or_else(|e| e.into_inner()) = Some(why);
                    }
                })
            })
            .collect();
        let mut said = Instant::now();
        while workers.iter().any(|worker| !worker.is_finished()) {
            std::thread::sleep(Duration::from_millis(20));
            if let Some(every) = plan.progress.filter(|every| said.elapsed() >= *every) {
                said = Instant::now();
                let (count, seconds) = (done.load(Ordering::Relaxed), begin.elapsed().as_secs_f64());
                let (counts, findings) = &*all.lock().unwrap_or_else(|e| e.into_inner());
                let share = counts.accepted as f64 * 100.0 / counts.programs().max(1) as f64;
                let _ = every;
                println!(
                    "{seconds:>6.0} s: {count} programs, {:.0} a second, {share:.1} % accepted, {} findings",
                    count as f64 / seconds,
                    findings.len()
                );
            }
        }
    });
    if let Some(why) = failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
        return Err(why);
    }
    Ok(all.into_inner().unwrap_or_else(|e| e.into_inner()))
}

/// Units between two looks at what others found.
const UNITS: u32 = 64;

fn work(
    plan: &Plan,
    next: &AtomicU64,
    done: &AtomicU64,
    stop: &AtomicBool,
    all: &Mutex<(Counts, Vec<Finding>)>,
) -> Result<(), String> {
    let mut field = Field::new(plan)?;
    while !stop.load(Ordering::Relaxed) && done.load(Ordering::Relaxed) < plan.programs {
        let mut counts = Counts::default();
        let mut findings = Vec::new();
        for _ in 0..UNITS {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let before = counts.programs();
            let unit = Unit { number, border: &plan.border };
            findings.extend(unit.check(&mut field, &mut counts));
            let made = counts.programs() - before;
            if done.fetch_add(made, Ordering::Relaxed) + made >= plan.programs {
                break;
            }
        }
        let mut all = all.lock().unwrap_or_else(|e| e.into_inner());
        all.0.add(counts);
        for finding in &findings {
            if plan.progress.is_some() {
                println!("{finding}");
            }
        }
        all.1.extend(findings);
        if all.1.len() >= plan.most_findings {
            stop.store(true, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// A message without its numbers, so that messages of one kind are counted together.
pub(crate) fn kind_of(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let mut out = String::with_capacity(line.len());
    let mut digits = false;
    for c in line.chars() {
        let hex = c.is_ascii_digit() || digits && c.is_ascii_hexdigit() && !c.is_ascii_uppercase();
        if hex || c == 'x' && digits {
            if !digits {
                out.push('#');
            }
            digits = true;
        } else {
            digits = false;
            out.push(c);
        }
    }
    out
}

/// What threads share of the maps.
pub(crate) type Maps = Vec<Arc<livebpf::object::MapDef>>;
