//! Rows that are the time of something inside a program: `run_*`, `tail_call_*`, `empty_slot_*`, `subprogram_*`, `helper_*`, lookups
//! and updates of maps, sums.
//!
//! A round of a contestant is a batch of runs of the program, and a batch of runs of what surrounds the measured thing (an empty program, a loop
//! without it), each long enough for the clock. Both are a column of samples; the figure is the difference of their minima, of
//! their medians, over how often the measured thing is in a run. Whatever was run is checked for its answer, every batch.

use std::time::Duration;

use crate::Session;
use crate::contestant::Contestant;
use crate::error::Error;
use crate::interleave::{Budget, Entrant, Side, interleave};
use crate::place;
use crate::report::{Column, Measured};
use crate::row::{Row, Unit};
use crate::sides::Runner;
use crate::stats::Summary;
use crate::work::{Item, Task, Work};
use crate::{call, compute, helpers, maps, run, tail_call};

const BUDGET: Budget = Budget { time: Duration::from_millis(400), most: 100, least: 3 };
/// A batch lasts about this long.
const BATCH_NS: f64 = 1e6;
/// Most runs in a batch.
const MOST_RUNS: f64 = 1e6;

fn items() -> Vec<Item> {
    let mut items = run::items();
    items.extend(tail_call::items());
    items.extend(call::items());
    items.extend(helpers::items());
    items.extend(maps::items());
    items.extend(compute::items());
    items
}

pub fn rows() -> Vec<Row> {
    items().into_iter().map(|item| Row::new(item.name, Unit::Ns, item.wanted)).collect()
}

/// Measures the rows that are wanted.
pub fn measure(session: &mut Session<'_>) -> Vec<Measured> {
    let wanted: Vec<Item> = items().into_iter().filter(|item| session.wants(&item.name)).collect();
    wanted.into_iter().map(|item| one(session, item)).collect()
}

fn one(session: &mut Session<'_>, item: Item) -> Measured {
    (session.progress)(&item.name);
    let task = (item.task)();
    let options = session.options;
    let entrant = |contestant: Contestant| {
        let side = Timed::new(&task, |work| contestant.prepare(options.engine, work));
        // The samples of the whole, then of what surrounds it.
        Entrant::new(contestant, side.map(|side| Box::new(side) as Box<dyn Side>), 2)
    };
    let mut entrants: Vec<Entrant<'_>> = session.contestants().map(entrant).collect();
    place::on_second(&session.cpus, || interleave(&mut entrants, &BUDGET.with(options.effort)));
    let columns = entrants.iter().map(|entrant| column(entrant, task.per)).collect();
    Measured { row: Row::new(item.name, Unit::Ns, item.wanted), columns }
}

/// The whole without what surrounds it.
fn column(entrant: &Entrant<'_>, per: f64) -> Column {
    let mut column = Column::of(entrant, 0);
    if let Ok(whole) = &mut column.result {
        let base = Summary::of(&entrant.samples[1]);
        *whole = base.map_or(*whole, |base| whole.less(base)).divided(per);
    }
    column
}

/// A contestant in a row.
struct Timed {
    work: Batches,
    base: Option<Batches>,
}

impl Timed {
    fn new(task: &Task, prepare: impl Fn(&Work) -> Result<Box<dyn Runner>, Error>) -> Result<Timed, Error> {
        let batches = |work| Batches::new(work, &prepare);
        Ok(Timed { work: batches(&task.work)?, base: task.base.as_ref().map(batches).transpose()? })
    }
}

impl Side for Timed {
    fn round(&mut self, samples: &mut [Vec<f64>]) -> Result<(), Error> {
        samples[0].push(self.work.time()?);
        if let Some(base) = &mut self.base {
            samples[1].push(base.time()?);
        }
        Ok(())
    }
}

/// A program that is run batch by batch.
pub struct Batches {
    runner: Box<dyn Runner>,
    answer: u32,
    /// In a batch, once that is known.
    runs: Option<u32>,
}

