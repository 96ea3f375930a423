//! `stall_*`: what updates cost the program that runs through the slot they change.
//!
//! A runner on one CPU makes batches of 1000 runs, each of one tail call; an updater on another CPU replaces the program in that
//! slot. `stall_asleep` is the runner's time a run while the updater sleeps; the other rows are how many times as long a run takes (as
//! the median of the windows in which it sleeps, in between) while the updater spins (`stall_spin`: what a busy neighbour alone costs), replaces the program
//! (`stall_replace`), or does so asynchronously (`stall_replace_async`: the changes that meet in the runtime's queue are made together,
//! and all are made when the window ends; the kernel has the one way only).
//!
//! The kernel's updater replaces as fast as it can. livebpf's would be faster by far, so it is paced: at the kernel's rate
//! in the same run, and at no less than 18,000 replacements a second, which is also the rate where there is no kernel. Both rates are
//! part of the report.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Session;
use crate::contestant::Contestant;
use crate::error::Error;
use crate::interleave::{Budget, Entrant, Side, interleave};
use crate::place;
use crate::programs::VERSIONS;
use crate::report::{Column, Measured};
use crate::row::{Row, Unit, Wanted};
use crate::sides::{Pair, Runner, Shape, Slots};
use crate::stats::Summary;

/// Replacements a second that there are at least.
const RATE: f64 = 18_000.0;
/// Runs in a batch.
const BATCH: u32 = 1000;
/// How long the runner is watched in one go.
const WINDOW: Duration = Duration::from_millis(50);
const BUDGET: Budget = Budget { time: Duration::from_secs(20), most: 30, least: 3 };

/// What the updater does meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Updater {
    Asleep,
    Spins,
    Replaces,
    ReplacesAsync,
}

const ROWS: [(&str, Updater); 4] = [
    ("stall_asleep", Updater::Asleep),
    ("stall_spin", Updater::Spins),
    ("stall_replace", Updater::Replaces),
    ("stall_replace_async", Updater::ReplacesAsync),
];

pub fn rows() -> Vec<Row> {
    let row = |(name, updater): (&str, Updater)| match updater {
        Updater::Asleep => Row::new(name, Unit::Ns, Vec::new()),
        Updater::Spins => Row::new(name, Unit::Times, Vec::new()),
        Updater::Replaces => Row::new(name, Unit::Times, vec![Wanted::AtMost(1.5)]),
        Updater::ReplacesAsync => Row::new(name, Unit::Times, vec![Wanted::AtMost(1.2)]),
    };
    ROWS.into_iter().map(row).collect()
}

/// Measures the rows that are wanted.
pub fn measure(session: &mut Session<'_>) -> Vec<Measured> {
    let wanted: Vec<(Row, Updater)> =
        rows().into_iter().zip(ROWS.map(|(_, updater)| updater)).filter(|(row, _)| session.wants(&row.name)).collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    (session.progress)("stall: a runner and an updater, side by side");
    let modes: Vec<Updater> = wanted.iter().map(|(_, updater)| *updater).collect();
    let options = session.options;
    let kernel_rate = Rc::new(Cell::new(0.0));
    let entrant = |contestant: Contestant| {
        let side = Stall::new(contestant, session, &modes, kernel_rate.clone());
        // Behind the rows' samples come the updates a second that each of them had, then the undisturbed times.
        Entrant::new(contestant, side.map(|side| Box::new(side) as Box<dyn Side>), 2 * modes.len() + 1)
    };
    // The kernel first: its rate is livebpf's pace.
    let mut entrants: Vec<Entrant<'_>> = session.runtimes().map(entrant).collect();
    entrants.reverse();
    interleave(&mut entrants, &BUDGET.with(options.effort));
    entrants.reverse();
    entrants.iter_mut().for_each(|entrant| slowdowns(&mut entrant.samples, &modes));
    let measured = wanted.into_iter().enumerate().map(|(n, (row, _))| {
        let column = |entrant: &Entrant<'_>| {
            let rate = Summary::of(&entrant.samples[modes.len() + n]).map(|rates| rates.median);
            Column { rate, ..Column::of(entrant, n) }
        };
        Measured { row, columns: entrants.iter().map(column).collect() }
    });
    measured.collect()
}

/// Divides the times of the rows that say how many times longer a run takes by the undisturbed one.
fn slowdowns(samples: &mut [Vec<f64>], modes: &[Updater]) {
    let Some(undisturbed) = samples.last().and_then(|times| Summary::of(times)) else { return };
    for (times, updater) in samples.iter_mut().zip(modes) {
        if *updater != Updater::Asleep {
            times.iter_mut().for_each(|time| *time /= undisturbed.median);
        }
    }
}

struct Stall {
    pair: Pair,
    modes: Vec<Updater>,
    /// Of the runner and of the updater.
    cpus: [usize; 2],
    contestant: Contestant,
    /// The rate that the kernel had last.
    kernel_rate: Rc<Cell<f64>>,
}

impl Stall {
    fn new(
        contestant: Contestant,
        session: &Session<'_>,
        modes: &[Updater],
        kernel_rate: Rc<Cell<f64>>,
    ) -> Result<Stall, Error> {
        let &[runner, updater, ..] = &session.cpus[..] else {
            return Err(Error::Cpus { found: session.cpus.len() });
        };
        let pair = contestant.set_up(session.options.engine, &Shape { slots: 4, sites: 1 })?;
        Ok(Stall { pair, modes: modes.to_vec(), cpus: [runner, updater], contestant, kernel_rate })
    }

