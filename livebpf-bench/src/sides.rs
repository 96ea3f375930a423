//! What a contestant has to offer to be measured: slots that can be changed, and a program that tail calls through them.

use livebpf::runtime::Completion;

use crate::error::Error;
use crate::programs::{MISSED, VERSIONS};

/// A program array, and one program with direct tail calls through it.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Slots of the array.
    pub slots: u32,
    /// Tail calls, spread over the slots; at most 1024, the kernel's limit for a program.
    pub sites: u32,
}

/// Set up: slot 0 and all others hold version 0.
pub struct Pair {
    /// Declared first: its sites are gone before the array is.
    pub runner: Box<dyn Runner + Send>,
    pub slots: Box<dyn Slots>,
}

/// Slots, changed from any thread.
pub trait Slots: Send + Sync {
    /// Puts `version` into `slot`; when this returns, runs that start see it.
    fn set(&self, slot: u32, version: usize) -> Result<(), Error>;
    /// The same, asked for and not waited for, where the contestant has such a thing: then runs see it when the completion reports.
    fn set_async(&self, slot: u32, version: usize) -> Result<Option<Completion>, Error> {
        self.set(slot, version).map(|()| None)
    }
    /// Empties `slot`; when this returns, runs that start see it.
    fn clear(&self, slot: u32) -> Result<(), Error>;
    /// Puts `version` into all of the first `slots` slots, at once where the contestant can do that.
    fn set_all(&self, slots: u32, version: usize) -> Result<(), Error> {
        (0..slots).try_for_each(|slot| self.set(slot, version))
    }
    /// Waits until nothing is left to be done of the updates so far.
    fn settle(&self) -> Result<(), Error>;
}

/// A batch of runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Batch {
    /// Nanoseconds a run, on average, by the contestant's best clock.
    pub ns: f64,
    /// The same by the clock on the wall, with whatever it takes to start a batch.
    pub wall_ns: f64,
    /// What the last run answered.
    pub answer: u32,
}

/// The program with the tail calls.
pub trait Runner {
    /// Runs it `runs` times in one go.
    fn batch(&mut self, runs: u32) -> Result<Batch, Error>;

    /// Most runs in one go, where there is a limit.
    fn most(&self) -> Option<u32> {
        None
    }

    /// One run that must find what slot 0 holds.
    fn check(&mut self, slot: Option<usize>) -> Result<(), Error> {
        let (wanted, meant) = match slot {
            Some(version) => (VERSIONS[version], "the answer of the program in the slot"),
            None => (MISSED, "7, for an empty slot"),
        };
        let found = self.batch(1)?.answer;
        if found == wanted { Ok(()) } else { Err(Error::Answer { found, wanted: meant }) }
    }
}
