//! Hash maps: all memory reserved at creation, lookups without locks, changes under a lock per bucket.
//!
//! Elements lie side by side in one block and are named by number (from 1; 0 is none). Each has a `next` number, its
//! key and its value. A bucket is one 64-bit word:
//!
//! ```text
//!     63 ............ 32 31 ............ 1   0
//!     first element      version             locked
//! ```
//!
//! # Why a lookup never answers for the wrong key, and never misses a key that is there
//!
//! *Writers* of one bucket exclude each other by the locked bit. A chain changes by **one** release store: of the
//! bucket word (insert; replace or delete of the first element) or of a predecessor's `next` (replace or delete of
//! another), so at each moment it is the chain before or the chain after. An element is written completely before it
//! is linked. The word that unlocks the bucket after a change has the next version. Only after that store is the
//! unlinked element handed on (free list or spare), and whoever takes it issues a release fence before writing to it.
//!
//! *A reader* loads the word, and at each element reads the key and `next`, issues an acquire fence, and loads the word
//! again. If first element or version differ, it starts over. Suppose that it read any byte that was written because an
//! element had left this chain and was reused. Then the unlocking store came before the writer's release fence (by the
//! acquire with which the element was taken), and the reader's acquire fence makes it visible: the second load differs.
//! So whatever passes the check was read from elements that were in this chain, with the keys that they had there; a
//! match is a whole key, and the end of the chain is the end of this chain. Readers ignore the locked bit and never
//! wait: a writer that is preempted while it holds a bucket delays no reader. The version has 31 bits: to be fooled, a
//! reader would have to sleep between two of its loads through an exact multiple of 2^31 changes of its one bucket.
//!
//! # What a reader may see
//!
//! The value window that a lookup returned stays the map's memory for as long as the map lives. After the element is
//! deleted it may at once be given to another key, as in the kernel's preallocated maps, and the holder sees that.
//! Replacing an existing element's value links a *new* element in the old one's place, as in the kernel: a pointer
//! looked up before goes on showing the old value until the old element is used again. For this there are spare
//! elements, one per CPU and one for users; where two writers share one at the same moment, the second overwrites the
//! value in place.
//!
//! # Per CPU, and least recently used
//!
//! In a per-CPU map an element holds one value after the other, each rounded up to 8 bytes. An update by a program changes
//! that of its own CPU in place; a new element's others are zero.
//!
//! A map that forgets what was least recently used has a mark in each element that lookups set. When it is full, a new key
//! takes the place of the first element without a mark, counted on from where the last one was found; marks that are
//! passed are taken away. As in the kernel this is near to the true order, not the same.
//!
//! # Locks
//!
//! A bucket is locked for a handful of instructions in which nothing is called, allocated or can panic. A thread that
//! holds one and is interrupted by a signal handler that changes a map gets `EBUSY` there, as a CPU does in the kernel.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, compiler_fence, fence};

use super::cell::{Bytes, OutOfMemory, Slice};
use super::{BPF_EXIST, BPF_F_LOCK, BPF_NOEXIST, MapError, Source, check_flags, guard};
use crate::insn::Size;

/// Element: number of the next one in its chain.
const NEXT: usize = 0;
/// Element: number of the next free one. Not the same word as `NEXT`: a reader may still stand on a freed element.
const NEXT_FREE: usize = 4;
/// Element: its key, then, 8-aligned, its value.
const KEY: usize = 8;

/// Bucket word: its chain is being changed.
const LOCKED: u64 = 1;
/// Bucket word: one version.
const VERSION: u64 = 2;

