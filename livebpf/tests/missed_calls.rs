//! Missed tail calls: who counts, for which arrays, and that it can be read while programs run. What is counted is in the
//! scenarios M1 to M6.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use livebpf::context::Context;
use livebpf::object::{Object, ProgType};
use livebpf::observe::{self, TailCallMode};
use livebpf::runtime::{Ebpf, Engine, Error, LoadOptions, Missed, ProgramArray, Runtime, RuntimeBuilder};

const ENGINES: [Engine; 3] = [Engine::Interp, Engine::Jit, Engine::Slot];

fn object(name: &str) -> Object {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/scenarios").join(name);
    Object::parse(&std::fs::read(path).expect("the object is there")).expect("an object")
}

fn runtime(engine: Engine, change: impl FnOnce(RuntimeBuilder) -> RuntimeBuilder) -> Runtime {
    change(Runtime::builder().engine(engine).cpus(4)).build().expect("a runtime")
}

fn array(ebpf: &Ebpf, name: &str) -> ProgramArray {
    ProgramArray::try_from(ebpf.map(name).expect("the map")).expect("a program array")
}

fn run(runtime: &Runtime, ebpf: &Ebpf, program: &str) -> u32 {
    let program = ebpf.program(program).expect("the program");
    let mut ctx = Context::for_type(program.prog_type(), &[0; 64]).expect("a context");
    runtime.worker().expect("a worker").run(program, &mut ctx).expect("a run")
}

/// `empty` misses slot 3 of `small`; `other_array_first` slot 0 of `large`, by a call that reaches either array.
fn miss_both(runtime: &Runtime, ebpf: &Ebpf) -> [u64; 2] {
    assert_eq!((run(runtime, ebpf, "empty"), run(runtime, ebpf, "other_array_first")), (1, 1));
    [array(ebpf, "small").missed(3).empty, array(ebpf, "large").missed(0).empty]
}

#[test]
fn nothing_is_counted_unless_asked_for() {
    for engine in ENGINES {
        let runtime = runtime(engine, |b| b);
        let ebpf = runtime.load(&object("runtime_jit.o")).unwrap();
        assert_eq!(miss_both(&runtime, &ebpf), [0, 0], "{engine}");
        let small = array(&ebpf, "small");
        assert!(!small.counts_missed());
        assert_eq!(
            (small.missed_slots(), small.missed_total(), small.missed_outside()),
            (vec![], Missed::default(), 0)
        );
    }
}

#[test]
fn a_load_decides_for_each_array() {
    for engine in ENGINES {
        let object = object("runtime_jit.o");
        let all = runtime(engine, |b| b.count_missed(true));
        let none = runtime(engine, |b| b);
        let load = |runtime: &Runtime, name: &str, count| {
            runtime.load_with(&object, &LoadOptions::default().count_missed(name, count)).unwrap()
        };
        assert_eq!(miss_both(&all, &all.load(&object).unwrap()), [1, 1], "{engine}");
        assert_eq!(miss_both(&all, &load(&all, "small", false)), [0, 1], "{engine}");
        assert_eq!(miss_both(&all, &load(&all, "large", false)), [1, 0], "{engine}");
        assert_eq!(miss_both(&none, &load(&none, "small", true)), [1, 0], "{engine}");
        let ebpf = load(&none, "large", true);
        assert_eq!(miss_both(&none, &ebpf), [0, 1], "{engine}");
        assert!(array(&ebpf, "large").counts_missed() && !array(&ebpf, "small").counts_missed());
        // A call through `small`, which is not counted, by the same site that counted one through `large`.
        array(&ebpf, "small").clear_index(0).unwrap();
        assert_eq!(run(&none, &ebpf, "other_array_second"), 1);
        assert_eq!(array(&ebpf, "small").missed_total(), Missed::default(), "{engine}");
        assert_eq!(array(&ebpf, "large").missed_slots(), [(0, Missed { empty: 1, limit: 0 })], "{engine}");
    }
}

/// The counters are the array's: loads that share it add to the same ones, and those that do not count leave them alone.
#[test]
fn loads_that_share_an_array_share_its_counters() {
    for engine in ENGINES {
        let (runtime, object) = (runtime(engine, |b| b), object("tailcall_1.o"));
        let count = |on| LoadOptions::default().count_missed("jmp_table", on);
        let first = runtime.load_with(&object, &count(true)).unwrap();
        let share = |options: LoadOptions| {
            runtime.load_with(&object, &options.reuse_map("jmp_table", first.map("jmp_table").unwrap())).unwrap()
        };
        let (second, third) = (share(count(true)), share(count(false)));
        // Four calls through each slot.
        let missed = || array(&first, "jmp_table").missed(0).empty;
        for (ebpf, after) in [(&first, 4), (&second, 8), (&third, 8), (&first, 12)] {
            assert_eq!(run(&runtime, ebpf, "entry"), 3, "{engine}");
            assert_eq!(missed(), after, "{engine}");
        }
        assert_eq!(array(&third, "jmp_table").missed_total(), array(&first, "jmp_table").missed_total());
        drop((first, second));
        runtime.barrier().unwrap();
        assert_eq!(array(&third, "jmp_table").missed(0).empty, 12, "{engine}: the counters stay with the array");
    }
}

