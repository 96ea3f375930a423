//! Uses of the library that safe code can write down and that must not harm: contracts that lie, maps that are not what
//! they seem, handles in a fork's child, sections that are never left.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use livebpf::context::Context;
use livebpf::helper::{Arg, FIRST_CUSTOM, Proto, Ret};
use livebpf::insn::text;
use livebpf::link::Program as Linked;
use livebpf::object::{MapDef, MapInit, MapType, ProgType, ProgramKind};
use livebpf::runtime::{Engine, Error, HelperCall, LoadOptions, Program, RunError, Runtime, RuntimeBuilder};

const ENGINES: [Engine; 3] = [Engine::Interp, Engine::Jit, Engine::Slot];

fn builder(engine: Engine) -> RuntimeBuilder {
    Runtime::builder().engine(engine).cpus(4).code_bytes(1 << 20)
}

fn linked(source: &str, maps: &[&Arc<MapDef>]) -> Linked {
    let insns = text::assemble(source).unwrap_or_else(|e| panic!("{e} in {source}"));
    let mut program = Linked::bare("main", ProgramKind::new(ProgType::XDP), insns);
    program.maps = maps.iter().map(|map| Arc::clone(map)).collect();
    program
}

fn load(runtime: &Runtime, program: Linked) -> Result<Program, Error> {
    let ebpf = runtime.load_linked(vec![program])?;
    Ok(ebpf.program("main").expect("just loaded").clone())
}

fn run(runtime: &Runtime, program: &Program) -> Result<u32, RunError> {
    let mut context = Context::xdp(&[0; 64]).expect("a packet");
    runtime.worker().expect("a worker").run(program, &mut context)
}

fn proto(args: &[Arg], ret: Ret) -> Proto {
    Proto {
        id: FIRST_CUSTOM,
        name: "own".to_owned(),
        args: args.to_vec(),
        ret,
        changes_packet: false,
        packet_memory: false,
        gpl_only: false,
    }
}

/// What is read from frozen data counts as known, so no helper may change it either.
#[test]
fn frozen_data_is_not_changed_through_a_helper() {
    let mut def = MapDef::new(".rodata", MapType::ARRAY, 4, 8, 1);
    def.frozen = true;
    def.init = MapInit::Data(vec![1; 8]);
    let mut read_only = MapDef::new("flagged", MapType::HASH, 4, 8, 1);
    read_only.map_flags = 1 << 7;
    let head = "*(u64 *)(r10 - 8) = 99\n*(u32 *)(r10 - 12) = 0\nr1 = map[idx:0]\nr2 = r10\nr2 += -12\n";
    let update = format!("{head}r3 = r10\nr3 += -8\nr4 = 0\ncall bpf_map_update_elem#2\nr0 = 0\nexit");
    let delete = format!("{head}call bpf_map_delete_elem#3\nr0 = 0\nexit");
    let lookup = format!("{head}call bpf_map_lookup_elem#1\nr0 = 0\nexit");
    for engine in ENGINES {
        let runtime = builder(engine).build().expect("a runtime");
        for def in [&def, &read_only].map(|def| Arc::new(def.clone())) {
            for source in [&update, &delete] {
                let error = load(&runtime, linked(source, &[&def])).expect_err("accepted");
                assert!(error.to_string().contains("write into map forbidden"), "{engine}: {error}");
            }
            load(&runtime, linked(&lookup, &[&def])).expect("a lookup changes nothing");
        }
    }
}

/// A closure can answer anything; a program must never take that for an address.
#[test]
fn an_own_helper_answers_no_addresses() {
    let wanted = proto(&[Arg::Map], Ret::MapValueOrNull);
    let error = Runtime::builder().helper(wanted, |_| 0x1000).build().expect_err("accepted");
    assert!(error.to_string().contains("the result is an address"), "{error}");
}

/// Memory that a helper reads stays as it is (it may hold a spilled pointer); memory that it shall write begins as zeros.
#[test]
fn an_own_helper_writes_only_what_its_contract_lets_it_write() {
    let reads =
        linked("*(u64 *)(r10 - 8) = 5\nr1 = r10\nr1 += -8\nr2 = 8\ncall 65536\nr0 = *(u64 *)(r10 - 8)\nexit", &[]);
    let writes = linked("r1 = r10\nr1 += -8\nr2 = 8\ncall 65536\nr0 = *(u32 *)(r10 - 8)\nexit", &[]);
    for engine in ENGINES {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let helper = move |call: &HelperCall<'_>| {
            assert!(call.memory(0).is_none());
            log.lock().expect("the log").push(call.bytes(0));
            0
        };
        let runtime = builder(engine).helper(proto(&[Arg::Mem, Arg::Size], Ret::Integer), helper).build().expect("one");
        let program = load(&runtime, reads.clone()).expect("a program");
        assert_eq!(run(&runtime, &program), Ok(5), "{engine}");
        assert_eq!(*seen.lock().expect("the log"), [Some(5u64.to_le_bytes().to_vec())]);

        let silent = |call: &HelperCall<'_>| call.memory(0).map_or(1, |memory| memory.len() as u64);
        let contract = proto(&[Arg::MemUninit, Arg::Size], Ret::Integer);
        let runtime = builder(engine).helper(contract, silent).build().expect("a runtime");
        let program = load(&runtime, writes.clone()).expect("a program");
        assert_eq!(run(&runtime, &program), Ok(0), "{engine}: the helper left it as it was");
    }
}

