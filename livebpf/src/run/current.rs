//! What a helper may know about the run it was called from: a thread-local pointer to the innermost run's record.
//!
//! The pointer (which `rcu` keeps) is set by [`scope`] for as long as a run lasts, and restored to the outer run's when it ends, so nested runs
//! see their own. Helpers reach it through the free functions here.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ptr;
use std::sync::Arc;

use super::effects::{Effects, Redirect};
use super::generation::Generation;
use super::program::{Entry, Loaded};
use super::stub::{self, Landing};
use super::worker::Core;
use crate::map::Map;
use crate::map::cell::Slice;
use crate::object::ProgType;
use crate::rcu::{innermost_run, set_innermost_run};

/// The innermost run of this thread. Its pointers are good for as long as [`scope`] or [`outermost`] lasts.
pub(super) struct Current {
    entry: Cell<*const Entry>,
    worker: Cell<*const Core>,
    generation: Cell<*const Generation>,
    depth: u32,
    /// Where a helper's panic continues: behind the innermost call from outside of generated code. Null in the interpreter.
    pub landing: Cell<*mut Landing>,
}

impl Current {
    /// A record to be [`set`](Self::set) before it is used.
    pub fn new(depth: u32) -> Current {
        let (entry, worker, generation) = (Cell::new(ptr::null()), Cell::new(ptr::null()), Cell::new(ptr::null()));
        Current { entry, worker, generation, depth, landing: Cell::new(ptr::null_mut()) }
    }

    pub fn set(&self, entry: &Entry, worker: &Core, generation: &Generation) {
        self.entry.set(entry);
        self.worker.set(worker);
        self.generation.set(generation);
    }

    /// The program that was started; a transaction may have put another one in its place.
    pub fn entry(&self) -> &Entry {
        // SAFETY: who makes this the innermost run holds the entry; and only innermost runs are asked.
        unsafe { &*self.entry.get() }
    }

    /// The worker it runs on.
    pub fn worker(&self) -> &Core {
        // SAFETY: as above.
        unsafe { &*self.worker.get() }
    }

    /// Where this run and those nested in it on the same worker resolve their entries.
    pub fn generation(&self) -> &Generation {
        // SAFETY: as above; the run is in a section that was entered before the generation was read.
        unsafe { &*self.generation.get() }
    }
}

/// Makes `current` the innermost run of this thread while `f` runs.
#[inline]
pub(super) fn scope<R>(current: &Current, f: impl FnOnce() -> R) -> R {
    struct Restore(*const ());
    impl Drop for Restore {
        fn drop(&mut self) {
            set_innermost_run(self.0);
        }
    }
    // `Restore` takes the pointer away before `current`'s borrow ends.
    let _restore = Restore(set_innermost_run(ptr::from_ref(current).cast()));
    f()
}

/// Whether this thread is in no run.
#[inline]
pub(super) fn outside() -> bool {
    innermost_run().is_null()
}

/// [`scope`] on a thread that is in no run, around something that cannot panic.
#[inline]
pub(super) fn outermost<R>(current: &Current, f: impl FnOnce() -> R) -> R {
    set_innermost_run(ptr::from_ref(current).cast());
    let result = f();
    set_innermost_run(ptr::null());
    result
}

fn innermost<'a>() -> Option<&'a Current> {
    // SAFETY: `scope` and `outermost` keep what this points to borrowed for as long as it is there; whoever asks is called from
    // inside of them.
    unsafe { innermost_run().cast::<Current>().as_ref() }
}

/// Calls `f` with the innermost run, `None` outside of any.
pub(super) fn with<R>(f: impl FnOnce(Option<&Current>) -> R) -> R {
    f(innermost())
}

/// Number of the CPU that this run counts as: the worker's. 0 outside of a run.
pub(crate) fn cpu() -> u32 {
    with(|c| c.map_or(0, |c| c.worker().cpu()))
}

/// How many runs this thread is in: 0 outside.
pub(super) fn depth() -> u32 {
    with(|c| c.map_or(0, |c| c.depth + 1))
}

/// The generation of the innermost run, where that is one of `worker`'s.
pub(super) fn generation(worker: &Core) -> Option<&Generation> {
    let current = innermost().filter(|c| ptr::eq(c.worker(), worker))?;
    // SAFETY: a worker that is inside a section, as this one is, keeps the runtime and with it the generation.
    Some(unsafe { &*current.generation.get() })
}

/// Writes a line to the runtime's trace log; to nowhere outside of a run.
pub(crate) fn trace(text: &str) {
    with(|c| {
        if let Some(c) = c {
            c.worker().shared().log.line(c.worker().cpu(), text);
        }
    });
}

/// Nanoseconds of the monotonic clock.
pub(crate) fn now_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds of a clock.
pub(crate) fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is writable and of the right type.
    unsafe { libc::clock_gettime(clock, &mut now) };
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

