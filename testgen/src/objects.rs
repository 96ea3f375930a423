//! Real objects, which clang made of our own C, damaged: in the bytes of the file, or in the instructions of its programs.
//!
//! What they contain (BTF, relocations, maps of all kinds, global data) no generator here makes.

use std::path::Path;

use livebpf::insn::Insn;
use livebpf::link::Program;
use livebpf::object::{MapInit, MapType, Object, ProgType};

use crate::loops::may_be_long;
use crate::{Source, Suite, mutate};

/// Types whose programs are taken: those that run on packets.
const TYPES: [ProgType; 4] = [ProgType::XDP, ProgType::SCHED_CLS, ProgType::SOCKET_FILTER, ProgType::CGROUP_SKB];
/// Programs of a suite, at most.
const MOST: usize = 5;
/// Programs with more instructions are left out: they take as long as a hundred others.
const LONGEST: u32 = 2_000;

/// The objects and their programs.
#[derive(Debug)]
pub struct Objects {
    files: Vec<Vec<u8>>,
    suites: Vec<Suite>,
}

impl Objects {
    /// The objects of livebpf's own tests.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn of_the_tests() -> std::io::Result<Objects> {
        let data = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../livebpf/tests/data"));
        let mut paths = Vec::new();
        for folder in ["objects", "scenarios"] {
            for entry in std::fs::read_dir(data.join(folder))? {
                paths.push(entry?.path());
            }
        }
        // The order of a directory is the machine's.
        paths.sort();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "o"));
        let files = paths.into_iter().map(std::fs::read).collect::<Result<Vec<_>, _>>()?;
        let suites = files.iter().flat_map(|file| suites(file)).collect();
        Ok(Objects { files, suites })
    }

    /// Whether there are programs at all.
    pub fn is_empty(&self) -> bool {
        self.suites.is_empty()
    }

    /// Programs of one object, about every second with damaged instructions.
    pub fn suite(&self, source: &mut Source<'_>) -> Suite {
        let mut suite = self.suites[source.below(self.suites.len() as u32) as usize].clone();
        mutate::suite(source, &mut suite);
        suite
    }

    /// Programs of one object whose file was damaged; `None` where that is none any more.
    pub fn damaged(&self, source: &mut Source<'_>) -> Option<Suite> {
        let mut file = self.files[source.below(self.files.len() as u32) as usize].clone();
        mutate::bytes(source, &mut file);
        let mut suites = suites(&file);
        let index = source.below(suites.len() as u32) as usize;
        (!suites.is_empty()).then(|| suites.swap_remove(index))
    }
}

/// The programs of an object, by type, a few together.
fn suites(file: &[u8]) -> Vec<Suite> {
    let Ok(object) = Object::parse(file) else { return Vec::new() };
    let linked = object.link_all().into_iter().filter_map(|(_, linked)| linked.ok());
    let linked: Vec<Program> = linked.filter(is_for_us).map(without_lines).collect();
    let mut suites = Vec::new();
    for prog_type in TYPES {
        let of_type: Vec<Program> = linked.iter().filter(|p| p.kind.prog_type == prog_type).cloned().collect();
        for programs in of_type.chunks(MOST) {
            let mut maps: Vec<_> = programs.iter().flat_map(|program| program.maps.clone()).collect();
            maps.dedup_by(|a, b| a.name == b.name);
            suites.push(Suite { mistakes: vec![0; programs.len()], programs: programs.to_vec(), maps });
        }
    }
    suites
}

/// Not too long, and with maps that every runtime can make.
fn is_for_us(program: &Program) -> bool {
    let calls_out = |insn| matches!(insn, Insn::CallKfunc { .. });
    let plain = |map_type| map_type != MapType::ARRAY_OF_MAPS && map_type != MapType::HASH_OF_MAPS;
    let maps = program.maps.iter().all(|map| plain(map.map_type) && !matches!(map.init, MapInit::Maps(_)));
    let small = program.maps.iter().all(|map| u64::from(map.max_entries) * u64::from(map.value_size) <= 1 << 20);
    let size = program.insns.len() <= LONGEST;
    maps && small && size && !may_be_long(program) && !program.insns.iter().any(|(_, insn)| calls_out(insn))
}

/// Places in the source say nothing any more.
fn without_lines(program: Program) -> Program {
    Program { lines: Vec::new(), ..program }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_programs_and_damage_to_them() {
        let objects = Objects::of_the_tests().expect("the objects are there");
        assert!(objects.suites.len() > 40 && !objects.is_empty(), "{}", objects.suites.len());
        let (mut changed, mut whole) = (0, 0);
        for seed in 0..300 {
            let suite = objects.suite(&mut Source::seeded(seed));
            assert!((1..=MOST).contains(&suite.programs.len()));
            changed += u32::from(!objects.suites.iter().any(|known| known.programs == suite.programs));
            whole += u32::from(objects.damaged(&mut Source::seeded(seed)).is_some());
        }
        assert!(changed > 60 && whole > 100, "{changed} {whole}");
    }
}
