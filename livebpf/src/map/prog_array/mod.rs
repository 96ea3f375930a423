//! Program arrays: slots that hold programs, for tail calls.
//!
//! A slot exists twice: as a *member* (which keeps the program alive, and is what users read) and as a *word*, the
//! address of the program's tail entry, 0 where the slot is empty. Both are in the array's [`Table`]. The indirect form of
//! a tail call loads the word, once. Direct tail calls have the address in their code; changing that is behind the trait [`Poke`]. This file knows
//! no machine code, and neither does any other of this room.
//!
//! *Order.* Every change is made under the runtime's update lock, which is what a `&mut dyn Poke` stands for: words
//! and members first, then the sites, all under one lock. So the order in which slots change and the order in which
//! code changes agree (race R9 of two updates at once), and a loader that reads the slots under the same lock either
//! sees a change or is told of it (R10).
//!
//! *Retirement.* A member that a change displaced may still be running: some thread loaded the word, or jumped, before.
//! So displaced members come back as [`Retired`], which can only be handed to a grace period
//! (`rcu::Domain::retire`), not dropped: dropping it leaks on purpose. This is the wait that protects the *target's*
//! code; the one that protects the *caller's frame* is behind `Poke`.
//!
//! *Generations.* A transaction of the runtime gives the array a new table ([`ProgArray::next_table`],
//! [`ProgArray::publish`]); the runs of older generations keep theirs until they are over. Single changes go to the youngest
//! table only.
//!
//! *Missed calls* are counted per array, not per table ([`missed`]): a slot's counters go on through its generations.
//!
//! *Models.* tests/loom_patch.rs and tests/loom_generation.rs run this code under loom: runs in the indirect form beside a replace
//! and a delete, which find what the slot held at one moment and use nothing after its end; single changes beside each
//! other, beside a load, and beside a new generation, after which slots and code agree and no change is lost.
//!
//! *Guarantees.* The first program that uses the array, by loading or by being inserted, fixes the [`Contract`] for as
//! long as the array lives; a program with another one is refused. A refused operation has changed nothing. Errors
//! and their order are the kernel's (kernel/bpf/arraymap.c). When the last user handle goes, [`ProgArray::clear_unused`]
//! empties the array, which cuts the cycle array → program → array.
//!
//! *Never.* No member is dropped while a lock is held, and nothing here waits.

mod contract;
mod many;
pub mod missed;
mod table;
mod words;

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

pub use contract::{Contract, Execution};
pub use many::{Batch, SlotChange};
pub use table::Table;

use super::MapError;
use super::cell::OutOfMemory;
use super::held::{Held, lock};
use crate::primitive::Mutex;
use missed::Counters;

/// Identifies a program array for as long as the process lives; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ArrayKey(u64);

/// A program as an array sees it. Its code must stay executable until the `Arc` is dropped.
pub trait Member: Send + Sync {
    /// Its number, which users read from the slot.
    fn id(&self) -> u32;
    /// What it requires of its neighbours.
    fn contract(&self) -> &Contract;
    /// Where a tail call enters; never 0. For native programs an address in the runtime's code region. For interpreted
    /// ones any other number: nothing jumps there.
    fn tail_entry(&self) -> u64;
    /// For whoever knows the type.
    fn as_any(&self) -> &dyn Any;
}

/// One slot's change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// The slot.
    pub index: u32,
    /// Tail entry of the program that was there.
    pub old: Option<u64>,
    /// Tail entry of the program that is there now.
    pub new: Option<u64>,
}

/// The update lock, held; and the way to the code of the callers.
pub trait Poke {
    /// Whether native code here can jump to a program at `tail_entry`: false for one of another runtime.
    fn reaches(&self, tail_entry: u64) -> bool;
    /// Makes every direct tail call through the slots of `array` agree with `changes`, each slot at most once. The
    /// words of the slots have been stored. When the lock has been released, no run that starts from then on sees an old
    /// value. Cannot fail.
    fn poke(&mut self, array: ArrayKey, changes: &[Change]);
}

/// Members that are in no slot any more, but may still be running.
///
/// Hand it to `rcu::Domain::retire`, also when it is empty. Dropping it leaks the programs, with a message, because
/// freeing them would be worse.
#[must_use = "displaced programs may still be running: hand them to rcu::Domain::retire"]
#[derive(Default)]
pub struct Retired(Vec<Arc<dyn Member>>);

impl Retired {
    /// Takes the members out. Whoever calls this upholds that they are dropped only after a grace period that begins
    /// after this call.
    pub fn into_members(mut self) -> Vec<Arc<dyn Member>> {
        std::mem::take(&mut self.0)
    }
    /// Adds those of `other`.
    pub fn merge(&mut self, other: Retired) {
        self.0.extend(other.into_members());
    }
    /// Whether nothing was displaced.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// The numbers of the programs.
    pub fn ids(&self) -> Vec<u32> {
        self.0.iter().map(|member| member.id()).collect()
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            log::error!("{} displaced programs were not retired; their memory is lost", self.0.len());
            std::mem::forget(std::mem::take(&mut self.0));
        }
    }
}

