//! `size_OBJECT/PROGRAM` and `run_OBJECT/PROGRAM`, with `size_total` and `run_total`: the programs of object files, the code they become
//! and the time a run takes, beside the kernel's of the same linked program.
//!
//! A size is that of the code in executable memory, all functions of the program and the padding between them, as livebpf makes it
//! when nothing is said; the kernel's is the length of its images, without padding. How runs are measured is said in
//! [`object_runs`](crate::object_runs).
//!
//! Each program is loaded alone, with maps of its own that hold what the object says; of program arrays only the slots that the object
//! gives to the program itself are filled. What a side refuses is left out, by name and with the reason. `size_total` compares the sums
//! over all programs that both sides load; `run_total` is the geometric mean of the ratios, of minima and of medians, over the
//! programs that `run_` rows are of.

use livebpf::link::Program as Linked;
use livebpf::object::MapInit;
use livebpf::observe;
use livebpf::runtime::{Ebpf, LoadOptions, Program, Runtime};
use livebpf_kernel_bpf::{self as kernel, Map, probe};

use crate::Session;
use crate::contestant::Contestant;
use crate::error::Error;
use crate::object_runs::{Runs, Timed};
use crate::place;
use crate::report::{Column, LeftOut, Measured};
use crate::row::{Row, Unit, Wanted};
use crate::stats::Summary;
use crate::subject::Subject;

const SIZE: &str = "size_total";
const RUN: &str = "run_total";

/// The rows that sum up the others.
fn totals() -> [Row; 2] {
    let kernel = |factor| vec![Wanted::Of(Contestant::Kernel, factor)];
    [Row::new(SIZE, Unit::Bytes, kernel(0.85)), Row::new(RUN, Unit::Times, kernel(0.8))]
}

/// Loaded by livebpf; dropping it takes it out.
pub struct Live {
    pub ebpf: Ebpf,
}

impl Live {
    pub fn load(runtime: &Runtime, program: &Linked) -> Result<Live, Error> {
        let ebpf = runtime.load_linked_with(vec![program.clone()], &LoadOptions::default())?;
        Ok(Live { ebpf })
    }

    pub fn program(&self) -> Result<&Program, Error> {
        self.ebpf.programs().next().ok_or(Error::Lacks("a program that was loaded is not there"))
    }

    fn size(&self) -> Result<f64, Error> {
        let listing = observe::listing(self.program()?).ok_or(Error::Lacks("this engine makes no code"))?;
        Ok(listing.bytes.len() as f64)
    }
}

/// Loaded by the kernel.
pub struct InKernel {
    pub program: kernel::Program,
    _maps: Vec<Map>,
}

impl InKernel {
    pub fn load(program: &Linked) -> Result<InKernel, Error> {
        let maps: Vec<Map> = program.maps.iter().map(|def| Map::create(def)).collect::<Result<_, _>>()?;
        let loaded = kernel::Program::load(program, &maps.iter().collect::<Vec<_>>())?;
        for (def, map) in program.maps.iter().zip(&maps) {
            // As a load in livebpf does it: of the programs that the object puts there, this one is loaded.
            let MapInit::Programs(slots) = &def.init else { continue };
            slots.iter().filter(|(_, name)| *name == program.name).try_for_each(|(slot, _)| map.set(*slot, &loaded))?;
        }
        Ok(InKernel { program: loaded, _maps: maps })
    }

    fn size(&self) -> Result<f64, Error> {
        Ok(f64::from(self.program.jited_len()?))
    }
}

/// The rows of `subjects`.
pub fn rows(subjects: &[Subject]) -> Vec<Row> {
    if subjects.is_empty() {
        return Vec::new();
    }
    let of = |kind: &str, unit| subjects.iter().map(move |s| row(kind, s, unit)).collect::<Vec<_>>();
    let [size, run] = totals();
    let mut rows = of("size", Unit::Bytes);
    rows.push(size);
    rows.extend(of("run", Unit::Ns));
    rows.push(run);
    rows
}

fn row(kind: &str, subject: &Subject, unit: Unit) -> Row {
    Row::new(format!("{kind}_{}", subject.name), unit, Vec::new())
}

/// Measures the rows that are wanted; what is left out comes with the reason.
pub fn measure(session: &mut Session<'_>) -> (Vec<Measured>, Vec<LeftOut>) {
    let subjects = &session.options.objects;
    let wanted = |kind, s: &Subject, total: &str| session.wants(total) || session.wants(&format!("{kind}_{}", s.name));
    let chosen: Vec<(&Subject, [bool; 2])> =
        subjects.iter().map(|s| (s, [wanted("size", s, SIZE), wanted("run", s, RUN)])).collect();
    if !chosen.iter().any(|(_, [size, run])| *size || *run) {
        return Default::default();
    }
    let mut all = match All::new(session) {
        Ok(all) => all,
        Err(error) => return (Vec::new(), vec![LeftOut::new(SIZE, "all", &error.to_string())]),
    };
    let cpus = session.cpus.clone();
    for (n, (subject, [size, run])) in chosen.iter().enumerate() {
        if n % 100 == 0 {
            (session.progress)(&format!("size and run: program {} of {}", n + 1, chosen.len()));
        }
        if *size || *run {
            place::on_second(&cpus, || all.measure(subject, *size, *run));
        }
    }
    let [size, run] = totals();
    let compared = all.runs.first().is_some_and(|m| m.ratio(Contestant::Kernel).is_some());
    if session.wants(RUN) && !compared && !all.runs.is_empty() {
        all.left_out.push(LeftOut::new(RUN, "all", "there is nobody to compare with"));
    }
    let means = compared.then(|| total(run, &all.runs, means)).flatten();
    let totals = [total(size, &all.sizes, sums), means];
    let totals = totals.into_iter().flatten().filter(|m| session.wants(&m.row.name));
    // A total has all of its rows beside it, so that it can be checked.
    (totals.chain(all.sizes).chain(all.runs).collect(), all.left_out)
}

