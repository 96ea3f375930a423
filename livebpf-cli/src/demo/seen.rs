//! What the workers saw, and the interpreter's opinion of it.
//!
//! A packet's verdict follows from the packet and its trail (which version of each stage it met). [`Seen`] keeps one
//! verdict for each (packet, trail); a run that answers differently from an earlier one is a mismatch at once. When the workers
//! have stopped, [`Seen::check`] lets the interpreter, in a runtime of its own, run each pair that was seen, with the
//! slots filled as the trail says: it must come to the same verdict, the same trail and (for the runs that were
//! sampled) the same bytes. So every run of a packet that is kept here is checked, though only pairs are run again.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use livebpf::context::Context;
use livebpf::runtime::{Engine, Error, Worker};

use super::chain::{BACKEND, BACKENDS, Chain, STAGES, Version};
use crate::error::CliError;

/// Trails there can be: two bits for each of five stages and the backend.
const TRAILS: usize = 1 << 12;
/// Most packets that are kept. Of a larger capture every so many are.
const MOST: usize = 4096;
/// Most threads that run the interpreter.
const MOST_CHECKERS: usize = 16;
/// Most mismatches that are described.
const DESCRIBED: usize = 10;

/// The verdict of each (packet, trail) that was seen.
pub struct Seen {
    /// One in so many packets is kept.
    stride: usize,
    rows: usize,
    /// Verdict + 1; 0 when the pair was not seen.
    verdicts: Vec<AtomicU8>,
    /// A hash of the packet's bytes after a run; 0 when none was sampled.
    bytes: Vec<AtomicU32>,
    mismatches: AtomicU64,
    described: std::sync::Mutex<Vec<String>>,
}

/// How far the interpreter came.
#[derive(Debug, Default)]
pub struct Checked {
    /// (packet, trail) pairs that were seen.
    pub pairs: u64,
    /// Those that the interpreter ran.
    pub interpreted: u64,
    /// Those whose bytes were compared too.
    pub bytes: u64,
    /// Different trails.
    pub trails: u64,
}

impl Seen {
    /// For a capture of `packets` packets.
    pub fn new(packets: usize) -> Seen {
        let stride = packets.div_ceil(MOST).max(1);
        let rows = packets.div_ceil(stride);
        let mut verdicts = Vec::new();
        verdicts.resize_with(rows * TRAILS, || AtomicU8::new(0));
        let mut bytes = Vec::new();
        bytes.resize_with(rows * TRAILS, || AtomicU32::new(0));
        Seen { stride, rows, verdicts, bytes, mismatches: AtomicU64::new(0), described: Default::default() }
    }

    /// How many packets of the capture are kept.
    pub fn rows(&self) -> usize {
        self.rows
    }

    fn place(&self, packet: usize, trail: u32) -> Option<usize> {
        let (row, trail) = (packet / self.stride, trail as usize);
        (packet.is_multiple_of(self.stride) && trail < TRAILS).then(|| row * TRAILS + trail)
    }

    /// Notes a run; answers whether it is one that will be checked. `bytes` are the packet's after it, for a sample.
    #[inline]
    pub fn note(&self, packet: usize, trail: u32, verdict: u32, bytes: Option<&[u8]>) -> bool {
        let Some(place) = self.place(packet, trail) else {
            if trail as usize >= TRAILS {
                self.mismatch(|| format!("packet {packet}: the trail {trail:#x} is none"));
            }
            return false;
        };
        let Some(mark) = u8::try_from(verdict).ok().filter(|v| *v < 5).map(|v| v + 1) else {
            self.mismatch(|| format!("packet {packet}, trail {trail:03x}: the verdict {verdict} is none"));
            return true;
        };
        agree(self.verdicts[place].load(Ordering::Relaxed), mark, |new| {
            self.verdicts[place]
                .compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed)
                .unwrap_or_else(|now| now)
        })
        .unwrap_or_else(|before| {
            let before = before - 1;
            self.mismatch(|| format!("packet {packet}, trail {trail:03x}: verdict {verdict} now, {before} before"));
        });
        if let Some(bytes) = bytes {
            let hash = hash(bytes);
            let before = self.bytes[place].swap(hash, Ordering::Relaxed);
            if before != 0 && before != hash {
                self.mismatch(|| {
                    format!("packet {packet}, trail {trail:03x}: the bytes differ from those of a run before")
                });
            }
        }
        true
    }

    /// Counts a mismatch, and keeps the description of the first few.
    #[cold]
    pub fn mismatch(&self, describe: impl FnOnce() -> String) {
        self.mismatches.fetch_add(1, Ordering::Relaxed);
        let mut described = self.described.lock().unwrap_or_else(|e| e.into_inner());
        if described.len() < DESCRIBED {
            described.push(describe());
        }
    }

    /// Mismatches so far, and the description of the first few.
    pub fn mismatches(&self) -> (u64, Vec<String>) {
        let described = self.described.lock().unwrap_or_else(|e| e.into_inner());
        (self.mismatches.load(Ordering::Relaxed), described.clone())
    }

    /// Lets the interpreter run what was seen, on all cores, until `end` at the latest.
    pub fn check(&self, packets: &[Vec<u8>], end: Instant) -> Result<Checked, CliError> {
        let threads = thread::available_parallelism().map_or(1, |n| n.get()).min(MOST_CHECKERS);
        thread::scope(|scope| {
            let part = |n| scope.spawn(move || self.check_part(packets, end, n, threads));
            let parts: Vec<_> = (0..threads).map(part).collect();
            let mut checked = Checked::default();
            for part in parts {
                let part = part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                checked.pairs += part.pairs;
                checked.interpreted += part.interpreted;
                checked.bytes += part.bytes;
                checked.trails += part.trails;
            }
            Ok(checked)
        })
    }

    /// Every `parts`th trail that was seen, beginning with number `part`.
    fn check_part(&self, packets: &[Vec<u8>], end: Instant, part: usize, parts: usize) -> Result<Checked, CliError> {
        let chain = Chain::load(Engine::Interp, 1, None)?;
        let mut interpreter = Interpreter { worker: chain.runtime.worker()?, chain: &chain, context: None };
        let (mut checked, mut seen) = (Checked::default(), 0);
        for trail in 0..TRAILS as u32 {
            let verdict = |row: usize| self.verdicts[row * TRAILS + trail as usize].load(Ordering::Relaxed);
            let rows: Vec<usize> = (0..self.rows).filter(|row| verdict(*row) != 0).collect();
            seen += usize::from(!rows.is_empty());
            if rows.is_empty() || seen % parts != part {
                continue;
            }
            checked.trails += 1;
            checked.pairs += rows.len() as u64;
            interpreter.configure(trail)?;
            for row in rows {
                if Instant::now() >= end {
                    break;
                }
                checked.interpreted += 1;
                checked.bytes += u64::from(self.check_pair(&mut interpreter, packets, row, trail)?);
            }
        }
        Ok(checked)
    }

    /// One pair; answers whether its bytes were compared.
    fn check_pair(
        &self,
        interpreter: &mut Interpreter<'_>,
        packets: &[Vec<u8>],
        row: usize,
        trail: u32,
    ) -> Result<bool, CliError> {
        let (packet, place) = (row * self.stride, row * TRAILS + trail as usize);
        let found = u32::from(self.verdicts[place].load(Ordering::Relaxed)) - 1;
        let (wanted, wanted_trail) = interpreter.run(&packets[packet])?;
        if (found, trail) != (wanted, wanted_trail) {
            self.mismatch(|| {
                let said = format!("the interpreter says verdict {wanted}, trail {wanted_trail:03x}");
                format!("packet {packet}: verdict {found}, trail {trail:03x}; {said}")
            });
        }
        let bytes = self.bytes[place].load(Ordering::Relaxed);
        if bytes != 0 && bytes != hash(&interpreter.packet()) {
            self.mismatch(|| format!("packet {packet}, trail {trail:03x}: the interpreter leaves other bytes"));
        }
        Ok(bytes != 0)
    }
}

