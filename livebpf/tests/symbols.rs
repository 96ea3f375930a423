//! Telling profilers where code lies, and that no patch depends on it (C24).

mod live_support;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, mpsc};

use live_support::*;
use livebpf::observe::{PerfMap, listing};
use livebpf::runtime::{CodeSymbol, Engine, SymbolSink};

/// A sink made of a closure; told true when code is there, false when it goes.
struct Calls<F>(F);

impl<F: FnMut(bool, &[CodeSymbol]) -> io::Result<()> + Send> SymbolSink for Calls<F> {
    fn loaded(&mut self, symbols: &[CodeSymbol]) -> io::Result<()> {
        self.0(true, symbols)
    }
    fn unloaded(&mut self, symbols: &[CodeSymbol]) -> io::Result<()> {
        self.0(false, symbols)
    }
}

#[test]
fn c24_symbol_sinks_that_fail_panic_or_never_return_delay_nothing() {
    for engine in NATIVE {
        let (release, blocked) = mpsc::channel::<()>();
        let never_returns = Calls(move |_, _: &[CodeSymbol]| {
            // Until the test is over.
            let _ = blocked.recv();
            Ok(())
        });
        let fails = Calls(|_, _: &[CodeSymbol]| Err(io::Error::other("no room for a perf map")));
        let panics = Calls(|_, _: &[CodeSymbol]| panic!("a sink that panics; this message is part of the test"));
        let runtime = builder(engine).symbols(never_returns).symbols(fails).symbols(panics).build().unwrap();
        let used = runtime.code_used();
        let (handle, slots) = array(&runtime, &prog_array("table", 1));
        let caller = load_with(&runtime, tries("caller", &[0], handle.def()), &[&handle]).unwrap();
        let mut worker = runtime.worker().unwrap();
        let mut packet = context(&caller);
        for round in 0..500 {
            let target = load(&runtime, answers("target", round));
            slots.set(0, &target).unwrap();
            assert_eq!(worker.run(&caller, &mut packet), Ok(round), "{engine}: after an insert");
            drop(target);
            slots.clear_index(0).unwrap();
            assert_eq!(worker.run(&caller, &mut packet), Ok(MISSED), "{engine}: after a delete");
            if round % 50 == 0 {
                assert!(slots.audit().unwrap().is_ok());
                // Memory comes back, although the one sink has not even heard of the first program.
                runtime.barrier().unwrap();
            }
        }
        drop((caller, handle, slots, worker));
        runtime.barrier().unwrap();
        assert_eq!(runtime.code_used(), used, "{engine}");
        drop(release);
    }
}

/// What a sink may believe to be there: no two functions at one place.
#[derive(Default)]
struct Known {
    functions: BTreeMap<u64, CodeSymbol>,
    told: usize,
}

impl Known {
    fn hear(&mut self, there: bool, symbols: &[CodeSymbol]) {
        for symbol in symbols {
            if there {
                let end = symbol.address + u64::from(symbol.len);
                let before = self.functions.range(..end).next_back().map(|(_, other)| other);
                let overlaps = before.filter(|other| other.address + u64::from(other.len) > symbol.address);
                assert_eq!(overlaps, None, "still there when {symbol:?} is told");
                self.functions.insert(symbol.address, symbol.clone());
            } else {
                assert_eq!(self.functions.remove(&symbol.address).as_ref(), Some(symbol), "gone, but never told");
            }
        }
        self.told += 1;
    }
}

