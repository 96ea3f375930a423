//! Helpers in every engine beside what the kernel answered (tests/data/helpers; kernel-bpf/tests/helpers.rs asks it).

mod helper_table;

use std::sync::Arc;

use helper_table::{Outcome, Row, rows};
use livebpf::context::Context;
use livebpf::insn::text;
use livebpf::link::Program;
use livebpf::object::{MapDef, MapInit, MapType, ProgType, ProgramKind};
use livebpf::runtime::{
    Ebpf, Engine, LoadOptions, MapHandle, MapOfMaps, PerfBuffer, Redirect, RingBuffer, Runtime, Target, Worker,
};

fn answer(engine: Engine, row: &Row) -> String {
    let runtime = Runtime::builder().engine(engine).cpus(2).build().expect("a runtime");
    let loaded = match runtime.load_linked(vec![row.program.clone()]) {
        Ok(loaded) => loaded,
        Err(error) => return format!("{error}"),
    };
    let program = loaded.program("row").expect("the program");
    let kind = row.program.kind.prog_type;
    let mut context = Context::for_type(kind, &row.packet).expect("a context");
    let mut worker = runtime.worker().expect("a worker");
    if let Err(error) = worker.run(program, &mut context) {
        return format!("{error}");
    }
    let seen = loaded.map("seen").expect("the map").read(&[0; 4]).expect("its value");
    row.answer(&Outcome { seen: &seen, packet: &context.packet() })
}

#[test]
fn helpers_answer_as_the_kernel_does() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/helpers");
    let (mut wrong, mut count) = (Vec::new(), 0);
    for file in std::fs::read_dir(folder).expect("the folder is there") {
        let path = file.expect("an entry").path();
        for (_, row) in rows(&std::fs::read_to_string(&path).expect("a text")) {
            count += 1;
            for engine in [Engine::Interp, Engine::Jit, Engine::Slot] {
                let found = answer(engine, &row);
                if found != row.answer {
                    wrong.push(format!("{engine}: {}\n  wanted {}\n  found  {found}", row.question, row.answer));
                }
            }
        }
    }
    assert!(count > 100, "{count} rows");
    assert!(wrong.is_empty(), "{}\n{} of {count} rows", wrong.join("\n"), wrong.len());
}

const ENGINES: [Engine; 3] = [Engine::Interp, Engine::Jit, Engine::Slot];

/// A program and its maps, loaded.
struct Bench {
    loaded: Ebpf,
    worker: Worker,
    runtime: Runtime,
    kind: ProgType,
}

impl Bench {
    fn new(engine: Engine, kind: ProgType, maps: Vec<MapDef>, listing: &str) -> Bench {
        let runtime = Runtime::builder().engine(engine).cpus(2).build().expect("a runtime");
        let insns = text::assemble(listing).unwrap_or_else(|e| panic!("{e} in {listing}"));
        let mut program = Program::bare("main", ProgramKind::new(kind), insns);
        program.maps = maps.into_iter().map(Arc::new).collect();
        program.license = "GPL".to_owned();
        let loaded = runtime.load_linked(vec![program]).unwrap_or_else(|e| panic!("{e}"));
        Bench { loaded, worker: runtime.worker().expect("a worker"), runtime, kind }
    }
    fn run(&mut self) -> u32 {
        let mut context = Context::for_type(self.kind, &PACKET).expect("a context");
        self.worker.run(self.loaded.program("main").expect("the program"), &mut context).expect("a run")
    }
    fn map(&self, name: &str) -> &MapHandle {
        self.loaded.map(name).expect("the map")
    }
}

const PACKET: [u8; 64] = [7; 64];

