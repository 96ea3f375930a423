//! The process around a runtime: membarrier refused by a seccomp filter (C16), forks while slots change (C17).
#![allow(unsafe_code)]

mod child;
mod live_support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use live_support::*;
use livebpf::runtime::{Engine, Error, Program, ProgramArray, RunError, Runtime, Worker};
use livebpf::text::selftest;

/// Keeps the warnings.
struct Log(Mutex<Vec<String>>);

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        if record.level() <= log::Level::Warn {
            self.0.lock().unwrap().push(record.args().to_string());
        }
    }
    fn flush(&self) {}
}

/// The log of this process.
fn keep_log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    let log = LOG.get_or_init(|| Log(Mutex::default()));
    log::set_logger(log).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    log
}

#[test]
fn c16_where_membarrier_is_refused_the_runtime_chooses_slots_and_says_so() {
    const TEST: &str = "c16_where_membarrier_is_refused_the_runtime_chooses_slots_and_says_so";
    let errno = match child::case().as_deref() {
        None => {
            for case in ["EPERM", "ENOSYS"] {
                let output = child::start(TEST, case);
                assert!(output.status.success(), "{case}: {}", child::stderr(&output));
            }
            return;
        }
        Some("EPERM") => libc::EPERM,
        Some(_) => libc::ENOSYS,
    };
    child::end_after(60);
    seccomp::refuse(libc::SYS_membarrier, errno);
    let log = keep_log();
    let runtime = builder(Engine::Jit).build().unwrap();
    assert_eq!(runtime.engine(), Engine::Slot);
    let said = log.0.lock().unwrap().join("\n");
    assert!(said.contains("cannot be patched here (membarrier is refused: "), "{said}");
    assert!(said.contains("tail calls go through their slots"), "{said}");
    let doctor = selftest::machine().core_sync.expect("a reason");
    assert!(doctor.contains("membarrier is refused"), "{doctor}");
    let (handle, slots) = array(&runtime, &prog_array("table", 1));
    let caller = load_with(&runtime, tries("caller", &[0, 0], handle.def()), &[&handle]).unwrap();
    assert_eq!(runtime.usage().unwrap().sites, 0, "nothing to patch");
    for value in 0..100 {
        slots.set(0, &load(&runtime, answers("target", value))).unwrap();
        assert_eq!(run(&runtime, &caller), value);
        slots.clear_index(0).unwrap();
        assert_eq!(run(&runtime, &caller), MISSED);
    }
    runtime.barrier().unwrap();
    // What was said is not said again by loads and updates.
    assert_eq!(log.0.lock().unwrap().len(), 1);
    code_memory_ends();
}

/// Where core sync is missing code memory is not used twice: transactions use it up, the last is refused, and updates go on.
fn code_memory_ends() {
    let runtime = builder(Engine::Jit).code_bytes(64 << 10).build().unwrap();
    let (handle, slots) = array(&runtime, &prog_array("table", 1));
    let caller = load_with(&runtime, tries("caller", &[0, 0], handle.def()), &[&handle]).unwrap();
    let targets = [1, 2].map(|value| load(&runtime, answers("target", value)));
    let mut made = 0;
    let error = loop {
        match runtime.transaction(|tx| tx.set(&slots, 0, &targets[made % 2])) {
            Ok(()) => made += 1,
            Err(Error::Generations { .. }) => {}
            Err(error) => break error,
        }
        runtime.barrier().unwrap();
        assert!(made < 4096, "memory that was used again");
    };
    assert!(matches!(error, Error::Text(_)) && made > 0, "after {made}: {error}");
    assert_eq!(run(&runtime, &caller), 1 + (made as u32 - 1) % 2, "a refused transaction changes nothing");
    for value in [0, 1] {
        slots.set(0, &targets[value]).unwrap();
        assert_eq!(run(&runtime, &caller), 1 + value as u32);
    }
    slots.clear_index(0).unwrap();
    assert_eq!(run(&runtime, &caller), MISSED);
}

