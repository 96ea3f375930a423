//! Updates of program arrays while programs run, through the runtime: C1, C2, C3 with patched code and with slots.
//!
//! A run during which no update was going on, and none began, must give exactly what the slots held: that an update is
//! seen by runs which start after it has returned is part of every test here. `LIVEBPF_STRESS_SECONDS` each (1 without it).
//! All of it once more where membarrier is refused (C16).

mod child;
mod live_support;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use live_support::*;
use livebpf::link::Program as Linked;
use livebpf::runtime::{Engine, Program, ProgramArray, Runtime};

/// What the one slot of a toggle test holds. The sequence is odd while an update is going on; otherwise `value` is exact.
struct Stamp {
    sequence: AtomicU64,
    value: AtomicU32,
}

impl Stamp {
    fn change(&self, value: u32, update: impl FnOnce()) {
        self.sequence.fetch_add(1, Ordering::SeqCst);
        update();
        self.value.store(value, Ordering::SeqCst);
        self.sequence.fetch_add(1, Ordering::SeqCst);
    }
}

/// Counts of one runner, on a cache line of their own.
#[derive(Default, Debug)]
#[repr(align(128))]
struct Seen {
    runs: AtomicU64,
    missed: AtomicU64,
    exact: AtomicU64,
}

/// A count of all runners.
fn sum(all: &[Seen], count: impl Fn(&Seen) -> &AtomicU64) -> u64 {
    all.iter().map(|seen| count(seen).load(Ordering::Relaxed)).sum()
}

fn tell(name: &str, runtime: &Runtime, begin: Instant, seen: &[Seen], updates: u64) {
    let (runs, exact) = (sum(seen, |s| &s.runs), sum(seen, |s| &s.exact));
    // Said in the line of the test that is run where membarrier is refused.
    let where_refused = if confined() { "C16 " } else { "" };
    let name = format!("{where_refused}{name}, {}", runtime.engine());
    report(&name, begin, &[("runs", runs), ("exact", exact), ("updates", updates)]);
}

