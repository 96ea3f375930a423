//! Programs, arrays and workers come and go, and nothing stays behind: `LIVEBPF_LEAK_CYCLES` cycles of loading, linking, running and
//! unloading (3000 without it; a million take about five minutes in a release build). In a process of its own, whose memory it looks at.

#![allow(unsafe_code)]

mod live_support;

use std::time::Instant;

use live_support::*;
use livebpf::runtime::{Engine, Error, MapHandle, ProgramArray, Runtime};

/// Pages of this process that are in memory, in bytes, without what the allocator keeps for later.
fn resident() -> u64 {
    #[cfg(target_env = "gnu")]
    // SAFETY: gives free memory back to the system, no more.
    unsafe {
        libc::malloc_trim(0)
    };
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// One load/unload cycle: a caller, two targets, all three kinds of update.
fn cycle(runtime: &Runtime, handle: &MapHandle, slots: &ProgramArray, number: u32) {
    let caller = load_with(runtime, tries("caller", &[0, 1, 0], handle.def()), &[handle]).unwrap();
    let [one, two] = [1, 2].map(|value| load(runtime, answers("target", value)));
    slots.set(0, &one).unwrap();
    assert_eq!(run(runtime, &caller), 1);
    slots.set(0, &two).unwrap();
    assert_eq!(run(runtime, &caller), 2);
    slots.clear_index(0).unwrap();
    assert_eq!(run(runtime, &caller), MISSED);
    if number.is_multiple_of(10) {
        // All of it in one transaction, which places the code anew.
        let switch = || {
            runtime.transaction(|tx| {
                tx.set(slots, 0, &one);
                tx.set(slots, 1, &caller);
            })
        };
        while let Err(error) = switch() {
            // Grace periods may be long on a busy machine.
            assert!(matches!(error, Error::Generations { .. }), "{error}");
            runtime.barrier().unwrap();
        }
        assert_eq!(run(runtime, &caller), 1);
        slots.clear_index(0).unwrap();
        slots.clear_index(1).unwrap();
        // A circle, which the array's last handle cuts.
        let (handle, slots) = array(runtime, &prog_array("circle", 1));
        let own = load_with(runtime, tries("own", &[0], handle.def()), &[&handle]).unwrap();
        slots.set(0, &own).unwrap();
        assert_eq!(run(runtime, &own), MISSED);
    }
}

#[test]
fn load_and_unload_cycles_leave_nothing_behind() {
    let cycles: u32 = std::env::var("LIVEBPF_LEAK_CYCLES").ok().and_then(|s| s.parse().ok()).unwrap_or(3000);
    for engine in [Engine::Jit, Engine::Slot] {
        let cycles = cycles / 2;
        let runtime = runtime(engine);
        let (handle, slots) = array(&runtime, &prog_array("table", 2));
        runtime.barrier().unwrap();
        let (usage, begin) = (runtime.usage().unwrap(), Instant::now());
        let mut warm = 0;
        for number in 1..=cycles {
            cycle(&runtime, &handle, &slots, number);
            if number.is_multiple_of(500) {
                runtime.barrier().unwrap();
                assert_eq!(runtime.usage().unwrap(), usage, "{engine}, after {number} cycles");
                // Allocators keep what they had at their fullest: what counts comes after that.
                if number <= 1000 {
                    warm = resident();
                }
            }
        }
        runtime.barrier().unwrap();
        let grown = resident().saturating_sub(warm);
        let counts =
            [("cycles", cycles.into()), ("bytes resident after 1000 of them", warm), ("more at the end", grown)];
        report(&format!("load and unload, {engine}"), begin, &counts);
        assert!(grown < 4 << 20, "{engine}: {grown} bytes more after {cycles} cycles");
    }
}
