//! Whole-object upgrades of a chain of twelve stages with state in maps: what is carried over, what is refused, and that no packet
//! is handled by two versions. `LIVEBPF_UPGRADES` says how many upgrades the long test makes (100 without it).

mod live_support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use live_support::*;
use livebpf::context::Context;
use livebpf::object::Object;
use livebpf::runtime::{
    Ebpf, Engine, Error, LoadOptions, MapHandle, Program, ProgramArray, Runtime, Upgrade, UpgradeOptions,
};

const STAGES: usize = 12;
const FLOW: usize = STAGES + 1;
const XDP_TX: u32 = 3;

fn object(file: &str) -> Object {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/upgrade").join(file);
    Object::parse(&std::fs::read(path).expect("an object's file")).expect("an object")
}

fn versions() -> [Object; 2] {
    ["chain_v1.o", "chain_v2.o"].map(object)
}

/// The stamps of one packet of flow `flow`.
fn stamps(runtime: &Runtime, entry: &Program, flow: u8) -> [u8; STAGES + 1] {
    let mut packet = [0; 64];
    packet[FLOW] = flow;
    let mut context = Context::xdp(&packet).unwrap();
    assert_eq!(runtime.worker().unwrap().run(entry, &mut context).unwrap(), XDP_TX);
    context.packet()[..=STAGES].try_into().unwrap()
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("8 bytes"))
}

/// Packets by stage, the entry last; packets that came through.
fn counts(ebpf: &Ebpf) -> (Vec<u64>, u64) {
    let packets = ebpf.map("packets").expect("map packets");
    let stages = (0..=STAGES as u32).map(|stage| number(&packets.read(&stage.to_le_bytes()).unwrap())).collect();
    (stages, number(&ebpf.global("finished").unwrap()))
}

#[test]
fn the_new_version_takes_over_slots_entries_and_state_and_gives_them_back() {
    for engine in ENGINES {
        let runtime = runtime(engine);
        let used = runtime.code_used();
        let [first, second] = versions();
        let v1 = runtime.load(&first).unwrap();
        let entry = program(&v1, "entry").clone();
        assert_eq!(stamps(&runtime, &entry, 1), [1; STAGES + 1]);
        let upgrade = runtime.upgrade(&v1, &second, &UpgradeOptions::default()).unwrap();
        assert_eq!(
            upgrade.carried(),
            ["stages", "packets", "flows", ".bss"].map(String::from).as_slice(),
            "{upgrade:?}"
        );
        // The old handle runs the new version, entry included; so does the new one.
        assert_eq!(stamps(&runtime, &entry, 1), [2; STAGES + 1]);
        assert_eq!(stamps(&runtime, program(upgrade.ebpf(), "entry"), 1), [2; STAGES + 1]);
        assert_eq!(counts(upgrade.ebpf()), (vec![3; STAGES + 1], 3));
        assert_eq!(number(&v1.map("flows").unwrap().read(&1u32.to_le_bytes()).unwrap()), 3);
        upgrade.roll_back().unwrap();
        assert_eq!(stamps(&runtime, &entry, 1), [1; STAGES + 1]);
        drop(upgrade);
        // And again, for good; then to a third, from the second.
        let v2 = runtime.upgrade(&v1, &second, &UpgradeOptions::default()).unwrap().finish();
        drop(v1);
        assert_eq!(stamps(&runtime, &entry, 1), [2; STAGES + 1]);
        let v3 = runtime.upgrade(&v2, &first, &UpgradeOptions::default().drop_program("news_count")).unwrap();
        assert_eq!(stamps(&runtime, &entry, 1), [1; STAGES + 1]);
        v3.roll_back().unwrap();
        assert_eq!(stamps(&runtime, &entry, 1), [2; STAGES + 1]);
        assert_eq!(counts(&v2), (vec![7; STAGES + 1], 7));
        drop((v2, v3, entry));
        runtime.barrier().unwrap();
        assert_eq!(runtime.code_used(), used, "code memory is lost ({engine})");
    }
}

