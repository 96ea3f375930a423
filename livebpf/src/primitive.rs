//! Atomics, locks and threads of the rooms whose order of memory accesses is argued: `map::prog_array`, `text`, `rcu`.
//!
//! Ordinarily these are the standard library's, and nothing else. Under `--cfg loom` they are those of the model checker
//! loom, which runs the same code in every interleaving, and with every value that a load may return: tests/loom_*.rs.
//! What loom cannot know is said here once:
//!
//! * A core sync (`membarrier`) is a barrier in *every* thread. In a model it is a sequentially consistent fence on the
//!   side that calls it, and each place where only the compiler is fenced (`compiler_fence`) is one as well. This says
//!   exactly what membarrier says: a fence at every boundary between two steps of a reader puts each boundary before
//!   or after each core sync, and no more, since readers' fences order nothing without the updater's.
//! * An instruction fetch is a relaxed load, and a store to code a relaxed store (`text::view`): nothing but a core sync
//!   orders them.
//! * Waiting is giving way to the other threads.
//!
//! *Never.* Nothing here is chosen at run time, and no room looks at `cfg(loom)` to change what it does. What exists twice
//! is here, and memory that generated code reads (`text::view`, `map::prog_array::words`), and the system call of
//! `text::sync`.

#[cfg(not(loom))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::{sync::atomic, thread, thread_local};

#[cfg(loom)]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(loom)]
pub(crate) use loom::thread;

/// `std::thread_local!` as far as it is used here, with loom's threads.
#[cfg(loom)]
macro_rules! model_thread_local {
    ($(#[$doc:meta])* static $name:ident: $type:ty = const $init:block;) => {
        loom::thread_local! { $(#[$doc])* static $name: $type = $init; }
    };
}
#[cfg(loom)]
pub(crate) use model_thread_local as thread_local;

/// Loom's atomics.
#[cfg(loom)]
pub(crate) mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

    use std::cell::RefCell;
    use std::sync::Arc;

    std::thread_local! {
        /// Loom tries an order of two steps only where they touch one object, and its fences touch none: it would not
        /// look at what a thread does just before another one's fence. So each side touches this. (One per model that is
        /// being checked: all threads of a model are one of the system's.)
        static BOUNDARY: RefCell<Option<Arc<AtomicU32>>> = const { RefCell::new(None) };
    }

    /// Each execution of a model begins with it.
    pub(crate) fn begin_model() {
        let new = Arc::new(AtomicU32::new(0));
        BOUNDARY.with(|boundary| boundary.replace(Some(new)));
    }

    fn boundary() -> Arc<AtomicU32> {
        BOUNDARY.with(|boundary| boundary.borrow().clone()).expect("a model begins with begin_model")
    }

    /// The updater's half of a core sync.
    pub(crate) fn fence(order: Ordering) {
        boundary().store(0, Ordering::Relaxed);
        loom::sync::atomic::fence(order);
    }

    /// The reader's half.
    pub(crate) fn compiler_fence(order: Ordering) {
        boundary().load(Ordering::Relaxed);
        loom::sync::atomic::fence(order);
    }
}

/// Runs `work`; false when it panicked. In a model a panic is the model's failure, and goes on.
pub(crate) fn contained(work: impl FnOnce()) -> bool {
    if cfg!(loom) {
        work();
        return true;
    }
    caught(work).is_some()
}

/// Runs `work`; `None` when it panicked, for whatever it panicked with.
#[inline(always)]
pub(crate) fn caught<R>(work: impl FnOnce() -> R) -> Option<R> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(result) => Some(result),
        Err(payload) => {
            discard(payload);
            None
        }
    }
}

/// Dropping what somebody panicked with can panic again, with something else; after some of that it is left alone.
#[cold]
fn discard(mut payload: Box<dyn std::any::Any + Send>) {
    for _ in 0..4 {
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(payload))) {
            Ok(()) => return,
            Err(again) => payload = again,
        }
    }
    std::mem::forget(payload);
}

/// Waits to be woken, or for `time` to pass. In a model it has passed already.
pub(crate) fn wait_timeout<'a, T>(
    condition: &Condvar,
    guard: MutexGuard<'a, T>,
    time: std::time::Duration,
) -> MutexGuard<'a, T> {
    if cfg!(loom) {
        return guard;
    }
    condition.wait_timeout(guard, time).unwrap_or_else(std::sync::PoisonError::into_inner).0
}

/// Pauses between polls: short at first, a millisecond at most.
#[derive(Default)]
pub(crate) struct Pause(u32);

impl Pause {
    /// The next pause.
    #[cfg(not(loom))]
    pub(crate) fn rest(&mut self) {
        use std::time::Duration;
        match self.0 {
            0..64 => std::hint::spin_loop(),
            64..72 => thread::yield_now(),
            n => thread::sleep(Duration::from_micros(10 << (n - 72).min(6)).min(Duration::from_millis(1))),
        }
        self.0 = (self.0 + 1).min(100);
    }

    #[cfg(loom)]
    pub(crate) fn rest(&mut self) {
        self.0 = 0;
        thread::yield_now();
    }
}
