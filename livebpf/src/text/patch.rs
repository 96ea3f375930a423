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

use std::cell::Cell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::image::displacement;
use super::{CoreSync, Image, Region, TextError};
use crate::link::MapId;
use crate::map::prog_array::{ArrayKey, Change, Poke, ProgArray};

/// Runs something later, when every run that is going on now is over.
pub trait GracePeriod: Send + Sync {
    /// Calls `f` once, on some thread that holds no lock and runs no program, after a grace period that begins after
    /// this call. What was deferred earlier runs earlier.
    fn defer(&self, f: Box<dyn FnOnce() + Send>);
}

/// Why no update can be made here and now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UpdateError {
    /// This process is a child of the one that owns the code.
    #[error("this process is a fork of the one that owns the code: updates and runs are refused")]
    Forked,
    /// This thread is in the middle of another update.
    #[error("this thread is in the middle of another update (an update from a signal handler?)")]
    Reentrant,
}

/// Protections to leave out, so that tests can show that they would notice. All off, always, in production.
#[derive(Clone, Copy, Default, Debug)]
pub struct Faults {
    /// Delete poisons the target without a grace period.
    pub poison_without_grace: bool,
    /// Insert opens the bypass before it sets the target.
    pub bypass_before_target: bool,
    /// No update does a core sync.
    pub no_core_sync: bool,
    /// Loading fixes its sites up by what the slots held before the lock was taken.
    pub stale_fix_up: bool,
}

/// A slot of an array.
type Key = (ArrayKey, u32);

/// The descriptor of one call site. Offsets are those of the rel32 fields in the region.
#[derive(Debug)]
struct Site {
    owner: u64,
    bypass: u32,
    target: u32,
    skip: i32,
    /// Shadow of the target's rel32.
    leads: i32,
    /// Shadow of the bypass.
    open: bool,
    stable: bool,
    /// The delete whose deferred step will poison the target.
    draining: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    sites: HashMap<Key, Vec<Site>>,
    /// Number of the latest delete.
    generation: u64,
    faults: Faults,
}

/// The update lock of a runtime, and the sites it guards.
pub struct Patcher {
    me: Weak<Patcher>,
    region: Arc<Region>,
    sync: Arc<CoreSync>,
    grace: Arc<dyn GracePeriod>,
    state: Mutex<State>,
    /// Token of the thread that holds `state`; 0 for none.
    holder: AtomicUsize,
    /// Trackings that were dropped by the thread that held the lock at that time: gone before the next store.
    dropped: Mutex<Vec<u64>>,
    next: AtomicU64,
}

