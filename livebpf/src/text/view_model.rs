//! The memory under the code region in a model (`--cfg loom`): what `view.rs` is otherwise, with words that loom knows.
//!
//! A word that was written once is an atomic of loom's; the others are int3 for good. Stores to code are relaxed, and so
//! are fetches, because on the machine, too, nothing orders them but a core sync. What code says to the one who patches
//! it ([`Views::load`], under the update lock) is kept beside the words and is no access at all.
//!
//! *Never.* Nothing here can be executed: a model's runner fetches words with [`Region::fetch`] and follows the jumps.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Region, TextError};
use crate::primitive::atomic::{AtomicU32, Ordering};

const INT3: u32 = 0xcccc_cccc;
/// Addresses of code mean nothing here, but 0 is taken.
const BASE: u64 = 0x10_0000;

/// The words by offset, with what was stored last.
#[derive(Debug)]
pub(super) struct Views {
    words: Mutex<BTreeMap<u32, (Arc<AtomicU32>, u32)>>,
}

impl Views {
    pub(super) fn new(_len: u32, _near: Option<u64>) -> Result<Views, TextError> {
        Ok(Views { words: Mutex::default() })
    }

    pub(super) fn base(&self) -> u64 {
        BASE
    }

    pub(super) fn populate(&self, _from: u32, _to: u32) -> Result<(), TextError> {
        Ok(())
    }

    pub(super) fn fill(&self, at: u32, len: u32, byte: u8) {
        assert_eq!(u32::from_le_bytes([byte; 4]), INT3, "fresh and freed memory is int3");
        let written: Vec<u32> = self.with(|words| words.range(at..at + len).map(|(&at, _)| at).collect());
        written.into_iter().for_each(|at| self.store(at, INT3 as i32));
    }

    pub(super) fn write(&self, at: u32, bytes: &[u8]) {
        assert!(at.is_multiple_of(4), "chunks are aligned");
        for (i, piece) in (0..).zip(bytes.chunks(4)) {
            let mut word = INT3.to_le_bytes();
            word[..piece.len()].copy_from_slice(piece);
            self.store(at + 4 * i, i32::from_le_bytes(word));
        }
    }

    /// The lock is never held while loom may go on to another thread.
    fn with<T>(&self, look: impl FnOnce(&mut BTreeMap<u32, (Arc<AtomicU32>, u32)>) -> T) -> T {
        look(&mut self.words.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn store(&self, at: u32, value: i32) {
        let value = value as u32;
        let changed = self.with(|words| {
            let (word, last) = words.entry(at).or_insert_with(|| (Arc::new(AtomicU32::new(INT3)), INT3));
            (std::mem::replace(last, value) != value).then(|| word.clone())
        });
        if let Some(word) = changed {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Whoever stores holds the update lock, so what was stored last into the rest of the word is what it is.
    pub(super) fn store_byte(&self, at: u32, value: u8) {
        let (word, byte) = (at & !3, at as usize & 3);
        let mut bytes = self.load(word).to_le_bytes();
        bytes[byte] = value;
        self.store(word, i32::from_le_bytes(bytes));
    }

    pub(super) fn load_byte(&self, at: u32) -> u8 {
        self.load(at & !3).to_le_bytes()[at as usize & 3]
    }

    pub(super) fn load(&self, at: u32) -> i32 {
        self.with(|words| words.get(&at).map_or(INT3, |(_, last)| *last)) as i32
    }

    /// Words of a model do not overlap, so that none is torn.
    #[cfg(feature = "fault-injection")]
    pub(super) fn store_unaligned(&self, at: u32, value: i32) {
        self.store(at, value);
    }

    #[cfg(feature = "fault-injection")]
    pub(super) fn load_unaligned(&self, at: u32) -> i32 {
        self.load(at)
    }

    pub(super) fn forget(&mut self) {}
}

impl Region {
    /// What a processor fetches at `address`, a multiple of 4: some value that the word has or had, unless a core sync
    /// forbids it.
    pub fn fetch(&self, address: u64) -> i32 {
        let at = address.checked_sub(BASE).and_then(|at| u32::try_from(at).ok());
        let word = at.and_then(|at| self.views.with(|words| words.get(&at).map(|(word, _)| word.clone())));
        let fetched = word.map_or(INT3, |word| word.load(Ordering::Relaxed)) as i32;
        // The boundary between this instruction and the next.
        crate::primitive::atomic::compiler_fence(Ordering::SeqCst);
        fetched
    }
}