#[test]
fn counters_are_read_while_programs_run() {
    for engine in ENGINES {
        let runtime = runtime(engine, |b| b.count_missed(true));
        let ebpf = runtime.load(&object("tailcall_1.o")).unwrap();
        let (jmp_table, stop) = (array(&ebpf, "jmp_table"), AtomicBool::new(false));
        let runs = std::thread::scope(|scope| {
            let runner = scope.spawn(|| {
                let mut runs = 0;
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(run(&runtime, &ebpf, "entry"), 3);
                    runs += 1;
                }
                runs
            });
            let mut last = 0;
            while last < 100 {
                let now = jmp_table.missed(0).empty;
                assert!(now >= last, "{engine}: {now} after {last}");
                last = now;
            }
            stop.store(true, Ordering::Relaxed);
            runner.join().unwrap()
        });
        assert_eq!(jmp_table.missed(0), Missed { empty: 4 * runs, limit: 0 }, "{engine}");
    }
}

/// A slot that is filled and emptied while a thread runs: every run reached the program or is counted as a miss.
#[test]
fn every_run_beside_updates_is_a_hit_or_counted() {
    let known = ("runtime_jit.o", "small", "once", "answer_42", 1);
    let read = ("tailcall_4.o", "jmp_table", "entry", "classifier_0", 3);
    for (engine, (file, name, caller, target, fallen_through)) in ENGINES.iter().flat_map(|e| [(*e, known), (*e, read)])
    {
        let runtime = runtime(engine, |b| b.count_missed(true));
        let ebpf = runtime.load(&object(file)).unwrap();
        let (slots, stop) = (array(&ebpf, name), AtomicBool::new(false));
        let target = ebpf.program(target).unwrap();
        let fallen = std::thread::scope(|scope| {
            let runner = scope.spawn(|| {
                let (mut fallen, mut hits) = (0, 0);
                while !stop.load(Ordering::Relaxed) || hits == 0 {
                    let through = run(&runtime, &ebpf, caller) == fallen_through;
                    fallen += u64::from(through);
                    hits += u64::from(!through);
                }
                fallen
            });
            for turn in 0.. {
                slots.set(0, target).unwrap();
                std::thread::yield_now();
                slots.clear_index(0).unwrap();
                std::thread::yield_now();
                if turn >= 200 && slots.missed(0).empty > 0 {
                    break;
                }
            }
            slots.set(0, target).unwrap();
            stop.store(true, Ordering::Relaxed);
            runner.join().unwrap()
        });
        assert_eq!(slots.missed_slots(), [(0, Missed { empty: fallen, limit: 0 })], "{engine} {file}");
    }
}

#[test]
fn choices_about_arrays_that_are_not_there_are_refused() {
    let (runtime, object) = (runtime(Engine::Jit, |b| b), object("tailcall_4.o"));
    let defaults = LoadOptions::default;
    for options in [defaults().slots("stages"), defaults().count_missed("stages", false)] {
        let error = runtime.load_with(&object, &options).unwrap_err();
        assert!(matches!(&error, Error::Unknown { kind: "map", name, .. } if name == "stages"), "{error}");
    }
    for options in [defaults().slots(".bss"), defaults().count_missed(".bss", true)] {
        let error = runtime.load_with(&object, &options).unwrap_err().to_string();
        assert_eq!(error, "map .bss is of type array, wanted prog_array");
    }
}

/// Slot mode by choice: no site of that array is patched, those of the others are, and updates are seen all the same.
#[test]
fn an_array_goes_through_its_slots_by_choice() {
    let (runtime, object) = (runtime(Engine::Jit, |b| b), object("runtime_jit.o"));
    assert_eq!((runtime.engine(), runtime.no_patching()), (Engine::Jit, None));
    let ebpf = runtime.load_with(&object, &LoadOptions::default().slots("small").count_missed("large", true)).unwrap();
    let sites = |name: &str| observe::listing(ebpf.program(name).unwrap()).unwrap().sites.len();
    assert_eq!((sites("once"), sites("loop_large")), (0, 1));
    let (small, large) = (ebpf.map("small").unwrap().id(), ebpf.map("large").unwrap().id());
    let mode = |name: &str| observe::tail_call_mode(ebpf.program(name).unwrap());
    let engine = Engine::Jit;
    assert_eq!(mode("once"), TailCallMode { engine, slots: vec![small], counted: vec![] });
    assert_eq!(mode("loop_large"), TailCallMode { engine, slots: vec![], counted: vec![large] });

    assert_eq!(run(&runtime, &ebpf, "once"), 42);
    array(&ebpf, "small").set(0, ebpf.program("answer_24").unwrap()).unwrap();
    assert_eq!(run(&runtime, &ebpf, "once"), 24);
    array(&ebpf, "small").clear_index(0).unwrap();
    assert_eq!(run(&runtime, &ebpf, "once"), 1);
    assert!(ebpf.programs().all(|p| p.prog_type() == ProgType::SOCKET_FILTER));
}
