//! The descriptors of call sites, slot by slot.
//!
//! All stable sites of a slot are in one state, so the state is the slot's: where the targets lead, whether the bypasses
//! are open. A site is two offsets. An update therefore walks one short array per slot, front to back,
//! and does nothing for a site but its store.
//!
//! *Guarantees.* The state is the shadow of the bytes: they are never read to find it out. Debug builds compare before
//! every walk.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::jit::PokeSite;
use crate::map::prog_array::ArrayKey;
use crate::text::Region;
use crate::text::image::displacement;

/// A slot of an array.
pub(super) type Key = (ArrayKey, u32);

/// One call site. Offsets are those of its fields in the region.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site {
    pub(super) target: u32,
    pub(super) bypass: u32,
}

/// The sites of one slot, of all images that tail call through it.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// First the stable ones.
    sites: Vec<Site>,
    /// Whose each site is: the number of its tracking.
    owners: Vec<u64>,
    stable: usize,
    /// Where the targets of the stable sites lead: an address, 0 for the poison stub.
    leads: u64,
    /// Whether the bypasses of the stable sites are open.
    open: bool,
    /// The delete whose deferred step will poison the targets.
    pub(super) draining: Option<u64>,
}

/// The sites of all slots that have any.
#[derive(Debug, Default)]
pub(super) struct Sites {
    arrays: HashMap<ArrayKey, BTreeMap<u32, Slot>>,
}

impl Sites {
    /// The slots of an array that have sites.
    pub(super) fn of(&mut self, array: ArrayKey) -> Option<&mut BTreeMap<u32, Slot>> {
        self.arrays.get_mut(&array)
    }

    /// A slot that has sites.
    pub(super) fn slot(&mut self, (array, index): Key) -> Option<&mut Slot> {
        self.arrays.get_mut(&array)?.get_mut(&index)
    }

    /// Adds a site that is not stable yet: closed and poisoned, as [`crate::text::Image::place`] leaves it.
    pub(super) fn add(&mut self, (array, index): Key, owner: u64, site: Site) {
        let slot = self.arrays.entry(array).or_default().entry(index).or_default();
        slot.sites.push(site);
        slot.owners.push(owner);
    }

    /// Removes the sites of a tracking from those slots.
    pub(super) fn remove(&mut self, owner: u64, keys: &[Key]) {
        for &(array, index) in keys {
            let Some(slots) = self.arrays.get_mut(&array) else { continue };
            if let Some(slot) = slots.get_mut(&index) {
                slot.remove(|other| other == owner);
                if slot.sites.is_empty() {
                    slots.remove(&index);
                }
            }
            if slots.is_empty() {
                self.arrays.remove(&array);
            }
        }
    }

    /// Removes the sites of several trackings, wherever they are.
    pub(super) fn remove_owners(&mut self, owners: &[u64]) {
        self.arrays.retain(|_, slots| {
            slots.retain(|_, slot| {
                slot.remove(|owner| owners.contains(&owner));
                !slot.sites.is_empty()
            });
            !slots.is_empty()
        });
    }

    /// Keeps the sites of those trackings only, which are not published yet: sets them to what their slots hold (`word`
    /// answers the tail entry, 0 when empty) and makes them stable.
    pub(super) fn take_over(&mut self, region: &Region, owners: &HashSet<u64>, word: &dyn Fn(ArrayKey, u32) -> u64) {
        self.arrays.retain(|&array, slots| {
            slots.retain(|&index, slot| {
                slot.remove(|owner| !owners.contains(&owner));
                slot.settle(region, word(array, index));
                !slot.sites.is_empty()
            });
            !slots.is_empty()
        });
    }

    /// Number of sites.
    pub(super) fn len(&self) -> usize {
        self.arrays.values().flat_map(BTreeMap::values).map(|slot| slot.sites.len()).sum()
    }

    /// All slots that have sites.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Slot)> {
        self.arrays.iter().flat_map(|(&array, slots)| slots.iter().map(move |(&index, slot)| ((array, index), slot)))
    }
}

impl Slot {
    /// The sites that updates patch; with a protection left out, all.
    fn patched(&self, unstable_too: bool) -> &[Site] {
        if unstable_too { &self.sites } else { &self.sites[..self.stable] }
    }

