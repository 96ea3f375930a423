//! Updates from everywhere, and programs, arrays and threads that come and go meanwhile. Scenarios C8, C9, C11, C12, C19.

mod live_support;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use live_support::*;
use livebpf::helper::{Arg, FIRST_CUSTOM};
use livebpf::runtime::{Engine, Error, MapHandle, ProgramArray, Runtime};

#[test]
fn c8_a_run_that_another_thread_starts_after_an_update_sees_it() {
    for engine in NATIVE {
        let runtime = runtime(engine);
        let (handle, slots) = array(&runtime, &prog_array("table", 1));
        let caller = load_with(&runtime, tries("caller", &[0], handle.def()), &[&handle]).unwrap();
        let (ask, asked) = mpsc::channel::<u32>();
        let (answer, answered) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut worker = runtime.worker().unwrap();
                let mut packet = context(&caller);
                for expected in asked {
                    answer.send((expected, worker.run(&caller, &mut packet).unwrap())).unwrap();
                }
            });
            let (begin, mut updates) = (Instant::now(), 0);
            while goes_on(begin, stress(), || updates > 10) {
                let program = load(&runtime, answers("new", updates));
                slots.set(0, &program).unwrap();
                ask.send(updates).unwrap();
                let (expected, found) = answered.recv().unwrap();
                assert_eq!(found, expected, "{engine}: after an insert or a replacement");
                if updates % 3 == 0 {
                    slots.clear_index(0).unwrap();
                    ask.send(MISSED).unwrap();
                    assert_eq!(answered.recv().unwrap(), (MISSED, MISSED), "{engine}: after a delete");
                }
                updates += 1;
            }
            drop(ask);
            report(&format!("C8, {engine}"), begin, &[("updates", updates.into())]);
            assert!(updates > 10);
        });
    }
}

#[test]
fn c9_callers_are_loaded_and_unloaded_while_slots_change() {
    for engine in NATIVE {
        let runtime = runtime(engine);
        let used = runtime.usage().unwrap();
        let (handle, slots) = array(&runtime, &prog_array("table", 2));
        let target = load(&runtime, answers("target", 7));
        let stop = AtomicBool::new(false);
        let updates = AtomicU64::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    slots.set(0, &target).unwrap();
                    slots.clear_index(0).unwrap();
                    updates.fetch_add(2, Ordering::SeqCst);
                }
            });
            let _stop = StopOnDrop(&stop);
            let mut worker = runtime.worker().unwrap();
            let mut packet = context(&target);
            let (begin, mut loads) = (Instant::now(), 0);
            while goes_on(begin, stress(), || loads > 50 && updates.load(Ordering::SeqCst) > 50) {
                let caller = load_with(&runtime, tries("caller", &[1, 0, 0], handle.def()), &[&handle]).unwrap();
                let result = worker.run(&caller, &mut packet).unwrap();
                assert!(result == 7 || result == MISSED, "{engine}: {result:#x}");
                // In a slot itself: the next one loaded calls it, until it is replaced.
                slots.set(1, &caller).unwrap();
                loads += 1;
            }
            stop.store(true, Ordering::SeqCst);
            report(&format!("C9, {engine}"), begin, &[("updates", updates.load(Ordering::SeqCst)), ("loads", loads)]);
            assert!(loads > 50 && updates.load(Ordering::SeqCst) > 50);
        });
        drop((handle, slots, target));
        runtime.barrier().unwrap();
        // No code, no tracked site, no reader, nothing that waits.
        assert_eq!(runtime.usage().unwrap(), used, "{engine}");
    }
}

/// A runtime whose helper `call #FIRST_CUSTOM` does with R1 what is decided later.
type Act = dyn Fn(u64) -> u64 + Send + Sync;

fn acting(engine: Engine) -> (Runtime, Arc<OnceLock<Box<Act>>>) {
    let act: Arc<OnceLock<Box<Act>>> = Arc::default();
    // Weak: what it does may hold programs, which hold the runtime.
    let inside = Arc::downgrade(&act);
    let call = move |call: &livebpf::runtime::HelperCall<'_>| {
        let act = inside.upgrade().expect("the test's");
        act.get().expect("an act")(call.arg(0))
    };
    let runtime = builder(engine).helper(helper(FIRST_CUSTOM, &[Arg::Scalar]), call).build().unwrap();
    (runtime, act)
}

