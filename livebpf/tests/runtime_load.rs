//! A load that is refused leaves everything as it was: maps, owners of arrays, slots, code memory.

mod live_support;

use std::sync::Arc;

use live_support::*;
use livebpf::object::{MapDef, MapInit, MapType, ProgType};
use livebpf::runtime::{Engine, Error, LoadOptions, ProgramArray, Runtime};

/// Reads outside of its stack.
fn bad(name: &str) -> livebpf::link::Program {
    linked(name, "r0 = *(u64 *)(r10 - 600)\nexit", &[])
}

/// An array that nothing has used yet, so that it has no owner: of an object of which no program that uses it is loaded.
fn ownerless(runtime: &Runtime) -> (livebpf::runtime::MapHandle, ProgramArray) {
    let options = LoadOptions::default().programs(["classifier_0"]);
    let ebpf = runtime.load_with(&scenario("tailcall_1.o"), &options).unwrap();
    let handle = ebpf.map("jmp_table").unwrap().clone();
    let slots = ProgramArray::try_from(&handle).unwrap();
    (handle, slots)
}

#[test]
fn a_rejected_second_program_takes_the_first_with_it() {
    for engine in ENGINES {
        let runtime = runtime(engine);
        let (handle, slots) = ownerless(&runtime);
        runtime.barrier().unwrap();
        let used = runtime.code_used();
        // SCHED_CLS, as the object's; the array stands under the name that the programs use.
        let source = format!("r6 = r1\n{}w0 = 0\nexit", tail_call(0, 0));
        let user = linked("user", &source, &[handle.def()]);
        let options = LoadOptions::default().reuse_map("jmp_table", &handle);
        let error = runtime.load_linked_with(vec![user, bad("second")], &options).unwrap_err();
        assert!(matches!(&error, Error::Rejected { program, .. } if program == "second"), "{error}");
        runtime.barrier().unwrap();
        assert_eq!(runtime.code_used(), used, "{engine}: code is left behind");
        // No owner was left behind: the XDP program above did not turn the array into one for XDP.
        let tc = load(&runtime, linked_as(ProgType::SCHED_CLS, "tc", "w0 = 3\nexit", &[]));
        slots.set(0, &tc).unwrap();
    }
}

#[test]
fn programs_that_cannot_share_an_array_are_refused_together() {
    for engine in ENGINES {
        let runtime = runtime(engine);
        let (handle, slots) = ownerless(&runtime);
        let source = format!("r6 = r1\n{}w0 = 0\nexit", tail_call(0, 0));
        let types = [ProgType::XDP, ProgType::SCHED_CLS];
        let two = types.map(|prog_type| linked_as(prog_type, "user", &source, &[handle.def()]));
        let options = LoadOptions::default().reuse_map("jmp_table", &handle);
        assert_eq!(errno(runtime.load_linked_with(two.into(), &options)), libc::EINVAL);
        let tc = load(&runtime, linked_as(ProgType::SCHED_CLS, "tc", "w0 = 3\nexit", &[]));
        slots.set(0, &tc).unwrap();
    }
}

#[test]
fn a_static_initialiser_that_does_not_fit_changes_no_slot() {
    for engine in ENGINES {
        let runtime = runtime(engine);
        let def = MapDef {
            init: MapInit::Programs(vec![(0, "first".to_owned()), (1, "second".to_owned())]),
            ..MapDef::new("table", MapType::PROG_ARRAY, 4, 4, 2)
        };
        let def = Arc::new(def);
        let load_both = |second: ProgType, options: &LoadOptions| {
            let programs = vec![tries("first", &[1], &def), linked_as(second, "second", "w0 = 7\nexit", &[])];
            runtime.load_linked_with(programs, options)
        };
        let ebpf = load_both(ProgType::XDP, &LoadOptions::default()).unwrap();
        let handle = ebpf.map("table").unwrap();
        let slots = ProgramArray::try_from(handle).unwrap();
        assert_eq!(run(&runtime, program(&ebpf, "first")), 7);
        let ids = || (slots.program_id(0).unwrap(), slots.program_id(1).unwrap());
        let before = ids();
        runtime.barrier().unwrap();
        let used = runtime.code_used();
        let reuse = LoadOptions::default().reuse_map("table", handle);
        assert_eq!(errno(load_both(ProgType::SCHED_CLS, &reuse)), libc::EINVAL);
        runtime.barrier().unwrap();
        assert_eq!((ids(), runtime.code_used()), (before, used), "{engine}");
        // The same load with the right type replaces both.
        let again = load_both(ProgType::XDP, &reuse).unwrap();
        assert_eq!(ids(), (program(&again, "first").id(), program(&again, "second").id()));
    }
}

