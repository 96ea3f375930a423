//! What the tests of the runtime share: runtimes with each engine, programs from kernel-syntax text, helpers.
#![allow(dead_code, unused_imports)]

#[path = "seccomp.rs"]
pub mod seccomp;
#[path = "../timed/mod.rs"]
mod timed;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use livebpf::context::Context;
use livebpf::helper::{Arg, Proto, Ret};
use livebpf::insn::{Imm64, Insn, Pc, text};
use livebpf::link::{FuncSig, Program as Linked, Subprogram, TypeKind};
use livebpf::object::{MapDef, MapType, Object, ProgType, ProgramKind};
use livebpf::runtime::{Ebpf, Engine, Error, LoadOptions, MapHandle, Program, ProgramArray, Runtime, RuntimeBuilder};

pub use timed::{goes_on, report, stress};

pub const ENGINES: [Engine; 3] = [Engine::Interp, Engine::Jit, Engine::Slot];
pub const NATIVE: [Engine; 2] = [Engine::Jit, Engine::Slot];

/// What programs answer that come to their end without a tail call.
pub const MISSED: u32 = 1_000_000;

/// With this variable set, a process is one in which membarrier is refused: code cannot be patched.
pub const NO_MEMBARRIER: &str = "LIVEBPF_NO_MEMBARRIER";

/// Whether this process is such a one. Makes it one, as the variable wants it, before any runtime looks.
pub fn confined() -> bool {
    static CONFINED: OnceLock<bool> = OnceLock::new();
    *CONFINED.get_or_init(|| {
        let wanted = std::env::var_os(NO_MEMBARRIER).is_some();
        if wanted {
            seccomp::refuse(libc::SYS_membarrier, libc::EPERM);
        }
        wanted
    })
}

pub fn builder(engine: Engine) -> RuntimeBuilder {
    confined();
    Runtime::builder().engine(engine).cpus(16).code_bytes(16 << 20)
}

pub fn runtime(engine: Engine) -> Runtime {
    let runtime = builder(engine).build().expect("a runtime");
    // Where it cannot patch, it chooses slots by itself.
    let expected = if confined() && engine == Engine::Jit { Engine::Slot } else { engine };
    assert_eq!(runtime.engine(), expected, "this machine cannot patch running code, or is said to be unable to");
    runtime
}

/// Code memory is what it was. Without core sync addresses are never used again, so there it only grows.
pub fn nothing_leaked(runtime: &Runtime, used: u64) {
    assert!(confined() || runtime.code_used() == used, "{} bytes of code, wanted {used}", runtime.code_used());
}

/// A program array's definition.
pub fn prog_array(name: &str, entries: u32) -> Arc<MapDef> {
    Arc::new(MapDef::new(name, MapType::PROG_ARRAY, 4, 4, entries))
}

/// A linked XDP program from text. Functions begin wherever something is called; all of them return int.
pub fn linked(name: &str, source: &str, maps: &[&Arc<MapDef>]) -> Linked {
    linked_as(ProgType::XDP, name, source, maps)
}

pub fn linked_as(prog_type: ProgType, name: &str, source: &str, maps: &[&Arc<MapDef>]) -> Linked {
    let insns = text::assemble(source).unwrap_or_else(|e| panic!("{e} in {source}"));
    let mut starts = vec![Pc(0)];
    for (pc, insn) in insns.iter() {
        if let Insn::CallSubprog { off } | Insn::LoadImm64 { value: Imm64::Func { off }, .. } = insn {
            starts.push(pc.jump(off).expect("a call inside the program"));
        }
    }
    starts.sort();
    starts.dedup();
    let mut program = Linked::bare(name, ProgramKind::new(prog_type), insns);
    let ends = starts[1..].iter().copied().chain([Pc(program.insns.len())]);
    let int = TypeKind::Int { size: 4, signed: true };
    let functions = starts.iter().zip(ends).enumerate().map(|(i, (start, end))| Subprogram {
        name: if i == 0 { name.to_owned() } else { format!("f{i}") },
        start: *start,
        end,
        global: i == 0,
        signature: (i > 0).then(|| FuncSig { ret: int.clone(), params: Vec::new(), tags: Vec::new() }),
    });
    program.subprogs = functions.collect();
    program.maps = maps.iter().map(|map| Arc::clone(map)).collect();
    program
}

