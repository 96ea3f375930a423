//! Where packets can be redirected to: device maps, CPU maps, socket maps of AF_XDP, as data.
//!
//! The kernel's entries are devices, CPUs and sockets; here they are the numbers that a user writes: an interface's index, a queue
//! size, a socket. `bpf_redirect_map` finds out whether there is an entry and writes the answer down.
//!
//! Where keys are indices an entry is one word, so that it comes and goes by one store: the value, and where all numbers are valid
//! a bit above it that says that there is one.

use std::sync::atomic::{AtomicU64, Ordering};

use super::array::Array;
use super::cell::{OutOfMemory, Slice};
use super::hash::{self, Hash};
use super::{MapError, check_flags};
use crate::insn::Size;
use crate::object::MapType;

/// The entries of such a map.
pub(super) struct Targets {
    entries: Entries,
    map_type: MapType,
    value_size: usize,
    max_entries: u32,
}

enum Entries {
    Words(Array),
    Hash(Hash),
}

/// Longest queue of a CPU.
const QUEUE_MAX: u32 = 16_384;
/// There is a socket, whose number may be 0.
const SOCKET: u64 = 1 << 32;

impl Targets {
    pub(super) fn new(map_type: MapType, value_size: u32, max_entries: u32) -> Result<Targets, OutOfMemory> {
        // The kernel's values have 4 bytes, or 8 with a program's number behind: in a word.
        let entries = match map_type {
            MapType::DEVMAP_HASH => Entries::Hash(Hash::new(4, value_size, max_entries, 1)?),
            _ => Entries::Words(Array::new(8, max_entries, None)?),
        };
        Ok(Targets { entries, map_type, value_size: value_size as usize, max_entries })
    }

    /// Address of the words that entries are; 0 where they are not.
    pub(super) fn words_addr(&self) -> u64 {
        match &self.entries {
            Entries::Words(words) => words.layout().data,
            Entries::Hash(_) => 0,
        }
    }

    /// The first four bytes of an entry.
    #[inline]
    pub(super) fn target(&self, key: u32) -> Option<u32> {
        let word = match &self.entries {
            Entries::Words(words) => word(words, key)?.load(Ordering::Relaxed),
            Entries::Hash(hash) => return hash.lookup_key(key, 0)?.load(0, Size::W).map(|word| word as u32),
        };
        (word != 0).then_some(word as u32)
    }

    #[inline]
    pub(super) fn lookup(&self, key: &[u8]) -> Option<Slice<'_>> {
        match &self.entries {
            Entries::Words(words) => {
                let index = super::index(key).filter(|index| self.target(*index).is_some())?;
                words.value(index, 0)?.sub(0, self.value_size)
            }
            Entries::Hash(hash) => hash.lookup(key, 0),
        }
    }

    pub(super) fn read(&self, key: &[u8]) -> Option<Vec<u8>> {
        match &self.entries {
            Entries::Words(words) => {
                let word = word(words, super::index(key)?)?.load(Ordering::Relaxed);
                (word != 0).then(|| word.to_ne_bytes()[..self.value_size].to_vec())
            }
            Entries::Hash(hash) => hash.read(key),
        }
    }

    pub(super) fn len(&self) -> u32 {
        match &self.entries {
            Entries::Words(_) => (0..self.max_entries).filter(|index| self.target(*index).is_some()).count() as u32,
            Entries::Hash(hash) => hash.len(),
        }
    }

    pub(super) fn value_region(&self, addr: u64, len: usize) -> Option<Slice<'_>> {
        match &self.entries {
            Entries::Words(words) => {
                let inside = len.saturating_add((addr % 8) as usize) <= self.value_size;
                words.value_region(addr, len).filter(|_| inside)
            }
            Entries::Hash(hash) => hash.value_region(addr, len),
        }
    }

    /// Sets an entry. Interface 0 and a queue of size 0 mean that there is none. `EINVAL`, `E2BIG`, `EEXIST`, `EOVERFLOW`.
    pub(super) fn write(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), MapError> {
        check_flags(flags)?;
        let first = value.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        let words = match &self.entries {
            Entries::Words(words) => words,
            Entries::Hash(_) if first == 0 => return Err(MapError::Invalid("interface 0 does not exist".into())),
            // The kernel looks at `BPF_NOEXIST` only.
            Entries::Hash(hash) => return hash.update(key, value, flags & super::BPF_NOEXIST, hash::USER),
        };
        let index = super::index(key).unwrap_or(u32::MAX);
        let Some(entry) = word(words, index) else {
            return Err(MapError::IndexTooBig { index, max_entries: self.max_entries });
        };
        // Every index exists, whether something is there or not.
        if flags & super::BPF_NOEXIST != 0 {
            return Err(MapError::Exists);
        }
        if self.map_type == MapType::CPUMAP && first > QUEUE_MAX {
            return Err(MapError::TooLong(format!("a queue of {first} is longer than {QUEUE_MAX}").into()));
        }
        let mut bytes = [0; 8];
        bytes.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
        let sets = match self.map_type {
            MapType::XSKMAP => u64::from(first) | SOCKET,
            _ if first == 0 => 0,
            _ => u64::from_ne_bytes(bytes),
        };
        entry.store(sets, Ordering::Relaxed);
        Ok(())
    }

    /// Removes an entry. `EINVAL` past an array's end; `ENOENT` in a hash map.
    pub(super) fn remove(&self, key: &[u8]) -> Result<(), MapError> {
        let words = match &self.entries {
            Entries::Words(words) => words,
            Entries::Hash(hash) => return hash.delete(key),
        };
        let index = super::index(key).unwrap_or(u32::MAX);
        match word(words, index) {
            Some(entry) => {
                entry.store(0, Ordering::Relaxed);
                Ok(())
            }
            None => Err(MapError::Invalid(format!("index {index} is past the end").into())),
        }
    }

    pub(super) fn next_key(&self, key: Option<&[u8]>) -> Option<Vec<u8>> {
        if let Entries::Hash(hash) = &self.entries {
            return hash.next_key(key);
        }
        let next = key.and_then(super::index).filter(|i| *i < self.max_entries).map_or(0, |i| i + 1);
        (next < self.max_entries).then(|| next.to_ne_bytes().to_vec())
    }
}

#[inline]
fn word(words: &Array, index: u32) -> Option<&AtomicU64> {
    words.value(index, 0)?.atomic_u64(0)
}
