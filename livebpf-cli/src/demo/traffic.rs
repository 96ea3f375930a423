//! The workers: each runs the capture through the chain, over and over, and notes what every packet met.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use livebpf::context::Context;
use livebpf::runtime::Error;

use super::chain::Chain;
use super::seen::Seen;
use crate::error::CliError;

/// Runs in one read-side section.
const BATCH: usize = 64;
/// One in so many runs has its bytes sampled.
const SAMPLE: u64 = 61;

/// What all workers share.
pub struct Traffic<'a> {
    pub chain: &'a Chain,
    pub packets: &'a [Vec<u8>],
    pub seen: &'a Seen,
    /// Workers go on until this is set.
    pub stop: &'a AtomicBool,
    /// Runs so far, of all workers.
    pub runs: &'a AtomicU64,
}

/// What one worker did.
#[derive(Debug, Default, Clone, Copy)]
pub struct Work {
    /// Runs.
    pub runs: u64,
    /// Runs whose verdict is checked.
    pub checked: u64,
}

impl Traffic<'_> {
    /// Runs packets, from number `first` on, until it is told to stop. Sets `stop` when it fails.
    pub fn work(&self, first: usize) -> Result<Work, CliError> {
        let result = self.run(first);
        if result.is_err() {
            self.stop.store(true, Ordering::Relaxed);
        }
        result
    }

    fn run(&self, first: usize) -> Result<Work, CliError> {
        let refused = |e: livebpf::context::ContextError| CliError::refused(e.to_string());
        let mut worker = self.chain.runtime.worker()?;
        let (cpu, entry) = (worker.cpu(), self.chain.entry()?);
        let mut packet = first % self.packets.len();
        let mut context = Context::xdp(&self.packets[packet]).map_err(refused)?;
        let (mut work, mut bytes) = (Work::default(), Vec::new());
        while !self.stop.load(Ordering::Relaxed) {
            let mut section = worker.pin().map_err(Error::from)?;
            for _ in 0..BATCH {
                context.reset(&self.packets[packet]).map_err(refused)?;
                let verdict = section.run(entry, &mut context).map_err(Error::from)?;
                let trail = self.chain.trail(cpu)?;
                work.runs += 1;
                let sample = work.runs.is_multiple_of(SAMPLE).then(|| {
                    context.packet_into(&mut bytes);
                    &bytes[..]
                });
                work.checked += u64::from(self.seen.note(packet, trail, verdict, sample));
                packet = if packet + 1 == self.packets.len() { 0 } else { packet + 1 };
            }
            drop(section);
            self.runs.fetch_add(BATCH as u64, Ordering::Relaxed);
        }
        Ok(work)
    }
}
