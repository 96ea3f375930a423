//! What clang writes with several instructions because BPF has no other way to say it, and what this machine says with one: rotates,
//! and fields that were loaded in two halves; and what is known before the program runs: data that is never written.
//!
//! What the instructions leave behind besides their result must be dead (`InsnFacts::dead`): it is not computed any more.

use super::emit::{Emitter, gpr};
use super::emit_alu::{mem_size, size};
use super::x64::{Mem, Shift};
use crate::insn::{self, AluOp, Imm64, Insn, Pc, Reg, Src, Width};
use crate::object::MapInit;

/// `r op= imm` with its operands.
fn alu_imm(insn: &Insn) -> Option<(AluOp, Width, Reg, i32)> {
    match *insn {
        Insn::Alu { op, width, dst, src: Src::Imm(imm) } => Some((op, width, dst, imm)),
        _ => None,
    }
}

/// A shift to the left or (zero-filling) to the right, with how far the value moves to the right: modulo the width.
fn shift(insn: &Insn) -> Option<(Width, Reg, i32)> {
    let (op, width, dst, imm) = alu_imm(insn)?;
    let bits = bits(width);
    match op {
        AluOp::Rsh if 0 < imm && imm < bits => Some((width, dst, imm)),
        AluOp::Lsh if 0 < imm && imm < bits => Some((width, dst, bits - imm)),
        _ => None,
    }
}

fn bits(width: Width) -> i32 {
    match width {
        Width::W32 => 32,
        Width::W64 => 64,
    }
}

/// Which register is joined to which, where both have no bit in common: `r1 |= r2`, `r1 += r2` and `r1 ^= r2` are the same then.
fn joined(insn: &Insn) -> Option<(Width, Reg, Reg)> {
    match *insn {
        Insn::Alu { op: AluOp::Or | AluOp::Add | AluOp::Xor, width, dst, src: Src::Reg(src) } if src != dst => {
            Some((width, dst, src))
        }
        _ => None,
    }
}

/// One load of memory, as it stands in the program.
#[derive(Clone, Copy)]
struct Part {
    size: insn::Size,
    dst: Reg,
    base: Reg,
    off: i16,
}

fn part(insn: &Insn) -> Option<Part> {
    match *insn {
        Insn::Load { size, dst, base, off } => Some(Part { size, dst, base, off }),
        _ => None,
    }
}

/// The size of two halves of this size.
fn double(half: insn::Size) -> Option<insn::Size> {
    match half {
        insn::Size::B => Some(insn::Size::H),
        insn::Size::H => Some(insn::Size::W),
        insn::Size::W => Some(insn::Size::DW),
        insn::Size::DW => None,
    }
}

