//! The reader's side: one word, a plain store to enter and one to leave. The argument is in [`super`].

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

use super::domain::Shared;
use crate::primitive::atomic::{AtomicU64, Ordering, compiler_fence};
use crate::primitive::thread_local;
use crate::text::fork::ForkPage;

const DEPTH: u64 = 0xffff;
const SEQUENCE: u64 = DEPTH + 1;

/// A reader's word, on cache lines of its own.
#[repr(align(128))]
#[derive(Debug, Default)]
pub(super) struct Word(AtomicU64);

/// An open section as a waiter saw it.
#[derive(Debug)]
pub(super) struct Seen(u64);

impl Word {
    /// Answers what was stored.
    #[inline]
    fn enter(&self, fenced: bool) -> u64 {
        let old = self.0.load(Ordering::Relaxed);
        assert!(old & DEPTH != DEPTH, "more than 65535 nested sections");
        self.opened(old + 1, fenced);
        old + 1
    }

    /// The same; answers what is to be stored when it is left, which is the same word whatever has been entered and left in between.
    #[inline]
    fn enter_run(&self, fenced: bool) -> u64 {
        let old = self.0.load(Ordering::Relaxed);
        if old & DEPTH != 0 {
            return self.enter_inside(fenced);
        }
        self.opened(old + 1, fenced);
        old + SEQUENCE
    }

    #[cold]
    fn enter_inside(&self, fenced: bool) -> u64 {
        after(self.enter(fenced))
    }

    #[inline]
    fn opened(&self, word: u64, fenced: bool) {
        if fenced {
            self.0.swap(word, Ordering::SeqCst);
        } else {
            self.0.store(word, Ordering::Relaxed);
        }
        // Loads of entries and slots stay behind the store; the processor's side is the waiter's core sync.
        compiler_fence(Ordering::SeqCst);
    }

    #[inline]
    fn leave(&self) {
        self.leave_to(after(self.0.load(Ordering::Relaxed)));
    }

    /// The same for who knows what the word is then.
    #[inline]
    fn leave_to(&self, new: u64) {
        compiler_fence(Ordering::SeqCst);
        self.0.store(new, Ordering::Release);
    }

    /// For a reader that goes: nobody waits for it any longer.
    fn close(&self) {
        let old = self.0.load(Ordering::Relaxed);
        self.0.store((old & !DEPTH) + SEQUENCE, Ordering::Release);
    }

    fn depth(&self) -> u64 {
        self.0.load(Ordering::Relaxed) & DEPTH
    }

    /// The section that is open now, if any.
    pub(super) fn seen(&self) -> Option<Seen> {
        let word = self.0.load(Ordering::Acquire);
        (word & DEPTH != 0).then_some(Seen(word / SEQUENCE))
    }

    /// Whether the section that was `seen` has been left.
    pub(super) fn left(&self, seen: &Seen) -> bool {
        let word = self.0.load(Ordering::Acquire);
        word & DEPTH == 0 || word / SEQUENCE != seen.0
    }
}

/// A reader's word when one section more has been left.
#[inline]
fn after(old: u64) -> u64 {
    if old & DEPTH == 1 { old - 1 + SEQUENCE } else { old - 1 }
}

thread_local! {
    /// Sections that are open, but for those of runs.
    static INSIDE: Cell<u32> = const { Cell::new(0) };
}

thread_local! {
    /// The record of this thread's innermost run, which is `run::current`'s. Here it only matters whether there is one.
    static RUN: Cell<*const ()> = const { Cell::new(std::ptr::null()) };
}

/// The record of this thread's innermost run; null outside of any.
#[inline]
pub(crate) fn innermost_run() -> *const () {
    RUN.with(Cell::get)
}

/// Sets it; answers the one before.
#[inline]
pub(crate) fn set_innermost_run(record: *const ()) -> *const () {
    RUN.with(|run| run.replace(record))
}

/// Whether this thread is inside a section of any domain: then it must not wait for a grace period of any, since two
/// threads could wait for each other.
pub fn inside() -> bool {
    INSIDE.with(|inside| inside.get() > 0) || !innermost_run().is_null()
}

