//! Entries of all programs: the table in which an outermost run resolves the program it starts.
//!
//! A runtime has one pointer to its current [`Generation`]. An outermost run reads it once, after its read-side section
//! was entered, and resolves its entry there; the runs nested in it resolve theirs in the same one. The handles of a program keep
//! their index ([`EntryId`]) for life; what stands at that index may differ from generation to generation.
//!
//! *Changes.* Single programs come and go in the current generation; a transaction makes the next one and swaps the pointer.
//! Both happen under the update lock, which is what the [`UpdateGuard`] arguments stand for: so a change is either in
//! what the transaction copies, or goes to the generation that it made.
//!
//! *Guarantees.* A generation that was current when a section was entered stays in place until the section is left: the one
//! that [`Generations::swap`] returns must be handed to a grace period.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::Arc;
// Zeroed memory is one of these: the standard library's in a model, too.
use std::sync::atomic::AtomicU64 as Zeroed;

use super::program::Loaded;
use super::relink::Turn;
use crate::map::held::{Held, lock};
use crate::primitive::Mutex;
use crate::primitive::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use crate::text::patch::UpdateGuard;

/// A program's index in the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct EntryId(u16);

/// Most programs that a runtime holds at once: as many as an [`EntryId`] can tell apart, so that no index needs a check.
pub(crate) const MAX_PROGRAMS: usize = 1 << 16;

/// Generations that may exist at once: the current one, and those in which runs are still going on.
pub(crate) const MAX_GENERATIONS: usize = 16;

/// One consistent set of entries.
pub(crate) struct Generation {
    /// Address of each program's entry, 1 for the interpreter's; 0: none.
    entries: [Zeroed; MAX_PROGRAMS],
    /// Native stack that the worst chain of tail calls between any of these programs needs, in bytes.
    stack: Zeroed,
    number: u64,
    /// The entries whose runs start another program than their own.
    redirects: Mutex<BTreeMap<EntryId, Arc<Loaded>>>,
}

impl Generation {
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

    /// How many generations there were before.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    fn redirects(&self) -> Held<'_, BTreeMap<EntryId, Arc<Loaded>>> {
        lock(&self.redirects)
    }

    /// The program that runs of `id` start, where it is not the entry's own.
    pub(crate) fn redirect(&self, id: EntryId) -> Option<Arc<Loaded>> {
        self.redirects().get(&id).cloned()
    }
}

/// A generation, owned. (Not a `Box`: running threads have references to it.)
pub(crate) struct Owned(NonNull<Generation>);

// SAFETY: a generation is Sync, and owning it from another thread is owning it.
unsafe impl Send for Owned {}
// SAFETY: as above.
unsafe impl Sync for Owned {}

impl Owned {
    /// An empty table: pages that are untouched until a program's entry is written to them.
    fn new(number: u64, stack: u64, redirects: BTreeMap<EntryId, Arc<Loaded>>) -> Owned {
        let layout = Layout::new::<Generation>();
        // SAFETY: the layout's size is not zero.
        let block = unsafe { alloc_zeroed(layout) }.cast::<Generation>();
        let Some(block) = NonNull::new(block) else { handle_alloc_error(layout) };
        let at = block.as_ptr();
        // SAFETY: the block has the type's layout and is ours alone; atomics of zero are all zero bytes, and the other fields
        // are written before anybody reads them.
        unsafe {
            (&raw mut (*at).stack).write(Zeroed::new(stack));
            (&raw mut (*at).number).write(number);
            (&raw mut (*at).redirects).write(Mutex::new(redirects));
        }
        Owned(block)
    }

    /// Sets an entry of a generation that is not published yet.
    pub(crate) fn set(&self, id: EntryId, entry: u64) {
        self.entries[usize::from(id.0)].store(entry, Ordering::Release);
    }

    /// Lets runs of `id` start `program`, or its own again, in a generation that is not published yet.
    pub(crate) fn redirect_to(&self, id: EntryId, program: Option<Arc<Loaded>>) {
        let mut redirects = self.redirects();
        let old = match program {
            Some(program) => redirects.insert(id, program),
            None => redirects.remove(&id),
        };
        drop(redirects);
        drop(old);
    }
}

