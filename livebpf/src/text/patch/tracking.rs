//! The registration of one image's sites, from before its publication to before its end.

use std::sync::Arc;

use super::UpdateGuard;
use super::patcher::{Patcher, State};
use super::site::Key;
use crate::map::held::lock;
use crate::map::prog_array::ArrayKey;

/// The registration of one image's sites. Has one owner, the image's, and is dropped before the image.
pub struct Tracking {
    pub(super) patcher: Arc<Patcher>,
    pub(super) owner: u64,
    pub(super) keys: Vec<Key>,
}

impl Tracking {
    /// Sets the sites to what the slots hold (`word` answers the tail entry in a slot, 0 when empty) and makes them
    /// stable: from now on updates patch them. Before the image is published; a core sync must follow.
    pub fn fix_up(&self, guard: &mut UpdateGuard<'_>, word: &dyn Fn(ArrayKey, u32) -> u64) {
        assert!(std::ptr::eq(guard.patcher, &raw const *self.patcher), "the lock of another runtime");
        let region = &self.patcher.region;
        for &(array, index) in &self.keys {
            if let Some(slot) = guard.state.sites.slot((array, index)) {
                slot.fix_up(region, self.owner, word(array, index));
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
        state.sites.remove(self.owner, &self.keys);
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

impl std::fmt::Debug for Tracking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracking").field("owner", &self.owner).field("slots", &self.keys.len()).finish()
    }
}
