//! The mark of a thread that holds a lock which an update takes.
//!
//! A signal handler may run a program whose helper updates an array, or update one itself. Were the interrupted thread in the
//! middle of an update, or of anything else that holds one of its locks, the handler would wait for the thread that it
//! interrupts. So every such lock is taken by [`lock`], which marks the thread first, and an update from a marked thread
//! is refused (`text::patch::UpdateError::Reentrant`).
//!
//! *Guarantees.* Whoever finds [`marked`] to be false on his thread can take any of these locks: the thread holds none.
//! The locks are: the update lock and the patcher's list of dropped trackings, the core sync's, the queues of deferred work and of
//! asynchronous updates, those of program arrays, and those of the lists of programs, entries and arrays that transactions read.
//!
//! *Never.* It says nothing about locks of others, the memory allocator's for instance: a handler that interrupts one of
//! those must not call what needs it.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::sync::atomic::{Ordering, compiler_fence};
use std::time::Duration;

use crate::primitive::{Condvar, Mutex, MutexGuard, thread_local, wait_timeout};

thread_local! {
    /// Marks of this thread. Its address is the thread's token.
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// Whether this thread is marked.
pub(crate) fn marked() -> bool {
    HELD.with(|held| held.get() > 0)
}

/// A number that no other thread has while this one lives; not 0.
pub(crate) fn token() -> usize {
    HELD.with(|held| std::ptr::from_ref(held).addr())
}

/// One mark of the thread that made it.
#[derive(Debug)]
pub(crate) struct Mark(PhantomData<*const ()>);

impl Mark {
    pub(crate) fn new() -> Mark {
        HELD.with(|held| held.set(held.get() + 1));
        // For handlers on this thread: the mark is there before the lock is.
        compiler_fence(Ordering::SeqCst);
        Mark(PhantomData)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        HELD.with(|held| held.set(held.get() - 1));
    }
}

/// A lock, held by a marked thread.
#[derive(Debug)]
pub(crate) struct Held<'a, T> {
    guard: MutexGuard<'a, T>,
    /// Last, so that it goes after the lock.
    mark: Mark,
}

/// Marks this thread and takes the lock. A panic under such a lock is a failed assertion about one field, so a poisoned
/// lock is taken as well.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> Held<'_, T> {
    let mark = Mark::new();
    Held { guard: mutex.lock().unwrap_or_else(PoisonError::into_inner), mark }
}

impl<T> Held<'_, T> {
    /// Releases the lock, waits to be woken, and takes it again.
    pub(crate) fn wait(self, condition: &Condvar) -> Self {
        let Held { guard, mark } = self;
        Held { guard: condition.wait(guard).unwrap_or_else(PoisonError::into_inner), mark }
    }

    /// The same, but waits no longer than `time`.
    pub(crate) fn wait_for(self, condition: &Condvar, time: Duration) -> Self {
        let Held { guard, mark } = self;
        Held { guard: wait_timeout(condition, guard, time), mark }
    }
}

impl<T> Deref for Held<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_marked_as_long_as_it_holds_one_of_the_locks() {
        let (one, two) = (Mutex::new(1), Mutex::new(2));
        assert!(!marked());
        let first = lock(&one);
        let second = lock(&two);
        assert!(marked() && *first + *second == 3);
        drop(first);
        assert!(marked());
        let other = std::thread::spawn(|| (marked(), token())).join().unwrap();
        assert!(!other.0 && other.1 != 0);
        drop(second);
        assert!(!marked());
    }
}
