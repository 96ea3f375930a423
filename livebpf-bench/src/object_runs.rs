//! How long a run of an object's program takes, under one input for every contestant.
//!
//! The input is [`PACKET`], and the context that a test run has when nothing else is said. From the minimum and the median of batches of
//! runs those of batches of the empty program (`return 0`) of the same type are taken away, on *both* sides: what is left is the
//! program itself, without what it takes to start it. Batches of both have as many runs, and take turns. livebpf's batch is a loop of
//! runs inside one section, the kernel's is BPF_PROG_TEST_RUN with `repeat`, by the kernel's own clock, which rounds averages down to
//! nanoseconds. Each batch begins with a new packet; within it the packet stays as the program leaves it, and maps are never reset, on
//! both sides.
//!
//! Left out are programs that the kernel does not run repeatedly, those whose answers differ or change from run to run, and those that are
//! over too soon for that clock: [`RESOLUTION`] is what the kernel must need beyond the empty run, by minimum and by median.
//! livebpf's time counts as [`LEAST`] at least, so that no ratio comes from a difference that cannot be measured.

use std::time::{Duration, Instant};

use livebpf::context::Context;
use livebpf::insn::text;
use livebpf::link::Program as Linked;
use livebpf::object::{ProgType, ProgramKind};
use livebpf::runtime::{Program, Runtime, Worker};
use livebpf_kernel_bpf as kernel;

use crate::error::Error;
use crate::interleave::Effort;
use crate::object_sizes::{InKernel, Live};
use crate::stats::Summary;

/// 64 bytes: Ethernet, IPv4 and TCP, from 10.0.0.1:1234 to 10.0.0.2:80.
pub const PACKET: [u8; 64] = [
    2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, // to, from, IPv4
    0x45, 0, 0, 50, 0, 0, 0x40, 0, 64, 6, 0x26, 0xc4, 10, 0, 0, 1, 10, 0, 0, 2, // header
    0x04, 0xd2, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0x20, 0, 0, 0, 0, 0, // SYN
    b'p', b'a', b'y', b'l', b'o', b'a', b'd', b'0', b'1', b'2',
];

/// What the kernel must need for a program beyond the empty run, in nanoseconds.
const RESOLUTION: f64 = 5.0;
/// The least that livebpf's time counts as, in nanoseconds.
const LEAST: f64 = 0.5;
/// A batch takes about so long.
const BATCH: Duration = Duration::from_micros(500);
/// Most runs in a batch.
const MOST: u32 = 50_000;
/// Programs that take longer than this are left out.
const LONG: Duration = Duration::from_millis(50);
const ROUNDS: usize = 15;
/// Rounds end after this, when there have been three.
const TIME: Duration = Duration::from_millis(200);

/// What was measured, in nanoseconds beyond the empty run.
pub struct Timed {
    pub live: Summary,
    pub kernel: Option<Summary>,
}

/// Measures runs.
pub struct Runs {
    runtime: Runtime,
    worker: Worker,
    rounds: usize,
    empties: Vec<Empty>,
}

/// `return 0` of a type, loaded by all.
struct Empty {
    kind: ProgramKind,
    live: Live,
    kernel: Option<InKernel>,
}

impl Runs {
    pub fn new(runtime: &Runtime, effort: Effort) -> Result<Runs, Error> {
        let rounds = if effort.quick { ROUNDS / 5 } else { ROUNDS };
        let rounds = effort.rounds.map_or(rounds, |most| rounds.min(most));
        Ok(Runs { runtime: runtime.clone(), worker: runtime.worker()?, rounds, empties: Vec::new() })
    }

    /// Samples of a program, or why there are none.
    pub fn measure(&mut self, live: &Live, kernel: Option<&InKernel>) -> Result<Timed, Error> {
        let kind = live.program()?.linked().kind;
        if !has_test_runs(kind.prog_type) {
            return Err(Error::LeftOut(format!("there are no repeated test runs of type {}", kind.prog_type)));
        }
        let at = self.empty(kind, kernel.is_some())?;
        let Empty { live: empty, kernel: empty_in_kernel, .. } = &self.empties[at];
        let mut ours = Side::new(Ours::new(&mut self.worker, live.program()?, empty.program()?)?);
        let kernels = kernel.zip(empty_in_kernel.as_ref());
        let mut theirs = kernels.map(|(k, empty)| Side::new(Theirs { program: &k.program, empty: &empty.program }));
        agree(&mut ours, theirs.as_mut())?;
        let start = Instant::now();
        for round in 0..self.rounds {
            if round >= 3 && start.elapsed() > TIME {
                break;
            }
            ours.round()?;
            theirs.as_mut().map_or(Ok(()), Side::round)?;
        }
        let Summary { min, median, quartiles, rounds } = ours.summary()?;
        let [min, median] = [min, median].map(|ns| ns.max(LEAST));
        let live = Summary { min, median, quartiles, rounds };
        let kernel = theirs.map(|theirs| theirs.summary()).transpose()?;
        match kernel {
            Some(Summary { min, median, .. }) if min.min(median) < RESOLUTION => {
                let ns = min.min(median).max(0.0);
                let why = format!("over too soon: the kernel needs {ns:.0} ns beyond the empty run");
                Err(Error::LeftOut(why))
            }
            _ => Ok(Timed { live, kernel }),
        }
    }