#[test]
fn a_load_into_a_full_region_fails_and_leaves_the_rest_running() {
    for engine in NATIVE {
        let runtime = builder(engine).code_bytes(64 << 10).build().unwrap();
        let (handle, slots) = array(&runtime, &prog_array("table", 1));
        let mut programs = Vec::new();
        let error = loop {
            match load_with(&runtime, tries("caller", &[0], handle.def()), &[&handle]) {
                Ok(program) => programs.push(program),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Text(_)), "{error}");
        assert!(programs.len() > 10);
        slots.set(0, &programs[1]).unwrap();
        assert_eq!(run(&runtime, &programs[0]), MISSED);
        let used = runtime.code_used();
        // What could not be loaded is not held: there is room again as soon as one goes.
        drop(programs.pop());
        runtime.barrier().unwrap();
        assert!(runtime.code_used() < used);
        load_with(&runtime, tries("caller", &[0], handle.def()), &[&handle]).unwrap();
    }
}

#[test]
fn two_maps_of_one_name_must_be_the_same() {
    let runtime = runtime(Engine::Jit);
    let user = |size: u32| {
        let def = Arc::new(MapDef::new("data", MapType::ARRAY, 4, size, 1));
        let source = format!("r1 = map[idx:0][0]+0\n*(u64 *)(r1 + {}) = 1\nw0 = 0\nexit", size - 8);
        linked("user", &source, &[&def])
    };
    let error = runtime.load_linked(vec![user(8), user(4096)]).unwrap_err();
    assert!(error.to_string().contains("map data is defined twice"), "{error}");
    assert_eq!(runtime.load_linked(vec![user(8), user(8)]).unwrap().maps().count(), 1);
}

#[test]
fn a_reused_map_has_to_have_the_shape_that_programs_are_verified_for() {
    for engine in ENGINES {
        let runtime = runtime(engine);
        let def = |entries, frozen, byte: u8| {
            let mut def = MapDef::new("data", MapType::ARRAY, 4, 8, entries);
            (def.frozen, def.init) = (frozen, MapInit::Data([byte; 8].to_vec()));
            Arc::new(def)
        };
        let load_one = |def: &Arc<MapDef>, options: &LoadOptions| {
            // The value is an offset into the stack, which is fine only as long as it is 8.
            let source = "r1 = map[idx:0][0]+0\nr2 = *(u8 *)(r1 + 0)\n*(u64 *)(r10 - 8) = 1\nr3 = r10\nr3 += -16\nr3 += r2\nr0 = *(u64 *)(r3 + 0)\nexit";
            runtime.load_linked_with(vec![linked("user", source, &[def])], options)
        };
        let first = load_one(&def(1, true, 8), &LoadOptions::default()).unwrap();
        let map = first.map("data").unwrap();
        let reuse = LoadOptions::default().reuse_map("data", map);
        // What counts is what the map holds, not what the object says that it would hold.
        let again = load_one(&def(1, true, 255), &reuse).unwrap();
        assert_eq!(run(&runtime, program(&again, "user")), 1);
        assert!(matches!(load_one(&def(1, true, 255), &LoadOptions::default()), Err(Error::Rejected { .. })));
        assert!(matches!(load_one(&def(2, true, 8), &reuse), Err(Error::Options(_))), "other size");
        assert!(matches!(load_one(&def(1, false, 8), &reuse), Err(Error::Options(_))), "not frozen");
        let error = runtime.load_linked_with(vec![answers("none", 1)], &reuse).unwrap_err();
        assert!(error.to_string().contains("no map named \"data\""), "{error}");
    }
}

#[test]
fn maps_of_another_runtime_are_refused() {
    let (one, two) = (runtime(Engine::Jit), runtime(Engine::Slot));
    let (handle, _slots) = array(&one, &prog_array("table", 1));
    let error = load_with(&two, tries("user", &[0], handle.def()), &[&handle]).unwrap_err();
    assert!(error.to_string().contains("another runtime"), "{error}");
}
