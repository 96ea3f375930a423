//! Programs and maps in the kernel that runs here; where it refuses bpf(2), the tests say so and end.

use livebpf::context::Context;
use livebpf::insn::{Pc, text};
use livebpf::link;
use livebpf::object::{MapDef, MapInit, MapType, ProgType, ProgramKind};
use livebpf::runtime::{Engine, Runtime};
use livebpf_kernel_bpf::{Error, Map, Program, probe};

fn kernel_is_usable() -> bool {
    probe().inspect_err(|why| eprintln!("skipped: no kernel to compare with: {why}")).is_ok()
}

fn linked(name: &str, source: &str) -> link::Program {
    let insns = text::assemble(source).unwrap_or_else(|e| panic!("{e} in {source}"));
    link::Program::bare(name, ProgramKind::new(ProgType::SCHED_CLS), insns)
}

fn map(def: &MapDef) -> Map {
    Map::create(def).expect("a map")
}

fn errno<T: std::fmt::Debug>(result: Result<T, Error>) -> Option<i32> {
    match result {
        Err(Error::Refused { source, .. }) => source.raw_os_error(),
        other => panic!("wanted a refusal, found {other:?}"),
    }
}

#[test]
fn a_tail_call_follows_its_slot() {
    if !kernel_is_usable() {
        return;
    }
    let array = map(&MapDef::new("slots", MapType::PROG_ARRAY, 4, 4, 2));
    let caller = linked("caller", "r2 = map[idx:0]\nr3 = 1\ncall bpf_tail_call#12\nr0 = 5\nexit");
    let caller = Program::load(&caller, &[&array]).expect("a program");
    let seven = Program::load(&linked("seven", "r0 = 7\nexit"), &[]).expect("a program");
    let answer = || caller.test_run(&[0; 64], 3).expect("a run").retval;
    assert_eq!(answer(), 5);
    array.set(1, &seven).expect("an update");
    assert_eq!(answer(), 7);
    array.clear_index(1).expect("an update");
    assert_eq!(answer(), 5);
    assert_eq!(errno(array.clear_index(1)), Some(libc::ENOENT));
    assert_eq!(errno(array.set(2, &seven)), Some(libc::E2BIG));
}

#[test]
fn functions_get_their_types() {
    if !kernel_is_usable() {
        return;
    }
    // Two functions; a tail call in the second, which the kernel allows with type information only.
    let array = map(&MapDef::new("slots", MapType::PROG_ARRAY, 4, 4, 1));
    let source = "call +1\nexit\nr2 = map[idx:0]\nr3 = 0\ncall bpf_tail_call#12\nr0 = 5\nexit";
    let mut caller = linked("caller", source);
    caller.subprogs[0].end = Pc(2);
    let (start, end) = (Pc(2), Pc(caller.insns.len()));
    caller.subprogs.push(link::Subprogram { name: "inner".into(), start, end, global: false, signature: None });
    let caller = Program::load(&caller, &[&array]).expect("a program");
    assert_eq!(caller.test_run(&[0; 64], 1).expect("a run").retval, 5);
    assert!(caller.verified_insns().expect("a number") >= 7, "all instructions are reached");
    assert!(caller.jited_len().expect("a number") > 0);
}

#[test]
fn data_and_packets_come_back() {
    if !kernel_is_usable() {
        return;
    }
    let mut def = MapDef::new(".data", MapType::ARRAY, 4, 8, 1);
    def.init = MapInit::Data(40u64.to_le_bytes().to_vec());
    let data = map(&def);
    let source = "r2 = map[idx:0][0]+0\nr3 = *(u64 *)(r2 + 0)\nr3 += 2\n*(u64 *)(r2 + 0) = r3\nr0 = r3\nexit";
    let program = Program::load(&linked("adds", source), &[&data]).expect("a program");
    let packet: Vec<u8> = (0..64).collect();
    let ran = program.test_run_packet(&packet).expect("a run");
    assert_eq!((ran.retval, ran.data_out), (42, packet));
    assert_eq!(data.lookup(&[0; 4]).expect("the value"), 42u64.to_le_bytes());

    let hash = map(&MapDef::new("hash", MapType::HASH, 4, 4, 8));
    assert_eq!(errno(hash.lookup(&[1; 4])), Some(libc::ENOENT));
    hash.update(&[1; 4], &[2; 4], 1).expect("an update");
    assert_eq!(errno(hash.update(&[1; 4], &[3; 4], 1)), Some(libc::EEXIST));
    assert_eq!(hash.lookup(&[1; 4]).expect("the value"), [2; 4]);
    hash.delete(&[1; 4]).expect("an update");
}

