//! Memory of programs: used again (C7), exhausted (C18), given up in every order (C10, C11), and very many programs.

mod live_support;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use live_support::*;
use livebpf::helper::FIRST_CUSTOM;
use livebpf::object::{MapInit, MapType};
use livebpf::observe::listing;
use livebpf::runtime::{Engine, Error, Program, ProgramArray, Runtime, Usage};
use livebpf::text::TextError;

fn base(program: &Program) -> u64 {
    listing(program).expect("machine code").base
}

/// Loads programs that are in no slot until one of them lies where another one lay.
fn reuse(runtime: &Runtime, address: u64) -> (Vec<Program>, bool) {
    let mut decoys = Vec::new();
    for _ in 0..8 {
        decoys.push(load(runtime, answers("decoy", 66)));
        if decoys.last().map(base) == Some(address) {
            return (decoys, true);
        }
    }
    (decoys, false)
}

fn c7(engine: Engine) {
    let runtime = runtime(engine);
    let (handle, slots) = array(&runtime, &prog_array("table", 1));
    let caller = load_with(&runtime, tries("caller", &[0, 0], handle.def()), &[&handle]).unwrap();
    let (stop, runs, reused) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut worker = runtime.worker().unwrap();
                let mut packet = context(&caller);
                while !stop.load(Ordering::Relaxed) {
                    let result = worker.run(&caller, &mut packet).unwrap();
                    assert!(
                        [1, 2, MISSED].contains(&result),
                        "{engine}: a program that is in no slot ran: {result:#x}"
                    );
                    runs.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _stop = StopOnDrop(&stop);
        let (begin, mut updates) = (Instant::now(), 0);
        while begin.elapsed() < stress() || reused.load(Ordering::Relaxed) < 20 {
            let one = load(&runtime, answers("one", 1));
            let address = base(&one);
            slots.set(0, &one).unwrap();
            drop(one);
            if updates % 2 == 0 {
                slots.clear_index(0).unwrap();
            } else {
                slots.set(0, &load(&runtime, answers("two", 2))).unwrap();
            }
            // Its grace period is over: it is overwritten with int3, and anybody may have its place.
            runtime.barrier().unwrap();
            let (decoys, hit) = reuse(&runtime, address);
            reused.fetch_add(u64::from(hit), Ordering::Relaxed);
            drop(decoys);
            runtime.barrier().unwrap();
            updates += 1;
            assert!(begin.elapsed() < stress() + Duration::from_secs(120), "memory is not used again");
        }
        let [runs, reused] = [&runs, &reused].map(|count| count.load(Ordering::Relaxed));
        report(&format!("C7, {engine}"), begin, &[("runs", runs), ("updates", 2 * updates), ("reused", reused)]);
    });
    assert!(runs.into_inner() > 100);
}

#[test]
fn c7_memory_of_a_program_that_left_its_slot_is_used_again_at_once_patched() {
    c7(Engine::Jit);
}

#[test]
fn c7_memory_of_a_program_that_left_its_slot_is_used_again_at_once_slots() {
    c7(Engine::Slot);
}

/// What must not be different after a load that failed.
fn state(runtime: &Runtime, slots: &ProgramArray) -> (Usage, Vec<Option<u32>>) {
    runtime.barrier().unwrap();
    let contents = (0..slots.len()).map(|key| slots.program_id(key).ok()).collect();
    (runtime.usage().unwrap(), contents)
}

fn full(result: Result<impl Sized, Error>) -> u64 {
    match result.map(drop) {
        Err(Error::Text(TextError::Full { wanted, used, capacity })) => {
            assert!(used <= capacity);
            wanted
        }
        other => panic!("wanted the code region to be full, found {other:?}"),
    }
}

