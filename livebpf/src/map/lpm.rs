//! Longest-prefix-match tries (kernel/bpf/lpm_trie.c), as a hash map of prefixes.
//!
//! A key is a 32-bit prefix length and the bytes it counts bits of. Each prefix is an element of a [`struct@Hash`], its other bits zero;
//! a lookup asks for the longest prefix length that is in use, then the next, and so on. So all that holds for hash maps
//! (lookups take no lock, windows stay the map's memory) holds here; a lookup takes as many steps as there are different
//! lengths.
//!
//! Differs from the kernel in what users see of a key: the bits behind the prefix are zero, and keys come in no order.

use std::sync::atomic::{AtomicU32, Ordering};

use super::cell::{OutOfMemory, Slice};
use super::hash::Hash;
use super::spin::Spin;
use super::{MapError, Source};

/// Bytes of the prefix length.
const LENGTH: usize = 4;

/// A trie.
pub(super) struct Lpm {
    prefixes: Hash,
    /// How many prefixes there are of each length; changed under the lock.
    used: Box<[AtomicU32]>,
    /// Held by who changes: counting a prefix and writing it are one change.
    lock: Spin,
    max_entries: u32,
}

impl Lpm {
    /// An empty one; the sizes have been checked by the caller.
    pub(super) fn new(key_size: u32, value_size: u32, max_entries: u32, cpus: u32) -> Result<Lpm, OutOfMemory> {
        let prefixes = Hash::new(key_size, value_size, max_entries, cpus)?;
        let lengths = (key_size as usize - LENGTH) * 8;
        let used = (0..=lengths).map(|_| AtomicU32::new(0)).collect();
        Ok(Lpm { prefixes, used, lock: Spin::default(), max_entries })
    }

    /// The prefix length that a key begins with; `None` when it is longer than the key.
    fn length(&self, key: &[u8]) -> Option<usize> {
        let length = u32::from_ne_bytes(*key.first_chunk()?) as usize;
        (length < self.used.len()).then_some(length)
    }

    /// The value of the longest prefix of `key`.
    pub(super) fn lookup(&self, key: &[u8]) -> Option<Slice<'_>> {
        let longest = self.length(key)?;
        let mut key = key.to_vec();
        let lengths = self.used[..=longest].iter().enumerate().rev();
        for (length, _) in lengths.filter(|(_, used)| used.load(Ordering::Acquire) > 0) {
            cut(&mut key, length);
            if let Some(value) = self.prefixes.lookup(&key, 0) {
                return Some(value);
            }
        }
        None
    }

    /// A copy of that value.
    pub(super) fn read(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.lookup(key).map(Slice::to_vec)
    }

    /// Creates or replaces a prefix. `EINVAL`, `ENOENT`, `EEXIST`, `ENOSPC`.
    pub(super) fn update(&self, key: &[u8], value: impl Source, flags: u64, cpu: u32) -> Result<(), MapError> {
        super::check_flags(flags)?;
        let length = self.length(key).ok_or_else(too_long)?;
        let mut key = key.to_vec();
        cut(&mut key, length);
        let _guard = self.lock.lock()?;
        // Counted before it can be found, so that nobody misses it.
        self.used[length].fetch_add(1, Ordering::AcqRel);
        let there = self.prefixes.lookup(&key, 0).is_some();
        let done = match self.prefixes.update(&key, value, flags, cpu) {
            Err(MapError::Full { .. }) => Err(MapError::NoSpace),
            done => done,
        };
        if there || done.is_err() {
            self.used[length].fetch_sub(1, Ordering::AcqRel);
        }
        done
    }

    /// Removes a prefix. `EINVAL`, `ENOENT`.
    pub(super) fn delete(&self, key: &[u8]) -> Result<(), MapError> {
        let length = self.length(key).ok_or_else(too_long)?;
        let mut key = key.to_vec();
        cut(&mut key, length);
        let _guard = self.lock.lock()?;
        self.prefixes.delete(&key)?;
        self.used[length].fetch_sub(1, Ordering::AcqRel);
        Ok(())
    }

    pub(super) fn next_key(&self, key: Option<&[u8]>) -> Option<Vec<u8>> {
        let cut_key = key.map(|key| {
            let mut cut_key = key.to_vec();
            if let Some(length) = self.length(key) {
                cut(&mut cut_key, length);
            }
            cut_key
        });
        self.prefixes.next_key(cut_key.as_deref())
    }

    pub(super) fn len(&self) -> u32 {
        self.prefixes.len().min(self.max_entries)
    }

    pub(super) fn value_region(&self, addr: u64, len: usize) -> Option<Slice<'_>> {
        self.prefixes.value_region(addr, len)
    }
}

fn too_long() -> MapError {
    MapError::Invalid("the prefix is longer than the key".into())
}

