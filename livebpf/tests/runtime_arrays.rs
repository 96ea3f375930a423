//! Program arrays of a runtime: contracts, error numbers, and who keeps what alive. Scenarios V6, V8 to V12, C10, C11.

mod live_support;

use std::sync::Arc;

use live_support::*;
use livebpf::object::{MapDef, MapType, ProgType};
use livebpf::runtime::{Engine, Error, LoadOptions, MapHandle, ProgramArray, Runtime};

#[test]
fn v8_the_first_program_decides_which_others_may_use_the_array() {
    for engine in ENGINES {
        let runtime = runtime(engine);
        // Fixed by the program that made it, and still fixed when that one is gone.
        let (handle, slots) = array(&runtime, &prog_array("table", 2));
        runtime.barrier().unwrap();
        let tc =
            linked_as(ProgType::SCHED_CLS, "tc", &format!("r6 = r1\n{}w0 = 0\nexit", tail_call(0, 0)), &[handle.def()]);
        let at_load = load_with(&runtime, tc, &[&handle]);
        let text = at_load.as_ref().expect_err("a program of another type").to_string();
        assert!(text.contains("does not fit the program array") && text.contains("type"), "{text}");
        assert_eq!(errno(at_load), libc::EINVAL);
        let other = load(&runtime, linked_as(ProgType::SCHED_CLS, "tc", "w0 = 3\nexit", &[]));
        assert_eq!(errno(slots.set(0, &other)), libc::EINVAL);
        assert_eq!(errno(slots.program_id(0)), libc::ENOENT, "a refused insert changes nothing");
        let same = load_with(&runtime, tries("same", &[0], handle.def()), &[&handle]).unwrap();
        slots.set(0, &same).unwrap();
        assert_eq!(run(&runtime, &same), MISSED, "33 tail calls into itself, then the end");
    }
}

#[test]
fn v8_an_insert_decides_too() {
    // An array that no program uses: made by an object whose other program is loaded.
    for engine in ENGINES {
        let runtime = runtime(engine);
        let ebpf =
            runtime.load_with(&scenario("tailcall_1.o"), &LoadOptions::default().programs(["classifier_0"])).unwrap();
        let slots = ProgramArray::try_from(ebpf.map("jmp_table").unwrap()).unwrap();
        slots.set(0, program(&ebpf, "classifier_0")).unwrap();
        slots.clear_index(0).unwrap();
        let xdp = load(&runtime, answers("xdp", 1));
        assert_eq!(errno(slots.set(0, &xdp)), libc::EINVAL, "the owner stays when the array is empty again");
    }
}

/// The kernel lets a program with cgroup storage tail call only into programs with the same: a way to another one's storage. There
/// is no such storage here.
#[test]
fn v9_there_is_no_storage_to_reach_through_a_tail_call() {
    for map_type in [MapType::CGROUP_STORAGE, MapType::PERCPU_CGROUP_STORAGE] {
        let refused = runtime(Engine::Jit).load_linked(vec![linked(
            "storage",
            "r0 = map[idx:0]\nr0 = 0\nexit",
            &[&Arc::new(MapDef::new("storage", map_type, 16, 8, 0))],
        )]);
        let text = refused.map(drop).expect_err("no such map").to_string();
        assert!(text.ends_with("cgroup_storage, which is not supported"), "{text}");
    }
}

/// The kernel refuses the 1025th direct tail call of a program; here any number of them is direct.
#[test]
fn v12_more_than_1024_tail_calls_are_direct() {
    for engine in ENGINES {
        let runtime = runtime(engine);
        let (handle, slots) = array(&runtime, &prog_array("table", 2));
        let sites: Vec<u32> = (0..1025).map(|n| u32::from(n == 1024)).collect();
        let caller = load_with(&runtime, tries("caller", &sites, handle.def()), &[&handle]).unwrap();
        assert_eq!(run(&runtime, &caller), MISSED);
        let target = load(&runtime, answers("target", 7));
        // The last of them alone, then the first.
        slots.set(1, &target).unwrap();
        assert_eq!(run(&runtime, &caller), 7);
        slots.clear_index(1).unwrap();
        slots.set(0, &target).unwrap();
        assert_eq!(run(&runtime, &caller), 7);
        if engine == Engine::Jit && runtime.no_patching().is_none() {
            assert!(slots.audit().unwrap().is_ok_and(|sites| sites >= 1025), "{:?}", slots.audit());
        }
    }
}