thread_local! {
    /// Update locks that this thread holds. Its address is the thread's token.
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// Whether this thread holds an update lock: then it must not wait for a grace period.
pub fn updating() -> bool {
    HELD.with(|held| held.get() > 0)
}

fn token() -> usize {
    HELD.with(|held| std::ptr::from_ref(held).addr())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under the lock is an assertion about one field; the others are as they were.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Patcher {
    /// The patcher for the images of `region`.
    pub fn new(region: Arc<Region>, sync: Arc<CoreSync>, grace: Arc<dyn GracePeriod>) -> Arc<Patcher> {
        Arc::new_cyclic(|me| Patcher {
            me: me.clone(),
            region,
            sync,
            grace,
            state: Mutex::default(),
            holder: AtomicUsize::new(0),
            dropped: Mutex::default(),
            next: AtomicU64::new(1),
        })
    }

    /// The region whose images it patches.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// What it syncs with.
    pub fn core_sync(&self) -> &Arc<CoreSync> {
        &self.sync
    }

    /// Takes the update lock. Waits for other updates, never for runs.
    pub fn update(&self) -> Result<UpdateGuard<'_>, UpdateError> {
        if self.region.forked() {
            return Err(UpdateError::Forked);
        }
        if updating() {
            return Err(UpdateError::Reentrant);
        }
        Ok(self.lock())
    }

    /// The mark comes before the lock: a signal handler that interrupts between the two is refused as well.
    fn lock(&self) -> UpdateGuard<'_> {
        let held = Held::new();
        let state = lock(&self.state);
        self.holder.store(token(), Ordering::Relaxed);
        UpdateGuard { patcher: self, state, _held: held }
    }

    /// Whether this thread holds this lock. Only it can have stored its own token, so a relaxed load decides.
    fn held_here(&self) -> bool {
        self.holder.load(Ordering::Relaxed) == token()
    }

    /// Registers the sites of `image`, which has not been published, without touching them yet. `arrays` answers the
    /// program array behind each map that a site names.
    pub fn track<'a>(
        &self,
        image: &Image,
        arrays: &dyn Fn(MapId) -> Option<&'a ProgArray>,
    ) -> Result<Tracking, TextError> {
        assert!(Arc::ptr_eq(image.region(), &self.region), "the image lies in another region");
        if let (false, Some(why)) = (image.sites().is_empty(), self.sync.refusal()) {
            return Err(TextError::NoPatching { why: why.to_owned() });
        }
        let owner = self.next.fetch_add(1, Ordering::Relaxed);
        let leads_to_poison = |field| displacement(&self.region, field, self.region.poison());
        let mut sites = Vec::with_capacity(image.sites().len());
        for site in image.sites() {
            let what = "a site names a map that is no program array";
            let array = arrays(site.map).ok_or(TextError::Malformed { at: site.target, what })?;
            let (bypass, target) = (image.offset() + site.bypass + 1, image.offset() + site.target + 1);
            let leads = leads_to_poison(target);
            let state =
                Site { owner, bypass, target, skip: site.skip, leads, open: false, stable: false, draining: None };
            sites.push(((array.key(), site.index), state));
        }
        let mut keys: Vec<Key> = sites.iter().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys.dedup();
        let Some(patcher) = self.me.upgrade() else { unreachable!("`self` is borrowed from an Arc") };
        let mut guard = self.update()?;
        for (key, site) in sites {
            guard.state.sites.entry(key).or_default().push(site);
        }
        drop(guard);
        Ok(Tracking { patcher, owner, keys })
    }

    /// Everything that an image needs between [`Image::place`] and its publication: tracks its sites, fixes them up,
    /// and ends with a core sync. After it the image may run. On an error nothing is tracked.
    pub fn load<'a>(
        &self,
        image: &Image,
        arrays: &dyn Fn(MapId) -> Option<&'a ProgArray>,
    ) -> Result<Tracking, TextError> {
        let tracking = self.track(image, arrays)?;
        // By key, because the fix-up knows slots, not maps.
        let by_key: HashMap<ArrayKey, &ProgArray> =
            image.sites().iter().filter_map(|site| arrays(site.map)).map(|array| (array.key(), array)).collect();
        let word = |key: ArrayKey, index| by_key.get(&key).map_or(0, |array| array.word(index));
        if !image.sites().is_empty() {
            let stale = lock(&self.state).faults.stale_fix_up.then(|| {
                let words = tracking.keys.iter().map(|&(key, index)| ((key, index), word(key, index)));
                words.collect::<HashMap<Key, u64>>()
            });
            let mut guard = self.update()?;
            match stale {
                None => tracking.fix_up(&mut guard, &word),
                Some(words) => tracking.fix_up(&mut guard, &|key, index| words[&(key, index)]),
            }
        }
        self.sync.core_sync();
        Ok(tracking)
    }

    /// The deferred half of a delete.
    fn poison(&self, array: ArrayKey, indexes: &[u32], generation: u64) {
        let Ok(mut guard) = self.update() else { return };
        let UpdateGuard { patcher, state, .. } = &mut guard;
        patcher.bury(state);
        for &index in indexes {
            for site in state.sites.get_mut(&(array, index)).into_iter().flatten() {
                if site.draining == Some(generation) {
                    site.draining = None;
                    site.lead(&patcher.region, patcher.region.poison());
                }
            }
        }
    }

    /// Removes the sites of trackings that were dropped while the lock was held by their own thread.
    fn bury(&self, state: &mut State) {
        let dropped = std::mem::take(&mut *lock(&self.dropped));
        if !dropped.is_empty() {
            state.sites.retain(|_, sites| {
                sites.retain(|site| !dropped.contains(&site.owner));
                !sites.is_empty()
            });
        }
    }

    /// Sites that are tracked now.
    pub fn tracked(&self) -> usize {
        let mut state = lock(&self.state);
        self.bury(&mut state);
        state.sites.values().map(Vec::len).sum()
    }

    /// Leaves protections out from now on.
    #[cfg(feature = "fault-injection")]
    pub fn inject(&self, faults: Faults) {
        lock(&self.state).faults = faults;
    }
}

