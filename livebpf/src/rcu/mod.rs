//! Read-side sections and grace periods.
//!
//! Whoever runs programs does so inside a *section* of his [`Reader`]. A *grace period* of the [`Domain`] ends when every
//! section that was open at its beginning has been left. What was unpublished before a grace period is out of
//! everybody's hands after it.
//!
//! # The reader's word
//!
//! One 64-bit word per reader: depth of nesting in the low 16 bits, a sequence above. Enter and leave are each load,
//! compute, one store; leaving the outermost section adds 1 to the sequence. A signal handler that runs a program
//! between the load and the store leaves the depth as it found it, so the interrupted store is right about the depth; it
//! may take the sequence back by one, which can only make a waiter wait for one more section. (With depth and
//! sequence in two variables the handler could hide a section.) The section of one run is left without loading the word again:
//! whatever came in between has left it as the enter stored it.
//!
//! # Why the wait is enough
//!
//! Readers have no fence. The updater's core sync is the fence for both sides: for a section entered by a thread T,
//! either the enter's store precedes T's barrier, then the snapshot that follows sees the section and waits for it; or it
//! follows T's barrier, then so do T's loads of entries and slots (compiler fences keep them behind the store), and
//! they see everything that was stored before the core sync: the section cannot reach what was unpublished. A word
//! seen active is waited for until its sequence changes or its depth is 0. Either means that the section seen was
//! left; the acquire load orders all it did before what follows.
//!
//! *Registration.* The list of readers is locked for a registration and for a snapshot. A reader registered before the
//! snapshot is in it; one registered after it has synchronised with the updater through the lock, and sees what was
//! unpublished before.
//!
//! *Without core sync* the outermost enter is an atomic exchange, a full barrier, and the updater's side a sequentially
//! consistent fence: the classic form of the same argument.
//!
//! *Deferred work* runs on one thread of the domain, started when first needed, in the order in which it was deferred,
//! after a grace period that begins after it was deferred; all that is queued shares one. What updates displace is not urgent:
//! it is collected for a moment first, and a thread that updates often makes no system call for it.
//!
//! # What models show
//!
//! tests/loom_rcu.rs runs this code under loom (`primitive` says what a core sync is there): an object is replaced and
//! ended after a grace period, beside sections that follow each other, that are nested, of two readers, and of a reader that
//! registers meanwhile; ended by deferred work, and by work that was deferred inside the section itself; with core
//! syncs and without. Within the bound on switches between threads no execution uses it after its end or at the same time.
//! Without the wait, and with a snapshot that no core sync precedes, loom finds one that does. The same file has the
//! sharing of core syncs. tests/data_races.rs is the thread sanitiser's (`cargo run -p xtask -- tsan`).
//!
//! # Never
//!
//! * No lock is held while waiting for readers; readers never wake anyone, so leaving is never a system call. Waiting is
//!   by polling, with growing pauses of at most a millisecond.
//! * Waiting from inside a section, or with the update lock held, or from deferred work, is refused: it would wait for
//!   itself.
//! * A thread that runs no program delays nobody.

mod domain;
mod reader;

pub use domain::{Domain, WaitError};
pub use reader::{Reader, Section, inside};
pub(crate) use reader::{innermost_run, set_innermost_run};
