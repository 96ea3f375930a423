//! Live patching with real threads: what runs see while slots change. tests/protections.rs shows that these tests would notice a mistake.
//!
//! Timed tests take `LIVEBPF_STRESS_SECONDS` each (1 without it).

mod handmade;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use handmade::toggle::*;
use handmade::{Bench, call, program, run};
use livebpf::jit::PokeSite;
use livebpf::map::prog_array::ProgArray;
use livebpf::rcu::Domain;
use livebpf::text::{CoreSync, Image, Patcher, Region, RegionOptions, TextError, UpdateError};

#[test]
fn c1_insert_and_delete_give_the_program_or_the_fall_through() {
    let bench = Bench::new();
    toggle("C1, text", &bench, stress(), true, insert_delete(&bench));
}

#[test]
fn c2_replace_never_gives_the_fall_through() {
    // Each replaced program's memory is used again for one that answers something else (C7).
    let bench = Bench::new();
    toggle("C2, text", &bench, stress(), false, |array, number, stamp| {
        let target = bench.load(&program(&[], number), &[]).unwrap();
        stamp.change(number, || bench.set(array, 0, target));
    });
}

#[test]
fn c9_callers_in_the_middle_of_a_chain_are_replaced_while_their_own_slots_change() {
    // entry → slot 0, always a fresh program with sites of its own → slot 1, inserted fresh and deleted in turn.
    let bench = Bench::new();
    toggle("C9, text", &bench, stress(), true, |array, number, stamp| {
        let middle = bench.load(&program(&[call(0, 1), call(0, 1)], MISSED), &[array]).unwrap();
        bench.set(array, 0, middle);
        if number % 2 == 0 {
            let last = bench.load(&program(&[], number), &[]).unwrap();
            stamp.change(number, || bench.set(array, 1, last));
        } else if array.word(1) != 0 {
            stamp.change(MISSED, || bench.clear(array, 1));
        }
    });
}

/// Pseudo-random numbers.
fn random(seed: &mut u64) -> u32 {
    *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*seed >> 33) as u32
}

