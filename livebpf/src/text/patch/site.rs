//! The descriptor of one call site, and the two stores that change it.
//!
//! Its shadow is what the bytes are; they are never read to find out a state. Debug builds compare before every store.

use crate::map::prog_array::ArrayKey;
use crate::text::Region;
use crate::text::image::displacement;

/// A slot of an array.
pub(super) type Key = (ArrayKey, u32);

/// The descriptor of one call site. Offsets are those of the rel32 fields in the region.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) owner: u64,
    pub(super) bypass: u32,
    pub(super) target: u32,
    pub(super) skip: i32,
    /// Shadow of the target's rel32.
    pub(super) leads: i32,
    /// Shadow of the bypass.
    pub(super) open: bool,
    pub(super) stable: bool,
    /// The delete whose deferred step will poison the target.
    pub(super) draining: Option<u64>,
}

impl Site {
    /// Points the target at `address`. Answers whether that changed anything.
    pub(super) fn lead(&mut self, region: &Region, address: u64) -> bool {
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
    pub(super) fn set_open(&mut self, region: &Region, open: bool) -> bool {
        self.compare(region);
        if open == self.open {
            return false;
        }
        region.store(self.bypass, if open { 0 } else { self.skip });
        self.open = open;
        true
    }

    pub(super) fn agrees(&self, region: &Region) -> bool {
        region.load(self.target) == self.leads && region.load(self.bypass) == if self.open { 0 } else { self.skip }
    }

    pub(super) fn compare(&self, region: &Region) {
        debug_assert!(self.agrees(region), "bytes and shadow differ: {self:?}");
    }
}
