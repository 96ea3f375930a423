//! Updates of several slots at once and asynchronous updates: the kernel's rules, and how many core syncs they take.
//! Scenarios C8, C12, C17, C21.

mod live_support;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Instant;

use live_support::*;
use livebpf::helper::{Arg, FIRST_CUSTOM};
use livebpf::object::ProgType;
use livebpf::runtime::{BatchError, Completion, Engine, Error, MapHandle, Program, ProgramArray, Runtime};

/// How many changes were made, and the error number of the one that was refused.
fn refused(result: Result<(), BatchError>) -> (usize, i32) {
    let error = result.expect_err("something is wrong with one of them");
    (error.done, errno::<()>(Err(error.source)))
}

/// A runtime, an array of `slots` slots, and a program that tries them in turn.
fn chain(engine: Engine, slots: u32) -> (Runtime, MapHandle, ProgramArray, Program) {
    let runtime = runtime(engine);
    let (handle, array) = array(&runtime, &prog_array("table", slots));
    let all: Vec<u32> = (0..slots).collect();
    let caller = load_with(&runtime, tries("caller", &all, handle.def()), &[&handle]).unwrap();
    runtime.barrier().unwrap();
    (runtime, handle, array, caller)
}

/// What the slots hold, by the programs' numbers; 0: nothing.
fn held(slots: &ProgramArray) -> Vec<u32> {
    (0..slots.len()).map(|index| slots.program_id(index).unwrap_or(0)).collect()
}

#[test]
fn the_first_refusal_ends_a_batch_and_what_came_before_it_stays() {
    for engine in ENGINES {
        let (runtime, _handle, slots, caller) = chain(engine, 4);
        let [p, q] = [1, 2].map(|value| load(&runtime, answers("target", value)));
        let (a, b) = (p.id(), q.id());
        slots.set_many(&[]).unwrap();
        slots.set_many(&[(3, &p), (1, &q), (3, &q)]).unwrap();
        assert_eq!(held(&slots), [0, b, 0, b], "{engine}: the last one named for a slot wins");
        assert_eq!(run(&runtime, &caller), 2);
        assert_eq!(refused(slots.set_many(&[(0, &p), (4, &p), (2, &p)])), (1, libc::E2BIG));
        assert_eq!(held(&slots), [a, b, 0, b], "{engine}");
        let tc = load(&runtime, linked_as(ProgType::SCHED_CLS, "tc", "w0 = 3\nexit", &[]));
        assert_eq!(refused(slots.set_many(&[(0, &q), (2, &q), (1, &tc)])), (2, libc::EINVAL));
        assert_eq!(held(&slots), [b, b, b, b], "{engine}");
        assert_eq!(refused(slots.clear_many(&[0, 4, 1])), (1, libc::E2BIG));
        assert_eq!(refused(slots.clear_many(&[2, 2, 1])), (1, libc::ENOENT));
        assert_eq!(refused(slots.clear_many(&[0])), (0, libc::ENOENT));
        assert_eq!(held(&slots), [0, b, 0, b], "{engine}");
        assert_eq!(run(&runtime, &caller), 2);
        slots.clear_many(&[3, 1]).unwrap();
        assert_eq!(run(&runtime, &caller), MISSED);
        let stranger = load(&self::runtime(engine), answers("stranger", 1));
        let error = slots.set_many(&[(0, &p), (1, &stranger), (9, &p)]).unwrap_err();
        assert!(error.done == 1 && matches!(error.source, Error::Options(_)), "{engine}: {error}");
        assert!(error.to_string().contains("after 1 changes"), "{error}");
        assert_eq!(held(&slots), [a, 0, 0, 0]);
        assert!(slots.audit().unwrap().is_ok());
    }
}