/// What the run has asked for so far, to be changed; `None` outside of a run.
pub(crate) fn effects<R>(change: impl FnOnce(&mut Effects) -> R) -> Option<R> {
    with(|c| c.and_then(|c| c.worker().change_effects(change)))
}

/// The same where that is only where the packet is to go.
#[inline]
pub(crate) fn redirect(redirect: Option<Redirect>) {
    with(|c| {
        if let Some(c) = c {
            c.worker().redirect(redirect);
        }
    });
}

/// The cookie that the worker's user has set; 0 outside of a run.
pub(crate) fn attach_cookie() -> u64 {
    with(|c| c.map_or(0, |c| c.worker().attach_cookie()))
}

/// The type of the program that was started.
pub(crate) fn prog_type() -> Option<ProgType> {
    with(|c| c.map(|c| c.entry().prog_type))
}

/// A copy of [addr, addr + len), where all of it was declared by the worker's user or is in one value of a map that programs may
/// read.
pub(crate) fn probe(addr: u64, len: usize) -> Option<Vec<u8>> {
    let declared = with(|c| c.and_then(|c| c.worker().declared(addr, len).map(<[u8]>::to_vec)));
    declared.or_else(|| {
        let value = |map: &Map| map.value_region(addr, len).filter(|_| map.programs_may_read()).map(Slice::to_vec);
        search(value)
    })
}

/// Most bytes that a helper reads at an address of which the program says no size.
const LONGEST: usize = 4096;

/// The bytes from `addr` to the end of the map value that contains it, at most [`LONGEST`], in a map of the program that was
/// started or of any that its tail calls can lead to. `None` for other memory. The window is valid during the helper's call.
pub(crate) fn readable(addr: u64) -> Option<Slice<'static>> {
    let len = search(|map| window(map, addr))?;
    // SAFETY: the map holds these bytes, and is held by a program that this run may be in: both stay in place at least until
    // the run's read-side section is left.
    Some(unsafe { Slice::from_raw(addr, len) })
}

/// The first answer that `look` gives for a map of the program that was started, or of any that its tail calls can lead to.
fn search<R>(look: impl Fn(&Map) -> Option<R>) -> Option<R> {
    with(|c| {
        let c = c?;
        let started = c.generation().redirect(c.entry().id);
        let mut maps: Vec<Arc<Map>> = started.as_ref().unwrap_or(&c.entry().loaded).maps().to_vec();
        let mut next = 0;
        while let Some(map) = maps.get(next).cloned() {
            next += 1;
            if let Some(found) = look(&map) {
                return Some(found);
            }
            let Some(array) = map.prog_array() else { continue };
            for (_, member) in array.table(c.generation().number()).occupied() {
                let new = member.as_any().downcast_ref::<Loaded>().into_iter().flat_map(Loaded::maps);
                let new: Vec<_> = new.filter(|m| !maps.iter().any(|known| Arc::ptr_eq(known, m))).cloned().collect();
                maps.extend(new);
            }
        }
        None
    })
}

/// How many bytes from `addr` on lie in one value of `map`.
fn window(map: &Map, addr: u64) -> Option<usize> {
    map.value_region(addr, 1)?;
    let (mut inside, mut outside) = (1, LONGEST + 1);
    while outside - inside > 1 {
        let middle = inside.midpoint(outside);
        match map.value_region(addr, middle) {
            Some(_) => inside = middle,
            None => outside = middle,
        }
    }
    Some(inside)
}

/// Calls back the function at `entry`, for a helper that generated code called; its R0. A helper's panic inside of it goes on
/// as a panic here, so that what the frames in between hold is given back.
///
/// # Safety
/// `entry` is the address of a function in the image that called the helper, proved to be safe to call with `args`, without
/// tail calls in it or below.
pub(super) unsafe fn call_back(entry: u64, args: [u64; 5]) -> u64 {
    with(|c| {
        let Some(c) = c else { std::process::abort() };
        let mut landing = Landing::default();
        let outer = c.landing.replace(&raw mut landing);
        // SAFETY: the caller vouches for `entry`; `landing` lives until the end of this function.
        let r0 = unsafe { stub::call_back(entry, args, c.worker().cpu(), &raw mut landing) };
        c.landing.set(outer);
        if landing.left() {
            // Said already where it happened; nothing is allocated for this payload.
            std::panic::resume_unwind(Box::new(()));
        }
        r0
    })
}

/// Ends the innermost run after a helper has panicked: control continues behind the run's entry, which reports it.
///
/// Only for the shims that generated code calls. In the interpreter, which calls the inner functions, it is an abort.
pub(super) fn leave_after_panic() -> ! {
    let landing = with(|c| {
        c.map_or(ptr::null_mut(), |c| {
            c.worker().note_panic();
            c.landing.get()
        })
    });
    if landing.is_null() {
        std::process::abort();
    }
    // SAFETY: a shim runs inside `stub::enter` of this thread, and `current` names the innermost one. Between the two stand
    // generated frames and the shim's, which drop nothing: a helper that calls back has a landing of its own.
    unsafe { stub::leave(landing) }
}