/// Calls the helper with `argument`, then tries slot 0.
fn acts_then_calls(argument: u32, handle: &MapHandle) -> livebpf::link::Program {
    let source = format!(
        "r6 = r1\nr7 = 7\nr1 = {argument}\ncall {FIRST_CUSTOM}\nif r0 == 0 goto ok\nw0 = 0xbad\nexit\nok:\n{}r0 = r7\nr0 += {}\nexit",
        tail_call(0, 0),
        MISSED - 7
    );
    linked("acts", &source, &[handle.def()])
}

#[test]
fn c12_a_run_may_change_the_array_that_it_is_about_to_use() {
    for engine in ENGINES {
        let (runtime, act) = acting(engine);
        let (handle, slots) = array(&runtime, &prog_array("table", 1));
        let (clears, sets) = (0, 1);
        let [clear, set] =
            [clears, sets].map(|what| load_with(&runtime, acts_then_calls(what, &handle), &[&handle]).unwrap());
        let target = load(&runtime, answers("target", 7));
        let (array, inserted, own) = (slots.clone(), target.clone(), runtime.clone());
        let change = move |what: u64| match what {
            // The slot may be empty already. A wait for oneself is refused, and does not hang.
            0 => u64::from(array.clear_index(0).is_err() || !matches!(own.barrier(), Err(Error::Wait(_)))),
            _ => u64::from(array.set(0, &inserted).is_err()),
        };
        assert!(act.set(Box::new(change)).is_ok());
        let mut worker = runtime.worker().unwrap();
        let mut packet = context(&clear);
        for _ in 0..100 {
            assert_eq!(worker.run(&set, &mut packet), Ok(7), "{engine}: inserted by the run itself");
            assert_eq!(worker.run(&clear, &mut packet), Ok(MISSED), "{engine}: deleted by the run itself");
        }
        // The program that runs replaces itself, and goes on in what it put there.
        slots.set(0, &set).unwrap();
        let caller = load_with(&runtime, tries("caller", &[0], handle.def()), &[&handle]).unwrap();
        drop(set);
        assert_eq!(worker.run(&caller, &mut packet), Ok(7), "{engine}");
        runtime.barrier().unwrap();
    }
}

#[test]
fn c12_updates_from_inside_of_runs_on_two_threads() {
    for engine in ENGINES {
        let (runtime, act) = acting(engine);
        let (handle, slots) = array(&runtime, &prog_array("table", 1));
        let programs = [0, 1].map(|what| load_with(&runtime, acts_then_calls(what, &handle), &[&handle]).unwrap());
        let (array, target) = (slots.clone(), load(&runtime, answers("target", 7)));
        let change = move |what: u64| match what {
            0 => match array.clear_index(0) {
                Ok(()) => 0,
                Err(Error::Map { source, .. }) => u64::from(source.errno() != libc::ENOENT),
                Err(_) => 1,
            },
            _ => u64::from(array.set(0, &target).is_err()),
        };
        assert!(act.set(Box::new(change)).is_ok());
        thread::scope(|scope| {
            for program in &programs {
                let runtime = &runtime;
                scope.spawn(move || {
                    let mut worker = runtime.worker().unwrap();
                    let mut packet = context(program);
                    let begin = Instant::now();
                    while begin.elapsed() < stress() / 4 {
                        let result = worker.run(program, &mut packet).unwrap();
                        assert!(result == 7 || result == MISSED, "{engine}: {result:#x}");
                    }
                });
            }
        });
        runtime.barrier().unwrap();
    }
}

/// A way to give up the last handle of an array from inside a run.
type LastHandle = Arc<std::sync::Mutex<Option<(MapHandle, ProgramArray)>>>;