/// `return value;`
pub fn answers(name: &str, value: u32) -> Linked {
    linked(name, &format!("w0 = {value}\nexit"), &[])
}

/// Text of a direct tail call through slot `index` of map `map`; wants the context in R6.
pub fn tail_call(map: u32, index: u32) -> String {
    format!("r1 = r6\nr2 = map[idx:{map}]\nr3 = {index}\ncall bpf_tail_call#12\n")
}

/// A program that tries the slots of its map 0 in order, then answers [`MISSED`]. It has a frame and keeps values in R6 to R9
/// over every call; where they are damaged it answers 0xbad.
pub fn tries(name: &str, slots: &[u32], array: &Arc<MapDef>) -> Linked {
    let mut source = "r6 = r1\nr7 = 7\nr8 = 8\nr9 = 9\n*(u64 *)(r10 - 16) = 77\n".to_owned();
    slots.iter().for_each(|slot| source += &tail_call(0, *slot));
    source += "r1 = *(u64 *)(r10 - 16)\nif r1 != 77 goto bad\nif r7 != 7 goto bad\nif r8 != 8 goto bad\nif r9 != 9 goto bad\n";
    source += &format!("w0 = {MISSED}\nexit\nbad:\nw0 = 0xbad\nexit\n");
    linked(name, &source, &[array])
}

/// One program in a load of its own, which uses `maps` that are there already.
pub fn load_with(runtime: &Runtime, program: Linked, maps: &[&MapHandle]) -> Result<Program, Error> {
    let options = maps.iter().fold(LoadOptions::default(), |o, map| o.reuse_map(map.name(), map));
    let name = program.name.clone();
    let ebpf = runtime.load_linked_with(vec![program], &options)?;
    Ok(ebpf.program(&name).expect("just loaded").clone())
}

pub fn load(runtime: &Runtime, program: Linked) -> Program {
    load_with(runtime, program, &[]).expect("a program that loads")
}

/// A program array, without a contract: made by a program that is not kept.
pub fn array(runtime: &Runtime, def: &Arc<MapDef>) -> (MapHandle, ProgramArray) {
    let ebpf = runtime.load_linked(vec![tries("maker", &[0], def)]).expect("a program that loads");
    let handle = ebpf.map(&def.name).expect("its map").clone();
    let array = ProgramArray::try_from(&handle).expect("a program array");
    (handle, array)
}

/// One object of the scenarios, with options.
pub fn scenario(file: &str) -> Object {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/scenarios").join(file);
    Object::parse(&std::fs::read(path).expect("a scenario's object")).expect("an object")
}

pub fn program<'a>(ebpf: &'a Ebpf, name: &str) -> &'a Program {
    ebpf.program(name).unwrap_or_else(|| panic!("no program {name}"))
}

pub fn context(program: &Program) -> Context {
    Context::for_type(program.prog_type(), &[0; 64]).expect("a context")
}

/// One run with a worker of its own.
pub fn run(runtime: &Runtime, program: &Program) -> u32 {
    runtime.worker().expect("a worker").run(program, &mut context(program)).expect("a run")
}

/// The contract of a helper without arguments, `call #id`.
pub fn helper(id: u32, args: &[Arg]) -> Proto {
    Proto {
        id,
        name: format!("test_{id}"),
        args: args.to_vec(),
        ret: Ret::Integer,
        changes_packet: false,
        packet_memory: false,
        gpl_only: false,
    }
}

/// The error number of a refused map operation.
pub fn errno<T: std::fmt::Debug>(result: Result<T, Error>) -> i32 {
    match result {
        Err(Error::Map { source, .. }) => source.errno(),
        other => panic!("wanted an error of a map, found {other:?}"),
    }
}

/// Lets the other threads end when this one panics, too.
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Pseudo-random numbers.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32 % limit
    }
}
