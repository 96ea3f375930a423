//! The programs that are measured and were written in C: `bpf/*.bpf.c`, built by `xtask bpf`.

use livebpf::link::{self, Program};
use livebpf::object::Object;

/// Computations over a packet.
pub const COMPUTE: &[u8] = include_bytes!("../bpf/compute.o");
/// The same, of bytes that R1 points to.
pub const COMPUTE_PLAIN: &[u8] = include_bytes!("../bpf/compute_raw.v2.o");
/// Lookups and updates.
pub const MAPS: &[u8] = include_bytes!("../bpf/maps.o");
/// Records into a ring buffer.
pub const RINGS: &[u8] = include_bytes!("../bpf/rings.o");

/// The program `name` of an object of ours.
pub fn program(object: &[u8], name: &str) -> Program {
    let object = Object::parse(object).expect("the object is built here");
    link::link(&object, name).expect("the program is built here")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_of_the_objects_is_linked() {
        for object in [COMPUTE, COMPUTE_PLAIN, MAPS, RINGS] {
            let parsed = Object::parse(object).expect("an object");
            let names: Vec<String> = parsed.programs().map(|info| info.name.clone()).collect();
            assert!(names.iter().all(|name| program(object, name).name == *name), "{names:?}");
        }
    }
}
