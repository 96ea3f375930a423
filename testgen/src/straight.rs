//! Straight-line arithmetic: registers and a few stack slots are set first, everything ends up in R0. Such a program
//! breaks no rule, so every verifier accepts it and every engine must return the same number.

use livebpf::insn::{AluOp, EndianOp, Imm64, Insn, Insns, Reg, Size, Src, Width};
use livebpf::link::Program;
use livebpf::object::{ProgType, ProgramKind};

use crate::single::{ALU_OPS, SIZES, WIDTHS};
use crate::{Source, corners};

/// Registers that take part: all but the frame pointer.
const REGS: [Reg; 10] = [Reg::R0, Reg::R1, Reg::R2, Reg::R3, Reg::R4, Reg::R5, Reg::R6, Reg::R7, Reg::R8, Reg::R9];
/// Stack slots of eight bytes that take part.
const SLOTS: u32 = 4;

/// A program of about `len` instructions after the set-up.
pub fn program(source: &mut Source<'_>, len: u32) -> Program {
    let mut insns = Insns::default();
    for dst in REGS {
        insns.push(Insn::LoadImm64 { dst, value: Imm64::Const(corners::u64(source)) });
    }
    for slot in 1..=SLOTS {
        let src = Src::Reg(source.pick(&REGS));
        insns.push(Insn::Store { size: Size::DW, base: Reg::FP, off: -8 * slot as i16, src });
    }
    let end = insns.len() + len;
    while insns.len() < end {
        if insns.len() + 2 <= end && source.chance(1, 8) {
            for insn in idiom(source) {
                insns.push(insn);
            }
        } else {
            insns.push(step(source));
        }
    }
    for src in &REGS[1..] {
        let (dst, src) = (Reg::R0, Src::Reg(*src));
        insns.push(Insn::Alu { op: AluOp::Mul, width: Width::W64, dst, src: Src::Imm(31) });
        insns.push(Insn::Alu { op: AluOp::Xor, width: Width::W64, dst, src });
    }
    // What runs programs may give back the low half only.
    let (dst, width) = (Reg::R0, Width::W64);
    insns.push(Insn::Mov { width, dst: Reg::R1, src: Src::Reg(dst) });
    insns.push(Insn::Alu { op: AluOp::Rsh, width, dst: Reg::R1, src: Src::Imm(32) });
    insns.push(Insn::Alu { op: AluOp::Xor, width, dst, src: Src::Reg(Reg::R1) });
    insns.push(Insn::Exit);
    Program::bare("straight", ProgramKind::new(ProgType::XDP), insns)
}

fn step(source: &mut Source<'_>) -> Insn {
    let (dst, other, width) = (source.pick(&REGS), source.pick(&REGS), source.pick(&WIDTHS));
    match source.below(16) {
        0..=7 => arithmetic(source, dst, width),
        8 => Insn::Neg { width, dst },
        9 => Insn::Mov { width, dst, src: Src::Reg(other) },
        10 => Insn::Mov { width, dst, src: Src::Imm(corners::i32(source)) },
        11 => {
            let from = if width == Width::W64 { &[Size::B, Size::H, Size::W][..] } else { &[Size::B, Size::H] };
            Insn::MovSx { width, from: source.pick(from), dst, src: other }
        }
        12 => Insn::Endian {
            op: source.pick(&[EndianOp::ToLe, EndianOp::ToBe, EndianOp::Swap]),
            size: source.pick(&[Size::H, Size::W, Size::DW]),
            dst,
        },
        13 => {
            let (size, off) = place(source);
            Insn::Load { size, dst, base: Reg::FP, off }
        }
        14 => {
            let (size, off) = place(source);
            let src = if source.chance(1, 3) { Src::Imm(corners::i32(source)) } else { Src::Reg(other) };
            Insn::Store { size, base: Reg::FP, off, src }
        }
        _ => {
            let (size, off) = place(source);
            if size == Size::DW {
                return Insn::Load { size, dst, base: Reg::FP, off };
            }
            Insn::LoadSx { size, dst, base: Reg::FP, off }
        }
    }
}

/// Two instructions that compilers write together and code generators take together.
fn idiom(source: &mut Source<'_>) -> [Insn; 2] {
    let (dst, src, width) = (source.pick(&REGS), source.pick(&REGS), Width::W64);
    match source.below(3) {
        0 => {
            let (op, by) = (source.pick(&[AluOp::Rsh, AluOp::Arsh]), Src::Imm(source.pick(&[32, 48, 56])));
            [Insn::Alu { op: AluOp::Lsh, width, dst, src: by }, Insn::Alu { op, width, dst, src: by }]
        }
        1 => {
            let (size, off) = place(source);
            let size = if size == Size::B { Size::H } else { size };
            let op = source.pick(&[EndianOp::ToBe, EndianOp::Swap, EndianOp::ToLe]);
            [Insn::Load { size, dst, base: Reg::FP, off: off & !1 }, Insn::Endian { op, size, dst }]
        }
        _ => {
            let op = source.pick(&[AluOp::Add, AluOp::Sub]);
            let by = Src::Imm(corners::i32(source));
            [Insn::Mov { width, dst, src: Src::Reg(src) }, Insn::Alu { op, width, dst, src: by }]
        }
    }
}

/// An aligned place in the stack slots.
fn place(source: &mut Source<'_>) -> (Size, i16) {
    let size = source.pick(&SIZES);
    let off = source.below(SLOTS * 8 / size.bytes()) * size.bytes();
    (size, off as i16 - (SLOTS * 8) as i16)
}

/// Two-operand arithmetic with an immediate that verifiers take.
pub fn arithmetic(source: &mut Source<'_>, dst: Reg, width: Width) -> Insn {
    let op = source.pick(&ALU_OPS);
    if source.chance(1, 2) {
        return Insn::Alu { op, width, dst, src: Src::Reg(source.pick(&REGS)) };
    }
    Insn::Alu { op, width, dst, src: Src::Imm(immediate(source, op, width)) }
}

/// An immediate for `op` that verifiers take: no division by zero, no shift by the width or more.
pub fn immediate(source: &mut Source<'_>, op: AluOp, width: Width) -> i32 {
    let imm = corners::i32(source);
    match op {
        AluOp::Div | AluOp::SDiv | AluOp::Mod | AluOp::SMod => {
            if imm == 0 {
                1
            } else {
                imm
            }
        }
        AluOp::Lsh | AluOp::Rsh | AluOp::Arsh => imm & if width == Width::W64 { 63 } else { 31 },
        AluOp::Add | AluOp::Sub | AluOp::Mul | AluOp::Or | AluOp::And | AluOp::Xor => imm,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_program() {
        let program = |seed| super::program(&mut Source::seeded(seed), 50);
        assert_eq!(program(3), program(3));
        assert_ne!(program(3), program(4));
        assert_eq!(program(3).insns.len(), 20 + SLOTS + 50 + 18 + 3 + 1);
    }
}
