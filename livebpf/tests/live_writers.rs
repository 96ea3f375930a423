//! Several writers at once (C13), and what may change in code that runs (C15), through the runtime. `LIVEBPF_STRESS_SECONDS` each.

mod live_support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use live_support::*;
use livebpf::observe::listing;
use livebpf::runtime::{Engine, MapHandle, Program, ProgramArray, Runtime};

/// A slot: which array, which key.
type Place = (usize, u32);

/// Two arrays, and a caller with sites in both, of which the one for the slot it is named after comes first.
struct Board {
    runtime: Runtime,
    arrays: [(MapHandle, ProgramArray); 2],
}

impl Board {
    fn new(engine: Engine) -> Board {
        let runtime = runtime(engine);
        let arrays = ["one", "two"].map(|name| array(&runtime, &prog_array(name, 2)));
        // The programs that made the arrays, and their sites, are gone.
        runtime.barrier().unwrap();
        Board { runtime, arrays }
    }

    fn caller(&self, (array, key): Place) -> Program {
        let (here, other) = (tail_call(array as u32, key), tail_call(1 - array as u32, 1 - key));
        let source = format!("r6 = r1\n{here}{here}{other}w0 = {MISSED}\nexit");
        let maps = [&self.arrays[0].0, &self.arrays[1].0];
        load_with(&self.runtime, linked("caller", &source, &maps.map(MapHandle::def)), &maps).unwrap()
    }

    /// Code, shadows and slots agree, in both arrays; and callers do what the slots say.
    fn check(&self, callers: &[Program; 2], places: [Place; 2], targets: &[Program]) {
        for (_, slots) in &self.arrays {
            let looked = slots.audit().unwrap().unwrap();
            assert!(self.runtime.engine() == Engine::Slot || looked == 6, "{looked} sites");
        }
        for (caller, (array, key)) in callers.iter().zip(places) {
            let id = self.arrays[array].1.program_id(key).ok();
            let target = targets.iter().position(|target| Some(target.id()) == id);
            let expected = target.map_or(MISSED, |at| at as u32);
            let missed = expected == MISSED && id.is_none();
            assert!(missed || target.is_some(), "slot {key} holds program {id:?}, which nobody put there");
            assert_eq!(run(&self.runtime, caller), expected, "{:?}", self.runtime.engine());
        }
    }
}

/// Random changes of one slot among four programs and nothing.
fn write(slots: &ProgramArray, key: u32, targets: &[Program], random: &mut Random, updates: &AtomicU64) {
    for _ in 0..100 {
        match random.below(5) {
            4 => {
                let empty = slots.clear_index(key);
                assert!(empty.is_ok() || errno(empty) == libc::ENOENT);
            }
            which => slots.set(key, &targets[which as usize]).unwrap(),
        }
        updates.fetch_add(1, Ordering::Relaxed);
    }
}

