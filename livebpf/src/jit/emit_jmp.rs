//! Jumps.

use super::emit::{Emitter, gpr};
use super::emit_alu::size;
use super::options::JitError;
use super::plan;
use super::x64::{Alu, Cc, Gpr, Mem, Size};
use crate::insn::{AluOp, Cond, Insn, Pc, Reg, Src, Width};

/// The condition after `cmp dst, src` (`test` for [`Cond::Set`]).
const fn cc(cond: Cond) -> Cc {
    match cond {
        Cond::Eq => Cc::E,
        Cond::Ne | Cond::Set => Cc::Ne,
        Cond::Gt => Cc::A,
        Cond::Ge => Cc::Ae,
        Cond::Lt => Cc::B,
        Cond::Le => Cc::Be,
        Cond::Sgt => Cc::G,
        Cond::Sge => Cc::Ge,
        Cond::Slt => Cc::L,
        Cond::Sle => Cc::Le,
    }
}

/// Whether what the operation is compiled to says if the result is zero.
fn sets_zero_flag(op: AluOp, width: Width, src: Src) -> bool {
    let bits = if width == Width::W64 { 63 } else { 31 };
    match (op, src) {
        (AluOp::Add | AluOp::Sub | AluOp::Or | AluOp::Xor, Src::Imm(imm)) => imm != 0,
        (AluOp::And, Src::Imm(imm)) => !matches!(imm, -1 | 0xff | 0xffff),
        (AluOp::Add | AluOp::Sub | AluOp::Or | AluOp::Xor | AluOp::And, Src::Reg(_)) => true,
        (AluOp::Lsh | AluOp::Rsh | AluOp::Arsh, Src::Imm(imm)) => imm & bits != 0,
        _ => false,
    }
}

impl Emitter<'_> {
    /// `jmp target`; nothing when the target comes next.
    pub(super) fn emit_ja(&mut self, pc: Pc, insn: &Insn) -> Result<(), JitError> {
        if let Some(off) = plan::taken(self.facts, pc, insn) {
            let target = self.target(pc, off)?;
            self.asm.jmp(target);
        }
        Ok(())
    }

    /// ```text
    /// dec qword [rbp - n]
    /// js  target
    /// ```
    pub(super) fn emit_may_goto(&mut self, pc: Pc, insn: &Insn) -> Result<(), JitError> {
        if let (Some(off), Some(counter)) = (plan::taken(self.facts, pc, insn), self.frame.may_goto) {
            let target = self.target(pc, off)?;
            self.asm.dec_m(Size::Q, Mem::new(Gpr::Rbp, counter));
            self.asm.jcc(Cc::S, target);
        }
        Ok(())
    }

    /// `cmp dst, src ; jcc target`; only the jump behind an operation that has set the flag. With 0 `test dst, dst`; `&` is
    /// `test dst, src`. A branch with one outcome is `jmp target` or nothing.
    pub(super) fn emit_cond_jmp(
        &mut self,
        pc: Pc,
        insn: &Insn,
        cond: Cond,
        width: Width,
        dst: Reg,
        src: Src,
    ) -> Result<(), JitError> {
        let Some(off) = plan::taken(self.facts, pc, insn) else { return Ok(()) };
        let target = self.target(pc, off)?;
        if self.facts.at(pc).always() == Some(true) {
            self.asm.jmp(target);
            return Ok(());
        }
        if !self.is_flag_set(pc, cond, (width, dst, src)) {
            self.emit_cmp(cond, size(width), gpr(dst), src);
        }
        self.asm.jcc(cc(cond), target);
        Ok(())
    }

    /// Whether the operation before the comparison has set the flag that it asks for: `r += n; if r != 0` (and `-=`, `&=`, `|=`, `^=`,
    /// shifts, `==`).
    fn is_flag_set(&self, pc: Pc, cond: Cond, compared: (Width, Reg, Src)) -> bool {
        let (Cond::Eq | Cond::Ne, (width, dst, Src::Imm(0))) = (cond, compared) else { return false };
        match self.emitted_before(pc) {
            Some(&Insn::Alu { op, width: set, dst: to, src }) => {
                (set, to) == (width, dst) && sets_zero_flag(op, width, src)
            }
            _ => false,
        }
    }

    fn emit_cmp(&mut self, cond: Cond, size: Size, dst: Gpr, src: Src) {
        match (cond, src) {
            (_, Src::Imm(imm)) if self.blinds() => {
                self.emit_blinded_const(size, Gpr::R11, imm);
                match cond {
                    Cond::Set => self.asm.test_rr(size, dst, Gpr::R11),
                    _ => self.asm.alu_rr(Alu::Cmp, size, dst, Gpr::R11),
                }
            }
            (Cond::Set, Src::Reg(src)) => self.asm.test_rr(size, dst, gpr(src)),
            // Only whether the result is zero matters, so upper bits that the mask clears need not be looked at.
            (Cond::Set, Src::Imm(imm)) => match imm {
                0..=0xff => self.asm.test_ri(Size::B, dst, imm),
                0x100.. => self.asm.test_ri(Size::D, dst, imm),
                _ => self.asm.test_ri(size, dst, imm),
            },
            (_, Src::Reg(src)) => self.asm.alu_rr(Alu::Cmp, size, dst, gpr(src)),
            (_, Src::Imm(0)) => self.asm.test_rr(size, dst, dst),
            (_, Src::Imm(imm)) => self.asm.alu_ri(Alu::Cmp, size, dst, imm),
        }
    }
}