impl<'a> Emitter<'a> {
    /// The `N` instructions after the one at `pc`, where all can be compiled as one with it.
    fn following<const N: usize>(&self, pc: Pc, insn: &'a Insn) -> Option<[(Pc, &'a Insn); N]> {
        let mut last = (pc, insn);
        let mut found = [last; N];
        for place in &mut found {
            let next = self.partner(last.0, last.1)?;
            last = (Pc(last.0.0 + last.1.slots()), next);
            *place = last;
        }
        Some(found)
    }

    fn is_dead(&self, pc: Pc, reg: Reg) -> bool {
        self.facts.at(pc).dead >> reg.number() & 1 == 1
    }

    /// A rotate: `r2 = r1; r2 >>= 28; r3 = r1; r3 <<= 4; r3 |= r2` as `rorx r3, r1, 28`, `r2 = r1; r2 >>= 28; r1 <<= 4; r1 |= r2` as
    /// `ror r1, 28`, where r2 is dead then; the shifts in either order. Returns how many slots that took, or 0.
    pub(super) fn emit_rotate(&mut self, pc: Pc, copy: &'a Insn, first: &Insn) -> u32 {
        let Insn::Mov { width, dst: spare, src: Src::Reg(from) } = *copy else { return 0 };
        let Some((first_width, shifted, right)) = shift(first) else { return 0 };
        if (first_width, shifted) != (width, spare) || spare == from {
            return 0;
        }
        let Some([_, (_, a), (b_at, b)]) = self.following::<3>(pc, copy) else { return 0 };
        // In place, or into a copy.
        let (to, second, last_at, last) = match (*a, shift(a)) {
            (_, Some((_, to, _))) if to == from => (to, a, b_at, b),
            (Insn::Mov { width: copied, dst: to, src: Src::Reg(source) }, _)
                if copied == width && source == from && to != spare && to != from =>
            {
                let Some([(last_at, last)]) = self.following::<1>(b_at, b) else { return 0 };
                (to, b, last_at, last)
            }
            _ => return 0,
        };
        let is_rotate = shift(second) == Some((width, to, right)) && is_opposite(first, second);
        if !is_rotate || joined(last) != Some((width, to, spare)) || !self.is_dead(last_at, spare) {
            return 0;
        }
        let (size, right) = (size(width), right as u8);
        match (to == from, self.options.cpu.bmi2) {
            (true, _) => self.asm.shift_ri(Shift::Ror, size, gpr(to), right),
            (false, true) => self.asm.rorx_rri(size, gpr(to), gpr(from), right),
            (false, false) => {
                self.asm.mov_rr(size, gpr(to), gpr(from));
                self.asm.shift_ri(Shift::Ror, size, gpr(to), right);
            }
        }
        last_at.0 + last.slots() - pc.0
    }

    /// Two halves of a field, loaded one by one and put together: `r2 = *(u32 *)(r1 +0); r3 = *(u32 *)(r1 +4); r3 <<= 32; r3 |= r2` as
    /// `mov r3, [r1]` where r2 is dead then; the loads in either order, the shift before or after the second. Returns how many
    /// slots that took, or 0.
    pub(super) fn emit_joined_load(&mut self, pc: Pc, load: &'a Insn, next: &Insn) -> u32 {
        let Some(first) = part(load) else { return 0 };
        if part(next).is_none() && alu_imm(next).is_none_or(|(op, _, dst, _)| (op, dst) != (AluOp::Lsh, first.dst)) {
            return 0;
        }
        let Some([(a_at, a), (b_at, b), (c_at, c)]) = self.following::<3>(pc, load) else { return 0 };
        let (second_at, second, shift) = match (part(a), part(b)) {
            (Some(second), _) => (a_at, second, alu_imm(b)),
            (_, Some(second)) => (b_at, second, alu_imm(a)),
            _ => return 0,
        };
        let (Some((AluOp::Lsh, width, high_in, by)), Some((join_width, to, spare))) = (shift, joined(c)) else {
            return 0;
        };
        let (low, high) = if high_in == first.dst { (second, first) } else { (first, second) };
        let half = high.size;
        let Some(whole) = double(half).filter(|whole| whole.bits() as i32 <= bits(width)) else { return 0 };
        let is_field = low.size == half
            && low.base == high.base
            && i32::from(high.off) - i32::from(low.off) == half.bytes() as i32
            && by == half.bits() as i32
            && high_in == high.dst
            && width == join_width
            && (to, spare) == (high.dst, low.dst);
        // The second is from where the first was, and neither from a context, which lies elsewhere.
        let is_plain =
            first.dst != second.base && [pc, second_at].iter().all(|at| self.facts.at(*at).record().is_none());
        if !is_field || !is_plain || !self.is_dead(c_at, spare) {
            return 0;
        }
        self.emit_zero_extended_load(mem_size(whole), gpr(to), Mem::new(gpr(low.base), low.off.into()));
        c_at.0 + c.slots() - pc.0
    }

    /// A load from frozen data (`.rodata`): `r1 = map[n][0] +4; r2 = *(u32 *)(r1 +8)` as `mov r2, imm`, where r1 is dead then. Returns
    /// how many slots that took, or 0.
    pub(super) fn emit_constant_load(&mut self, pc: Pc, address: &Insn, load: &Insn) -> u32 {
        let Insn::LoadImm64 { dst: pointer, value: Imm64::MapIdxValue { idx, off: start } } = *address else {
            return 0;
        };
        let (size, dst, base, off, signed) = match *load {
            Insn::Load { size, dst, base, off } => (size, dst, base, off, false),
            Insn::LoadSx { size, dst, base, off } => (size, dst, base, off, true),
            _ => return 0,
        };
        let load_at = Pc(pc.0 + address.slots());
        if base != pointer || dst != pointer && !self.is_dead(load_at, pointer) {
            return 0;
        }
        let Ok((_, def)) = self.map(pc, idx.into()) else { return 0 };
        let (true, MapInit::Data(data), 1) = (def.frozen, &def.init, def.max_entries) else { return 0 };
        let bytes = size.bytes() as usize;
        let Some(found) =
            usize::try_from(i64::from(start) + i64::from(off)).ok().and_then(|at| data.get(at..at + bytes))
        else {
            return 0;
        };
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(found);
        let (value, rest) = (u64::from_le_bytes(word), 64 - size.bits());
        let value = if signed { ((value << rest) as i64 >> rest) as u64 } else { value };
        self.emit_const(gpr(dst), value);
        load_at.0 + load.slots() - pc.0
    }
}

/// Whether one moves to the left and the other to the right.
fn is_opposite(a: &Insn, b: &Insn) -> bool {
    let op = |insn: &Insn| alu_imm(insn).map(|(op, ..)| op);
    op(a) != op(b)
}