/// A hash map.
pub(super) struct Hash {
    buckets: Bytes,
    bucket_mask: u64,
    elements: Bytes,
    /// Bytes from one element to the next.
    stride: usize,
    /// Offset of the value in an element.
    value_at: usize,
    key_size: usize,
    value_size: usize,
    /// Bytes from one CPU's value to the next one's; 0 when not per CPU.
    cpu_stride: usize,
    /// Bytes of all of an element's values.
    values_size: usize,
    max_entries: u32,
    seed: u64,
    /// Offset of the mark in an element, in maps that forget.
    mark_at: Option<usize>,
    /// Offset of the lock in each value, where there is one.
    lock: Option<usize>,
    /// Where to look next for an element to forget.
    hand: AtomicU32,
    /// Deleted elements: number of the first in the low half, a count of changes in the high half.
    free: AtomicU64,
    /// How many elements have ever been used.
    fresh: AtomicU32,
    /// Elements for replacing a value: one for each CPU, the last one for users. 0 while in use.
    spares: Box<[Spare]>,
    /// Readers do not check what they read: a fault for tests to find.
    #[cfg(feature = "fault-injection")]
    pub(super) trusting: std::sync::atomic::AtomicBool,
}

#[repr(align(64))]
struct Spare(AtomicU32);

/// The CPU number under which users change maps.
pub(super) const USER: u32 = u32::MAX;

/// What kind of hash map.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Kind {
    /// A value for each CPU.
    pub(super) per_cpu: bool,
    /// Forgets what was least recently used when it is full.
    pub(super) forgets: bool,
}

impl Hash {
    /// An empty map; the sizes have been checked by the caller.
    pub(super) fn new(key_size: u32, value_size: u32, max_entries: u32, cpus: u32) -> Result<Hash, OutOfMemory> {
        Hash::of_kind(Kind::default(), key_size, value_size, max_entries, cpus)
    }

    /// The same with a lock at this offset in each value.
    pub(super) fn with_lock(self, lock: Option<u32>) -> Hash {
        Hash { lock: lock.map(|off| off as usize), ..self }
    }

    /// The same for the other kinds.
    pub(super) fn of_kind(
        kind: Kind,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        cpus: u32,
    ) -> Result<Hash, OutOfMemory> {
        let value_at = KEY + (key_size as usize).next_multiple_of(8);
        let one = (value_size as usize).next_multiple_of(8);
        let cpu_stride = if kind.per_cpu { one } else { 0 };
        let values_size = if kind.per_cpu { one.saturating_mul(cpus as usize) } else { value_size as usize };
        let values_end = value_at.saturating_add(values_size.next_multiple_of(8));
        let mark_at = kind.forgets.then_some(values_end);
        let mut stride = values_end.saturating_add(if kind.forgets { 8 } else { 0 });
        if stride <= 64 {
            // An element then never straddles a cache line.
            stride = stride.next_power_of_two();
        }
        // Half full at most: most chains then have no more than one element.
        let bucket_count = u64::from(max_entries).next_power_of_two() * 2;
        let spares: Box<[Spare]> = (0..=cpus).map(|i| Spare(AtomicU32::new(max_entries + 1 + i))).collect();
        let element_count = u64::from(max_entries) + spares.len() as u64;
        let len = element_count.saturating_mul(stride as u64);
        Ok(Hash {
            buckets: Bytes::zeroed(bucket_count * 8)?,
            bucket_mask: bucket_count - 1,
            elements: Bytes::zeroed(len)?,
            stride,
            value_at,
            key_size: key_size as usize,
            value_size: value_size as usize,
            cpu_stride,
            values_size,
            max_entries,
            seed: RandomState::new().hash_one(0u64),
            mark_at,
            lock: None,
            hand: AtomicU32::new(0),
            free: AtomicU64::new(0),
            fresh: AtomicU32::new(0),
            spares,
            #[cfg(feature = "fault-injection")]
            trusting: std::sync::atomic::AtomicBool::new(false),
        })
    }

    // --- Readers ---

    /// Bytes of a value as users see it.
    pub(super) fn user_value_size(&self) -> usize {
        self.values_size
    }

