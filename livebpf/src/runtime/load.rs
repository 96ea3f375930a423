//! Loading: link, verify, compile, place and publish the programs of an object, all or none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::builder::Runtime;
use super::ebpf::{Ebpf, ObjectMap, list};
use super::error::Error;
use super::install::Prepared;
use super::map_kinds::MapOfMaps;
use super::maps::MapHandle;
use crate::link::{self, Program as Linked};
use crate::map::prog_array::Retired;
use crate::map::{Map, MapError};
use crate::object::{MapDef, MapInit, MapType, Object, ProgType, ProgramKind};
use crate::run::{Program, Shared};
use crate::text::UpdateError;
use crate::verify::{self, Rejection, Trust, Verified};

/// What to load of an object, and how.
#[derive(Clone, Default, Debug)]
pub struct LoadOptions {
    programs: Option<Vec<String>>,
    prog_type: Option<ProgType>,
    maps: BTreeMap<String, MapHandle>,
    globals: BTreeMap<String, Vec<u8>>,
    pub(super) slots: BTreeSet<String>,
    pub(super) count_missed: BTreeMap<String, bool>,
    /// Reused program arrays keep what is in their slots: a transaction will change them.
    pub(super) keep_slots: bool,
    trust: Trust,
    pub(super) blind_constants: bool,
}

impl LoadOptions {
    /// Only these programs, by the names of their entry functions. Default: all but those whose section name begins with `?`.
    pub fn programs<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.programs = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// The programs are of this type, whatever their section name says.
    pub fn prog_type(mut self, prog_type: ProgType) -> Self {
        self.prog_type = Some(prog_type);
        self
    }

    /// Use an existing map instead of making the object's map `name`. Type and sizes have to agree.
    pub fn reuse_map(mut self, name: &str, map: &MapHandle) -> Self {
        self.maps.insert(name.to_owned(), map.clone());
        self
    }