/// A total; `None` where there is nothing to add up.
fn total(row: Row, rows: &[Measured], add: fn(&[Measured], usize) -> Summary) -> Option<Measured> {
    let column = |(n, column): (usize, &Column)| match &column.result {
        Ok(_) => Column { result: Ok(add(rows, n)), ..column.clone() },
        Err(_) => column.clone(),
    };
    Some(Measured { row, columns: rows.first()?.columns.iter().enumerate().map(column).collect() })
}

/// What the figures of column `n` add up to.
fn sums(rows: &[Measured], n: usize) -> Summary {
    let figures = rows.iter().filter_map(|m| m.columns[n].result.as_ref().ok());
    let sum: f64 = figures.map(|summary| summary.median).sum();
    Summary { min: sum, median: sum, quartiles: [sum; 2], rounds: rows.len() }
}

/// The geometric mean of the figures as multiples of those of the last contestant that has any, whose own are 1; the quartiles are
/// those of the programs.
fn means(rows: &[Measured], n: usize) -> Summary {
    let ratios = |figure: fn(&Summary) -> f64| -> Vec<f64> {
        let ratio = |m: &Measured| {
            let of = |column: &Column| column.result.as_ref().ok().map(figure);
            Some(of(&m.columns[n])? / m.columns.iter().rev().find_map(of)?)
        };
        rows.iter().filter_map(ratio).collect()
    };
    let mean = |ratios: &[f64]| (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp();
    let medians = ratios(|s| s.median);
    let quartiles = Summary::of(&medians).map_or([f64::NAN; 2], |summary| summary.quartiles);
    Summary { min: mean(&ratios(|s| s.min)), median: mean(&medians), quartiles, rounds: medians.len() }
}

/// What the programs are measured with, and what was found.
struct All {
    contestants: Vec<Contestant>,
    /// Why the kernel takes no part, where it should.
    no_kernel: Option<String>,
    runtime: Runtime,
    runs: Vec<Measured>,
    timing: Runs,
    sizes: Vec<Measured>,
    left_out: Vec<LeftOut>,
}

impl All {
    fn new(session: &Session<'_>) -> Result<All, Error> {
        let runtime = Runtime::builder().engine(session.options.engine).build()?;
        let contestants: Vec<Contestant> = session.runtimes().collect();
        let timing = Runs::new(&runtime, session.options.effort)?;
        let no_kernel = probe().err().map(|error| error.to_string());
        Ok(All { contestants, no_kernel, runtime, timing, runs: Vec::new(), sizes: Vec::new(), left_out: Vec::new() })
    }

    fn with_kernel(&self) -> bool {
        self.contestants.contains(&Contestant::Kernel) && self.no_kernel.is_none()
    }

    /// One program.
    fn measure(&mut self, subject: &Subject, size: bool, run: bool) {
        let (live, kernel) = match &subject.program {
            Ok(program) => (
                Live::load(&self.runtime, program).map_err(|e| e.to_string()),
                self.with_kernel().then(|| InKernel::load(program)),
            ),
            Err(why) => (Err(why.clone()), None),
        };
        let kernel = kernel.transpose().map_err(|e| e.to_string());
        let (live, kernel) = match (live, kernel) {
            (Ok(live), Ok(kernel)) => (live, kernel),
            (live, kernel) => {
                let refused = [(Contestant::Livebpf, live.err()), (Contestant::Kernel, kernel.err())];
                return self.left_out.push(LeftOut::refused(SIZE, &subject.name, refused));
            }
        };
        if size {
            let sizes = (live.size(), kernel.as_ref().map(InKernel::size));
            match sizes {
                (Ok(ours), None) => self.size(subject, ours, None),
                (Ok(ours), Some(Ok(theirs))) => self.size(subject, ours, Some(theirs)),
                (Err(error), _) | (_, Some(Err(error))) => {
                    self.left_out.push(LeftOut::new(SIZE, &subject.name, &error.to_string()));
                }
            }
        }
        if run {
            match self.timing.measure(&live, kernel.as_ref()) {
                Ok(timed) => self.run(subject, timed),
                Err(error) => self.left_out.push(LeftOut::new(RUN, &subject.name, &error.to_string())),
            }
        }
    }

    fn size(&mut self, subject: &Subject, ours: f64, theirs: Option<f64>) {
        let columns = self.columns(Summary::of(&[ours]), theirs.and_then(|bytes| Summary::of(&[bytes])));
        self.sizes.push(Measured { row: row("size", subject, Unit::Bytes), columns });
    }

    fn run(&mut self, subject: &Subject, Timed { live, kernel }: Timed) {
        let columns = self.columns(Some(live), kernel);
        self.runs.push(Measured { row: row("run", subject, Unit::Ns), columns });
    }

    fn columns(&self, live: Option<Summary>, kernel: Option<Summary>) -> Vec<Column> {
        let column = |contestant: &Contestant| {
            let (found, why) = match contestant {
                Contestant::Livebpf => (live, None),
                _ => (kernel, self.no_kernel.clone()),
            };
            let result = found.ok_or_else(|| why.unwrap_or_else(|| "it was not measured".to_owned()));
            Column { contestant: *contestant, result, rate: None }
        };
        self.contestants.iter().map(column).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use livebpf::insn::text;
    use livebpf::object::{ProgType, ProgramKind};
    use livebpf::runtime::Engine;

    use crate::Options;
    use crate::interleave::Effort;

    fn measured(figures: [Option<f64>; 2]) -> Measured {
        let columns = [Contestant::Livebpf, Contestant::Kernel].into_iter().zip(figures).map(|(contestant, figure)| {
            let result = figure.and_then(|f| Summary::of(&[f])).ok_or_else(|| "no".to_owned());
            Column { contestant, result, rate: None }
        });
        Measured { row: Row::new("size_a/b", Unit::Bytes, Vec::new()), columns: columns.collect() }
    }

    #[test]
    fn a_total_of_sizes_is_a_sum_and_one_of_runs_a_geometric_mean() {
        let rows = [measured([Some(30.0), Some(60.0)]), measured([Some(20.0), Some(10.0)])];
        let [size, run] = totals();
        let size = total(size, &rows, sums).expect("two rows");
        assert_eq!((size.ratio(Contestant::Kernel), size.median(Contestant::Kernel)), (Some(50.0 / 70.0), Some(70.0)));
        let run = total(run, &rows, means).expect("two rows");
        assert!((run.ratio(Contestant::Kernel).expect("both") - 1.0).abs() < 1e-9, "one half and two");
        assert_eq!(run.columns[0].result.as_ref().map(|summary| summary.rounds), Ok(2));
        let [size, _] = totals();
        assert_eq!(total(size, &[], sums).map(|m| m.columns), None);
    }

    #[test]
    fn a_total_without_the_kernel_says_why() {
        let [size, _] = totals();
        let size = total(size, &[measured([Some(30.0), None]), measured([Some(5.0), None])], sums).expect("two rows");
        assert_eq!(size.median(Contestant::Livebpf), Some(35.0));
        assert_eq!((size.columns[1].result.clone(), size.ratio(Contestant::Kernel)), (Err("no".to_owned()), None));
    }

    fn subject(name: &str, source: &str) -> Subject {
        let insns = text::assemble(source).expect("a program");
        let program = Linked::bare(name, ProgramKind::new(ProgType::SCHED_CLS), insns);
        Subject { name: format!("o/{name}"), program: Ok(program) }
    }

    #[test]
    fn programs_are_in_a_row_or_left_out_with_the_reason() {
        let unlinked = Subject { name: "o/unlinked".to_owned(), program: Err("cannot be linked".to_owned()) };
        let objects = vec![subject("one", "r0 = 1\nexit"), subject("wild", "r0 = r7\nexit"), unlinked];
        let rows = rows(&objects);
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        let all = ["size_o/one", "size_o/wild", "size_o/unlinked", "size_total"];
        assert_eq!(names, [all, ["run_o/one", "run_o/wild", "run_o/unlinked", "run_total"]].concat());
        let effort = Effort { quick: true, rounds: Some(1) };
        let options = Options { rows, objects, against: Vec::new(), engine: Engine::Jit, effort };
        let mut session = Session { options: &options, cpus: Vec::new(), progress: &mut |_| () };
        let (rows, left_out) = measure(&mut session);
        let found: Vec<(&str, bool)> =
            rows.iter().map(|m| (m.row.name.as_str(), m.median(Contestant::Livebpf).is_some())).collect();
        assert_eq!(found, ["size_total", "size_o/one", "run_o/one"].map(|name| (name, true)));
        let size = |n: usize| rows[n].median(Contestant::Livebpf).expect("as found above");
        assert!(size(1) > 5.0 && size(0) == size(1), "the sum of one");
        let left: Vec<(&str, &str)> = left_out.iter().map(|left| (left.row.as_str(), left.program.as_str())).collect();
        assert_eq!(left, [("size_total", "o/wild"), ("size_total", "o/unlinked"), ("run_total", "all")]);
        assert!(left_out[0].why.contains("!read_ok"), "{}", left_out[0].why);
        assert_eq!((left_out[1].why.as_str(), &left_out[1].by[..]), ("cannot be linked", &[Contestant::Livebpf][..]));
    }
}