#[test]
fn v8_programs_of_another_runtime_are_refused() {
    for (one, two) in [
        (Engine::Jit, Engine::Jit),
        (Engine::Interp, Engine::Jit),
        (Engine::Jit, Engine::Interp),
        (Engine::Interp, Engine::Interp),
    ] {
        let (one, two) = (runtime(one), runtime(two));
        let (handle, slots) = array(&one, &prog_array("table", 1));
        let stranger = load(&two, answers("stranger", 1));
        let error = slots.set(0, &stranger).unwrap_err();
        assert!(matches!(error, Error::Options(_)) && error.to_string().contains("another runtime"), "{error}");
        let error = load_with(&two, tries("user", &[0], handle.def()), &[&handle]).unwrap_err();
        assert!(error.to_string().contains("another runtime"), "{error}");
        let error = one.worker().unwrap().run(&stranger, &mut context(&stranger)).unwrap_err();
        assert!(error.to_string().contains("another runtime"), "{error}");
    }
}

#[test]
fn v10_shapes_that_no_program_array_may_have() {
    let good = MapDef::new("table", MapType::PROG_ARRAY, 4, 4, 1);
    // BPF_F_NO_PREALLOC, RDONLY, WRONLY_PROG, RDONLY_PROG, MMAPABLE, INNER_MAP. RDONLY and WRONLY concern the user's
    // side only, and are the ones that a program array may have.
    let flags = [1, 1 << 7, 1 << 8, 1 << 10, 1 << 12];
    let bad = [
        MapDef { key_size: 8, ..good.clone() },
        MapDef { key_size: 0, ..good.clone() },
        MapDef { value_size: 8, ..good.clone() },
        MapDef { value_size: 0, ..good.clone() },
        MapDef { max_entries: 0, ..good.clone() },
    ];
    let bad = bad.into_iter().chain(flags.map(|map_flags| MapDef { map_flags, ..good.clone() }));
    let runtime = runtime(Engine::Jit);
    for def in bad {
        let shape = format!("{def:?}");
        let result = runtime.load_linked(vec![tries("user", &[0], &Arc::new(def))]);
        assert!(matches!(result, Err(Error::Map { .. })), "{shape}: {result:?}");
        assert_eq!(errno(result), libc::EINVAL, "{shape}");
    }
    runtime.load_linked(vec![tries("user", &[0], &Arc::new(good))]).unwrap();
}

#[test]
fn v11_updates_answer_the_kernels_error_numbers() {
    for engine in ENGINES {
        let runtime = runtime(engine);
        let (handle, slots) = array(&runtime, &prog_array("table", 3));
        let one = load(&runtime, answers("one", 1));
        assert_eq!((slots.len(), handle.len()), (3, 0));
        assert_eq!(errno(slots.set(3, &one)), libc::E2BIG);
        assert_eq!(errno(slots.set(u32::MAX, &one)), libc::E2BIG);
        assert_eq!(errno(slots.clear_index(3)), libc::E2BIG);
        assert_eq!(errno(slots.clear_index(0)), libc::ENOENT);
        assert_eq!(errno(slots.program_id(0)), libc::ENOENT);
        assert_eq!(errno(slots.program_id(3)), libc::ENOENT);
        slots.set(2, &one).unwrap();
        assert_eq!((slots.program_id(2).unwrap(), handle.len()), (one.id(), 1));
        assert_eq!(handle.read(&2u32.to_le_bytes()).unwrap(), one.id().to_le_bytes());
        assert_eq!(errno(handle.write(&0u32.to_le_bytes(), &one.id().to_le_bytes(), 0)), 524, "not through the map");
        assert_eq!(errno(handle.remove(&[2, 0, 0])), libc::EINVAL);
        handle.remove(&2u32.to_le_bytes()).unwrap();
        assert_eq!(errno(handle.remove(&2u32.to_le_bytes())), libc::ENOENT);
    }
}

/// A runtime with a caller of slot 0, and the array.
fn called(engine: Engine) -> (Runtime, livebpf::runtime::Program, MapHandle, ProgramArray) {
    let runtime = runtime(engine);
    let (handle, slots) = array(&runtime, &prog_array("table", 2));
    let caller = load_with(&runtime, tries("caller", &[0], handle.def()), &[&handle]).unwrap();
    runtime.barrier().unwrap();
    (runtime, caller, handle, slots)
}

#[test]
fn c10_a_program_in_a_slot_outlives_its_handle() {
    for engine in ENGINES {
        let (runtime, caller, _handle, slots) = called(engine);
        let used = runtime.code_used();
        let target = load(&runtime, answers("target", 7));
        let id = target.id();
        slots.set(0, &target).unwrap();
        drop(target);
        runtime.barrier().unwrap();
        let with_target = runtime.code_used();
        assert_eq!((run(&runtime, &caller), slots.program_id(0).unwrap()), (7, id));
        assert_eq!(with_target > used, engine != Engine::Interp);
        slots.clear_index(0).unwrap();
        assert_eq!(run(&runtime, &caller), MISSED);
        runtime.barrier().unwrap();
        assert_eq!(runtime.code_used(), used, "{engine}: its code is not freed");
    }
}

