//! Counters of the tail calls that go through a program array and are missed.
//!
//! Three things make a tail call fall through, and each has its counter: the invocation's limit of successful tail calls
//! was reached, the slot was empty (one counter of each kind per slot), or the index was past the end (one per array, as
//! there is no slot). They are looked at in the order index, limit, slot: a call counts in one place.
//!
//! # How it costs nothing
//!
//! A direct tail call without counting, and with:
//!
//! ```text
//! bypass: cmp  r12d, 33   (closed: 0)             cmp  r12d, 33   (closed: 0)
//!         jae  out                                jae  missed
//!         inc  r12                                inc  r12
//!         (release the frame)                     (release the frame)
//! target: jmp  P                                  jmp  P
//! out:    ...                             missed: mov  r11d, 16 * index + 8
//!                                                 cmp  r12d, 33
//!                                                 jae  count
//!                                                 mov  r11d, 16 * index
//!                                          count: mov  r10, counters
//!                                                 lock inc qword [r10 + r11]
//!                                          out:   ...
//! ```
//!
//! Nothing falls into the code behind `target`, which is an unconditional jump: what is there is reached only by the
//! jump that a failing call takes anyway. So a call that succeeds executes the same instructions, byte for byte but for
//! where that jump leads, and it stays as short as it was. (Stubs at the end of the function would be out of reach
//! of the two-byte `jae` in all but small functions, and so would lengthen the way of a successful call.) Calls through the
//! slot table are treated alike; with an index that is not known, the counter's offset is computed from the clamped index,
//! in the code behind; with an array that is not known, its address is compared with those of the counted arrays.
//!
//! Patching knows nothing of this. Measured on one core (when the bypass was a jump of its own): 33 hops take 53 ns with and
//! without; 101 misses at known slots 238 ns instead of 61. The memory is 16 bytes for each slot, four slots in a cache line: cores that miss the same few slots all the time slow each
//! other down, which is one reason for the default being not to count.
//!
//! *Guarantees.* Counting is one locked addition to an aligned word, by generated code or by [`Counters::count`], so nothing
//! is lost between threads, and every read is a number that was there. Counters only grow. Their memory stays in place for
//! as long as they live, and costs nothing where nothing is missed (untouched pages).
//!
//! *Never.* Nothing here is on the way of a call that succeeds: see `jit::Options::count_missed`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::super::cell::{Bytes, OutOfMemory};

/// Bytes from one slot's counters to the next slot's.
pub const STRIDE: u64 = 16;
/// Offset of [`Missed::empty`] in a slot's counters.
pub const EMPTY: u64 = 0;
/// Offset of [`Missed::limit`] in a slot's counters.
pub const LIMIT: u64 = 8;
/// Where the array's own counter is, from [`Counters::addr`]: calls with an index past the end.
pub const OUTSIDE: i64 = -(STRIDE as i64);

/// Tail calls through one slot, or through all of an array's, that fell through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Missed {
    /// Because the slot was empty.
    pub empty: u64,
    /// Because the invocation had made as many tail calls as it may; whether the slot was empty then is not looked at.
    pub limit: u64,
}

/// Why a tail call was missed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Miss {
    /// The index is past the end.
    Outside,
    /// The limit is reached.
    Limit,
    /// The slot is empty.
    Empty,
}

/// The counters of one program array.
pub struct Counters {
    /// The array's own counters, then each slot's.
    words: Bytes,
    slots: u32,
}

impl Counters {
    /// All zero.
    pub fn new(slots: u32) -> Result<Counters, OutOfMemory> {
        Ok(Counters { words: Bytes::zeroed((u64::from(slots) + 1) * STRIDE)?, slots })
    }

    /// Address of the first slot's counters, for generated code.
    pub fn addr(&self) -> u64 {
        self.words.addr() + STRIDE
    }

    fn word(&self, offset: i64) -> Option<&AtomicU64> {
        let offset = usize::try_from(offset + STRIDE as i64).ok()?;
        self.words.slice().atomic_u64(offset)
    }

    fn read(&self, offset: i64) -> u64 {
        self.word(offset).map_or(0, |word| word.load(Relaxed))
    }

    /// Counts a missed call of slot `index`, as generated code does.
    pub fn count(&self, index: u32, why: Miss) {
        let slot = (u64::from(index) * STRIDE) as i64;
        let offset = match why {
            Miss::Outside => OUTSIDE,
            Miss::Limit => slot + LIMIT as i64,
            Miss::Empty => slot + EMPTY as i64,
        };
        if let Some(word) = self.word(offset) {
            word.fetch_add(1, Relaxed);
        }
    }

    /// Those of slot `index`; zero for one past the end.
    pub fn slot(&self, index: u32) -> Missed {
        let slot = (u64::from(index) * STRIDE) as i64;
        Missed { empty: self.read(slot + EMPTY as i64), limit: self.read(slot + LIMIT as i64) }
    }

    /// Calls with an index past the end.
    pub fn outside(&self) -> u64 {
        self.read(OUTSIDE)
    }

    /// The slots that missed any, ascending.
    pub fn slots(&self) -> impl Iterator<Item = (u32, Missed)> + '_ {
        (0..self.slots).map(|index| (index, self.slot(index))).filter(|(_, missed)| *missed != Missed::default())
    }

    /// The sum over all slots.
    pub fn total(&self) -> Missed {
        self.slots().fold(Missed::default(), |sum, (_, slot)| Missed {
            empty: sum.empty.wrapping_add(slot.empty),
            limit: sum.limit.wrapping_add(slot.limit),
        })
    }
}

impl std::fmt::Debug for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counters").field("total", &self.total()).field("outside", &self.outside()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_miss_counts_in_one_place() {
        let counters = Counters::new(3).unwrap();
        for (index, why) in [(2, Miss::Empty), (0, Miss::Limit), (2, Miss::Empty), (7, Miss::Outside), (2, Miss::Limit)]
        {
            counters.count(index, why);
        }
        let slots = [(0, Missed { empty: 0, limit: 1 }), (2, Missed { empty: 2, limit: 1 })];
        assert_eq!(counters.slots().collect::<Vec<_>>(), slots);
        assert_eq!((counters.total(), counters.outside()), (Missed { empty: 2, limit: 2 }, 1));
        assert_eq!(counters.slot(1), Missed::default());
    }

    #[test]
    fn indices_past_the_end_change_nothing() {
        let counters = Counters::new(3).unwrap();
        for index in [3, 4, u32::MAX] {
            counters.count(index, Miss::Empty);
            counters.count(index, Miss::Limit);
            assert_eq!(counters.slot(index), Missed::default());
        }
        assert_eq!((counters.total(), counters.outside()), (Missed::default(), 0));
    }

    #[test]
    fn counters_of_a_slot_share_a_cache_line() {
        let counters = Counters::new(3).unwrap();
        assert_eq!((counters.addr() % STRIDE, 64 % STRIDE), (0, 0));
    }
}
