//! A new generation's images take over from all others.

use std::collections::HashSet;

use super::{Tracking, UpdateGuard};
use crate::map::prog_array::ArrayKey;

impl UpdateGuard<'_> {
    /// The sites of `images`, which are tracked and not published, take the place of all others: those are forgotten, and
    /// no store goes to them any more. `word` answers the tail entry that a slot leads to in the new generation, 0 when empty.
    /// Ends with a core sync, after which the images may be published.
    ///
    /// No load may be under way: its sites would be forgotten too.
    pub fn take_over(&mut self, images: &[&Tracking], word: &dyn Fn(ArrayKey, u32) -> u64) {
        self.patcher.bury(&mut self.state);
        let owners: HashSet<u64> = images.iter().map(|tracking| tracking.owner).collect();
        self.state.sites.take_over(&self.patcher.region, &owners, word);
        self.patcher.sync.core_sync();
    }
}