#[test]
fn c21_a_thousand_slots_take_as_many_core_syncs_and_grace_periods_as_one() {
    const SLOTS: u32 = 1000;
    let (runtime, _handle, slots, caller) = chain(Engine::Jit, SLOTS);
    let [p, q] = [1, 2].map(|value| load(&runtime, answers("target", value)));
    let all = |program| (0..SLOTS).map(|index| (index, program)).collect::<Vec<_>>();
    let indexes: Vec<u32> = (0..SLOTS).collect();
    runtime.barrier().unwrap();
    // The update's own, and those of the grace periods after it: one for what is displaced and what is poisoned, or one
    // each where the reclaimer came between the two.
    let syncs = |what: &str, own: u64, update: &dyn Fn()| {
        let before = runtime.core_syncs();
        update();
        runtime.barrier().unwrap();
        let made = runtime.core_syncs() - before;
        assert!((own..=own + 2).contains(&made), "{made} core syncs for {what} of {SLOTS} slots");
        assert!(slots.audit().unwrap().is_ok());
    };
    for _ in 0..3 {
        syncs("an insert", 2, &|| slots.set_many(&all(&p)).unwrap());
        assert_eq!(run(&runtime, &caller), 1);
        syncs("a replacement", 1, &|| slots.set_many(&all(&q)).unwrap());
        assert_eq!(run(&runtime, &caller), 2);
        syncs("nothing new", 0, &|| slots.set_many(&all(&q)).unwrap());
        syncs("a delete", 1, &|| slots.clear_many(&indexes).unwrap());
        assert_eq!(run(&runtime, &caller), MISSED);
    }
}

#[test]
fn asynchronous_changes_are_made_in_order_and_each_reports() {
    for engine in ENGINES {
        let (runtime, _handle, slots, caller) = chain(engine, 3);
        let [p, q] = [1, 2].map(|value| load(&runtime, answers("target", value)));
        let (a, b) = (p.id(), q.id());
        slots.set_async(1, &p).unwrap().wait().unwrap();
        assert_eq!((held(&slots), run(&runtime, &caller)), (vec![0, a, 0], 1), "{engine}");
        let reports = [
            slots.clear_async(1),
            slots.clear_async(1),
            slots.set_async(1, &q),
            slots.set_async(2, &p),
            slots.clear_async(2),
            slots.clear_async(2),
            slots.set_async(0, &p),
            slots.set_async(0, &q),
        ]
        .map(Result::unwrap);
        reports.last().unwrap().wait().unwrap();
        assert!(reports.iter().all(Completion::is_done), "{engine}: in order");
        let refused: Vec<bool> = reports.iter().map(|report| report.wait().is_err()).collect();
        assert_eq!(refused, [false, true, false, false, false, true, false, false], "{engine}");
        assert_eq!(errno(reports[1].wait()), libc::ENOENT);
        assert_eq!((held(&slots), run(&runtime, &caller)), (vec![b, b, 0], 2), "{engine}");
        // What can be known at once is.
        assert_eq!(errno(slots.set_async(3, &p)), libc::E2BIG);
        assert_eq!(errno(slots.clear_async(3)), libc::E2BIG);
        let tc = load(&runtime, linked_as(ProgType::SCHED_CLS, "tc", "w0 = 3\nexit", &[]));
        assert_eq!(errno(slots.set_async(0, &tc)), libc::EINVAL);
        let stranger = load(&self::runtime(engine), answers("stranger", 1));
        assert!(matches!(slots.set_async(0, &stranger), Err(Error::Options(_))));
        assert!(slots.audit().unwrap().is_ok());
    }
}

