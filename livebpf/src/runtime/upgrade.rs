//! Whole-object upgrades: a new version of an object takes the place of the old one in one transaction.
//!
//! The new version is loaded beside the old one and shares its maps, so nothing they hold is lost or copied. Then one transaction
//! puts the new programs into every slot that holds one of the old programs, also in arrays of other objects, and lets runs that
//! are started with the old handles start the new programs. An invocation runs in one version from its entry to its end.
//!
//! *What goes with what.* Programs and maps by name. A map is carried over when both versions define it alike: type, sizes,
//! flags, and for global data the variables' names, places and sizes. Read-only data (`.rodata*`) belongs to the code and is
//! always the new version's own. What does not match is refused by name before anything changes; [`UpgradeOptions`] says what
//! to do instead.
//!
//! *Guarantees.* A refused upgrade has changed nothing. A slot that somebody else changes while the new version is being loaded
//! keeps what he put there. Of two upgrades from one version the second is refused, since the slots hold what the first put
//! there; and what a later upgrade has replaced, taking back an earlier one does not touch.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::builder::Runtime;
use super::ebpf::{Ebpf, ObjectMap};
use super::error::Error;
use super::load::{LoadOptions, initial_slots, same_shape};
use super::maps::MapHandle;
use super::transaction::Transaction;
use crate::map::Map;
use crate::object::{MapDef, Object};
use crate::run::{Loaded, Program, Shared};

/// How a new version of an object is loaded, and what becomes of what it does not share with the old one.
#[derive(Clone, Default, Debug)]
pub struct UpgradeOptions {
    load: LoadOptions,
    fresh: BTreeSet<String>,
    dropped: BTreeSet<String>,
}

impl UpgradeOptions {
    /// How the new version is loaded. Maps that it reuses by [`LoadOptions::reuse_map`] are not carried over; initial values of
    /// global variables hold for data that is not carried over.
    pub fn load(mut self, load: LoadOptions) -> Self {
        self.load = load;
        self
    }

    /// The new version gets a map `name` of its own, with nothing in it, although the old one has a map of this name.
    pub fn fresh(mut self, name: &str) -> Self {
        self.fresh.insert(name.to_owned());
        self
    }

    /// The new version may lack the program `name`: slots that hold it are emptied, and its handles go on running it.
    pub fn drop_program(mut self, name: &str) -> Self {
        self.dropped.insert(name.to_owned());
        self
    }
}

/// An upgrade that took effect. Keeps the old programs, for [`Upgrade::roll_back`]; [`Upgrade::finish`] lets go of them.
pub struct Upgrade {
    runtime: Runtime,
    new: Ebpf,
    entries: Vec<(Program, Program)>,
    slots: Vec<Slot>,
    carried: Vec<String>,
}

/// A slot that the upgrade changes.
struct Slot {
    array: MapHandle,
    index: u32,
    old: Option<Arc<Loaded>>,
    new: Option<Arc<Loaded>>,
}

impl Runtime {
    /// Lets `object`, the new version of what was loaded as `old`, take its place, in one transaction.
    ///
    /// # Errors
    /// Those of [`load_with`](Self::load_with) and [`transaction`](Self::transaction); [`Error::Upgrade`] names a map that the new version
    /// defines differently, or a program that it lacks. Then nothing has changed.
    pub fn upgrade(&self, old: &Ebpf, object: &Object, options: &UpgradeOptions) -> Result<Upgrade, Error> {
        let mut load = options.load.clone();
        load.keep_slots = true;
        let mut carried = Vec::new();
        for (name, map) in carried_maps(old, object, options)? {
            load = load.reuse_map(&name, map);
            carried.push(name);
        }
        let new = self.load_with(object, &load)?;
        let entries = entries(old, &new, options)?;
        let slots = slots(&self.shared, old, &new, &|name| load.reuses(name));
        let upgrade = Upgrade { runtime: self.clone(), new, entries, slots, carried };
        self.transaction(|tx| upgrade.describe(tx))?;
        Ok(upgrade)
    }
}

/// The old version's maps that the new one is to use.
fn carried_maps<'a>(
    old: &'a Ebpf,
    object: &Object,
    options: &UpgradeOptions,
) -> Result<Vec<(String, &'a MapHandle)>, Error> {
    let mut carried = Vec::new();
    for ObjectMap { def, handle } in &old.maps {
        let name = &def.name;
        let own = def.frozen || options.fresh.contains(name) || options.load.reuses(name);
        let Some(new) = object.maps().iter().find(|new| new.name == *name).filter(|_| !own) else { continue };
        same(def, new, handle).map_err(|what| Error::Upgrade {
            what: format!("map {name}: {what}"),
            remedy: "let the new version have a map of its own (UpgradeOptions::fresh), or define it as it was",
        })?;
        carried.push((name.clone(), handle));
    }
    Ok(carried)
}

