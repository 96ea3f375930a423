//! Looking at what runs: machine code as it is at this moment, what its operands mean, and what profilers call it.
//!
//! Reads only. Nothing here is on the way of an update or of a run, and no update waits for it.

mod listing;
mod perf_map;

pub use listing::{Function, Lead, Listing, Site, listing};
pub use perf_map::PerfMap;

use crate::jit::TailCalls;
use crate::link::MapId;
use crate::run::{Engine, Program};

/// Numbers of the maps that a program uses, in the order in which it refers to them.
pub fn map_ids(program: &Program) -> Vec<u32> {
    program.loaded().maps().iter().map(|map| map.id()).collect()
}

/// Bytes of machine code; `None` for a program that is interpreted.
pub fn jited_bytes(program: &Program) -> Option<usize> {
    program.loaded().placement().map(|placement| placement.image.len())
}

/// How a program's tail calls are executed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TailCallMode {
    /// What executes the program.
    pub engine: Engine,
    /// Numbers of the program arrays whose slots are read at every call although the engine patches jumps, by the load's
    /// choice.
    pub slots: Vec<u32>,
    /// Numbers of the program arrays whose missed calls the program counts.
    pub counted: Vec<u32>,
}

/// How a program's tail calls are executed: by engine, and by what its load chose for each array.
pub fn tail_call_mode(program: &Program) -> TailCallMode {
    let loaded = program.loaded();
    let numbers =
        |maps: &[MapId]| maps.iter().filter_map(|id| loaded.maps().get(id.0 as usize)).map(|m| m.id()).collect();
    let slots = match loaded.placement() {
        Some(native) if native.options.tail_calls == TailCalls::Patched => numbers(&native.options.slot_maps),
        Some(_) | None => Vec::new(),
    };
    TailCallMode { engine: loaded.shared.engine, slots, counted: numbers(&loaded.executable().counted) }
}
