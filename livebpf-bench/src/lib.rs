//! livebpf measured beside others, in one run: what `livebpf bench` prints.
//!
//! A [`Row`] is one figure; rows go by name. A [`Contestant`] is who it is measured of. Contestants take turns, a few rounds each
//! (`interleave`), so that whatever else the machine does meets all of them; a row says minimum, median and number of rounds of
//! each, and the *ratio* of the medians, which is what counts: figures of two runs are not compared. What a row should come to is part
//! of it ([`Wanted`]), and the report says whether it did.
//!
//! A contestant that cannot take part leaves its column with the reason. Nothing here is a dependency of `livebpf`.

#![deny(unsafe_code)]

mod call;
mod compile;
mod compute;
mod contestant;
mod error;
mod helpers;
mod interleave;
mod kernel;
mod lengths;
mod live;
mod load;
mod maps;
mod native;
mod object_runs;
mod object_sizes;
mod objects;
mod place;
mod plot;
mod programs;
mod raw;
mod rbpf;
mod replay;
mod report;
mod row;
mod run;
mod sbpf;
mod scaling;
mod sides;
mod stall;
mod stats;
mod subject;
mod table;
mod tail_call;
mod timed;
mod transaction;
mod update;
mod upgrade;
mod work;

pub use contestant::Contestant;
pub use error::Error;
pub use interleave::Effort;
pub use report::{Column, Found, LeftOut, Measured, Report};
pub use row::{Row, Unit, Wanted};
pub use stats::Summary;
pub use subject::Subject;

use livebpf::runtime::Engine;
use livebpf_kernel_bpf::cpu;

/// What to measure, and how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// The rows, in the order of the report.
    pub rows: Vec<Row>,
    /// Programs of objects, for the rows of theirs that are chosen.
    pub objects: Vec<Subject>,
    /// Who besides livebpf.
    pub against: Vec<Contestant>,
    /// How livebpf executes programs.
    pub engine: Engine,
    /// How many rounds there are.
    pub effort: Effort,
}

/// What all subjects need.
struct Session<'a> {
    options: &'a Options,
    /// CPUs to place threads on.
    cpus: Vec<usize>,
    progress: &'a mut dyn FnMut(&str),
}

/// Measures. `progress` gets a line for people now and then.
///
/// All of it happens on threads of its own: the caller's priority and placement stay what they are.
pub fn run(options: &Options, progress: &mut (dyn FnMut(&str) + Send)) -> Report {
    let body = || {
        let mut notes: Vec<String> = busy().into_iter().collect();
        let mut session = Session { options, cpus: cpu::allowed(), progress };
        // More busy threads than CPUs, which must take turns: with ordinary priority.
        let mut rows = upgrade::measure(&mut session);
        let real_time = place::runtime_threads();
        notes.extend(real_time.err().map(|why| format!("threads have their ordinary priority: {why}")));
        rows.extend(update::measure(&mut session));
        rows.extend(stall::measure(&mut session));
        rows.extend(transaction::measure(&mut session));
        rows.extend(load::measure(&mut session));
        rows.extend(timed::measure(&mut session));
        rows.extend(scaling::measure(&mut session));
        rows.extend(compile::measure(&mut session));
        let (measured, left_out) = object_sizes::measure(&mut session);
        rows.extend(measured);
        Report::new(options, rows, notes).with_left_out(left_out)
    };
    // A thread of its own: what it changes of itself ends with it.
    std::thread::scope(|scope| scope.spawn(body).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A note where others keep the machine busy: then the figures are of both.
fn busy() -> Option<String> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    let load: f64 = text.split(' ').next()?.parse().ok()?;
    let cpus = cpu::allowed().len();
    (load > 0.5 * cpus as f64)
        .then(|| format!("the machine was busy before this began: load average {load} on {cpus} CPUs"))
}

impl Session<'_> {
    /// livebpf first, then the others.
    fn contestants(&self) -> impl Iterator<Item = Contestant> + use<> {
        let against = self.options.against.clone();
        std::iter::once(Contestant::Livebpf).chain(against)
    }

    /// Those of them that are runtimes.
    fn runtimes(&self) -> impl Iterator<Item = Contestant> + use<> {
        self.contestants().filter(|contestant| Contestant::RUNTIMES.contains(contestant))
    }

    fn wants(&self, name: &str) -> bool {
        self.options.rows.iter().any(|row| row.name == name)
    }
}
