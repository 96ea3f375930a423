//! What a helper may know about the run it was called from: a thread-local pointer to the innermost run's record.
//!
//! The pointer is set by [`Scope`] for as long as a run lasts, and restored to the outer run's when it ends, so nested runs
//! see their own. Helpers reach it through the free functions here.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ptr;

use super::stub::{self, Landing};
use super::worker::Core;

/// The innermost run of this thread.
pub(super) struct Current<'a> {
    /// The worker it runs on.
    pub worker: &'a Core,
    /// How many runs of this thread are around it.
    pub depth: u32,
    /// Where a helper's panic continues; null in the interpreter.
    pub landing: *mut Landing,
}

thread_local! {
    static CURRENT: Cell<*const Current<'static>> = const { Cell::new(ptr::null()) };
}

/// Makes `current` the innermost run of this thread while `f` runs.
#[inline]
pub(super) fn scope<R>(current: &Current<'_>, f: impl FnOnce() -> R) -> R {
    struct Restore(*const Current<'static>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    // The lifetime is erased only for storage: `Restore` takes the pointer away before `current`'s borrow ends.
    let _restore = Restore(CURRENT.replace(ptr::from_ref(current).cast()));
    f()
}

/// Calls `f` with the innermost run, `None` outside of any.
pub(super) fn with<R>(f: impl FnOnce(Option<&Current<'_>>) -> R) -> R {
    // SAFETY: `scope` keeps what the thread-local points to borrowed for as long as it does.
    f(unsafe { CURRENT.get().as_ref() })
}

/// Number of the CPU that this run counts as: the worker's. 0 outside of a run.
pub(crate) fn cpu() -> u32 {
    with(|c| c.map_or(0, |c| c.worker.cpu()))
}

/// How many runs this thread is in: 0 outside.
pub(super) fn depth() -> u32 {
    with(|c| c.map_or(0, |c| c.depth + 1))
}

/// Writes a line to the runtime's trace log; to nowhere outside of a run.
pub(crate) fn trace(text: &str) {
    with(|c| {
        if let Some(c) = c {
            c.worker.shared().log.line(c.worker.cpu(), text);
        }
    });
}

/// Ends the innermost run after a helper has panicked: control continues behind the run's entry, which reports it.
///
/// Only for the shims that generated code calls. In the interpreter, which calls the inner functions, it is an abort.
pub(crate) fn leave_after_panic() -> ! {
    let landing = with(|c| c.map_or(ptr::null_mut(), |c| c.landing));
    if landing.is_null() {
        std::process::abort();
    }
    // SAFETY: a shim runs inside `stub::enter` of this thread, and `current` names the innermost one. Between the two stand
    // generated frames and the shim's, which drop nothing.
    unsafe { stub::leave(landing) }
}