impl fmt::Debug for Retired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Retired").field(&self.ids()).finish()
    }
}

/// A program array.
pub struct ProgArray {
    key: ArrayKey,
    max_entries: u32,
    /// By generation, ascending; the last is the current one. Never empty.
    tables: Mutex<Vec<Arc<Table>>>,
    owner: OnceLock<Contract>,
    users: AtomicUsize,
    counters: OnceLock<Counters>,
}

impl ProgArray {
    /// An array of `max_entries` empty slots, without user handles.
    pub fn new(max_entries: u32) -> Result<ProgArray, OutOfMemory> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Ok(ProgArray {
            key: ArrayKey(NEXT.fetch_add(1, Ordering::Relaxed)),
            max_entries,
            tables: Mutex::new(vec![Arc::new(Table::new(0, max_entries)?)]),
            owner: OnceLock::new(),
            users: AtomicUsize::new(0),
            counters: OnceLock::new(),
        })
    }

    /// Its identity towards [`Poke`].
    pub fn key(&self) -> ArrayKey {
        self.key
    }

    /// Slots.
    pub fn max_entries(&self) -> u32 {
        self.max_entries
    }

    fn tables(&self) -> Held<'_, Vec<Arc<Table>>> {
        lock(&self.tables)
    }

    /// The slots as they are now.
    pub fn current(&self) -> Arc<Table> {
        self.tables().last().cloned().expect("an array has a table")
    }

    /// The slots as a run of that generation has them.
    pub fn table(&self, generation: u64) -> Arc<Table> {
        let tables = self.tables();
        let table = tables.iter().rev().find(|table| table.since() <= generation).or(tables.first());
        table.cloned().expect("an array has a table")
    }

    /// The word of a slot: the tail entry of its program, 0 where it is empty or there is no such slot.
    pub fn word(&self, index: u32) -> u64 {
        self.current().word(index)
    }

    /// The program in a slot.
    pub fn get(&self, index: u32) -> Option<Arc<dyn Member>> {
        self.current().get(index)
    }

    /// What a user's lookup answers: the program's number. `ENOENT` for an empty slot, and for one past the end.
    pub fn lookup(&self, index: u32) -> Result<u32, MapError> {
        self.get(index).map(|member| member.id()).ok_or(MapError::NotFound)
    }

    /// The occupied slots, ascending, each with the program's number.
    pub fn entries(&self) -> Vec<(u32, u32)> {
        self.current().members().iter().map(|(&index, member)| (index, member.id())).collect()
    }

    // --- Generations ---

    /// An empty table for generation `since`. The caller fills and [`publish`](Self::publish)es it.
    pub fn next_table(&self, since: u64) -> Result<Arc<Table>, OutOfMemory> {
        Ok(Arc::new(Table::new(since, self.max_entries)?))
    }

    /// Makes `table` the current one. Under the update lock; whoever runs an older generation keeps his.
    pub fn publish(&self, table: Arc<Table>) {
        debug_assert!(table.max_entries() == self.max_entries);
        self.tables().push(table);
    }

    /// Takes out the tables that no generation from `oldest` on uses. Their programs may be dropped with them: the caller
    /// has waited for the runs of the generations before.
    pub fn forget_before(&self, oldest: u64) -> Vec<Arc<Table>> {
        let mut tables = self.tables();
        let keep = tables.iter().rposition(|table| table.since() <= oldest).unwrap_or(0);
        tables.drain(..keep).collect()
    }

    // --- Missed calls ---

    /// The counters of missed calls, from now on kept: for whoever makes a program that counts them.
    pub fn count_missed(&self) -> Result<&Counters, OutOfMemory> {
        if self.counters.get().is_none() {
            let new = Counters::new(self.max_entries)?;
            // Another thread may have been faster: then its counters are the array's.
            let _ = self.counters.set(new);
        }
        Ok(self.counters.get().expect("set above"))
    }

    /// The counters of missed calls; `None` where no program counts them.
    pub fn counters(&self) -> Option<&Counters> {
        self.counters.get()
    }

    // --- The contract ---

    /// The contract, once there is one.
    pub fn owner(&self) -> Option<&Contract> {
        self.owner.get()
    }

    /// Whether a program with this contract may use the array or be in it; changes nothing.
    pub fn check_owner(&self, contract: &Contract) -> Result<(), MapError> {
        self.owner.get().map_or(Ok(()), |owner| contract.fits(owner))
    }

    /// Whether programs with these contracts may use the array or be in it together; changes nothing.
    pub fn check_owners<'a>(&'a self, mut contracts: impl Iterator<Item = &'a Contract>) -> Result<(), MapError> {
        let Some(owner) = self.owner.get().or_else(|| contracts.next()) else { return Ok(()) };
        contracts.try_for_each(|contract| contract.fits(owner))
    }

    /// [`check_owner`](Self::check_owner), and fixes the contract where there is none: for the first program that uses the array. Never undone.
    pub fn adopt_owner(&self, contract: &Contract) -> Result<(), MapError> {
        contract.fits(self.owner.get_or_init(|| *contract))
    }

    // --- Changes, each under the update lock ---

    /// Puts `member` into slot `index`. `flags` must be 0 (`BPF_ANY`): `EINVAL`; `E2BIG` past the end; `EINVAL` when the
    /// contract does not fit, or the program is native and of another runtime.
    pub fn set(
        &self,
        index: u32,
        member: Arc<dyn Member>,
        flags: u64,
        poke: &mut dyn Poke,
    ) -> Result<Retired, MapError> {
        self.admit(index, &*member, flags, poke)?;
        Ok(self.apply(vec![(index, Some(member))], poke))
    }

    /// What [`ProgArray::set`] refuses. For the first program that comes, its contract is the array's from now on.
    pub fn admit(&self, index: u32, member: &dyn Member, flags: u64, poke: &dyn Poke) -> Result<(), MapError> {
        self.check_set(index, flags)?;
        if member.contract().execution == Execution::Native && !poke.reaches(member.tail_entry()) {
            return Err(MapError::Invalid("the program belongs to another runtime than the program array".into()));
        }
        self.adopt_owner(member.contract())
    }

    /// What [`ProgArray::set`] refuses before it looks at the program: for callers that must first find the program,
    /// since the kernel checks in this order.
    pub fn check_set(&self, index: u32, flags: u64) -> Result<(), MapError> {
        if flags != super::BPF_ANY {
            let text = format!("update flags {flags:#x}: a program array wants 0 (any)");
            return Err(MapError::Invalid(text.into()));
        }
        self.check_index(index)
    }

    /// `E2BIG` for an index past the end.
    pub fn check_index(&self, index: u32) -> Result<(), MapError> {
        if index < self.max_entries {
            return Ok(());
        }
        let text = format!("index {index} is past the end, the program array has {} entries", self.max_entries);
        Err(MapError::TooBig(text.into()))
    }

    /// Empties slot `index`. `E2BIG` past the end, `ENOENT` when it is empty: then nothing is patched.
    pub fn clear_index(&self, index: u32, poke: &mut dyn Poke) -> Result<Retired, MapError> {
        self.check_index(index)?;
        if self.get(index).is_none() {
            return Err(MapError::NotFound);
        }
        Ok(self.apply(vec![(index, None)], poke))
    }

    /// Empties every slot, in one update.
    pub fn clear_all(&self, poke: &mut dyn Poke) -> Retired {
        let occupied = self.current().members().keys().map(|&index| (index, None)).collect();
        self.apply(occupied, poke)
    }

    /// Changes several slots in one update; each index below `max_entries`, at most once, contracts checked.
    fn apply(&self, wanted: Vec<(u32, Option<Arc<dyn Member>>)>, poke: &mut dyn Poke) -> Retired {
        let mut retired = Vec::new();
        let mut changes = Vec::with_capacity(wanted.len());
        let table = self.current();
        for (index, member) in wanted {
            let new = member.as_ref().map(|member| member.tail_entry());
            let old = table.put(index, member);
            changes.push(Change { index, old: old.as_ref().map(|member| member.tail_entry()), new });
            retired.extend(old);
        }
        poke.poke(self.key, &changes);
        Retired(retired)
    }

    // --- User handles ---

    /// One more user handle refers to the array.
    pub fn acquire_user(&self) {
        self.users.fetch_add(1, Ordering::Relaxed);
    }

    /// One less. True for the last one: the caller then sees to it that [`ProgArray::clear_unused`] runs under the
    /// update lock, soon, though not necessarily here (the lock may be held, or a program running).
    #[must_use = "the last handle's owner must have the array cleared"]
    pub fn release_user(&self) -> bool {
        self.users.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// User handles there are.
    pub fn users(&self) -> usize {
        self.users.load(Ordering::Acquire)
    }

    /// Empties the array if it has no user handle (any more).
    pub fn clear_unused(&self, poke: &mut dyn Poke) -> Retired {
        if self.users() == 0 { self.clear_all(poke) } else { Retired::default() }
    }
}

impl fmt::Debug for ProgArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgArray").field("key", &self.key.0).field("entries", &self.entries()).finish()
    }
}

#[cfg(test)]
mod tests;