#[test]
fn c11_the_last_handle_of_an_array_empties_it() {
    for engine in ENGINES {
        let (runtime, caller, handle, slots) = called(engine);
        // A circle: the array holds a program that uses the array.
        slots.set(0, &caller).unwrap();
        slots.set(1, &load(&runtime, answers("target", 7))).unwrap();
        let another = load_with(&runtime, tries("another", &[1], handle.def()), &[&handle]).unwrap();
        assert_eq!(run(&runtime, &another), 7);
        let (also, more) = (handle.clone(), slots.clone());
        drop((handle, slots, also));
        runtime.barrier().unwrap();
        assert_eq!(run(&runtime, &another), 7, "a handle is left");
        drop(more);
        runtime.barrier().unwrap();
        assert_eq!(run(&runtime, &another), MISSED);
        assert_eq!(run(&runtime, &caller), MISSED);
    }
}

/// Bytes of code there are when everything but the runtime is gone.
fn empty(engine: Engine) -> (Runtime, u64) {
    let runtime = runtime(engine);
    let used = runtime.code_used();
    (runtime, used)
}

#[test]
fn c11_circles_leave_nothing_behind_in_whatever_order_handles_go() {
    for engine in ENGINES {
        for order in 0..24 {
            let (runtime, used) = empty(engine);
            let (handle, slots) = array(&runtime, &prog_array("table", 2));
            let one = load_with(&runtime, tries("one", &[1], handle.def()), &[&handle]).unwrap();
            let two = load_with(&runtime, tries("two", &[0], handle.def()), &[&handle]).unwrap();
            slots.set(0, &one).unwrap();
            slots.set(1, &two).unwrap();
            assert_eq!(run(&runtime, &one), MISSED, "a circle of 33");
            let mut handles: Vec<Box<dyn std::any::Any>> =
                vec![Box::new(handle), Box::new(slots), Box::new(one), Box::new(two)];
            let mut rest = order;
            while !handles.is_empty() {
                drop(handles.remove(rest % handles.len()));
                rest /= 4 - handles.len();
            }
            runtime.barrier().unwrap();
            assert_eq!(runtime.code_used(), used, "{engine}, order {order}");
        }
    }
}

#[test]
fn an_array_that_holds_programs_with_other_arrays_goes_with_all_of_them() {
    for engine in ENGINES {
        let (runtime, used) = empty(engine);
        let (outer, outer_slots) = array(&runtime, &prog_array("outer", 1));
        let (inner, inner_slots) = array(&runtime, &prog_array("inner", 1));
        inner_slots.set(0, &load(&runtime, answers("last", 7))).unwrap();
        let middle = load_with(&runtime, tries("middle", &[0], inner.def()), &[&inner]).unwrap();
        outer_slots.set(0, &middle).unwrap();
        let entry = load_with(&runtime, tries("entry", &[0], outer.def()), &[&outer]).unwrap();
        assert_eq!(run(&runtime, &entry), 7);
        drop((middle, entry, inner, inner_slots, outer, outer_slots));
        runtime.barrier().unwrap();
        assert_eq!(runtime.code_used(), used, "{engine}");
    }
}

#[test]
fn the_runtime_itself_may_go_first() {
    for engine in ENGINES {
        let (runtime, caller, handle, slots) = called(engine);
        let mut worker = runtime.worker().unwrap();
        drop(runtime);
        slots.set(0, &caller).unwrap();
        assert_eq!(worker.run(&caller, &mut context(&caller)), Ok(MISSED));
        drop((handle, slots));
        assert_eq!(worker.run(&caller, &mut context(&caller)), Ok(MISSED));
        drop(caller);
        drop(worker);
    }
}

#[test]
fn ten_thousand_loads_leave_nothing_behind() {
    for engine in ENGINES {
        let (runtime, used) = empty(engine);
        let (handle, slots) = array(&runtime, &prog_array("table", 2));
        runtime.barrier().unwrap();
        let with_array = runtime.code_used();
        for number in 0..10_000 {
            let caller = load_with(&runtime, tries("caller", &[1], handle.def()), &[&handle]).unwrap();
            slots.set(number % 2, &caller).unwrap();
            if number % 1000 == 0 {
                runtime.barrier().unwrap();
                // Two in the slots, one of them the newest.
                assert!(runtime.code_used() <= with_array + 2 * 512, "{engine}: {} bytes", runtime.code_used());
            }
        }
        drop((handle, slots));
        runtime.barrier().unwrap();
        assert_eq!(runtime.code_used(), used, "{engine}");
    }
}