#[test]
fn what_does_not_match_is_refused_by_name_and_changes_nothing() {
    let runtime = runtime(Engine::Jit);
    let [first, second] = versions();
    let v1 = runtime.load(&first).unwrap();
    let entry = program(&v1, "entry");
    let other = object("other_flows.o");
    runtime.barrier().unwrap();
    let used = runtime.code_used();
    let refused = |object: &Object, options: &UpgradeOptions, wanted: &[&str]| {
        let error = runtime.upgrade(&v1, object, options).unwrap_err();
        assert!(matches!(error, Error::Upgrade { .. }), "{error:?}");
        assert!(wanted.iter().all(|text| error.to_string().contains(text)), "{error}");
        runtime.barrier().unwrap();
        assert_eq!((stamps(&runtime, entry, 1), runtime.code_used()), ([1; STAGES + 1], used));
    };
    refused(&other, &UpgradeOptions::default(), &["map flows", "512", "fresh"]);
    refused(&other, &UpgradeOptions::default().fresh("flows"), &["no program stage_1", "drop_program"]);
    // What is allowed explicitly works: the chain is short now, and ends in the dropped programs' empty slots.
    let allowed =
        (1..STAGES).fold(UpgradeOptions::default().fresh("flows"), |o, n| o.drop_program(&format!("stage_{n}")));
    let short = runtime.upgrade(&v1, &other, &allowed).unwrap();
    assert_eq!(run(&runtime, entry), XDP_TX);
    let slots = ProgramArray::try_from(v1.map("stages").unwrap()).unwrap();
    assert_eq!((0..STAGES as u32).filter(|slot| slots.program_id(*slot).is_ok()).collect::<Vec<_>>(), [0]);
    short.roll_back().unwrap();
    assert_eq!(stamps(&runtime, entry, 1), [1; STAGES + 1]);
    // A slot that somebody else changed after the upgrade is his, also when it is rolled back.
    let upgrade = runtime.upgrade(&v1, &second, &UpgradeOptions::default()).unwrap();
    slots.set(3, program(&v1, "stage_5")).unwrap();
    upgrade.roll_back().unwrap();
    assert_eq!(slots.program_id(3).unwrap(), program(&v1, "stage_5").id());
}

#[test]
fn a_new_version_can_be_loaded_with_options() {
    let runtime = runtime(Engine::Jit);
    let [first, second] = versions();
    let v1 = runtime.load(&first).unwrap();
    assert_eq!(stamps(&runtime, program(&v1, "entry"), 9), [1; STAGES + 1]);
    let load = LoadOptions::default().count_missed("stages", true).slots("stages");
    let options = UpgradeOptions::default().load(load).fresh("packets");
    let v2 = runtime.upgrade(&v1, &second, &options).unwrap().finish();
    let slots = ProgramArray::try_from(v2.map("stages").unwrap()).unwrap();
    slots.clear_index(4).unwrap();
    let mut context = Context::xdp(&[0; 64]).unwrap();
    assert_eq!(runtime.worker().unwrap().run(program(&v1, "entry"), &mut context).unwrap(), 1);
    assert_eq!(slots.missed(4).empty, 1, "counting was switched on by the upgrade");
    assert_eq!(counts(&v2).0[..5], [1, 1, 1, 1, 0], "a fresh map begins with nothing");
}

#[test]
fn arrays_that_are_reused_by_choice_and_those_of_others_take_part() {
    let runtime = runtime(Engine::Jit);
    let [first, second] = versions();
    let v1 = runtime.load(&first).unwrap();
    let other = runtime.load(&first).unwrap();
    let (dispatch, own) = (stages_of(&other).1, stages_of(&v1));
    dispatch.set(1, program(&v1, "stage_4")).unwrap();
    let load = LoadOptions::default().reuse_map("stages", own.0);
    let upgrade = runtime.upgrade(&v1, &second, &UpgradeOptions::default().load(load)).unwrap();
    let id = |name| program(upgrade.ebpf(), name).id();
    assert_eq!(stamps(&runtime, program(&v1, "entry"), 1), [2; STAGES + 1]);
    assert_eq!((dispatch.program_id(1).unwrap(), own.1.program_id(4).unwrap()), (id("stage_4"), id("stage_4")));
    upgrade.roll_back().unwrap();
    assert_eq!(stamps(&runtime, program(&v1, "entry"), 1), [1; STAGES + 1]);
    assert_eq!(dispatch.program_id(1).unwrap(), program(&v1, "stage_4").id());
}

