//! Runs and the process around them: small stacks, forks (C17), CPU numbers, the trace log.
#![allow(unsafe_code)]

mod live_support;

use std::sync::{Arc, Mutex, OnceLock};

use live_support::*;
use livebpf::helper::FIRST_CUSTOM;
use livebpf::object::{MapDef, MapInit, MapType};
use livebpf::runtime::{Engine, Error, Program, RunError, Runtime, TraceLog, Worker};

/// One run on a thread with `bytes` of stack.
fn run_with_stack(bytes: usize, worker: &mut Worker, program: &Program) -> Result<u32, RunError> {
    std::thread::scope(|scope| {
        let run = || worker.run(program, &mut context(program));
        std::thread::Builder::new().stack_size(bytes).spawn_scoped(scope, run).unwrap().join().unwrap()
    })
}

#[test]
fn a_thread_with_too_little_stack_is_refused() {
    for engine in NATIVE {
        let runtime = runtime(engine);
        let (handle, slots) = array(&runtime, &prog_array("table", 1));
        // As much stack as there can be: 33 tail calls from a subprogram below a caller with 240 bytes.
        let source = format!(
            "r6 = r1\nr7 = 7\nr8 = 8\nr9 = 9\n*(u64 *)(r10 - 240) = r7\nr1 = r6\ncall sub\nr0 += r7\nr0 += r8\nr0 += r9\nexit\n\
             sub:\nr6 = r1\nr7 = 1\nr8 = 2\nr9 = 3\n*(u64 *)(r10 - 256) = r7\n{}w0 = {MISSED}\nexit",
            tail_call(0, 0)
        );
        let hungry = load_with(&runtime, linked("hungry", &source, &[&handle.def().clone()]), &[&handle]).unwrap();
        slots.set(0, &hungry).unwrap();
        let mut worker = runtime.worker().unwrap();
        let refused = run_with_stack(32 << 10, &mut worker, &hungry);
        let Err(RunError::Stack { found, wanted }) = refused else { panic!("{refused:?}") };
        assert!(found < 40 << 10 && wanted > 33 * 256, "{found} of {wanted}");
        // 33 successful calls left 34 callers standing, of which each adds 24.
        assert_eq!(run_with_stack(256 << 10, &mut worker, &hungry), Ok(MISSED + 34 * 24), "{engine}");
        assert_eq!(
            run_with_stack(wanted as usize + (16 << 10), &mut worker, &hungry),
            Ok(MISSED + 34 * 24),
            "{engine}"
        );
        assert!(matches!(run_with_stack(32 << 10, &mut worker, &answers_one(&runtime)), Err(RunError::Stack { .. })));
    }
}

fn answers_one(runtime: &Runtime) -> Program {
    load(runtime, answers("one", 1))
}

