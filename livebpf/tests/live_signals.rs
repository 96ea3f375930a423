//! Signals while generated code runs: a run that is held at each instruction between bypass and target (C4), and handlers
//! that run programs themselves.
#![allow(unsafe_code)]

mod live_support;

use std::cell::Cell;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use live_support::*;
use livebpf::context::Context;
use livebpf::observe::{Lead, listing};
use livebpf::runtime::{Engine, Program, ProgramArray, Runtime, Worker};

type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

fn install(signal: libc::c_int, handler: Handler) {
    // SAFETY: a handler of the right type; those of this file keep to what handlers may do.
    unsafe {
        let mut action = std::mem::zeroed::<libc::sigaction>();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        assert_eq!(libc::sigaction(signal, &action, ptr::null_mut()), 0);
    }
}

/// The interrupted thread's registers.
///
/// # Safety
/// `context` is what a handler with SA_SIGINFO got.
unsafe fn registers<'a>(context: *mut libc::c_void) -> &'a mut [i64; 23] {
    // SAFETY: the caller's promise; nobody else uses the record while the handler runs.
    unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs }
}

/// Bytes of the bypass.
const BYPASS: u64 = 4;

/// Single-step: after every instruction comes a SIGTRAP.
const TRAP_FLAG: i64 = 0x100;

/// First byte behind the bypass, and the target jump: addresses at which a run is behind the one and before the other.
static FROM: AtomicI64 = AtomicI64::new(0);
static TO: AtomicI64 = AtomicI64::new(0);
/// How many more instructions of those to execute before the run is held.
static LEFT: AtomicI64 = AtomicI64::new(0);
static HELD: AtomicBool = AtomicBool::new(false);
static RELEASE: AtomicBool = AtomicBool::new(false);

extern "C" fn begin_stepping(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: installed by `install`.
    let registers = unsafe { registers(context) };
    registers[libc::REG_EFL as usize] |= TRAP_FLAG;
}

extern "C" fn step(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: installed by `install`.
    let registers = unsafe { registers(context) };
    let rip = registers[libc::REG_RIP as usize];
    if !(FROM.load(Ordering::SeqCst)..=TO.load(Ordering::SeqCst)).contains(&rip) {
        return;
    }
    if LEFT.fetch_sub(1, Ordering::SeqCst) > 0 && rip != TO.load(Ordering::SeqCst) {
        return;
    }
    HELD.store(true, Ordering::SeqCst);
    while !RELEASE.load(Ordering::SeqCst) {
        // SAFETY: allowed in handlers.
        unsafe { libc::usleep(100) };
    }
    registers[libc::REG_EFL as usize] &= !TRAP_FLAG;
}

/// What happens to the slot while a run is held behind the bypass, and what that run may then answer.
#[derive(Clone, Copy, Debug)]
enum Act {
    Delete,
    Replace,
    DeleteAndInsert,
}

fn act(act: Act, slots: &ProgramArray, new: &Program) -> &'static [u32] {
    if matches!(act, Act::Delete | Act::DeleteAndInsert) {
        slots.clear_index(0).unwrap();
    }
    if matches!(act, Act::Replace | Act::DeleteAndInsert) {
        slots.set(0, new).unwrap();
        return &[7, 8];
    }
    &[7]
}