fn bump(count: &AtomicU64) {
    // One thread writes it.
    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Runs `caller` until `stop`.
fn runner(runtime: &Runtime, caller: &Program, stamp: &Stamp, stop: &AtomicBool, allowed: &[u32], seen: &Seen) {
    let mut worker = runtime.worker().unwrap();
    let mut packet = context(caller);
    while !stop.load(Ordering::Relaxed) {
        let before = stamp.sequence.load(Ordering::SeqCst);
        let value = stamp.value.load(Ordering::SeqCst);
        let result = worker.run(caller, &mut packet).unwrap();
        bump(&seen.runs);
        if result == MISSED {
            bump(&seen.missed);
        }
        assert!(allowed.contains(&result), "a run answered {result:#x}, wanted one of {allowed:x?}");
        if before.is_multiple_of(2) && stamp.sequence.load(Ordering::SeqCst) == before {
            assert_eq!(result, value, "a run that began after an update had returned did not see it");
            bump(&seen.exact);
        }
    }
}

/// Two runners on `caller`, which has the program array `array`, and a writer that calls `update` with rising numbers. The slot is
/// empty at the beginning, or holds what update 0 puts there. All of `allowed` must occur.
fn toggle(name: &str, runtime: &Runtime, caller: &Program, allowed: &[u32], update: impl Fn(u64, &Stamp)) {
    let stamp = Stamp { sequence: AtomicU64::new(0), value: AtomicU32::new(MISSED) };
    let (stop, seen) = (AtomicBool::new(false), [Seen::default(), Seen::default()]);
    update(0, &stamp);
    let enough = |number: u64| {
        let (runs, missed, exact) = (sum(&seen, |s| &s.runs), sum(&seen, |s| &s.missed), sum(&seen, |s| &s.exact));
        number > 100 && runs > 1000 && exact > 0 && missed < runs && (missed > 0 || !allowed.contains(&MISSED))
    };
    thread::scope(|scope| {
        let runners = seen.each_ref().map(|seen| {
            let (stamp, stop) = (&stamp, &stop);
            scope.spawn(move || runner(runtime, caller, stamp, stop, allowed, seen))
        });
        let _stop = StopOnDrop(&stop);
        let (begin, mut number) = (Instant::now(), 0);
        while goes_on(begin, stress(), || enough(number)) && !runners.iter().any(|r| r.is_finished()) {
            number += 1;
            update(number, &stamp);
        }
        stop.store(true, Ordering::SeqCst);
        runners.into_iter().for_each(|r| r.join().unwrap());
        tell(name, runtime, begin, &seen, number);
        assert!(enough(number), "too little happened to show anything");
    });
}

/// The shapes of the caller: its tail call stands in the main program, or in a subprogram, where the forbidden state would damage
/// the caller's frame; and with an index that is not known to the code generator.
fn callers(array: &std::sync::Arc<livebpf::object::MapDef>) -> [Linked; 2] {
    let subprogram = format!(
        "r6 = r1\nr7 = 7\n*(u64 *)(r10 - 8) = 5\ncall sub\nif r7 != 7 goto bad\nr1 = *(u64 *)(r10 - 8)\nif r1 != 5 goto bad\n\
         exit\nbad:\nw0 = 0xbad\nexit\nsub:\nr6 = r1\n{}w0 = {MISSED}\nexit",
        tail_call(0, 0)
    );
    [tries("main", &[0], array), linked("sub", &subprogram, &[array])]
}

fn each_caller(engine: Engine, test: impl Fn(&str, &Runtime, &Program, &ProgramArray)) {
    let runtime = runtime(engine);
    let used = runtime.code_used();
    let (handle, slots) = array(&runtime, &prog_array("table", 1));
    for caller in callers(handle.def()) {
        let name = caller.name.clone();
        let caller = load_with(&runtime, caller, &[&handle]).unwrap();
        test(&name, &runtime, &caller, &slots);
        let _ = slots.clear_index(0);
    }
    drop((handle, slots));
    runtime.barrier().unwrap();
    nothing_leaked(&runtime, used);
}

fn c1(engine: Engine) {
    each_caller(engine, |name, runtime, caller, slots| {
        let p = load(runtime, answers("p", 1));
        toggle(&format!("C1 {name}"), runtime, caller, &[1, MISSED], |number, stamp| {
            if number % 2 == 1 {
                stamp.change(1, || slots.set(0, &p).unwrap());
            } else if number > 0 {
                stamp.change(MISSED, || slots.clear_index(0).unwrap());
            }
        });
    });
}

#[test]
fn c1_insert_and_delete_give_the_program_or_the_fall_through_patched() {
    c1(Engine::Jit);
}

#[test]
fn c1_insert_and_delete_give_the_program_or_the_fall_through_slots() {
    c1(Engine::Slot);
}

fn c2(engine: Engine) {
    each_caller(engine, |name, runtime, caller, slots| {
        // Loaded afresh each time, so that the code of a replaced program is overwritten, and used for another one (C7).
        // Without core sync it would not be, and code memory would fill.
        let fixed = confined().then(|| [1, 2].map(|value| load(runtime, answers("fixed", value))));
        toggle(&format!("C2 {name}"), runtime, caller, &[1, 2], |number, stamp| {
            let value = 1 + (number % 2) as u32;
            let afresh = || load(runtime, answers("new", value));
            let program = fixed.as_ref().map_or_else(afresh, |two| two[(number % 2) as usize].clone());
            stamp.change(value, || slots.set(0, &program).unwrap());
        });
    });
}

#[test]
fn c2_replace_never_gives_the_fall_through_patched() {
    c2(Engine::Jit);
}

#[test]
fn c2_replace_never_gives_the_fall_through_slots() {
    c2(Engine::Slot);
}

const KEYS: u32 = 3;
const CALLERS: u32 = 8;

/// Slot contents that may be seen by a run: a version of all slots, odd while one of them changes.
struct Board {
    sequence: AtomicU64,
    slots: [AtomicU32; KEYS as usize],
}

/// What caller `first` answers when nothing changes: it tries the slots round and round, from its own first one.
fn expected(first: u32, slots: &[u32]) -> u32 {
    let order = (0..KEYS).map(|i| slots[((first + i) % KEYS) as usize]);
    order.into_iter().find(|value| *value != 0).unwrap_or(MISSED)
}

fn c3_runner(runtime: &Runtime, callers: &[Program], board: &Board, stop: &AtomicBool, seed: u64, seen: &Seen) {
    let mut worker = runtime.worker().unwrap();
    let mut random = Random(seed);
    let mut packet = context(&callers[0]);
    while !stop.load(Ordering::Relaxed) {
        let which = random.below(CALLERS);
        let before = board.sequence.load(Ordering::SeqCst);
        let slots: Vec<u32> = board.slots.iter().map(|slot| slot.load(Ordering::SeqCst)).collect();
        let result = worker.run(&callers[which as usize], &mut packet).unwrap();
        bump(&seen.runs);
        if result == MISSED {
            bump(&seen.missed);
        }
        // Slot k holds 10 + k or 20 + k.
        let plausible = result == MISSED || [10, 20].iter().any(|base| (*base..base + KEYS).contains(&result));
        assert!(plausible, "a run answered {result:#x}");
        if before.is_multiple_of(2) && board.sequence.load(Ordering::SeqCst) == before {
            assert_eq!(result, expected(which, &slots), "caller {which}, slots {slots:?}");
            bump(&seen.exact);
        }
    }
}

/// Random changes of random slots among P, Q and nothing.
fn c3_writer(slots: &ProgramArray, programs: &[[Program; 2]], board: &Board, random: &mut Random) {
    let key = random.below(KEYS);
    let which = random.below(3) as usize;
    board.sequence.fetch_add(1, Ordering::SeqCst);
    let value = match programs[key as usize].get(which) {
        Some(program) => {
            slots.set(key, program).unwrap();
            10 * (which as u32 + 1) + key
        }
        None => {
            let empty = board.slots[key as usize].load(Ordering::SeqCst) == 0;
            assert_eq!(slots.clear_index(key).is_err(), empty);
            0
        }
    };
    board.slots[key as usize].store(value, Ordering::SeqCst);
    board.sequence.fetch_add(1, Ordering::SeqCst);
}

fn c3(engine: Engine) {
    let runtime = runtime(engine);
    let used = runtime.code_used();
    let (handle, slots) = array(&runtime, &prog_array("table", KEYS));
    // 8 callers with 4 sites for each of 3 keys.
    let caller = |first: u32| {
        let order: Vec<u32> = (0..4 * KEYS).map(|i| (first + i) % KEYS).collect();
        load_with(&runtime, tries(&format!("caller_{first}"), &order, handle.def()), &[&handle]).unwrap()
    };
    let callers: Vec<Program> = (0..CALLERS).map(caller).collect();
    let programs = [0, 1, 2].map(|key| [10, 20].map(|base| load(&runtime, answers("target", base + key))));
    let board = Board { sequence: AtomicU64::new(0), slots: Default::default() };
    let (stop, seen) = (AtomicBool::new(false), [Seen::default(), Seen::default()]);
    let enough = |number: u64| {
        let each = seen.iter().all(|seen| seen.runs.load(Ordering::Relaxed) > 1000);
        number > 100 && each && sum(&seen, |s| &s.exact) > 0 && sum(&seen, |s| &s.missed) > 0
    };
    thread::scope(|scope| {
        let runners = [0, 1].map(|which| {
            let (runtime, callers, board, stop, seen) = (&runtime, &callers, &board, &stop, &seen[which]);
            scope.spawn(move || c3_runner(runtime, callers, board, stop, which as u64 + 1, seen))
        });
        let _stop = StopOnDrop(&stop);
        let (begin, mut number, mut random) = (Instant::now(), 0, Random(3));
        while goes_on(begin, stress(), || enough(number)) && !runners.iter().any(|r| r.is_finished()) {
            c3_writer(&slots, &programs, &board, &mut random);
            number += 1;
        }
        stop.store(true, Ordering::SeqCst);
        runners.into_iter().for_each(|r| r.join().unwrap());
        tell("C3", &runtime, begin, &seen, number);
        assert!(enough(number), "too little happened to show anything");
    });
    drop((callers, programs, handle, slots));
    runtime.barrier().unwrap();
    nothing_leaked(&runtime, used);
}

#[test]
fn c3_random_changes_of_three_slots_under_eight_callers_patched() {
    c3(Engine::Jit);
}

#[test]
fn c3_random_changes_of_three_slots_under_eight_callers_slots() {
    c3(Engine::Slot);
}

#[test]
fn c16_c1_to_c3_pass_where_membarrier_is_refused() {
    if confined() {
        // This process is the second one already, for another test.
        return;
    }
    let tests = [
        "c1_insert_and_delete_give_the_program_or_the_fall_through_patched",
        "c2_replace_never_gives_the_fall_through_patched",
        "c3_random_changes_of_three_slots_under_eight_callers_patched",
    ];
    for test in tests {
        let output = child::start_with(test, NO_MEMBARRIER, "1");
        let (said, failed) = (String::from_utf8_lossy(&output.stdout), child::stderr(&output));
        assert!(output.status.success() && said.contains("1 passed"), "{test}: {said}{failed}");
        // The runtime was asked for patched code.
        let results: Vec<&str> = said.lines().filter_map(|line| Some(&line[line.find("stress: C16 ")?..])).collect();
        assert!(!results.is_empty() && results.iter().all(|result| result.contains(", slot; ")), "{said}");
        results.iter().for_each(|result| println!("{result}"));
    }
}
