//! Programs without branches of four lengths, loaded or compiled in turn: so that the time for an instruction of a program of a million can
//! be compared with that of one of ten thousand, whatever else the machine does meanwhile.

use std::time::Duration;

use livebpf::link::Program;

use crate::Session;
use crate::contestant::Contestant;
use crate::error::Error;
use crate::interleave::{Budget, Entrant, Side, interleave};
use crate::report::{Column, Measured};
use crate::row::{Row, Unit, Wanted};
use crate::{place, programs};

struct Length {
    /// The end of a row's name.
    name: &'static str,
    insns: u32,
    /// Turns it has in a round.
    times: u32,
}

const LENGTHS: [Length; 4] = [
    Length { name: "1k", insns: 1000, times: 8 },
    Length { name: "10k", insns: 10_000, times: 4 },
    Length { name: "60k", insns: 60_000, times: 2 },
    Length { name: "1m", insns: 1_000_000, times: 1 },
];
const BUDGET: Budget = Budget { time: Duration::from_secs(8), most: 100, least: 3 };
/// An instruction of the longest program is to take at most so many times as long as one of the second.
const GROWTH: f64 = 1.5;

/// What a contestant does with a program, again and again: how long it took once.
pub(crate) type Once<'a> = Box<dyn FnMut() -> Result<Duration, Error> + 'a>;

/// A row for each length; `wanted` holds for the second.
pub(crate) fn rows(task: &str, wanted: Wanted) -> Vec<Row> {
    let bounds = |name| match name {
        "10k" => vec![wanted.clone()],
        "1m" => vec![Wanted::OfRow(format!("{task}_10k"), GROWTH)],
        _ => Vec::new(),
    };
    let row = |length: &Length| Row::new(format!("{task}_{}", length.name), Unit::Ns, bounds(length.name));
    LENGTHS.iter().map(row).collect()
}

/// Measures those of `rows`, one for each length, that are wanted. `task` is what a contestant does with a program.
pub(crate) fn measure(
    session: &mut Session<'_>,
    rows: Vec<Row>,
    contestants: impl Iterator<Item = Contestant>,
    task: impl for<'p> Fn(Contestant, &'p Program) -> Result<Once<'p>, Error>,
) -> Vec<Measured> {
    let (rows, lengths): (Vec<Row>, Vec<&Length>) =
        rows.into_iter().zip(&LENGTHS).filter(|(row, _)| session.wants(&row.name)).unzip();
    if rows.is_empty() {
        return Vec::new();
    }
    (session.progress)(&rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>().join(", "));
    let programs: Vec<Program> = lengths.iter().map(|length| programs::straight(length.insns)).collect();
    let entrant = |contestant: Contestant| {
        let begun = programs.iter().map(|program| task(contestant, program)).collect::<Result<Vec<_>, _>>();
        let side =
            begun.map(|tasks| Box::new(Tasks(lengths.iter().copied().zip(tasks).collect())) as Box<dyn Side + '_>);
        Entrant::new(contestant, side, rows.len())
    };
    let mut entrants: Vec<Entrant<'_>> = contestants.map(entrant).collect();
    place::on_second(&session.cpus, || interleave(&mut entrants, &BUDGET.with(session.options.effort)));
    let columns = |n: usize| entrants.iter().map(|entrant| Column::of(entrant, n)).collect();
    rows.iter().enumerate().map(|(n, row)| Measured { row: row.clone(), columns: columns(n) }).collect()
}

/// A contestant's tasks, in the order of the rows. Samples are nanoseconds for an instruction.
struct Tasks<'a>(Vec<(&'a Length, Once<'a>)>);

impl Side for Tasks<'_> {
    fn round(&mut self, samples: &mut [Vec<f64>]) -> Result<(), Error> {
        for ((length, once), samples) in self.0.iter_mut().zip(samples) {
            for _ in 0..length.times {
                samples.push(once()?.as_nanos() as f64 / f64::from(length.insns));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_programs_have_more_turns_and_times_are_for_an_instruction() {
        let once = |length: &Length| -> Once<'static> {
            let took = Duration::from_nanos(3 * u64::from(length.insns));
            Box::new(move || Ok(took))
        };
        let mut samples = [const { Vec::new() }; LENGTHS.len()];
        Tasks(LENGTHS.iter().map(|length| (length, once(length))).collect()).round(&mut samples).unwrap();
        assert_eq!(samples, [vec![3.0; 8], vec![3.0; 4], vec![3.0; 2], vec![3.0; 1]]);
    }
}