impl std::ops::Deref for Owned {
    type Target = Generation;
    fn deref(&self) -> &Generation {
        // SAFETY: made by `new`, freed by `drop` only.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the block and its fields were made in `new` with the layout of a `Box<Generation>`, and nobody else owns them.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// The current generation, and who has which index.
pub(crate) struct Generations {
    /// Owned.
    current: AtomicPtr<Generation>,
    /// The current one's.
    number: AtomicU64,
    /// Generations that exist, the current one included.
    live: AtomicUsize,
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
    /// An empty first generation, whose runs need `stack` bytes of native stack.
    pub(crate) fn new(stack: u64) -> Generations {
        let first = Owned::new(0, stack, BTreeMap::new());
        Generations {
            current: AtomicPtr::new(into_raw(first)),
            number: AtomicU64::new(0),
            live: AtomicUsize::new(1),
            free: Mutex::default(),
        }
    }

    /// The current generation. A run calls this inside its section, and keeps what it got until it leaves.
    #[inline]
    pub(super) fn current(&self) -> &Generation {
        // SAFETY: the pointer came from `into_raw`. The generation is freed a grace period after it was swapped out, and every caller is
        // inside a section, or has the turn or the update lock; it is swapped out only by who has both.
        unsafe { &*self.current.load(Ordering::Acquire) }
    }

    /// Where the pointer to the current generation is, for the stub's loop.
    pub(super) fn pointer(&self) -> *const *const Generation {
        std::ptr::from_ref(&self.current).cast()
    }

    /// The number of the current generation. It is 0 until the first transaction.
    pub(crate) fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Reserves an index; `None` when all are in use.
    pub(crate) fn reserve(&self) -> Option<EntryId> {
        let mut free = lock(&self.free);
        if let Some(id) = free.back.pop() {
            return Some(id);
        }
        let id = u16::try_from(free.next).ok()?;
        free.next += 1;
        Some(EntryId(id))
    }

    /// Gives an index back that was never published, or was [`forgotten`](Self::forget).
    pub(crate) fn release(&self, id: EntryId) {
        lock(&self.free).back.push(id);
    }

    /// Publishes a program's entry, whose worst chain needs `stack` bytes.
    pub(crate) fn publish(&self, _lock: &UpdateGuard<'_>, id: EntryId, entry: u64, stack: u64) {
        let current = self.current();
        current.stack.fetch_max(stack, Ordering::Release);
        current.entries[usize::from(id.0)].store(entry, Ordering::Release);
    }

    /// Takes an entry away that nobody resolves any more. What comes back is to be dropped after the lock.
    #[must_use]
    pub(super) fn forget(&self, _lock: &UpdateGuard<'_>, id: EntryId) -> Option<Arc<Loaded>> {
        let current = self.current();
        current.entries[usize::from(id.0)].store(0, Ordering::Release);
        current.redirects().remove(&id)
    }

    /// The program that runs of `id` start, where it is not the entry's own.
    pub(crate) fn redirect(&self, _turn: &Turn<'_>, id: EntryId) -> Option<Arc<Loaded>> {
        self.current().redirect(id)
    }

    /// Generations that exist.
    pub(crate) fn live(&self) -> usize {
        self.live.load(Ordering::Acquire)
    }

    /// The next generation, with the redirects of the current one but without entries.
    pub(crate) fn next(&self, _lock: &UpdateGuard<'_>) -> Owned {
        let current = self.current();
        Owned::new(current.number + 1, current.stack(), current.redirects().clone())
    }

    /// Makes `next` the current generation: runs that start from now on are in it. The old one is to be handed to a grace period, and
    /// [`drained`](Self::drained) called when that is over.
    pub(crate) fn swap(&self, _lock: &UpdateGuard<'_>, next: Owned) -> Owned {
        self.live.fetch_add(1, Ordering::AcqRel);
        self.number.store(next.number, Ordering::Release);
        let old = self.current.swap(into_raw(next), Ordering::AcqRel);
        // SAFETY: what is in `current` came from `into_raw`, and was taken out just now.
        unsafe { from_raw(old) }
    }

    /// A generation is gone.
    pub(crate) fn drained(&self) {
        self.live.fetch_sub(1, Ordering::AcqRel);
    }
}

fn into_raw(owned: Owned) -> *mut Generation {
    std::mem::ManuallyDrop::new(owned).0.as_ptr()
}

/// # Safety
/// `raw` came from `into_raw`, and is used once.
unsafe fn from_raw(raw: *mut Generation) -> Owned {
    // SAFETY: never null, by the contract.
    Owned(unsafe { NonNull::new_unchecked(raw) })
}

impl Drop for Generations {
    fn drop(&mut self) {
        // SAFETY: what is in `current` came from `into_raw`; runs hold the runtime, so there is none.
        drop(unsafe { from_raw(self.current.load(Ordering::Acquire)) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rcu::Domain;
    use crate::text::patch::Patcher;
    use crate::text::{CoreSync, Region, RegionOptions};

    fn patcher() -> Arc<Patcher> {
        let region = Region::new(RegionOptions { capacity: 64 << 10, ..RegionOptions::default() }).unwrap();
        let sync = CoreSync::detect();
        Patcher::new(region, sync.clone(), Domain::new(sync).unwrap())
    }

    #[test]
    fn an_index_given_back_is_given_out_again_and_resolves_to_nothing() {
        let (table, patcher) = (Generations::new(0), patcher());
        let lock = patcher.update().unwrap();
        let resolve = |id| table.current().resolve(id);
        let (a, b) = (table.reserve().unwrap(), table.reserve().unwrap());
        assert_ne!(a, b);
        table.publish(&lock, a, 0x1000, 0);
        assert_eq!((resolve(a), resolve(b)), (0x1000, 0));
        assert!(table.forget(&lock, a).is_none());
        table.release(a);
        assert_eq!(resolve(a), 0);
        assert_eq!(table.reserve(), Some(a));
    }

    #[test]
    fn there_are_as_many_indices_as_entries() {
        let table = Generations::new(0);
        let last = (0..MAX_PROGRAMS).map(|_| table.reserve().expect("a free index")).last();
        assert_eq!(last, Some(EntryId(u16::MAX)));
        assert_eq!(table.reserve(), None);
        table.release(EntryId(7));
        assert_eq!(table.reserve(), Some(EntryId(7)));
    }

    #[test]
    fn the_next_generation_inherits_the_stack_and_nothing_is_stored_into_the_old_one() {
        let (table, patcher) = (Generations::new(100), patcher());
        let lock = patcher.update().unwrap();
        let id = table.reserve().unwrap();
        table.publish(&lock, id, 0x1000, 50);
        let next = table.next(&lock);
        next.set(id, 0x2000);
        let old = table.swap(&lock, next);
        assert_eq!((table.live(), table.number(), table.current().stack()), (2, 1, 100));
        table.publish(&lock, id, 0x3000, 200);
        assert_eq!((old.resolve(id), old.stack(), old.number()), (0x1000, 100, 0));
        assert_eq!((table.current().resolve(id), table.current().stack()), (0x3000, 200));
        drop(old);
        table.drained();
        assert_eq!(table.live(), 1);
    }
}
