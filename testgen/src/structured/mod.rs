//! Structured programs of the kinds that people write: bound checks, null checks, spills, loops, subprograms, tail
//! calls. A generator follows what each register and stack slot holds, so that without mistakes a kernel-like
//! verifier accepts most of them; what it refuses is then too long or too deep, not wrong.
//!
//! Everything is deterministic when it runs: no clock, no random numbers, no addresses in results.

pub(crate) mod code;
mod env;
mod flow;
mod func;
mod maps;
mod memory;
mod mistakes;
mod packet;
mod state;

use std::sync::Arc;

use livebpf::insn::{Insn, Insns, Pc};
use livebpf::link::{Program, Subprogram};
use livebpf::object::{MapDef, ProgType, ProgramKind};

use crate::Source;
use env::{Env, Signature};
use func::Func;

/// What generated programs may contain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Type of the programs.
    pub kind: ProgramKind,
    /// Programs of a suite.
    pub programs: u32,
    /// Statements of a function; a statement is 1 to about 15 instructions. At most 1,000.
    pub statements: u32,
    /// How deep branches, checks and loops are nested.
    pub depth: u32,
    /// Subprograms of a program, at most.
    pub subprograms: u32,
    /// Stack slots of eight bytes that a function uses, at most 60.
    pub stack_slots: u32,
    /// Packet accesses behind bound checks.
    pub packet: bool,
    /// Helpers that move packet pointers.
    pub adjust: bool,
    /// Maps: lookups, updates, deletions, global data.
    pub maps: bool,
    /// Program arrays: tail calls by constant and by computed index.
    pub tail_calls: bool,
    /// Bounded loops.
    pub loops: bool,
    /// Atomic operations.
    pub atomics: bool,
    /// Load-acquire and store-release.
    pub ordered: bool,
    /// Legacy packet loads, where the program type has them.
    pub legacy: bool,
    /// Mistakes per thousand opportunities: bounds off by one, checks left out, stale pointers, and so on.
    pub mistakes: u32,
}

impl Shape {
    /// Everything, without mistakes, for the given program type.
    pub const fn new(kind: ProgramKind) -> Shape {
        Shape {
            kind,
            programs: 3,
            statements: 20,
            depth: 3,
            subprograms: 4,
            stack_slots: 6,
            packet: true,
            adjust: true,
            maps: true,
            tail_calls: true,
            loops: true,
            atomics: true,
            ordered: false,
            legacy: false,
            mistakes: 0,
        }
    }
    /// Everything, without mistakes, for XDP.
    pub const fn xdp() -> Shape {
        Shape::new(ProgramKind::new(ProgType::XDP))
    }
    /// Everything, without mistakes, for classifiers.
    pub const fn sched_cls() -> Shape {
        Shape::new(ProgramKind::new(ProgType::SCHED_CLS))
    }
    /// The same with mistakes, per thousand opportunities.
    pub const fn with_mistakes(self, mistakes: u32) -> Shape {
        Shape { mistakes, ..self }
    }
}

/// Programs that share their maps. Program arrays name the programs that they hold at first
/// (`MapInit::Programs`): `prog_0`, `prog_1` and so on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Suite {
    /// The programs, `prog_0` first.
    pub programs: Vec<Program>,
    /// The maps of all programs; the same [`Arc`]s are in each program.
    pub maps: Vec<Arc<MapDef>>,
    /// How many mistakes each program contains.
    pub mistakes: Vec<u32>,
}

impl Suite {
    /// One program without mistakes and without program arrays that name others.
    pub fn single(program: Program) -> Suite {
        Suite { maps: program.maps.clone(), programs: vec![program], mistakes: vec![0] }
    }
}

/// Makes a suite.
pub(crate) fn suite(source: &mut Source<'_>, shape: &Shape) -> Suite {
    let maps = env::maps(source, shape);
    let mut suite = Suite { programs: Vec::new(), maps: maps.clone(), mistakes: Vec::new() };
    for index in 0..shape.programs.max(1) {
        let (program, mistakes) = program(source, shape, &maps, format!("prog_{index}"));
        suite.programs.push(program);
        suite.mistakes.push(mistakes);
    }
    suite
}

/// Makes one program and says how many mistakes are in it.
fn program(source: &mut Source<'_>, shape: &Shape, maps: &[Arc<MapDef>], name: String) -> (Program, u32) {
    let count = source.below(shape.subprograms + 1) as usize;
    let mut env = Env::new(shape, maps);
    env.subprograms = (0..count).map(|_| Signature::choose(source)).collect();
    // A function calls only later ones, and needs to know whether they move packet pointers: so the last one first.
    let mut bodies = Vec::new();
    let mut mistakes = 0;
    for index in (0..=count).rev() {
        let body = Func::generate(source, shape, &env, index);
        mistakes += body.mistakes;
        if let Some(signature) = index.checked_sub(1).and_then(|i| env.subprograms.get_mut(i)) {
            signature.changes_packet = body.changes_packet;
        }
        bodies.push(body);
    }
    bodies.reverse();
    (assemble(shape, &env, name, bodies), mistakes)
}

/// Puts the functions that are called one after the other and resolves the calls between them.
fn assemble(shape: &Shape, env: &Env, name: String, bodies: Vec<func::Body>) -> Program {
    let called = called(&bodies);
    let mut insns = Insns::default();
    let mut calls = Vec::new();
    let mut subprogs = Vec::new();
    let mut starts = vec![Pc(0); bodies.len()];
    for (index, body) in bodies.iter().enumerate().filter(|(index, _)| called[*index]) {
        let start = insns.append(&body.insns);
        let end = Pc(insns.len());
        let name = if index == 0 { name.clone() } else { format!("sub_{index}") };
        let signature = Some(env.btf_signature(index));
        subprogs.push(Subprogram { name, start, end, global: index == 0, signature });
        calls.extend(body.calls.iter().map(|&(pc, callee)| (Pc(start.0 + pc.0), callee)));
        starts[index] = start;
    }
    for (pc, callee) in calls {
        let off = starts[callee].0 as i32 - pc.0 as i32 - 1;
        insns.replace(pc, Insn::CallSubprog { off });
    }
    Program { subprogs, maps: env.maps.clone(), ..Program::bare(&name, shape.kind, insns) }
}

/// Which functions main calls, directly or not: verifiers refuse code that nothing reaches.
fn called(bodies: &[func::Body]) -> Vec<bool> {
    let mut called = vec![false; bodies.len()];
    called[0] = true;
    // Functions call only later ones.
    for index in 0..bodies.len() {
        if called[index] {
            bodies[index].calls.iter().for_each(|&(_, callee)| called[callee] = true);
        }
    }
    called
}

#[cfg(test)]
mod tests;