#[test]
fn records_of_a_ring_buffer_reach_its_reader() {
    let listing = "r1 = map[idx:0]
        r2 = 12
        r3 = 0
        call bpf_ringbuf_reserve#131
        if r0 == 0 goto out
        r6 = r0
        r1 = map[idx:0]
        r2 = 8
        r3 = 0
        call bpf_ringbuf_reserve#131
        if r0 == 0 goto alone
        *(u64 *)(r0 + 0) = 1
        r1 = r0
        r2 = 0
        call bpf_ringbuf_discard#133
        alone:
        *(u64 *)(r6 + 0) = 42
        *(u32 *)(r6 + 8) = 7
        r1 = r6
        r2 = 0
        call bpf_ringbuf_submit#132
        r0 = 1
        exit
        out:
        r0 = 0
        exit";
    for engine in ENGINES {
        let mut bench =
            Bench::new(engine, ProgType::SCHED_CLS, vec![MapDef::new("ring", MapType::RINGBUF, 0, 0, 4096)], listing);
        let ring = RingBuffer::try_from(bench.map("ring")).expect("a ring buffer");
        let want = [42u64.to_le_bytes().as_slice(), &7u32.to_le_bytes()].concat();
        for times in [1, 3, 100] {
            (0..times).for_each(|_| assert_eq!(bench.run(), 1));
            let mut records = Vec::new();
            assert_eq!(ring.consume(|record| records.push(record.to_vec())).expect("the only reader"), times);
            assert!(records.iter().all(|record| *record == want));
            assert_eq!(ring.pending(), 0);
        }
        let fits = (0..).take_while(|_| bench.run() == 1).count();
        assert_eq!(fits, 4096 / 40, "{engine}: a record takes 24 bytes, the discarded one 16");
        assert!(RingBuffer::try_from(bench.map("ring")).is_ok());
        assert!(PerfBuffer::open(bench.map("ring"), 0, 64).is_err());
    }
}

#[test]
fn what_a_run_asks_for_is_in_its_effects() {
    let listing = "r6 = r1
        r1 = map[idx:0]
        r2 = 1
        r3 = 2
        call bpf_redirect_map#51
        exit";
    for engine in ENGINES {
        let devices = MapDef::new("devices", MapType::DEVMAP, 4, 8, 4);
        let mut bench = Bench::new(engine, ProgType::XDP, vec![devices], listing);
        assert_eq!((bench.run(), bench.worker.effects().redirect), (2, None), "there is no entry");
        bench.map("devices").write(&1u32.to_le_bytes(), &[9, 0, 0, 0, 0, 0, 0, 0], 0).expect("an entry");
        let to = Target::Map { map: bench.map("devices").id(), key: 1, value: Some(9) };
        assert_eq!((bench.run(), bench.worker.effects().redirect), (4, Some(Redirect { to, flags: 2 })));
        bench.map("devices").remove(&1u32.to_le_bytes()).expect("an entry");
        assert_eq!((bench.run(), bench.worker.effects().redirect), (2, None), "each run begins without");
    }
    let listing = "r6 = r1
        r1 = r6
        r2 = 5
        r3 = 1
        call bpf_clone_redirect#13
        r7 = r0
        r1 = 3
        r2 = 0
        call bpf_redirect#23
        r0 += r7
        exit";
    for engine in ENGINES {
        let mut bench = Bench::new(engine, ProgType::SCHED_CLS, vec![], listing);
        assert_eq!(bench.run(), 7);
        let effects = bench.worker.effects();
        assert_eq!(effects.redirect, Some(Redirect { to: Target::Interface(3), flags: 0 }));
        assert_eq!(effects.clones.len(), 1);
        let clone = &effects.clones[0];
        assert_eq!((clone.interface, clone.ingress, clone.packet.as_slice()), (5, true, PACKET.as_slice()));
    }
}

