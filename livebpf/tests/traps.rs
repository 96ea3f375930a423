//! The report of a trap in generated code (C22), and that traps elsewhere remain what they were.
#![allow(unsafe_code)]

mod child;
mod live_support;

use std::os::unix::process::ExitStatusExt;

use live_support::*;
use livebpf::observe::listing;
use livebpf::runtime::{Engine, Program, Runtime};

fn watched(engine: Engine) -> Runtime {
    builder(engine).report_traps(true).build().expect("a runtime")
}

/// Runs whatever is at `address`, which must end the process.
fn jump(address: u64) -> ! {
    // SAFETY: none of the tests here survives it: the memory at `address` traps at once.
    unsafe { std::mem::transmute::<u64, extern "C" fn()>(address)() };
    panic!("{address:#x} returned")
}

fn base(program: &Program) -> u64 {
    listing(program).expect("machine code").base
}

#[test]
fn c22_a_jump_into_freed_memory_is_reported() {
    const TEST: &str = "c22_a_jump_into_freed_memory_is_reported";
    let Some(case) = child::case() else {
        for engine in NATIVE {
            let output = child::start(TEST, engine.name());
            let parts =
                ["livebpf: SIGTRAP in generated code at 0x", " of the code region at 0x", "freed memory, was program"];
            child::died(&output, libc::SIGTRAP, &parts);
            child::died(&output, libc::SIGTRAP, &["\"victim\", function \"victim\" + 0x6\n"]);
        }
        return;
    };
    child::end_after(60);
    let runtime = watched(case.parse().expect("an engine"));
    let _other = load(&runtime, answers("other", 1));
    let victim = load(&runtime, answers("victim", 2));
    let address = base(&victim) + 6;
    drop(victim);
    runtime.barrier().unwrap();
    jump(address);
}

#[test]
fn c22_the_report_says_where_in_the_region_it_was() {
    const TEST: &str = "c22_the_report_says_where_in_the_region_it_was";
    let Some(case) = child::case() else {
        child::died(&child::start(TEST, "poison"), libc::SIGILL, &["SIGILL in", "the poison stub"]);
        child::died(&child::start(TEST, "nobody"), libc::SIGTRAP, &["SIGTRAP in", "memory that no image has"]);
        let reused = ["freed memory, was program 3 \"second\""];
        child::died(&child::start(TEST, "reused"), libc::SIGTRAP, &reused);
        let live = ["SIGSEGV in", ", touching 0x10\n", "program 1 \"wild\", function \"f1\" + 0x"];
        let output = child::start(TEST, "live");
        child::died(&output, libc::SIGSEGV, &live);
        assert!(!child::stderr(&output).contains("freed"));
        return;
    };
    child::end_after(60);
    let runtime = watched(Engine::Jit);
    match case.as_str() {
        "poison" => {
            let one = load(&runtime, answers("one", 1));
            // The stub is the region's first chunk; its ud2 is at byte 19.
            jump(base(&one) - 64 + 19);
        }
        "nobody" => {
            let one = load(&runtime, answers("one", 1));
            jump(base(&one) + 4096);
        }
        "reused" => {
            let _keeps = load(&runtime, answers("keeps", 1));
            let first = load(&runtime, answers("first", 1));
            let address = base(&first);
            drop(first);
            runtime.barrier().unwrap();
            let second = load(&runtime, answers("second", 2));
            assert_eq!(base(&second), address);
            drop(second);
            runtime.barrier().unwrap();
            jump(address + 1);
        }
        _ => {
            let source = "call f\nexit\nf:\nr6 = 16\nr0 = *(u64 *)(r6 + 0)\nexit";
            // SAFETY: it is meant to end the process, and does.
            let ebpf = unsafe { runtime.load_linked_unverified(vec![linked("wild", source, &[])]) };
            run(&runtime, program(&ebpf.unwrap(), "wild"));
            panic!("address 16 could be read");
        }
    }
}

extern "C" fn own(_: libc::c_int) {
    const TEXT: &str = "the handler that was there before\n";
    // SAFETY: writes a constant and ends the process.
    unsafe {
        libc::write(2, TEXT.as_ptr().cast(), TEXT.len());
        libc::_exit(42);
    }
}

#[test]
fn c22_signals_from_elsewhere_go_to_the_handler_before() {
    const TEST: &str = "c22_signals_from_elsewhere_go_to_the_handler_before";
    let Some(case) = child::case() else {
        for case in ["own handler", "own handler, sent"] {
            let output = child::start(TEST, case);
            assert_eq!(output.status.code(), Some(42), "{}", child::stderr(&output));
            assert!(child::stderr(&output).contains("the handler that was there before"));
        }
        for (case, signal) in [("none", libc::SIGILL), ("none, sent", libc::SIGTRAP), ("Rust's", libc::SIGSEGV)] {
            let output = child::start(TEST, case);
            child::died(&output, signal, &[]);
            assert!(!child::stderr(&output).contains("in generated code"), "{}", child::stderr(&output));
        }
        let output = child::start(TEST, "ignored, sent");
        assert!(output.status.success() && output.status.signal().is_none(), "{}", child::stderr(&output));
        return;
    };
    child::end_after(60);
    let before = match case.as_str() {
        "own handler" | "own handler, sent" => own as extern "C" fn(libc::c_int) as usize,
        "ignored, sent" => libc::SIG_IGN,
        _ => libc::SIG_DFL,
    };
    for signal in [libc::SIGTRAP, libc::SIGILL] {
        // SAFETY: dispositions that are valid.
        unsafe { libc::signal(signal, before) };
    }
    let runtime = watched(Engine::Jit);
    assert_eq!(run(&runtime, &load(&runtime, answers("one", 1))), 1);
    match case.as_str() {
        "ignored, sent" | "none, sent" | "own handler, sent" => {
            // SAFETY: a signal to this thread.
            unsafe { libc::raise(libc::SIGTRAP) };
        }
        "Rust's" => {
            // SAFETY: ends the process.
            unsafe { std::ptr::without_provenance::<u8>(16).read_volatile() };
        }
        // SAFETY: ends the process.
        _ => unsafe { std::arch::asm!("ud2") },
    }
    assert_eq!(case, "ignored, sent");
}

#[test]
fn regions_give_their_places_back() {
    let few: Vec<Runtime> = (0..20).map(|_| watched(Engine::Jit)).collect();
    drop(few);
    for _ in 0..200 {
        let runtime = watched(Engine::Slot);
        assert_eq!(run(&runtime, &load(&runtime, answers("one", 1))), 1);
    }
}
