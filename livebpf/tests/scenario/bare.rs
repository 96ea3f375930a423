//! The rooms object, link and interp alone, without verifier and runtime: whoever breaks a scenario here has changed what an
//! instruction means.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use livebpf::context::Context;
use livebpf::helper::{Proto, Table};
use livebpf::interp::{self, Executable, FaultKind, Host};
use livebpf::link::MapId;
use livebpf::map::Map;
use livebpf::map::prog_array::missed::Counters;
use livebpf::object::{DataSymbol, MapInit, Object};
use livebpf::run::helpers::native;

use super::format::{CustomHelper, Scenario};
use super::play::Bench;
use super::refusal::helpers;

/// One object, its programs and slots by name.
pub struct Bare {
    programs: BTreeMap<String, Arc<Executable>>,
    maps: BTreeMap<String, Arc<Map>>,
    slots: BTreeMap<String, BTreeMap<u32, String>>,
    helpers: Table,
    custom: BTreeMap<u32, CustomHelper>,
}

impl Bare {
    /// Loads the object of a scenario.
    pub fn load(scenario: &Scenario, path: &Path) -> Result<Bare, String> {
        Bare::with_helpers(path, &scenario.helpers)
    }

    /// Loads an object.
    pub fn with_helpers(path: &Path, custom: &BTreeMap<u32, CustomHelper>) -> Result<Bare, String> {
        let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
        let object = Object::parse(&bytes).map_err(|error| error.to_string())?;
        let mut bare = Bare {
            programs: BTreeMap::new(),
            maps: BTreeMap::new(),
            slots: BTreeMap::new(),
            helpers: helpers(custom),
            custom: custom.clone(),
        };
        for (id, def) in object.maps().iter().enumerate() {
            let map = Map::create(def.clone(), id as u32 + 1, 2).map_err(|error| error.to_string())?;
            if let Some(array) = map.prog_array() {
                array.count_missed().map_err(|error| error.to_string())?;
            }
            if let MapInit::Programs(programs) = &def.init {
                bare.slots.insert(def.name.clone(), programs.iter().cloned().collect());
            }
            bare.maps.insert(def.name.clone(), map);
        }
        for (name, program) in object.link_all() {
            let program = program.map_err(|error| format!("{name}: {error}"))?;
            let maps: Vec<_> = program.maps.iter().filter_map(|def| bare.maps.get(&def.name).cloned()).collect();
            let counted = (0..maps.len() as u32).map(MapId).collect();
            let verified = interp::unproven(program).map_err(|error| format!("{name}: {error}"))?;
            bare.programs.insert(name, Executable::counting(Arc::new(verified), maps, counted));
        }
        Ok(bare)
    }

    fn program(&self, name: &str) -> Result<&Arc<Executable>, String> {
        self.programs.get(name).ok_or_else(|| format!("no program {name}"))
    }

    fn map(&self, name: &str) -> Result<&Arc<Map>, String> {
        self.maps.get(name).ok_or_else(|| format!("no map {name}"))
    }

    fn variable(&self, name: &str) -> Result<(&Arc<Map>, DataSymbol), String> {
        let found = self.maps.values().find_map(|map| Some((map, map.def().symbol(name)?.clone())));
        found.ok_or_else(|| format!("no variable {name}"))
    }

    fn counters(&self, array: &str) -> Result<&Counters, String> {
        self.map(array)?
            .prog_array()
            .and_then(|array| array.counters())
            .ok_or_else(|| format!("{array} has no counters"))
    }

    fn one_thread(&self, program: &Arc<Executable>, packet: &[u8], times: u32) -> Result<Vec<u32>, String> {
        let kind = program.verified.program().kind;
        let mut results = Vec::new();
        for _ in 0..times {
            let ctx = Context::for_type(kind.prog_type, packet).map_err(|error| error.to_string())?;
            let mut host = Programs { bare: self, ctx: &ctx };
            results.push(interp::run(program, &ctx, &mut host).map_err(|fault| fault.to_string())? as u32);
        }
        Ok(results)
    }
}

/// What the programs of one run call.
struct Programs<'a> {
    bare: &'a Bare,
    ctx: &'a Context,
}

