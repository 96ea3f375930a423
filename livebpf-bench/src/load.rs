//! `load_{1k,10k,60k,1m}`: how long loading a program takes, for each of its instructions: verification, compilation, and the code in
//! its place, ready to run. The programs have no branches, so that every instruction is verified once.
//!
//! `load_OBJECT/PROGRAM` and `processed_OBJECT/PROGRAM`: the same of a program from an object file, all of it, and how many instructions
//! the verifier processed. Its maps are made before the clock starts. What a contestant frees when a program goes is not in the figures.

use std::time::{Duration, Instant};

use livebpf::link::Program as Linked;
use livebpf::object::MapDef;
use livebpf::runtime::{Engine, LoadOptions, Runtime};
use livebpf::verify;
use livebpf_kernel_bpf::{Loadable, Map, probe};

use crate::Session;
use crate::contestant::{Contestant, NO_RUNTIME};
use crate::error::Error;
use crate::interleave::{Budget, Entrant, Side, interleave};
use crate::place;
use crate::programs;
use crate::report::{Column, Measured};
use crate::row::{Row, Unit, Wanted};
use crate::subject::Subject;

const STRAIGHT: [(&str, u32); 4] =
    [("load_1k", 1000), ("load_10k", 10_000), ("load_60k", 60_000), ("load_1m", 1_000_000)];
const BUDGET: Budget = Budget { time: Duration::from_secs(2), most: 200, least: 3 };

pub fn rows() -> Vec<Row> {
    let wanted = |name| match name {
        "load_10k" => vec![Wanted::Of(Contestant::Kernel, 0.3)],
        "load_1m" => vec![Wanted::OfRow("load_10k".to_owned(), 1.5)],
        _ => Vec::new(),
    };
    STRAIGHT.map(|(name, _)| Row::new(name, Unit::Ns, wanted(name))).into()
}

/// Measures the rows that are wanted.
pub fn measure(session: &mut Session<'_>) -> Vec<Measured> {
    let mut measured = Vec::new();
    for (row, (name, insns)) in rows().into_iter().zip(STRAIGHT) {
        if session.wants(name) {
            measured.extend(subject(session, vec![row], &programs::straight(insns), f64::from(insns)));
        }
    }
    let options = session.options;
    for Subject { name, program } in &options.objects {
        let Ok(program) = program else { continue };
        let rows: Vec<Row> = of_subject(name).into_iter().filter(|row| session.wants(&row.name)).collect();
        if !rows.is_empty() {
            measured.extend(subject(session, rows, program, 1e3));
        }
    }
    measured
}

/// The rows of a user's program.
pub fn of_subject(name: &str) -> [Row; 2] {
    let kernel = |factor| vec![Wanted::Of(Contestant::Kernel, factor)];
    [
        Row::new(format!("load_{name}"), Unit::Us, kernel(0.3)),
        Row::new(format!("processed_{name}"), Unit::Insns, kernel(1.5)),
    ]
}

/// Loads of one program by all contestants. Times are in nanoseconds over `divisor`.
fn subject(session: &mut Session<'_>, rows: Vec<Row>, program: &Linked, divisor: f64) -> Vec<Measured> {
    let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    (session.progress)(&names.join(" and "));
    let options = session.options;
    let entrant = |contestant: Contestant| {
        let loader = match contestant {
            Contestant::Livebpf => Live::new(options.engine, program).map(|live| Box::new(live) as Box<dyn Loader>),
            Contestant::Kernel => Kernel::new(program).map(|kernel| Box::new(kernel) as Box<dyn Loader>),
            _ => Err(NO_RUNTIME),
        };
        let side = loader.map(|loader| Box::new(Loads { loader, rows: &rows, divisor }) as Box<dyn Side + '_>);
        Entrant::new(contestant, side, rows.len())
    };
    let mut entrants: Vec<Entrant<'_>> = session.runtimes().map(entrant).collect();
    place::on_second(&session.cpus, || interleave(&mut entrants, &BUDGET.with(options.effort)));
    let columns = |n: usize| entrants.iter().map(|entrant| Column::of(entrant, n)).collect();
    rows.iter().enumerate().map(|(n, row)| Measured { row: row.clone(), columns: columns(n) }).collect()
}

/// A contestant that loads the same program again and again.
trait Loader {
    /// Loads it, and lets it go after the clock was stopped.
    fn load(&mut self) -> Result<Duration, Error>;
    /// Instructions processed by the verifier.
    fn processed(&mut self) -> Result<u64, Error>;
}

struct Loads<'a> {
    loader: Box<dyn Loader>,
    rows: &'a [Row],
    divisor: f64,
}

impl Side for Loads<'_> {
    fn round(&mut self, samples: &mut [Vec<f64>]) -> Result<(), Error> {
        for (row, samples) in self.rows.iter().zip(samples) {
            if row.unit == Unit::Insns {
                // The same every time.
                let again = samples.first().copied();
                samples.push(again.map_or_else(|| self.loader.processed().map(|n| n as f64), Ok)?);
            } else {
                samples.push(self.loader.load()?.as_nanos() as f64 / self.divisor);
            }
        }
        Ok(())
    }
}

struct Live {
    runtime: Runtime,
    options: LoadOptions,
    program: Linked,
}

impl Live {
    fn new(engine: Engine, program: &Linked) -> Result<Live, Error> {
        let runtime = Runtime::builder().engine(engine).build()?;
        let first = runtime.load_linked(vec![program.clone()])?;
        let options = first.maps().fold(LoadOptions::default(), |options, map| options.reuse_map(map.name(), map));
        Ok(Live { runtime, options, program: program.clone() })
    }
}

impl Loader for Live {
    fn load(&mut self) -> Result<Duration, Error> {
        let program = vec![self.program.clone()];
        let start = Instant::now();
        let loaded = self.runtime.load_linked_with(program, &self.options)?;
        let took = start.elapsed();
        drop(loaded);
        self.runtime.barrier()?;
        Ok(took)
    }

    fn processed(&mut self) -> Result<u64, Error> {
        let table = livebpf::helper::Table::builtin();
        let verified = verify::verify(self.program.clone(), &verify::Options::new(&table));
        Ok(verified.map_err(|_| Error::Lacks("the verifier refuses it"))?.facts().processed)
    }
}

struct Kernel {
    program: Loadable,
    /// Held for the program, which knows them by their descriptors.
    _maps: Vec<Map>,
}

impl Kernel {
    fn new(program: &Linked) -> Result<Kernel, Error> {
        probe()?;
        let create = |def: &std::sync::Arc<MapDef>| Map::create(def);
        let maps: Vec<Map> = program.maps.iter().map(create).collect::<Result<_, _>>()?;
        let program = Loadable::new(program, &maps.iter().collect::<Vec<_>>())?;
        Ok(Kernel { program, _maps: maps })
    }
}

impl Loader for Kernel {
    fn load(&mut self) -> Result<Duration, Error> {
        let start = Instant::now();
        let loaded = self.program.load()?;
        let took = start.elapsed();
        drop(loaded);
        Ok(took)
    }

    fn processed(&mut self) -> Result<u64, Error> {
        Ok(self.program.load()?.verified_insns()?.into())
    }
}
