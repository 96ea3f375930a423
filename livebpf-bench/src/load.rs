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
use crate::lengths::{self, Once};
use crate::place;
use crate::report::{Column, Measured};
use crate::row::{Row, Unit, Wanted};
use crate::subject::Subject;

const BUDGET: Budget = Budget { time: Duration::from_secs(2), most: 200, least: 3 };

pub fn rows() -> Vec<Row> {
    lengths::rows("load", Wanted::Of(Contestant::Kernel, 0.3))
}

/// Measures the rows that are wanted.
pub fn measure(session: &mut Session<'_>) -> Vec<Measured> {
    let (runtimes, engine) = (session.runtimes(), session.options.engine);
    let mut measured = lengths::measure(session, rows(), runtimes, |contestant, program| {
        let mut loader = loader(contestant, engine, program)?;
        Ok(Box::new(move || loader.load()) as Once<'_>)
    });
    let options = session.options;
    for Subject { name, program } in &options.objects {
        let Ok(program) = program else { continue };
        let rows: Vec<Row> = of_subject(name).into_iter().filter(|row| session.wants(&row.name)).collect();
        if !rows.is_empty() {
            measured.extend(subject(session, rows, program));
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

/// Loads of one program by all contestants.
fn subject(session: &mut Session<'_>, rows: Vec<Row>, program: &Linked) -> Vec<Measured> {
    let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    (session.progress)(&names.join(" and "));
    let options = session.options;
    let entrant = |contestant: Contestant| {
        let loader = loader(contestant, options.engine, program);
        let side = loader.map(|loader| Box::new(Loads { loader, rows: &rows }) as Box<dyn Side + '_>);
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

fn loader(contestant: Contestant, engine: Engine, program: &Linked) -> Result<Box<dyn Loader>, Error> {
    match contestant {
        Contestant::Livebpf => Ok(Box::new(Live::new(engine, program)?)),
        Contestant::Kernel => Ok(Box::new(Kernel::new(program)?)),
        _ => Err(NO_RUNTIME),
    }
}

struct Loads<'a> {
    loader: Box<dyn Loader>,
    rows: &'a [Row],
}

impl Side for Loads<'_> {
    fn round(&mut self, samples: &mut [Vec<f64>]) -> Result<(), Error> {
        for (row, samples) in self.rows.iter().zip(samples) {
            if row.unit == Unit::Insns {
                // The same every time.
                let again = samples.first().copied();
                samples.push(again.map_or_else(|| self.loader.processed().map(|n| n as f64), Ok)?);
            } else {
                samples.push(self.loader.load()?.as_nanos() as f64 / 1e3);
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
