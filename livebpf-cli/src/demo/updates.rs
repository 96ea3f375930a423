//! The updater: inserts, replaces and deletes stages and backends while packets are on their way, and takes the time of each.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use livebpf::runtime::Error;

use super::chain::{BACKENDS, Chain, STAGES, Version};

/// Between two updates, so that packets get somewhere.
const PAUSE: Duration = Duration::from_micros(100);

/// A kind of update.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Insert,
    Replace,
    Delete,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Insert, Kind::Replace, Kind::Delete];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Insert => "insert",
            Kind::Replace => "replace",
            Kind::Delete => "delete",
        }
    }
}

/// How long the updates of one kind took, in nanoseconds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    pub count: usize,
    pub min: u64,
    pub median: u64,
    pub max: u64,
}

impl Latency {
    fn of(times: &mut [u64]) -> Latency {
        times.sort_unstable();
        let at = |n: usize| times.get(n).copied().unwrap_or(0);
        Latency { count: times.len(), min: at(0), median: at(times.len() / 2), max: at(times.len().saturating_sub(1)) }
    }
}

/// What the updater does, and until when.
pub struct Updater<'a> {
    pub chain: &'a Chain,
    /// Goes on until then,
    pub until: Instant,
    /// and until there are so many of each kind,
    pub least: usize,
    /// but no longer than this.
    pub limit: Instant,
    /// Or somebody sets this.
    pub stop: &'a AtomicBool,
    /// Updates so far.
    pub done: &'a AtomicU64,
}

/// What the slots hold.
struct Slots {
    stages: [Option<Version>; STAGES.len()],
    backends: [bool; BACKENDS as usize],
}

impl Updater<'_> {
    /// Updates. All slots are filled when it begins, and again when it has ended. Answers the latencies by [`Kind`].
    pub fn run(&self) -> Result<[Latency; 3], Error> {
        let mut times: [Vec<u64>; 3] = Default::default();
        let mut slots = Slots { stages: [Some(Version::First); STAGES.len()], backends: [true; BACKENDS as usize] };
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let goes_on = |times: &[Vec<u64>; 3]| {
            let (now, few) = (Instant::now(), times.iter().any(|t| t.len() < self.least));
            !self.stop.load(Ordering::Relaxed) && (now < self.until || few && now < self.limit)
        };
        while goes_on(&times) {
            let start = Instant::now();
            let kind = self.one(&mut slots, &mut random)?;
            times[kind as usize].push(start.elapsed().as_nanos() as u64);
            self.done.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(PAUSE);
        }
        for stage in 0..STAGES.len() {
            self.chain.put(stage, Version::First)?;
        }
        for backend in 0..BACKENDS {
            self.chain.put_backend(backend)?;
        }
        Ok(times.map(|mut times| Latency::of(&mut times)))
    }

    /// One update of a slot chosen at random. A filled stage is as often replaced as it is deleted.
    fn one(&self, slots: &mut Slots, random: &mut Random) -> Result<Kind, Error> {
        let which = random.below(STAGES.len() + 1);
        if which == STAGES.len() {
            let backend = random.below(BACKENDS as usize);
            slots.backends[backend] = !slots.backends[backend];
            return if slots.backends[backend] {
                self.chain.put_backend(backend as u32).map(|()| Kind::Insert)
            } else {
                self.chain.backends.clear_index(backend as u32).map(|()| Kind::Delete)
            };
        }
        let slot = &mut slots.stages[which];
        match *slot {
            None => {
                let version = if random.below(2) == 0 { Version::First } else { Version::Second };
                *slot = Some(version);
                self.chain.put(which, version).map(|()| Kind::Insert)
            }
            Some(version) if random.below(2) == 0 => {
                *slot = Some(version.other());
                self.chain.put(which, version.other()).map(|()| Kind::Replace)
            }
            Some(_) => {
                *slot = None;
                self.chain.take(which).map(|()| Kind::Delete)
            }
        }
    }
}

/// Pseudo-random numbers (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_of_none_one_and_several() {
        assert_eq!(Latency::of(&mut []), Latency::default());
        assert_eq!(Latency::of(&mut [7]), Latency { count: 1, min: 7, median: 7, max: 7 });
        assert_eq!(Latency::of(&mut [9, 1, 5, 3]), Latency { count: 4, min: 1, median: 5, max: 9 });
    }
}
