//! `transaction_64x1000`: new programs in 64 slots that 1000 direct tail calls go through, all at once: from the call to the publication.
//!
//! livebpf does it in one transaction, which every run sees all or nothing of. Others have no such thing: for them it is one
//! replacement after the other, and the figure is that of all 64. Nothing runs meanwhile. livebpf's reclaimer removes what was
//! replaced between the rounds.

use std::time::{Duration, Instant};

use crate::Session;
use crate::contestant::Contestant;
use crate::error::Error;
use crate::interleave::{Budget, Entrant, Side, interleave};
use crate::place;
use crate::report::{Column, Measured};
use crate::row::{Row, Unit, Wanted};
use crate::sides::{Pair, Shape};

const SHAPE: Shape = Shape { slots: 64, sites: 1000 };
const BUDGET: Budget = Budget { time: Duration::from_secs(3), most: 200, least: 3 };
const NAME: &str = "transaction_64x1000";

pub fn rows() -> Vec<Row> {
    vec![Row::new(NAME, Unit::Us, vec![Wanted::Of(Contestant::Kernel, 0.1)])]
}

/// Measures the row, if it is wanted.
pub fn measure(session: &mut Session<'_>) -> Vec<Measured> {
    if !session.wants(NAME) {
        return Vec::new();
    }
    (session.progress)(NAME);
    let options = session.options;
    let entrant = |contestant: Contestant| {
        let pair = contestant.set_up(options.engine, &SHAPE);
        Entrant::new(contestant, pair.map(|pair| Box::new(All { pair, version: 0 }) as Box<dyn Side>), 1)
    };
    let mut entrants: Vec<Entrant<'_>> = session.runtimes().map(entrant).collect();
    place::on_second(&session.cpus, || interleave(&mut entrants, &BUDGET.with(options.effort)));
    let columns: Vec<Column> = entrants.iter().map(|entrant| Column::of(entrant, 0)).collect();
    rows().into_iter().map(|row| Measured { row, columns: columns.clone() }).collect()
}

/// All slots get the other version.
struct All {
    pair: Pair,
    version: usize,
}

impl Side for All {
    fn round(&mut self, samples: &mut [Vec<f64>]) -> Result<(), Error> {
        self.version = 1 - self.version;
        let start = Instant::now();
        self.pair.slots.set_all(SHAPE.slots, self.version)?;
        samples[0].push(start.elapsed().as_nanos() as f64 / 1e3);
        self.pair.slots.settle()?;
        self.pair.runner.check(Some(self.version))
    }
}
