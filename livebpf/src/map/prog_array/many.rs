//! Changes of several slots in one update.
//!
//! The changes are judged one after the other, each as if those before it had been made; what is left of them, at most one
//! per slot, is then made in one call of [`Poke::poke`], which is one batch of core syncs.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Member, Poke, ProgArray, Retired, Table};
use crate::map::MapError;

/// A slot, and the program it shall hold, or none.
pub type SlotChange = (u32, Option<Arc<dyn Member>>);

/// What came of several changes of which the first that is refused ends it (`BPF_MAP_UPDATE_BATCH`).
#[derive(Debug)]
pub struct Batch {
    /// How many were made: the first ones.
    pub done: usize,
    /// Why the next was refused; `None` when all were made.
    pub refused: Option<MapError>,
    /// The programs that were displaced.
    pub retired: Retired,
}

/// Changes on their way into the array.
struct Plan {
    table: Arc<Table>,
    slots: BTreeMap<u32, Option<Arc<dyn Member>>>,
    /// Programs of changes that others of the plan have displaced. They never were in a slot, but nothing is dropped here.
    retired: Vec<Arc<dyn Member>>,
}

impl Plan {
    fn holds(&self, index: u32) -> bool {
        self.slots.get(&index).map_or_else(|| self.table.word(index) != 0, Option::is_some)
    }

    /// Adds a change. `ENOENT` for emptying an empty slot.
    fn add(&mut self, (index, member): SlotChange) -> Result<(), MapError> {
        if member.is_none() && !self.holds(index) {
            return Err(MapError::NotFound);
        }
        self.retired.extend(self.slots.insert(index, member).flatten());
        Ok(())
    }
}

impl ProgArray {
    fn plan(&self) -> Plan {
        Plan { table: self.current(), slots: BTreeMap::new(), retired: Vec::new() }
    }

    fn make(&self, plan: Plan, poke: &mut dyn Poke) -> Retired {
        let mut retired = Retired(plan.retired);
        if !plan.slots.is_empty() {
            retired.merge(self.apply(plan.slots.into_iter().collect(), poke));
        }
        retired
    }

    /// Fills and empties slots, in order. Each change is refused for the reasons for which [`ProgArray::set`] or
    /// [`ProgArray::clear_index`] would refuse it; the first refusal ends it, and what came before is made. A slot that
    /// occurs more than once ends up as the last change of it says.
    pub fn change_many(&self, changes: impl IntoIterator<Item = SlotChange>, poke: &mut dyn Poke) -> Batch {
        let (mut plan, mut done, mut refused) = (self.plan(), 0, None);
        for (index, member) in changes {
            let fits = match &member {
                Some(member) => self.admit(index, &**member, super::super::BPF_ANY, poke),
                None => self.check_index(index),
            };
            match fits.and_then(|()| plan.add((index, member))) {
                Ok(()) => done += 1,
                Err(why) => {
                    refused = Some(why);
                    break;
                }
            }
        }
        Batch { done, refused, retired: self.make(plan, poke) }
    }

    /// Makes changes that have been [admitted](Self::admit), each for itself: one that is refused, with `ENOENT` for
    /// emptying an empty slot, ends nothing. Answers what came of each.
    pub fn change_each(
        &self,
        changes: impl IntoIterator<Item = SlotChange>,
        poke: &mut dyn Poke,
    ) -> (Vec<Result<(), MapError>>, Retired) {
        let mut plan = self.plan();
        let results = changes.into_iter().map(|change| plan.add(change)).collect();
        (results, self.make(plan, poke))
    }
}
