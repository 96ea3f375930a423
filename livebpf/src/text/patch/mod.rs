//! Patching the direct tail calls of code that runs.
//!
//! A site is `bypass: cmp r12d, imm8 ; jae out`, the release of the caller's frame, and `target: jmp rel32`. r12d counts the tail
//! calls of an invocation. The bypass is *open* (33: the call is made while the limit is not reached) or *closed* (0, which no count is
//! below: the call fails); the target leads to the tail entry of the program in the slot, or to the poison stub. The state that must
//! never be reached is *bypass passed open, frame released, target not a program's*. What follows is why it is not.
//!
//! In Linux the bypass is a jump of its own, behind the check of the limit. Here the check is the bypass: a call that succeeds has one
//! jump that is taken in place of two, which is half of its time (0.7 instead of 1.3 ns a hop over 33 programs).
//!
//! # What the argument rests on
//!
//! * **Store.** The only bytes of published code that ever change are the bypass's imm8, by a store of one byte, and the target's
//!   rel32, which is 4-byte aligned ([`super::image`] checks), by one aligned 32-bit store. An instruction fetch sees the old or the
//!   new field, never a mixture; opcodes and instruction boundaries never change, so stale bytes are a valid old instruction.
//! * **Sync.** After a core sync ([`super::sync`]) no thread executes an instruction as it was before a store that
//!   preceded the sync.
//! * **Grace.** A grace period ([`GracePeriod`]) begins with a core sync. After it every run that was going on when it began
//!   is over.
//! * **Lock.** One update lock per runtime: [`UpdateGuard`]. Slots are changed, sites patched, images tracked,
//!   fixed up and untracked under it, and nowhere else. It is not held while waiting for a grace period.
//!
//! # Invariants, whenever nobody holds the lock, for every stable site of slot s
//!
//! 1. s holds P ⇔ the bypass is open; and then the target leads to P.
//! 2. s is empty ⇔ the bypass is closed. The target leads to poison, or to the program that was there last, while
//!    *draining*: some run may have passed the bypass when it was open.
//! 3. All stable sites of s are in one state, and the shadow in its descriptor is what the bytes are. State is never
//!    read from bytes; debug builds compare.
//! 4. A thread executes each of the two instructions as it was at some moment since the last completed core sync. In all that time
//!    either the target led to programs only, all of them alive; or the bypass was closed.
//!
//! 4 is what excludes the forbidden state. It holds because poison is stored only where the bypass was closed before a
//! completed core sync; because insert, the one transition from closed to open, has a core sync between its two stores;
//! and because a program that was displaced is freed by a grace period, hence after another core sync.
//!
//! # The transitions ([`Poke::poke`](crate::map::prog_array::Poke::poke); all sites of all slots for each step, so the number of core syncs is fixed)
//!
//! *Insert P.* `target := P`; core sync; `bypass := open`; *closing core sync*. Whoever executes the open bypass does so after the
//! first core sync, hence finds P (R1, R4). Whoever is behind the bypass from before a delete that still drains, or executes it
//! as it was before that delete's closing core sync, jumps to the old program or to P; both are alive (R2; the old one's
//! retirement waits for this very run). The other order would be the forbidden state (R3; control C6).
//!
//! *Replace P by Q.* `target := Q`; closing core sync. Everyone jumps to P or to Q, and P is retired by a grace period that
//! begins later and with a core sync: after that no pipeline holds a jump to P (R5).
//!
//! *Delete P.* `bypass := closed`; closing core sync; return. From here on no run that starts sees P. Those that passed the
//! bypass before hold a released frame and need the target as it is, so `target := poison` waits for a grace period
//! (R6; control C5). It needs no core sync of its own: the bypass is closed, synced (by the grace period's own core sync) and
//! drained, so nobody reaches the target before the next insert, whose first core sync follows. P is retired after the
//! delete returned, so its grace period ends no earlier than the deferred poison's, which is queued first (R7).
//!
//! *The closing core sync* is what lets an update promise that runs which start after its return see it. Nothing else depends on
//! it (4 holds without it), so it is done after the lock has been released, once for everything that was changed under
//! the lock; and those who wait for theirs at the same time share one ([`super::sync`]).
//!
//! *Several slots in one update*, or several updates under one lock: each step is done for all slots before the next, so
//! there is one core sync between targets and bypasses for each call of `poke` that inserts, and one closing core sync. A slot's stores
//! come in the order above; about two slots nothing is promised until the closing core sync. All that is deleted drains in
//! one grace period.
//!
//! *None by none.* No store, no core sync, nothing deferred (R8).
//!
//! *Insert while a delete drains.* The insert sets the target and takes the slot's draining mark away; the
//! deferred step finds its generation number gone and does nothing. Where P itself is inserted again the target is P already:
//! since the last core sync it led to programs only, so nothing has to be synced before the bypass opens (4).
//!
//! *Asynchronous updates* (`run::updates`) are these transitions, done by a thread of the runtime, for all that was queued in
//! one go: of several changes of one slot only the last is made, as if the others had been displaced before anybody looked.
//! The completions report after the closing core sync, so what it promises of a return holds of the report.
//!
//! *Load.* [`Patcher::track`] registers the sites as *unstable*: updates pass them by. [`Tracking::fix_up`] reads the
//! slots, sets both fields and marks the sites stable, under the lock: an update came before, then the slot has its
//! value, or it comes after, then it sees a stable site (R10, R11). The image is not published yet, so the order of
//! those stores is free; in a slot that drains the new site leads where the others do, and is poisoned with them. The core
//! sync after it makes the new code, and the absence of whatever was at its addresses, known to every thread before the
//! first can be told of it.
//!
//! *Unload.* A [`Tracking`] removes its sites under the lock when dropped, before its image goes (R12, R13: also on any
//! error while loading). Deferred steps look slots up afresh, so they find none. All functions of a program share one
//! image and one tracking (R14). Nothing here asks a symbol table (R15).
//!
//! *Transaction* ([`UpdateGuard::take_over`]). The next generation's images are tracked while they are built, as unstable sites that
//! updates pass by. Under the lock they are set to what the slots of the next generation hold, and all other sites are
//! forgotten: a single update came before, then its slot is part of what they are set to, or it comes after, then it
//! finds the new sites only. Nothing is stored into the old images any more, so a run that is in them sees its
//! generation to the end. What their sites lead to stays in place until the grace period after the publication: their
//! programs' images are retired with the generation, and a deferred poison finds its site forgotten and does nothing.
//!
//! *Two updates at once* follow one another by the lock, slots included (R9). *An update from inside a run* waits for the lock,
//! whose holder waits for core syncs only, never for a run. *An update from a signal handler* that interrupts one of these, or
//! anything else that holds a lock they take, is refused ([`updating`]).
//!
//! # What tests show
//!
//! tests/patching.rs runs threads through real sites while others insert, replace and delete: insert/delete toggles give
//! the program or the fall-through, P/Q toggles never the fall-through. The same with a protection switched off
//! ([`Faults`]) ends in the poison stub's report: so the tests can see the forbidden state.
//!
//! # What models show
//!
//! tests/loom_patch.rs runs this code, `map::prog_array`, `rcu` and `text::sync` under loom, against a runner that fetches the
//! bypass, the target and the code there, with every value that a fetch may give as long as no core sync forbids it
//! (`primitive` says how): insert, replace, delete, each with what a run finds that begins after its return; the indirect
//! form; two updates at once; a load beside an update; an unload beside a delete; and a deferred poison beside an insert, and
//! beside an insert and another delete. Within the bound on switches between threads no execution reaches
//! the forbidden state, freed code, an unstable site, or a slot that disagrees with its site. In its controls (no core
//! sync, bypass first, poison or free without grace period, a poison that ignores its number, stable flag ignored, fix-up by
//! slots read before the lock, slot written after the patch) loom finds such an execution.

mod faults;
mod patcher;
mod site;
mod takeover;
mod tracking;
mod update;

pub use faults::Faults;
pub use patcher::{Patcher, UpdateError};
pub use tracking::Tracking;
pub use update::UpdateGuard;

/// Whether this thread is in the middle of an update, or of something that an update waits for: then it must not update,
/// and must not wait for a grace period.
pub fn updating() -> bool {
    crate::map::held::marked()
}

/// Runs something later, when every run that is going on now is over.
pub trait GracePeriod: Send + Sync {
    /// Calls `f` once, on some thread that holds no lock and runs no program, after a grace period that begins after
    /// this call. What was deferred earlier runs earlier.
    fn defer(&self, f: Box<dyn FnOnce() + Send>);
}
