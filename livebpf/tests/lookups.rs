//! Lookups that generated code makes without a call, or by a function for the kind of map: the same values in every engine.

use std::sync::Arc;

use livebpf::context::Context;
use livebpf::insn::text;
use livebpf::link::Program;
use livebpf::object::{MapDef, MapType, ProgType, ProgramKind};
use livebpf::runtime::{Ebpf, Engine, MapHandle, MapOfMaps, Runtime, Worker};

const ENGINES: [Engine; 3] = [Engine::Interp, Engine::Jit, Engine::Slot];

/// A program of two CPUs, and its maps.
struct Loaded {
    loaded: Ebpf,
    workers: [Worker; 2],
    runtime: Runtime,
}

impl Loaded {
    fn new(engine: Engine, maps: Vec<MapDef>, listing: &str) -> Loaded {
        let runtime = Runtime::builder().engine(engine).cpus(2).build().expect("a runtime");
        let loaded = load(&runtime, maps, listing);
        let workers = [runtime.worker().expect("a worker"), runtime.worker().expect("a worker")];
        Loaded { loaded, workers, runtime }
    }
    /// What the program answers on that CPU for a packet that begins with `word`.
    fn run(&mut self, cpu: usize, word: u32) -> u32 {
        let mut packet = [0; 64];
        packet[..4].copy_from_slice(&word.to_le_bytes());
        let mut context = Context::for_type(ProgType::SCHED_CLS, &packet).expect("a context");
        self.workers[cpu].run(self.loaded.program("main").expect("the program"), &mut context).expect("a run")
    }
    fn map(&self, name: &str) -> &MapHandle {
        self.loaded.map(name).expect("the map")
    }
    /// A map of its own, as `def` says.
    fn other(&self, def: MapDef) -> MapHandle {
        let name = def.name.clone();
        let loaded = load(&self.runtime, vec![def], "r0 = map[idx:0]\nr0 = 0\nexit");
        loaded.map(&name).expect("the map").clone()
    }
}

fn load(runtime: &Runtime, maps: Vec<MapDef>, listing: &str) -> Ebpf {
    let insns = text::assemble(listing).unwrap_or_else(|e| panic!("{e} in {listing}"));
    let mut program = Program::bare("main", ProgramKind::new(ProgType::SCHED_CLS), insns);
    program.maps = maps.into_iter().map(Arc::new).collect();
    runtime.load_linked(vec![program]).unwrap_or_else(|e| panic!("{e}"))
}

/// Loads the packet's first word to r7, and what is known of it.
const WORD: &str = "r0 = 0
    r2 = *(u32 *)(r1 + 76)
    r3 = *(u32 *)(r1 + 80)
    r4 = r2
    r4 += 8
    if r4 > r3 goto out
    r7 = *(u32 *)(r2 + 0)
";

#[test]
fn elements_of_arrays_at_constant_keys() {
    let lookup = "r2 = r10
    r2 += -8
    r1 = map[idx:0]
    call 1
    r1 = *(u32 *)(r0 + 8)
    r1 += 1
    *(u32 *)(r0 + 8) = r1
    r0 = r1
    exit";
    for (map_type, value_size) in [(MapType::ARRAY, 12), (MapType::ARRAY, 64), (MapType::PERCPU_ARRAY, 12)] {
        for (engine, key) in ENGINES.into_iter().flat_map(|engine| [0u32, 1, 6].map(|key| (engine, key))) {
            let map = MapDef::new("m", map_type, 4, value_size, 7);
            let mut program = Loaded::new(engine, vec![map], &format!("*(u32 *)(r10 - 8) = {key}\n{lookup}"));
            let per_cpu = map_type == MapType::PERCPU_ARRAY;
            let counts = [program.run(0, 0), program.run(1, 0), program.run(1, 0)];
            assert_eq!(counts, if per_cpu { [1, 1, 2] } else { [1, 2, 3] }, "{engine}");
            for other in 0..7u32 {
                let value = program.map("m").read(&other.to_le_bytes()).expect("an element");
                let sum: u32 = value.iter().map(|byte| u32::from(*byte)).sum();
                assert_eq!(sum, if other == key { 3 } else { 0 }, "{engine}: element {other} for key {key}");
            }
        }
    }
}

#[test]
fn keys_that_are_different_constants_on_different_paths() {
    let listing = format!(
        "{WORD}
    r8 = 1
    if r7 == 0 goto use
    r8 = 3
    if r7 == 1 goto use
    r8 = 9
use:
    *(u32 *)(r10 - 8) = r8
    r2 = r10
    r2 += -8
    r1 = map[idx:0]
    call 1
    r1 = r0
    r0 = 77
    if r1 == 0 goto out
    r0 = *(u32 *)(r1 + 0)
out:
    exit"
    );
    for map_type in [MapType::ARRAY, MapType::PERCPU_ARRAY] {
        for engine in ENGINES {
            let mut program = Loaded::new(engine, vec![MapDef::new("m", map_type, 4, 8, 4)], &listing);
            for key in 0..4u32 {
                let size = if map_type == MapType::ARRAY { 8 } else { 16 };
                let mut value = vec![0; size];
                value.chunks_mut(8).for_each(|cpu| cpu[0] = 10 + key as u8);
                program.map("m").write(&key.to_le_bytes(), &value, 0).expect("an element");
            }
            assert_eq!([0, 1, 2].map(|word| program.run(1, word)), [11, 13, 77], "{engine}");
        }
    }
}

