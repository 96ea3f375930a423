//! What embedders' helpers hand out: opaque handles and memory, which programs must give back once on every path.

use std::sync::{Arc, Mutex};

use livebpf::context::Context;
use livebpf::helper::{Arg, Class, FIRST_CUSTOM, Proto, Ret};
use livebpf::insn::text;
use livebpf::link::Program as Linked;
use livebpf::object::{ProgType, ProgramKind};
use livebpf::runtime::{Engine, Runtime};

const ENGINES: [Engine; 3] = [Engine::Interp, Engine::Jit, Engine::Slot];
/// A connection of a pool: a handle.
const CONNECTION: Class = Class(1);
/// A buffer: 16 bytes.
const BUFFER: Class = Class(2);

const OPEN: u32 = FIRST_CUSTOM;
const SEND: u32 = FIRST_CUSTOM + 1;
const CLOSE: u32 = FIRST_CUSTOM + 2;
const TAKE: u32 = FIRST_CUSTOM + 3;
const SUM: u32 = FIRST_CUSTOM + 4;
const GIVE: u32 = FIRST_CUSTOM + 5;

fn proto(id: u32, name: &str, args: &[Arg], ret: Ret) -> Proto {
    Proto {
        id,
        name: name.to_owned(),
        args: args.to_vec(),
        ret,
        changes_packet: false,
        packet_memory: false,
        gpl_only: false,
    }
}

/// A runtime whose connections and buffers are called `number`, and what is done with them.
fn runtime(engine: Engine, number: u64) -> (Runtime, Arc<Mutex<Vec<String>>>) {
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let note = || {
        let log = log.clone();
        move |text: String| log.lock().unwrap().push(text)
    };
    let (send, close, give) = (note(), note(), note());
    let connection = Ret::AcquiredOrNull { class: CONNECTION, size: 0 };
    let buffer = Ret::AcquiredOrNull { class: BUFFER, size: 16 };
    let runtime = Runtime::builder()
        .engine(engine)
        .code_bytes(1 << 20)
        .lend(BUFFER, 2)
        .helper(proto(OPEN, "open", &[], connection), move |_| number)
        .helper(proto(SEND, "send", &[Arg::Borrowed(CONNECTION), Arg::Anything], Ret::Integer), move |call| {
            send(format!("send {} to {}", call.arg(1), call.arg(0)));
            1
        })
        .helper(proto(CLOSE, "close", &[Arg::Released(CONNECTION)], Ret::Void), move |call| {
            close(format!("close {}", call.arg(0)));
            0
        })
        .helper(proto(TAKE, "take", &[], buffer), move |call| {
            if let Some(block) = call.to_lend(number) {
                block.write(&[1; 16]);
            }
            number
        })
        .helper(proto(SUM, "sum", &[Arg::Borrowed(BUFFER)], Ret::Integer), |call| {
            call.block(0).map_or(0, |block| block.to_vec().iter().map(|b| u64::from(*b)).sum())
        })
        .helper(proto(GIVE, "give", &[Arg::Released(BUFFER)], Ret::Void), move |call| {
            give(format!("give {}", call.arg(0)));
            0
        })
        .build()
        .expect("a runtime");
    (runtime, log)
}

fn linked(source: &str) -> Linked {
    let insns = text::assemble(source).unwrap_or_else(|e| panic!("{source}: {e}"));
    Linked::bare("main", ProgramKind::new(ProgType::XDP), insns)
}

/// What the program answers and what its helpers did; the error is the refusal.
fn run(engine: Engine, number: u64, source: &str) -> Result<(u32, Vec<String>), String> {
    let (runtime, log) = runtime(engine, number);
    let ebpf = runtime.load_linked(vec![linked(source)]).map_err(|e| e.to_string())?;
    let program = ebpf.program("main").expect("just loaded");
    let mut context = Context::xdp(&[0; 64]).expect("a packet");
    let result = runtime.worker().expect("a worker").run(program, &mut context).expect("it runs");
    let log = log.lock().unwrap().clone();
    Ok((result, log))
}

const TALK: &str = "
    call 65536
    if r0 == 0 goto none
    r6 = r0
    r1 = r6
    r2 = 5
    call 65537
    r7 = r0
    r1 = r6
    call 65538
    r0 = r7
    exit
