//! The update lock of a runtime, the sites it guards, and how images come under it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::site::{Key, Site, Sites};
use super::{Faults, GracePeriod, Tracking, UpdateGuard, updating};
use crate::link::MapId;
use crate::map::held::{lock, token};
use crate::map::prog_array::{ArrayKey, ProgArray};
use crate::primitive::Mutex;
use crate::primitive::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::text::{CoreSync, Image, Region, TextError};

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

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) sites: Sites,
    /// Number of the latest delete.
    pub(super) generation: u64,
    pub(super) faults: Faults,
}

/// The update lock of a runtime, and the sites it guards.
pub struct Patcher {
    pub(super) me: Weak<Patcher>,
    pub(super) region: Arc<Region>,
    pub(super) sync: Arc<CoreSync>,
    pub(super) grace: Arc<dyn GracePeriod>,
    state: Mutex<State>,
    /// Token of the thread that holds `state`; 0 for none.
    pub(super) holder: AtomicUsize,
    /// Trackings that were dropped by the thread that held the lock at that time: gone before the next store.
    pub(super) dropped: Mutex<Vec<u64>>,
    next: AtomicU64,
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

    pub(super) fn lock(&self) -> UpdateGuard<'_> {
        let state = lock(&self.state);
        self.holder.store(token(), Ordering::Relaxed);
        UpdateGuard::new(self, state)
    }

    /// Whether this thread holds this lock. Only it can have stored its own token, so a relaxed load decides.
    pub(super) fn held_here(&self) -> bool {
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
        let mut sites = Vec::with_capacity(image.sites().len());
        for site in image.sites() {
            let what = "a site names a map that is no program array";
            let array = arrays(site.map).ok_or(TextError::Malformed { at: site.target, what })?;
            let (bypass, target) = (image.offset() + site.bypass_field(), image.offset() + site.target_field());
            sites.push(((array.key(), site.index), Site { target, bypass }));
        }
        let mut keys: Vec<Key> = sites.iter().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys.dedup();
        let Some(patcher) = self.me.upgrade() else { unreachable!("`self` is borrowed from an Arc") };
        let mut guard = self.update()?;
        for (key, site) in sites {
            guard.state.sites.add(key, owner, site);
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
    pub(super) fn poison(&self, array: ArrayKey, indexes: &[u32], generation: u64) {
        let Ok(mut guard) = self.update() else { return };
        let UpdateGuard { patcher, state, .. } = &mut guard;
        patcher.bury(state);
        let any = state.faults.poison_without_generation;
        for &index in indexes {
            let slot = state.sites.slot((array, index)).filter(|slot| any || slot.draining == Some(generation));
            if let Some(slot) = slot {
                slot.draining = None;
                slot.lead(&patcher.region, 0, false);
            }
        }
    }

    /// Removes the sites of trackings that were dropped while the lock was held by their own thread.
    pub(super) fn bury(&self, state: &mut State) {
        let dropped = std::mem::take(&mut *lock(&self.dropped));
        if !dropped.is_empty() {
            state.sites.remove_owners(&dropped);
        }
    }

    /// Sites that are tracked now.
    pub fn tracked(&self) -> usize {
        let mut state = lock(&self.state);
        self.bury(&mut state);
        state.sites.len()
    }

    /// Leaves protections out from now on.
    #[cfg(feature = "fault-injection")]
    pub fn inject(&self, faults: Faults) {
        lock(&self.state).faults = faults;
    }
}

impl std::fmt::Debug for Patcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Patcher").field("region", &self.region.base()).finish_non_exhaustive()
    }
}
