//! Locks in map values, in every engine and with users beside programs.

use std::sync::Arc;

use livebpf::context::Context;
use livebpf::insn::text;
use livebpf::link::Program as Linked;
use livebpf::object::{MapDef, MapType, ProgType, ProgramKind, SpecialField, SpecialKind};
use livebpf::runtime::{Ebpf, Engine, Runtime};

const ENGINES: [Engine; 3] = [Engine::Interp, Engine::Jit, Engine::Slot];
/// Threads, and runs of each.
const THREADS: u64 = 4;
const RUNS: u64 = 500;
/// `BPF_F_LOCK`
const F_LOCK: u64 = 4;

/// Two words that a program moves together; the lock is between them.
const SOURCE: &str = "
    *(u32 *)(r10 - 4) = 0
    r1 = map[idx:0]
    r2 = r10
    r2 += -4
    call bpf_map_lookup_elem#1
    if r0 == 0 goto out
    r6 = r0
    r1 = r6
    r1 += 8
    call bpf_spin_lock#93
    r7 = *(u64 *)(r6 + 0)
    r8 = *(u64 *)(r6 + 16)
    r7 += 1
    r8 += 1
    *(u64 *)(r6 + 0) = r7
    *(u64 *)(r6 + 16) = r8
    r1 = r6
    r1 += 8
    call bpf_spin_unlock#94
    r0 = 1
    if r7 == r8 goto out
    r0 = 2
out:
    exit";

fn load(engine: Engine, map_type: MapType) -> (Runtime, Ebpf) {
    let mut def = MapDef::new("values", map_type, 4, 24, 2);
    def.special.push(SpecialField { kind: SpecialKind::SpinLock, offset: 8, size: 4 });
    let mut program = Linked::bare("main", ProgramKind::new(ProgType::XDP), text::assemble(SOURCE).unwrap());
    program.maps = vec![Arc::new(def)];
    let runtime = Runtime::builder().engine(engine).cpus(THREADS as u32 + 1).code_bytes(1 << 20).build().unwrap();
    let ebpf = runtime.load_linked(vec![program]).unwrap();
    (runtime, ebpf)
}

fn words(value: &[u8]) -> [u64; 3] {
    [0, 8, 16].map(|at| u64::from_ne_bytes(value[at..at + 8].try_into().unwrap()))
}

#[test]
fn nobody_sees_or_makes_half_a_change() {
    for engine in ENGINES {
        for map_type in [MapType::ARRAY, MapType::HASH] {
            let (runtime, ebpf) = load(engine, map_type);
            let map = ebpf.map("values").unwrap();
            map.write(&[0; 4], &[0; 24], 0).unwrap();
            std::thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        let mut worker = runtime.worker().unwrap();
                        let program = ebpf.program("main").unwrap();
                        let mut context = Context::xdp(&[0; 64]).unwrap();
                        for _ in 0..RUNS {
                            assert_eq!(worker.run(program, &mut context).unwrap(), 1);
                        }
                    });
                }
                for _ in 0..RUNS {
                    let [a, lock, b] = words(&map.read_locked(&[0; 4]).unwrap());
                    assert_eq!((a, lock as u32), (b, 0), "{engine} {map_type}");
                }
            });
            let [a, lock, b] = words(&map.read(&[0; 4]).unwrap());
            assert_eq!((a, lock, b), (THREADS * RUNS, 0, THREADS * RUNS), "{engine} {map_type}");
        }
    }
}

#[test]
fn setting_a_value_leaves_its_lock() {
    for map_type in [MapType::ARRAY, MapType::HASH] {
        let (runtime, ebpf) = load(Engine::Interp, map_type);
        let map = ebpf.map("values").unwrap();
        let run = || {
            let mut context = Context::xdp(&[0; 64]).unwrap();
            runtime.worker().unwrap().run(ebpf.program("main").unwrap(), &mut context).unwrap()
        };
        // Were the bytes of the lock set, the run would wait for ever.
        map.write(&[0; 4], &[0xff; 24], 0).unwrap();
        assert_eq!(run(), 1);
        map.write(&[0; 4], &[1; 24], F_LOCK).unwrap();
        assert_eq!(run(), 1);
        assert_eq!(
            words(&map.read(&[0; 4]).unwrap()),
            [0x0101_0101_0101_0102, 0x0101_0101_0000_0000, 0x0101_0101_0101_0102]
        );
    }
}

#[test]
fn a_map_without_lock_has_none_to_take() {
    let def = MapDef::new("plain", MapType::ARRAY, 4, 8, 1);
    let mut program = Linked::bare("main", ProgramKind::new(ProgType::XDP), text::assemble("r0 = 0\nexit").unwrap());
    program.maps = vec![Arc::new(def)];
    let ebpf = Runtime::builder().engine(Engine::Interp).build().unwrap().load_linked(vec![program]).unwrap();
    let map = ebpf.map("plain").unwrap();
    assert!(map.write(&[0; 4], &[0; 8], F_LOCK).unwrap_err().to_string().contains("have no lock"));
    assert!(map.read_locked(&[0; 4]).unwrap_err().to_string().contains("have no lock"));
}
