//! Counts how often each program is entered, from outside or by a tail call: a few instructions in front of its code.

use std::sync::Arc;

use livebpf::insn::{AtomicOp, Imm64, Insn, Insns, Pc, Reg, Src, Width};
use livebpf::link::Program;
use livebpf::object::{MapDef, MapType};

use crate::Suite;

/// The map of the counts: one entry, eight bytes a program.
pub(super) const MAP: &str = "bodies";

/// Adds the map of the counts, and to every program the code that counts.
pub(super) fn instrument(suite: &mut Suite) {
    let counts = Arc::new(MapDef::new(MAP, MapType::ARRAY, 4, 8 * suite.programs.len() as u32, 1));
    suite.maps.push(counts.clone());
    for (index, program) in (0..).zip(&mut suite.programs) {
        program.maps.push(counts.clone());
        prepend(program, &counter(program.maps.len() as i32 - 1, index));
    }
}

/// Adds one to count `index`; leaves 0 in the registers that it uses.
fn counter(map: i32, index: i32) -> Insns {
    let width = Width::W64;
    Insns::from_vec([
        Insn::LoadImm64 { dst: Reg::R0, value: Imm64::MapIdxValue { idx: map, off: 8 * index as u32 } },
        Insn::Mov { width, dst: Reg::R2, src: Src::Imm(1) },
        Insn::Atomic { op: AtomicOp::Add { fetch: false }, width, base: Reg::R0, off: 0, src: Reg::R2 },
        Insn::Mov { width, dst: Reg::R0, src: Src::Imm(0) },
        Insn::Mov { width, dst: Reg::R2, src: Src::Imm(0) },
    ])
}

/// Puts code in front of the entry function.
fn prepend(program: &mut Program, code: &Insns) {
    let by = code.len();
    let mut insns = code.clone();
    insns.append(&program.insns);
    program.insns = insns;
    for (index, function) in program.subprogs.iter_mut().enumerate() {
        let moved = |pc: Pc| Pc(pc.0 + by);
        (function.start, function.end) = (if index == 0 { Pc(0) } else { moved(function.start) }, moved(function.end));
    }
}
