//! Where packets can be redirected to: device maps, CPU maps, socket maps of AF_XDP, as data.
//!
//! The kernel's entries are devices, CPUs and sockets; here they are the numbers that a user writes: an interface's index, a queue
//! size, a socket. `bpf_redirect_map` finds out whether there is an entry and writes the answer down.

use super::cell::{OutOfMemory, Slice};
use super::hash::{self, Hash};
use super::{MapError, check_flags};
use crate::object::MapType;

/// The entries of such a map.
pub(super) struct Targets {
    entries: Hash,
    map_type: MapType,
    max_entries: u32,
}

/// Longest queue of a CPU.
const QUEUE_MAX: u32 = 16_384;

impl Targets {
    pub(super) fn new(map_type: MapType, value_size: u32, max_entries: u32) -> Result<Targets, OutOfMemory> {
        Ok(Targets { entries: Hash::new(4, value_size, max_entries, 1)?, map_type, max_entries })
    }

    /// Whether its keys are indices.
    fn is_array(&self) -> bool {
        self.map_type != MapType::DEVMAP_HASH
    }

    #[inline]
    pub(super) fn lookup(&self, key: &[u8]) -> Option<Slice<'_>> {
        self.entries.lookup(key, 0)
    }

    pub(super) fn read(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.entries.read(key)
    }

    pub(super) fn len(&self) -> u32 {
        self.entries.len()
    }

    pub(super) fn value_region(&self, addr: u64, len: usize) -> Option<Slice<'_>> {
        self.entries.value_region(addr, len)
    }

    /// Sets an entry. Interface 0 and a queue of size 0 mean that there is none. `EINVAL`, `E2BIG`, `EEXIST`, `EOVERFLOW`.
    pub(super) fn write(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), MapError> {
        check_flags(flags)?;
        let index = super::index(key).unwrap_or(u32::MAX);
        if self.is_array() && index >= self.max_entries {
            return Err(MapError::IndexTooBig { index, max_entries: self.max_entries });
        }
        if self.is_array() && flags & super::BPF_NOEXIST != 0 {
            return Err(MapError::Exists);
        }
        let first = value.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        if self.map_type == MapType::CPUMAP && first > QUEUE_MAX {
            return Err(MapError::TooLong(format!("a queue of {first} is longer than {QUEUE_MAX}").into()));
        }
        if first == 0 && self.map_type == MapType::DEVMAP_HASH {
            return Err(MapError::Invalid("interface 0 does not exist".into()));
        }
        if first == 0 && self.map_type != MapType::XSKMAP {
            return self.remove(key);
        }
        // The kernel looks at `BPF_NOEXIST` only; and in an array every index exists, whether something is there or not.
        let flags = if self.is_array() { super::BPF_ANY } else { flags & super::BPF_NOEXIST };
        self.entries.update(key, value, flags, hash::USER)
    }

    /// Removes an entry. `EINVAL` past an array's end; `ENOENT` in a hash map.
    pub(super) fn remove(&self, key: &[u8]) -> Result<(), MapError> {
        let index = super::index(key).unwrap_or(u32::MAX);
        if self.is_array() && index >= self.max_entries {
            return Err(MapError::Invalid(format!("index {index} is past the end").into()));
        }
        match self.entries.delete(key) {
            Err(MapError::NotFound) if self.is_array() => Ok(()),
            done => done,
        }
    }

    pub(super) fn next_key(&self, key: Option<&[u8]>) -> Option<Vec<u8>> {
        if !self.is_array() {
            return self.entries.next_key(key);
        }
        let next = key.and_then(super::index).filter(|i| *i < self.max_entries).map_or(0, |i| i + 1);
        (next < self.max_entries).then(|| next.to_ne_bytes().to_vec())
    }
}
