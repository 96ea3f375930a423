//! Which parts of the code region are in use: chunks of whole 64-byte units, first fit, neighbours merged.
//!
//! *Guarantees.* Chunks never overlap and never reach past the capacity; what is freed can be had again in any
//! combination that fits. *Never* touches the memory it accounts for.

use std::collections::BTreeMap;

/// Chunks begin and end on multiples of this: the alignment that images rely on.
pub(super) const UNIT: u32 = 64;

/// A part of the region, in bytes from its base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub at: u32,
    pub len: u32,
}

/// The accounts.
#[derive(Debug)]
pub(super) struct Chunks {
    /// Free parts by start.
    free: BTreeMap<u32, u32>,
    used: u32,
    /// Everything from here on was never given out.
    high: u32,
}

impl Chunks {
    pub fn new(capacity: u32) -> Chunks {
        let capacity = capacity - capacity % UNIT;
        Chunks { free: BTreeMap::from([(0, capacity)]), used: 0, high: 0 }
    }

    /// Bytes in chunks.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// One past the last byte that was ever given out.
    pub fn high(&self) -> u32 {
        self.high
    }

    /// At least `len` bytes; `None` where no free part is large enough.
    pub fn take(&mut self, len: u32) -> Option<Chunk> {
        let len = len.max(1).checked_next_multiple_of(UNIT)?;
        let (&at, &room) = self.free.iter().find(|&(_, &room)| room >= len)?;
        self.free.remove(&at);
        if room > len {
            self.free.insert(at + len, room - len);
        }
        self.used += len;
        self.high = self.high.max(at + len);
        Some(Chunk { at, len })
    }

    /// Gives a chunk back that `take` gave out.
    pub fn give(&mut self, chunk: Chunk) {
        let Chunk { mut at, mut len } = chunk;
        self.used -= len;
        if let Some((&before, &room)) = self.free.range(..at).next_back()
            && before + room == at
        {
            self.free.remove(&before);
            at = before;
            len += room;
        }
        if let Some(room) = self.free.remove(&(at + len)) {
            len += room;
        }
        self.free.insert(at, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_whole_units_and_end_with_the_capacity() {
        let mut chunks = Chunks::new(64 * 4 + 63);
        assert_eq!(chunks.take(1), Some(Chunk { at: 0, len: 64 }));
        assert_eq!(chunks.take(65), Some(Chunk { at: 64, len: 128 }));
        assert_eq!(chunks.take(65), None);
        assert_eq!(chunks.take(0), Some(Chunk { at: 192, len: 64 }));
        assert_eq!(chunks.take(1), None);
        assert_eq!(chunks.take(u32::MAX), None);
        assert_eq!((chunks.used(), chunks.high()), (256, 256));
    }

    #[test]
    fn neighbours_merge_in_any_order() {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut chunks = Chunks::new(64 * 3);
            let parts = [0; 3].map(|_| chunks.take(64).unwrap());
            order.iter().for_each(|&i| chunks.give(parts[i]));
            assert_eq!(chunks.take(64 * 3), Some(Chunk { at: 0, len: 192 }), "{order:?}");
        }
    }

    #[test]
    fn random_use_never_overlaps_and_comes_back_whole() {
        let mut chunks = Chunks::new(1 << 16);
        let mut held: Vec<Chunk> = Vec::new();
        let mut seed = 1u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let draw = (seed >> 33) as usize;
            if draw.is_multiple_of(2) || held.is_empty() {
                if let Some(new) = chunks.take((draw / 2 % 4000) as u32) {
                    assert!(held.iter().all(|c| c.at + c.len <= new.at || new.at + new.len <= c.at));
                    assert!(new.at % UNIT == 0 && new.at + new.len <= 1 << 16);
                    held.push(new);
                }
            } else {
                chunks.give(held.swap_remove(draw / 2 % held.len()));
            }
            assert_eq!(chunks.used(), held.iter().map(|c| c.len).sum::<u32>());
        }
        held.drain(..).for_each(|c| chunks.give(c));
        assert_eq!((chunks.used(), chunks.free.len()), (0, 1));
    }
}