#[test]
fn many_asynchronous_changes_take_few_core_syncs() {
    const CHANGES: usize = 20_000;
    let (runtime, _handle, slots, caller) = chain(Engine::Jit, 2);
    let programs = [1, 2].map(|value| load(&runtime, answers("target", value)));
    slots.set(0, &programs[0]).unwrap();
    runtime.barrier().unwrap();
    let (begin, before) = (Instant::now(), runtime.core_syncs());
    let reports: Vec<_> = (0..CHANGES).map(|i| slots.set_async(0, &programs[i % 2]).unwrap()).collect();
    reports.last().unwrap().wait().unwrap();
    let (made, elapsed) = (runtime.core_syncs() - before, begin.elapsed().as_millis() as u64);
    assert!(reports.iter().all(Completion::is_done));
    assert_eq!(run(&runtime, &caller), 2);
    // A batch a millisecond at most, with a core sync of its own and perhaps one of a grace period; and the last, in a hurry.
    println!("{CHANGES} changes, {elapsed} ms, {made} core syncs");
    assert!(made <= 2 * (elapsed + 3), "{made} core syncs in {elapsed} ms");
    assert!(slots.audit().unwrap().is_ok());
}

/// Counts how often it is woken, and wakes a thread.
struct Woken(thread::Thread, AtomicU64);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.unpark();
    }
}

#[test]
fn a_completion_is_a_future() {
    let (runtime, _handle, slots, caller) = chain(Engine::Jit, 1);
    let target = load(&runtime, answers("target", 1));
    let woken = Arc::new(Woken(thread::current(), AtomicU64::new(0)));
    let waker = Waker::from(woken.clone());
    let mut context = Context::from_waker(&waker);
    for round in 0..100 {
        let mut change = if round % 2 == 0 { slots.set_async(0, &target) } else { slots.clear_async(0) }.unwrap();
        let (before, mut polls) = (woken.1.load(Ordering::SeqCst), 0);
        let result = loop {
            polls += 1;
            match Pin::new(&mut change).poll(&mut context) {
                Poll::Ready(result) => break result,
                Poll::Pending => {
                    while woken.1.load(Ordering::SeqCst) == before {
                        thread::park();
                    }
                }
            }
        };
        result.unwrap();
        assert!(polls <= 2, "woken before it was done");
        assert_eq!(run(&runtime, &caller), if round % 2 == 0 { 1 } else { MISSED });
    }
    let mut refused = slots.clear_async(0).unwrap();
    while !refused.is_done() {
        thread::yield_now();
    }
    assert!(matches!(Pin::new(&mut refused).poll(&mut context), Poll::Ready(Err(Error::Map { .. }))));
}

#[test]
fn what_is_queued_is_made_though_every_handle_goes() {
    for engine in ENGINES {
        let completions: Vec<_> = (0..20)
            .flat_map(|_| {
                let (runtime, handle, slots, caller) = chain(engine, 2);
                let target = load(&runtime, answers("target", 1));
                let reports = [slots.set_async(0, &target), slots.set_async(1, &caller), slots.clear_async(0)];
                drop((runtime, handle, slots, caller, target));
                reports.map(Result::unwrap)
            })
            .collect();
        completions.iter().for_each(|report| report.wait().unwrap());
    }
}

#[test]
fn an_array_that_goes_with_changes_queued_is_emptied_after_them() {
    for engine in ENGINES {
        let runtime = runtime(engine);
        let used = runtime.usage().unwrap();
        for _ in 0..20 {
            let (handle, slots) = array(&runtime, &prog_array("table", 2));
            let caller = load_with(&runtime, tries("caller", &[0, 1], handle.def()), &[&handle]).unwrap();
            // A circle, were it not emptied.
            let last = [slots.set_async(0, &caller), slots.set_async(1, &caller)].map(Result::unwrap);
            drop((handle, slots, caller));
            last[1].wait().unwrap();
        }
        // The thread reports before it lets go of the handles.
        while runtime.usage().unwrap() != used {
            runtime.barrier().unwrap();
            thread::yield_now();
        }
    }
}

type Act = dyn Fn(u64) -> u64 + Send + Sync;