/// A reused map stands for the object's map it was given for, whatever its own name is.
#[test]
fn a_reused_map_is_bound_by_the_objects_name() {
    let small = Arc::new(MapDef::new("small", MapType::ARRAY, 4, 8, 1));
    let big = Arc::new(MapDef::new("big", MapType::ARRAY, 4, 512, 1));
    let head =
        "*(u32 *)(r10 - 4) = 0\nr2 = r10\nr2 += -4\nr1 = map[idx:0]\ncall bpf_map_lookup_elem#1\nif r0 == 0 goto +2\n";
    // The other map's name is that of the object's second map, which is larger.
    let other = Arc::new(MapDef::new("big", MapType::ARRAY, 4, 8, 1));
    for engine in ENGINES {
        let runtime = builder(engine).build().expect("a runtime");
        let maker = linked(&format!("{head}r1 = 1\n*(u64 *)(r0 + 0) = r1\nr0 = 0\nexit"), &[&other]);
        let made = runtime.load_linked(vec![maker]).expect("a program");
        let reused = made.map("big").expect("its map");
        let mut first = linked(&format!("{head}r1 = 2\n*(u64 *)(r0 + 0) = r1\nr0 = 0\nexit"), &[&small]);
        let mut second = linked(&format!("{head}r1 = 3\n*(u64 *)(r0 + 504) = r1\nr0 = 0\nexit"), &[&big]);
        (first.name, second.name) = ("first".to_owned(), "second".to_owned());
        let options = LoadOptions::default().reuse_map("small", reused);
        let ebpf = runtime.load_linked_with(vec![first, second], &options).expect("two programs");
        assert_eq!(ebpf.map("small").expect("the reused map").id(), reused.id());
        for name in ["first", "second"] {
            assert_eq!(run(&runtime, ebpf.program(name).expect("a program")), Ok(0), "{engine} {name}");
        }
        assert_eq!(reused.read(&[0; 4]).expect("its value"), 2u64.to_le_bytes());
        let big = ebpf.map("big").expect("its own map").read(&[0; 4]).expect("its value");
        assert_eq!((big.len(), big[504]), (512, 3), "{engine}");
    }
}

/// Calls `child` in a fork and answers its exit status; 255 when it hangs or dies.
fn in_child(child: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child runs `child` only, and ends without destructors. What it calls may allocate: glibc allows that
    // after a fork of a process with threads.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            libc::alarm(20);
            let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(101);
            libc::_exit(status);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
        if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 255 }
    }
}

#[test]
fn a_forked_child_is_refused_everywhere_and_can_make_its_own_runtime() {
    for engine in ENGINES {
        let runtime = builder(engine).build().expect("a runtime");
        let counter = Arc::new(MapDef::new("counter", MapType::ARRAY, 4, 8, 1));
        let source =
            "*(u32 *)(r10 - 4) = 0\nr2 = r10\nr2 += -4\nr1 = map[idx:0]\ncall bpf_map_lookup_elem#1\nw0 = 3\nexit";
        let ebpf = runtime.load_linked(vec![linked(source, &[&counter])]).expect("a program");
        let program = ebpf.program("main").expect("the program").clone();
        let map = ebpf.map("counter").expect("the map").clone();
        let mut worker = runtime.worker().expect("a worker");
        let status = in_child(|| {
            let mut context = Context::xdp(&[0; 64]).expect("a packet");
            let mut pinned = worker.pin().map(|_| ()).is_err();
            pinned &= worker.run(&program, &mut context) == Err(RunError::Forked);
            let refused = matches!(runtime.worker(), Err(Error::Run(RunError::Forked)));
            let write = map.write(&[0; 4], &[1; 8], 0).is_err() && map.remove(&[0; 4]).is_err();
            let load = runtime.load_linked(vec![linked("r0 = 0\nexit", &[])]).is_err();
            let own = builder(engine).build().expect("a runtime of its own");
            let program = load_one(&own);
            let ran = run(&own, &program) == Ok(7);
            drop((own, program, worker, map, ebpf, runtime));
            [pinned, refused, write, load, ran].iter().position(|right| !right).map_or(0, |i| i as i32 + 1)
        });
        assert_eq!(status, 0, "{engine}");
    }
}

fn load_one(runtime: &Runtime) -> Program {
    load(runtime, linked("w0 = 7\nexit", &[])).expect("a program")
}

/// The section was entered before the fork: a run inside it is refused all the same.
#[test]
fn a_batch_that_goes_on_in_a_forked_child_is_refused() {
    for engine in ENGINES {
        let runtime = builder(engine).build().expect("a runtime");
        let program = load_one(&runtime);
        let mut worker = runtime.worker().expect("a worker");
        let mut pinned = worker.pin().expect("a section");
        let mut context = Context::xdp(&[0; 64]).expect("a packet");
        assert_eq!(pinned.run(&program, &mut context), Ok(7));
        let status = in_child(|| i32::from(pinned.run(&program, &mut context) != Err(RunError::Forked)));
        assert_eq!(status, 0, "{engine}");
        assert_eq!(pinned.run(&program, &mut context), Ok(7));
    }
}

/// A forgotten section delays reclaim for as long as its worker lives, and no longer.
#[test]
fn a_forgotten_section_goes_with_its_worker() {
    let runtime = builder(Engine::Jit).build().expect("a runtime");
    let mut worker = runtime.worker().expect("a worker");
    let program = load_one(&runtime);
    let (done, wait) = std::sync::mpsc::channel();
    let worker = std::thread::spawn(move || {
        std::mem::forget(worker.pin().expect("a section"));
        worker
    });
    let worker = worker.join().expect("the thread");
    drop((program, runtime));
    std::thread::spawn(move || {
        drop(worker);
        done.send(())
    });
    wait.recv_timeout(Duration::from_secs(20)).expect("the last worker goes without waiting for itself");
}