impl Batches {
    pub fn new(work: &Work, prepare: impl Fn(&Work) -> Result<Box<dyn Runner>, Error>) -> Result<Batches, Error> {
        Ok(Batches { runner: prepare(work)?, answer: work.answer, runs: None })
    }

    /// Nanoseconds a run, in a batch that is long enough.
    pub fn time(&mut self) -> Result<f64, Error> {
        let runs = match self.runs {
            Some(runs) => runs,
            None => self.calibrate()?,
        };
        self.batch(runs)
    }

    fn batch(&mut self, runs: u32) -> Result<f64, Error> {
        let batch = self.runner.batch(runs)?;
        if batch.answer != self.answer {
            return Err(Error::R0 { found: batch.answer, wanted: self.answer });
        }
        Ok(batch.ns)
    }

    /// How many runs make a batch: found with growing ones, by the clock on the wall.
    fn calibrate(&mut self) -> Result<u32, Error> {
        self.batch(1)?;
        let mut runs = 16.0;
        loop {
            let took = self.runner.batch(runs as u32)?.wall_ns * runs;
            if took >= BATCH_NS / 4.0 || runs >= MOST_RUNS {
                let most = self.runner.most().map_or(MOST_RUNS, f64::from);
                let enough = (runs * BATCH_NS / took.max(1.0)).clamp(1.0, MOST_RUNS.min(most)) as u32;
                self.runs = Some(enough);
                return Ok(enough);
            }
            runs *= 4.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use livebpf::runtime::Engine;

    /// What is wrong in one batch of `runs` runs of each program of a row.
    fn wrong(contestant: Contestant, engine: Engine, item: &Item, runs: u32) -> Option<String> {
        let task = (item.task)();
        let mut side = match Timed::new(&task, |work| contestant.prepare(engine, work)) {
            Ok(side) => side,
            Err(Error::Lacks(_)) if contestant != Contestant::Livebpf => return None,
            Err(error) => return Some(format!("{}: {error}", item.name)),
        };
        let mut batches = std::iter::once(&mut side.work).chain(side.base.as_mut());
        batches.find_map(|batches| batches.batch(runs).err()).map(|error| format!("{}: {error}", item.name))
    }

    #[test]
    fn every_row_answers_what_it_is_meant_to_in_every_engine() {
        for engine in [Engine::Jit, Engine::Interp] {
            let wrong: Vec<String> =
                items().iter().filter_map(|item| wrong(Contestant::Livebpf, engine, item, 2)).collect();
            assert!(wrong.is_empty(), "{engine}: {wrong:#?}");
        }
    }

    #[test]
    fn and_in_the_machines_of_others() {
        for (contestant, rows) in
            [(Contestant::Rbpf, 12), (Contestant::Sbpf, 12), (Contestant::Replay2020, 15), (Contestant::Replay618, 15)]
        {
            let wrong: Vec<String> =
                items().iter().filter_map(|item| wrong(contestant, Engine::Jit, item, 2)).collect();
            assert!(wrong.is_empty(), "{}: {wrong:#?}", contestant.name());
            let there = |item: &&Item| {
                let work = (item.task)().work;
                contestant.prepare(Engine::Jit, &work).is_ok()
            };
            assert_eq!(items().iter().filter(there).count(), rows, "{}", contestant.name());
        }
    }

    #[test]
    fn and_in_c() {
        if let Err(error) = crate::native::prepare(&run::empty()) {
            eprintln!("skipped: {error}");
            return;
        }
        let wrong: Vec<String> =
            items().iter().filter_map(|item| wrong(Contestant::Native, Engine::Jit, item, 2)).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn and_in_the_kernel() {
        if let Err(error) = livebpf_kernel_bpf::probe() {
            eprintln!("skipped: {error}");
            return;
        }
        let wrong: Vec<String> =
            items().iter().filter_map(|item| wrong(Contestant::Kernel, Engine::Jit, item, 2)).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
