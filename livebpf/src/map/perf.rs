//! Perf event arrays: an entry per CPU that somebody may listen to, and what programs have sent there.
//!
//! The kernel's entries are perf events that a user opens; here [`Events::open`] makes a ring of bytes. What is sent where
//! nobody listens, or does not fit, is not sent, and the program is told.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::MapError;
use super::cell::Slice;
use super::ring::Ring;

/// The entries of a perf event array.
pub(super) struct Events {
    entries: Box<[Entry]>,
}

#[derive(Default)]
struct Entry {
    ring: OnceLock<Ring>,
    lost: AtomicU64,
}

/// Longest record (what the kernel's header can say).
const RECORD_MAX: usize = u16::MAX as usize - 24;

impl Events {
    pub(super) fn new(entries: u32) -> Events {
        Events { entries: (0..entries).map(|_| Entry::default()).collect() }
    }

    /// Whether anybody listens at `index`.
    pub(super) fn is_open(&self, index: u32) -> bool {
        self.ring(index).is_some()
    }

    pub(super) fn ring(&self, index: u32) -> Option<&Ring> {
        self.entries.get(index as usize)?.ring.get()
    }

    /// Records that did not fit so far.
    pub(super) fn lost(&self, index: u32) -> u64 {
        self.entries.get(index as usize).map_or(0, |entry| entry.lost.load(Ordering::Relaxed))
    }

    /// Starts to listen: `size` bytes are kept until they are read, a power of two. `E2BIG`, `EINVAL`, `EEXIST`, `ENOMEM`.
    pub(super) fn open(&self, index: u32, size: u32) -> Result<(), MapError> {
        let max_entries = self.entries.len() as u32;
        let entry = self.entries.get(index as usize).ok_or(MapError::IndexTooBig { index, max_entries })?;
        if !size.is_power_of_two() || size < 64 {
            return Err(MapError::Invalid(format!("size is {size}, wanted a power of two from 64 on").into()));
        }
        let ring = Ring::new(size).map_err(|error| MapError::NoMemory(error.to_string().into()))?;
        entry.ring.set(ring).map_err(|_| MapError::Exists)
    }

    /// Sends `data` and `packet` as one record. `E2BIG` past the end and for too long a one, `ENOENT`, `ENOSPC`.
    pub(super) fn output(&self, index: u32, data: Slice<'_>, packet: Slice<'_>) -> Result<(), MapError> {
        let max_entries = self.entries.len() as u32;
        let entry = self.entries.get(index as usize).ok_or(MapError::IndexTooBig { index, max_entries })?;
        let ring = entry.ring.get().ok_or(MapError::NotFound)?;
        if data.len() + packet.len() > RECORD_MAX {
            return Err(MapError::TooBig("the record is longer than 65511 bytes".into()));
        }
        if ring.output(&[data, packet]) {
            return Ok(());
        }
        entry.lost.fetch_add(1, Ordering::Relaxed);
        Err(MapError::NoSpace)
    }
}