#[test]
fn c18_a_load_that_finds_no_room_changes_nothing_and_updates_go_on() {
    for engine in NATIVE {
        let runtime = builder(engine).code_bytes(64 << 10).build().unwrap();
        let (handle, slots) = array(&runtime, &prog_array("table", 2));
        let target = load(&runtime, answers("target", 7));
        slots.set(1, &target).unwrap();
        let caller = || load_with(&runtime, tries("caller", &[0, 1], handle.def()), &[&handle]);
        let mut callers = vec![caller().unwrap()];
        let wanted = loop {
            match caller() {
                Ok(caller) => callers.push(caller),
                refused => break full(refused),
            }
        };
        assert!(wanted < 1024 && callers.len() > 50, "{} programs", callers.len());
        // In the place of one, smaller ones still fit; until nothing does.
        drop(callers.pop());
        runtime.barrier().unwrap();
        let mut fillers = Vec::new();
        let filler = |number| runtime.load_linked(vec![answers(&format!("filler{number}"), 1)]);
        while let Ok(filler) = filler(fillers.len()) {
            fillers.push(filler);
        }
        let before = state(&runtime, &slots);
        full(filler(0));
        full(caller());
        // Larger than the region as a whole.
        let huge = linked("huge", &format!("w0 = 0\n{}exit", "w0 += 100000\n".repeat(20_000)), &[]);
        assert!(full(runtime.load_linked(vec![huge])) > 64 << 10);
        // A program that fits after one that does: both go. The array's initialiser is not applied.
        drop(fillers.pop());
        let before_two = state(&runtime, &slots);
        let mut def = (**handle.def()).clone();
        def.init = MapInit::Programs(vec![(0, "small".to_owned())]);
        let def = Arc::new(def);
        let small = linked("small", "w0 = 1\nexit", &[]);
        let options = livebpf::runtime::LoadOptions::default().reuse_map("table", &handle);
        full(runtime.load_linked_with(vec![small, tries("large", &[0, 1, 0, 1], &def)], &options));
        assert_eq!(state(&runtime, &slots), before_two, "{engine}");
        fillers.push(filler(0).unwrap());
        assert_eq!(state(&runtime, &slots), before, "{engine}");

        // Updates need no room.
        for round in 0..20 {
            assert!(callers.iter().all(|caller| run(&runtime, caller) == 7), "{engine}, round {round}");
            slots.set(0, &callers[0]).unwrap();
            slots.clear_index(1).unwrap();
            assert_eq!(run(&runtime, &callers[1]), MISSED);
            slots.clear_index(0).unwrap();
            slots.set(1, &target).unwrap();
            assert!(slots.audit().unwrap().is_ok());
        }
        callers.truncate(callers.len() / 2);
        runtime.barrier().unwrap();
        assert_eq!(run(&runtime, &caller().unwrap()), 7, "{engine}: there is room again");
    }
}

/// V13 and V14: three programs are loaded at once, with a slot of their own, into a region that has a little more room each time.
/// Wherever there is none any more, nothing is left of what was placed and tracked before.
#[test]
fn v13_a_load_that_fails_anywhere_leaves_no_site_and_no_slot() {
    for engine in NATIVE {
        let runtime = builder(engine).code_bytes(64 << 10).build().unwrap();
        let (handle, slots) = array(&runtime, &prog_array("table", 2));
        let target = load(&runtime, answers("target", 7));
        slots.set(1, &target).unwrap();
        let mut def = (**handle.def()).clone();
        def.init = MapInit::Programs(vec![(0, "first".to_owned())]);
        let def = Arc::new(def);
        let options = livebpf::runtime::LoadOptions::default().reuse_map("table", &handle);
        let attempt = || {
            let programs = ["first", "second", "third"].map(|name| tries(name, &[1, 1, 1], &def));
            runtime.load_linked_with(programs.into(), &options)
        };
        let filler = |number| runtime.load_linked(vec![answers(&format!("filler{number}"), 1)]);
        let mut fillers = Vec::new();
        while let Ok(filler) = filler(fillers.len()) {
            fillers.push(filler);
        }
        let mut failed = 0;
        let ebpf = loop {
            let (before, sites) = (state(&runtime, &slots), slots.audit().unwrap());
            match attempt() {
                Ok(ebpf) => break ebpf,
                refused => full(refused),
            };
            assert_eq!(state(&runtime, &slots), before, "{engine}, after {failed} failures");
            assert_eq!(slots.audit().unwrap(), sites, "{engine}: sites of a program that is not there");
            slots.clear_index(1).unwrap();
            slots.set(1, &target).unwrap();
            failed += 1;
            fillers.pop().expect("without any filler there is room");
            runtime.barrier().unwrap();
        };
        assert!(failed > 3, "{engine}: {failed} places to fail at");
        assert_eq!(run(&runtime, program(&ebpf, "third")), 7);
        assert_eq!(slots.program_id(0).unwrap(), program(&ebpf, "first").id());
    }
}

/// What the programs and maps of one test are dropped as, and a sign of the runtime's end.
fn world(engine: Engine) -> (Vec<Box<dyn Any>>, Arc<()>) {
    let alive = Arc::new(());
    let sign = alive.clone();
    let runtime =
        builder(engine).helper(helper(FIRST_CUSTOM, &[]), move |_| Arc::strong_count(&sign) as u64).build().unwrap();
    let (handle, slots) = array(&runtime, &prog_array("table", 2));
    // The caller is in the array that it calls through; the target's only other user is a slot.
    let caller = load_with(&runtime, tries("caller", &[0, 1], handle.def()), &[&handle]).unwrap();
    let target = load(&runtime, linked("target", &format!("call {FIRST_CUSTOM}\nexit"), &[]));
    slots.set(0, &target).unwrap();
    slots.set(1, &caller).unwrap();
    let mut worker = runtime.worker().unwrap();
    assert_eq!(worker.run(&caller, &mut context(&caller)), Ok(2));
    let all: Vec<Box<dyn Any>> = vec![
        Box::new(runtime),
        Box::new(handle),
        Box::new(slots),
        Box::new(caller),
        Box::new(target),
        Box::new(worker),
    ];
    (all, alive)
}

