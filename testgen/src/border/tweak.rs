//! One change in a program that was accepted: a constant, a condition, a size, a register, a check that goes.

use livebpf::insn::{Cond, Insn, Insns, Pc, Reg, Size, Src, Width};
use livebpf::link::Program;

use crate::Source;
use crate::single::{ALU_OPS, CONDS, SIZES};

/// `program` with one thing changed, at times two.
pub fn tweak(source: &mut Source<'_>, program: &Program) -> Program {
    let mut out = program.clone();
    for _ in 0..if source.chance(1, 4) { 2 } else { 1 } {
        // Most places have something to change; look at a few.
        for _ in 0..8 {
            let places = out.insns.len();
            let pc = Pc(source.below(places));
            let Some(insn) = out.insns.get(pc) else { continue };
            let Some(changed) = change(source, insn) else { continue };
            if changed.slots() == insn.slots() {
                out.insns.replace(pc, changed);
                break;
            }
        }
    }
    out
}

fn nudge(source: &mut Source<'_>, imm: i32) -> i32 {
    match source.below(8) {
        0 => imm.wrapping_neg(),
        1 => imm.wrapping_mul(2),
        2 => imm / 2,
        3 => imm ^ (1 << source.below(32)),
        4 => crate::corners::i32(source),
        5 => imm.wrapping_sub(1),
        _ => imm.wrapping_add(1),
    }
}

fn other<T: Copy + PartialEq>(source: &mut Source<'_>, of: &[T], not: T) -> T {
    let rest: Vec<T> = of.iter().copied().filter(|x| *x != not).collect();
    source.pick(&rest)
}

fn flip(width: Width) -> Width {
    if width == Width::W64 { Width::W32 } else { Width::W64 }
}

/// Conditions that differ in one point.
fn near(source: &mut Source<'_>, cond: Cond) -> Cond {
    let near: &[Cond] = match cond {
        Cond::Gt => &[Cond::Ge, Cond::Sgt, Cond::Lt],
        Cond::Ge => &[Cond::Gt, Cond::Sge, Cond::Le],
        Cond::Lt => &[Cond::Le, Cond::Slt, Cond::Gt],
        Cond::Le => &[Cond::Lt, Cond::Sle, Cond::Ge],
        Cond::Sgt => &[Cond::Sge, Cond::Gt, Cond::Slt],
        Cond::Sge => &[Cond::Sgt, Cond::Ge, Cond::Sle],
        Cond::Slt => &[Cond::Sle, Cond::Lt, Cond::Sgt],
        Cond::Sle => &[Cond::Slt, Cond::Le, Cond::Sge],
        Cond::Eq => &[Cond::Ne, Cond::Set],
        Cond::Ne => &[Cond::Eq, Cond::Set],
        Cond::Set => &[Cond::Eq, Cond::Ne],
    };
    if source.chance(1, 6) { other(source, &CONDS, cond) } else { source.pick(near) }
}

fn register(source: &mut Source<'_>, not: Reg) -> Reg {
    other(source, &Reg::ALL[..10], not)
}

/// Another instruction in place of `insn`; `None` where nothing fits.
fn change(source: &mut Source<'_>, insn: Insn) -> Option<Insn> {
    let what = source.below(8);
    Some(match insn {
        Insn::Alu { op, width, dst, src } => match (what, src) {
            (0, _) => Insn::Alu { op: other(source, &ALU_OPS, op), width, dst, src },
            (1, _) => Insn::Alu { op, width: flip(width), dst, src },
            (2, _) => Insn::Mov { width, dst, src: Src::Reg(dst) },
            (3, Src::Reg(reg)) => Insn::Alu { op, width, dst, src: Src::Reg(register(source, reg)) },
            (_, Src::Imm(imm)) => Insn::Alu { op, width, dst, src: Src::Imm(nudge(source, imm)) },
            _ => return None,
        },
        Insn::Mov { width, dst, src } => match (what, src) {
            (0, _) => Insn::Mov { width: flip(width), dst, src },
            (1, Src::Reg(src)) => Insn::MovSx { width, from: source.pick(&[Size::B, Size::H]), dst, src },
            (_, Src::Imm(imm)) => Insn::Mov { width, dst, src: Src::Imm(nudge(source, imm)) },
            (2, Src::Reg(reg)) => Insn::Mov { width, dst, src: Src::Reg(register(source, reg)) },
            _ => return None,
        },
        // A check that is not made any more, or another one.
        Insn::Jmp { cond, width, dst, src, off } => match (what, src) {
            (0, _) => Insn::Ja { off: if source.chance(1, 2) { 0 } else { off } },
            (1 | 2, _) => Insn::Jmp { cond: near(source, cond), width, dst, src, off },
            (3, _) => Insn::Jmp { cond, width: flip(width), dst, src, off },
            (4, Src::Reg(reg)) => Insn::Jmp { cond, width, dst: reg, src: Src::Reg(dst), off },
            (5, _) => Insn::Jmp { cond, width, dst: register(source, dst), src, off },
            (_, Src::Imm(imm)) => Insn::Jmp { cond, width, dst, src: Src::Imm(nudge(source, imm)), off },
            _ => return None,
        },
        Insn::Load { size, dst, base, off } => match what {
            0..=2 => Insn::Load { size: other(source, &SIZES, size), dst, base, off },
            3 if size != Size::DW => Insn::LoadSx { size, dst, base, off },
            4 => Insn::Load { size, dst, base: register(source, base), off },
            _ => Insn::Load { size, dst, base, off: step(source, off) },
        },
        Insn::LoadSx { size, dst, base, off } => match what {
            0..=2 => Insn::Load { size, dst, base, off },
            _ => Insn::LoadSx { size, dst, base, off: step(source, off) },
        },
        Insn::Store { size, base, off, src } => match what {
            0..=2 => Insn::Store { size: other(source, &SIZES, size), base, off, src },
            3 => Insn::Mov { width: Width::W64, dst: Reg::R0, src: Src::Imm(0) },
            4 => Insn::Store { size, base: register(source, base), off, src },
            _ => Insn::Store { size, base, off: step(source, off), src },
        },
        Insn::Atomic { op, width, base, off, src } => match what {
            0..=3 => Insn::Atomic { op: other(source, &crate::single::ATOMIC_OPS, op), width, base, off, src },
            4 => Insn::Atomic { op, width: flip(width), base, off, src },
            _ => Insn::Atomic { op, width, base, off: step(source, off), src },
        },
        Insn::MovSx { width, from, dst, src } if width == Width::W64 => {
            Insn::MovSx { width, from: other(source, &[Size::B, Size::H, Size::W], from), dst, src }
        }
        Insn::Neg { width, dst } => Insn::Neg { width: flip(width), dst },
        Insn::LoadImm64 { dst, value } => Insn::LoadImm64 { dst, value: immediate(source, value)? },
        _ => return None,
    })
}