#[test]
fn the_last_redirection_counts_whoever_notes_it() {
    const SELF: &str = "r1 = 3\nr2 = 0\ncall bpf_redirect#23\n";
    let to_map = |map: u32, key: u64, flags: u64| {
        format!("r1 = map[idx:{map}]\nr2 = {key} ll\nr3 = {flags}\ncall bpf_redirect_map#51\n")
    };
    let entry = |map, value| move |bench: &Bench| Target::Map { map: bench.map(map).id(), key: 1, value };
    let (device, hashed, socket) = (entry("devices", Some(9)), entry("hashed", Some(7)), entry("sockets", Some(0)));
    let broadcast = entry("devices", None);
    // What is called for, the verdict, and what is asked for, each with its flags.
    type Wanted<'a> = (Option<&'a dyn Fn(&Bench) -> Target>, u64);
    let own = |_: &Bench| Target::Interface(3);
    let cases: [(String, u32, Wanted<'_>); 14] = [
        (SELF.to_owned(), 4, (Some(&own), 0)),
        (to_map(0, 1, 2), 4, (Some(&device), 2)),
        (to_map(0, 1 << 32 | 1, 0), 4, (Some(&device), 0)),
        (to_map(2, 1, 0), 4, (Some(&socket), 0)),
        (SELF.to_owned() + &to_map(0, 1, 2), 4, (Some(&device), 2)),
        (to_map(0, 1, 3) + SELF, 4, (Some(&own), 0)),
        (SELF.to_owned() + &to_map(1, 1, 1), 4, (Some(&hashed), 1)),
        (to_map(1, 1, 1) + SELF, 4, (Some(&own), 0)),
        (SELF.to_owned() + &to_map(0, 2, 1), 1, (None, 0)),
        (SELF.to_owned() + &to_map(0, 4, 2), 2, (None, 0)),
        (SELF.to_owned() + &to_map(0, 1, 4), 0, (Some(&own), 0)),
        (SELF.to_owned() + &SELF.replace("r2 = 0", "r2 = 1"), 0, (Some(&own), 0)),
        (to_map(0, 1, 8), 4, (Some(&broadcast), 8)),
        (to_map(0, 1, 8) + SELF, 4, (Some(&own), 0)),
    ];
    for (engine, (calls, verdict, (to, flags))) in ENGINES.into_iter().flat_map(|e| cases.iter().map(move |c| (e, c))) {
        let types = [("devices", MapType::DEVMAP), ("hashed", MapType::DEVMAP_HASH), ("sockets", MapType::XSKMAP)];
        let maps = types.map(|(name, map_type)| MapDef::new(name, map_type, 4, 4, 4));
        let mut bench = Bench::new(engine, ProgType::XDP, maps.into(), &format!("{calls}exit"));
        for (name, value) in [("devices", 9u32), ("hashed", 7), ("sockets", 0)] {
            bench.map(name).write(&1u32.to_le_bytes(), &value.to_le_bytes(), 0).expect("an entry");
        }
        let wanted = to.map(|to| Redirect { to: to(&bench), flags: *flags });
        for _ in 0..2 {
            assert_eq!((bench.run(), bench.worker.effects().redirect), (*verdict, wanted), "{engine}:\n{calls}");
        }
    }
}

#[test]
fn redirections_are_those_of_the_worker_that_runs() {
    let redirects = |interface: u32| format!("r6 = r1\nr1 = {interface}\nr2 = 0\ncall bpf_redirect#23\nr0 = 4\nexit");
    for engine in ENGINES {
        let mut bench = Bench::new(engine, ProgType::XDP, vec![], &redirects(3));
        let elsewhere = Runtime::builder().engine(engine).build().expect("another runtime");
        let wanted = Some(Redirect { to: Target::Interface(3), flags: 0 });
        let mut other = bench.runtime.worker().expect("a second worker");
        assert_eq!((bench.run(), bench.worker.effects().redirect), (4, wanted), "{engine}");
        assert_eq!(other.effects(), Default::default(), "{engine}");
        // The next worker has the number that the first one gives back.
        let number = bench.worker.cpu();
        let first = std::mem::replace(&mut bench.worker, other);
        drop(first);
        // Lies where the first one lay, most likely.
        let _between = elsewhere.worker().expect("the other runtime's");
        other = bench.runtime.worker().expect("a third worker");
        assert_eq!(other.cpu(), number);
        assert_eq!((bench.run(), bench.worker.effects().redirect), (4, wanted), "{engine}");
        assert_eq!(other.effects(), Default::default(), "{engine}");
        bench.worker = other;
        assert_eq!((bench.run(), bench.worker.effects().redirect), (4, wanted), "{engine}");
    }
}