#[test]
fn c11_a_run_in_flight_ends_well_when_the_array_goes() {
    for engine in ENGINES {
        let (runtime, act) = acting(engine);
        let used = runtime.code_used();
        let (handle, slots) = array(&runtime, &prog_array("table", 1));
        let program = load_with(&runtime, acts_then_calls(0, &handle), &[&handle]).unwrap();
        slots.set(0, &load(&runtime, answers("target", 7))).unwrap();
        let last: LastHandle = Arc::new(std::sync::Mutex::new(Some((handle, slots))));
        let inside = last.clone();
        assert!(
            act.set(Box::new(move |_| {
                drop(inside.lock().unwrap().take());
                0
            }))
            .is_ok()
        );
        // The slots are emptied after the runs that are going on; this one may find the slot full or empty.
        let result = run(&runtime, &program);
        assert!(result == 7 || result == MISSED, "{engine}: {result:#x}");
        runtime.barrier().unwrap();
        assert_eq!(run(&runtime, &program), MISSED, "{engine}");
        drop(program);
        runtime.barrier().unwrap();
        assert_eq!(runtime.code_used(), used, "{engine}");
    }
}

#[test]
fn c19_threads_come_and_go_while_slots_change() {
    for engine in NATIVE {
        let runtime = runtime(engine);
        let (handle, slots) = array(&runtime, &prog_array("table", 1));
        let caller = load_with(&runtime, tries("caller", &[0], handle.def()), &[&handle]).unwrap();
        // It never runs anything, and delays nobody.
        let _idle = runtime.worker().unwrap();
        let (begin, mut rounds) = (Instant::now(), 0);
        while goes_on(begin, stress(), || rounds > 5) {
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let result = run(&runtime, &caller);
                        assert!(result == 7 || result == MISSED, "{engine}: {result:#x}");
                    });
                }
                slots.set(0, &load(&runtime, answers("target", 7))).unwrap();
                slots.clear_index(0).unwrap();
            });
            runtime.barrier().unwrap();
            rounds += 1;
        }
        report(
            &format!("C19, {engine}"),
            begin,
            &[("runs", 4 * rounds), ("updates", 2 * rounds), ("threads", 4 * rounds)],
        );
        assert!(rounds > 5);
    }
}

#[test]
fn c19_a_run_that_sleeps_in_a_helper_holds_up_reclaim_but_no_update() {
    for engine in ENGINES {
        let (runtime, act) = acting(engine);
        let asleep = Arc::new(AtomicU32::new(0));
        let inside = asleep.clone();
        let sleep = move |_| {
            inside.store(1, Ordering::SeqCst);
            while inside.load(Ordering::SeqCst) != 2 {
                thread::sleep(Duration::from_millis(1));
            }
            0
        };
        assert!(act.set(Box::new(sleep)).is_ok());
        let (handle, slots) = array(&runtime, &prog_array("table", 1));
        let sleeper = load(&runtime, linked("sleeper", &format!("r1 = 0\ncall {FIRST_CUSTOM}\nr0 += 9\nexit"), &[]));
        let caller = load_with(&runtime, tries("caller", &[0], handle.def()), &[&handle]).unwrap();
        runtime.barrier().unwrap();
        let used = runtime.code_used();
        slots.set(0, &sleeper).unwrap();
        thread::scope(|scope| {
            let runner = scope.spawn(|| run(&runtime, &caller));
            while asleep.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            // The program it sleeps in is taken away, from the slot and by its handle.
            drop(sleeper);
            slots.clear_index(0).unwrap();
            thread::sleep(Duration::from_millis(30));
            assert_eq!(runtime.code_used(), used, "{engine}: code is freed under a run");
            let waiter = scope.spawn(|| runtime.barrier());
            thread::sleep(Duration::from_millis(30));
            assert!(!waiter.is_finished(), "{engine}: a grace period ended during a run");
            asleep.store(2, Ordering::SeqCst);
            assert_eq!(runner.join().unwrap(), 9, "{engine}");
            waiter.join().unwrap().unwrap();
        });
        if engine != Engine::Interp {
            assert!(runtime.code_used() < used, "{engine}: never freed");
        }
        assert_eq!(run(&runtime, &caller), MISSED);
    }
}
