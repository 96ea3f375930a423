//! The demo: all cores run a chain of XDP programs, while another thread inserts, replaces and deletes its stages.
//!
//! A quiet part first, then the updates; then the counts must add up, and the interpreter must agree with every verdict.
//! Exit status 1 when anything does not match. Needs no terminal, no privileges and no files: object and capture are
//! built in.

pub mod chain;
mod counts;
mod report;
mod seen;
mod site;
mod traffic;
mod updates;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use livebpf::runtime::Engine;

use crate::error::CliError;
use crate::output::{Answer, Output};
use crate::pcap::{self, Capture};
use chain::Chain;
use counts::Counts;
use report::{Rate, Report};
use seen::Seen;
use traffic::{Traffic, Work};
use updates::Updater;

static TRAFFIC: &[u8] = include_bytes!("../../assets/demo/traffic.pcap");

/// Updates of each kind that there must be.
const LEAST_UPDATES: usize = 1000;
/// However slow the machine is, updating stops after this, unless more time is asked for.
const LONGEST: Duration = Duration::from_secs(13);
/// Most time for the interpreter.
const CHECKING: Duration = Duration::from_secs(5);

/// `demo [--pcap FILE] [--seconds N]`
#[derive(clap::Args, Debug, Clone)]
pub struct DemoArgs {
    /// Run the packets of this capture (pcap or pcapng) instead of the built-in ones.
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// How long packets run; longer where fewer than 1,000 updates of each kind have been made.
    #[arg(long, value_name = "N", default_value = "5", value_parser = crate::args::seconds)]
    pub seconds: Duration,
    /// Put a program that does not do what it says in the place of this stage, to see the demo fail.
    #[arg(long = "break", value_name = "STAGE", value_parser = ["acl"])]
    pub broken: Option<String>,
}

impl Default for DemoArgs {
    fn default() -> DemoArgs {
        DemoArgs { pcap: None, seconds: Duration::from_secs(5), broken: None }
    }
}

/// Runs the demo and prints its report; answers the exit status.
pub fn run(engine: Engine, args: &DemoArgs, output: Output) -> Result<u8, CliError> {
    let capture = match &args.pcap {
        None => pcap::read(TRAFFIC).map_err(|e| CliError::refused(e.to_string()))?,
        Some(path) => pcap::read_file(path).map_err(|e| CliError::refused(format!("{}: {e}", path.display())))?,
    };
    let cpus = thread::available_parallelism().map_or(1, |n| n.get() as u32);
    let progress = Progress::new();
    progress.line(&format!("loading and verifying the chain for {cpus} workers"));
    let chain = Chain::load(engine, cpus, args.broken.as_deref())?;
    let report = Demo { chain, capture, args, progress }.run()?;
    output.answer(&Answer::new(report.json(), report.text()))?;
    Ok(u8::from(report.mismatches > 0))
}

struct Demo<'a> {
    chain: Chain,
    capture: Capture,
    args: &'a DemoArgs,
    progress: Progress,
}

/// What came of running packets and updates side by side.
struct Ran {
    work: Work,
    latencies: [updates::Latency; 3],
    /// Before there were updates.
    quiet: Rate,
    /// While there were.
    updated: Rate,
}