#[test]
fn declared_memory_can_be_probed_and_nothing_else() {
    let probe = |addr: u64, len: u32, helper: &str| {
        format!(
            "*(u64 *)(r10 - 8) = -1
            r1 = r10
            r1 += -8
            r2 = {len}
            r3 = {} ll
            call bpf_{helper}
            r1 = *(u64 *)(r10 - 8)
            r2 = map[idx:0][0]+0
            *(u64 *)(r2 + 0) = r1
            exit",
            addr as i64
        )
    };
    let task = 0xffff_8880_1234_5000_u64;
    for engine in ENGINES {
        let run = |listing: String, declare: &[(u64, &[u8])]| {
            let mut bench =
                Bench::new(engine, ProgType::SCHED_CLS, vec![MapDef::new("seen", MapType::ARRAY, 4, 8, 1)], &listing);
            declare.iter().for_each(|(addr, bytes)| bench.worker.declare(*addr, bytes));
            let r0 = bench.run() as i32;
            (r0, u64::from_le_bytes(bench.map("seen").read(&[0; 4]).expect("the value").try_into().expect("8 bytes")))
        };
        let (efault, read, string) = (-libc::EFAULT, "probe_read_kernel#113", "probe_read_kernel_str#115");
        let bytes: &[u8] = b"a name\0and more";
        assert_eq!(run(probe(task, 8, read), &[]), (efault, 0));
        let name = |len: usize| bytes[..len].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        assert_eq!(run(probe(task, 8, read), &[(task, bytes)]), (0, name(8)));
        assert_eq!(run(probe(task + 8, 8, read), &[(task, bytes)]), (efault, 0), "it ends after 15 bytes");
        assert_eq!(run(probe(task - 1, 2, read), &[(task, bytes)]).0, efault);
        assert_eq!(run(probe(task, 8, read), &[(task, bytes), (task + 4, b"xx")]), (efault, 0), "replaced as a whole");
        let seven = name(7) | 0xff << 56;
        assert_eq!(run(probe(task, 8, string), &[(task, bytes)]), (7, seven));
        assert_eq!(run(probe(task, 4, string), &[(task, bytes)]), (4, name(3) | 0xffff_ffff << 32));
        assert_eq!(run(probe(task + 9, 8, string), &[(task, bytes)]), (efault, 0), "no end of the string");
    }
}

#[test]
fn perf_events_reach_who_listens() {
    let listing = "*(u64 *)(r10 - 8) = 77
        r2 = map[idx:0]
        r3 = 17179869185 ll
        r4 = r10
        r4 += -8
        r5 = 8
        call bpf_perf_event_output#25
        exit";
    for engine in ENGINES {
        let events = MapDef::new("events", MapType::PERF_EVENT_ARRAY, 4, 4, 2);
        let mut bench = Bench::new(engine, ProgType::SCHED_CLS, vec![events], listing);
        assert_eq!(bench.run() as i32, -libc::ENOENT);
        let buffer = PerfBuffer::open(bench.map("events"), 1, 64).expect("a buffer");
        assert_eq!([bench.run() as i32, bench.run() as i32, bench.run() as i32], [0, 0, -libc::ENOSPC]);
        let mut records = Vec::new();
        assert_eq!(buffer.consume(|record| records.push(record.to_vec())).expect("the only reader"), 2);
        let want = [77u64.to_le_bytes().as_slice(), &PACKET[..4]].concat();
        assert_eq!((records, buffer.lost()), (vec![want.clone(), want], 1));
    }
}