/// Two writers on `places`, in rounds; after each of them everything must agree.
fn two_writers(engine: Engine, name: &str, places: [Place; 2], time: Duration) {
    let board = Board::new(engine);
    let callers = places.map(|place| board.caller(place));
    let targets: Vec<Program> = (0..4).map(|value| load(&board.runtime, answers("target", value))).collect();
    let (stop, updates, runs) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    // Rounds begun, and how often a writer has ended one.
    let (round, done) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let writers = [0, 1].map(|which| {
            let (slots, key, targets) = (&board.arrays[places[which].0].1, places[which].1, &targets);
            let (round, done, stop, updates) = (&round, &done, &stop, &updates);
            scope.spawn(move || {
                let (mut random, mut own) = (Random(which as u64), 0);
                while !stop.load(Ordering::SeqCst) {
                    if round.load(Ordering::SeqCst) == own {
                        thread::yield_now();
                        continue;
                    }
                    write(slots, key, targets, &mut random, updates);
                    own += 1;
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        });
        scope.spawn(|| {
            let mut worker = board.runtime.worker().unwrap();
            let mut packet = context(&callers[0]);
            while !stop.load(Ordering::Relaxed) {
                for caller in &callers {
                    let result = worker.run(caller, &mut packet).unwrap();
                    assert!(result < 4 || result == MISSED, "{engine}: {result:#x}");
                }
                runs.fetch_add(2, Ordering::Relaxed);
            }
        });
        let (start, mut rounds) = (Instant::now(), 0);
        while start.elapsed() < time || rounds < 10 || runs.load(Ordering::Relaxed) == 0 {
            rounds = round.fetch_add(1, Ordering::SeqCst) + 1;
            while done.load(Ordering::SeqCst) < 2 * rounds {
                assert!(!writers.iter().any(|writer| writer.is_finished()), "a writer failed");
                thread::yield_now();
            }
            board.check(&callers, places, &targets);
        }
        let [runs, updates] = [&runs, &updates].map(|count| count.load(Ordering::Relaxed));
        report(&format!("C13 {name}, {engine}"), start, &[("runs", runs), ("updates", updates), ("rounds", rounds)]);
    });
}

fn c13(engine: Engine) {
    two_writers(engine, "one slot", [(0, 0), (0, 0)], stress() / 3);
    two_writers(engine, "two slots", [(0, 0), (0, 1)], stress() / 3);
    two_writers(engine, "two arrays", [(0, 0), (1, 0)], stress() / 3);
}

#[test]
fn c13_two_writers_leave_code_that_agrees_with_the_slots_patched() {
    c13(Engine::Jit);
}

#[test]
fn c13_two_writers_leave_code_that_agrees_with_the_slots_slots() {
    c13(Engine::Slot);
}

/// The program's code without the five bytes of each site that may change; and those.
fn code(program: &Program) -> (Vec<u8>, Vec<u8>) {
    let listing = listing(program).expect("machine code");
    let (mut fixed, mut fields) = (listing.bytes, Vec::new());
    // The immediate of the compare, and the displacement of the jump.
    for (at, size) in listing.sites.iter().flat_map(|site| [(site.bypass + 3, 1), (site.target + 1, 4)]) {
        let field = &mut fixed[at as usize..at as usize + size];
        fields.extend_from_slice(field);
        field.fill(0);
    }
    (fixed, fields)
}

#[test]
fn c15_no_byte_outside_the_fields_ever_changes() {
    let runtime = runtime(Engine::Jit);
    let (handle, slots) = array(&runtime, &prog_array("table", 3));
    let sub =
        format!("r6 = r1\ncall sub\nexit\nsub:\nr6 = r1\n{}{}w0 = {MISSED}\nexit", tail_call(0, 0), tail_call(0, 2));
    let programs = [
        load_with(&runtime, tries("caller", &[0, 1, 2, 0], handle.def()), &[&handle]).unwrap(),
        load_with(&runtime, linked("sub", &sub, &[handle.def()]), &[&handle]).unwrap(),
        load_with(&runtime, tries("middle", &[1], handle.def()), &[&handle]).unwrap(),
        load(&runtime, answers("last", 7)),
    ];
    let before = programs.each_ref().map(|program| code(program).0);
    let (stop, mut changed) = (AtomicBool::new(false), 0u64);
    thread::scope(|scope| {
        for caller in &programs[..2] {
            let (runtime, stop) = (&runtime, &stop);
            scope.spawn(move || {
                let mut worker = runtime.worker().unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let result = worker.run(caller, &mut context(caller)).unwrap();
                    assert!([7, 9, MISSED].contains(&result), "{result:#x}");
                }
            });
        }
        let _stop = StopOnDrop(&stop);
        let (begin, mut random, mut rounds) = (Instant::now(), Random(15), 0u64);
        let mut fields = programs.each_ref().map(|program| code(program).1);
        while begin.elapsed() < stress() || rounds < 200 {
            let key = random.below(3);
            // Programs come and go between those that are watched.
            let fresh = load(&runtime, answers("fresh", 9));
            match random.below(4) {
                0 => drop(slots.clear_index(key)),
                1 => slots.set(key, &fresh).unwrap(),
                which => slots.set(key, &programs[which as usize]).unwrap(),
            }
            for (at, program) in programs.iter().enumerate() {
                let (fixed, now) = code(program);
                assert!(fixed == before[at], "the code of {program:?} has changed");
                changed += u64::from(now != fields[at]);
                fields[at] = now;
            }
            rounds += 1;
        }
        report("C15, jit", begin, &[("updates", rounds), ("changes seen", changed)]);
    });
    assert!(changed > 20, "only {changed} times a displacement was seen to change");
}
