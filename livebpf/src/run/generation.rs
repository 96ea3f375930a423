//! Entries of all programs: the table in which an outermost run resolves the program it starts.
//!
//! A runtime has one pointer to its current [`Generation`]; a run reads it once, after its read-side section was
//! entered. A program keeps its index ([`EntryId`]) for life; what stands at that index may differ from generation to generation.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// A program's index in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct EntryId(u32);

/// Most programs that a runtime holds at once.
pub(crate) const MAX_PROGRAMS: usize = 1 << 16;

/// One consistent set of entries.
#[derive(Debug)]
pub(crate) struct Generation {
    /// Address of each program's entry; 0: none.
    entries: Box<[AtomicU64]>,
    /// Native stack that the worst chain of tail calls between any of these programs needs, in bytes.
    stack: AtomicU64,
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    /// Indices never given out begin here.
    next: u32,
    /// Indices given back.
    back: Vec<u32>,
}

impl Generation {
    /// An empty table.
    pub(crate) fn new() -> Generation {
        let entries = std::iter::repeat_with(|| AtomicU64::new(0)).take(MAX_PROGRAMS).collect();
        Generation { entries, stack: AtomicU64::new(0), free: Mutex::new(Free::default()) }
    }

    /// Reserves an index; `None` when all are in use.
    pub(crate) fn reserve(&self) -> Option<EntryId> {
        let mut free = self.free.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(id) = free.back.pop() {
            return Some(EntryId(id));
        }
        if free.next as usize == MAX_PROGRAMS {
            return None;
        }
        free.next += 1;
        Some(EntryId(free.next - 1))
    }

    /// Gives an index back. Nobody resolves it any more.
    pub(crate) fn release(&self, id: EntryId) {
        self.entries[id.0 as usize].store(0, Ordering::Release);
        self.free.lock().unwrap_or_else(|e| e.into_inner()).back.push(id.0);
    }

    /// Publishes a program's entry; 0 takes it away.
    pub(crate) fn publish(&self, id: EntryId, entry: u64) {
        self.entries[id.0 as usize].store(entry, Ordering::Release);
    }

    /// The entry at `id`; 0: none. Called inside a read-side section.
    #[inline]
    pub(crate) fn resolve(&self, id: EntryId) -> u64 {
        self.entries[id.0 as usize].load(Ordering::Acquire)
    }

    /// Raises the stack that runs must have to at least `bytes`.
    pub(crate) fn need_stack(&self, bytes: u64) {
        self.stack.fetch_max(bytes, Ordering::Release);
    }

    /// Bytes of native stack a run may need.
    #[inline]
    pub(crate) fn stack(&self) -> u64 {
        self.stack.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_given_back_is_given_out_again_and_resolves_to_nothing() {
        let table = Generation::new();
        let (a, b) = (table.reserve().unwrap(), table.reserve().unwrap());
        assert_ne!(a, b);
        table.publish(a, 0x1000);
        assert_eq!((table.resolve(a), table.resolve(b)), (0x1000, 0));
        table.release(a);
        assert_eq!(table.resolve(a), 0);
        assert_eq!(table.reserve(), Some(a));
    }

    #[test]
    fn the_stack_need_only_grows() {
        let table = Generation::new();
        table.need_stack(100);
        table.need_stack(50);
        assert_eq!(table.stack(), 100);
    }
}