#[test]
fn c12_a_run_may_ask_for_changes_and_wait_for_them() {
    for engine in ENGINES {
        let act: Arc<OnceLock<Box<Act>>> = Arc::default();
        // Weak: what it does may hold programs, which hold the runtime.
        let inside = Arc::downgrade(&act);
        let call = move |call: &livebpf::runtime::HelperCall<'_>| {
            let act = inside.upgrade().expect("the test's");
            act.get().expect("an act")(call.arg(0))
        };
        let runtime = builder(engine).helper(helper(FIRST_CUSTOM, &[Arg::Scalar]), call).build().unwrap();
        let (handle, slots) = array(&runtime, &prog_array("table", 2));
        let target = load(&runtime, answers("target", 7));
        let source = |what: u32| {
            let calls =
                format!("r6 = r1\nr1 = {what}\ncall {FIRST_CUSTOM}\nif r0 == 0 goto ok\nw0 = 0xbad\nexit\nok:\n");
            linked("acts", &format!("{calls}{}w0 = {MISSED}\nexit", tail_call(0, 0)), &[handle.def()])
        };
        let programs = [0, 1, 2, 3].map(|what| load_with(&runtime, source(what), &[&handle]).unwrap());
        let (own, inserted) = (slots.clone(), target.clone());
        let missing = |result: Result<(), Error>| match result {
            Ok(()) => 0,
            Err(Error::Map { source, .. }) => u64::from(source.errno() != libc::ENOENT),
            Err(_) => 1,
        };
        let change = move |what: u64| match what {
            0 => missing(own.clear_async(0).and_then(|change| change.wait())),
            1 => u64::from(own.set_async(0, &inserted).and_then(|change| change.wait()).is_err()),
            2 => u64::from(own.set_many(&[(0, &inserted), (1, &inserted)]).is_err()),
            _ => missing(own.clear_many(&[1, 0]).map_err(|e| e.source)),
        };
        assert!(act.set(Box::new(change)).is_ok());
        // Alone each sees its own change; then two threads at once.
        assert_eq!([1, 0, 2, 3].map(|i: usize| run(&runtime, &programs[i])), [7, MISSED, 7, MISSED], "{engine}");
        thread::scope(|scope| {
            for first in 0..2 {
                let (runtime, programs) = (&runtime, &programs);
                scope.spawn(move || {
                    let mut worker = runtime.worker().unwrap();
                    let mut packet = context(&programs[0]);
                    let begin = Instant::now();
                    while begin.elapsed() < stress() / 4 {
                        for program in &programs[2 * first..2 * first + 2] {
                            let result = worker.run(program, &mut packet).unwrap();
                            assert!(result == 7 || result == MISSED, "{engine}: {result:#x}");
                        }
                    }
                });
            }
        });
        runtime.barrier().unwrap();
        assert!(slots.audit().unwrap().is_ok());
    }
}

#[test]
fn c17_a_forks_child_is_refused_asynchronous_changes_and_does_not_wait() {
    #![allow(unsafe_code)]
    let (runtime, _handle, slots, caller) = chain(Engine::Jit, 1);
    let target = load(&runtime, answers("target", 1));
    slots.set_async(0, &target).unwrap().wait().unwrap();
    runtime.barrier().unwrap();
    let pending = slots.clear_async(0).unwrap();
    // SAFETY: the child makes no call that needs a lock another thread may have held, and ends by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let forked = |result: Result<Completion, Error>| matches!(result, Err(Error::Update(_)));
        let waits = pending.is_done() || matches!(pending.wait(), Err(Error::Wait(_)));
        let good = forked(slots.clear_async(0)) && forked(slots.set_async(0, &target)) && waits;
        // SAFETY: ends the child without running destructors.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    let mut status = 0;
    // SAFETY: waits for the child just made.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    pending.wait().unwrap();
    assert_eq!(run(&runtime, &caller), MISSED);
}