#[test]
fn c3_many_callers_many_sites_and_two_writers() {
    const KEYS: u32 = 3;
    let bench = Bench::new();
    let array = ProgArray::new(KEYS).unwrap();
    // 8 callers with 4 sites per key each. Targets call on: so chains form, loops too, that end at the limit.
    let calls: Vec<_> = (0..4 * KEYS).map(|i| call(0, i % KEYS)).collect();
    let callers: Vec<_> = (0..8).map(|_| bench.load(&program(&calls, MISSED), &[&array]).unwrap()).collect();
    let targets: Vec<_> = (0..2 * KEYS)
        .map(|i| {
            let onwards: &[_] = if i < KEYS { &[] } else { &[call(0, (i + 1) % KEYS)] };
            bench.load(&program(onwards, i), &[&array]).unwrap()
        })
        .collect();
    let (begin, time) = (Instant::now(), stress());
    let (writes, runs) = (AtomicU64::new(0), AtomicU64::new(0));
    let enough = || writes.load(Ordering::Relaxed) > 100 && runs.load(Ordering::Relaxed) > 1000;
    let enough = &enough;
    std::thread::scope(|scope| {
        for writer in 0..2u64 {
            let (bench, array, targets, writes) = (&bench, &array, &targets, &writes);
            scope.spawn(move || {
                let mut seed = writer;
                while goes_on(begin, time, enough) {
                    let key = random(&mut seed) % KEYS;
                    let which = random(&mut seed) % 3;
                    let mut guard = bench.patcher.update().unwrap();
                    let retired = if which == 2 {
                        array.clear_index(key, &mut guard).unwrap_or_default()
                    } else {
                        let target = targets[(key + KEYS * which) as usize].clone();
                        array.set(key, target, 0, &mut guard).unwrap()
                    };
                    guard.audit(&[array]).unwrap();
                    drop(guard);
                    bench.domain.retire(retired);
                    writes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for first in 0..2 {
            let (bench, callers, runs) = (&bench, &callers, &runs);
            scope.spawn(move || {
                let reader = bench.domain.reader();
                let mut next = first;
                while goes_on(begin, time, enough) {
                    for _ in 0..100 {
                        next = (next + 1) % callers.len();
                        let _section = reader.enter();
                        // SAFETY: a loaded image, in a section.
                        let result = unsafe { run(callers[next].image.entry()) };
                        assert!(result == MISSED || result < 2 * KEYS, "a run answered {result:#x}");
                    }
                    runs.fetch_add(100, Ordering::Relaxed);
                }
            });
        }
    });
    let [runs, writes] = [&runs, &writes].map(|count| count.load(Ordering::Relaxed));
    report("C3, text", begin, &[("runs", runs), ("updates", writes)]);
    assert!(enough(), "too little happened to show anything");
    assert_eq!(bench.audit(&[&array]), Ok(8 * 12 + 3));
}

#[test]
fn c4_delete_returns_but_nothing_is_poisoned_or_freed_while_a_run_is_behind_the_bypass() {
    let bench = Bench::new();
    let array = ProgArray::new(1).unwrap();
    let gate = [AtomicU32::new(1), AtomicU32::new(0)];
    let gated = handmade::Call { gate: Some(&raw const gate as u64), ..call(0, 0) };
    let caller = bench.load(&program(&[gated], MISSED), &[&array]).unwrap();
    let target = bench.load(&program(&[], 7), &[]).unwrap();
    let still_there = Arc::downgrade(&target);
    bench.set(&array, 0, target);
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| {
            let reader = bench.domain.reader();
            let _section = reader.enter();
            // SAFETY: a loaded image, in a section.
            unsafe { run(caller.image.entry()) }
        });
        let _open = OpenOnDrop(&gate[0]);
        while gate[1].load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        let open = caller.image.bytes();
        bench.clear(&array, 0);
        let site = caller.image.sites()[0];
        let field = |bytes: &[u8], at: u32| bytes[at as usize..at as usize + 4].to_vec();
        let closed = caller.image.bytes();
        assert_eq!(closed[site.bypass_field() as usize], PokeSite::CLOSED as u8, "the bypass is closed at once");
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(
            field(&caller.image.bytes(), site.target_field()),
            field(&open, site.target_field()),
            "poisoned too early"
        );
        assert!(still_there.upgrade().is_some(), "freed too early");
        assert!(bench.domain.pending() > 0);
        gate[0].store(0, Ordering::SeqCst);
        assert_eq!(runner.join().unwrap(), 7, "the run behind the bypass reached its target");
        bench.domain.barrier().unwrap();
        assert_ne!(
            field(&caller.image.bytes(), site.target_field()),
            field(&open, site.target_field()),
            "never poisoned"
        );
        assert!(still_there.upgrade().is_none(), "never freed");
    });
}

#[test]
fn an_insert_while_a_delete_drains_cancels_its_poison() {
    let bench = Bench::new();
    let array = ProgArray::new(1).unwrap();
    let caller = bench.load(&program(&[call(0, 0)], MISSED), &[&array]).unwrap();
    let reader = bench.domain.reader();
    bench.set(&array, 0, bench.load(&program(&[], 1), &[]).unwrap());
    {
        // Updates from inside a run are allowed, and do not wait for it (C12).
        let _section = reader.enter();
        bench.clear(&array, 0);
        bench.set(&array, 0, bench.load(&program(&[], 2), &[]).unwrap());
        assert!(bench.domain.barrier().is_err(), "waiting from inside is refused");
    }
    bench.domain.barrier().unwrap();
    assert_eq!(bench.audit(&[&array]), Ok(1));
    let _section = reader.enter();
    // SAFETY: a loaded image, in a section.
    assert_eq!(unsafe { run(caller.image.entry()) }, 2);
}

#[test]
fn c16_without_core_sync_code_with_sites_is_refused() {
    let sync = CoreSync::unavailable("seccomp, say");
    let region = Region::new(RegionOptions { capacity: 1 << 20, reuse: false, ..RegionOptions::default() }).unwrap();
    let domain = Domain::new(sync.clone()).unwrap();
    let bench = Bench { patcher: Patcher::new(region.clone(), sync, domain.clone()), region, domain };
    let array = ProgArray::new(1).unwrap();
    let error = bench.load(&program(&[call(0, 0)], MISSED), &[&array]).map(drop).unwrap_err();
    assert!(matches!(error, TextError::NoPatching { .. }) && error.to_string().contains("seccomp, say"), "{error}");
    // Programs without sites work, and slots can change.
    let target = bench.load(&program(&[], 7), &[]).unwrap();
    bench.set(&array, 0, target.clone());
    assert_eq!(array.word(0), target.image.tail_entry());
    bench.clear(&array, 0);
    let reader = bench.domain.reader();
    let _section = reader.enter();
    // SAFETY: a loaded image, in a section.
    assert_eq!(unsafe { run(target.image.entry()) }, 7);
}

/// Lets the run behind the gate end when the test panics.
struct OpenOnDrop<'a>(&'a AtomicU32);

impl Drop for OpenOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::SeqCst);
    }
}

#[test]
fn c20_a_caller_that_is_loaded_during_updates_misses_none() {
    let begin = Instant::now();
    let loads = load_storm(&Bench::new(), stress()).unwrap();
    report("C20, text", begin, &[("loads", loads)]);
    assert!(loads > 100);
}

#[test]
fn c20_updates_between_tracking_and_fix_up_of_a_caller_are_not_lost() {
    let begin = Instant::now();
    let loads = hooked_loads(&Bench::new(), stress()).unwrap();
    report("C20 with a pause before the fix-up, text", begin, &[("loads", loads)]);
    assert!(loads > 100);
}

