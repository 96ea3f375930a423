//! Stack that was not written reads as zero, in every engine, whatever ran there before.

use std::sync::Arc;

use livebpf::context::Context;
use livebpf::insn::{Pc, text};
use livebpf::link::{Program, Subprogram};
use livebpf::object::{MapDef, MapInit, MapType, ProgType, ProgramKind};
use livebpf::runtime::{Engine, Runtime};

/// A program of the functions in `listings`, the first of which is the main one.
fn program(name: &str, listings: &[&str]) -> Program {
    let mut starts = vec![Pc(0)];
    for listing in listings {
        let body = listing.lines().filter(|line| !line.trim().is_empty()).count() as u32;
        let wide = listing.matches("map[").count() as u32;
        starts.push(Pc(starts.last().expect("a start").0 + body + wide));
    }
    let insns = text::assemble(&listings.join("\n")).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut program = Program::bare(name, ProgramKind::new(ProgType::XDP), insns);
    let function = |(i, ends): (usize, &[Pc])| Subprogram {
        name: format!("f{i}"),
        start: ends[0],
        end: ends[1],
        global: i == 0,
        signature: None,
    };
    program.subprogs = starts.windows(2).enumerate().map(function).collect();
    program
}

fn run(programs: Vec<Program>, name: &str) -> Vec<u32> {
    let engines = [Engine::Interp, Engine::Jit, Engine::Slot];
    let one = |engine| {
        let runtime = Runtime::builder().engine(engine).build().expect("a runtime");
        let ebpf = runtime.load_linked(programs.clone()).expect("accepted");
        let mut context = Context::for_type(ProgType::XDP, &[0; 64]).expect("a context");
        let mut worker = runtime.worker().expect("a worker");
        worker.run(ebpf.program(name).expect("the program"), &mut context).expect("a result")
    };
    engines.map(one).to_vec()
}

#[test]
fn a_callee_finds_nothing_of_the_one_before() {
    let main = "call pc+4\nr6 = r0\ncall pc+6\nr0 += r6\nexit";
    let writes = "*(u64 *)(r10 - 8) = -1\n*(u64 *)(r10 - 24) = -1\nr0 = 3\nexit";
    let reads = "r0 = *(u64 *)(r10 - 8)\nr1 = *(u32 *)(r10 - 20)\nr0 |= r1\nexit";
    assert_eq!(run(vec![program("main", &[main, writes, reads])], "main"), [3, 3, 3]);
}

#[test]
fn nor_does_a_program_that_was_tail_called() {
    let caller = "*(u64 *)(r10 - 8) = -1\n*(u64 *)(r10 - 512) = -1\nr2 = map[idx:0]\nr3 = 0\ncall 12\nr0 = 1\nexit";
    let mut caller = program("caller", &[caller]);
    let slots = MapInit::Programs(vec![(0, "target".to_owned())]);
    caller.maps = vec![Arc::new(MapDef { init: slots, ..MapDef::new("slots", MapType::PROG_ARRAY, 4, 4, 1) })];
    let target = program("target", &["r0 = *(u64 *)(r10 - 8)\nr1 = *(u64 *)(r10 - 512)\nr0 |= r1\nr0 += 5\nexit"]);
    assert_eq!(run(vec![caller, target], "caller"), [5, 5, 5]);
}

#[test]
fn registers_survive_the_clearing() {
    let main = "r1 = 1\nr2 = 2\nr3 = 4\nr4 = 8\nr5 = 16\nr6 = 32\ncall pc+2\nr0 += r6\nexit";
    let sum = "r0 = *(u64 *)(r10 - 16)\nr0 += r1\nr0 += r2\nr0 += r3\nr0 += r4\nr0 += r5\nexit";
    assert_eq!(run(vec![program("main", &[main, sum])], "main"), [63, 63, 63]);
}