fn stages_of(ebpf: &Ebpf) -> (&MapHandle, ProgramArray) {
    let handle = ebpf.map("stages").expect("map stages");
    (handle, ProgramArray::try_from(handle).unwrap())
}

#[test]
fn a_version_that_was_replaced_cannot_be_upgraded_and_upgrades_taken_back_in_any_order_mix_nothing() {
    for engine in ENGINES {
        let runtime = runtime(engine);
        let [first, second] = versions();
        let v1 = runtime.load(&first).unwrap();
        let entry = program(&v1, "entry");
        let options = UpgradeOptions::default().drop_program("news_count");
        let up = runtime.upgrade(&v1, &second, &options).unwrap();
        let error = runtime.upgrade(&v1, &first, &options).unwrap_err();
        assert!(matches!(&error, Error::Step { source, .. } if matches!(**source, Error::Upgrade { .. })), "{error}");
        assert!(error.to_string().contains("version that is in use"), "{error}");
        assert_eq!(stamps(&runtime, entry, 1), [2; STAGES + 1]);
        let down = runtime.upgrade(up.ebpf(), &first, &options).unwrap();
        up.roll_back().unwrap();
        let ids = |ebpf: &Ebpf| (0..STAGES).map(|n| program(ebpf, &format!("stage_{n}")).id()).collect::<Vec<_>>();
        let held = || (0..STAGES as u32).map(|n| stages_of(&v1).1.program_id(n).unwrap()).collect::<Vec<_>>();
        assert_eq!((held(), stamps(&runtime, entry, 1)), (ids(down.ebpf()), [1; STAGES + 1]));
        down.roll_back().unwrap();
        assert_eq!((held(), stamps(&runtime, entry, 1)), (ids(up.ebpf()), [2; STAGES + 1]));
        up.roll_back().unwrap();
        assert_eq!((held(), stamps(&runtime, entry, 1)), (ids(&v1), [1; STAGES + 1]));
    }
}

#[test]
fn of_two_upgrades_at_once_one_is_refused() {
    let runtime = runtime(Engine::Jit);
    let [first, second] = versions();
    let mut current = runtime.load(&first).unwrap();
    let entry = program(&current, "entry").clone();
    let options = UpgradeOptions::default().drop_program("news_count");
    for round in 0..20 {
        let upgrade = |object| runtime.upgrade(&current, object, &options);
        let results = thread::scope(|scope| {
            let threads = [&first, &second].map(|object| scope.spawn(move || upgrade(object)));
            threads.map(|thread| thread.join().unwrap())
        });
        let [one, two] = results.map(Result::ok);
        assert!(one.is_some() != two.is_some(), "round {round}: {one:?}, {two:?}");
        let version = if one.is_some() { 1 } else { 2 };
        assert_eq!(stamps(&runtime, &entry, 1), [version; STAGES + 1], "round {round}");
        current = one.or(two).expect("one of them").finish();
        runtime.barrier().unwrap();
    }
}

/// What a runner saw.
#[derive(Default, Debug)]
struct Seen {
    packets: u64,
    versions: [u64; 2],
    mixed: u64,
    missed: u64,
}

