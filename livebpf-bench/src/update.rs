//! `update_{insert,replace,delete}_{1,10,100,1000}`: how long one update of a slot takes, by the number of direct tail calls that go
//! through it, in one program. Nothing runs meanwhile.
//!
//! Updates follow each other without a pause. The kernel's are all done when they return; what livebpf leaves to its
//! reclaimer (closed sites, replaced programs) then meets the next update, so it is in the figures where it delays that.

use std::time::{Duration, Instant};

use crate::Session;
use crate::contestant::Contestant;
use crate::error::Error;
use crate::interleave::{Budget, Entrant, Side, interleave};
use crate::place;
use crate::report::{Column, Measured};
use crate::row::{Row, Unit, Wanted};
use crate::sides::{Pair, Shape};

/// Sites in the one program.
const SITES: [u32; 4] = [1, 10, 100, 1000];
/// The kernel needs 10 s to delete through 1000 sites.
const BUDGET: Budget = Budget { time: Duration::from_secs(3), most: 1000, least: 2 };

/// What is done to the slot; the order of reports.
const KINDS: [&str; 3] = ["insert", "replace", "delete"];

fn name(kind: &str, sites: u32) -> String {
    format!("update_{kind}_{sites}")
}

pub fn rows() -> Vec<Row> {
    let row = |sites: u32, kind: &str| {
        let kernel = |factor| Wanted::Of(Contestant::Kernel, factor);
        let wanted = match sites {
            1 => vec![kernel(0.5)],
            100 => vec![kernel(0.02)],
            1000 => vec![kernel(0.005), Wanted::OfRow(name(kind, 1), 3.0)],
            _ => Vec::new(),
        };
        Row::new(name(kind, sites), Unit::Us, wanted)
    };
    SITES.into_iter().flat_map(|sites| KINDS.map(|kind| row(sites, kind))).collect()
}

/// Measures the rows that are wanted.
pub fn measure(session: &mut Session<'_>) -> Vec<Measured> {
    let mut measured = Vec::new();
    for sites in SITES {
        let [insert, replace, delete] = KINDS.map(|kind| session.wants(&name(kind, sites)));
        let mut samples = Vec::new();
        if replace {
            samples.extend(subject(session, sites, &["replace"], |pair| Box::new(Replace { pair, version: 0 })));
        }
        if insert || delete {
            let rows = ["insert", "delete"];
            samples.extend(subject(session, sites, &rows, |pair| Box::new(Refill { pair, checked: false })));
        }
        measured.extend(samples.into_iter().filter(|m| session.wants(&m.row.name)));
    }
    measured
}

/// One kind of update, or several that are made in turn, by all contestants.
fn subject(
    session: &mut Session<'_>,
    sites: u32,
    kinds: &[&'static str],
    side: impl Fn(Pair) -> Box<dyn Side>,
) -> Vec<Measured> {
    let options = session.options;
    let shape = Shape { slots: 1, sites };
    let names: Vec<String> = kinds.iter().map(|kind| name(kind, sites)).collect();
    (session.progress)(&names.join(" and "));
    let entrant = |contestant: Contestant| {
        let side = contestant.set_up(options.engine, &shape).map(&side);
        Entrant::new(contestant, side, kinds.len())
    };
    let mut entrants: Vec<Entrant<'_>> = session.runtimes().map(entrant).collect();
    // Set up unpinned, so that the runtime's own thread may run anywhere.
    place::on_second(&session.cpus, || interleave(&mut entrants, &BUDGET.with(options.effort)));
    let all = rows();
    let measured = names.iter().enumerate().filter_map(|(n, name)| {
        let row = all.iter().find(|row| row.name == *name)?.clone();
        let columns = entrants.iter().map(|entrant| Column::of(entrant, n)).collect();
        Some(Measured { row, columns })
    });
    measured.collect()
}

fn micros(start: Instant) -> f64 {
    start.elapsed().as_nanos() as f64 / 1e3
}

/// One version after the other.
struct Replace {
    pair: Pair,
    version: usize,
}

impl Side for Replace {
    fn round(&mut self, samples: &mut [Vec<f64>]) -> Result<(), Error> {
        self.version = 1 - self.version;
        let start = Instant::now();
        self.pair.slots.set(0, self.version)?;
        samples[0].push(micros(start));
        if samples[0].len() <= 2 {
            self.pair.runner.check(Some(self.version))?;
        }
        Ok(())
    }
}

/// Empty and full again.
struct Refill {
    pair: Pair,
    checked: bool,
}

impl Side for Refill {
    fn round(&mut self, samples: &mut [Vec<f64>]) -> Result<(), Error> {
        let start = Instant::now();
        self.pair.slots.clear(0)?;
        samples[1].push(micros(start));
        if !self.checked {
            self.pair.runner.check(None)?;
        }
        let start = Instant::now();
        self.pair.slots.set(0, 0)?;
        samples[0].push(micros(start));
        if !self.checked {
            self.pair.runner.check(Some(0))?;
            self.checked = true;
        }
        Ok(())
    }
}