#[test]
fn a_map_in_a_map_is_looked_up_and_used() {
    let listing = "*(u32 *)(r10 - 4) = 1
        r1 = map[idx:0]
        r2 = r10
        r2 += -4
        call bpf_map_lookup_elem#1
        if r0 == 0 goto none
        r1 = r0
        *(u32 *)(r10 - 8) = 0
        r2 = r10
        r2 += -8
        call bpf_map_lookup_elem#1
        if r0 == 0 goto empty
        r1 = *(u64 *)(r0 + 0)
        r1 += 1
        *(u64 *)(r0 + 0) = r1
        r0 = r1
        exit
        none:
        r0 = 1000
        exit
        empty:
        r0 = 2000
        exit";
    for (engine, outer) in ENGINES.into_iter().flat_map(|e| [(e, MapType::ARRAY_OF_MAPS), (e, MapType::HASH_OF_MAPS)]) {
        let template = MapDef::new("inner", MapType::ARRAY, 4, 8, 2);
        let outer = MapDef { inner: Some(Box::new(template)), ..MapDef::new("outer", outer, 4, 4, 2) };
        let mut bench = Bench::new(engine, ProgType::SCHED_CLS, vec![outer], listing);
        assert_eq!(bench.run(), 1000);
        let other = |name, entries| {
            let def = MapDef::new(name, MapType::ARRAY, 4, 8, entries);
            let mut program = Program::bare(
                "p",
                ProgramKind::new(ProgType::XDP),
                text::assemble("r0 = map[idx:0]\nr0 = 0\nexit").expect("a program"),
            );
            program.maps = vec![Arc::new(def)];
            bench.runtime.load_linked(vec![program]).expect("a program").map(name).expect("the map").clone()
        };
        let (one, two, long) = (other("one", 2), other("two", 2), other("long", 3));
        let maps = MapOfMaps::try_from(bench.map("outer")).expect("a map of maps");
        assert!(maps.set(&1u32.to_le_bytes(), &long, 0).is_err());
        maps.set(&1u32.to_le_bytes(), &one, 0).expect("like the template");
        assert_eq!([bench.run(), bench.run()], [1, 2]);
        maps.set(&1u32.to_le_bytes(), &two, 0).expect("like the template");
        assert_eq!(bench.run(), 1);
        assert_eq!(maps.get(&1u32.to_le_bytes()).expect("there").id(), two.id());
        maps.clear(&1u32.to_le_bytes()).expect("there");
        assert_eq!(bench.run(), 1000);
        assert_eq!((one.read(&[0; 4]).expect("a value")[0], two.read(&[0; 4]).expect("a value")[0]), (2, 1));
        bench.runtime.barrier().expect("outside of runs");
    }
}

#[test]
fn constant_texts_are_compared_and_printed() {
    let text_map = || {
        let mut def = MapDef::new(".rodata", MapType::ARRAY, 4, 24, 1);
        (def.init, def.frozen, def.map_flags) = (MapInit::Data(b"value %d of %s\0abc\0rest\0".to_vec()), true, 1 << 7);
        def
    };
    let print = "r6 = map[idx:0][0]+15
        *(u64 *)(r10 - 16) = -5
        *(u64 *)(r10 - 8) = r6
        r1 = map[idx:1][0]+0
        r2 = 16
        r3 = map[idx:0][0]+0
        r4 = r10
        r4 += -16
        r5 = 16
        call bpf_snprintf#165
        exit";
    let compare = "*(u64 *)(r10 - 8) = 6513249
        r1 = r10
        r1 += -8
        r2 = 8
        r3 = map[idx:0][0]+OFF
        call bpf_strncmp#182
        exit";
    for engine in ENGINES {
        let maps = || vec![text_map(), MapDef::new("seen", MapType::ARRAY, 4, 16, 1)];
        let mut bench = Bench::new(engine, ProgType::SCHED_CLS, maps(), print);
        assert_eq!(bench.run(), 16, "with its NUL");
        assert_eq!(bench.map("seen").read(&[0; 4]).expect("a value"), b"value -5 of abc\0");
        for (offset, want) in [("15", 0), ("19", -1), ("0", -1), ("18", 1)] {
            let mut bench = Bench::new(engine, ProgType::SCHED_CLS, maps(), &compare.replace("OFF", offset));
            assert_eq!(bench.run() as i32, want, "{offset}");
        }
    }
}

#[test]
fn a_map_of_maps_is_used_again_for_programs_that_want_such_maps() {
    let runtime = Runtime::builder().engine(Engine::Interp).build().expect("a runtime");
    let program = |entries| {
        let template = MapDef::new("inner", MapType::ARRAY, 4, 8, entries);
        let outer = MapDef { inner: Some(Box::new(template)), ..MapDef::new("outer", MapType::ARRAY_OF_MAPS, 4, 4, 2) };
        let insns = text::assemble("r0 = map[idx:0]\nr0 = 0\nexit").expect("a program");
        let mut program = Program::bare("main", ProgramKind::new(ProgType::XDP), insns);
        program.maps = vec![Arc::new(outer)];
        program
    };
    let first = runtime.load_linked(vec![program(2)]).expect("a program");
    let again = LoadOptions::default().reuse_map("outer", first.map("outer").expect("the map"));
    assert!(runtime.load_linked_with(vec![program(2)], &again).is_ok());
    let error = runtime.load_linked_with(vec![program(3)], &again).expect_err("another template").to_string();
    assert!(error.contains("the object wants inner maps of"), "{error}");
}