fn runner(runtime: &Runtime, entry: &Program, flow: u8, stop: &AtomicBool, packets: &AtomicU64) -> Seen {
    let (mut worker, mut seen) = (runtime.worker().unwrap(), Seen::default());
    let mut input = [0; 64];
    input[FLOW] = flow;
    let mut context = Context::xdp(&input).unwrap();
    let mut output = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        context.reset(&input).unwrap();
        let verdict = worker.run(entry, &mut context).unwrap();
        context.packet_into(&mut output);
        seen.packets += 1;
        packets.fetch_add(1, Ordering::Relaxed);
        let stamps = &output[..=STAGES];
        match stamps[0] {
            _ if verdict != XDP_TX => seen.missed += 1,
            version @ (1 | 2) if stamps.iter().all(|stamp| *stamp == version) => {
                seen.versions[usize::from(version) - 1] += 1
            }
            _ => seen.mixed += 1,
        }
    }
    seen
}

fn upgrade(runtime: &Runtime, old: &Ebpf, object: &Object) -> Upgrade {
    let options = UpgradeOptions::default().drop_program("news_count");
    when_possible(runtime, || runtime.upgrade(old, object, &options))
}

/// A runner that is not scheduled keeps its generation.
fn when_possible<T>(runtime: &Runtime, transaction: impl Fn() -> Result<T, Error>) -> T {
    loop {
        match transaction() {
            Ok(done) => return done,
            Err(Error::Generations { .. }) => runtime.barrier().unwrap(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn upgrades_under_traffic(engine: Engine, upgrades: u32) {
    let runtime = runtime(engine);
    let used = runtime.code_used();
    let versions = versions();
    let mut current = runtime.load(&versions[0]).unwrap();
    let entry = program(&current, "entry").clone();
    let (stop, packets) = (AtomicBool::new(false), AtomicU64::new(0));
    // A packet of either runner that began after this was called.
    let wait_for_another = || {
        let before = packets.load(Ordering::Relaxed);
        while packets.load(Ordering::Relaxed) < before + 3 {
            thread::yield_now();
        }
    };
    let seen: Vec<Seen> = thread::scope(|scope| {
        let runners = [1, 2].map(|flow| {
            let (runtime, entry, stop, packets) = (&runtime, &entry, &stop, &packets);
            scope.spawn(move || runner(runtime, entry, flow, stop, packets))
        });
        let _stop = StopOnDrop(&stop);
        for n in 1..=upgrades {
            // So that both versions occur, however busy the machine is.
            if n <= 2 {
                wait_for_another();
            }
            let done = upgrade(&runtime, &current, &versions[(n % 2) as usize]);
            if n % 10 == 0 {
                when_possible(&runtime, || done.roll_back());
            } else {
                current = done.finish();
            }
        }
        stop.store(true, Ordering::SeqCst);
        runners.map(|runner| runner.join().unwrap()).into()
    });
    println!("{upgrades} upgrades, {engine}: {seen:?}");
    let packets = seen.iter().map(|s| s.packets).sum::<u64>();
    assert!(seen.iter().all(|s| s.mixed == 0 && s.missed == 0), "{seen:?}");
    assert!((0..2).all(|v| seen.iter().any(|s| s.versions[v] > 0)), "both versions must occur: {seen:?}");
    // Nothing of the state is lost: every packet was counted at every stage, and in its flow.
    assert_eq!(counts(&current), (vec![packets; STAGES + 1], packets));
    for (flow, seen) in [1u32, 2].iter().zip(&seen) {
        assert_eq!(number(&current.map("flows").unwrap().read(&flow.to_le_bytes()).unwrap()), seen.packets);
    }
    drop((current, entry));
    runtime.barrier().unwrap();
    assert_eq!(runtime.code_used(), used, "code memory is lost");
}

fn upgrades() -> u32 {
    std::env::var("LIVEBPF_UPGRADES").ok().and_then(|n| n.parse().ok()).unwrap_or(100)
}

#[test]
fn every_packet_is_handled_by_one_version_patched() {
    upgrades_under_traffic(Engine::Jit, upgrades());
}

#[test]
fn every_packet_is_handled_by_one_version_slots() {
    upgrades_under_traffic(Engine::Slot, upgrades());
}

#[test]
fn every_packet_is_handled_by_one_version_interpreted() {
    upgrades_under_traffic(Engine::Interp, upgrades().min(200));
}
