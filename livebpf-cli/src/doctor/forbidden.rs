//! The forbidden-state test: real threads run the demo's chain while slots are filled and emptied.
//!
//! Two packets. A malformed one takes the entry and, through one slot, `drop`. A TCP packet takes the entry, `balance`,
//! its subprogram, a backend and `count`. What each may answer follows from what it wrote down about the slots it asked
//! ([`allowed`]). Between updates it must answer exactly what the slots hold: an update that has returned is seen by every run
//! that starts afterwards.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use livebpf::context::Context;
use livebpf::runtime::{Engine, Error};
use serde_json::{Value, json};

use crate::demo::chain::{BACKENDS, Chain, Version};
use crate::error::CliError;

/// Stages, by their slots.
const ACL: usize = 0;
const CONNTRACK: usize = 1;
/// Those that the writer fills and empties; the backends, all four together, come after them.
const TOGGLED: [usize; 3] = [2, 3, 4];
/// Bit of the backends in a state; bit n before it stands for `TOGGLED[n]`.
const BACKENDS_BIT: usize = TOGGLED.len();
/// Runs between two looks at the clock.
const BATCH: usize = 32;

/// What was found.
#[derive(Debug, Default)]
pub struct Forbidden {
    engine: &'static str,
    updates: u64,
    runs: u64,
    /// Runs during which no update was going on.
    exact: u64,
    /// Runs with a result that must not be.
    pub wrong: u64,
    first_wrong: Option<String>,
    /// Sites whose code was compared with their slots.
    sites: usize,
}

/// Runs the test for `time`.
pub fn run(engine: Engine, time: Duration) -> Result<Forbidden, CliError> {
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    let chain = Chain::load(engine, cpus, None)?;
    chain.take(ACL)?;
    chain.take(CONNTRACK)?;
    let test = Test { chain, stamp: Stamp::default(), stop: AtomicBool::new(false) };
    test.stamp.0.store(0xf, Ordering::SeqCst);
    let mut found = std::thread::scope(|scope| {
        let runners: Vec<_> = (0..cpus).map(|_| scope.spawn(|| test.runner())).collect();
        let updates = test.writer(Instant::now() + time);
        test.stop.store(true, Ordering::Relaxed);
        let mut found = Forbidden { engine: engine.name(), updates: updates?, ..Forbidden::default() };
        for runner in runners {
            let seen = runner.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            found.runs += seen.runs;
            found.exact += seen.exact;
            found.wrong += seen.wrong;
            found.first_wrong = found.first_wrong.or(seen.first_wrong);
        }
        Ok::<_, CliError>(found)
    })?;
    test.chain.runtime.barrier()?;
    for array in [&test.chain.stages, &test.chain.backends] {
        match array.audit()? {
            Ok(sites) => found.sites = found.sites.max(sites),
            Err(difference) => {
                found.wrong += 1;
                found.first_wrong.get_or_insert(difference);
            }
        }
    }
    Ok(found)
}

/// What the slots hold: a bit each, above them a number that is odd while an update is going on.
#[derive(Default)]
struct Stamp(AtomicU64);

impl Stamp {
    const STEP: u64 = 1 << 8;

    fn change(&self, bit: usize, update: impl FnOnce(bool) -> Result<(), Error>) -> Result<(), Error> {
        let before = self.0.load(Ordering::SeqCst);
        self.0.store(before + Stamp::STEP, Ordering::SeqCst);
        update(before & 1 << bit == 0)?;
        self.0.store((before ^ 1 << bit) + 2 * Stamp::STEP, Ordering::SeqCst);
        Ok(())
    }

    /// The state, when none is on its way to another one.
    fn settled(&self) -> Option<u64> {
        Some(self.0.load(Ordering::SeqCst)).filter(|word| word & Stamp::STEP == 0)
    }
}

struct Test {
    chain: Chain,
    stamp: Stamp,
    stop: AtomicBool,
}

