//! Threads that run hand-made programs while a writer changes a slot: what the tests of live patching share with the tests that leave
//! a protection out.
#![allow(dead_code, unused_imports)]

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use livebpf::map::prog_array::ProgArray;
use livebpf::text::Image;

pub use timed::{goes_on, report, stress};

use super::{Bench, Call, call, program, run};

#[path = "../timed/mod.rs"]
mod timed;

/// What a program answers whose tail calls all failed: more than any number that counts updates.
pub const MISSED: u32 = 0xffff_0000;

/// What the one slot of a toggle test holds. Odd while an update is going on; otherwise `value` is exact.
#[derive(Default)]
pub struct Stamp {
    pub sequence: AtomicU64,
    pub value: AtomicU32,
}

impl Stamp {
    pub fn change(&self, value: u32, update: impl FnOnce()) {
        self.sequence.fetch_add(1, Ordering::SeqCst);
        update();
        self.value.store(value, Ordering::SeqCst);
        self.sequence.fetch_add(1, Ordering::SeqCst);
    }
}

/// Counts of one runner, on a cache line of their own.
#[derive(Default, Debug)]
#[repr(align(128))]
pub struct Seen {
    pub runs: AtomicU64,
    pub taken: AtomicU64,
    pub exact: AtomicU64,
}

/// A count of all runners.
pub fn sum(all: &[Seen], count: impl Fn(&Seen) -> &AtomicU64) -> u64 {
    all.iter().map(|seen| count(seen).load(Ordering::Relaxed)).sum()
}

pub fn bump(count: &AtomicU64) {
    // One thread writes it.
    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Runs `entry` until `stop`. `plausible` says whether a result may occur at all; a run during which no update was
/// going on, and none began, must give exactly the stamp's value.
pub fn runner(
    bench: &Bench,
    entry: u64,
    stamp: &Stamp,
    stop: &AtomicBool,
    plausible: impl Fn(u32) -> bool,
    seen: &Seen,
) {
    let reader = bench.domain.reader();
    while !stop.load(Ordering::Relaxed) {
        let before = stamp.sequence.load(Ordering::SeqCst);
        let value = stamp.value.load(Ordering::SeqCst);
        let result = {
            let _section = reader.enter();
            // SAFETY: a loaded image, which the test keeps; in a section.
            unsafe { run(entry) }
        };
        bump(&seen.runs);
        if result != MISSED {
            bump(&seen.taken);
        }
        assert!(plausible(result), "a run answered {result:#x}");
        if before.is_multiple_of(2) && stamp.sequence.load(Ordering::SeqCst) == before {
            assert_eq!(result, value, "a run that began after an update had returned did not see it");
            bump(&seen.exact);
        }
    }
}

/// One caller with one site, runners on it, and a writer that calls `update` with rising numbers for the given time.
/// Where the fall-through may be seen, it must be, and so must something else.
pub fn toggle(name: &str, bench: &Bench, time: Duration, allow_miss: bool, update: impl Fn(&ProgArray, u32, &Stamp)) {
    toggle_through(name, bench, call(0, 0), time, allow_miss, update);
}

/// The same with a call of one's own.
pub fn toggle_through(
    name: &str,
    bench: &Bench,
    site: Call,
    time: Duration,
    allow_miss: bool,
    update: impl Fn(&ProgArray, u32, &Stamp),
) {
    let array = ProgArray::new(2).unwrap();
    let caller = bench.load(&program(&[site], MISSED), &[&array]).unwrap();
    let (stamp, stop) = (Stamp { value: AtomicU32::new(MISSED), ..Stamp::default() }, AtomicBool::new(false));
    update(&array, 1, &stamp);
    let entry = caller.image.entry();
    let (newest, seen) = (AtomicU32::new(1), [Seen::default(), Seen::default()]);
    let plausible = |result: u32| if result == MISSED { allow_miss } else { result <= newest.load(Ordering::SeqCst) };
    let enough = |number| {
        let (runs, taken, exact) = (sum(&seen, |s| &s.runs), sum(&seen, |s| &s.taken), sum(&seen, |s| &s.exact));
        number > 100 && runs > 1000 && exact > 0 && taken > 0 && (taken < runs || !allow_miss)
    };
    std::thread::scope(|scope| {
        let runners = seen.each_ref().map(|seen| {
            let (stamp, stop) = (&stamp, &stop);
            scope.spawn(move || runner(bench, entry, stamp, stop, plausible, seen))
        });
        let _stop = StopOnDrop(&stop);
        let (begin, mut number) = (Instant::now(), 1);
        while goes_on(begin, time, || enough(number)) && !runners.iter().any(|r| r.is_finished()) {
            number += 1;
            newest.store(number, Ordering::SeqCst);
            update(&array, number, &stamp);
        }
        stop.store(true, Ordering::Relaxed);
        runners.into_iter().for_each(|r| r.join().unwrap());
        let (runs, exact) = (sum(&seen, |s| &s.runs), sum(&seen, |s| &s.exact));
        report(name, begin, &[("runs", runs), ("exact", exact), ("updates", number.into())]);
        assert!(enough(number), "too little happened to show anything");
    });
    bench.audit(&[&array]).unwrap();
    drop(caller);
    let retired = array.clear_all(&mut bench.patcher.update().unwrap());
    bench.domain.retire(retired);
    bench.domain.barrier().unwrap();
    assert_eq!(bench.patcher.tracked(), 0);
    assert_eq!(bench.region.used(), 64, "only the poison stub is left");
}

/// Even numbers insert a new program that answers the number, odd ones delete.
pub fn insert_delete(bench: &Bench) -> impl Fn(&ProgArray, u32, &Stamp) {
    move |array, number, stamp| {
        if number % 2 == 0 {
            let target = bench.load(&program(&[], number), &[]).unwrap();
            stamp.change(number, || bench.set(array, 0, target));
        } else if array.word(0) != 0 {
            stamp.change(MISSED, || bench.clear(array, 0));
        }
    }
}

/// Lets the other threads end when this one panics, too.
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Callers come and go while a slot changes; each must agree with the slot as soon as it is loaded.
pub fn load_storm(bench: &Bench, time: Duration) -> Result<u64, String> {
    let array = ProgArray::new(1).unwrap();
    let target = bench.load(&program(&[], 7), &[]).unwrap();
    let stop = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                bench.set(&array, 0, target.clone());
                bench.clear(&array, 0);
            }
        });
        let storm = || {
            let _stop = StopOnDrop(&stop);
            let (reader, mut loads, begin) = (bench.domain.reader(), 0, Instant::now());
            while goes_on(begin, time, || loads > 100) {
                let caller = bench.load(&program(&[call(0, 0), call(0, 0)], MISSED), &[&array]).unwrap();
                bench.audit(&[&array])?;
                let section = reader.enter();
                // SAFETY: a loaded image, in a section.
                let result = unsafe { run(caller.image.entry()) };
                drop(section);
                if result != 7 && result != MISSED {
                    return Err(format!("a run answered {result:#x}"));
                }
                // Nobody else ever had it.
                drop(caller);
                loads += 1;
            }
            Ok(loads)
        };
        storm()
    });
    drop(target);
    bench.domain.barrier().unwrap();
    assert_eq!((bench.patcher.tracked(), bench.region.used()), (0, 64), "something leaked");
    result
}