/// A run is held `after` instructions behind the bypass while `what` happens. Answers whether that was at the target jump.
fn hold(runtime: &Runtime, caller: &Program, slots: &ProgramArray, what: Act, after: i64) -> bool {
    let [old, new] = [7, 8].map(|value| load(runtime, answers("target", value)));
    let old_id = old.id();
    slots.set(0, &old).unwrap();
    drop(old);
    runtime.barrier().unwrap();
    let site = |n: usize| listing(caller).expect("machine code").sites[n].clone();
    assert!(site(0).open && matches!(&site(0).lead, Lead::Program { id, .. } if *id == old_id));
    LEFT.store(after, Ordering::SeqCst);
    HELD.store(false, Ordering::SeqCst);
    RELEASE.store(false, Ordering::SeqCst);
    thread::scope(|scope| {
        let runner = scope.spawn(|| {
            let mut worker = runtime.worker().unwrap();
            let mut packet = context(caller);
            // SAFETY: to this thread; the handler sets a flag of its registers.
            unsafe { libc::raise(libc::SIGUSR1) };
            worker.run(caller, &mut packet).unwrap()
        });
        let _release = StopOnDrop(&RELEASE);
        while !HELD.load(Ordering::SeqCst) {
            assert!(!runner.is_finished(), "the run was not held");
            thread::yield_now();
        }
        let used = runtime.code_used();
        let allowed = act(what, slots, &new);
        // The update has returned. What the run still needs is all there: its target, and the old program's code.
        thread::sleep(Duration::from_millis(20));
        assert_ne!(
            site(0).lead,
            Lead::Poison,
            "{what:?}: poisoned under a run, {after} instructions behind the bypass"
        );
        assert_eq!(site(0).open, !matches!(what, Act::Delete));
        assert_eq!(runtime.code_used(), used, "{what:?}: freed under a run");
        assert!(runtime.usage().unwrap().pending > 0, "{what:?}: nothing waits for the run");
        RELEASE.store(true, Ordering::SeqCst);
        let result = runner.join().unwrap();
        assert!(allowed.contains(&result), "{what:?}, {after} instructions behind the bypass: {result:#x}");
        runtime.barrier().unwrap();
        assert!(runtime.code_used() < used, "{what:?}: never freed");
        assert_eq!(site(0).lead == Lead::Poison, matches!(what, Act::Delete), "{what:?}");
        assert!(slots.audit().unwrap().is_ok());
    });
    let _ = slots.clear_index(0);
    drop(new);
    runtime.barrier().unwrap();
    LEFT.load(Ordering::SeqCst) >= 0
}

/// The tests of this file have handlers of their own and must not interrupt each other.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn c4_an_update_while_a_run_is_held_at_each_instruction_behind_the_bypass() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    install(libc::SIGUSR1, begin_stepping);
    install(libc::SIGTRAP, step);
    let runtime = runtime(Engine::Jit);
    let (handle, slots) = array(&runtime, &prog_array("table", 1));
    let caller = load_with(&runtime, tries("caller", &[0], handle.def()), &[&handle]).unwrap();
    runtime.barrier().unwrap();
    let used = runtime.code_used();
    let code = listing(&caller).unwrap();
    FROM.store((code.base + u64::from(code.sites[0].bypass) + BYPASS) as i64, Ordering::SeqCst);
    TO.store((code.base + u64::from(code.sites[0].target)) as i64, Ordering::SeqCst);
    for what in [Act::Delete, Act::Replace, Act::DeleteAndInsert] {
        let mut after = 0;
        // The run stands at the target jump when fewer instructions were left than were asked for.
        while !hold(&runtime, &caller, &slots, what, after) {
            after += 1;
        }
        println!("C4, {what:?}: held at {after} instructions");
        // The count, four registers, the frame; and the jump itself.
        assert!(after >= 6, "the site has only {after} instructions");
        assert_eq!(runtime.code_used(), used);
    }
}

/// What a thread's SIGPROF handler runs.
struct Interrupting {
    worker: Worker,
    packet: Context,
    caller: Program,
    code: std::ops::Range<i64>,
}

thread_local! {
    static INTERRUPTING: Cell<*mut Interrupting> = const { Cell::new(ptr::null_mut()) };
}

static HANDLED: AtomicU64 = AtomicU64::new(0);
static IN_CODE: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);

extern "C" fn interrupt(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the pointer is set only while the record is there, by this thread, and used by nobody else.
    let Some(own) = (unsafe { INTERRUPTING.get().as_mut() }) else { return };
    // SAFETY: installed by `install`.
    let rip = unsafe { registers(context) }[libc::REG_RIP as usize];
    IN_CODE.fetch_add(u64::from(own.code.contains(&rip)), Ordering::Relaxed);
    match own.worker.run(&own.caller, &mut own.packet) {
        Ok(result) if expected(result) => HANDLED.fetch_add(1, Ordering::Relaxed),
        _ => WRONG.fetch_add(1, Ordering::Relaxed),
    };
}

fn expected(result: u32) -> bool {
    [1, 2, MISSED].contains(&result)
}