impl Host for Programs<'_> {
    fn proto(&self, id: u32) -> Option<&Proto> {
        self.bare.helpers.get(id)
    }
    fn call(&mut self, id: u32, args: [u64; 5]) -> Result<u64, FaultKind> {
        if let Some(helper) = self.bare.custom.get(&id) {
            let program = self.bare.programs.get(&helper.runs).ok_or(FaultKind::NoHelper { id })?;
            let mut nested = Programs { bare: self.bare, ctx: self.ctx };
            return interp::run(program, self.ctx, &mut nested).map_err(|_| FaultKind::NoHelper { id });
        }
        let native = native(id).ok_or(FaultKind::NoHelper { id })?;
        // SAFETY: the interpreter has checked the arguments against the helper's contract (`Host::call`).
        Ok(unsafe { (native.inner)(args) })
    }
    fn tail_target(&mut self, map: &Map, index: u32) -> Option<Arc<Executable>> {
        let name = self.bare.slots.get(map.name())?.get(&index)?;
        self.bare.programs.get(name).cloned()
    }
}

impl Bench for Bare {
    fn programs(&self) -> Vec<String> {
        self.programs.keys().cloned().collect()
    }
    fn set(&mut self, array: &str, index: u32, program: &str) -> Result<(), String> {
        self.program(program)?;
        let map = self.maps.get(array).ok_or("no such array")?;
        if index >= map.max_entries() {
            return Err("E2BIG".to_owned());
        }
        self.slots.entry(array.to_owned()).or_default().insert(index, program.to_owned());
        Ok(())
    }
    fn clear(&mut self, array: &str, index: u32) -> Result<(), String> {
        let slots = self.slots.entry(array.to_owned()).or_default();
        slots.remove(&index).map(drop).ok_or_else(|| "ENOENT".to_owned())
    }
    fn run(&self, program: &str, packet: &[u8], times: u32, threads: u32) -> Result<Vec<u32>, String> {
        let program = self.program(program)?;
        std::thread::scope(|scope| {
            let started: Vec<_> =
                (0..threads).map(|_| scope.spawn(|| self.one_thread(program, packet, times))).collect();
            let mut results = Vec::new();
            for thread in started {
                results.extend(thread.join().map_err(|_| "a thread panicked")??);
            }
            Ok(results)
        })
    }
    fn lookup(&self, map: &str, key: &[u8]) -> Result<Vec<u8>, String> {
        self.map(map)?.read(key).map_err(|error| error.to_string())
    }
    fn update(&mut self, map: &str, key: &[u8], value: &[u8]) -> Result<(), String> {
        self.map(map)?.write(key, value, 0).map_err(|error| error.to_string())
    }
    fn keys(&self, map: &str) -> Result<Vec<Vec<u8>>, String> {
        let map = self.map(map)?;
        let mut keys: Vec<Vec<u8>> = Vec::new();
        while let Ok(key) = map.next_key(keys.last().map(Vec::as_slice)) {
            keys.push(key);
        }
        Ok(keys)
    }
    fn missed(&self, array: &str, index: u32) -> Result<(u64, u64), String> {
        self.counters(array).map(|counters| counters.slot(index)).map(|missed| (missed.empty, missed.limit))
    }
    fn missed_outside(&self, array: &str) -> Result<u64, String> {
        self.counters(array).map(Counters::outside)
    }
    fn read(&self, variable: &str) -> Result<Vec<u8>, String> {
        let (map, symbol) = self.variable(variable)?;
        let value = map.read(&[0; 4]).map_err(|error| error.to_string())?;
        let (start, end) = (symbol.offset as usize, (symbol.offset + symbol.size) as usize);
        value.get(start..end).map(<[u8]>::to_vec).ok_or_else(|| format!("{variable} lies outside its map"))
    }
    fn write(&mut self, variable: &str, bytes: &[u8]) -> Result<(), String> {
        let (map, symbol) = self.variable(variable)?;
        let mut value = map.read(&[0; 4]).map_err(|error| error.to_string())?;
        let start = symbol.offset as usize;
        value[start..start + bytes.len()].copy_from_slice(bytes);
        map.write(&[0; 4], &value, 0).map_err(|error| error.to_string())
    }
}
