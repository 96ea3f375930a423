//! The words of a table: one u64 per slot, each stored and loaded whole, at an address that generated code has.

#[cfg(not(loom))]
use crate::map::cell::Bytes;
use crate::map::cell::OutOfMemory;
use crate::primitive::atomic::AtomicU64;

/// A fixed number of words, zero at first.
pub(super) struct Words {
    #[cfg(not(loom))]
    bytes: Bytes,
    #[cfg(loom)]
    words: Vec<AtomicU64>,
}

#[cfg(not(loom))]
impl Words {
    pub fn new(count: u32) -> Result<Words, OutOfMemory> {
        Ok(Words { bytes: Bytes::zeroed(u64::from(count) * 8)? })
    }

    /// Address of the first one.
    pub fn addr(&self) -> u64 {
        self.bytes.addr()
    }

    #[inline]
    pub fn get(&self, index: u32) -> Option<&AtomicU64> {
        self.bytes.slice().atomic_u64(index as usize * 8)
    }
}

/// In a model nothing has an address, and the words are known to loom.
#[cfg(loom)]
impl Words {
    pub fn new(count: u32) -> Result<Words, OutOfMemory> {
        Ok(Words { words: (0..count).map(|_| AtomicU64::new(0)).collect() })
    }

    pub fn addr(&self) -> u64 {
        0
    }

    pub fn get(&self, index: u32) -> Option<&AtomicU64> {
        self.words.get(index as usize)
    }
}
