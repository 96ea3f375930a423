//! `tail_call_slope`: whether every hop of a chain costs the same; `scaling_2_threads`: whether two threads run as fast as each would alone.
//!
//! *Slope*: what a hop costs from 16 to 33 hops over what it costs from 2 to 16, or the other way round where that is more: 1 is a
//! straight line. Every round times chains of all three lengths; rounds in which a longer one took less time were disturbed, and do
//! not count.
//!
//! *Threads*: how many times as long a run takes while another thread, on another CPU, runs a chain of its own, of the same runtime: 1 is
//! twice the throughput of one thread. Beside it the same of a native loop, which shares what the CPUs share, and nothing else.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::Session;
use crate::contestant::Contestant;
use crate::error::Error;
use crate::interleave::{Budget, Entrant, Side, interleave};
use crate::report::{Column, Measured};
use crate::row::{Row, Unit, Wanted};
use crate::sides::Runner;
use crate::tail_call::{self, LIMIT, Way};
use crate::timed::Batches;
use crate::{live, native, place, run};

const SLOPE: &str = "tail_call_slope";
const THREADS: &str = "scaling_2_threads";
const SLOPE_BUDGET: Budget = Budget { time: Duration::from_secs(1), most: 30, least: 3 };
const THREADS_BUDGET: Budget = Budget { time: Duration::from_secs(3), most: 30, least: 3 };
/// Lengths of the chains.
const HOPS: [u32; 3] = [2, 16, LIMIT];
/// How long threads are watched.
const WINDOW: Duration = Duration::from_millis(10);
/// Runs between two looks at the clock.
const BATCH: u32 = 200;
/// Most of a native loop's figure: two threads reach 95 % of its scaling.
const MOST: f64 = 1.052;
/// Batches of a chain in a round, of which the fastest counts.
const TRIES: usize = 5;

pub fn rows() -> Vec<Row> {
    vec![
        Row::new(SLOPE, Unit::Times, vec![Wanted::AtMost(1.25)]),
        Row::new(THREADS, Unit::Times, vec![Wanted::Of(Contestant::Native, MOST)]),
    ]
}

/// Measures the rows that are wanted.
pub fn measure(session: &mut Session<'_>) -> Vec<Measured> {
    let wanted: Vec<Row> = rows().into_iter().filter(|row| session.wants(&row.name)).collect();
    wanted.into_iter().map(|row| one(session, row)).collect()
}

fn one(session: &mut Session<'_>, row: Row) -> Measured {
    (session.progress)(&row.name);
    let effort = session.options.effort;
    let side = |contestant| match row.name.as_str() {
        SLOPE => slope(session, contestant),
        _ => threads(session, contestant),
    };
    let mut entrants: Vec<Entrant<'_>> =
        session.contestants().map(|contestant| Entrant::new(contestant, side(contestant), 1)).collect();
    match row.name.as_str() {
        SLOPE => place::on_second(&session.cpus, || interleave(&mut entrants, &SLOPE_BUDGET.with(effort))),
        _ => interleave(&mut entrants, &THREADS_BUDGET.with(effort)),
    }
    Measured { row, columns: entrants.iter().map(|entrant| Column::of(entrant, 0)).collect() }
}

fn slope(session: &Session<'_>, contestant: Contestant) -> Result<Box<dyn Side>, Error> {
    let engine = session.options.engine;
    let chain = |hops| {
        let work = tail_call::hops(Way::Direct, hops).work;
        Batches::new(&work, |work| contestant.prepare(engine, work))
    };
    let [short, middle, long] = HOPS.map(chain);
    Ok(Box::new(Slope { chains: [short?, middle?, long?] }))
}

struct Slope {
    chains: [Batches; 3],
}