#[test]
fn refusals_say_what_the_verifier_said() {
    if !kernel_is_usable() {
        return;
    }
    let refused = Program::load(&linked("reads", "r0 = r2\nexit"), &[]).expect_err("R2 is not initialised").to_string();
    assert!(refused.starts_with("program reads: the kernel refuses it: "), "{refused}");
    assert!(refused.ends_with(": R2 !read_ok"), "{refused}");
}

#[test]
fn sizes_that_are_not_the_map_s_never_reach_the_kernel() {
    let stacks = Map::create(&MapDef::new("stacks", MapType::STACK_TRACE, 4, 8, 1)).expect_err("no stack traces");
    assert_eq!(
        stacks.to_string(),
        "map stacks is of type stack_trace, wanted a hash, an array, one of these per CPU, or prog_array"
    );
    if !kernel_is_usable() {
        return;
    }
    let queue = map(&MapDef::new("queue", MapType::QUEUE, 0, 8, 1));
    let refused = queue.lookup(&[]).expect_err("a map without keys").to_string();
    assert_eq!(refused, "map queue is of type queue, wanted a hash, an array, one of these per CPU, or prog_array");
    let array = map(&MapDef::new("words", MapType::ARRAY, 4, 8, 2));
    let wrong = [array.update(&[0; 3], &[0; 8], 0), array.update(&[0; 4], &[0; 9], 0), array.delete(&[0; 5])];
    let messages = wrong.map(|result| result.expect_err("a wrong size").to_string());
    assert_eq!(messages[0], "the key for map words has 3 bytes, wanted 4");
    assert_eq!(messages[1], "the value for map words has 9 bytes, wanted 8");
    assert_eq!(messages[2], "the key for map words has 5 bytes, wanted 4");
}

#[test]
fn contexts_values_of_each_cpu_and_keys_come_back() {
    if !kernel_is_usable() {
        return;
    }
    let counts = map(&MapDef::new("counts", MapType::PERCPU_ARRAY, 4, 4, 1));
    let source = "r6 = r1\nr1 = 0\n*(u32 *)(r10 - 4) = r1\nr1 = map[idx:0]\nr2 = r10\nr2 += -4\ncall bpf_map_lookup_elem#1\n\
                  if r0 == 0 goto +4\nr1 = *(u32 *)(r6 + 8)\n*(u32 *)(r0 + 0) = r1\nr1 += 1\n*(u32 *)(r6 + 8) = r1\nr0 = 0\nexit";
    let program = Program::load(&linked("marks", source), &[&counts]).expect("a program");
    let mut ctx = [0; 192];
    ctx[8] = 9;
    let ran = program.test_run_context(&[0; 64], &ctx).expect("a run");
    assert_eq!((ran.ctx_out.len(), ran.ctx_out[8]), (192, 10));
    let values = counts.lookup(&[0; 4]).expect("the values");
    let sum: u64 = values.chunks(8).map(|word| u64::from_le_bytes(word.try_into().expect("whole words"))).sum();
    assert_eq!((values.len() % 8, sum), (0, 9));
    assert_eq!(counts.keys().expect("the keys"), [[0; 4]]);
    let hash = map(&MapDef::new("hash", MapType::HASH, 4, 4, 8));
    assert_eq!(hash.keys().expect("no keys"), Vec::<Vec<u8>>::new());
}

#[test]
fn a_queue_s_number_is_written_as_the_kernel_does() {
    let usable = kernel_is_usable();
    // What is stored, by a register or as a constant, over 3, and what is there afterwards.
    let stores = [
        ("r2 = 65534", "r2", 65534),
        ("r2 = 65535", "r2", 3),
        ("r2 = 4294967297 ll", "r2", 3),
        ("r2 = -1", "r2", 3),
        ("w2 = -1", "r2", 3),
        ("r2 = 0", "65534", 65534),
        ("r2 = 0", "65535", 3),
        ("r2 = 0", "1534518097", 3),
        ("r2 = 0", "-2", 65534),
    ];
    for (set, stored, wanted) in stores {
        let field = "*(u32 *)(r1 + 12)";
        let source = format!("{field} = 3\n{set}\n{field} = {stored}\nr0 = {field}\nexit");
        let program = linked("queues", &source);
        if usable {
            let loaded = Program::load(&program, &[]).expect("a program");
            assert_eq!(loaded.test_run(&[0; 64], 1).expect("a run").retval, wanted, "kernel: {set}; {stored}");
        }
        for engine in [Engine::Interp, Engine::Jit, Engine::Slot] {
            let runtime = Runtime::builder().engine(engine).build().expect("a runtime");
            let loaded = runtime.load_linked(vec![program.clone()]).expect("a program");
            let mut packet = Context::for_type(ProgType::SCHED_CLS, &[0; 64]).expect("a context");
            let ran = runtime.worker().expect("a worker").run(loaded.program("queues").expect("it"), &mut packet);
            assert_eq!(ran, Ok(wanted), "{engine}: {set}; {stored}");
        }
    }
}