/// Children that were forked, and in which everything was refused.
fn fork_often(runtime: &Runtime, caller: &Program, slots: &ProgramArray, time: Duration) -> u32 {
    let mut worker = runtime.worker().unwrap();
    let mut packet = context(caller);
    let target = load(runtime, answers("of the child", 66));
    let (begin, mut forks) = (Instant::now(), 0);
    while begin.elapsed() < time || forks < 20 {
        let gone = load(runtime, answers("dropped on both sides", 67));
        // SAFETY: the child calls what refuses at once, and ends by `_exit`; glibc makes malloc usable after a fork.
        let child = unsafe { libc::fork() };
        assert!(child >= 0, "no second process");
        if child == 0 {
            child::end_after(20);
            let refused =
                std::panic::AssertUnwindSafe(|| all_refused(runtime, &mut worker, caller, &mut packet, slots, &target));
            let status = std::panic::catch_unwind(refused).unwrap_or(100);
            drop(gone);
            // SAFETY: ends the child without destructors.
            unsafe { libc::_exit(status) };
        }
        let mut status = 0;
        // SAFETY: waits for the child just made.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0, "a child was not refused, or hung");
        forks += 1;
        let result = worker.run(caller, &mut packet).unwrap();
        assert!([1, 2, MISSED].contains(&result), "{result:#x}");
    }
    forks
}

/// 0, or the number of what was not refused.
fn all_refused(
    runtime: &Runtime,
    worker: &mut Worker,
    caller: &Program,
    packet: &mut livebpf::context::Context,
    slots: &ProgramArray,
    target: &Program,
) -> i32 {
    let refused = [
        worker.run(caller, packet) == Err(RunError::Forked),
        matches!(slots.set(0, target), Err(Error::Update(_))),
        matches!(slots.clear_index(0), Err(Error::Update(_))),
        matches!(slots.audit(), Err(Error::Update(_))),
        matches!(runtime.usage(), Err(Error::Update(_))),
        matches!(runtime.load_linked(vec![answers("new", 1)]), Err(Error::Update(_))),
        matches!(runtime.transaction(|tx| tx.set(slots, 0, target)), Err(Error::Update(_))),
        matches!(runtime.barrier(), Err(Error::Wait(_))),
        worker.pin().is_err(),
    ];
    refused.iter().position(|refused| !refused).map_or(0, |at| at as i32 + 1)
}

#[test]
fn c17_forks_in_the_middle_of_updates_harm_nobody() {
    for engine in NATIVE {
        let runtime = runtime(engine);
        let used = runtime.usage().unwrap();
        let (handle, slots) = array(&runtime, &prog_array("table", 1));
        let caller = load_with(&runtime, tries("caller", &[0, 0], handle.def()), &[&handle]).unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let _stop = StopOnDrop(&stop);
            let writer = scope.spawn(|| {
                let mut updates = 0;
                while !stop.load(Ordering::Relaxed) {
                    slots.set(0, &load(&runtime, answers("target", 1 + updates % 2))).unwrap();
                    if updates % 3 == 0 {
                        slots.clear_index(0).unwrap();
                    }
                    updates += 1;
                }
                updates
            });
            // New generations, that change nothing.
            let relinker = scope.spawn(|| {
                let mut transactions = 0;
                while !stop.load(Ordering::Relaxed) {
                    match runtime.transaction(|tx| tx.replace_entry(&caller, &caller)) {
                        Ok(()) => transactions += 1,
                        Err(Error::Generations { .. }) => runtime.barrier().unwrap(),
                        Err(error) => panic!("{error}"),
                    }
                }
                transactions
            });
            let runner = scope.spawn(|| {
                let mut worker = runtime.worker().unwrap();
                let (mut packet, mut runs) = (context(&caller), 0u64);
                while !stop.load(Ordering::Relaxed) {
                    let result = worker.run(&caller, &mut packet).unwrap();
                    assert!([1, 2, MISSED].contains(&result), "{engine}: {result:#x}");
                    runs += 1;
                }
                runs
            });
            let begin = Instant::now();
            let forks = fork_often(&runtime, &caller, &slots, stress());
            stop.store(true, Ordering::SeqCst);
            let (updates, runs) = (writer.join().unwrap(), runner.join().unwrap());
            let transactions: u64 = relinker.join().unwrap();
            let counts =
                [("runs", runs), ("updates", updates.into()), ("transactions", transactions), ("forks", forks.into())];
            report(&format!("C17, {engine}"), begin, &counts);
            assert!(updates > 0 && runs > 0 && transactions > 0);
        });
        assert!(slots.audit().unwrap().is_ok());
        slots.set(0, &load(&runtime, answers("last", 5))).unwrap();
        assert_eq!(run(&runtime, &caller), 5, "{engine}");
        drop((caller, handle, slots));
        runtime.barrier().unwrap();
        assert_eq!(runtime.usage().unwrap(), used, "{engine}");
    }
}