    /// The number of the empty program of `kind`.
    fn empty(&mut self, kind: ProgramKind, in_kernel: bool) -> Result<usize, Error> {
        if let Some(at) = self.empties.iter().position(|empty| empty.kind == kind) {
            return Ok(at);
        }
        let insns = text::assemble("r0 = 0\nexit").expect("the text is made here");
        let program = Linked { license: "GPL".to_owned(), ..Linked::bare("empty", kind, insns) };
        let live = Live::load(&self.runtime, &program)?;
        let kernel = in_kernel.then(|| InKernel::load(&program)).transpose()?;
        self.empties.push(Empty { kind, live, kernel });
        Ok(self.empties.len() - 1)
    }
}

/// Whether the kernel's test run of the type takes a packet and a number of repetitions.
fn has_test_runs(prog_type: ProgType) -> bool {
    use ProgType as T;
    [T::SOCKET_FILTER, T::SCHED_CLS, T::SCHED_ACT, T::XDP, T::CGROUP_SKB, T::LWT_IN, T::LWT_OUT, T::LWT_XMIT]
        .contains(&prog_type)
}

/// Who runs programs, batch by batch.
trait Batches {
    fn name(&self) -> &'static str;
    /// Nanoseconds a run, and the last answer.
    fn program(&mut self, runs: u32) -> Result<(f64, u32), Error>;
    /// Nanoseconds a run of the empty program.
    fn empty(&mut self, runs: u32) -> Result<f64, Error>;
}

/// A contestant in one row.
struct Side<B> {
    batches: B,
    /// Runs in a batch; 0 at first.
    runs: u32,
    answer: u32,
    with: Vec<f64>,
    without: Vec<f64>,
}

impl<B: Batches> Side<B> {
    fn new(batches: B) -> Side<B> {
        Side { batches, runs: 0, answer: 0, with: Vec::new(), without: Vec::new() }
    }

    /// What a first run answers, which two more must answer as well.
    fn first_answer(&mut self) -> Result<u32, Error> {
        let mut answer = || self.batches.program(1).map(|(_, answer)| answer);
        let answers = [answer()?, answer()?, answer()?];
        if answers != [answers[0]; 3] {
            return Err(Error::LeftOut(format!("{} answers {answers:?} one after the other", self.batches.name())));
        }
        self.answer = answers[0];
        Ok(answers[0])
    }

    /// How many runs take about as long as a batch should: grows from one, so that no batch is far too long.
    fn calibrate(&mut self) -> Result<u32, Error> {
        let mut runs = 1;
        loop {
            let took = self.batches.program(runs)?.0 * f64::from(runs);
            let wanted = BATCH.as_nanos() as f64;
            if runs == 1 && took > LONG.as_nanos() as f64 {
                return Err(Error::LeftOut(format!("one run takes {:.0} ms", took / 1e6)));
            }
            if took > 0.7 * wanted || runs == MOST {
                return Ok(runs);
            }
            runs = (f64::from(runs) * (wanted / took.max(1.0)).clamp(2.0, 16.0)).min(MOST.into()) as u32;
        }
    }

    fn round(&mut self) -> Result<(), Error> {
        if self.runs == 0 {
            self.runs = self.calibrate()?;
        }
        self.without.push(self.batches.empty(self.runs)?);
        let (with, answer) = self.batches.program(self.runs)?;
        self.with.push(with);
        if answer != self.answer {
            let (who, first) = (self.batches.name(), self.answer);
            return Err(Error::LeftOut(format!("{who} answers {first} at first and {answer} after many runs")));
        }
        Ok(())
    }

    fn summary(&self) -> Result<Summary, Error> {
        let summaries = Summary::of(&self.with).zip(Summary::of(&self.without));
        let (with, without) = summaries.ok_or(Error::Lacks("no round was completed"))?;
        Ok(with.less(without))
    }
}