/// What `in_child` says in a fork's child: true for "as it should be".
fn in_child(in_child: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child uses memory of its own only, takes no lock that another thread of this test may hold (the test holds none,
    // and its reclaimer is idle after a barrier), and ends by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let good = std::panic::catch_unwind(std::panic::AssertUnwindSafe(in_child)).unwrap_or(false);
        // SAFETY: ends the child without running destructors.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    let mut status = 0;
    // SAFETY: waits for the child just made.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    status == 0
}

#[test]
fn c17_a_forks_child_can_neither_run_nor_update_nor_load() {
    for engine in ENGINES {
        let runtime = runtime(engine);
        let (handle, slots) = array(&runtime, &prog_array("table", 1));
        let caller = load_with(&runtime, tries("caller", &[0], handle.def()), &[&handle]).unwrap();
        slots.set(0, &answers_one(&runtime)).unwrap();
        let mut worker = runtime.worker().unwrap();
        let mut packet = context(&caller);
        let fresh = answers("fresh", 2);
        runtime.barrier().unwrap();
        assert!(in_child(|| worker.run(&caller, &mut packet) == Err(RunError::Forked)), "{engine}: run");
        assert!(in_child(|| matches!(worker.pin(), Err(RunError::Forked))), "{engine}: pin");
        assert!(in_child(|| matches!(slots.clear_index(0), Err(Error::Update(_)))), "{engine}: clear");
        assert!(in_child(|| matches!(slots.set(0, &caller), Err(Error::Update(_)))), "{engine}: set");
        assert!(in_child(|| matches!(runtime.load_linked(vec![fresh]), Err(Error::Update(_)))), "{engine}: load");
        assert!(in_child(|| matches!(runtime.barrier(), Err(Error::Wait(_)))), "{engine}: barrier");
        assert_eq!(worker.run(&caller, &mut packet), Ok(1), "{engine}: the parent");
        // A section that was open when the process was forked.
        let mut pinned = worker.pin().unwrap();
        assert!(in_child(|| pinned.run(&caller, &mut packet) == Err(RunError::Forked)), "{engine}: pinned");
        assert_eq!(pinned.run(&caller, &mut packet), Ok(1));
        drop(pinned);
        // Dropping everything in the child concerns nobody.
        let clones = (runtime.clone(), handle.clone(), slots.clone(), caller.clone());
        drop((handle, slots));
        let (runtime, handle, slots, caller) = clones;
        runtime.barrier().unwrap();
        let all = (worker, caller.clone(), handle.clone(), slots.clone(), runtime.clone());
        let mut all = Some(all);
        assert!(in_child(|| {
            drop(all.take());
            true
        }));
        let (mut worker, ..) = all.unwrap();
        assert_eq!(worker.run(&caller, &mut packet), Ok(1));
        slots.clear_index(0).unwrap();
        assert_eq!(worker.run(&caller, &mut packet), Ok(MISSED));
        runtime.barrier().unwrap();
    }
}

#[test]
fn every_worker_has_a_cpu_number_of_its_own() {
    for engine in ENGINES {
        let runtime = builder(engine).cpus(3).build().unwrap();
        let number = load(&runtime, linked("number", "call bpf_get_smp_processor_id#8\nexit", &[]));
        let mut workers: Vec<Worker> = (0..3).map(|_| runtime.worker().unwrap()).collect();
        for (expected, worker) in workers.iter_mut().enumerate() {
            assert_eq!(worker.cpu(), expected as u32);
            assert_eq!(worker.run(&number, &mut context(&number)), Ok(expected as u32));
        }
        let refused = runtime.worker();
        assert!(matches!(refused, Err(Error::Run(RunError::NoCpu { cpus: 3 }))));
        drop(workers.remove(1));
        assert_eq!(runtime.worker().unwrap().cpu(), 1, "a number that was given back");
    }
    for cpus in [0, 4097] {
        assert!(matches!(builder(Engine::Interp).cpus(cpus).build(), Err(Error::Options(_))), "{cpus}");
    }
}

/// Keeps the lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<(u32, String)>>>);

impl TraceLog for Lines {
    fn line(&self, cpu: u32, text: &str) {
        self.0.lock().unwrap().push((cpu, text.to_owned()));
    }
}

/// Prints `text`, a string in global data of its own, with the CPU's number; then calls on through slot 0.
fn prints(name: &str, text: &str, array: &Arc<MapDef>) -> livebpf::link::Program {
    let mut data = b"%s on %d\0".to_vec();
    data.resize(16, 0);
    data.extend(text.bytes());
    data.push(0);
    let mut def = MapDef::new(&format!(".rodata.{name}"), MapType::ARRAY, 4, data.len() as u32, 1);
    (def.frozen, def.init, def.section) = (true, MapInit::Data(data), Some(".rodata".to_owned()));
    let source = format!(
        "r6 = r1\ncall bpf_get_smp_processor_id#8\nr4 = r0\nr1 = map[idx:1][0]+0\nr2 = 9\nr3 = map[idx:1][0]+16\n\
         call bpf_trace_printk#6\nr7 = r0\n{}r0 = r7\nexit",
        tail_call(0, 0)
    );
    linked(name, &source, &[array, &Arc::new(def)])
}

#[test]
fn trace_printk_writes_strings_of_every_program_in_the_chain() {
    for engine in ENGINES {
        let lines = Lines::default();
        let runtime = builder(engine).trace_log(lines.clone()).build().unwrap();
        let (handle, slots) = array(&runtime, &prog_array("table", 1));
        let first = load_with(&runtime, prints("first", "from the first", handle.def()), &[&handle]).unwrap();
        let second = load_with(&runtime, prints("second", "from the second", handle.def()), &[&handle]).unwrap();
        let _zero = runtime.worker().unwrap();
        let mut worker = runtime.worker().unwrap();
        assert_eq!(worker.run(&first, &mut context(&first)), Ok("from the first on 1".len() as u32), "{engine}");
        slots.set(0, &second).unwrap();
        worker.run(&first, &mut context(&first)).unwrap();
        let lines = lines.0.lock().unwrap();
        assert_eq!(lines[0], (1, "from the first on 1".to_owned()), "{engine}");
        assert_eq!(lines[1], (1, "from the first on 1".to_owned()), "{engine}");
        // It calls itself until the limit.
        assert_eq!(lines.len(), 1 + 1 + 33, "{engine}");
        assert!(lines[2..].iter().all(|line| *line == (1, "from the second on 1".to_owned())), "{engine}: {lines:?}");
    }
}

#[test]
fn a_log_that_panics_ends_the_run() {
    struct Panics;
    impl TraceLog for Panics {
        fn line(&self, _: u32, _: &str) {
            panic!("on purpose");
        }
    }
    for engine in ENGINES {
        let runtime = builder(engine).trace_log(Panics).build().unwrap();
        let (handle, _slots) = array(&runtime, &prog_array("table", 1));
        let first = load_with(&runtime, prints("first", "x", handle.def()), &[&handle]).unwrap();
        let result = runtime.worker().unwrap().run(&first, &mut context(&first));
        assert_eq!(result, Err(RunError::HelperPanicked { program: "first".to_owned() }), "{engine}");
        runtime.barrier().unwrap();
    }
}

#[test]
fn what_would_wait_for_itself_is_refused() {
    for engine in ENGINES {
        let seen: Arc<Mutex<Option<bool>>> = Arc::default();
        let (answer, own): (_, Arc<OnceLock<Runtime>>) = (seen.clone(), Arc::default());
        let inside = Arc::downgrade(&own);
        let runtime = builder(engine)
            .helper(helper(FIRST_CUSTOM, &[]), move |_| {
                let result = inside.upgrade().unwrap().get().unwrap().barrier();
                *answer.lock().unwrap() = Some(matches!(result, Err(Error::Wait(_))));
                0
            })
            .build()
            .unwrap();
        assert!(own.set(runtime.clone()).is_ok());
        let waits = load(&runtime, linked("waits", &format!("call {FIRST_CUSTOM}\nexit"), &[]));
        assert_eq!(run(&runtime, &waits), 0);
        assert_eq!(*seen.lock().unwrap(), Some(true), "{engine}");
        runtime.barrier().unwrap();
    }
}