#[test]
fn c8_runs_that_start_after_the_report_or_the_return_see_all_of_it() {
    for engine in NATIVE {
        let (runtime, _handle, slots, caller) = chain(engine, 2);
        let programs = [1, 2].map(|value| load(&runtime, answers("target", value)));
        // Sequence number of the last change whose report came, and what the caller answers from then on.
        let (sequence, expected) = (AtomicU64::new(0), AtomicU32::new(MISSED));
        let stop = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            let exact = scope.spawn(|| {
                let mut worker = runtime.worker().unwrap();
                let (mut packet, mut exact) = (context(&caller), 0);
                while !stop.load(Ordering::SeqCst) {
                    let before = sequence.load(Ordering::SeqCst);
                    let value = expected.load(Ordering::SeqCst);
                    let result = worker.run(&caller, &mut packet).unwrap();
                    assert!([1, 2, MISSED].contains(&result), "{engine}: {result:#x}");
                    if before.is_multiple_of(2) && sequence.load(Ordering::SeqCst) == before {
                        assert_eq!(result, value, "{engine}: a run that began after the report did not see the change");
                        exact += 1;
                    }
                }
                exact
            });
            let _stop = StopOnDrop(&stop);
            let (begin, mut number) = (Instant::now(), 0u64);
            while (begin.elapsed() < stress() || number < 20) && !exact.is_finished() {
                let which = (number % 5) as usize;
                sequence.fetch_add(1, Ordering::SeqCst);
                match which {
                    0 => slots.set_async(0, &programs[0]).unwrap().wait().unwrap(),
                    1 => slots.set_async(0, &programs[1]).unwrap().wait().unwrap(),
                    2 => slots.set_many(&[(1, &programs[1]), (0, &programs[0])]).unwrap(),
                    3 => slots.clear_many(&[0]).unwrap(),
                    _ => slots.clear_async(1).unwrap().wait().unwrap(),
                }
                expected.store([1, 2, 1, 2, MISSED][which], Ordering::SeqCst);
                sequence.fetch_add(1, Ordering::SeqCst);
                number += 1;
                // Time for a run in between.
                thread::yield_now();
            }
            stop.store(true, Ordering::SeqCst);
            let exact = exact.join().unwrap();
            report(&format!("C8 with asynchronous updates, {engine}"), begin, &[("exact", exact), ("updates", number)]);
            assert!(exact > 0);
        });
    }
}

#[test]
fn batches_and_asynchronous_changes_that_race_transactions_are_not_lost() {
    let (runtime, _handle, slots, caller) = chain(Engine::Jit, 3);
    let programs = [1, 2].map(|value| load(&runtime, answers("target", value)));
    let other = load(&runtime, answers("other", 3));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (transactions, changes) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let _stop = StopOnDrop(&stop);
            let begin = Instant::now();
            let few = || transactions.load(Ordering::SeqCst) < 20 || changes.load(Ordering::SeqCst) < 100;
            while begin.elapsed() < stress() || few() && begin.elapsed() < stress() + std::time::Duration::from_secs(60)
            {
                match runtime.transaction(|tx| tx.set(&slots, 2, &other)) {
                    Ok(()) => transactions.fetch_add(1, Ordering::SeqCst),
                    // The generations before have not been reclaimed yet.
                    Err(Error::Generations { .. }) => 0,
                    Err(error) => panic!("{error}"),
                };
            }
        });
        let _stop = StopOnDrop(&stop);
        for number in 0.. {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let (value, program) = ([1, 2][number % 2], &programs[number % 2]);
            match number % 4 {
                0 | 1 => slots.set_many(&[(0, program), (1, program)]).unwrap(),
                _ => slots.set_async(0, program).unwrap().wait().unwrap(),
            }
            assert_eq!(run(&runtime, &caller), value, "change {number} was lost");
            changes.fetch_add(1, Ordering::SeqCst);
        }
    });
    println!("{changes:?} changes, {transactions:?} transactions");
    assert!(transactions.into_inner() >= 20 && changes.into_inner() >= 100);
    assert_eq!(run(&runtime, &caller), slots.program_id(0).map_or(0, |id| if id == programs[0].id() { 1 } else { 2 }));
    assert!(slots.audit().unwrap().is_ok());
}
