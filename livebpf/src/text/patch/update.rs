//! The update lock, held: the transitions of [`super`], step by step.

use super::held::Held;
use super::patcher::{Patcher, State};
use super::site::Site;
use crate::map::prog_array::{ArrayKey, Change, Poke, ProgArray};
use crate::primitive::MutexGuard;
use crate::primitive::atomic::Ordering;
use crate::text::Region;
use crate::text::image::displacement;

/// The update lock, held.
pub struct UpdateGuard<'a> {
    pub(super) patcher: &'a Patcher,
    pub(super) state: MutexGuard<'a, State>,
    /// Last, so that the mark goes after the lock.
    pub(super) _held: Held,
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
        let unstable_too = self.state.faults.stable_ignored;
        let mut stored = false;
        for change in changes {
            for site in self.state.sites.get_mut(&(array, change.index)).into_iter().flatten() {
                stored |= (site.stable || unstable_too) && step(site, region, change);
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
