//! The update lock, held: the transitions of [`super`], step by step.

use super::Faults;
use super::patcher::{Patcher, State};
use super::site::Slot;
use crate::map::held::{Held, Mark};
use crate::map::prog_array::{ArrayKey, Change, Poke, ProgArray};
use crate::primitive::atomic::Ordering;
use crate::text::{CoreSync, Region};

/// The update lock, held. Dropping it releases the lock, and then makes what was changed under it known to every thread:
/// the core sync that closes an update needs no lock, so those who updated one after the other share it.
pub struct UpdateGuard<'a> {
    pub(super) patcher: &'a Patcher,
    // Fields are dropped in this order.
    pub(super) state: Held<'a, State>,
    closing: Closing<'a>,
    /// A signal handler that comes during the closing core sync is refused as well.
    _mark: Mark,
}

/// The core sync that is owed for stores made under the lock.
struct Closing<'a> {
    sync: &'a CoreSync,
    owed: bool,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        if self.owed {
            self.sync.core_sync();
        }
    }
}

/// What the first step of an update did.
#[derive(Default)]
struct Step {
    /// Some site was changed.
    stored: bool,
    /// Some target was changed whose bypass is to be opened.
    led_closed: bool,
    /// The slots that a grace period from now are to be poisoned.
    drained: Vec<u32>,
}

impl<'a> UpdateGuard<'a> {
    pub(super) fn new(patcher: &'a Patcher, state: Held<'a, State>) -> UpdateGuard<'a> {
        UpdateGuard { patcher, state, closing: Closing { sync: &patcher.sync, owed: false }, _mark: Mark::new() }
    }

    /// The protections that are left out now.
    pub fn faults(&self) -> Faults {
        self.state.faults
    }

    /// Calls `step` for each change of a slot that has sites.
    fn each(&mut self, array: ArrayKey, changes: &[Change], mut step: impl FnMut(&mut Slot, &Region, &Change)) {
        let Some(slots) = self.state.sites.of(array) else { return };
        for change in changes {
            if let Some(slot) = slots.get_mut(&change.index) {
                step(slot, &self.patcher.region, change);
            }
        }
    }

    /// A core sync in the middle of an update.
    fn sync(&mut self) {
        if !self.state.faults.no_core_sync {
            self.patcher.sync.core_sync();
        }
        self.closing.owed = false;
    }

    /// The update's last stores wait for a core sync.
    fn owe(&mut self, stored: bool) {
        self.closing.owed |= stored && !self.state.faults.no_core_sync;
    }

    /// Closes the bypasses of slots that are empty now, and points the targets of the others at their program.
    fn close_and_lead(&mut self, array: ArrayKey, changes: &[Change], generation: u64) -> Step {
        let (mut did, unstable_too) = (Step::default(), self.state.faults.stable_ignored);
        self.each(array, changes, |slot, region, change| match change.new {
            Some(entry) => {
                slot.draining = None;
                let led = slot.lead(region, entry, unstable_too);
                did.stored |= led;
                did.led_closed |= led && !slot.is_open();
            }
            None => {
                if slot.set_open(region, false, unstable_too) {
                    did.stored = true;
                    slot.draining = Some(generation);
                    did.drained.push(change.index);
                }
            }
        });
        did
    }

    /// Opens the bypasses of slots that hold a program.
    fn open(&mut self, array: ArrayKey, changes: &[Change]) -> bool {
        let (mut opened, unstable_too) = (false, self.state.faults.stable_ignored);
        self.each(array, changes, |slot, region, change| {
            opened |= change.new.is_some() && slot.set_open(region, true, unstable_too);
        });
        opened
    }

    /// The half of a delete that waits for a grace period.
    fn drain(&mut self, array: ArrayKey, drained: Vec<u32>, generation: u64) {
        if self.state.faults.poison_without_grace {
            for index in drained {
                if let Some(slot) = self.state.sites.slot((array, index)) {
                    slot.draining = None;
                    slot.lead(&self.patcher.region, 0, false);
                }
            }
            return;
        }
        let patcher = self.patcher.me.clone();
        self.patcher.grace.defer(Box::new(move || {
            if let Some(patcher) = patcher.upgrade() {
                patcher.poison(array, &drained, generation);
            }
        }));
    }

    /// Compares every site with its shadow, and the stable sites of `arrays` with their slots. Answers how many sites it
    /// looked at, or the first difference. For tests and `doctor`.
    pub fn audit(&mut self, arrays: &[&ProgArray]) -> Result<usize, String> {
        self.patcher.bury(&mut self.state);
        let mut looked = 0;
        for ((key, index), slot) in self.state.sites.iter() {
            looked += slot.len();
            if let Some(difference) = slot.difference(&self.patcher.region) {
                return Err(difference);
            }
            if let Some(array) = arrays.iter().find(|array| array.key() == key) {
                let word = array.word(index);
                if !slot.agrees(word) {
                    return Err(format!("slot {index} holds {word:#x}, but its site does not agree: {slot:?}"));
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
        self.state.generation += 1;
        let generation = self.state.generation;
        if self.state.faults.bypass_before_target && self.open(array, changes) {
            self.sync();
        }
        let did = self.close_and_lead(array, changes, generation);
        self.owe(did.stored);
        if did.led_closed {
            self.sync();
        }
        let opened = self.open(array, changes);
        self.owe(opened);
        if !did.drained.is_empty() {
            self.drain(array, did.drained, generation);
        }
    }
}

impl Drop for UpdateGuard<'_> {
    fn drop(&mut self) {
        self.patcher.holder.store(0, Ordering::Relaxed);
    }
}