    /// The value of `key`, of CPU `cpu` where the map is per CPU.
    #[inline]
    pub(super) fn lookup(&self, key: &[u8], cpu: u32) -> Option<Slice<'_>> {
        if key.len() != self.key_size {
            return None;
        }
        // A copy in a register or two for the usual sizes, so that hashing and comparing need no loop.
        if let Ok(key) = key.try_into() {
            self.lookup_key(u32::from_ne_bytes(key), cpu)
        } else if let Ok(key) = key.try_into() {
            self.lookup_key(u64::from_ne_bytes(key), cpu)
        } else if let Ok(key) = key.try_into() {
            self.lookup_key(u128::from_ne_bytes(key), cpu)
        } else {
            self.lookup_key(key, cpu)
        }
    }

    /// Whether its keys have `size` bytes.
    #[inline]
    pub(super) fn has_keys_of(&self, size: usize) -> bool {
        self.key_size == size
    }

    /// The same for a key that is known to have the right size.
    #[inline]
    pub(super) fn lookup_key<K: Key>(&self, key: K, cpu: u32) -> Option<Slice<'_>> {
        let element = self.find(key)?.element;
        if let Some(mark_at) = self.mark_at {
            element.store(mark_at, Size::B, 1);
        }
        // A CPU that there is not has its value outside of the element.
        let off = self.cpu_stride.checked_mul(cpu as usize)?;
        if off + self.value_size > self.values_size {
            return None;
        }
        element.sub(self.value_at + off, self.value_size)
    }

    /// A copy of the value of `key`, all of it from this key's element.
    pub(super) fn read(&self, key: &[u8]) -> Option<Vec<u8>> {
        loop {
            let found = self.find(key)?;
            let value = found.element.sub(self.value_at, self.values_size)?.to_vec();
            if self.unchanged(found.bucket, found.word) {
                return Some(value);
            }
        }
    }

    /// The element of `key`; the proof is in the head of this file.
    #[inline]
    fn find<K: Key>(&self, key: K) -> Option<Found<'_>> {
        let bucket = self.bucket(key.hash(self.seed))?;
        'again: loop {
            let word = bucket.load(Ordering::Acquire);
            let mut at = first(word);
            while at != 0 {
                let element = self.element(at)?;
                let matches = key.is_at(element);
                let next = element.atomic_u32(NEXT)?.load(Ordering::Relaxed);
                if !self.unchanged(bucket, word) {
                    continue 'again;
                }
                if matches {
                    return Some(Found { bucket, word, element });
                }
                at = next;
            }
            return None;
        }
    }

    /// Whether everything read since `word` was loaded belongs to the chain that it begins.
    #[inline]
    fn unchanged(&self, bucket: &AtomicU64, word: u64) -> bool {
        #[cfg(feature = "fault-injection")]
        if self.trusting.load(Ordering::Relaxed) {
            return true;
        }
        fence(Ordering::Acquire);
        bucket.load(Ordering::Relaxed) & !LOCKED == word & !LOCKED
    }

    /// The key after `key`: in its bucket, else the first of the next bucket that has one.
    pub(super) fn next_key(&self, key: Option<&[u8]>) -> Option<Vec<u8>> {
        let mut index = 0;
        if let Some(key) = key {
            let home = key.hash(self.seed) & self.bucket_mask;
            let mut chain = self.keys_of(home)?.into_iter();
            if chain.any(|k| k == key) {
                if let Some(next) = chain.next() {
                    return Some(next);
                }
                index = home + 1;
            }
        }
        (index..=self.bucket_mask).find_map(|index| self.keys_of(index)?.into_iter().next())
    }

    /// The keys of a bucket in the order of its chain, as they were at one moment.
    fn keys_of(&self, index: u64) -> Option<Vec<Vec<u8>>> {
        Some(self.elements_of(index, 0)?.into_iter().map(|(key, _)| key).collect())
    }

    /// The same with the values, of CPU `cpu` where the map is per CPU. `None` past the last bucket.
    pub(super) fn elements_of(&self, index: u64, cpu: u32) -> Option<Vec<(Vec<u8>, Slice<'_>)>> {
        let bucket = self.bucket(Some(index).filter(|i| *i <= self.bucket_mask)?)?;
        'again: loop {
            let word = bucket.load(Ordering::Acquire);
            let mut found = Vec::new();
            let mut at = first(word);
            while at != 0 {
                let element = self.element(at)?;
                let off = self.cpu_stride.checked_mul(cpu as usize)?;
                let value = element.sub(self.value_at + off, self.value_size)?;
                found.push((element.sub(KEY, self.key_size)?.to_vec(), value));
                let next = element.atomic_u32(NEXT)?.load(Ordering::Relaxed);
                if !self.unchanged(bucket, word) {
                    continue 'again;
                }
                at = next;
            }
            return Some(found);
        }
    }

    /// Elements there are, counted.
    pub(super) fn len(&self) -> u32 {
        (0..=self.bucket_mask).filter_map(|index| self.keys_of(index)).map(|keys| keys.len() as u32).sum()
    }

    /// [addr, addr + len) when it lies in the value of one element, used or not.
    pub(super) fn value_region(&self, addr: u64, len: usize) -> Option<Slice<'_>> {
        let block = self.elements.slice();
        let off = block.find(addr, len)?;
        let in_values = (off % self.stride).checked_sub(self.value_at).filter(|at| *at < self.values_size.max(1))?;
        let in_value = if self.cpu_stride == 0 { in_values } else { in_values % self.cpu_stride };
        if in_value.checked_add(len)? <= self.value_size { block.sub(off, len) } else { None }
    }

    // --- Writers ---

    /// Creates or replaces the element of `key`. `cpu` chooses the spare element.
    pub(super) fn update(&self, key: &[u8], value: impl Source, flags: u64, cpu: u32) -> Result<(), MapError> {
        check_flags(flags & !BPF_F_LOCK)?;
        if flags & BPF_F_LOCK != 0 && self.lock.is_none() {
            return Err(super::no_lock());
        }
        let update = || {
            if let Ok(key) = key.try_into() {
                self.update_key(u32::from_ne_bytes(key), value, flags, cpu)
            } else if let Ok(key) = key.try_into() {
                self.update_key(u64::from_ne_bytes(key), value, flags, cpu)
            } else {
                self.update_key(key, value, flags, cpu)
            }
        };
        let done = update();
        match (&done, self.mark_at) {
            (Err(MapError::Full { .. }), Some(mark_at)) => self.update_forgetting(mark_at, update),
            _ => done,
        }
    }

    /// Forgets elements until `update` finds room: once, unless others take it meanwhile.
    #[cold]
    fn update_forgetting(&self, mark_at: usize, update: impl Fn() -> Result<(), MapError>) -> Result<(), MapError> {
        let mut done = Err(MapError::Full { max_entries: self.max_entries });
        for _ in 0..64 {
            if !matches!(done, Err(MapError::Full { .. })) {
                break;
            }
            self.forget(mark_at)?;
            done = update();
        }
        done
    }

    /// Removes an element that was not used lately.
    fn forget(&self, mark_at: usize) -> Result<(), MapError> {
        let count = self.max_entries + self.spares.len() as u32;
        // Once round takes all marks away, and once more finds an element without.
        for _ in 0..2 * u64::from(count) {
            let at = self.hand.fetch_add(1, Ordering::Relaxed) % count + 1;
            let element = self.element(at).ok_or_else(broken)?;
            if element.load(mark_at, Size::B) == Some(1) {
                element.store(mark_at, Size::B, 0);
                continue;
            }
            let key = element.sub(KEY, self.key_size).ok_or_else(broken)?.to_vec();
            let key: &[u8] = &key;
            let mut locked = Locked::new(self.bucket(key.hash(self.seed)).ok_or_else(broken)?)?;
            // Not the one that is there now: spares and deleted elements have keys, too.
            let Some(place) = self.place(&locked, key).filter(|place| place.at == at) else { continue };
            place.relink(&mut locked, place.next);
            drop(locked);
            self.give_free(at);
            return Ok(());
        }
        Ok(())
    }

    #[inline]
    fn update_key<K: Key>(&self, key: K, value: impl Source, flags: u64, cpu: u32) -> Result<(), MapError> {
        let mut locked = Locked::new(self.bucket(key.hash(self.seed)).ok_or_else(broken)?)?;
        let Some(place) = self.place(&locked, key) else {
            let insert = flags & BPF_EXIST == 0;
            return if insert { self.insert(&mut locked, key, value, cpu) } else { Err(MapError::NotFound) };
        };
        if flags & BPF_NOEXIST != 0 {
            return Err(MapError::Exists);
        }
        if self.cpu_stride != 0 {
            return self.put_value(place.element, value, cpu).ok_or_else(broken);
        }
        if let (Some(lock), true) = (self.lock, flags & BPF_F_LOCK != 0) {
            let target = place.element.sub(self.value_at, self.value_size).ok_or_else(broken)?;
            return guard::put(value, target, lock, true);
        }
        let spare = &self.spares[(cpu as usize).min(self.spares.len() - 1)].0;
        let new = spare.swap(0, Ordering::Acquire);
        if new == 0 {
            // Another writer has this spare right now.
            return self.put_value(place.element, value, cpu).ok_or_else(broken);
        }
        self.write(new, key, value, place.next, cpu).ok_or_else(broken)?;
        place.relink(&mut locked, new);
        drop(locked);
        // Whoever finds this spare empty meanwhile overwrites in place; nobody else fills it.
        spare.store(place.at, Ordering::Release);
        Ok(())
    }

    fn insert<K: Key>(&self, locked: &mut Locked<'_>, key: K, value: impl Source, cpu: u32) -> Result<(), MapError> {
        let new = self.take_free().ok_or(MapError::Full { max_entries: self.max_entries })?;
        self.write(new, key, value, locked.first(), cpu).ok_or_else(broken)?;
        locked.set_first(new);
        Ok(())
    }

    /// Removes the element of `key`.
    pub(super) fn delete(&self, key: &[u8]) -> Result<(), MapError> {
        if let Ok(key) = key.try_into() {
            self.delete_key(u32::from_ne_bytes(key))
        } else if let Ok(key) = key.try_into() {
            self.delete_key(u64::from_ne_bytes(key))
        } else {
            self.delete_key(key)
        }
    }

    #[inline]
    fn delete_key<K: Key>(&self, key: K) -> Result<(), MapError> {
        let bucket = self.bucket(key.hash(self.seed)).ok_or_else(broken)?;
        if first(bucket.load(Ordering::Acquire)) == 0 {
            return Err(MapError::NotFound);
        }
        let mut locked = Locked::new(bucket)?;
        let place = self.place(&locked, key).ok_or(MapError::NotFound)?;
        place.relink(&mut locked, place.next);
        drop(locked);
        self.give_free(place.at);
        Ok(())
    }

    /// Where `key` is in a chain that we hold locked.
    #[inline]
    fn place<K: Key>(&self, locked: &Locked<'_>, key: K) -> Option<Place<'_>> {
        let (mut at, mut before) = (locked.first(), None);
        while at != 0 {
            let element = self.element(at)?;
            let link = element.atomic_u32(NEXT)?;
            let next = link.load(Ordering::Relaxed);
            if key.is_at(element) {
                return Some(Place { at, element, next, before });
            }
            (at, before) = (next, Some(link));
        }
        None
    }

    /// Writes an element that is in no chain.
    #[inline]
    fn write<K: Key>(&self, at: u32, key: K, value: impl Source, next: u32, cpu: u32) -> Option<()> {
        let element = self.element(at)?;
        // Readers that still stand on it from its former life must notice: see the head of this file.
        fence(Ordering::Release);
        element.atomic_u32(NEXT)?.store(next, Ordering::Relaxed);
        key.put(element);
        if self.cpu_stride != 0 {
            element.sub(self.value_at, self.values_size)?.clear();
        }
        if let Some(mark_at) = self.mark_at {
            element.store(mark_at, Size::B, 0);
        }
        self.put_value(element, value, cpu)
    }

    /// Writes an element's value: in a per-CPU map that of CPU `cpu`, or for [`USER`] those of all.
    #[inline]
    fn put_value(&self, element: Slice<'_>, value: impl Source, cpu: u32) -> Option<()> {
        let target = if self.cpu_stride == 0 || cpu == USER {
            element.sub(self.value_at, self.values_size)?
        } else {
            let off =
                self.cpu_stride.checked_mul(cpu as usize).filter(|off| off + self.value_size <= self.values_size)?;
            element.sub(self.value_at + off, self.value_size)?
        };
        match self.lock {
            None => value.copy_to(target),
            // The element's former life may not be over for everyone: who still holds its lock keeps it.
            Some(lock) => guard::put(value, target, lock, false).ok()?,
        }
        Some(())
    }

    /// An element for a new key: a deleted one, else one never used.
    fn take_free(&self) -> Option<u32> {
        let mut word = self.free.load(Ordering::Acquire);
        while word as u32 != 0 {
            let next = self.element(word as u32)?.atomic_u32(NEXT_FREE)?.load(Ordering::Relaxed);
            match self.free.compare_exchange_weak(word, list_word(word, next), Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some(word as u32),
                Err(now) => word = now,
            }
        }
        let below = |n: u32| (n < self.max_entries).then(|| n + 1);
        self.fresh.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).ok().map(|n| n + 1)
    }

    /// Gives back an element that has been unlinked.
    fn give_free(&self, at: u32) {
        let Some(next) = self.element(at).and_then(|element| element.atomic_u32(NEXT_FREE)) else { return };
        let mut word = self.free.load(Ordering::Relaxed);
        loop {
            next.store(word as u32, Ordering::Relaxed);
            // All changes of the word are exchanges, so taking an element acquires what was released for those below.
            match self.free.compare_exchange_weak(word, list_word(word, at), Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }

    // --- Places ---

    #[inline]
    fn bucket(&self, hash: u64) -> Option<&AtomicU64> {
        self.buckets.slice().atomic_u64((hash & self.bucket_mask) as usize * 8)
    }

    /// The element numbered `at`, which is not 0. Always `Some`: all numbers come from ourselves.
    #[inline]
    fn element(&self, at: u32) -> Option<Slice<'_>> {
        self.elements.slice().sub((at as usize).wrapping_sub(1).wrapping_mul(self.stride), self.stride)
    }
}

