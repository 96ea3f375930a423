//! Patching the direct tail calls of code that runs.
//!
//! A site is two jumps, `bypass: jmp rel32` and `target: jmp rel32`, with the release of the caller's frame between
//! them. The bypass is *closed* (it leads past the target: the tail call fails) or *open* (rel32 0); the target leads to
//! the tail entry of the program in the slot, or to the poison stub. The state that must never be reached is *bypass
//! passed open, frame released, target not a program's*. What follows is why it is not.
//!
//! # What the argument rests on
//!
//! * **Store.** The only bytes of published code that ever change are the two rel32s, each 4-byte aligned
//!   ([`super::image`] checks), each by one aligned 32-bit store. An instruction fetch sees the old or the new rel32,
//!   never a mixture; opcodes and instruction boundaries never change, so stale bytes are a valid old instruction.
//! * **Sync.** After a core sync ([`super::sync`]) no thread executes an instruction as it was before a store that
//!   preceded the sync.
//! * **Grace.** After a grace period ([`GracePeriod`]) every run that was going on when it began is over.
//! * **Lock.** One update lock per runtime: [`UpdateGuard`]. Slots are changed, sites patched, images tracked,
//!   fixed up and untracked under it, and nowhere else. It is not held while waiting for a grace period.
//!
//! # Invariants, between updates, for every stable site of slot s
//!
//! 1. s holds P ⇔ the bypass is open; and then the target leads to P.
//! 2. s is empty ⇒ the bypass is closed, and was so before a completed core sync. The target leads to poison, or to the
//!    program that was there last, while *draining*: some run may have passed the bypass when it was open.
//! 3. The shadow in the descriptor is what the bytes are. State is never read from bytes; debug builds compare.
//!
//! # The transitions ([`UpdateGuard::poke`]; all sites for each step, so the number of core syncs is fixed)
//!
//! *Insert P.* `target := P`; core sync; `bypass := open`; core sync. Whoever executes the open bypass does so after the
//! first core sync, hence finds P (R1, R4). Whoever is behind the bypass from before a delete that still drains jumps to
//! the old program or to P; both are alive (R2; the old one's retirement waits for this very run). The other order would
//! be the forbidden state (R3; control C6).
//!
//! *Replace P by Q.* `target := Q`; core sync. Everyone jumps to P or to Q, and P is retired by a grace period that begins
//! after the core sync: after it no pipeline holds a jump to P (R5).
//!
//! *Delete P.* `bypass := closed`; core sync; return. From here on no run that starts sees P. Those that passed the
//! bypass before hold a released frame and need the target as it is, so `target := poison` waits for a grace period
//! (R6; control C5). It needs no core sync of its own: the bypass is closed, synced and drained, so nobody reaches the
//! target before the next insert, whose first core sync follows. P is retired after the delete returned, so its grace
//! period ends no earlier than the deferred poison's, which is queued first (R7).
//!
//! *None by none.* No store, no core sync, nothing deferred (R8).
//!
//! *Insert while a delete drains.* The insert sets the target and takes the descriptor's draining mark away; the
//! deferred step finds its generation number gone and does nothing.
//!
//! *Load.* [`Patcher::track`] registers the sites as *unstable*: updates pass them by. [`Tracking::fix_up`] reads the
//! slots, sets both jumps and marks the sites stable, under the lock: an update came before, then the slot has its
//! value, or it comes after, then it sees a stable site (R10, R11). The image is not published yet, so the order of
//! those stores is free. The core sync after it makes the new code, and the absence of whatever was at its addresses,
//! known to every thread before the first can be told of it.
//!
//! *Unload.* A [`Tracking`] removes its sites under the lock when dropped, before its image goes (R12, R13: also on any
//! error while loading). Deferred steps look sites up afresh, so they find none. All functions of a program share one
//! image and one tracking (R14). Nothing here asks a symbol table (R15).
//!
//! *Two updates at once* follow one another by the lock, slots included (R9).
//!
//! # What tests show
//!
//! tests/patching.rs runs threads through real sites while others insert, replace and delete: insert/delete toggles give
//! the program or the fall-through, P/Q toggles never the fall-through. The same with a protection switched off
//! ([`Faults`]) ends in the poison stub's report: so the tests can see the forbidden state.

mod faults;
mod held;
mod patcher;
mod site;
mod tracking;
mod update;

pub use faults::Faults;
pub use held::updating;
pub use patcher::{Patcher, UpdateError};
pub use tracking::Tracking;
pub use update::UpdateGuard;

/// Runs something later, when every run that is going on now is over.
pub trait GracePeriod: Send + Sync {
    /// Calls `f` once, on some thread that holds no lock and runs no program, after a grace period that begins after
    /// this call. What was deferred earlier runs earlier.
    fn defer(&self, f: Box<dyn FnOnce() + Send>);
}
