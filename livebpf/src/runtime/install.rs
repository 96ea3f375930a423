//! From a verified program to one that can be run: compiled, placed, published.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use super::error::Error;
use super::load::{LoadOptions, map_error};
use crate::interp::Executable;
use crate::jit::{self, Code, Symbol};
use crate::link::{MapId, Program as Linked};
use crate::map::prog_array::{Contract, ProgArray, Table};
use crate::map::{Map, MapError};
use crate::object::MapType;
use crate::run::{self, Engine, Entry, Loaded, Placement, Program, Shared};
use crate::text::Image;
use crate::verify::Verified;

/// A program that waits to be placed.
pub(super) struct Prepared {
    verified: Verified,
    maps: Vec<Arc<Map>>,
    options: jit::Options,
    /// `None` for the interpreter.
    code: Option<Arc<Code>>,
    contract: Contract,
}

/// Where an image finds the slots of a program array: its generation's table.
pub(super) type Tables<'a> = &'a dyn Fn(&ProgArray) -> Arc<Table>;

impl Prepared {
    /// Compiles. The program arrays that it uses must take programs of its kind.
    pub(super) fn new(
        shared: &Shared,
        verified: Verified,
        maps: Vec<Arc<Map>>,
        load: &LoadOptions,
    ) -> Result<Prepared, Error> {
        let contract = Contract { kind: verified.program().kind, execution: shared.engine.execution() };
        for map in &maps {
            let fits = map.prog_array().map_or(Ok(()), |array| array.check_owner(&contract));
            fits.map_err(|source| map_error(map.def(), source))?;
        }
        let options = jit_options(shared, verified.program(), load);
        for map in options.count_missed.iter().filter_map(|id| maps.get(id.0 as usize)) {
            if let Some(Err(e)) = map.prog_array().map(|array| array.count_missed()) {
                return Err(map_error(map.def(), MapError::NoMemory(e.to_string().into())));
            }
        }
        let code = match shared.engine {
            Engine::Interp => None,
            Engine::Slot | Engine::Jit => Some(Arc::new(compile(&verified, &options)?)),
        };
        Ok(Prepared { verified, maps, options, code, contract })
    }

    /// Places and publishes, as program number `id`. The caller has the turn of [`Relink`](run::Relink).
    pub(super) fn install(self, shared: &Arc<Shared>, id: u32) -> Result<Program, Error> {
        let Prepared { verified, maps, options, code, contract } = self;
        let counted = options.count_missed.clone();
        let entry = shared.generations.reserve().ok_or(Error::Full(run::MAX_PROGRAMS))?;
        let placed = code.map(|code| load(shared, code, options, &maps).map(Arc::new)).transpose();
        let published = placed.and_then(|placement| {
            let (address, stack) = match &placement {
                Some(placement) => (placement.image.entry(), run::stack_need(&placement.code)),
                // The address of an interpreted program only says that there is one.
                None => (1, 0),
            };
            shared.generations.publish(&shared.patcher.update()?, entry, address, stack);
            Ok(placement)
        });
        let placement = published.inspect_err(|_| shared.generations.release(entry))?;
        let executable = Executable::counting(Arc::new(verified), maps, counted);
        let loaded = Arc::new(Loaded::new(id, contract, shared.clone(), placement, executable));
        let entry = Arc::new(Entry::new(entry, loaded));
        shared.registry.add_program(&entry);
        if let Some(placement) = entry.loaded.placement() {
            placement.announce(id, entry.loaded.linked());
        }
        Ok(Program { entry })
    }
}

