//! What is different at run time for authors who are not trusted: all 64 bits of a tail call's index count.

use std::sync::Arc;

use livebpf::context::Context;
use livebpf::insn::{Pc, text};
use livebpf::link::{Program, Subprogram};
use livebpf::object::{MapDef, MapInit, MapType, ProgType, ProgramKind};
use livebpf::runtime::{Engine, Error, LoadOptions, Runtime};
use livebpf::verify::{Rule, Trust};

fn program(name: &str, listing: &str) -> Program {
    let insns = text::assemble(listing).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut program = Program::bare(name, ProgramKind::new(ProgType::XDP), insns);
    let end = Pc(program.insns.len());
    program.subprogs = vec![Subprogram { name: name.into(), start: Pc(0), end, global: true, signature: None }];
    program
}

/// A program that calls slot `index` of an array of `entries` slots, of which the first holds `target`.
fn caller(index: &str, entries: u32) -> Program {
    let mut caller = program("caller", &format!("{index}\nr2 = map[idx:0]\ncall 12\nr0 = 1\nexit"));
    let slots = MapInit::Programs(vec![(0, "target".to_owned())]);
    caller.maps = vec![Arc::new(MapDef { init: slots, ..MapDef::new("slots", MapType::PROG_ARRAY, 4, 4, entries) })];
    caller
}

fn run(engine: Engine, trust: Trust, index: &str, entries: u32) -> u32 {
    let runtime = Runtime::builder().engine(engine).build().expect("a runtime");
    let programs = vec![caller(index, entries), program("target", "r0 = 2\nexit")];
    let ebpf = runtime.load_linked_with(programs, &LoadOptions::default().trust(trust)).expect("accepted");
    let mut context = Context::for_type(ProgType::XDP, &[0; 64]).expect("a context");
    let mut worker = runtime.worker().expect("a worker");
    worker.run(ebpf.program("caller").expect("the caller"), &mut context).expect("a result")
}

#[test]
fn an_index_of_two_to_the_32_reaches_slot_0_for_trusted_programs_only() {
    let known = "r3 = 0x100000000 ll";
    // The length of the packet times 2^32, which is not known before.
    let unknown =
        "r3 = *(u32 *)(r1 + 4)\nr4 = *(u32 *)(r1 + 0)\nr5 = r4\nr5 += 1\nif r5 > r3 goto out\nr3 = *(u8 *)(r4 + 0)
r3 += 1\nr3 <<= 32\ngoto pc+1\nout:\nr3 = 0";
    for engine in [Engine::Interp, Engine::Jit, Engine::Slot] {
        for (entries, index) in [(1, known), (3, known), (4, known), (1, unknown), (3, unknown), (4, unknown)] {
            assert_eq!(run(engine, Trust::Trusted, index, entries), 2, "{engine} {entries} {index}");
            assert_eq!(run(engine, Trust::Untrusted, index, entries), 1, "{engine} {entries} {index}");
        }
        for trust in [Trust::Trusted, Trust::Untrusted] {
            assert_eq!(run(engine, trust, "r3 = 0", 3), 2, "{engine}");
            assert_eq!(run(engine, trust, "r3 = 3", 3), 1, "{engine}");
        }
    }
}

#[test]
fn trust_is_an_option_of_a_load() {
    let runtime = Runtime::builder().build().expect("a runtime");
    let leak = || vec![program("leak", "r0 = r10\nexit")];
    runtime.load_linked(leak()).expect("fine for a trusted author");
    match runtime.load_linked_with(leak(), &LoadOptions::default().trust(Trust::Untrusted)) {
        Err(Error::Rejected { rejection, .. }) => assert_eq!(rejection.rule, Rule::Pointer),
        other => panic!("{:?}", other.map(|_| ())),
    }
}