#[test]
fn sinks_are_told_of_every_program_in_order() {
    for engine in NATIVE {
        let known: Arc<Mutex<Known>> = Arc::default();
        let own = known.clone();
        let sink = Calls(move |there, symbols: &[CodeSymbol]| {
            own.lock().unwrap().hear(there, symbols);
            Ok(())
        });
        let runtime = builder(engine).symbols(sink).build().unwrap();
        let (handle, slots) = array(&runtime, &prog_array("table", 2));
        std::thread::scope(|scope| {
            for key in 0..2 {
                let (runtime, handle, slots) = (&runtime, &handle, &slots);
                scope.spawn(move || {
                    for _ in 0..300 {
                        let program = load_with(runtime, tries("one", &[key], handle.def()), &[handle]).unwrap();
                        slots.set(key, &program).unwrap();
                    }
                });
            }
        });
        runtime.barrier().unwrap();
        runtime.flush_symbols();
        {
            let known = known.lock().unwrap();
            assert_eq!(known.functions.len(), 2, "{engine}: those in the slots");
            assert!(known.functions.values().all(|f| f.name == "one" && f.len > 0));
            // Each came, and all but those two went; the maker of the array did both.
            assert_eq!(known.told, 2 * (600 + 1) - 2, "{engine}");
        }
        drop((handle, slots));
        runtime.barrier().unwrap();
        runtime.flush_symbols();
        assert_eq!(known.lock().unwrap().functions.len(), 0, "{engine}");
    }
}

#[test]
fn sinks_are_told_of_code_that_a_transaction_places_anew() {
    for engine in NATIVE {
        let known: Arc<Mutex<Known>> = Arc::default();
        let own = known.clone();
        let sink = Calls(move |there, symbols: &[CodeSymbol]| {
            own.lock().unwrap().hear(there, symbols);
            Ok(())
        });
        let runtime = builder(engine).symbols(sink).build().unwrap();
        let (handle, slots) = array(&runtime, &prog_array("table", 1));
        let caller = load_with(&runtime, tries("caller", &[0], handle.def()), &[&handle]).unwrap();
        let target = load(&runtime, answers("target", 7));
        let address = |program| listing(program).unwrap().base;
        let before = [address(&caller), address(&target)];
        runtime.transaction(|tx| tx.set(&slots, 0, &target)).unwrap();
        runtime.barrier().unwrap();
        runtime.flush_symbols();
        let now = [address(&caller), address(&target)];
        assert!(
            now[0] != before[0] && now[1] == before[1],
            "{engine}: the caller alone has a place in each generation"
        );
        let known: Vec<u64> = known.lock().unwrap().functions.keys().copied().collect();
        let mut wanted = now.to_vec();
        wanted.sort_unstable();
        assert_eq!(known, wanted, "{engine}");
    }
}

#[test]
fn a_perf_map_names_every_function_at_its_address() {
    let path = std::env::temp_dir().join(format!("livebpf-perf-map-of-a-test-{}", std::process::id()));
    let runtime = builder(Engine::Jit).symbols(PerfMap::at(&path)).build().unwrap();
    let two = load(&runtime, linked("two", "call f\nexit\nf:\nw0 = 7\nexit", &[]));
    let one = load(&runtime, answers("one", 1));
    runtime.flush_symbols();
    let map = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let wanted: String = [&two, &one]
        .iter()
        .flat_map(|program| {
            let listing = listing(program).unwrap();
            let line = |f: livebpf::observe::Function| {
                let (at, len) = (listing.base + u64::from(f.start), f.end - f.start);
                format!("{at:x} {len:x} bpf_prog_{}_{}\n", program.id(), f.name)
            };
            listing.functions.clone().into_iter().map(line).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(map, wanted);
    assert_eq!(map.lines().count(), 3);
    assert_eq!(PerfMap::new().path().to_str().unwrap(), format!("/tmp/perf-{}.map", std::process::id()));
}

#[test]
fn a_perf_map_that_cannot_be_written_is_no_reason_not_to_load() {
    let runtime = builder(Engine::Jit).symbols(PerfMap::at("/nowhere/at/all")).build().unwrap();
    let one = load(&runtime, answers("one", 1));
    runtime.flush_symbols();
    assert_eq!(run(&runtime, &one), 1);
    let link = std::env::temp_dir().join(format!("livebpf-perf-link-of-a-test-{}", std::process::id()));
    let target = link.with_extension("target");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let runtime = builder(Engine::Jit).symbols(PerfMap::at(&link)).build().unwrap();
    let _one = load(&runtime, answers("one", 1));
    runtime.flush_symbols();
    assert!(!target.exists(), "a link was followed");
    std::fs::remove_file(&link).unwrap();
}