/// An element that a reader has found, with what it takes to check that it still is in its chain.
struct Found<'a> {
    bucket: &'a AtomicU64,
    word: u64,
    element: Slice<'a>,
}

/// An element in a locked chain.
struct Place<'a> {
    at: u32,
    element: Slice<'a>,
    next: u32,
    /// The `next` of the element before it; `None` for the first.
    before: Option<&'a AtomicU32>,
}

impl Place<'_> {
    /// Puts `to` into the chain where this element is.
    #[inline]
    fn relink(&self, locked: &mut Locked<'_>, to: u32) {
        match self.before {
            Some(link) => {
                link.store(to, Ordering::Release);
                locked.changed();
            }
            None => locked.set_first(to),
        }
    }
}

thread_local! {
    /// This thread holds a bucket.
    static HOLDS: Cell<bool> = const { Cell::new(false) };
}

/// A locked bucket; unlocked, with a new version after a change, when dropped.
struct Locked<'a> {
    bucket: &'a AtomicU64,
    /// The word to unlock with.
    word: u64,
}

impl<'a> Locked<'a> {
    #[inline]
    fn new(bucket: &'a AtomicU64) -> Result<Locked<'a>, MapError> {
        if HOLDS.replace(true) {
            return Err(MapError::Busy("this thread was interrupted while it was changing a map".into()));
        }
        compiler_fence(Ordering::SeqCst);
        let mut spins = 0u32;
        loop {
            let word = bucket.load(Ordering::Relaxed) & !LOCKED;
            if bucket.compare_exchange_weak(word, word | LOCKED, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return Ok(Locked { bucket, word });
            }
            spins = spins.wrapping_add(1);
            if spins.is_multiple_of(64) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
    }

    #[inline]
    fn first(&self) -> u32 {
        first(self.word)
    }

    /// Unlocks with another first element.
    #[inline]
    fn set_first(&mut self, at: u32) {
        self.changed();
        self.word = u64::from(at) << 32 | self.word & u64::from(u32::MAX);
    }

    /// Unlocks with the next version.
    #[inline]
    fn changed(&mut self) {
        let low = (self.word as u32).wrapping_add(VERSION as u32);
        self.word = self.word & !u64::from(u32::MAX) | u64::from(low);
    }
}

impl Drop for Locked<'_> {
    #[inline]
    fn drop(&mut self) {
        self.bucket.store(self.word, Ordering::Release);
        compiler_fence(Ordering::SeqCst);
        HOLDS.set(false);
    }
}

#[inline]
fn first(word: u64) -> u32 {
    (word >> 32) as u32
}

/// A free list's word after `word`, with `at` in front.
fn list_word(word: u64, at: u32) -> u64 {
    ((word >> 32).wrapping_add(1) << 32) | u64::from(at)
}

/// An own number or offset was wrong. Cannot happen; an error is better than a panic in a helper.
#[cold]
fn broken() -> MapError {
    MapError::Invalid("the map's memory is damaged".into())
}

/// A key, in registers where it is short.
/// A key by value, or a copy of its bytes.
pub(crate) trait Key: Copy {
    fn hash(self, seed: u64) -> u64;
    /// Whether the element holds this key.
    fn is_at(self, element: Slice<'_>) -> bool;
    /// Writes it into the element.
    fn put(self, element: Slice<'_>);
}

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The two halves of the product, folded: every bit of the result depends on every bit of the arguments.
#[inline]
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

impl Key for u32 {
    #[inline]
    fn hash(self, seed: u64) -> u64 {
        u64::from(self).hash(seed)
    }
    #[inline]
    fn is_at(self, element: Slice<'_>) -> bool {
        element.load(KEY, Size::W) == Some(u64::from(self))
    }
    #[inline]
    fn put(self, element: Slice<'_>) {
        element.store(KEY, Size::W, u64::from(self));
    }
}

impl Key for u64 {
    #[inline]
    fn hash(self, seed: u64) -> u64 {
        mix(self ^ seed, MULTIPLIER)
    }
    #[inline]
    fn is_at(self, element: Slice<'_>) -> bool {
        element.load(KEY, Size::DW) == Some(self)
    }
    #[inline]
    fn put(self, element: Slice<'_>) {
        element.store(KEY, Size::DW, self);
    }
}

impl Key for u128 {
    #[inline]
    fn hash(self, seed: u64) -> u64 {
        mix(mix(self as u64 ^ seed, MULTIPLIER) ^ (self >> 64) as u64, MULTIPLIER)
    }
    #[inline]
    fn is_at(self, element: Slice<'_>) -> bool {
        element.load(KEY, Size::DW) == Some(self as u64) && element.load(KEY + 8, Size::DW) == Some((self >> 64) as u64)
    }
    #[inline]
    fn put(self, element: Slice<'_>) {
        element.store(KEY, Size::DW, self as u64);
        element.store(KEY + 8, Size::DW, (self >> 64) as u64);
    }
}

impl Key for &[u8] {
    fn hash(self, seed: u64) -> u64 {
        if let Ok(key) = self.try_into() {
            return u32::from_ne_bytes(key).hash(seed);
        }
        if let Ok(key) = self.try_into() {
            return u64::from_ne_bytes(key).hash(seed);
        }
        if let Ok(key) = self.try_into() {
            return u128::from_ne_bytes(key).hash(seed);
        }
        let (words, rest) = self.as_chunks::<8>();
        let start = seed ^ self.len() as u64;
        let hash = words.iter().fold(start, |hash, word| mix(hash ^ u64::from_ne_bytes(*word), MULTIPLIER));
        // The last eight bytes, some of them for the second time, are quicker to get than the rest alone.
        let last = self.last_chunk().copied().unwrap_or_else(|| {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            word
        });
        if rest.is_empty() { hash } else { mix(hash ^ u64::from_ne_bytes(last), MULTIPLIER) }
    }
    fn is_at(self, element: Slice<'_>) -> bool {
        element.sub(KEY, self.len()).is_some_and(|key| key.equals(self))
    }
    fn put(self, element: Slice<'_>) {
        if let Some(key) = element.sub(KEY, self.len()) {
            key.write(self);
        }
    }
}

#[cfg(test)]
#[path = "hash_tests.rs"]
mod tests;