/// Whether a map can serve both definitions; the difference otherwise.
fn same(old: &MapDef, new: &MapDef, handle: &MapHandle) -> Result<(), String> {
    same_shape(new, handle).map_err(|error| error.to_string())?;
    let symbols = |def: &MapDef| -> Vec<_> { def.symbols.iter().map(|s| (s.name.clone(), s.offset, s.size)).collect() };
    let (old, new) = (symbols(old), symbols(new));
    match new.iter().find(|variable| !old.contains(variable)).or_else(|| old.iter().find(|v| !new.contains(v))) {
        Some((name, offset, size)) => {
            Err(format!("variable {name} ({size} bytes at {offset}) is not in both versions"))
        }
        None => Ok(()),
    }
}

/// Each old program with the new one that takes its place.
fn entries(old: &Ebpf, new: &Ebpf, options: &UpgradeOptions) -> Result<Vec<(Program, Program)>, Error> {
    let mut entries = Vec::new();
    for program in old.programs() {
        match new.program(program.name()) {
            Some(successor) => entries.push((program.clone(), successor.clone())),
            None if options.dropped.contains(program.name()) => {}
            None => {
                return Err(Error::Upgrade {
                    what: format!("the new version has no program {}", program.name()),
                    remedy: "allow that (UpgradeOptions::drop_program), which empties the slots that hold it",
                });
            }
        }
    }
    Ok(entries)
}

/// The changes to the program arrays: in those that the new version `reuses`, what its static initialiser says; there and in
/// those of others, the successors of old programs. An array that the new version does not use goes with the old one.
fn slots(shared: &Arc<Shared>, old: &Ebpf, new: &Ebpf, reuses: &dyn Fn(&str) -> bool) -> Vec<Slot> {
    let has = |ebpf: &Ebpf, map: &Arc<Map>| ebpf.maps.iter().any(|own| Arc::ptr_eq(own.handle.map(), map));
    let mut slots = Vec::new();
    for map in shared.registry.arrays() {
        match new.maps.iter().find(|own| Arc::ptr_eq(own.handle.map(), &map)) {
            Some(own) if reuses(&own.def.name) => {
                slots_of(shared, &map, initial_slots(new, &own.def), old, new, &mut slots)
            }
            None if !has(old, &map) => slots_of(shared, &map, std::iter::empty(), old, new, &mut slots),
            Some(_) | None => {}
        }
    }
    slots
}

/// The changes to one of them.
fn slots_of<'a>(
    shared: &Arc<Shared>,
    map: &Arc<Map>,
    initial: impl Iterator<Item = (u32, &'a Program)>,
    old: &Ebpf,
    new: &'a Ebpf,
    slots: &mut Vec<Slot>,
) {
    let held = map.prog_array().map(|array| array.entries()).unwrap_or_default();
    let held: BTreeMap<u32, Arc<Loaded>> =
        held.into_iter().filter_map(|(index, id)| Some((index, shared.registry.program(id)?))).collect();
    let mut wanted: BTreeMap<u32, Option<&Program>> = BTreeMap::new();
    for (&index, program) in &held {
        if let Some(program) = old.programs().find(|old| Arc::ptr_eq(old.loaded(), program)) {
            wanted.insert(index, new.program(program.name()));
        }
    }
    wanted.extend(initial.map(|(index, program)| (index, Some(program))));
    if wanted.is_empty() {
        return;
    }
    let array = MapHandle::new(map.clone(), shared.clone());
    slots.extend(wanted.into_iter().map(|(index, program)| {
        let (old, new) = (held.get(&index).cloned(), program.map(|program| program.loaded().clone()));
        Slot { array: array.clone(), index, old, new }
    }));
}

impl Upgrade {
    fn describe<'a>(&'a self, tx: &mut Transaction<'a>) {
        for slot in &self.slots {
            tx.exchange(&slot.array, slot.index, slot.old.as_ref().map(|program| program.id), slot.new.as_ref());
        }
        for (old, new) in &self.entries {
            tx.succeed(old, new);
        }
    }

    /// The new version.
    pub fn ebpf(&self) -> &Ebpf {
        &self.new
    }

    /// The maps that were carried over, by name.
    pub fn carried(&self) -> &[String] {
        &self.carried
    }

    /// Takes the upgrade back, in one transaction: slots that still hold what it put there hold what they did before, and old
    /// handles that still start what it put in their place start the old programs again. What programs of the new version wrote to maps stays.
    ///
    /// # Errors
    /// Those of [`Runtime::transaction`]; then nothing has changed.
    pub fn roll_back(&self) -> Result<(), Error> {
        self.runtime.transaction(|tx| {
            for slot in &self.slots {
                tx.exchange(&slot.array, slot.index, slot.new.as_ref().map(|program| program.id), slot.old.as_ref());
            }
            for (old, new) in &self.entries {
                tx.restore(old, new);
            }
        })
    }

    /// The new version, for good: the old programs go with their last handles.
    pub fn finish(self) -> Ebpf {
        self.new
    }
}

impl fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Upgrade { entries, slots, carried, .. } = self;
        write!(f, "Upgrade {{ {} programs, {} slots, carried {carried:?} }}", entries.len(), slots.len())
    }
}