impl Site {
    /// Points the target at `address`. Answers whether that changed anything.
    fn lead(&mut self, region: &Region, address: u64) -> bool {
        self.compare(region);
        let leads = displacement(region, self.target, address);
        if leads == self.leads {
            return false;
        }
        region.store(self.target, leads);
        self.leads = leads;
        true
    }

    /// Opens or closes the bypass. Answers whether that changed anything.
    fn set_open(&mut self, region: &Region, open: bool) -> bool {
        self.compare(region);
        if open == self.open {
            return false;
        }
        region.store(self.bypass, if open { 0 } else { self.skip });
        self.open = open;
        true
    }

    fn agrees(&self, region: &Region) -> bool {
        region.load(self.target) == self.leads && region.load(self.bypass) == if self.open { 0 } else { self.skip }
    }

    fn compare(&self, region: &Region) {
        debug_assert!(self.agrees(region), "bytes and shadow differ: {self:?}");
    }
}

/// The update lock, held.
pub struct UpdateGuard<'a> {
    patcher: &'a Patcher,
    state: MutexGuard<'a, State>,
    /// Last, so that the mark goes after the lock.
    _held: Held,
}

/// The mark of a thread that is in an update.
struct Held;

impl Held {
    fn new() -> Held {
        HELD.with(|held| held.set(held.get() + 1));
        Held
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.with(|held| held.set(held.get() - 1));
    }
}

impl UpdateGuard<'_> {
    /// Calls `step` for the stable sites of each change; true when any of them stored.
    fn each(
        &mut self,
        array: ArrayKey,
        changes: &[Change],
        step: impl Fn(&mut Site, &Region, &Change) -> bool,
    ) -> bool {
        let region = &self.patcher.region;
        let mut stored = false;
        for change in changes {
            for site in self.state.sites.get_mut(&(array, change.index)).into_iter().flatten() {
                stored |= site.stable && step(site, region, change);
            }
        }
        stored
    }

    fn sync_if(&self, stored: bool) {
        if stored && !self.state.faults.no_core_sync {
            self.patcher.sync.core_sync();
        }
    }

    /// Closes the bypass for slots that are empty now, and points the target of the others at their program.
    fn close_and_lead(&mut self, array: ArrayKey, changes: &[Change], generation: u64) -> bool {
        self.each(array, changes, |site, region, change| match change.new {
            Some(entry) => {
                site.draining = None;
                site.lead(region, entry)
            }
            None => {
                let closed = site.set_open(region, false);
                if closed {
                    site.draining = Some(generation);
                }
                closed
            }
        })
    }

    fn open(&mut self, array: ArrayKey, changes: &[Change]) -> bool {
        self.each(array, changes, |site, region, change| change.new.is_some() && site.set_open(region, true))
    }

    /// The slots among `changes` with a site that waits for this delete's deferred step.
    fn drained_by(&self, array: ArrayKey, changes: &[Change], generation: u64) -> Vec<u32> {
        let drains = |index: &u32| {
            let sites = self.state.sites.get(&(array, *index)).into_iter().flatten();
            sites.into_iter().any(|site| site.draining == Some(generation))
        };
        changes.iter().map(|change| change.index).filter(drains).collect()
    }

    /// Compares every site with its shadow, and every stable site of `arrays` with its slot. Answers how many sites it
    /// looked at, or the first difference. For tests and `doctor`.
    pub fn audit(&mut self, arrays: &[&ProgArray]) -> Result<usize, String> {
        self.patcher.bury(&mut self.state);
        let region = &self.patcher.region;
        let mut looked = 0;
        for (&(key, index), sites) in &self.state.sites {
            let array = arrays.iter().find(|array| array.key() == key);
            for site in sites {
                looked += 1;
                if !site.agrees(region) {
                    return Err(format!("bytes and shadow differ: {site:?}"));
                }
                let Some(array) = array.filter(|_| site.stable) else { continue };
                let word = array.word(index);
                let leads = word == 0 || displacement(region, site.target, word) == site.leads;
                if site.open != (word != 0) || !leads {
                    return Err(format!("slot {index} holds {word:#x}, but its site does not agree: {site:?}"));
                }
            }
        }
        Ok(looked)
    }
}