/// Both give one answer.
fn agree(ours: &mut Side<Ours<'_>>, theirs: Option<&mut Side<Theirs<'_>>>) -> Result<(), Error> {
    let Some(theirs) = theirs else { return ours.first_answer().map(|_| ()) };
    let (ours, theirs) = (ours.first_answer()?, theirs.first_answer()?);
    if ours == theirs {
        return Ok(());
    }
    Err(Error::LeftOut(format!("livebpf answers {ours}, the kernel {theirs}")))
}

/// livebpf's side.
struct Ours<'a> {
    worker: &'a mut Worker,
    program: &'a Program,
    empty: &'a Program,
    context: Context,
}

impl<'a> Ours<'a> {
    fn new(worker: &'a mut Worker, program: &'a Program, empty: &'a Program) -> Result<Ours<'a>, Error> {
        Ok(Ours { worker, program, empty, context: Context::for_type(program.prog_type(), &PACKET)? })
    }

    fn batch(&mut self, program: &Program, runs: u32) -> Result<(f64, u32), Error> {
        self.context.reset(&PACKET)?;
        let (start, mut answer) = (Instant::now(), 0);
        let mut pinned = self.worker.pin()?;
        for _ in 0..runs {
            answer = pinned.run(program, &mut self.context)?;
        }
        drop(pinned);
        Ok((start.elapsed().as_nanos() as f64 / f64::from(runs), answer))
    }
}

impl Batches for Ours<'_> {
    fn name(&self) -> &'static str {
        "livebpf"
    }
    fn program(&mut self, runs: u32) -> Result<(f64, u32), Error> {
        self.batch(self.program, runs)
    }
    fn empty(&mut self, runs: u32) -> Result<f64, Error> {
        self.batch(self.empty, runs).map(|(ns, _)| ns)
    }
}

/// The kernel's side.
struct Theirs<'a> {
    program: &'a kernel::Program,
    empty: &'a kernel::Program,
}

impl Batches for Theirs<'_> {
    fn name(&self) -> &'static str {
        "the kernel"
    }
    fn program(&mut self, runs: u32) -> Result<(f64, u32), Error> {
        let ran = self.program.test_run(&PACKET, runs)?;
        Ok((ran.duration.as_nanos() as f64, ran.retval))
    }
    fn empty(&mut self, runs: u32) -> Result<f64, Error> {
        Ok(self.empty.test_run(&PACKET, runs)?.duration.as_nanos() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `ns` nanoseconds a run; answers 7, and `last` at the end of batches.
    struct Fake {
        ns: f64,
        last: u32,
    }

    impl Batches for Fake {
        fn name(&self) -> &'static str {
            "it"
        }
        fn program(&mut self, runs: u32) -> Result<(f64, u32), Error> {
            Ok((self.ns, if runs == 1 { 7 } else { self.last }))
        }
        fn empty(&mut self, _: u32) -> Result<f64, Error> {
            Ok(2.0)
        }
    }

    #[track_caller]
    fn why_not<T>(result: Result<T, Error>) -> String {
        result.err().expect("left out").to_string()
    }

    #[test]
    fn a_batch_has_as_many_runs_as_take_its_time() {
        let runs = |ns| Side::new(Fake { ns, last: 7 }).calibrate();
        assert_eq!(runs(1.0).expect("short"), MOST);
        assert_eq!(runs(1e6).expect("one is enough"), 1);
        let some = runs(100.0).expect("some");
        assert!((3500..=5000).contains(&some), "{some} runs of 100 ns");
        assert_eq!(why_not(runs(6e7)), "one run takes 60 ms");
    }

    #[test]
    fn the_empty_run_is_taken_away_and_answers_stay() {
        let mut side = Side::new(Fake { ns: 102.0, last: 7 });
        assert_eq!(side.first_answer().expect("one answer"), 7);
        side.round().expect("a round");
        side.round().expect("another");
        assert_eq!(side.summary().expect("two"), Summary::of(&[100.0, 100.0]).expect("two"));
        let mut side = Side::new(Fake { ns: 102.0, last: 8 });
        side.first_answer().expect("three single runs");
        assert_eq!(why_not(side.round()), "it answers 7 at first and 8 after many runs");
    }

    #[test]
    fn the_packet_is_whole() {
        let words = PACKET[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        let sum: u32 = words.sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the header's checksum");
        assert_eq!(usize::from(u16::from_be_bytes([PACKET[16], PACKET[17]])), PACKET.len() - 14);
    }
}
