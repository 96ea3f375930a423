//! What a helper may know about the run it was called from: a thread-local pointer to the innermost run's record.
//!
//! The pointer is set by [`Scope`] for as long as a run lasts, and restored to the outer run's when it ends, so nested runs
//! see their own. Helpers reach it through the free functions here.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ptr;

use super::stub::{self, Landing};

/// The innermost run of this thread.
pub(super) struct Current {
    /// The worker's CPU number.
    pub cpu: u32,
    /// How many runs are around this one.
    pub depth: u32,
    /// Where a helper's panic continues; null in the interpreter.
    pub landing: *mut Landing,
    /// Where `trace_printk` writes.
    pub log: *const dyn TraceLog,
    /// The nested-run service of the worker.
    pub nested: *const dyn Nested,
}

/// Receives the lines of `trace_printk`.
pub trait TraceLog: Send + Sync {
    /// One line, without the line feed; `cpu` is the worker's number.
    fn line(&self, cpu: u32, text: &str);
}

/// Runs a program from inside a run, on the same worker.
pub(super) trait Nested {
    fn run(&self, program: &super::Entry<'_>, ctx: &crate::context::Context) -> Result<u64, super::RunError>;
}

thread_local! {
    static CURRENT: Cell<*const Current> = const { Cell::new(ptr::null()) };
}

/// Makes `current` the innermost run of this thread until it is dropped.
pub(super) struct Scope {
    outer: *const Current,
}

impl Scope {
    /// # Safety
    /// `current` stays in place and is not moved until the scope is dropped, on this thread.
    pub(super) unsafe fn enter(current: *const Current) -> Scope {
        Scope { outer: CURRENT.replace(current) }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        CURRENT.set(self.outer);
    }
}

/// Calls `f` with the innermost run, `None` outside of any.
pub(super) fn with<R>(f: impl FnOnce(Option<&Current>) -> R) -> R {
    // SAFETY: `Scope::enter`'s caller keeps it in place for as long as the thread-local points to it.
    f(unsafe { CURRENT.get().as_ref() })
}

/// Number of the CPU that this run counts as: the worker's. 0 outside of a run.
pub(crate) fn cpu() -> u32 {
    with(|c| c.map_or(0, |c| c.cpu))
}

/// How many runs this thread is in: 0 outside.
pub fn depth() -> u32 {
    with(|c| c.map_or(0, |c| c.depth + 1))
}

/// Writes a line to the runtime's trace log; to nowhere outside of a run.
pub(crate) fn trace(text: &str) {
    with(|c| {
        if let Some(c) = c {
            // SAFETY: the log belongs to the runtime, which the running worker holds.
            unsafe { &*c.log }.line(c.cpu, text);
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