/// Whether `mark` is what stands there (`now`, or after `put` has been tried where nothing stands); if not, what does.
#[inline]
fn agree(now: u8, mark: u8, put: impl FnOnce(u8) -> u8) -> Result<(), u8> {
    let there = if now == 0 { put(mark) } else { now };
    if there == 0 || there == mark { Ok(()) } else { Err(there) }
}

/// FNV-1a, never 0.
fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)).max(1)
}

struct Interpreter<'a> {
    chain: &'a Chain,
    worker: Worker,
    context: Option<Context>,
}

impl Interpreter<'_> {
    /// Fills the slots so that a packet meets what the trail says. What it does not ask for makes no difference.
    fn configure(&self, trail: u32) -> Result<(), Error> {
        let met = |stage: usize| trail >> (2 * stage) & 3;
        let emptied = |result: Result<(), Error>| match result {
            Err(Error::Map { source, .. }) if source.errno() == ENOENT => Ok(()),
            other => other,
        };
        for stage in 0..STAGES.len() {
            match met(stage) {
                1 => self.chain.put(stage, Version::First)?,
                2 => self.chain.put(stage, Version::Second)?,
                3 => emptied(self.chain.take(stage))?,
                _ => {}
            }
        }
        for backend in 0..BACKENDS {
            match met(BACKEND) {
                1 => self.chain.put_backend(backend)?,
                3 => emptied(self.chain.backends.clear_index(backend))?,
                _ => {}
            }
        }
        Ok(())
    }

    fn run(&mut self, packet: &[u8]) -> Result<(u32, u32), CliError> {
        let refused = |e: livebpf::context::ContextError| CliError::refused(e.to_string());
        let context = match &mut self.context {
            Some(context) => {
                context.reset(packet).map_err(refused)?;
                context
            }
            none => none.insert(Context::xdp(packet).map_err(refused)?),
        };
        let verdict = self.worker.run(self.chain.entry()?, context).map_err(Error::from)?;
        Ok((verdict, self.chain.trail(self.worker.cpu())?))
    }

    fn packet(&self) -> Vec<u8> {
        self.context.as_ref().map_or_else(Vec::new, Context::packet)
    }
}

/// The kernel's number for "no such entry".
const ENOENT: i32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_opinion_on_a_pair_is_a_mismatch() {
        let seen = Seen::new(3);
        assert!(seen.note(1, 0x455, 3, None) && seen.note(1, 0x455, 3, None) && seen.note(1, 0x456, 1, Some(&[1])));
        assert_eq!(seen.mismatches().0, 0);
        assert!(seen.note(1, 0x455, 1, None) && seen.note(2, 0, 5, None) && seen.note(1, 0x456, 1, Some(&[2])));
        assert!(!seen.note(0, 0x1000, 1, None));
        let (count, described) = seen.mismatches();
        assert_eq!(count, 4);
        assert_eq!(described[0], "packet 1, trail 455: verdict 1 now, 3 before");
    }

    #[test]
    fn of_a_large_capture_every_so_many_packets_are_kept() {
        let seen = Seen::new(10_000);
        assert_eq!((seen.stride, seen.rows()), (3, 3334));
        let kept = (0..10_000).filter(|packet| seen.note(*packet, 1, 2, None)).count();
        assert_eq!(kept, 3334);
    }
}