#[test]
fn c20_an_update_between_tracking_and_fix_up_is_not_lost() {
    let bench = Bench::new();
    let array = ProgArray::new(1).unwrap();
    let image = Image::place(&bench.region, &program(&[call(0, 0)], MISSED), &|_| None).unwrap();
    let tracking = bench.patcher.track(&image, &|_| Some(&array)).unwrap();
    let before = image.bytes();
    bench.set(&array, 0, bench.load(&program(&[], 7), &[]).unwrap());
    assert_eq!(image.bytes(), before, "an unstable site was patched");
    tracking.fix_up(&mut bench.patcher.update().unwrap(), &|_, index| array.word(index));
    assert_eq!(bench.audit(&[&array]), Ok(1));
    bench.patcher.core_sync().core_sync();
    let reader = bench.domain.reader();
    let _section = reader.enter();
    // SAFETY: a loaded image, in a section.
    assert_eq!(unsafe { run(image.entry()) }, 7);
}

#[test]
fn c15_only_the_fields_change_with_a_fixed_number_of_core_syncs() {
    let bench = Bench::new();
    let array = ProgArray::new(2).unwrap();
    let calls: Vec<_> = (0..100).map(|i| call(0, i % 2)).collect();
    let caller = bench.load(&program(&calls, MISSED), &[&array]).unwrap();
    let masked = || {
        let mut bytes = caller.image.bytes();
        for site in caller.image.sites() {
            bytes[site.bypass_field() as usize] = 0;
            bytes[site.target_field() as usize..][..4].fill(0);
        }
        bytes
    };
    let (first, sync) = (masked(), bench.patcher.core_sync().clone());
    let target = |value| bench.load(&program(&[], value), &[]).unwrap();
    let (p, q) = (target(1), target(2));
    for (what, syncs, update) in [
        ("insert", 2, Box::new(|| bench.set(&array, 0, p.clone())) as Box<dyn Fn()>),
        ("replace", 1, Box::new(|| bench.set(&array, 0, q.clone()))),
        ("replace by itself", 0, Box::new(|| bench.set(&array, 0, q.clone()))),
        ("delete", 1, Box::new(|| bench.clear(&array, 0))),
        ("insert again", 2, Box::new(|| bench.set(&array, 0, p.clone()))),
    ] {
        // The reclaimer is kept busy, so that its core syncs are not counted.
        let (busy, release) = (mpsc::channel(), mpsc::channel::<()>());
        bench.domain.defer(move || {
            busy.0.send(()).unwrap();
            let _ = release.1.recv();
        });
        busy.1.recv().unwrap();
        let before = sync.calls();
        update();
        assert_eq!(sync.calls() - before, syncs, "core syncs of {what}");
        assert_eq!(masked(), first, "{what}");
        bench.audit(&[&array]).unwrap();
        drop(release.0);
        bench.domain.barrier().unwrap();
        assert_eq!(masked(), first, "after the grace period of {what}");
    }
}

#[test]
fn c18_an_exhausted_region_fails_the_load_and_nothing_else() {
    let bench = Bench::with(RegionOptions { capacity: 64 << 10, ..RegionOptions::default() });
    let array = ProgArray::new(1).unwrap();
    let mut programs = Vec::new();
    let error = loop {
        match bench.load(&program(&[call(0, 0)], 3), &[&array]) {
            Ok(program) => programs.push(program),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, TextError::Full { .. }), "{error}");
    assert_eq!(bench.patcher.tracked(), programs.len());
    bench.set(&array, 0, programs[0].clone());
    assert_eq!(bench.audit(&[&array]), Ok(programs.len()));
    drop(programs.pop());
    programs.push(bench.load(&program(&[call(0, 0)], 3), &[&array]).unwrap());
    assert_eq!(bench.audit(&[&array]), Ok(programs.len()));
}

#[test]
fn c17_a_fork_cannot_update_and_does_no_harm() {
    let bench = Bench::new();
    let array = ProgArray::new(1).unwrap();
    let caller = bench.load(&program(&[call(0, 0)], MISSED), &[&array]).unwrap();
    let target = bench.load(&program(&[], 7), &[]).unwrap();
    bench.set(&array, 0, target);
    // SAFETY: the child makes no call that needs a lock another thread may have held, and ends by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused = matches!(bench.patcher.update(), Err(UpdateError::Forked)) && bench.domain.forked();
        drop(caller);
        let status = i32::from(!refused);
        // SAFETY: ends the child.
        unsafe { libc::_exit(status) };
    }
    let mut status = 0;
    // SAFETY: waits for the child just made.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(status, 0);
    let reader = bench.domain.reader();
    let _section = reader.enter();
    // SAFETY: a loaded image, in a section.
    assert_eq!(unsafe { run(caller.image.entry()) }, 7);
}

#[test]
fn tracking_can_be_dropped_with_the_lock_held() {
    let bench = Bench::new();
    let array = ProgArray::new(1).unwrap();
    let load = || bench.load(&program(&[call(0, 0)], MISSED), &[&array]).unwrap();
    let (one, two) = (load(), load());
    let target = bench.load(&program(&[], 7), &[]).unwrap();
    let mut guard = bench.patcher.update().unwrap();
    assert!(matches!(bench.patcher.update(), Err(UpdateError::Reentrant)));
    drop(one);
    let retired = array.set(0, target, 0, &mut guard).unwrap();
    assert_eq!(guard.audit(&[&array]), Ok(1));
    drop(guard);
    bench.domain.retire(retired);
    drop(two);
    assert_eq!(bench.patcher.tracked(), 0);
}