/// One worker's membership in a domain. It can move to another thread between sections; it serves one at a time.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    /// The domain's: runs look at it each time.
    fork: Arc<ForkPage>,
    word: Arc<Word>,
    fenced: bool,
    one_thread_at_a_time: PhantomData<Cell<()>>,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>) -> Reader {
        let word = Arc::new(Word::default());
        shared.register(word.clone());
        let fenced = shared.readers_fence();
        let fork = shared.fork.clone();
        Reader { shared, fork, word, fenced, one_thread_at_a_time: PhantomData }
    }

    /// Opens a section, nested ones included. What is published now stays usable until the section is dropped.
    ///
    /// # Panics
    /// At 65536 nested sections.
    #[inline]
    pub fn enter(&self) -> Section<'_> {
        INSIDE.with(|inside| inside.set(inside.get() + 1));
        self.word.enter(self.fenced);
        Section { word: &self.word, this_thread_only: PhantomData }
    }

    /// Opens a section for one run, which is known by [`set_innermost_run`] and so not counted here. What is opened inside it on this
    /// reader is left inside it.
    #[inline]
    pub(crate) fn enter_run(&self) -> RunSection<'_> {
        RunSection { word: &self.word, after: self.word.enter_run(self.fenced), this_thread_only: PhantomData }
    }

    /// Sections that are open, nested in each other.
    pub fn depth(&self) -> u32 {
        self.word.depth() as u32
    }

    /// Whether this process is a child of the one that made the domain: then nothing may be run.
    #[inline]
    pub fn forked(&self) -> bool {
        self.fork.forked()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.word.close();
        self.shared.unregister(&self.word);
    }
}

/// An open section; dropping it leaves.
#[must_use = "a section is left as soon as it is dropped"]
#[derive(Debug)]
pub struct Section<'r> {
    word: &'r Word,
    this_thread_only: PhantomData<*const ()>,
}

impl Drop for Section<'_> {
    #[inline]
    fn drop(&mut self) {
        self.word.leave();
        INSIDE.with(|inside| inside.set(inside.get() - 1));
    }
}

/// The section of one run; dropping it leaves.
#[must_use = "a section is left as soon as it is dropped"]
pub(crate) struct RunSection<'r> {
    word: &'r Word,
    /// The word behind it, which is the same whatever came in between and has been left: nothing to load or to work out.
    after: u64,
    this_thread_only: PhantomData<*const ()>,
}

impl Drop for RunSection<'_> {
    #[inline]
    fn drop(&mut self) {
        debug_assert_eq!(after(self.word.0.load(Ordering::Relaxed)), self.after, "sections are nested");
        self.word.leave_to(self.after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_active_from_the_outermost_enter_to_the_outermost_leave() {
        for fenced in [false, true] {
            let word = Word::default();
            assert!(word.seen().is_none());
            word.enter(fenced);
            let seen = word.seen().unwrap();
            word.enter(fenced);
            word.leave();
            assert!(!word.left(&seen) && word.depth() == 1);
            word.leave();
            assert!(word.left(&seen) && word.seen().is_none());
            word.enter(fenced);
            assert!(word.left(&seen), "the next section is another one");
        }
    }

    #[test]
    fn leaving_to_what_enter_answered_is_leaving() {
        let word = Word::default();
        for _ in 0..3 {
            let outer = word.enter_run(false);
            let (seen, entered) = (word.seen().unwrap(), word.0.load(Ordering::Relaxed));
            let inner = word.enter_run(false);
            assert!(word.depth() == 2);
            word.leave_to(inner);
            assert!(word.0.load(Ordering::Relaxed) == entered && !word.left(&seen));
            word.leave_to(outer);
            assert!(word.left(&seen) && word.depth() == 0);
        }
    }

    #[test]
    fn an_interrupted_enter_or_leave_is_never_hidden() {
        // A signal handler that runs a program between the load and the store of `enter`, then of `leave`.
        let word = Word::default();
        let loaded = word.0.load(Ordering::Relaxed);
        word.enter(false);
        let handlers = word.seen().unwrap();
        word.leave();
        word.0.store(loaded + 1, Ordering::Relaxed);
        assert!(word.seen().is_some() && !word.left(&handlers), "waits for one section more, no less");
        let loaded = word.0.load(Ordering::Relaxed);
        word.enter(false);
        word.leave();
        word.0.store(loaded - 1 + SEQUENCE, Ordering::Relaxed);
        assert!(word.left(&handlers) && word.depth() == 0);
    }
}
