//! The mark of a thread that is in an update: a signal handler of that thread is refused instead of waiting for it.

use std::cell::Cell;
use std::sync::PoisonError;

use crate::primitive::{Mutex, MutexGuard, thread_local};

thread_local! {
    /// Update locks that this thread holds. Its address is the thread's token.
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// Whether this thread holds an update lock: then it must not wait for a grace period.
pub fn updating() -> bool {
    HELD.with(|held| held.get() > 0)
}

pub(super) fn token() -> usize {
    HELD.with(|held| std::ptr::from_ref(held).addr())
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under the lock is an assertion about one field; the others are as they were.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The mark of a thread that is in an update.
pub(super) struct Held;

impl Held {
    pub(super) fn new() -> Held {
        HELD.with(|held| held.set(held.get() + 1));
        Held
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.with(|held| held.set(held.get() - 1));
    }
}