fn step(source: &mut Source<'_>, off: i16) -> i16 {
    off.wrapping_add(source.pick(&[1, -1, 1, -1, 2, -2, 4, -4, 8, -8, 256]))
}

fn immediate(source: &mut Source<'_>, value: livebpf::insn::Imm64) -> Option<livebpf::insn::Imm64> {
    use livebpf::insn::Imm64;
    Some(match value {
        Imm64::Const(x) => Imm64::Const(x ^ (1 << source.below(64))),
        Imm64::MapIdxValue { idx, off } => {
            Imm64::MapIdxValue { idx, off: off.wrapping_add_signed(source.pick(&[1, -1, 4, -4, 8, -8])) }
        }
        Imm64::MapIdx(_) => Imm64::MapIdx(source.below(6) as i32),
        _ => return None,
    })
}

/// `program` without the instructions of [from, to): jumps over them keep their targets. `None` where a jump or a call leads
/// into them or a function would be empty. For making a program that shows a mistake smaller.
pub fn without(program: &Program, from: Pc, to: Pc) -> Option<Program> {
    let gone = to.0 - from.0;
    let moved = |pc: Pc| if pc >= to { Pc(pc.0 - gone) } else { pc };
    let mut insns = Insns::default();
    for (pc, insn) in program.insns.iter().filter(|(pc, _)| !(from..to).contains(pc)) {
        let at = moved(pc);
        let new_off = |target: Pc| -> Option<i32> {
            let target = if (from..to).contains(&target) { from } else { moved(target) };
            i32::try_from(i64::from(target.0) - i64::from(at.0) - 1).ok()
        };
        insns.push(match insn {
            Insn::Ja { off } => Insn::Ja { off: new_off(pc.jump(off.into())?)? as i16 },
            Insn::JaL { off } => Insn::JaL { off: new_off(pc.jump(off)?)? },
            Insn::MayGoto { off } => Insn::MayGoto { off: new_off(pc.jump(off.into())?)? as i16 },
            Insn::Jmp { cond, width, dst, src, off } => {
                Insn::Jmp { cond, width, dst, src, off: new_off(pc.jump(off.into())?)? as i16 }
            }
            Insn::CallSubprog { off } => Insn::CallSubprog { off: new_off(pc.jump(off)?)? },
            Insn::LoadImm64 { dst, value: livebpf::insn::Imm64::Func { off } } => {
                Insn::LoadImm64 { dst, value: livebpf::insn::Imm64::Func { off: new_off(pc.jump(off)?)? } }
            }
            other => other,
        });
    }
    let mut subprogs = program.subprogs.clone();
    for sub in &mut subprogs {
        let clamp = |pc: Pc| if (from..to).contains(&pc) { from } else { moved(pc) };
        (sub.start, sub.end) = (clamp(sub.start), clamp(sub.end));
    }
    subprogs.retain(|sub| sub.start < sub.end);
    (!insns.is_empty() && subprogs.first().is_some_and(|s| s.start == Pc(0))).then(|| Program {
        insns,
        subprogs,
        ..program.clone()
    })
}
