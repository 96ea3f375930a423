//! Transactions: any number of slots and entries changed at once, for every invocation all of it or none.
//!
//! A transaction builds the next generation of the runtime ([`crate::run`] says what one is): every image that has tail calls
//! or refers to a program array's slots is placed anew, every program array gets a new table; other images and all data
//! are shared. That is done beside the running code, with single updates going on. Then, under the update lock, the new
//! tables are filled with what the slots hold *now* and the transaction's changes on top, the new images' sites are set to
//! them, the old ones forgotten, and one pointer is stored.
//!
//! *Guarantees.* An invocation that starts before that store runs in the old generation to its end, through all its tail calls and
//! nested runs; one that starts after it, in the new. A single update that races a transaction came before it (then the
//! new generation has it, unless the transaction changes the same slot) or after it (then it changes the new generation,
//! and only that): it is never lost, and runs that are still in the old generation do not see it. A refused
//! transaction has changed nothing.
//!
//! *Models.* tests/loom_generation.rs runs this code under loom, with the interpreter: beside a run, which sees all or nothing;
//! beside a single update, which is not lost; beside another transaction. Without a generation of its own, or with one that
//! goes before its runs are over, loom finds a run that sees half. `UpdateGuard::take_over` is run there in the steps
//! above, beside a single update and a runner that fetches code; where the tables are filled before the lock is taken, loom finds the
//! update lost.
//!
//! *Never.* It waits for no run, so it may be made inside one. Nothing is stored into a generation that is not the current one.
//!
//! *Cost.* Time and code memory in proportion to the code that has tail calls, whatever the number of changes; the old images
//! go when the last run in them is over. At most [`MAX_GENERATIONS`](run::MAX_GENERATIONS) exist at once: with runs that do not end, the next
//! transaction is refused. Where core sync is missing, code memory is never used again ([`crate::text::region`]): there the size of the
//! region limits how many transactions a runtime makes in its life; the one that does not fit is refused, updates go on.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::builder::Runtime;
use super::error::Error;
use super::install::{array, is_generations_own, place};
use super::load::map_error;
use super::maps::{MapHandle, ProgramArray};
use crate::map::prog_array::{ArrayKey, Contract, Member, ProgArray, Retired, Table};
use crate::map::{Map, MapError};
use crate::run::{self, Entry, EntryId, Loaded, OwnedGeneration, Placement, Program, Shared, Turn};
use crate::text::{UpdateError, UpdateGuard};

/// What a transaction is to change; nothing is changed before it is committed. Steps take effect in their order.
pub struct Transaction<'a> {
    steps: Vec<Step<'a>>,
}

enum Step<'a> {
    Set(MapHandle, u32, &'a Program),
    Clear(MapHandle, u32),
    Entry(&'a Program, &'a Program),
    /// Only where the first one is what its own runs start.
    Succeed(&'a Program, &'a Program),
    /// Runs of the first start it again, if they start the second.
    Restore(&'a Program, &'a Program),
    /// Only where the slot still holds the program of that number (`None`: nothing).
    Exchange {
        handle: MapHandle,
        index: u32,
        holds: Option<u32>,
        new: Option<&'a Arc<Loaded>>,
    },
}

impl<'a> Transaction<'a> {
    /// Puts `program` into slot `index` of `array`.
    pub fn set(&mut self, array: &ProgramArray, index: u32, program: &'a Program) {
        self.steps.push(Step::Set(array.handle().clone(), index, program));
    }

    /// Empties slot `index` of `array`.
    pub fn clear(&mut self, array: &ProgramArray, index: u32) {
        self.steps.push(Step::Clear(array.handle().clone(), index));
    }

    /// Puts `new` into slot `index`, or empties it, if the slot still holds the program numbered `holds`, or nothing.
    pub(super) fn exchange(
        &mut self,
        handle: &MapHandle,
        index: u32,
        holds: Option<u32>,
        new: Option<&'a Arc<Loaded>>,
    ) {
        self.steps.push(Step::Exchange { handle: handle.clone(), index, holds, new });
    }

    /// As [`replace_entry`](Self::replace_entry), but refused where the runs of `old` start another program already.
    pub(super) fn succeed(&mut self, old: &'a Program, new: &'a Program) {
        self.steps.push(Step::Succeed(old, new));
    }

    /// Lets the runs of `old` start `old` again, if they start `new`.
    pub(super) fn restore(&mut self, old: &'a Program, new: &'a Program) {
        self.steps.push(Step::Restore(old, new));
    }

    /// Lets every run that would start in `old` start in `new`, whichever handle it is started with. The handles keep their
    /// names and numbers. `replace_entry(&p, &p)` lets the runs of `p` start in `p` again.
    pub fn replace_entry(&mut self, old: &'a Program, new: &'a Program) {
        self.steps.push(Step::Entry(old, new));
    }
}

