//! A lock for a handful of instructions in which nothing is called, allocated or can panic.
//!
//! A thread that holds one and is interrupted by a signal handler that wants one, too, gets `EBUSY` there, as a CPU does in
//! the kernel: whoever waited for the thread that he interrupts would wait for ever.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering, compiler_fence};

use super::MapError;

thread_local! {
    /// This thread holds such a lock.
    static HOLDS: Cell<bool> = const { Cell::new(false) };
}

/// The lock.
#[derive(Default)]
pub(super) struct Spin(AtomicBool);

/// A lock that is held by this thread.
pub(super) struct Guard<'a> {
    lock: &'a Spin,
    here: PhantomData<*const ()>,
}

impl Spin {
    /// Takes it; `EBUSY` where this thread holds one already.
    pub(super) fn lock(&self) -> Result<Guard<'_>, MapError> {
        if HOLDS.replace(true) {
            return Err(MapError::Busy("this thread was interrupted while it was changing a map".into()));
        }
        compiler_fence(Ordering::SeqCst);
        let mut spins = 0u32;
        while self.0.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            spins = spins.wrapping_add(1);
            if spins.is_multiple_of(64) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        Ok(Guard { lock: self, here: PhantomData })
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.lock.0.store(false, Ordering::Release);
        compiler_fence(Ordering::SeqCst);
        HOLDS.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_that_holds_one_is_refused_and_others_wait() {
        let (one, two) = (Spin::default(), Spin::default());
        let held = one.lock().unwrap();
        assert!(one.lock().is_err() && two.lock().is_err());
        std::thread::scope(|scope| {
            let other = scope.spawn(|| one.lock().map(drop).is_ok());
            drop(held);
            assert!(other.join().unwrap());
        });
        assert!(two.lock().is_ok());
    }
}