impl Demo<'_> {
    fn run(&self) -> Result<Report, CliError> {
        let site = site::snapshots(&self.chain)?;
        let seen = Seen::new(self.capture.packets.len());
        let ran = self.run_packets(&seen)?;
        self.chain.runtime.barrier()?;
        let mut sites = 0;
        for array in [&self.chain.stages, &self.chain.backends] {
            match array.audit()? {
                Ok(looked) => sites = sites.max(looked),
                Err(difference) => seen.mismatch(|| difference),
            }
        }
        let counts = Counts::read(&self.chain)?;
        for wrong in counts.wrong(ran.work.runs) {
            seen.mismatch(|| wrong);
        }
        self.progress.line("checking the verdicts with the interpreter");
        let checked = seen.check(&self.capture.packets, Instant::now() + CHECKING)?;
        for (kind, latency) in updates::Kind::ALL.iter().zip(&ran.latencies) {
            if latency.count < LEAST_UPDATES {
                let name = kind.name();
                seen.mismatch(|| format!("only {} updates of kind {name}, wanted {LEAST_UPDATES}", latency.count));
            }
        }
        let (mismatches, described) = seen.mismatches();
        Ok(Report {
            engine: self.chain.runtime.engine(),
            workers: self.chain.runtime.cpus(),
            capture_name: self.args.pcap.as_ref().map(|path| path.display().to_string()),
            packets_in_capture: self.capture.packets.len(),
            packets_checked: seen.rows(),
            notes: self.capture.notes(),
            ran,
            counts,
            checked,
            sites,
            site,
            mismatches,
            described,
        })
    }

    /// Workers on all cores; after a fifth of the time the updater as well.
    fn run_packets(&self, seen: &Seen) -> Result<Ran, CliError> {
        let (stop, runs, done) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        let packets = &self.capture.packets;
        let traffic = Traffic { chain: &self.chain, packets, seen, stop: &stop, runs: &runs };
        let workers = self.chain.runtime.cpus() as usize;
        thread::scope(|scope| {
            let start = Instant::now();
            let handles: Vec<_> = (0..workers)
                .map(|n| {
                    let traffic = &traffic;
                    scope.spawn(move || traffic.work(n * packets.len() / workers))
                })
                .collect();
            // Dropped on every way out, so that the workers end.
            let _stop = StopOnDrop(&stop);
            let watch = Watch { progress: &self.progress, runs: &runs, done: &done, start };
            watch.sleep_until(start + self.args.seconds / 5, || stop.load(Ordering::Relaxed));
            let (quiet_runs, quiet_end) = (runs.load(Ordering::Relaxed), Instant::now());
            let until = start + self.args.seconds;
            let updater = Updater {
                chain: &self.chain,
                until,
                least: LEAST_UPDATES,
                limit: until.max(start + LONGEST),
                stop: &stop,
                done: &done,
            };
            let updating = scope.spawn(move || updater.run());
            watch.sleep_until(until + LONGEST, || updating.is_finished());
            let latencies = joined(updating)?;
            let (all_runs, end) = (runs.load(Ordering::Relaxed), Instant::now());
            stop.store(true, Ordering::Relaxed);
            let mut work = Work::default();
            for handle in handles {
                let one = joined(handle)?;
                work.runs += one.runs;
                work.checked += one.checked;
            }
            let quiet = Rate { runs: quiet_runs, time: quiet_end - start };
            let updated = Rate { runs: all_runs - quiet_runs, time: end - quiet_end };
            Ok(Ran { work, latencies, quiet, updated })
        })
    }
}

/// A thread's answer; its panic is passed on.
fn joined<T>(handle: ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What is going on, on standard error: one line that is written over on a terminal, else a line a second.
struct Progress {
    terminal: bool,
}

impl Progress {
    fn new() -> Progress {
        Progress { terminal: std::io::stderr().is_terminal() }
    }

    fn line(&self, text: &str) {
        if self.terminal {
            eprint!("\r\x1b[K{text}");
        } else {
            eprintln!("{text}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

/// Tells how far packets and updates are.
struct Watch<'a> {
    progress: &'a Progress,
    runs: &'a AtomicU64,
    done: &'a AtomicU64,
    start: Instant,
}

impl Watch<'_> {
    /// Waits until then, or until `over`.
    fn sleep_until(&self, end: Instant, over: impl Fn() -> bool) {
        let step = Duration::from_millis(if self.progress.terminal { 100 } else { 1000 });
        let mut next = self.start + step;
        while Instant::now() < end && !over() {
            thread::sleep(Duration::from_millis(20));
            let now = Instant::now();
            if now >= next {
                next = now + step;
                let (runs, done) = (self.runs.load(Ordering::Relaxed), self.done.load(Ordering::Relaxed));
                let seconds = (now - self.start).as_secs_f64();
                let millions = runs as f64 / 1e6;
                self.progress.line(&format!("{seconds:4.1} s  {millions:8.2} million packets  {done:7} updates"));
            }
        }
    }
}