/// Takes the things out in the order with this number.
fn in_order(mut things: Vec<Box<dyn Any>>, mut number: usize, mut each: impl FnMut(Box<dyn Any>)) {
    while !things.is_empty() {
        let count = things.len();
        each(things.remove(number % count));
        number /= count;
    }
}

#[test]
fn c10_c11_in_whatever_order_the_handles_go_nothing_stays() {
    for engine in ENGINES {
        // Runtimes go in the background: a few at a time.
        for orders in 0..720 / 40 {
            let alive: Vec<Arc<()>> = (0..40)
                .map(|n| {
                    let (things, alive) = world(engine);
                    in_order(things, orders * 40 + n, drop);
                    alive
                })
                .collect();
            let begin = Instant::now();
            while let Some(n) = alive.iter().position(|alive| Arc::strong_count(alive) > 1) {
                let order = orders * 40 + n;
                assert!(begin.elapsed() < Duration::from_secs(60), "{engine}, order {order}: the runtime never goes");
                thread::yield_now();
            }
        }
    }
}

#[test]
fn c10_c11_what_is_left_works_in_whatever_order_the_handles_go() {
    for engine in ENGINES {
        let runtime = runtime(engine);
        let used = runtime.usage().unwrap();
        for order in 0..120 {
            let (handle, slots) = array(&runtime, &prog_array("table", 2));
            let caller = load_with(&runtime, tries("caller", &[0], handle.def()), &[&handle]).unwrap();
            let other = load_with(&runtime, tries("other", &[1, 0], handle.def()), &[&handle]).unwrap();
            let target = load(&runtime, answers("target", 7));
            slots.set(0, &target).unwrap();
            slots.set(1, &other).unwrap();
            let things: Vec<Box<dyn Any>> =
                vec![Box::new(handle), Box::new(slots), Box::new(caller.clone()), Box::new(other), Box::new(target)];
            let mut array_handles = 2;
            in_order(things, order, |thing| {
                array_handles -= i32::from(!thing.is::<Program>());
                drop(thing);
                runtime.barrier().unwrap();
                // Programs stay in their slots until the array has no user any more.
                let expected = if array_handles > 0 { 7 } else { MISSED };
                assert_eq!(run(&runtime, &caller), expected, "{engine}, order {order}");
            });
            drop(caller);
            runtime.barrier().unwrap();
            assert_eq!(runtime.usage().unwrap(), used, "{engine}, order {order}");
        }
    }
}

/// A tail call through the slot whose number is the packet's first four bytes.
const INDIRECT: &str = "r6 = r1\nr2 = *(u32 *)(r1 + 4)\nr1 = *(u32 *)(r1 + 0)\nr3 = r1\nr3 += 4\nif r3 > r2 goto out\n\
    r3 = *(u32 *)(r1 + 0)\nr1 = r6\nr2 = map[idx:0]\ncall bpf_tail_call#12\nout:\nw0 = 1000000\nexit";

#[test]
fn ten_thousand_programs_in_one_array() {
    const COUNT: u32 = 10_000;
    const PER_CALLER: u32 = 500;
    for engine in NATIVE {
        let runtime = runtime(engine);
        let used = runtime.usage().unwrap();
        let (handle, slots) = array(&runtime, &prog_array("table", COUNT));
        assert_eq!(handle.map_type(), MapType::PROG_ARRAY);
        let indirect = load_with(&runtime, linked("indirect", INDIRECT, &[handle.def()]), &[&handle]).unwrap();
        // Direct tail calls through every 50th slot.
        let direct: Vec<Program> = (0..COUNT / PER_CALLER)
            .map(|n| {
                let keys: Vec<u32> = (n * PER_CALLER..(n + 1) * PER_CALLER).step_by(50).collect();
                load_with(&runtime, tries("direct", &keys, handle.def()), &[&handle]).unwrap()
            })
            .collect();
        for key in 0..COUNT {
            slots.set(key, &load(&runtime, answers("target", key))).unwrap();
        }
        let mut worker = runtime.worker().unwrap();
        let mut through = |key: u32| {
            let mut frame = [0; 64];
            frame[..4].copy_from_slice(&key.to_le_bytes());
            worker.run(&indirect, &mut livebpf::context::Context::xdp(&frame).unwrap()).unwrap()
        };
        assert!((0..COUNT).all(|key| through(key) == key), "{engine}");
        assert_eq!(through(COUNT), MISSED);
        for (n, caller) in direct.iter().enumerate() {
            let first = n as u32 * PER_CALLER;
            assert_eq!(run(&runtime, caller), first, "{engine}");
            slots.clear_index(first).unwrap();
            assert_eq!(run(&runtime, caller), first + 50, "{engine}");
        }
        assert!(slots.audit().unwrap().is_ok());
        let (in_use, sites) = (runtime.usage().unwrap(), if engine == Engine::Jit { 200 } else { 0 });
        assert_eq!(in_use.sites, used.sites + sites, "{engine}");
        drop((handle, slots, direct, indirect, worker));
        runtime.barrier().unwrap();
        assert_eq!(runtime.usage().unwrap(), used, "{engine}");
    }
}
