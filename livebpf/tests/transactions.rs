//! Transactions: all or nothing, for every invocation, in every engine; and what they do to single updates, loads and memory.

mod live_support;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Instant;

use live_support::*;
use livebpf::link::Program as Linked;
use livebpf::object::{MapDef, ProgType};
use livebpf::runtime::{Engine, Error, HelperCall, MapHandle, Program, ProgramArray, RunError, Runtime};
use livebpf::text::patch::Faults;

/// Stages of the chain.
const STAGES: u32 = 12;

/// Puts `value` into the packet's byte `position`, then goes on with slot `next`; answers [`MISSED`] where that is empty.
fn stage(name: &str, array: &Arc<MapDef>, position: u32, value: u32, next: Option<u32>) -> Linked {
    let mut source = format!(
        "r6 = r1\nr2 = *(u32 *)(r1 + 0)\nr3 = *(u32 *)(r1 + 4)\nr4 = r2\nr4 += 64\nif r4 > r3 goto out\n\
         w5 = {value}\n*(u8 *)(r2 + {position}) = w5\n"
    );
    match next {
        Some(next) => source += &tail_call(0, next),
        None => source += "w0 = 1\nexit\n",
    }
    source += &format!("out:\nw0 = {MISSED}\nexit\n");
    linked(name, &source, &[array])
}

/// An entry, and the stages of versions 1 and 2, on one array. Slot i holds stage i; the last slot is free.
struct Chain {
    handle: MapHandle,
    slots: ProgramArray,
    entry: Program,
    versions: [Vec<Program>; 2],
}

impl Chain {
    fn new(runtime: &Runtime) -> Chain {
        let (handle, slots) = array(runtime, &prog_array("stages", STAGES + 1));
        let load = |program| load_with(runtime, program, &[&handle]).unwrap();
        let entry = load(stage("entry", handle.def(), STAGES, 9, Some(0)));
        let version = |value: u32| {
            let next = |i| (i + 1 < STAGES).then_some(i + 1);
            let one = |i| load(stage(&format!("s{i}_v{value}"), handle.def(), i, value, next(i)));
            (0..STAGES).map(one).collect::<Vec<_>>()
        };
        let chain = Chain { entry, versions: [version(1), version(2)], handle: handle.clone(), slots };
        chain.switch(runtime, 0).unwrap();
        chain
    }

    fn switch(&self, runtime: &Runtime, version: usize) -> Result<(), Error> {
        runtime.transaction(|tx| {
            for (slot, program) in self.versions[version].iter().enumerate() {
                tx.set(&self.slots, slot as u32, program);
            }
        })
    }
}

/// The version that all stamps of a packet are of.
fn version_of(packet: &[u8]) -> Option<usize> {
    let stamps = &packet[..STAGES as usize];
    (stamps.iter().all(|s| *s == stamps[0]) && matches!(stamps[0], 1 | 2)).then(|| usize::from(stamps[0]) - 1)
}

fn for_each_engine(test: impl Fn(&Runtime)) {
    for engine in ENGINES {
        let runtime = runtime(engine);
        let used = runtime.code_used();
        test(&runtime);
        runtime.barrier().unwrap();
        assert_eq!(runtime.code_used(), used, "code memory is lost ({engine})");
    }
}

fn stamps(runtime: &Runtime, program: &Program) -> Vec<u8> {
    let mut packet = context(program);
    runtime.worker().unwrap().run(program, &mut packet).unwrap();
    packet.packet()[..STAGES as usize].to_vec()
}