impl Side for Slope {
    fn round(&mut self, samples: &mut [Vec<f64>]) -> Result<(), Error> {
        let mut times = [f64::INFINITY; 3];
        for _ in 0..TRIES {
            for (time, chain) in times.iter_mut().zip(&mut self.chains) {
                *time = time.min(chain.time()?);
            }
        }
        let per_hop = |from: usize, to: usize| (times[to] - times[from]) / f64::from(HOPS[to] - HOPS[from]);
        let ratio = per_hop(1, 2) / per_hop(0, 1);
        if times.is_sorted() && ratio > 0.0 && ratio.is_finite() {
            samples[0].push(ratio.max(1.0 / ratio));
        }
        Ok(())
    }
}

/// A runner that a thread takes with it.
type Movable = Box<dyn Runner + Send>;

fn threads(session: &Session<'_>, contestant: Contestant) -> Result<Box<dyn Side>, Error> {
    let &[first, second, ..] = &session.cpus[..] else {
        return Err(Error::Cpus { found: session.cpus.len() });
    };
    let runners: [Movable; 2] = match contestant {
        Contestant::Livebpf => live::chains(session.options.engine)?,
        Contestant::Native => {
            let looped =
                || native::function(&run::empty().native("call_loop")).map(|looped| Box::new(looped) as Movable);
            [looped()?, looped()?]
        }
        _ => return Err(Error::Lacks("two threads are livebpf's and a native loop's")),
    };
    Ok(Box::new(Threads { runners, cpus: [first, second] }))
}

struct Threads {
    runners: [Movable; 2],
    cpus: [usize; 2],
}

impl Side for Threads {
    fn round(&mut self, samples: &mut [Vec<f64>]) -> Result<(), Error> {
        let [first, second] = &mut self.runners;
        let alone = beside([(&mut *first, self.cpus[0])])?[0] + beside([(&mut *second, self.cpus[1])])?[0];
        let [here, there] = beside([(first, self.cpus[0]), (second, self.cpus[1])])?;
        samples[0].push(alone / (here + there));
        Ok(())
    }
}

/// Runs a nanosecond of each, all at the same time, each by a thread of its own on its CPU.
fn beside<const N: usize>(runners: [(&mut Movable, usize); N]) -> Result<[f64; N], Error> {
    let start = &Barrier::new(N);
    thread::scope(|scope| {
        let threads = runners.map(|(runner, cpu)| scope.spawn(move || watch(runner, cpu, start)));
        let mut rates = [0.0; N];
        for (rate, thread) in rates.iter_mut().zip(threads) {
            *rate = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(rates)
    })
}

/// Runs a nanosecond, on `cpu`, during a window that begins for all at once.
fn watch(runner: &mut Movable, cpu: usize, start: &Barrier) -> Result<f64, Error> {
    place::on(cpu, || {
        let warm = window(runner);
        start.wait();
        warm?;
        window(runner)
    })
    .unwrap_or_else(|error| {
        // Nobody is to wait for who could not be placed.
        start.wait();
        Err(error)
    })
}

fn window(runner: &mut Movable) -> Result<f64, Error> {
    let (start, mut runs) = (Instant::now(), 0.0);
    while start.elapsed() < WINDOW {
        runner.batch(BATCH)?;
        runs += f64::from(BATCH);
    }
    Ok(runs / start.elapsed().as_nanos() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interleave::Effort;
    use livebpf::runtime::Engine;

    #[test]
    fn both_are_measured_where_there_are_two_cpus() {
        let options = crate::Options {
            rows: rows(),
            objects: Vec::new(),
            against: Vec::new(),
            engine: Engine::Jit,
            effort: Effort { quick: true, rounds: Some(1) },
        };
        let cpus = livebpf_kernel_bpf::cpu::allowed();
        let two = cpus.len() >= 2;
        let mut session = Session { options: &options, cpus, progress: &mut |_| {} };
        let found: Vec<bool> = measure(&mut session).iter().map(|m| m.median(Contestant::Livebpf).is_some()).collect();
        assert_eq!(found, [true, two]);
    }
}