/// Looks the packet's first word up in the outer map, with `size` bytes of key, and the word's low bits in the inner one.
fn nested(outer: u32, inner: u32) -> String {
    format!(
        "{WORD}
    r8 = 0
    *(u64 *)(r10 - 16) = r8
    *(u64 *)(r10 - 8) = r8
    *(u64 *)(r10 - 32) = r8
    *(u64 *)(r10 - 24) = r8
    r6 = r7
    r6 >>= 8
    *(u32 *)(r10 - {outer}) = r6
    r7 &= 255
    *(u32 *)(r10 - {}) = r7
    r2 = r10
    r2 += -{outer}
    r1 = map[idx:0]
    call 1
    r1 = r0
    r0 = 1000
    if r1 == 0 goto out
    r2 = r10
    r2 += -{}
    call 1
    r1 = r0
    r0 = 2000
    if r1 == 0 goto out
    r0 = *(u32 *)(r1 + 0)
out:
    exit",
        16 + inner,
        16 + inner
    )
}

fn value(number: u32, size: usize) -> Vec<u8> {
    let mut value = number.to_le_bytes().to_vec();
    value.resize(size, 0);
    value
}

/// `BPF_F_INNER_MAP`: arrays of any length stand where the template does.
const INNER_MAP: u32 = 0x1000;

#[test]
fn arrays_in_maps_of_maps() {
    for (engine, outer_type, outer_key) in ENGINES.into_iter().flat_map(|engine| {
        [
            (MapType::ARRAY_OF_MAPS, 4),
            (MapType::HASH_OF_MAPS, 4),
            (MapType::HASH_OF_MAPS, 8),
            (MapType::HASH_OF_MAPS, 16),
        ]
        .map(|(outer, key)| (engine, outer, key))
    }) {
        for value_size in [4, 8, 20] {
            let template = MapDef { map_flags: INNER_MAP, ..MapDef::new("t", MapType::ARRAY, 4, value_size, 3) };
            let mut outer = MapDef::new("outer", outer_type, outer_key, 4, 5);
            outer.inner = Some(Box::new(template.clone()));
            let mut program = Loaded::new(engine, vec![outer], &nested(outer_key, 4));
            let make = |name: &str, entries, program: &Loaded| {
                program.other(MapDef { name: name.to_owned(), max_entries: entries, ..template.clone() })
            };
            let (short, long) = (make("short", 2, &program), make("long", 9, &program));
            let maps = MapOfMaps::try_from(program.map("outer")).expect("a map of maps");
            let key = |number: u32| value(number, outer_key as usize);
            maps.set(&key(1), &short, 0).expect("like the template");
            maps.set(&key(4), &long, 0).expect("like the template");
            short.write(&1u32.to_le_bytes(), &value(51, value_size as usize), 0).expect("an element");
            long.write(&8u32.to_le_bytes(), &value(98, value_size as usize), 0).expect("an element");
            let found = |program: &mut Loaded| {
                [0x100, 0x101, 0x102, 0x408, 0x409, 0x4ff, 0x301, 0x501, 0xff_ff01].map(|word| program.run(0, word))
            };
            let want = [0, 51, 2000, 98, 2000, 2000, 1000, 1000, 1000];
            assert_eq!(found(&mut program), want, "{engine}: {outer_type} with keys of {outer_key} bytes");
            maps.set(&key(1), &long, 0).expect("like the template");
            maps.clear(&key(4)).expect("there");
            let want = [0, 0, 0, 1000, 1000, 1000, 1000, 1000, 1000];
            assert_eq!(found(&mut program), want, "{engine}: {outer_type} with keys of {outer_key} bytes");
        }
    }
}

#[test]
fn other_maps_in_maps_of_maps() {
    let kinds = [(MapType::HASH, 4), (MapType::HASH, 8), (MapType::LRU_HASH, 16), (MapType::PERCPU_HASH, 4)];
    let kinds = kinds.into_iter().chain([(MapType::HASH, 12), (MapType::PERCPU_ARRAY, 4)]);
    for (inner_type, inner_key) in kinds {
        for engine in ENGINES {
            let template = MapDef::new("t", inner_type, inner_key, 8, 8);
            let mut outer = MapDef::new("outer", MapType::ARRAY_OF_MAPS, 4, 4, 2);
            outer.inner = Some(Box::new(template.clone()));
            let mut program = Loaded::new(engine, vec![outer], &nested(4, inner_key));
            let inner = program.other(MapDef { name: "inner".to_owned(), ..template });
            let maps = MapOfMaps::try_from(program.map("outer")).expect("a map of maps");
            maps.set(&1u32.to_le_bytes(), &inner, 0).expect("like the template");
            let per_cpu = [MapType::PERCPU_HASH, MapType::PERCPU_ARRAY].contains(&inner_type);
            let mut both = value(31, 8);
            if per_cpu {
                both.extend(value(32, 8));
            }
            inner.write(&value(5, inner_key as usize), &both, 0).expect("room");
            let absent = if inner_type == MapType::PERCPU_ARRAY { 0 } else { 2000 };
            let found = [(0, 0x105), (1, 0x105), (0, 0x106), (0, 0x109), (0, 0x005), (0, 0x205)];
            let found = found.map(|(cpu, word)| program.run(cpu, word));
            assert_eq!(found, [31, 31 + u32::from(per_cpu), absent, 2000, 1000, 1000], "{engine}: {inner_type}");
        }
    }
}
