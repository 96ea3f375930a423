//! Programs of ten thousand, sixty thousand and a million instructions: machine code, patched and through slots, answers what
//! the checking interpreter does. Their jumps lead near and far, and a loop goes round all of it.

use livebpf::insn::{AluOp, Cond, Insn, Insns, Pc, Reg, Size, Src, Width};
use livebpf::link::Program;
use livebpf::runtime::{Engine, Runtime};
use livebpf_testgen::{Generator, Source};

/// Instructions at the start and end of a generated program that stay outside of the loop.
const SET_UP: usize = 14;
const GATHER: usize = 22;
/// How often the loop goes round.
const ROUNDS: i32 = 3;
/// Where the loop keeps its counter, and R9 while it looks at it.
const COUNTER: i16 = -64;
const KEPT: i16 = -72;

fn store(off: i16, src: Src) -> Insn {
    Insn::Store { size: Size::DW, base: Reg::FP, off, src }
}

fn load(off: i16) -> Insn {
    Insn::Load { size: Size::DW, dst: Reg::R9, base: Reg::FP, off }
}

/// Arithmetic of about `len` instructions, of which some are jumped over, three times round.
fn program(seed: u64, len: u32) -> Program {
    let mut program = Generator::new(seed).straight_line(len);
    let all: Vec<Insn> = program.insns.iter().map(|(_, insn)| insn).collect();
    let (head, rest) = all.split_at(SET_UP);
    let (body, tail) = rest.split_at(rest.len() - GATHER);
    let mut source = Source::seeded(seed);
    let mut insns = Insns::from_vec(head.iter().copied());
    let start = insns.push(store(COUNTER, Src::Imm(ROUNDS))).next();
    for block in body.chunks(48) {
        let (skipped, kept) = block.split_at(source.below(block.len() as u32 + 1) as usize);
        let slots: u32 = skipped.iter().map(Insn::slots).sum();
        let cond = source.pick(&[Cond::Eq, Cond::Gt, Cond::Sle, Cond::Set]);
        let (dst, src) = (source.pick(&[Reg::R0, Reg::R3, Reg::R8]), Src::Reg(source.pick(&[Reg::R1, Reg::R6])));
        insns.push(Insn::Jmp { cond, width: source.pick(&[Width::W32, Width::W64]), dst, src, off: slots as i16 });
        skipped.iter().chain(kept).for_each(|insn| {
            insns.push(*insn);
        });
    }
    insns.push(store(KEPT, Src::Reg(Reg::R9)));
    insns.push(load(COUNTER));
    insns.push(Insn::Alu { op: AluOp::Sub, width: Width::W64, dst: Reg::R9, src: Src::Imm(1) });
    insns.push(store(COUNTER, Src::Reg(Reg::R9)));
    insns.push(Insn::Jmp { cond: Cond::Eq, width: Width::W64, dst: Reg::R9, src: Src::Imm(0), off: 2 });
    insns.push(load(KEPT));
    let here = insns.len() as i32;
    insns.push(Insn::JaL { off: start.0 as i32 - here - 1 });
    insns.push(load(KEPT));
    tail.iter().for_each(|insn| {
        insns.push(*insn);
    });
    program.subprogs[0].end = Pc(insns.len());
    program.insns = insns;
    program
}

fn run(engine: Engine, program: &Program, verified: bool) -> u64 {
    let runtime = Runtime::builder().engine(engine).build().expect("a runtime");
    let programs = vec![program.clone()];
    let loaded = if verified {
        runtime.load_linked(programs)
    } else {
        // SAFETY: the program touches its stack only, and ends.
        unsafe { runtime.load_linked_unverified(programs) }
    };
    let ebpf = loaded.unwrap_or_else(|e| panic!("{engine}: {e}"));
    let mut worker = runtime.worker().expect("a worker");
    let program = ebpf.program(&program.name).expect("the program");
    // SAFETY: as above.
    unsafe { worker.run_unverified(program, &mut []) }.unwrap_or_else(|e| panic!("{engine}: {e}"))
}

#[track_caller]
fn check(len: u32, seeds: std::ops::Range<u64>, verified: bool) {
    for seed in seeds {
        let program = program(seed, len);
        assert!(program.insns.len() >= len);
        let wanted = run(Engine::Interp, &program, verified);
        for engine in [Engine::Jit, Engine::Slot] {
            assert_eq!(run(engine, &program, verified), wanted, "{engine}: {len} instructions, seed {seed}");
        }
    }
}

#[test]
fn ten_thousand_instructions() {
    check(10_000, 0..8, true);
}

#[test]
fn sixty_thousand_instructions() {
    check(60_000, 8..12, true);
}

#[test]
fn a_million_instructions() {
    check(1_000_000, 12..13, false);
}
