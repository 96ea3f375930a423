//! Looking at what runs: machine code as it is at this moment, what its operands mean, and what profilers call it.
//!
//! Reads only. Nothing here is on the way of an update or of a run, and no update waits for it.

mod listing;
mod perf_map;

pub use listing::{Function, Lead, Listing, Site, listing};
pub use perf_map::PerfMap;

use crate::run::Program;

/// Numbers of the maps that a program uses, in the order in which it refers to them.
pub fn map_ids(program: &Program) -> Vec<u32> {
    program.loaded.maps().iter().map(|map| map.id()).collect()
}

/// Bytes of machine code; `None` for a program that is interpreted.
pub fn jited_bytes(program: &Program) -> Option<usize> {
    match program.loaded.body() {
        crate::run::Body::Interp => None,
        crate::run::Body::Native(native) => Some(native.image.len()),
    }
}