/// Callers are loaded with a pause between tracking and fix-up, while a slot changes all the time (races R10 and R11). Nobody may
/// patch a site in that pause, and the caller must agree with the slot as soon as it is loaded.
pub fn hooked_loads(bench: &Bench, time: Duration) -> Result<u64, String> {
    let array = ProgArray::new(1).unwrap();
    let target = bench.load(&program(&[], 7), &[]).unwrap();
    let (stop, updates) = (AtomicBool::new(false), AtomicU64::new(0));
    let loads = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                bench.set(&array, 0, target.clone());
                bench.clear(&array, 0);
                updates.fetch_add(2, Ordering::SeqCst);
            }
        });
        let _stop = StopOnDrop(&stop);
        let (reader, mut loads, begin) = (bench.domain.reader(), 0, Instant::now());
        while goes_on(begin, time, || loads > 100) {
            let image = Image::place(&bench.region, &program(&[call(0, 0), call(0, 0)], MISSED), &|_| None).unwrap();
            let tracking = bench.patcher.track(&image, &|_| Some(&array)).unwrap();
            let (before, seen) = (image.bytes(), updates.load(Ordering::SeqCst));
            // Until an update has come and gone.
            while updates.load(Ordering::SeqCst) < seen + 4 {
                std::thread::yield_now();
            }
            if image.bytes() != before {
                return Err("an unstable site was patched".to_owned());
            }
            tracking.fix_up(&mut bench.patcher.update().unwrap(), &|_, index| array.word(index));
            bench.patcher.core_sync().core_sync();
            bench.audit(&[&array])?;
            let section = reader.enter();
            // SAFETY: a loaded image, in a section.
            let result = unsafe { run(image.entry()) };
            drop(section);
            if result != 7 && result != MISSED {
                return Err(format!("a run answered {result:#x}"));
            }
            // Nobody else ever had it.
            drop(tracking);
            drop(image);
            loads += 1;
        }
        Ok(loads)
    })?;
    drop(target);
    bench.domain.barrier().unwrap();
    assert_eq!((bench.patcher.tracked(), bench.region.used()), (0, 64), "something leaked");
    Ok(loads)
}