/// Loops for a while, then tries slot 0; damage to its registers or its frame changes the answer.
fn busy(array: &std::sync::Arc<livebpf::object::MapDef>) -> livebpf::link::Program {
    let source = format!(
        "r6 = r1\nr7 = 0\nr8 = 8\nr9 = 9\n*(u64 *)(r10 - 8) = r8\nloop:\nr7 += 1\nif r7 < 300 goto loop\n{}\
         r1 = *(u64 *)(r10 - 8)\nif r1 != 8 goto bad\nif r7 != 300 goto bad\nif r8 != 8 goto bad\nif r9 != 9 goto bad\n\
         w0 = {MISSED}\nexit\nbad:\nw0 = 0xbad\nexit",
        tail_call(0, 0)
    );
    linked("busy", &source, &[array])
}

fn timer(microseconds: i64) {
    let every = libc::timeval { tv_sec: 0, tv_usec: microseconds };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: a timer of this process; SIGPROF has a handler.
    assert_eq!(unsafe { libc::setitimer(libc::ITIMER_PROF, &timer, ptr::null_mut()) }, 0);
}

/// Runs until `stop`, and lets SIGPROF run the same program in between.
fn interrupted(runtime: &Runtime, caller: &Program, stop: &AtomicBool) -> u64 {
    let code = listing(caller).expect("machine code");
    let code = code.base as i64..(code.base + code.bytes.len() as u64) as i64;
    let (worker, packet) = (runtime.worker().unwrap(), context(caller));
    let mut own = Interrupting { worker, packet, caller: caller.clone(), code };
    INTERRUPTING.set(&raw mut own);
    let (mut worker, mut packet, mut runs) = (runtime.worker().unwrap(), context(caller), 0);
    while !stop.load(Ordering::Relaxed) {
        let result = worker.run(caller, &mut packet).unwrap();
        assert!(expected(result), "{result:#x}");
        runs += 1;
    }
    INTERRUPTING.set(ptr::null_mut());
    runs
}

#[test]
fn handlers_that_run_programs_while_generated_code_runs_and_slots_change() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    install(libc::SIGPROF, interrupt);
    for engine in NATIVE {
        let runtime = runtime(engine);
        let used = runtime.usage().unwrap();
        let (handle, slots) = array(&runtime, &prog_array("table", 1));
        let caller = load_with(&runtime, busy(handle.def()), &[&handle]).unwrap();
        let stop = AtomicBool::new(false);
        let (handled, in_code) = (HANDLED.load(Ordering::SeqCst), IN_CODE.load(Ordering::SeqCst));
        thread::scope(|scope| {
            let runners = [0, 1].map(|_| scope.spawn(|| interrupted(&runtime, &caller, &stop)));
            let _stop = StopOnDrop(&stop);
            timer(500);
            let (begin, mut updates) = (Instant::now(), 0u32);
            let enough = || IN_CODE.load(Ordering::SeqCst) >= in_code + 20;
            while begin.elapsed() < stress() || !enough() {
                assert!(
                    begin.elapsed() < stress() + Duration::from_secs(120),
                    "generated code is hardly ever interrupted"
                );
                slots.set(0, &load(&runtime, answers("target", 1 + updates % 2))).unwrap();
                if updates % 3 == 0 {
                    slots.clear_index(0).unwrap();
                }
                updates += 1;
            }
            timer(0);
            stop.store(true, Ordering::SeqCst);
            let runs: u64 = runners.map(|runner| runner.join().unwrap()).into_iter().sum();
            let since = |count: &AtomicU64, before| count.load(Ordering::SeqCst) - before;
            let counts = [
                ("runs", runs),
                ("updates", updates.into()),
                ("handlers", since(&HANDLED, handled)),
                ("of them in generated code", since(&IN_CODE, in_code)),
            ];
            report(&format!("signal handlers that run programs, {engine}"), begin, &counts);
        });
        assert_eq!(WRONG.load(Ordering::SeqCst), 0, "{engine}: a handler's run went wrong");
        drop((caller, handle, slots));
        runtime.barrier().unwrap();
        assert_eq!(runtime.usage().unwrap(), used, "{engine}");
    }
}
