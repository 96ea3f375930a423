//! Runs: what they leave untouched (A5), budgets (A7-A9), nested runs, helpers that panic.
#![allow(unsafe_code)]

mod live_support;

use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use live_support::*;
use livebpf::context::Context;
use livebpf::helper::{Arg, FIRST_CUSTOM};
use livebpf::link::Program as Linked;
use livebpf::object::{MapDef, MapType, ProgType, ProgramKind};
use livebpf::runtime::{Effects, Engine, Error, Program, Redirect, RunError, Runtime, Target, Worker};

/// A native function that `registers_around` calls.
type Callee = unsafe extern "C" fn(*mut c_void);
type Work<'a> = &'a mut dyn FnMut();

unsafe extern "C" fn work(work: *mut c_void) {
    // SAFETY: `registers_after` passes a `Work` that it has borrowed.
    unsafe { (*work.cast::<Work<'_>>())() };
}

std::arch::global_asm!("livebpf_test_changes_r15:", "not r15", "ret");

// Calls rdi with the argument rsi and known values in all callee-saved registers, and writes what they hold afterwards to rdx. It
// says where it keeps its caller's registers, so that a panic below it can print its way here.
std::arch::global_asm!(
    "livebpf_test_registers_around:",
    ".cfi_startproc",
    "push rbp",
    ".cfi_adjust_cfa_offset 8",
    ".cfi_rel_offset rbp, 0",
    "push rbx",
    ".cfi_adjust_cfa_offset 8",
    ".cfi_rel_offset rbx, 0",
    "push r12",
    ".cfi_adjust_cfa_offset 8",
    ".cfi_rel_offset r12, 0",
    "push r13",
    ".cfi_adjust_cfa_offset 8",
    ".cfi_rel_offset r13, 0",
    "push r14",
    ".cfi_adjust_cfa_offset 8",
    ".cfi_rel_offset r14, 0",
    "push r15",
    ".cfi_adjust_cfa_offset 8",
    ".cfi_rel_offset r15, 0",
    "push rdx",
    ".cfi_adjust_cfa_offset 8",
    "mov [rdx + 48], rsp",
    "mov rbx, 0x1111111111111111",
    "mov rbp, 0x2222222222222222",
    "mov r12, 0x3333333333333333",
    "mov r13, 0x4444444444444444",
    "mov r14, 0x5555555555555555",
    "mov r15, 0x6666666666666666",
    "mov rax, rdi",
    "mov rdi, rsi",
    "call rax",
    "mov rdx, [rsp]",
    "mov [rdx], rbx",
    "mov [rdx + 8], rbp",
    "mov [rdx + 16], r12",
    "mov [rdx + 24], r13",
    "mov [rdx + 32], r14",
    "mov [rdx + 40], r15",
    "mov rax, rsp",
    "sub rax, [rdx + 48]",
    "mov [rdx + 48], rax",
    "pop rdx",
    ".cfi_adjust_cfa_offset -8",
    "pop r15",
    ".cfi_adjust_cfa_offset -8",
    "pop r14",
    ".cfi_adjust_cfa_offset -8",
    "pop r13",
    ".cfi_adjust_cfa_offset -8",
    "pop r12",
    ".cfi_adjust_cfa_offset -8",
    "pop rbx",
    ".cfi_adjust_cfa_offset -8",
    "pop rbp",
    ".cfi_adjust_cfa_offset -8",
    "ret",
    ".cfi_endproc",
);

unsafe extern "C" {
    fn livebpf_test_changes_r15(work: *mut c_void);
    fn livebpf_test_registers_around(callee: Callee, argument: *mut c_void, after: *mut u64);
}

/// Calls `f` with known values in all callee-saved registers; says what they hold afterwards: rbx, rbp, r12 to r15, and by how much
/// rsp has changed.
fn registers_after(mut f: impl FnMut()) -> [u64; 7] {
    let mut f: Work<'_> = &mut f;
    registers_around(work, (&raw mut f).cast())
}

fn registers_around(callee: Callee, argument: *mut c_void) -> [u64; 7] {
    let mut after = [0u64; 7];
    // SAFETY: it restores all registers that a callee has to keep, even where its own callee does not; it calls with an aligned
    // stack (the return address and seven pushes), and `after` has room for seven words.
    unsafe { livebpf_test_registers_around(callee, argument, after.as_mut_ptr()) };
    after
}

const UNTOUCHED: [u64; 7] = [
    0x1111111111111111,
    0x2222222222222222,
    0x3333333333333333,
    0x4444444444444444,
    0x5555555555555555,
    0x6666666666666666,
    0,
];

#[test]
fn the_probe_notices_a_changed_register() {
    assert_eq!(registers_after(|| ()), UNTOUCHED);
    let changed = registers_around(livebpf_test_changes_r15, std::ptr::null_mut());
    assert_eq!(changed[..5], UNTOUCHED[..5]);
    assert_eq!(changed[5], !UNTOUCHED[5]);
}

/// R6 to R9 hold values, in the main program and in a subprogram with a frame; both make tail calls.
fn busy(array: &Arc<MapDef>) -> livebpf::link::Program {
    let (hit, miss) = (tail_call(0, 0), tail_call(0, 2));
    let source = format!(
        "r6 = r1\nr7 = 70\nr8 = 80\nr9 = 90\n*(u64 *)(r10 - 24) = 1\n{miss}r1 = r6\ncall sub\nr0 += r7\nr0 += r8\nr0 += r9\n\
         *(u64 *)(r10 - 16) = r0\n{hit}r0 = *(u64 *)(r10 - 16)\nexit\n\
         sub:\nr6 = r1\nr7 = 7\nr8 = 8\nr9 = 9\n*(u64 *)(r10 - 40) = 1\n{hit}w0 = {MISSED}\nexit"
    );
    linked("busy", &source, &[array])
}

#[test]
fn a5_a_run_keeps_its_callers_registers() {
    for engine in ENGINES {
        let runtime = runtime(engine);
        let (handle, slots) = array(&runtime, &prog_array("table", 3));
        let busy = load_with(&runtime, busy(handle.def()), &[&handle]).unwrap();
        let mut worker = runtime.worker().unwrap();
        let mut packet = context(&busy);
        let mut results = Vec::new();
        assert_eq!(
            registers_after(|| results.push(worker.run(&busy, &mut packet))),
            UNTOUCHED,
            "{engine}: no tail call"
        );
        slots.set(0, &load(&runtime, linked("last", "r6 = 1\nr7 = 2\nr8 = 3\nr9 = 4\nw0 = 5\nexit", &[]))).unwrap();
        assert_eq!(registers_after(|| results.push(worker.run(&busy, &mut packet))), UNTOUCHED, "{engine}: two");
        slots.set(0, &busy).unwrap();
        assert_eq!(registers_after(|| results.push(worker.run(&busy, &mut packet))), UNTOUCHED, "{engine}: 33");
        assert_eq!(results[..2], [Ok(MISSED + 240), Ok(5)], "{engine}");
        assert!(results[2].is_ok());
    }
}

/// Runs nested by a helper: what `call #FIRST_CUSTOM` does is decided later.
#[derive(Default)]
struct Nested {
    target: Arc<OnceLock<Program>>,
    /// How deep runs were nested, by the thread's own count, and what the innermost one got.
    results: Arc<Mutex<Vec<Result<u32, RunError>>>>,
}

impl Nested {
    fn runtime(&self, engine: Engine) -> Runtime {
        // Weak: the program holds the runtime, which holds the helper.
        let (target, results) = (Arc::downgrade(&self.target), self.results.clone());
        let helper = helper(FIRST_CUSTOM, &[]);
        builder(engine)
            .helper(helper, move |call| {
                let target = target.upgrade().expect("the test's");
                let program = target.get().expect("a target");
                let result = call.run(program, &mut context(program));
                results.lock().unwrap().push(result.clone());
                result.map_or(u64::from(u32::MAX), u64::from)
            })
            .build()
            .unwrap()
    }
}

fn counter() -> Arc<MapDef> {
    Arc::new(MapDef::new("counts", MapType::ARRAY, 4, 32, 1))
}

/// Counts in word `count` of map 1, then `more`, then calls on through slot 0 of map 0; answers MISSED at the end.
fn counts(name: &str, count: u32, more: &str, maps: [&Arc<MapDef>; 2]) -> livebpf::link::Program {
    let source = format!(
        "r6 = r1\nr1 = map[idx:1][0]+{}\nr2 = *(u64 *)(r1 + 0)\nr2 += 1\n*(u64 *)(r1 + 0) = r2\n{more}\n{}w0 = {MISSED}\nexit",
        8 * count,
        tail_call(0, count)
    );
    linked(name, &source, &maps)
}

fn count(map: &livebpf::runtime::MapHandle, index: usize) -> u64 {
    u64::from_le_bytes(map.read(&[0; 4]).unwrap()[8 * index..][..8].try_into().unwrap())
}

#[test]
fn a7_every_run_has_33_tail_calls() {
    for engine in ENGINES {
        let runtime = runtime(engine);
        let (table, counters) = (prog_array("table", 1), counter());
        // The array is one entry; slots of other numbers do not exist.
        let ebpf = runtime.load_linked(vec![counts("own", 0, "", [&table, &counters])]).unwrap();
        let slots = livebpf::runtime::ProgramArray::try_from(ebpf.map("table").unwrap()).unwrap();
        slots.set(0, program(&ebpf, "own")).unwrap();
        let mut worker = runtime.worker().unwrap();
        let mut packet = context(program(&ebpf, "own"));
        for runs in 1..=3 {
            assert_eq!(worker.run(program(&ebpf, "own"), &mut packet), Ok(MISSED));
            assert_eq!(count(ebpf.map("counts").unwrap(), 0), 34 * runs, "{engine}");
        }
        let mut pinned = worker.pin().unwrap();
        for runs in 4..=6 {
            assert_eq!(pinned.run(program(&ebpf, "own"), &mut packet), Ok(MISSED));
            assert_eq!(count(ebpf.map("counts").unwrap(), 0), 34 * runs, "{engine}, pinned");
        }
    }
}

#[test]
fn a_batch_is_runs_one_after_the_other() {
    for engine in ENGINES {
        let runtime = runtime(engine);
        let insns = "r0 = *(u32 *)(r1 + 0)\nif r0 == 16 goto +1\nexit\nr1 = 9\nr2 = 0\ncall bpf_redirect#23\nexit";
        let insns = livebpf::insn::text::assemble(insns).unwrap();
        let redirects = Linked::bare("redirects", ProgramKind::new(ProgType::SCHED_CLS), insns);
        let ebpf = runtime.load_linked(vec![redirects]).unwrap();
        let program = program(&ebpf, "redirects");
        let packet = |len| Context::for_type(ProgType::SCHED_CLS, &vec![0; len]).unwrap();
        let mut packets: Vec<Context> = (15..20).map(packet).collect();
        let mut worker = runtime.worker().unwrap();
        let mut seen = Vec::new();
        let interface = |effects: &Effects| match effects.redirect {
            Some(Redirect { to: Target::Interface(interface), .. }) => interface,
            _ => 0,
        };
        let mut pinned = worker.pin().unwrap();
        let done = |_: &mut Context, verdict, effects: &Effects| seen.push((verdict, interface(effects)));
        pinned.run_batch(program, &mut packets, done).unwrap();
        assert_eq!(seen, [(15, 0), (7, 9), (17, 0), (18, 0), (19, 0)], "{engine}: a redirect, and nothing left of it");
        // The third is of another type: the first two have been run, the others have not.
        packets[2] = Context::xdp(&[0; 14]).unwrap();
        let mut runs = 0;
        let refused = pinned.run_batch(program, &mut packets, |_, _, _| runs += 1);
        assert!(matches!(refused, Err(RunError::Context { .. })), "{engine}: {refused:?}");
        assert_eq!(runs, 2, "{engine}");
    }
}

#[test]
fn a8_nested_runs_have_budgets_of_their_own() {
    for engine in ENGINES {
        let nested = Nested::default();
        let runtime = nested.runtime(engine);
        let (table, counters) = (prog_array("table", 2), counter());
        let call = format!("call {FIRST_CUSTOM}");
        let programs =
            vec![counts("outer", 0, &call, [&table, &counters]), counts("inner", 1, "", [&table, &counters])];
        let ebpf = runtime.load_linked(programs).unwrap();
        let slots = livebpf::runtime::ProgramArray::try_from(ebpf.map("table").unwrap()).unwrap();
        slots.set(0, program(&ebpf, "outer")).unwrap();
        slots.set(1, program(&ebpf, "inner")).unwrap();
        nested.target.set(program(&ebpf, "inner").clone()).unwrap();
        assert_eq!(run(&runtime, program(&ebpf, "outer")), MISSED);
        let counts = ebpf.map("counts").unwrap();
        assert_eq!((count(counts, 0), count(counts, 1)), (34, 34 * 34), "{engine}: outer and inner bodies");
    }
}

#[test]
fn a8_runs_nest_eight_deep_and_no_deeper() {
    for engine in ENGINES {
        let nested = Nested::default();
        let runtime = nested.runtime(engine);
        let own = load(&runtime, linked("own", &format!("call {FIRST_CUSTOM}\nr0 += 1\nexit"), &[]));
        nested.target.set(own.clone()).unwrap();
        for _ in 0..2 {
            // The innermost run's helper was refused, and answers -1; each of the eight runs adds 1.
            assert_eq!(run(&runtime, &own), 7, "{engine}");
            let results = std::mem::take(&mut *nested.results.lock().unwrap());
            assert_eq!(results[0], Err(RunError::TooDeep { found: 9, limit: 8 }), "{engine}");
            assert_eq!(results[1..], (0..7).map(Ok).collect::<Vec<_>>()[..], "{engine}");
        }
    }
}

#[test]
fn a8_a_nested_run_may_be_of_another_program_and_its_refusal_harms_nobody() {
    for engine in ENGINES {
        let nested = Nested::default();
        let runtime = nested.runtime(engine);
        let outer = load(&runtime, linked("outer", &format!("r6 = 5\ncall {FIRST_CUSTOM}\nr0 += r6\nexit"), &[]));
        let foreign = load(&live_support::runtime(engine), answers("foreign", 1));
        nested.target.set(foreign).unwrap();
        assert_eq!(run(&runtime, &outer), 4, "{engine}: -1 from the helper, plus 5");
        assert!(matches!(nested.results.lock().unwrap()[..], [Err(RunError::OtherRuntime { .. })]));
    }
}

#[test]
fn a9_threads_have_budgets_of_their_own() {
    const RUNS: u64 = 2000;
    for engine in ENGINES {
        let runtime = runtime(engine);
        let (table, counters) =
            (prog_array("table", 1), Arc::new(MapDef::new("counts", MapType::PERCPU_ARRAY, 4, 8, 4)));
        // A per-CPU counter: every thread its own. Looked up, since its address depends on the CPU.
        let source = format!(
            "r6 = r1\n*(u32 *)(r10 - 4) = 0\nr2 = r10\nr2 += -4\nr1 = map[idx:1]\ncall bpf_map_lookup_elem#1\nif r0 == 0 goto out\n\
             r2 = *(u64 *)(r0 + 0)\nr2 += 1\n*(u64 *)(r0 + 0) = r2\n{}out:\nw0 = {MISSED}\nexit",
            tail_call(0, 0)
        );
        let ebpf = runtime.load_linked(vec![linked("own", &source, &[&table, &counters])]).unwrap();
        let own = program(&ebpf, "own");
        let slots = livebpf::runtime::ProgramArray::try_from(ebpf.map("table").unwrap()).unwrap();
        slots.set(0, own).unwrap();
        let mut workers: Vec<Worker> = (0..2).map(|_| runtime.worker().unwrap()).collect();
        assert_eq!(workers.iter().map(Worker::cpu).collect::<Vec<_>>(), [0, 1]);
        std::thread::scope(|scope| {
            for worker in &mut workers {
                scope.spawn(|| {
                    let mut packet = context(own);
                    (0..RUNS).for_each(|_| assert_eq!(worker.run(own, &mut packet), Ok(MISSED)));
                });
            }
        });
        let values = ebpf.map("counts").unwrap().read(&[0; 4]).unwrap();
        let per_cpu: Vec<u64> = values.chunks(8).map(|v| u64::from_le_bytes(v.try_into().unwrap())).collect();
        assert_eq!(per_cpu[..3], [34 * RUNS, 34 * RUNS, 0], "{engine}");
    }
}

#[test]
fn a_helper_that_panics_ends_the_run_and_nothing_else() {
    for engine in ENGINES {
        let calm = Arc::new(AtomicU32::new(0));
        let (switch, thrown) = (calm.clone(), Arc::new(()));
        let weak = Arc::downgrade(&thrown);
        let runtime = builder(engine)
            .helper(helper(FIRST_CUSTOM, &[Arg::Scalar]), move |call| match switch.load(Ordering::SeqCst) {
                0 => std::panic::panic_any(PanicsWhenDropped(thrown.clone())),
                _ => call.arg(0) + 1,
            })
            .build()
            .unwrap();
        let (handle, slots) = array(&runtime, &prog_array("table", 1));
        // The panic comes from a subprogram of a tail-called program, with all callee-saved registers in use.
        let source = format!(
            "r6 = r1\nr7 = 7\nr8 = 8\nr9 = 9\n*(u64 *)(r10 - 8) = 1\ncall sub\nexit\nsub:\nr6 = 6\nr7 = 1\nr1 = 40\ncall {FIRST_CUSTOM}\nr0 += r7\nexit"
        );
        slots.set(0, &load(&runtime, linked("deep", &source, &[]))).unwrap();
        let caller = load_with(&runtime, tries("caller", &[0], handle.def()), &[&handle]).unwrap();
        let mut worker = runtime.worker().unwrap();
        let mut packet = context(&caller);
        for _ in 0..3 {
            calm.store(0, Ordering::SeqCst);
            let mut result = None;
            assert_eq!(registers_after(|| result = Some(worker.run(&caller, &mut packet))), UNTOUCHED, "{engine}");
            assert_eq!(result, Some(Err(RunError::HelperPanicked { program: "caller".to_owned() })), "{engine}");
            assert_eq!(weak.strong_count(), 1, "{engine}: what it panicked with is kept by nobody");
            // The section was left: else this would wait for ever. And the thread is outside of any run.
            runtime.barrier().unwrap();
            calm.store(1, Ordering::SeqCst);
            assert_eq!(worker.run(&caller, &mut packet), Ok(42), "{engine}: the worker works on");
        }
    }
}

#[test]
fn a_panic_in_a_callback_of_a_callback_ends_the_run_and_nothing_else() {
    for engine in ENGINES {
        let calm = Arc::new(AtomicU32::new(0));
        let switch = calm.clone();
        let runtime = builder(engine)
            .helper(helper(FIRST_CUSTOM, &[Arg::Scalar]), move |call| match switch.load(Ordering::SeqCst) {
                0 if call.arg(0) == 3 => panic!("on purpose"),
                _ => 0,
            })
            .build()
            .unwrap();
        let def = Arc::new(MapDef::new("table", MapType::ARRAY, 4, 8, 2));
        // The walk through the map holds memory of its own.
        let source = format!(
            "r7 = 7\nr8 = 8\nr1 = map[idx:0]\nr2 = subprog[each]\nr3 = 0\nr4 = 0\ncall bpf_for_each_map_elem#164\n\
             r0 += r7\nexit\n\
             each:\nr6 = 6\nr7 = 1\nr1 = 5\nr2 = subprog[inner]\nr3 = 0\nr4 = 0\ncall bpf_loop#181\nr0 = 0\nexit\n\
             inner:\nr9 = 9\ncall {FIRST_CUSTOM}\nr0 = 0\nexit"
        );
        let program = load(&runtime, linked("caller", &source, &[&def]));
        let mut worker = runtime.worker().unwrap();
        let mut packet = context(&program);
        for _ in 0..3 {
            calm.store(0, Ordering::SeqCst);
            let mut result = None;
            assert_eq!(registers_after(|| result = Some(worker.run(&program, &mut packet))), UNTOUCHED, "{engine}");
            assert_eq!(result, Some(Err(RunError::HelperPanicked { program: "caller".to_owned() })), "{engine}");
            runtime.barrier().unwrap();
            calm.store(1, Ordering::SeqCst);
            let mut result = None;
            assert_eq!(registers_after(|| result = Some(worker.run(&program, &mut packet))), UNTOUCHED, "{engine}");
            assert_eq!(result, Some(Ok(9)), "{engine}: the worker works on");
        }
    }
}

/// Dropping what somebody panicked with must not end the process.
struct PanicsWhenDropped(#[expect(dead_code, reason = "held")] Arc<()>);

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

#[test]
fn a_panic_in_a_nested_run_ends_only_that_one() {
    for engine in ENGINES {
        let target: Arc<OnceLock<Program>> = Arc::default();
        let inner = Arc::downgrade(&target);
        let runtime = builder(engine)
            .helper(helper(FIRST_CUSTOM, &[]), move |call| {
                let inner = inner.upgrade().unwrap();
                let program = inner.get().unwrap();
                match call.run(program, &mut context(program)) {
                    Err(RunError::HelperPanicked { .. }) => 30,
                    other => panic!("wanted a panic, found {other:?}"),
                }
            })
            .helper(helper(FIRST_CUSTOM + 1, &[]), |_| panic!("on purpose"))
            .build()
            .unwrap();
        target.set(load(&runtime, linked("inner", &format!("call {}\nexit", FIRST_CUSTOM + 1), &[]))).unwrap();
        let outer = load(&runtime, linked("outer", &format!("r6 = 5\ncall {FIRST_CUSTOM}\nr0 += r6\nexit"), &[]));
        let mut result = None;
        let mut worker = runtime.worker().unwrap();
        let mut packet = context(&outer);
        assert_eq!(registers_after(|| result = Some(worker.run(&outer, &mut packet))), UNTOUCHED, "{engine}");
        assert_eq!(result, Some(Ok(35)), "{engine}");
        runtime.barrier().unwrap();
    }
}

#[test]
fn a_context_of_another_type_is_refused() {
    for engine in ENGINES {
        let runtime = runtime(engine);
        let program = load(&runtime, answers("xdp", 1));
        let mut other = Context::for_type(livebpf::object::ProgType::SCHED_CLS, &[0; 64]).unwrap();
        let error = runtime.worker().unwrap().run(&program, &mut other).unwrap_err();
        assert!(matches!(error, RunError::Context { .. }), "{error}");
    }
}

#[test]
fn helpers_with_numbers_that_are_taken_are_refused() {
    let build = |id| builder(Engine::Interp).helper(helper(id, &[]), |_| 0);
    let error = build(5).build().unwrap_err();
    assert!(matches!(&error, Error::Options(why) if why.contains("reserved")), "{error}");
    let error = build(FIRST_CUSTOM).helper(helper(FIRST_CUSTOM, &[]), |_| 0).build().unwrap_err();
    assert!(matches!(&error, Error::Options(why) if why.contains("twice")), "{error}");
}

extern "C" fn digits(r1: u64, r2: u64, r3: u64, r4: u64, r5: u64) -> u64 {
    r1 + 10 * r2 + 100 * r3 + 1000 * r4 + 10_000 * r5
}

#[test]
fn a_plain_helper_is_called_with_five_numbers_and_takes_no_memory_that_is_not_initialised() {
    let proto = |args: Vec<Arg>| livebpf::helper::Proto {
        id: FIRST_CUSTOM,
        name: "digits".to_owned(),
        args,
        ret: livebpf::helper::Ret::Integer,
        changes_packet: false,
        packet_memory: false,
        gpl_only: false,
    };
    for engine in ENGINES {
        let runtime = builder(engine).plain_helper(proto(vec![Arg::Anything; 5]), digits).build().unwrap();
        let source = format!("r1 = 1\nr2 = 2\nr3 = 3\nr4 = 4\nr5 = 5\ncall {FIRST_CUSTOM}\nexit");
        let program = load(&runtime, linked("calls", &source, &[]));
        assert_eq!(run(&runtime, &program), 54_321, "{engine}");
    }
    for args in [vec![Arg::Out(8)], vec![Arg::MemUninit, Arg::Size]] {
        let refused = builder(Engine::Jit).plain_helper(proto(args), digits).build().map(|_| ());
        let text = refused.expect_err("refused").to_string();
        assert!(text.contains("helper digits: memory that programs need not initialise"), "{text}");
    }
}