impl Poke for UpdateGuard<'_> {
    fn reaches(&self, tail_entry: u64) -> bool {
        self.patcher.region.contains(tail_entry)
    }

    fn poke(&mut self, array: ArrayKey, changes: &[Change]) {
        self.patcher.bury(&mut self.state);
        let faults = self.state.faults;
        self.state.generation += 1;
        let generation = self.state.generation;
        if faults.bypass_before_target {
            let opened = self.open(array, changes);
            self.sync_if(opened);
        }
        let stored = self.close_and_lead(array, changes, generation);
        self.sync_if(stored);
        let opened = self.open(array, changes);
        self.sync_if(opened);

        let indexes = self.drained_by(array, changes, generation);
        if indexes.is_empty() {
            return;
        }
        if faults.poison_without_grace {
            let poison = self.patcher.region.poison();
            self.each(array, changes, |site, region, _| site.draining.take().is_some() && site.lead(region, poison));
            return;
        }
        let patcher = self.patcher.me.clone();
        self.patcher.grace.defer(Box::new(move || {
            if let Some(patcher) = patcher.upgrade() {
                patcher.poison(array, &indexes, generation);
            }
        }));
    }
}

impl Drop for UpdateGuard<'_> {
    fn drop(&mut self) {
        self.patcher.holder.store(0, Ordering::Relaxed);
    }
}

/// The registration of one image's sites. Has one owner, the image's, and is dropped before the image.
pub struct Tracking {
    patcher: Arc<Patcher>,
    owner: u64,
    keys: Vec<Key>,
}

impl Tracking {
    /// Sets the sites to what the slots hold (`word` answers the tail entry in a slot, 0 when empty) and makes them
    /// stable: from now on updates patch them. Before the image is published; a core sync must follow.
    pub fn fix_up(&self, guard: &mut UpdateGuard<'_>, word: &dyn Fn(ArrayKey, u32) -> u64) {
        assert!(std::ptr::eq(guard.patcher, &raw const *self.patcher), "the lock of another runtime");
        let region = &self.patcher.region;
        for &(array, index) in &self.keys {
            let entry = word(array, index);
            let sites = guard.state.sites.get_mut(&(array, index)).into_iter().flatten();
            for site in sites.filter(|site| site.owner == self.owner) {
                if entry != 0 {
                    site.lead(region, entry);
                }
                site.set_open(region, entry != 0);
                site.stable = true;
            }
        }
    }

    /// Removes the sites, for whoever holds the lock already.
    pub fn untrack(self, guard: &mut UpdateGuard<'_>) {
        assert!(std::ptr::eq(guard.patcher, &raw const *self.patcher), "the lock of another runtime");
        self.remove(&mut guard.state);
        // Nothing is left for `drop` to do, but the patcher's count must go down.
        let mut done = std::mem::ManuallyDrop::new(self);
        done.keys.clear();
        drop(std::mem::ManuallyDrop::into_inner(done));
    }

    fn remove(&self, state: &mut State) {
        for &key in &self.keys {
            if let Entry::Occupied(mut sites) = state.sites.entry(key) {
                sites.get_mut().retain(|site| site.owner != self.owner);
                if sites.get().is_empty() {
                    sites.remove();
                }
            }
        }
    }
}

impl Drop for Tracking {
    fn drop(&mut self) {
        if self.keys.is_empty() || self.patcher.region.forked() {
            return;
        }
        if self.patcher.held_here() {
            lock(&self.patcher.dropped).push(self.owner);
        } else {
            self.remove(&mut self.patcher.lock().state);
        }
    }
}

impl std::fmt::Debug for Patcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Patcher").field("region", &self.region.base()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Tracking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracking").field("owner", &self.owner).field("slots", &self.keys.len()).finish()
    }
}