    /// Updates a second that the updater is held to.
    fn pace(&self) -> Option<f64> {
        match self.contestant {
            Contestant::Kernel => None,
            _ => Some(self.kernel_rate.get().max(RATE)),
        }
    }

    /// The runner's times, and updates a second, with the updater doing `updater`.
    fn window(&mut self, updater: Updater) -> Result<(Ran, f64), Error> {
        let pace = self.pace();
        let Pair { runner, slots } = &mut self.pair;
        let [runner_cpu, updater_cpu] = self.cpus;
        let (ready, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            let update = || {
                let updates = Updates { slots: &**slots, pace, ready: &ready, stop: &stop };
                place::on(updater_cpu, || updates.run(updater))?
            };
            let updating = scope.spawn(update);
            let over = StopOnDrop(&stop);
            let ran = place::on(runner_cpu, || watch(&mut **runner, &ready, || updating.is_finished()));
            drop(over);
            let rate = updating.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok((ran??, rate))
        })
    }
}

/// Lets the updater end when the runner does, however that ends.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a run took in a window, on average.
struct Ran {
    /// By the contestant's best clock.
    ns: f64,
    /// By the clock on the wall, which no contestant's updates can hide from.
    wall_ns: f64,
}

/// The runner: batch after batch for the time of a window, once the updater is at work.
fn watch(runner: &mut dyn Runner, ready: &AtomicBool, over: impl Fn() -> bool) -> Result<Ran, Error> {
    while !ready.load(Ordering::Relaxed) && !over() {
        std::hint::spin_loop();
    }
    runner.batch(BATCH)?;
    let (start, mut ns, mut wall_ns, mut batches) = (Instant::now(), 0.0, 0.0, 0u32);
    while start.elapsed() < WINDOW {
        let batch = runner.batch(BATCH)?;
        if !VERSIONS.contains(&batch.answer) {
            return Err(Error::Answer {
                found: batch.answer,
                wanted: "the answer of a program that is or was in the slot",
            });
        }
        ns += batch.ns;
        wall_ns += batch.wall_ns;
        batches += 1;
    }
    Ok(Ran { ns: ns / f64::from(batches), wall_ns: wall_ns / f64::from(batches) })
}

/// The updater of one window.
struct Updates<'a> {
    slots: &'a dyn Slots,
    pace: Option<f64>,
    ready: &'a AtomicBool,
    stop: &'a AtomicBool,
}

impl Updates<'_> {
    /// Does `what` until it is told to stop; answers the updates a second.
    fn run(&self, what: Updater) -> Result<f64, Error> {
        self.ready.store(true, Ordering::Relaxed);
        let (start, mut updates, mut last) = (Instant::now(), 0u32, None);
        while !self.stop.load(Ordering::Relaxed) {
            match what {
                Updater::Asleep => thread::sleep(Duration::from_millis(1)),
                Updater::Replaces | Updater::ReplacesAsync if self.is_due(start, updates) => {
                    updates += 1;
                    let version = updates as usize % 2;
                    match what {
                        Updater::ReplacesAsync => last = self.slots.set_async(0, version)?,
                        _ => self.slots.set(0, version)?,
                    }
                }
                Updater::Spins | Updater::Replaces | Updater::ReplacesAsync => std::hint::spin_loop(),
            }
        }
        // Those of one slot are made in the order in which they were asked for.
        last.map_or(Ok(()), |completion| completion.wait())?;
        Ok(f64::from(updates) / start.elapsed().as_secs_f64())
    }

    /// Whether the next update's time has come.
    fn is_due(&self, start: Instant, updates: u32) -> bool {
        self.pace.is_none_or(|pace| start.elapsed().as_secs_f64() * pace >= f64::from(updates))
    }
}

impl Side for Stall {
    fn round(&mut self, samples: &mut [Vec<f64>]) -> Result<(), Error> {
        let (asleep, _) = self.window(Updater::Asleep)?;
        samples[2 * self.modes.len()].push(asleep.wall_ns);
        for n in 0..self.modes.len() {
            let updater = self.modes[n];
            if updater == Updater::Asleep {
                samples[n].push(asleep.ns);
                continue;
            }
            let (ran, rate) = self.window(updater)?;
            samples[n].push(ran.wall_ns);
            if matches!(updater, Updater::Replaces | Updater::ReplacesAsync) {
                samples[self.modes.len() + n].push(rate);
                if self.contestant == Contestant::Kernel {
                    self.kernel_rate.set(rate);
                }
            }
        }
        self.pair.slots.settle()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slowdowns_are_multiples_of_the_undisturbed_median() {
        let modes = [Updater::Asleep, Updater::Replaces];
        let rates = [vec![], vec![18_000.0]];
        let mut samples = vec![vec![9.0], vec![12.0, 15.0], rates[0].clone(), rates[1].clone(), vec![30.0, 9.0, 10.0]];
        slowdowns(&mut samples, &modes);
        assert_eq!(samples[..2], [vec![9.0], vec![1.2, 1.5]]);
        assert_eq!(samples[2..4], rates, "rates stay what they are");
        let mut none = vec![Vec::new(); 3];
        slowdowns(&mut none, &modes[..1]);
        assert_eq!(none, vec![Vec::<f64>::new(); 3]);
    }
}