impl Test {
    /// Fills and empties the slots in turn. Answers how many updates it made.
    fn writer(&self, end: Instant) -> Result<u64, CliError> {
        let mut updates = 0;
        for turn in (0..=BACKENDS_BIT).cycle() {
            if Instant::now() >= end || self.stop.load(Ordering::Relaxed) {
                break;
            }
            self.stamp.change(turn, |fill| match (TOGGLED.get(turn), fill) {
                (Some(stage), true) => self.chain.put(*stage, Version::First),
                (Some(stage), false) => self.chain.take(*stage),
                (None, true) => (0..BACKENDS).try_for_each(|backend| self.chain.put_backend(backend)),
                (None, false) => (0..BACKENDS).try_for_each(|backend| self.chain.backends.clear_index(backend)),
            })?;
            updates += if turn == BACKENDS_BIT { u64::from(BACKENDS) } else { 1 };
            // So that some runs find a settled state.
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(updates)
    }

    fn runner(&self) -> Result<Forbidden, CliError> {
        let result = self.run_packets();
        if result.is_err() {
            self.stop.store(true, Ordering::Relaxed);
        }
        result
    }

    fn run_packets(&self) -> Result<Forbidden, CliError> {
        let mut worker = self.chain.runtime.worker()?;
        let (cpu, entry) = (worker.cpu(), self.chain.entry()?);
        let packets = [malformed(), tcp()];
        let context = |packet: &Vec<u8>| Context::xdp(packet).map_err(|e| CliError::refused(e.to_string()));
        let mut contexts = packets.iter().map(context).collect::<Result<Vec<_>, _>>()?;
        let mut seen = Forbidden::default();
        while !self.stop.load(Ordering::Relaxed) {
            for turn in 0..BATCH {
                let kind = turn % 2;
                let before = self.stamp.settled();
                let verdict = worker.run(entry, &mut contexts[kind]).map_err(Error::from)?;
                let exact = before.filter(|before| self.stamp.settled() == Some(*before));
                let trail = self.chain.trail(cpu)?;
                seen.runs += 1;
                seen.exact += u64::from(exact.is_some());
                let right = match exact {
                    Some(state) => expected(kind, state) == (verdict, trail),
                    None => allowed(kind).contains(&(verdict, trail)),
                };
                if !right {
                    seen.wrong += 1;
                    seen.first_wrong.get_or_insert_with(|| {
                        format!("packet {kind}: verdict {verdict}, trail {trail:03x}, slots {exact:x?}")
                    });
                }
            }
        }
        Ok(seen)
    }
}

/// (verdict, trail) of packet `kind` when the slots hold what `state` says.
fn expected(kind: usize, state: u64) -> (u32, u32) {
    let met = |bit: usize| if state & 1 << bit != 0 { 1u32 } else { 3 };
    let [balance, count, drop, backend] = [met(0), met(1), met(2), met(BACKENDS_BIT)];
    if kind == 0 {
        return (u32::from(drop == 1), drop << 8);
    }
    let trail = 0xf | balance << 4 | count << 6;
    match (balance, backend) {
        (1, 1) => (3, trail | 1 << 10),
        (1, _) => (2, trail | 3 << 10),
        _ => (2, trail),
    }
}

/// What packet `kind` may answer whatever the slots hold, and whenever they change.
fn allowed(kind: usize) -> Vec<(u32, u32)> {
    (0..16).map(|state| expected(kind, state)).collect()
}

/// IPv4 that ends inside its header.
fn malformed() -> Vec<u8> {
    let mut packet = vec![0u8; 14];
    packet[12..].copy_from_slice(&[0x08, 0x00]);
    packet.extend([0x45, 0, 0, 20]);
    packet
}

/// A TCP segment from 192.0.2.1:40000 to 192.0.2.2:8080 with ACK.
fn tcp() -> Vec<u8> {
    let mut packet = vec![0u8; 14];
    packet[12..].copy_from_slice(&[0x08, 0x00]);
    packet.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    packet.extend([0x9c, 0x40, 0x1f, 0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0]);
    packet
}

impl Forbidden {
    pub fn text(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "engine {}: {} updates, {} runs, {} of them between updates, {} sites compared, {} wrong",
            self.engine, self.updates, self.runs, self.exact, self.sites, self.wrong
        )];
        lines.extend(self.first_wrong.iter().map(|wrong| format!("WRONG: {wrong}")));
        lines
    }

    pub fn json(&self) -> Value {
        json!({
            "engine": self.engine, "updates": self.updates, "runs": self.runs, "runs_between_updates": self.exact,
            "sites": self.sites, "wrong": self.wrong, "first_wrong": self.first_wrong,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_is_what_the_interpreter_does() {
        let chain = Chain::load(Engine::Interp, 1, None).unwrap();
        chain.take(ACL).unwrap();
        chain.take(CONNTRACK).unwrap();
        let mut worker = chain.runtime.worker().unwrap();
        for state in 0..16u64 {
            for (bit, stage) in TOGGLED.into_iter().enumerate() {
                chain.put(stage, Version::First).unwrap();
                if state & 1 << bit == 0 {
                    chain.take(stage).unwrap();
                }
            }
            for backend in 0..BACKENDS {
                chain.put_backend(backend).unwrap();
                if state & 1 << BACKENDS_BIT == 0 {
                    chain.backends.clear_index(backend).unwrap();
                }
            }
            for (kind, packet) in [malformed(), tcp()].iter().enumerate() {
                let mut context = Context::xdp(packet).unwrap();
                let verdict = worker.run(chain.entry().unwrap(), &mut context).unwrap();
                let found = (verdict, chain.trail(worker.cpu()).unwrap());
                assert_eq!(found, expected(kind, state), "packet {kind}, state {state:x}");
            }
        }
    }
}