#[test]
fn a_whole_chain_changes_at_once() {
    for_each_engine(|runtime| {
        let chain = Chain::new(runtime);
        assert_eq!(stamps(runtime, &chain.entry), [1; STAGES as usize]);
        let before = runtime.generation();
        chain.switch(runtime, 1).unwrap();
        assert_eq!((stamps(runtime, &chain.entry), runtime.generation()), (vec![2; STAGES as usize], before + 1));
        assert_eq!(chain.slots.program_id(3).unwrap(), chain.versions[1][3].id());
        runtime.transaction(|tx| tx.clear(&chain.slots, 4)).unwrap();
        assert_eq!(stamps(runtime, &chain.entry), [2, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
        chain.slots.set(4, &chain.versions[0][4]).unwrap();
        assert_eq!(stamps(runtime, &chain.entry), [2, 2, 2, 2, 1, 2, 2, 2, 2, 2, 2, 2], "single updates go on");
        chain.slots.audit().unwrap().unwrap();
    });
}

#[test]
fn a_refused_transaction_names_the_change_and_changes_nothing() {
    for_each_engine(|runtime| {
        let chain = Chain::new(runtime);
        let other = live_support::runtime(runtime.engine());
        let foreign = load(&other, answers("foreign", 1));
        let socket = load(runtime, linked_as(ProgType::SOCKET_FILTER, "socket", "w0 = 0\nexit", &[]));
        let (slots, v2) = (&chain.slots, &chain.versions[1][0]);
        let state = || {
            let ids: Vec<_> = (0..=STAGES).map(|i| slots.program_id(i).ok()).collect();
            (ids, runtime.generation(), stamps(runtime, &chain.entry))
        };
        let before = state();
        let refused = |step: usize, text: &str, result: Result<(), Error>| {
            let error = result.expect_err(text);
            assert!(matches!(&error, Error::Step { step: found, .. } if *found == step), "{error}");
            assert!(error.to_string().contains(text), "{error}");
            assert_eq!(state(), before, "{error}");
        };
        let two = |second: &Program, index| {
            runtime.transaction(|tx| {
                tx.set(slots, 0, v2);
                tx.set(slots, index, second);
            })
        };
        refused(2, "past the end", two(v2, 99));
        refused(2, "does not fit", two(&socket, 1));
        refused(2, "another runtime", two(&foreign, 1));
        let clear = |indexes: &[u32]| runtime.transaction(|tx| indexes.iter().for_each(|i| tx.clear(slots, *i)));
        refused(1, "past the end", clear(&[99]));
        refused(2, "map stages", clear(&[0, STAGES]));
        refused(3, "map stages", clear(&[0, 1, 1]));
        refused(1, "cannot take the place", runtime.transaction(|tx| tx.replace_entry(&chain.entry, &socket)));
        refused(1, "another runtime", runtime.transaction(|tx| tx.replace_entry(&chain.entry, &foreign)));
    });
}

#[test]
fn changes_take_effect_in_their_order() {
    for_each_engine(|runtime| {
        let chain = Chain::new(runtime);
        let v2 = &chain.versions[1];
        let result = runtime.transaction(|tx| {
            tx.set(&chain.slots, STAGES, &v2[0]);
            tx.clear(&chain.slots, STAGES);
            tx.clear(&chain.slots, 0);
            tx.set(&chain.slots, 0, &v2[0]);
        });
        result.unwrap();
        assert_eq!(chain.slots.program_id(0).unwrap(), v2[0].id());
        assert_eq!(errno(chain.slots.program_id(STAGES)), libc::ENOENT);
    });
}

#[test]
fn entries_lead_to_other_programs_and_back() {
    for_each_engine(|runtime| {
        let [a, b, c] = [1, 2, 3].map(|n| load(runtime, answers(&format!("p{n}"), n)));
        let all = || [&a, &b, &c].map(|p| run(runtime, p));
        runtime.transaction(|tx| tx.replace_entry(&a, &b)).unwrap();
        assert_eq!(all(), [2, 2, 3]);
        // What was led to b follows b.
        runtime.transaction(|tx| tx.replace_entry(&b, &c)).unwrap();
        assert_eq!(all(), [3, 3, 3]);
        // And back, without c's own handle.
        runtime.transaction(|tx| tx.replace_entry(&b, &b)).unwrap();
        assert_eq!(all(), [2, 2, 3]);
        let result = runtime.transaction(|tx| {
            tx.replace_entry(&a, &a);
            tx.replace_entry(&b, &c);
            tx.replace_entry(&c, &a);
        });
        result.unwrap();
        assert_eq!(all(), [1, 1, 1], "b was led to c, and c to a");
        // A program that runs under another handle outlives its own.
        runtime.transaction(|tx| tx.replace_entry(&a, &c)).unwrap();
        drop(c);
        runtime.barrier().unwrap();
        assert_eq!(run(runtime, &a), 3);
    });
}

/// Number of the helper.
const ACT: u32 = livebpf::helper::FIRST_CUSTOM;

type Action = Mutex<Option<Box<dyn FnOnce(&HelperCall<'_>) + Send>>>;

/// A runtime with a helper that does, once, what was put into the slot.
fn acting(engine: Engine) -> (Runtime, Arc<Action>) {
    let action: Arc<Action> = Arc::default();
    let then = action.clone();
    let function = move |call: &HelperCall<'_>| {
        let act = then.lock().unwrap().take();
        u64::from(act.map(|act| act(call)).is_some())
    };
    (builder(engine).helper(helper(ACT, &[]), function).build().unwrap(), action)
}

/// The entry of `chain` with a call of the helper in front.
fn acting_entry(runtime: &Runtime, chain: &Chain) -> Program {
    let source = format!("r6 = r1\ncall act#{ACT}\n{}w0 = {MISSED}\nexit\n", tail_call(0, 0));
    load_with(runtime, linked("acting", &source, &[chain.handle.def()]), &[&chain.handle]).unwrap()
}

#[test]
fn a_run_stays_in_its_generation_with_all_that_is_nested_in_it() {
    for engine in ENGINES {
        let (runtime, action) = acting(engine);
        let chain = Arc::new(Chain::new(&runtime));
        let entry = acting_entry(&runtime, &chain);
        let nested: Arc<OnceLock<Vec<u8>>> = Arc::default();
        let (then, found, own) = (chain.clone(), nested.clone(), runtime.clone());
        *action.lock().unwrap() = Some(Box::new(move |call| {
            then.switch(&own, 1).unwrap();
            // This single change comes after the transaction: it belongs to the new generation only.
            then.slots.set(5, &then.versions[0][5]).unwrap();
            let mut packet = context(&then.entry);
            call.run(&then.entry, &mut packet).unwrap();
            found.set(packet.packet()[..STAGES as usize].to_vec()).unwrap();
            let young = load(&own, answers("young", 1));
            let refused = call.run(&young, &mut context(&young)).unwrap_err();
            assert!(matches!(refused, RunError::Younger { .. }), "{refused}");
        }));
        let old = vec![1; STAGES as usize];
        assert_eq!((stamps(&runtime, &entry), nested.get()), (old.clone(), Some(&old)), "{engine}");
        let mut new = vec![2; STAGES as usize];
        new[5] = 1;
        assert_eq!((stamps(&runtime, &chain.entry), stamps(&runtime, &entry)), (new.clone(), new), "{engine}");
    }
}

#[test]
fn with_too_many_generations_in_use_a_transaction_is_refused() {
    for engine in ENGINES {
        let (runtime, action) = acting(engine);
        let chain = Arc::new(Chain::new(&runtime));
        runtime.barrier().unwrap();
        let entry = acting_entry(&runtime, &chain);
        let (then, own) = (chain.clone(), runtime.clone());
        *action.lock().unwrap() = Some(Box::new(move |_| {
            let made = (0..99).map(|i| then.switch(&own, i % 2)).take_while(Result::is_ok).count();
            let error = then.switch(&own, 0).unwrap_err();
            assert!(made == 15 && matches!(error, Error::Generations { live: 16 }), "{made}, {error}");
        }));
        assert_eq!(stamps(&runtime, &entry), [1; STAGES as usize]);
        assert!(action.lock().unwrap().is_none());
        runtime.barrier().unwrap();
        chain.switch(&runtime, 1).unwrap();
        assert_eq!(stamps(&runtime, &entry), [2; STAGES as usize]);
    }
}

#[test]
fn with_a_full_region_a_transaction_is_refused_and_updates_go_on() {
    for engine in NATIVE {
        let runtime = Runtime::builder().engine(engine).code_bytes(64 << 10).build().unwrap();
        let chain = Chain::new(&runtime);
        runtime.barrier().unwrap();
        let mut fillers = Vec::new();
        for size in [4000, 400, 40, 1] {
            let body = "r1 = 1\n".repeat(size) + "w0 = 0\nexit";
            while let Ok(ebpf) = runtime.load_linked(vec![linked("filler", &body, &[])]) {
                fillers.push(ebpf);
            }
        }
        runtime.barrier().unwrap();
        let used = runtime.code_used();
        let error = chain.switch(&runtime, 1).unwrap_err();
        assert!(matches!(error, Error::Text(_)), "{error}");
        runtime.barrier().unwrap();
        assert_eq!((stamps(&runtime, &chain.entry), runtime.code_used()), (vec![1; STAGES as usize], used));
        chain.slots.set(3, &chain.versions[1][3]).unwrap();
        assert_eq!(stamps(&runtime, &chain.entry)[3], 2);
        drop(fillers);
        runtime.barrier().unwrap();
        chain.switch(&runtime, 1).unwrap();
        assert_eq!(stamps(&runtime, &chain.entry), [2; STAGES as usize]);
    }
}

/// What a stress run came to.
#[derive(Default, Debug)]
struct Seen {
    packets: u64,
    versions: [u64; 2],
    mixed: u64,
}

/// Two runners on a chain that transactions switch back and forth, until `stress` is over, or a mixed packet is found.
fn switching(engine: Engine, faults: Faults) -> Seen {
    let runtime = runtime(engine);
    runtime.inject(faults);
    let chain = Chain::new(&runtime);
    let stop = AtomicBool::new(false);
    let (mixed, enough) = (AtomicU64::new(0), AtomicU64::new(0));
    let runner = || {
        let mut worker = runtime.worker().unwrap();
        let mut seen = Seen::default();
        let mut packet = context(&chain.entry);
        while !stop.load(Ordering::Relaxed) {
            packet.reset(&[0; 64]).unwrap();
            let result = worker.run(&chain.entry, &mut packet).unwrap();
            seen.packets += 1;
            match version_of(&packet.packet()).filter(|_| result == 1) {
                Some(version) => seen.versions[version] += 1,
                None => {
                    seen.mixed += 1;
                    mixed.fetch_add(1, Ordering::Relaxed);
                }
            }
            enough.fetch_add(1, Ordering::Relaxed);
        }
        seen
    };
    thread::scope(|scope| {
        let runners = [0, 1].map(|_| scope.spawn(runner));
        let _stop = StopOnDrop(&stop);
        let (begin, mut number) = (Instant::now(), 0u32);
        let more = |number| begin.elapsed() < stress() || number < 100 || enough.load(Ordering::Relaxed) < 1000;
        while more(number) && mixed.load(Ordering::Relaxed) == 0 && !runners.iter().any(|r| r.is_finished()) {
            match chain.switch(&runtime, (number % 2) as usize) {
                Ok(()) => number += 1,
                Err(Error::Generations { .. }) => runtime.barrier().unwrap(),
                Err(error) => panic!("{error}"),
            }
        }
        stop.store(true, Ordering::SeqCst);
        let mut total = Seen::default();
        for seen in runners.map(|r| r.join().unwrap()) {
            total.packets += seen.packets;
            total.mixed += seen.mixed;
            (0..2).for_each(|v| total.versions[v] += seen.versions[v]);
        }
        let counts = [("runs", total.packets), ("exact", total.packets - total.mixed), ("updates", number.into())];
        report(&format!("transactions, {engine}"), begin, &counts);
        total
    })
}

fn never_mixed(engine: Engine) {
    let seen = switching(engine, Faults::default());
    assert_eq!(seen.mixed, 0, "{seen:?}");
    assert!(seen.versions.iter().all(|v| *v > 0), "both versions must occur: {seen:?}");
}

#[test]
fn no_packet_is_mixed_while_chains_are_switched_patched() {
    never_mixed(Engine::Jit);
}

#[test]
fn no_packet_is_mixed_while_chains_are_switched_slots() {
    never_mixed(Engine::Slot);
}

#[test]
fn no_packet_is_mixed_while_chains_are_switched_interpreted() {
    never_mixed(Engine::Interp);
}

/// The control: the same without a generation is seen at once.
#[test]
fn without_a_generation_packets_are_mixed() {
    let begin = Instant::now();
    while begin.elapsed().as_secs() < 60 {
        let faults = Faults { transaction_without_generation: true, ..Faults::default() };
        if switching(Engine::Jit, faults).mixed > 0 {
            return;
        }
    }
    panic!("the test would not notice mixed packets");
}

/// A thread that makes transactions until the other work is done.
fn beside_transactions(
    name: &str,
    runtime: &Runtime,
    switch: impl Fn(u32) -> Result<(), Error> + Sync,
    work: impl Fn(&dyn Fn() -> bool) -> u32,
) {
    let (stop, made) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        let switcher = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                match switch(made.load(Ordering::Relaxed)) {
                    Ok(()) => drop(made.fetch_add(1, Ordering::Relaxed)),
                    Err(Error::Generations { .. }) => runtime.barrier().unwrap(),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let _stop = StopOnDrop(&stop);
        let begin = Instant::now();
        let more = || (begin.elapsed() < stress() || made.load(Ordering::Relaxed) < 50) && !switcher.is_finished();
        let number = work(&more);
        let counts = [("updates", number.into()), ("transactions", made.load(Ordering::Relaxed).into())];
        report(&format!("{name} beside transactions, {}", runtime.engine()), begin, &counts);
        stop.store(true, Ordering::SeqCst);
        switcher.join().unwrap();
        assert!(number > 20, "only {number} operations");
    });
}

#[test]
fn a_single_update_beside_transactions_is_never_lost() {
    for_each_engine(|runtime| {
        let chain = Chain::new(runtime);
        let switch = |number: u32| {
            let version = &chain.versions[(number % 2) as usize];
            runtime.transaction(|tx| (1..STAGES).for_each(|i| tx.set(&chain.slots, i, &version[i as usize])))
        };
        let work = |more: &dyn Fn() -> bool| {
            let (mut worker, mut packet, mut number) = (runtime.worker().unwrap(), context(&chain.entry), 0);
            while more() || number <= 20 {
                let wanted = (number % 3) as usize;
                match chain.versions.get(wanted) {
                    Some(version) => chain.slots.set(0, &version[0]).unwrap(),
                    None => chain.slots.clear_index(0).unwrap(),
                }
                packet.reset(&[0; 64]).unwrap();
                let result = worker.run(&chain.entry, &mut packet).unwrap();
                let expected = if wanted < 2 { (1, wanted as u8 + 1) } else { (MISSED, 0) };
                assert_eq!((result, packet.packet()[0]), expected, "update {number} was lost");
                number += 1;
            }
            number
        };
        beside_transactions("single updates", runtime, switch, work);
        chain.slots.audit().unwrap().unwrap();
    });
}

#[test]
fn loads_and_unloads_beside_transactions() {
    for_each_engine(|runtime| {
        let chain = Chain::new(runtime);
        let work = |more: &dyn Fn() -> bool| {
            let mut number = 0;
            while more() || number <= 20 {
                let caller = stage("caller", chain.handle.def(), STAGES, 3, Some(0));
                let caller = load_with(runtime, caller, &[&chain.handle]).unwrap();
                let last = load(runtime, answers("last", 7));
                chain.slots.set(STAGES, &last).unwrap();
                let mut packet = context(&caller);
                assert_eq!(runtime.worker().unwrap().run(&caller, &mut packet).unwrap(), 1);
                assert!(version_of(&packet.packet()).is_some(), "{:?}", packet.packet());
                number += 1;
            }
            number
        };
        beside_transactions("loads", runtime, |number| chain.switch(runtime, (number % 2) as usize), work);
    });
}