/// Makes the key the prefix of `length` bits that it begins with.
fn cut(key: &mut [u8], length: usize) {
    let Some((head, data)) = key.split_first_chunk_mut::<LENGTH>() else { return };
    *head = (length as u32).to_ne_bytes();
    for (i, byte) in data.iter_mut().enumerate() {
        let bits = length.saturating_sub(8 * i).min(8);
        *byte &= !(0xff_u16 >> bits) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(length: u32, address: [u8; 4]) -> Vec<u8> {
        [length.to_ne_bytes(), address].concat()
    }

    fn errno(result: Result<(), MapError>) -> i32 {
        result.map_or_else(|error| error.errno(), |()| 0)
    }

    #[test]
    fn the_longest_prefix_wins() {
        let trie = Lpm::new(8, 1, 5, 1).unwrap();
        let put = |length, address, value: u8| errno(trie.update(&key(length, address), &[value][..], 0, 0));
        let find = |length, address| trie.lookup(&key(length, address)).map(|v| v.to_vec()[0]);
        assert_eq!(find(32, [10, 0, 0, 1]), None);
        assert_eq!(put(8, [10, 9, 9, 9], 1), 0);
        assert_eq!(put(24, [10, 1, 2, 0], 2), 0);
        assert_eq!(put(32, [10, 1, 2, 3], 3), 0);
        assert_eq!(put(15, [10, 128, 0, 0], 4), 0);
        assert_eq!(find(32, [10, 1, 2, 3]), Some(3));
        assert_eq!(find(31, [10, 1, 2, 3]), Some(2), "a key's own length limits what it can match");
        assert_eq!(find(32, [10, 1, 2, 4]), Some(2));
        assert_eq!(find(32, [10, 129, 0, 0]), Some(4));
        assert_eq!(find(32, [10, 130, 0, 0]), Some(1));
        assert_eq!(find(7, [10, 130, 0, 0]), None);
        assert_eq!(find(32, [11, 0, 0, 0]), None);
        assert_eq!(find(33, [10, 0, 0, 0]), None);
        assert_eq!(put(0, [1, 2, 3, 4], 5), 0);
        assert_eq!(find(32, [11, 0, 0, 0]), Some(5));
        assert_eq!(find(0, [0; 4]), Some(5));
        assert_eq!(put(9, [1; 4], 6), libc::ENOSPC);
        assert_eq!(put(8, [10, 0, 0, 0], 7), 0, "replaced");
        assert_eq!(find(32, [10, 200, 0, 0]), Some(7));
        assert_eq!(put(33, [0; 4], 0), libc::EINVAL);
        assert_eq!(errno(trie.update(&key(8, [10; 4]), &[0][..], 1, 0)), libc::EEXIST);
        assert_eq!(errno(trie.update(&key(9, [10; 4]), &[0][..], 2, 0)), libc::ENOENT);
        assert_eq!(errno(trie.update(&key(9, [10; 4]), &[0][..], 3, 0)), libc::EINVAL);
        assert_eq!(errno(trie.delete(&key(24, [10, 1, 2, 77]))), 0);
        assert_eq!(errno(trie.delete(&key(24, [10, 1, 2, 77]))), libc::ENOENT);
        assert_eq!(errno(trie.delete(&key(40, [0; 4]))), libc::EINVAL);
        assert_eq!(find(32, [10, 1, 2, 4]), Some(7));
        assert_eq!(trie.len(), 4);
    }

    #[test]
    fn a_prefix_that_stays_is_found_while_others_come_and_go() {
        let trie = Lpm::new(8, 4, 64, 2).unwrap();
        trie.update(&key(16, [10, 1, 0, 0]), &[1; 4][..], 0, 0).unwrap();
        std::thread::scope(|scope| {
            for writer in 0..2u8 {
                let trie = &trie;
                scope.spawn(move || {
                    for n in 0..if cfg!(miri) { 50 } else { 5000u32 } {
                        // The same lengths from both sides, and prefixes that both write.
                        let prefix = key(16 + n % 16, [10, 2 + writer * (n % 2) as u8, (n % 7) as u8, 0]);
                        trie.update(&prefix, &[2; 4][..], 0, writer.into()).unwrap();
                        assert!(matches!(trie.delete(&prefix), Ok(()) | Err(MapError::NotFound)));
                    }
                });
            }
            for _ in 0..if cfg!(miri) { 50 } else { 5000 } {
                assert_eq!(trie.lookup(&key(32, [10, 1, 7, 7])).unwrap().to_vec(), [1; 4]);
            }
        });
        assert_eq!(trie.len(), 1);
        let counted: u32 = trie.used.iter().map(|used| used.load(Ordering::Relaxed)).sum();
        assert_eq!(counted, 1, "no length counts more prefixes than there are");
    }
}