    /// What the global variable `name` holds when the programs are loaded; the way to set those in `.rodata`.
    pub fn global(mut self, name: &str, value: &[u8]) -> Self {
        self.globals.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Tail calls through the program array `array` read its slots instead of being jumps that are patched: an update of
    /// the array then costs the same however many calls there are, and each call about a nanosecond more. For arrays that
    /// change all the time.
    pub fn slots(mut self, array: &str) -> Self {
        self.slots.insert(array.to_owned());
        self
    }

    /// Whether the programs count the tail calls that they miss through the program array `array`, whatever the runtime's
    /// default is: see [`RuntimeBuilder::count_missed`](super::RuntimeBuilder::count_missed).
    pub fn count_missed(mut self, array: &str, count: bool) -> Self {
        self.count_missed.insert(array.to_owned(), count);
        self
    }

    /// How far the author of the programs is trusted. Default: as far as an author with CAP_BPF.
    pub fn trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// Compiled code does not contain the programs' constants as they are: each is put together from two numbers of which
    /// one is random (the kernel's `net.core.bpf_jit_harden`). Makes code longer and slower.
    pub fn blind_constants(mut self) -> Self {
        self.blind_constants = true;
        self
    }

    /// Whether an existing map is used for the object's map `name`.
    pub(super) fn reuses(&self, name: &str) -> bool {
        self.maps.contains_key(name)
    }

    /// Refuses choices about arrays that are not there.
    fn check_arrays(&self, defs: &[Arc<MapDef>]) -> Result<(), Error> {
        for name in self.slots.iter().chain(self.count_missed.keys()) {
            match defs.iter().find(|def| def.name == *name).map(|def| def.map_type) {
                Some(MapType::PROG_ARRAY) => {}
                Some(other) => {
                    return Err(Error::Options(format!("map {name} is of type {other}, wanted prog_array")));
                }
                None => {
                    let known = list(defs.iter().map(|def| def.name.as_str()));
                    return Err(Error::Unknown { kind: "map", name: name.clone(), known });
                }
            }
        }
        Ok(())
    }
}

/// How a linked program becomes one that may run.
pub(super) type Prove<'a> = &'a dyn Fn(&Shared, Linked, Trust) -> Result<Verified, Box<Rejection>>;

/// The proof that everything but the unsafe door asks for.
pub(super) fn verified(shared: &Shared, program: Linked, trust: Trust) -> Result<Verified, Box<Rejection>> {
    verify::verify(program, &verify::Options { trust, cpus: shared.cpus, ..verify::Options::new(&shared.helpers) })
}

impl Runtime {
    /// Loads an object: makes its maps, and links, verifies, compiles and publishes its programs.
    ///
    /// # Errors
    /// [`Error`]; then nothing of the object is loaded.
    pub fn load(&self, object: &Object) -> Result<Ebpf, Error> {
        self.load_with(object, &LoadOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(&self, object: &Object, options: &LoadOptions) -> Result<Ebpf, Error> {
        self.load_object(object, options, &verified)
    }

    /// Loads programs that are linked already, from a generator or an assembler. Maps are shared by name.
    ///
    /// # Errors
    /// As [`load`](Self::load); [`Error::Options`] for maps of one name and different definitions.
    pub fn load_linked(&self, programs: Vec<Linked>) -> Result<Ebpf, Error> {
        self.load_linked_with(programs, &LoadOptions::default())
    }

    /// The same with options: of them, [`LoadOptions::reuse_map`], [`LoadOptions::slots`], [`LoadOptions::count_missed`],
    /// [`LoadOptions::trust`] and [`LoadOptions::blind_constants`] are heeded.
    ///
    /// # Errors
    /// As [`load_linked`](Self::load_linked).
    pub fn load_linked_with(&self, programs: Vec<Linked>, options: &LoadOptions) -> Result<Ebpf, Error> {
        self.load_programs(programs, options, &verified)
    }

    pub(super) fn load_object(&self, object: &Object, options: &LoadOptions, prove: Prove<'_>) -> Result<Ebpf, Error> {
        self.check_process()?;
        let mut defs = with_globals(object, &options.globals)?;
        defs.iter_mut().for_each(|def| fit_length(def, self.shared.cpus));
        let programs = link_programs(object, options, &defs)?;
        options.check_arrays(&defs)?;
        let maps = self.make_maps(&defs, &options.maps, &programs)?;
        self.load_parts(programs, maps, options, prove)
    }

    pub(super) fn load_programs(
        &self,
        programs: Vec<Linked>,
        options: &LoadOptions,
        prove: Prove<'_>,
    ) -> Result<Ebpf, Error> {
        self.check_process()?;
        let mut defs: Vec<Arc<MapDef>> = Vec::new();
        for def in programs.iter().flat_map(|p| &p.maps) {
            match defs.iter().find(|d| d.name == def.name) {
                // A program is verified against its own definition, and must get a map that is like it.
                Some(known) if known != def => {
                    return Err(Error::Options(format!("map {} is defined twice, differently", def.name)));
                }
                Some(_) => {}
                None => defs.push(def.clone()),
            }
        }
        options.check_arrays(&defs)?;
        let maps = self.make_maps(&defs, &options.maps, &programs)?;
        self.load_parts(programs, maps, options, prove)
    }

    /// Code memory is not inherited by a fork's child.
    fn check_process(&self) -> Result<(), Error> {
        if self.shared.domain.forked() { Err(UpdateError::Forked.into()) } else { Ok(()) }
    }

    fn load_parts(
        &self,
        linked: Vec<Linked>,
        maps: Vec<ObjectMap>,
        options: &LoadOptions,
        prove: Prove<'_>,
    ) -> Result<Ebpf, Error> {
        let mut prepared = Vec::with_capacity(linked.len());
        for mut program in linked {
            let (name, bound) = (program.name.clone(), bind(&mut program, &maps)?);
            let verified = prove(&self.shared, program, options.trust)
                .map_err(|rejection| Error::Rejected { program: name, rejection })?;
            prepared.push(Prepared::new(&self.shared, verified, bound, options)?);
        }
        // From the first look at a slot to the last publication the generation stays the same.
        let _turn = self.shared.relink.turn()?;
        let install = |prepared: Prepared| prepared.install(&self.shared, self.ids.next_program());
        let programs = prepared.into_iter().map(install).collect::<Result<_, _>>()?;
        let ebpf = Ebpf { programs, maps };
        let kept = |name: &str| options.keep_slots && options.maps.contains_key(name);
        self.join_arrays(&ebpf, &kept)?;
        Ok(ebpf)
    }

    /// The last step of a load: the program arrays it uses take on the programs' contract, and those with static
    /// initialisers are filled. Everything that can be refused is refused before the first of them changes.
    fn join_arrays(&self, ebpf: &Ebpf, kept: &dyn Fn(&str) -> bool) -> Result<(), Error> {
        let arrays = || ebpf.maps.iter().filter_map(|m| m.handle.map().prog_array().map(|a| (m, a)));
        let mut guard = self.shared.patcher.update()?;
        for (map, array) in arrays() {
            let uses = |p: &&Program| p.loaded().maps().iter().any(|m| Arc::ptr_eq(m, map.handle.map()));
            let slots = || initial_slots(ebpf, &map.def).filter(|_| !kept(&map.def.name));
            let members = ebpf.programs().filter(uses).chain(slots().map(|(_, program)| program));
            let fits = array.check_owners(members.map(|p| &p.loaded().contract));
            let inside = slots().try_for_each(|(index, _)| array.check_set(index, 0));
            fits.and(inside).map_err(|source| map_error(&map.def, source))?;
        }
        let mut retired = Retired::default();
        let result = arrays().try_for_each(|(map, array)| {
            let users = ebpf.programs().filter(|p| p.loaded().maps().iter().any(|m| Arc::ptr_eq(m, map.handle.map())));
            let join = || {
                for program in users {
                    array.adopt_owner(&program.loaded().contract)?;
                }
                for (index, program) in initial_slots(ebpf, &map.def).filter(|_| !kept(&map.def.name)) {
                    retired.merge(array.set(index, program.loaded().clone(), 0, &mut guard)?);
                }
                Ok(())
            };
            join().map_err(|source| map_error(&map.def, source))
        });
        drop(guard);
        self.shared.domain.retire(retired);
        result
    }

    fn make_maps(
        &self,
        defs: &[Arc<MapDef>],
        reuse: &BTreeMap<String, MapHandle>,
        programs: &[Linked],
    ) -> Result<Vec<ObjectMap>, Error> {
        for name in reuse.keys() {
            if !defs.iter().any(|m| m.name == *name) {
                let known = list(defs.iter().map(|m| m.name.as_str()));
                return Err(Error::Unknown { kind: "map", name: name.clone(), known });
            }
        }
        let mut maps = Vec::with_capacity(defs.len());
        let object_map = |def: &Arc<MapDef>, handle| ObjectMap { def: def.clone(), handle };
        for def in defs {
            if let Some(existing) = reuse.get(&def.name) {
                if !Arc::ptr_eq(existing.shared(), &self.shared) {
                    return Err(Error::Options(format!("{existing:?} belongs to another runtime")));
                }
                same_shape(def, existing)?;
                maps.push(object_map(def, existing.clone()));
                continue;
            }
            let used = programs.iter().any(|p| p.maps.iter().any(|m| m.name == def.name));
            match Map::create(def.clone(), self.ids.next_map(), self.shared.cpus) {
                Ok(map) => {
                    if map.prog_array().is_some() {
                        self.shared.registry.add_array(&map);
                    }
                    maps.push(object_map(def, MapHandle::new(map, self.shared.clone())));
                }
                // A map of a type that we lack stands in nobody's way as long as no program refers to it.
                Err(MapError::Unsupported { .. }) if !used => {}
                Err(source) => return Err(map_error(def, source)),
            }
        }
        fill_maps_of_maps(&maps, reuse)?;
        Ok(maps)
    }
}

/// Puts the object's maps where the static initialisers of its maps of maps say.
fn fill_maps_of_maps(maps: &[ObjectMap], reuse: &BTreeMap<String, MapHandle>) -> Result<(), Error> {
    for outer in maps.iter().filter(|map| !reuse.contains_key(&map.def.name)) {
        let MapInit::Maps(slots) = &outer.def.init else { continue };
        for (index, name) in slots {
            let inner = maps.iter().find(|map| map.def.name == *name).ok_or_else(|| Error::Unknown {
                kind: "map",
                name: name.clone(),
                known: list(maps.iter().map(|m| m.def.name.as_str())),
            })?;
            MapOfMaps::try_from(&outer.handle)?.set(&index.to_ne_bytes(), &inner.handle, 0)?;
        }
    }
    Ok(())
}

pub(super) fn map_error(def: &MapDef, source: MapError) -> Error {
    Error::Map { map: def.name.clone(), source }
}

/// Links the programs that `options` selects, and binds them to `defs`, the object's maps as they will be made.
fn link_programs(object: &Object, options: &LoadOptions, defs: &[Arc<MapDef>]) -> Result<Vec<Linked>, Error> {
    let all: Vec<_> = object.programs().collect();
    let names: Vec<String> = match &options.programs {
        Some(names) => names.clone(),
        None => all.iter().filter(|p| p.autoload).map(|p| p.name.to_string()).collect(),
    };
    let mut linked = Vec::with_capacity(names.len());
    for name in names {
        if !all.iter().any(|p| *p.name == name) {
            let known = list(all.iter().map(|p| &*p.name));
            return Err(Error::Unknown { kind: "program", name, known });
        }
        let mut program = link::link(object, &name).map_err(|e| Error::Link { program: name, source: Box::new(e) })?;
        if let Some(prog_type) = options.prog_type {
            program.kind = ProgramKind::new(prog_type);
        }
        for map in &mut program.maps {
            // The verifier reads constants in frozen data: it has to see what the map will hold.
            if let Some(def) = defs.iter().find(|d| d.name == map.name) {
                *map = def.clone();
            }
        }
        linked.push(program);
    }
    Ok(linked)
}

/// The object's map definitions with the user's values for global variables in them.
fn with_globals(object: &Object, globals: &BTreeMap<String, Vec<u8>>) -> Result<Vec<Arc<MapDef>>, Error> {
    let mut defs: Vec<Arc<MapDef>> = object.maps().to_vec();
    for (name, value) in globals {
        let found = defs.iter_mut().find_map(|d| d.symbol(name).cloned().map(|s| (d, s)));
        let Some((def, symbol)) = found else {
            let known = list(object.maps().iter().flat_map(|m| m.symbols.iter().map(|s| s.name.as_str())));
            return Err(Error::Unknown { kind: "variable", name: name.clone(), known });
        };
        if value.len() != symbol.size as usize {
            return Err(Error::Options(format!("variable {name} has {} bytes, found {}", symbol.size, value.len())));
        }
        let def = Arc::make_mut(def);
        let size = def.value_size as usize;
        let mut data = match std::mem::take(&mut def.init) {
            MapInit::Data(data) => data,
            MapInit::Empty | MapInit::Programs(_) | MapInit::Maps(_) => vec![0; size],
        };
        data.resize(size, 0);
        let start = symbol.offset as usize;
        let place = data.get_mut(start..start + value.len());
        place
            .ok_or_else(|| Error::Options(format!("variable {name} lies outside its section")))?
            .copy_from_slice(value);
        def.init = MapInit::Data(data);
    }
    Ok(defs)
}

/// Gives a map the length that libbpf gives it where the object leaves that open: a perf event array without one has an entry for
/// each CPU, and a ring buffer whole pages, a power of two of them.
fn fit_length(def: &mut Arc<MapDef>, cpus: u32) {
    const PAGE: u32 = 4096;
    let wanted = match (def.map_type, def.max_entries) {
        (MapType::PERF_EVENT_ARRAY, 0) => cpus,
        (MapType::RINGBUF, n @ 1..=0x8000_0000) => n.next_power_of_two().max(PAGE),
        (_, n) => n,
    };
    if wanted != def.max_entries {
        Arc::make_mut(def).max_entries = wanted;
    }
}

/// Refuses to use `existing` for `def` unless type, sizes and flags agree.
pub(super) fn same_shape(def: &MapDef, existing: &MapHandle) -> Result<(), Error> {
    let shape = |d: &MapDef| (d.map_type, d.key_size, d.value_size, d.max_entries, d.map_flags, d.frozen);
    let (wanted, found) = (shape(def), shape(existing.def()));
    if def.special != existing.def().special {
        let text = "its values have locks, timers or the like in other places";
        return Err(Error::Options(format!("map {} cannot be reused: {text}", def.name)));
    }
    if wanted == found {
        // Programs are verified against the template of their own object.
        let template = |d: &MapDef| d.inner.as_deref().map(shape);
        let (wanted, found) = (template(def), template(existing.def()));
        if wanted == found {
            return Ok(());
        }
        return Err(Error::Options(format!(
            "map {} cannot be reused: the object wants inner maps of (type, key, value, entries, flags, frozen) = {wanted:?}, found {found:?}",
            def.name
        )));
    }
    Err(Error::Options(format!(
        "map {} cannot be reused: the object wants (type, key, value, entries, flags, frozen) = {wanted:?}, found {found:?}",
        def.name
    )))
}

/// The map objects that a program refers to, in the order of its `maps`. Where a map is reused, the program is given its
/// contents to be verified against: the verifier reads constants in frozen data.
fn bind(program: &mut Linked, maps: &[ObjectMap]) -> Result<Vec<Arc<Map>>, Error> {
    let mut bound = Vec::with_capacity(program.maps.len());
    for def in &mut program.maps {
        let found = maps.iter().find(|m| m.def.name == def.name).ok_or_else(|| Error::Unknown {
            kind: "map",
            name: def.name.clone(),
            known: list(maps.iter().map(|m| m.def.name.as_str())),
        })?;
        let map = found.handle.map();
        if def.frozen && def.init != map.def().init {
            Arc::make_mut(def).init = map.def().init.clone();
        }
        bound.push(map.clone());
    }
    Ok(bound)
}

/// The slots that `map`'s static initialiser fills. A program that was not selected leaves its slot empty, as in libbpf.
pub(super) fn initial_slots<'a>(ebpf: &'a Ebpf, def: &'a MapDef) -> impl Iterator<Item = (u32, &'a Program)> {
    let slots = match &def.init {
        MapInit::Programs(slots) => slots.as_slice(),
        MapInit::Empty | MapInit::Data(_) | MapInit::Maps(_) => &[],
    };
    slots.iter().filter_map(|(index, name)| Some((*index, ebpf.program(name)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_get_the_lengths_that_libbpf_gives_them() {
        let events = |n| (MapType::PERF_EVENT_ARRAY, n);
        let ring = |n| (MapType::RINGBUF, n);
        let rings =
            [(ring(1000), 4096), (ring(4096), 4096), (ring(5000), 8192), (ring(0), 0), (ring(u32::MAX), u32::MAX)];
        let others = [(events(0), 3), (events(2), 2), ((MapType::ARRAY, 0), 0)];
        for ((map_type, found), wanted) in rings.into_iter().chain(others) {
            let mut def = Arc::new(MapDef::new("m", map_type, 0, 0, found));
            fit_length(&mut def, 3);
            assert_eq!(def.max_entries, wanted, "{map_type} of {found}");
        }
    }
}