none:
    r0 = 9
    exit";

const FILL: &str = "
    call 65539
    if r0 == 0 goto none
    r6 = r0
    r1 = *(u64 *)(r6 + 8)
    r1 &= 0xff
    *(u8 *)(r6 + 0) = 100
    r1 = r6
    call 65540
    r7 = r0
    r1 = r6
    call 65541
    r0 = r7
    exit
none:
    r0 = 9
    exit";

#[test]
fn handles_are_used_and_given_back() {
    for engine in ENGINES {
        let (result, log) = run(engine, 7, TALK).expect("accepted");
        assert_eq!((result, log.join(", ").as_str()), (1, "send 5 to 7, close 7"), "{engine}");
        assert_eq!(run(engine, 0, TALK).expect("accepted"), (9, vec![]), "{engine}");
    }
}

#[test]
fn memory_is_shared_with_the_helpers_until_it_is_given_back() {
    for engine in ENGINES {
        let (result, log) = run(engine, 2, FILL).expect("accepted");
        assert_eq!((result, log.join(", ").as_str()), (115, "give 2"), "{engine}");
    }
}

/// There are two blocks.
#[test]
fn a_number_that_is_no_blocks_is_null() {
    for engine in ENGINES {
        for number in [0, 3, u64::MAX, 0x7fff_0000_0000] {
            assert_eq!(run(engine, number, FILL).expect("accepted"), (9, vec![]), "{engine} {number}");
        }
    }
}

#[test]
fn what_is_not_given_back_once_is_refused() {
    let refused = |source: &str| run(Engine::Interp, 1, source).expect_err("accepted");
    for (source, wanted) in [
        ("call 65536\nr0 = 0\nexit", "Unreleased reference id=1 alloc_insn=0"),
        ("call 65536\nr1 = r0\ncall 65538\nr0 = 0\nexit", "R1 type=handle_or_null expected=handle"),
        (
            "call 65536\nif r0 == 0 goto pc+5\nr6 = r0\nr1 = r0\ncall 65538\nr1 = r6\ncall 65538\nr0 = 0\nexit",
            "R1 type=scalar expected=handle",
        ),
        ("call 65536\nif r0 == 0 goto pc+2\nr1 = r0\ncall 65541\nr0 = 0\nexit", "R1 holds what another function"),
        ("call 65536\nif r0 == 0 goto pc+2\nr1 = r0\ncall 65540\nr0 = 0\nexit", "expected=handle of class 2"),
        ("call 65536\nif r0 == 0 goto pc+1\nr0 = *(u64 *)(r0 + 0)\nr0 = 0\nexit", "R0 invalid mem access 'handle'"),
        ("call 65536\nif r0 == 0 goto pc+1\nr0 += 1\nr0 = 0\nexit", "R0 pointer arithmetic on handle prohibited"),
        (
            "call 65539\nif r0 == 0 goto pc+3\nr1 = *(u64 *)(r0 + 9)\nr1 = r0\ncall 65541\nr0 = 0\nexit",
            "mem_size=16 off=9 size=8",
        ),
        (
            "call 65539\nif r0 == 0 goto pc+4\nr6 = r0\nr1 = r0\ncall 65541\nr0 = *(u64 *)(r6 + 0)\nr0 = 0\nexit",
            "R6 invalid mem access 'scalar'",
        ),
        ("r1 = r10\ncall 65541\nr0 = 0\nexit", "R1 type=fp expected=handle"),
    ] {
        let error = refused(source);
        assert!(error.contains(wanted), "{source}: wanted {wanted}, found {error}");
    }
}

#[test]
fn memory_needs_a_number_of_blocks_and_one_size() {
    let buffer = |id, name, size| proto(id, name, &[], Ret::AcquiredOrNull { class: BUFFER, size });
    let error = |builder: livebpf::runtime::RuntimeBuilder| builder.build().expect_err("built").to_string();
    let none = Runtime::builder().helper(buffer(TAKE, "take", 8), |_| 0);
    assert!(error(none).contains("wanted a number of blocks"));
    let two = Runtime::builder().lend(BUFFER, 1).helper(buffer(TAKE, "a", 8), |_| 0).helper(buffer(SUM, "b", 4), |_| 0);
    assert!(error(two).contains("wanted 8 as others do"));
}