    /// Points the targets at `address`, 0 for the poison stub. Answers whether that changed anything.
    pub(super) fn lead(&mut self, region: &Region, address: u64, unstable_too: bool) -> bool {
        self.compare(region);
        if self.stable == 0 && !unstable_too || address == self.leads {
            return false;
        }
        // The same for every site but for the site's own place.
        let base = displacement(region, 0, if address == 0 { region.poison() } else { address });
        for site in self.patched(unstable_too) {
            region.store(site.target, base - site.target as i32);
        }
        self.leads = address;
        true
    }

    /// Opens or closes the bypasses. Answers whether that changed anything.
    pub(super) fn set_open(&mut self, region: &Region, open: bool, unstable_too: bool) -> bool {
        self.compare(region);
        if self.stable == 0 && !unstable_too || open == self.open {
            return false;
        }
        for site in self.patched(unstable_too) {
            region.store_byte(site.bypass, PokeSite::gate(open));
        }
        self.open = open;
        true
    }

    /// Whether the bypasses of the stable sites are open; false where there are none.
    pub(super) fn is_open(&self) -> bool {
        self.open && self.stable > 0
    }

    /// Sets the sites of a tracking to what the slot holds (`entry`, 0 when it is empty) and makes them stable.
    pub(super) fn fix_up(&mut self, region: &Region, owner: u64, entry: u64) {
        if self.stable == 0 {
            // Nothing is known of the slot but what it holds.
            (self.leads, self.open, self.draining) = (entry, entry != 0, None);
        }
        debug_assert!(
            self.open == (entry != 0) && (entry == 0 || entry == self.leads),
            "{entry:#x} is not in {self:?}"
        );
        for at in self.stable..self.sites.len() {
            if self.owners[at] == owner {
                let site = self.sites[at];
                // While a delete drains the others lead to what was there; so does this one, and is poisoned with them.
                let to = if self.leads == 0 { region.poison() } else { self.leads };
                region.store(site.target, displacement(region, site.target, to));
                region.store_byte(site.bypass, PokeSite::gate(self.open));
                self.sites.swap(at, self.stable);
                self.owners.swap(at, self.stable);
                self.stable += 1;
            }
        }
    }

    /// Sets all sites, none of which is published, to a slot that holds `entry`, and makes them stable.
    fn settle(&mut self, region: &Region, entry: u64) {
        (self.leads, self.open, self.draining) = (entry, entry != 0, None);
        let to = if entry == 0 { region.poison() } else { entry };
        for site in &self.sites {
            region.store(site.target, displacement(region, site.target, to));
            region.store_byte(site.bypass, PokeSite::gate(self.open));
        }
        self.stable = self.sites.len();
    }

    fn remove(&mut self, gone: impl Fn(u64) -> bool) {
        let (mut kept, mut stable) = (0, 0);
        for at in 0..self.sites.len() {
            if !gone(self.owners[at]) {
                (self.sites[kept], self.owners[kept]) = (self.sites[at], self.owners[at]);
                kept += 1;
                stable += usize::from(at < self.stable);
            }
        }
        self.sites.truncate(kept);
        self.owners.truncate(kept);
        self.stable = stable;
    }

    fn compare(&self, region: &Region) {
        if cfg!(debug_assertions)
            && let Some(difference) = self.difference(region)
        {
            panic!("{difference}");
        }
    }

    /// The first stable site whose bytes are not what the shadow says.
    pub(super) fn difference(&self, region: &Region) -> Option<String> {
        let to = if self.leads == 0 { region.poison() } else { self.leads };
        let differs = |site: &&Site| {
            let (target, bypass) = (displacement(region, site.target, to), PokeSite::gate(self.open));
            (region.load(site.target), region.load_byte(site.bypass)) != (target, bypass)
        };
        let site = self.sites[..self.stable].iter().find(differs)?;
        Some(format!("bytes and shadow differ: {site:?}, open {}, leads to {to:#x}", self.open))
    }

    /// Whether the stable sites do what a slot with this word (0: empty) wants of them.
    pub(super) fn agrees(&self, word: u64) -> bool {
        self.stable == 0 || self.open == (word != 0) && (word == 0 || self.leads == word)
    }

    /// Number of sites, stable or not.
    pub(super) fn len(&self) -> usize {
        self.sites.len()
    }
}
