//! Entries of all programs: the table in which an outermost run resolves the program it starts.
//!
//! A runtime has one pointer to its current [`Generation`]. An outermost run reads it once, after its read-side section
//! was entered, and resolves its entry there; the runs nested in it resolve theirs in the same one. A program keeps its
//! index ([`EntryId`]) for life; what stands at that index may differ from generation to generation.
//!
//! *Guarantees.* A generation that was current when a section was entered stays in place until the section is left.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// A program's index in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct EntryId(u16);

/// Most programs that a runtime holds at once: as many as an [`EntryId`] can tell apart, so that no index needs a check.
pub(crate) const MAX_PROGRAMS: usize = 1 << 16;

/// One consistent set of entries.
pub(crate) struct Generation {
    /// Address of each program's entry; 0: none.
    entries: [AtomicU64; MAX_PROGRAMS],
    /// Native stack that the worst chain of tail calls between any of these programs needs, in bytes.
    stack: AtomicU64,
}

impl Generation {
    /// An empty table: pages that are untouched until a program's entry is written to them.
    fn new() -> Box<Generation> {
        let layout = Layout::new::<Generation>();
        // SAFETY: the layout's size is not zero.
        let block = unsafe { alloc_zeroed(layout) }.cast::<Generation>();
        if block.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: the global allocator gave this block for this layout, and atomics of zero are all zero bytes.
        unsafe { Box::from_raw(block) }
    }

    /// The entry at `id`; 0: none.
    #[inline]
    pub(super) fn resolve(&self, id: EntryId) -> u64 {
        self.entries[usize::from(id.0)].load(Ordering::Acquire)
    }

    /// Bytes of native stack a run may need.
    #[inline]
    pub(super) fn stack(&self) -> u64 {
        self.stack.load(Ordering::Acquire)
    }
}

/// The current generation, and who has which index.
pub(crate) struct Generations {
    /// From `Box::into_raw`; owned.
    current: AtomicPtr<Generation>,
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    /// Indices never given out begin here.
    next: usize,
    /// Indices given back.
    back: Vec<EntryId>,
}

impl Generations {
    /// An empty first generation.
    pub(crate) fn new() -> Generations {
        let first = Box::into_raw(Generation::new());
        Generations { current: AtomicPtr::new(first), free: Mutex::default() }
    }

    /// The current generation. A run calls this inside its section, and keeps what it got until it leaves.
    #[inline]
    pub(super) fn current(&self) -> &Generation {
        // SAFETY: the pointer came from `Box::into_raw`, and what it ever was is freed by `drop` alone.
        unsafe { &*self.current.load(Ordering::Acquire) }
    }

    /// Reserves an index; `None` when all are in use.
    pub(crate) fn reserve(&self) -> Option<EntryId> {
        let mut free = self.free.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(id) = free.back.pop() {
            return Some(id);
        }
        let id = u16::try_from(free.next).ok()?;
        free.next += 1;
        Some(EntryId(id))
    }

    /// Gives an index back. Nobody resolves it any more.
    pub(crate) fn release(&self, id: EntryId) {
        self.publish(id, 0);
        self.free.lock().unwrap_or_else(|e| e.into_inner()).back.push(id);
    }

    /// Publishes a program's entry; 0 takes it away.
    pub(crate) fn publish(&self, id: EntryId, entry: u64) {
        self.current().entries[usize::from(id.0)].store(entry, Ordering::Release);
    }

    /// Raises the stack that runs must have to at least `bytes`.
    pub(crate) fn need_stack(&self, bytes: u64) {
        self.current().stack.fetch_max(bytes, Ordering::Release);
    }
}

impl Drop for Generations {
    fn drop(&mut self) {
        let current = std::mem::replace(self.current.get_mut(), ptr::null_mut());
        // SAFETY: from `Box::into_raw`, and taken out by this `drop` only; runs hold the runtime, so there is none.
        drop(unsafe { Box::from_raw(current) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_given_back_is_given_out_again_and_resolves_to_nothing() {
        let table = Generations::new();
        let resolve = |id| table.current().resolve(id);
        let (a, b) = (table.reserve().unwrap(), table.reserve().unwrap());
        assert_ne!(a, b);
        table.publish(a, 0x1000);
        assert_eq!((resolve(a), resolve(b)), (0x1000, 0));
        table.release(a);
        assert_eq!(resolve(a), 0);
        assert_eq!(table.reserve(), Some(a));
    }

    #[test]
    fn there_are_as_many_indices_as_entries() {
        let table = Generations::new();
        let last = (0..MAX_PROGRAMS).map(|_| table.reserve().expect("a free index")).last();
        assert_eq!(last, Some(EntryId(u16::MAX)));
        assert_eq!(table.reserve(), None);
        table.release(EntryId(7));
        assert_eq!(table.reserve(), Some(EntryId(7)));
    }

    #[test]
    fn the_stack_need_only_grows() {
        let table = Generations::new();
        table.need_stack(100);
        table.need_stack(50);
        assert_eq!(table.current().stack(), 100);
    }
}