/// How `program` is compiled, by the runtime's choices and those of the load; the interpreter heeds `count_missed`.
fn jit_options(shared: &Shared, program: &Linked, load: &LoadOptions) -> jit::Options {
    let arrays = |chosen: &dyn Fn(&str) -> bool| {
        let maps = (0..).map(MapId).zip(&program.maps);
        let arrays = maps.filter(|(_, def)| def.map_type == MapType::PROG_ARRAY && chosen(&def.name));
        arrays.map(|(id, _)| id).collect()
    };
    jit::Options {
        tail_calls: match shared.engine {
            Engine::Interp | Engine::Slot => jit::TailCalls::Slots,
            Engine::Jit => jit::TailCalls::Patched,
        },
        slot_maps: arrays(&|name| load.slots.contains(name)),
        count_missed: arrays(&|name| load.count_missed.get(name).copied().unwrap_or(shared.count_missed)),
        helpers_near: run::helpers::all_near(&shared.region, shared.custom.values().map(|c| c.address())),
        cpu: cpu_features(),
        blind: load.blind_constants.then(random),
    }
}

fn compile(verified: &Verified, options: &jit::Options) -> Result<Code, Error> {
    let name = || verified.program().name.clone();
    jit::compile(verified, options).map_err(|source| Error::Jit { program: name(), source })
}

/// A number that nobody can tell beforehand: the hash of nothing, under the random keys of the standard library.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// What this CPU offers the code generator.
fn cpu_features() -> jit::CpuFeatures {
    jit::CpuFeatures {
        bmi2: std::arch::is_x86_feature_detected!("bmi2"),
        movbe: std::arch::is_x86_feature_detected!("movbe"),
    }
}

/// Places code in the current generation; after this it may run.
fn load(shared: &Shared, code: Arc<Code>, options: jit::Options, maps: &[Arc<Map>]) -> Result<Placement, Error> {
    let image = place(shared, &code, maps, &|array| array.current())?;
    let tracking = shared.patcher.load(&image, &|id| array(maps, id))?;
    Ok(Placement { tracking, image, code, options })
}

/// Puts code into memory. It is not to be run before its sites are tracked and fixed up, and a core sync.
pub(super) fn place(shared: &Shared, code: &Code, maps: &[Arc<Map>], tables: Tables<'_>) -> Result<Image, Error> {
    Ok(Image::place(&shared.region, code, &|symbol| resolve(shared, maps, tables, symbol))?)
}

/// The program array that a program calls `id`.
pub(super) fn array(maps: &[Arc<Map>], id: MapId) -> Option<&ProgArray> {
    maps.get(id.0 as usize).and_then(|map| map.prog_array())
}

/// Addresses for the code's relocations.
fn resolve(shared: &Shared, maps: &[Arc<Map>], tables: Tables<'_>, symbol: Symbol) -> Option<u64> {
    let map = |id: MapId| maps.get(id.0 as usize);
    match symbol {
        Symbol::Helper(id) => match shared.custom.get(&id) {
            Some(custom) => Some(custom.address()),
            None => run::helpers::native(id).map(|h| h.shim as *const () as u64),
        },
        Symbol::HelperData(id) => shared.custom.get(&id).map(|c| std::ptr::from_ref(&**c) as u64),
        Symbol::Map(id) => map(id).map(|map| match map.prog_array() {
            Some(array) => tables(array).header_addr(),
            None => Arc::as_ptr(map) as u64,
        }),
        Symbol::MapData(id, off) => map(id)?.first_value()?.checked_add(off.into()),
        Symbol::SlotTable(id) => array(maps, id).map(|array| tables(array).words_addr()),
        Symbol::Missed(id) => array(maps, id)?.counters().map(|counters| counters.addr()),
        Symbol::Noted => Some(shared.noted.as_ptr().expose_provenance() as u64),
        Symbol::Poison | Symbol::Here(_) => None,
    }
}

/// Whether an image of this code belongs to one generation: it has tail calls, or refers to a program array's slots.
pub(super) fn is_generations_own(code: &Code, maps: &[Arc<Map>]) -> bool {
    let refers = |symbol| match symbol {
        Symbol::Map(id) | Symbol::SlotTable(id) => array(maps, id).is_some(),
        Symbol::Helper(_)
        | Symbol::HelperData(_)
        | Symbol::MapData(..)
        | Symbol::Missed(_)
        | Symbol::Noted
        | Symbol::Poison
        | Symbol::Here(_) => false,
    };
    !code.sites.is_empty() || code.relocs.iter().any(|reloc| refers(reloc.symbol))
}