impl Runtime {
    /// Makes the changes that `describe` lists, all at once: an invocation sees all of them or none, from its entry to its end. Runs
    /// that start after the return see them. Refused as a whole where a single change would be refused.
    ///
    /// May be called from any thread, while programs run, and from inside a run (which goes on in its own generation).
    ///
    /// # Errors
    /// [`Error::Step`] names the change that is refused, with the error that the single update would give;
    /// [`Error::Generations`] when too many generations are still in use; [`Error::Text`] when the code region is full;
    /// [`Error::Update`] in a fork's child and from inside another update or load of this thread.
    pub fn transaction<'a>(&self, describe: impl FnOnce(&mut Transaction<'a>)) -> Result<(), Error> {
        let mut transaction = Transaction { steps: Vec::new() };
        describe(&mut transaction);
        commit(&self.shared, &transaction.steps)
    }

    /// How many transactions took effect: the number of the generation that runs start in now.
    pub fn generation(&self) -> u64 {
        self.shared.generations.number()
    }
}

fn commit(shared: &Arc<Shared>, steps: &[Step<'_>]) -> Result<(), Error> {
    if shared.domain.forked() {
        // Before the turn: a thread that is not here may have it.
        return Err(UpdateError::Forked.into());
    }
    let turn = shared.relink.turn()?;
    let live = shared.generations.live();
    if live >= run::MAX_GENERATIONS {
        return Err(Error::Generations { live });
    }
    // A first look, so that what is refused costs nothing; what counts is the second, under the lock.
    changes(shared, steps, &turn)?;
    let next = Next::build(shared)?;
    let mut guard = shared.patcher.update()?;
    let changes = changes(shared, steps, &turn)?;
    if guard.faults().transaction_without_generation {
        drop(guard);
        return one_by_one(shared, steps);
    }
    let placed = next.placements.values().cloned().collect::<Vec<_>>();
    let old = next.publish(shared, &changes, &mut guard);
    drop(guard);
    drop(turn);
    for (program, placement) in placed {
        placement.announce(program.id, program.linked());
    }
    let shared_then = Arc::downgrade(shared);
    shared.domain.defer(move || {
        drop(old);
        if let Some(shared) = shared_then.upgrade() {
            shared.generations.drained();
        }
    });
    Ok(())
}

/// What a transaction is without a generation of its own: for tests, to show that they notice.
fn one_by_one(shared: &Arc<Shared>, steps: &[Step<'_>]) -> Result<(), Error> {
    for step in steps {
        let mut guard = shared.patcher.update()?;
        let retired = match step {
            Step::Set(handle, index, program) => {
                own_array(shared, handle)?.set(*index, program.loaded().clone(), 0, &mut guard)
            }
            Step::Clear(handle, index) => own_array(shared, handle)?.clear_index(*index, &mut guard),
            Step::Entry(..) | Step::Succeed(..) | Step::Restore(..) | Step::Exchange { .. } => Ok(Retired::default()),
        };
        drop(guard);
        shared.domain.retire(retired.map_err(|e| Error::Options(e.to_string()))?);
    }
    Ok(())
}

/// A slot of an array.
type Key = (ArrayKey, u32);

/// What the steps come to.
#[derive(Default)]
struct Changes {
    slots: BTreeMap<Key, Option<Arc<Loaded>>>,
    /// The contract that each array without one takes on.
    owners: BTreeMap<ArrayKey, Contract>,
    /// The program that runs of each entry start.
    entries: BTreeMap<EntryId, Arc<Loaded>>,
}

/// Checks the steps, in their order, against what there is; changes nothing.
fn changes(shared: &Arc<Shared>, steps: &[Step<'_>], turn: &Turn<'_>) -> Result<Changes, Error> {
    let mut changes = Changes::default();
    for (position, step) in steps.iter().enumerate() {
        let added = match step {
            Step::Set(handle, index, program) => changes.set(shared, handle, *index, program.loaded()),
            Step::Clear(handle, index) => changes.clear(shared, handle, *index),
            Step::Exchange { handle, index, holds, new } => {
                match (changes.holds(shared, handle, *index)? == *holds, new) {
                    (true, Some(program)) => changes.set(shared, handle, *index, program),
                    (true, None) if holds.is_some() => changes.clear(shared, handle, *index),
                    _ => Ok(()),
                }
            }
            Step::Entry(old, new) => changes.replace_entry(shared, &old.entry, &new.entry, turn),
            Step::Succeed(old, new) => changes
                .check_current(shared, old, turn)
                .and_then(|()| changes.replace_entry(shared, &old.entry, &new.entry, turn)),
            Step::Restore(old, new) => {
                let started = changes.started(shared, old.entry.id, old.loaded(), turn);
                let ours = Arc::ptr_eq(&started, new.loaded());
                if ours { changes.replace_entry(shared, &old.entry, &old.entry, turn) } else { Ok(()) }
            }
        };
        added.map_err(|source| Error::Step { step: position + 1, source: Box::new(source) })?;
    }
    Ok(changes)
}

fn own_array<'a>(shared: &Arc<Shared>, handle: &'a MapHandle) -> Result<&'a ProgArray, Error> {
    if !Arc::ptr_eq(shared, handle.shared()) {
        return Err(Error::Options(format!("{handle:?} belongs to another runtime than the transaction")));
    }
    Ok(handle.map().prog_array().expect("a ProgramArray is a program array"))
}

fn own_program(shared: &Arc<Shared>, program: &Loaded) -> Result<(), Error> {
    if Arc::ptr_eq(shared, &program.shared) {
        return Ok(());
    }
    let name = &program.linked().name;
    Err(Error::Options(format!("program {} ({name}) belongs to another runtime than the transaction", program.id)))
}

impl Changes {
    fn set(
        &mut self,
        shared: &Arc<Shared>,
        handle: &MapHandle,
        index: u32,
        program: &Arc<Loaded>,
    ) -> Result<(), Error> {
        own_program(shared, program)?;
        let array = own_array(shared, handle)?;
        let refused = |source| map_error(handle.def(), source);
        array.check_set(index, 0).map_err(refused)?;
        let owner = *array.owner().unwrap_or_else(|| self.owners.entry(array.key()).or_insert(program.contract));
        array.check_owners([&owner, &program.contract].into_iter()).map_err(refused)?;
        self.slots.insert((array.key(), index), Some(program.clone()));
        Ok(())
    }

    fn clear(&mut self, shared: &Arc<Shared>, handle: &MapHandle, index: u32) -> Result<(), Error> {
        let array = own_array(shared, handle)?;
        let refused = |source| map_error(handle.def(), source);
        array.check_set(index, 0).map_err(refused)?;
        let key = (array.key(), index);
        let occupied = self.slots.get(&key).map_or_else(|| array.word(index) != 0, Option::is_some);
        if !occupied {
            return Err(refused(MapError::NotFound));
        }
        self.slots.insert(key, None);
        Ok(())
    }

    /// The number of the program that a slot holds after the steps so far.
    fn holds(&self, shared: &Arc<Shared>, handle: &MapHandle, index: u32) -> Result<Option<u32>, Error> {
        let array = own_array(shared, handle)?;
        let changed = self.slots.get(&(array.key(), index)).map(|slot| slot.as_ref().map(|program| program.id));
        Ok(changed.unwrap_or_else(|| array.lookup(index).ok()))
    }

    /// Not only `old` starts `new` from now on, but every entry that was led to what `old` starts.
    fn replace_entry(&mut self, shared: &Arc<Shared>, old: &Entry, new: &Entry, turn: &Turn<'_>) -> Result<(), Error> {
        own_program(shared, &old.loaded)?;
        own_program(shared, &new.loaded)?;
        let (found, wanted) = (new.loaded.contract, old.loaded.contract);
        if found != wanted {
            let names = (&new.loaded.linked().name, &old.loaded.linked().name);
            let text =
                format!("program {} cannot take the place of {}: it is {found:?}, wanted {wanted:?}", names.0, names.1);
            return Err(Error::Options(text));
        }
        let started = self.started(shared, old.id, &old.loaded, turn);
        for (id, own) in shared.registry.entries() {
            let led = !Arc::ptr_eq(&own, &started) && Arc::ptr_eq(&self.started(shared, id, &own, turn), &started);
            if id == old.id || led {
                self.entries.insert(id, new.loaded.clone());
            }
        }
        Ok(())
    }

    /// Refuses a program whose place another one has taken.
    fn check_current(&self, shared: &Shared, program: &Program, turn: &Turn<'_>) -> Result<(), Error> {
        let started = self.started(shared, program.entry.id, program.loaded(), turn);
        if Arc::ptr_eq(&started, program.loaded()) {
            return Ok(());
        }
        Err(Error::Upgrade {
            what: format!("runs of {program:?} start program {} ({})", started.id, started.linked().name),
            remedy: "upgrade from the version that is in use, or take it back first",
        })
    }

    /// What runs of an entry start after the steps so far.
    fn started(&self, shared: &Shared, id: EntryId, own: &Arc<Loaded>, turn: &Turn<'_>) -> Arc<Loaded> {
        let changed = self.entries.get(&id).cloned();
        changed.or_else(|| shared.generations.redirect(turn, id)).unwrap_or_else(|| own.clone())
    }
}

/// The next generation, built but for what its slots hold.
struct Next {
    tables: BTreeMap<ArrayKey, (Arc<Map>, Arc<Table>)>,
    placements: BTreeMap<u32, (Arc<Loaded>, Arc<Placement>)>,
}

/// What runs of older generations may still use; to be dropped when they are over.
struct Old {
    _generation: OwnedGeneration,
    _placements: Vec<Arc<Placement>>,
    /// The arrays whose tables before the generation numbered so are to go.
    arrays: Vec<Arc<Map>>,
    number: u64,
}

impl Drop for Old {
    fn drop(&mut self) {
        for array in self.arrays.iter().filter_map(|map| map.prog_array()) {
            drop(array.forget_before(self.number));
        }
    }
}

impl Next {
    /// Places what belongs to one generation. The caller has the turn, so no program is loaded meanwhile, and the number stays.
    fn build(shared: &Arc<Shared>) -> Result<Next, Error> {
        let number = shared.generations.number() + 1;
        let mut tables = BTreeMap::new();
        for map in shared.registry.arrays() {
            let table = map.next_table(number).map_err(|source| map_error(map.def(), source))?;
            if let (Some(key), Some(table)) = (map.prog_array().map(ProgArray::key), table) {
                tables.insert(key, (map, table));
            }
        }
        let mut placements = BTreeMap::new();
        for program in shared.registry.programs() {
            let Some(old) = program.placement() else { continue };
            if !is_generations_own(&old.code, program.maps()) {
                continue;
            }
            let table = |array: &ProgArray| tables[&array.key()].1.clone();
            let image = place(shared, &old.code, program.maps(), &table)?;
            let tracking = shared.patcher.track(&image, &|id| array(program.maps(), id))?;
            let placement = Placement { tracking, image, code: old.code.clone(), options: old.options.clone() };
            placements.insert(program.id, (program, Arc::new(placement)));
        }
        Ok(Next { tables, placements })
    }

    /// Where `program` is entered by a tail call in this generation.
    fn tail_entry(&self, program: &dyn Member) -> u64 {
        let placed = self.placements.get(&program.id());
        placed.map_or_else(|| program.tail_entry(), |(_, placement)| placement.image.tail_entry())
    }

    /// Fills the tables, sets the sites, and makes this the current generation. Cannot fail.
    fn publish(self, shared: &Shared, changes: &Changes, guard: &mut UpdateGuard<'_>) -> Old {
        for (&key, (map, table)) in &self.tables {
            let Some(array) = map.prog_array() else { continue };
            let kept = array.current().occupied();
            for (index, member) in kept.into_iter().filter(|(index, _)| !changes.slots.contains_key(&(key, *index))) {
                let word = self.tail_entry(&*member);
                table.fill(index, member, word);
            }
            for (&(_, index), program) in changes.slots.range((key, 0)..=(key, u32::MAX)) {
                let Some(program) = program else { continue };
                table.fill(index, program.clone(), self.tail_entry(&**program));
            }
            if let Some(owner) = changes.owners.get(&key) {
                let adopted = array.adopt_owner(owner);
                debug_assert!(adopted.is_ok(), "checked under this lock");
            }
        }
        let trackings: Vec<_> = self.placements.values().map(|(_, placement)| &placement.tracking).collect();
        // An array that nobody has any more has no site of a new image.
        guard.take_over(&trackings, &|key, index| self.tables.get(&key).map_or(0, |(_, table)| table.word(index)));
        self.swap(shared, changes, guard)
    }

    /// The publication.
    fn swap(self, shared: &Shared, changes: &Changes, guard: &mut UpdateGuard<'_>) -> Old {
        let generation = shared.generations.next(guard);
        let number = generation.number();
        for (id, own) in shared.registry.entries() {
            if let Some(program) = changes.entries.get(&id) {
                generation.redirect_to(id, (!Arc::ptr_eq(program, &own)).then(|| program.clone()));
            }
            let started = generation.redirect(id).unwrap_or(own);
            let placed = self.placements.get(&started.id).map(|(_, placement)| placement.clone());
            let address = placed.or_else(|| started.placement()).map_or(1, |placement| placement.image.entry());
            generation.set(id, address);
        }
        let mut arrays = Vec::with_capacity(self.tables.len());
        for (map, table) in self.tables.into_values() {
            if let Some(array) = map.prog_array() {
                array.publish(table);
            }
            arrays.push(map);
        }
        let replaced = self.placements.into_values().filter_map(|(program, placement)| program.replace(placement));
        let placements = replaced.collect();
        let old = shared.generations.swap(guard, generation);
        Old { _generation: old, _placements: placements, arrays, number }
    }
}
