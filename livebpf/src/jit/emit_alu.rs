//! Moves and arithmetic, except multiplication and division.

use super::emit::{Emitter, gpr};
use super::x64::{Alu, Gpr, Mem, Scale, Shift, Size};
use crate::insn::{self, AluOp, EndianOp, Insn, Reg, Src, Width};

/// The operand size of a width.
pub(super) const fn size(width: Width) -> Size {
    match width {
        Width::W32 => Size::D,
        Width::W64 => Size::Q,
    }
}

/// The operand size of a memory access.
pub(super) const fn mem_size(size: insn::Size) -> Size {
    match size {
        insn::Size::B => Size::B,
        insn::Size::H => Size::W,
        insn::Size::W => Size::D,
        insn::Size::DW => Size::Q,
    }
}

/// `r1 = r2; r1 += r3` (or a constant) as an address, with its width and r1.
#[inline]
pub(super) fn sum_of(mov: &Insn, add: &Insn) -> Option<(Width, Reg, Mem)> {
    let (Insn::Mov { width, dst, src: Src::Reg(base) }, Insn::Alu { op, width: add_width, dst: add_dst, src }) =
        (*mov, *add)
    else {
        return None;
    };
    if width != add_width || dst != add_dst || dst == base {
        return None;
    }
    let sum = match (op, src) {
        (AluOp::Add, Src::Imm(imm)) => Mem::new(gpr(base), imm),
        (AluOp::Sub, Src::Imm(imm)) => Mem::new(gpr(base), imm.checked_neg()?),
        // What is added is r1, which is r2 by now.
        (AluOp::Add, Src::Reg(other)) => {
            Mem::indexed(gpr(base), gpr(if other == dst { base } else { other }), Scale::X1)
        }
        _ => return None,
    };
    Some((width, dst, sum))
}

impl Emitter<'_> {
    /// The shortest way to a constant: `xor r32, r32`, `mov r32, imm32`, `mov r64, simm32` or `mov r64, imm64`.
    pub(super) fn emit_const(&mut self, dst: Gpr, value: u64) {
        if value == 0 {
            self.asm.alu_rr(Alu::Xor, Size::D, dst, dst);
        } else if let Ok(v) = u32::try_from(value) {
            self.asm.mov_ri32(dst, v);
        } else if let Ok(v) = i32::try_from(value as i64) {
            self.asm.mov_ri_sx(dst, v);
        } else {
            self.asm.mov_ri64(dst, value);
        }
    }

    /// `mov dst, src`; at 64 bits nothing for a register into itself, at 32 bits the upper half becomes zero.
    pub(super) fn emit_mov(&mut self, width: Width, dst: Reg, src: Src) {
        match (width, src) {
            (_, Src::Reg(src)) if width == Width::W32 || src != dst => {
                self.asm.mov_rr(size(width), gpr(dst), gpr(src));
            }
            (_, Src::Reg(_)) => {}
            (_, Src::Imm(imm)) if self.blinds() => self.emit_blinded_const(size(width), gpr(dst), imm),
            (Width::W32, Src::Imm(imm)) => self.emit_const(gpr(dst), u64::from(imm as u32)),
            (Width::W64, Src::Imm(imm)) => self.emit_const(gpr(dst), imm as i64 as u64),
        }
    }

    /// `r1 = r2; r1 += imm` as `lea r1, [r2 + imm]`, with a register `lea r1, [r2 + r3]`. Returns whether it was that.
    pub(super) fn emit_mov_add(&mut self, mov: &Insn, add: &Insn) -> bool {
        let Some((width, dst, sum)) = sum_of(mov, add) else { return false };
        self.asm.lea(size(width), gpr(dst), sum);
        true
    }

    /// `r <<= n; r >>= n` (`s>>=`) with n of 32, 48, 56: a zero (sign) extension. Returns whether it was that.
    pub(super) fn emit_shift_pair(&mut self, left: &Insn, right: &Insn) -> bool {
        let (
            Insn::Alu { op: AluOp::Lsh, width: Width::W64, dst, src: Src::Imm(n) },
            Insn::Alu { op, width: Width::W64, dst: right_dst, src: Src::Imm(right_n) },
        ) = (*left, *right)
        else {
            return false;
        };
        let from = match n {
            32 => Size::D,
            48 => Size::W,
            56 => Size::B,
            _ => return false,
        };
        if dst != right_dst || n != right_n {
            return false;
        }
        let r = gpr(dst);
        match (op, from) {
            (AluOp::Rsh, Size::D) => self.asm.mov_rr(Size::D, r, r),
            (AluOp::Rsh, _) => self.asm.movzx_rr(from, r, r),
            (AluOp::Arsh, _) => self.asm.movsx_rr(Size::Q, from, r, r),
            _ => return false,
        }
        true
    }

    /// `movsx dst, src`
    pub(super) fn emit_movsx(&mut self, width: Width, from: insn::Size, dst: Reg, src: Reg) {
        match (width, mem_size(from)) {
            (_, Size::Q) | (Width::W32, Size::D) => self.emit_mov(width, dst, Src::Reg(src)),
            (_, from) => self.asm.movsx_rr(size(width), from, gpr(dst), gpr(src)),
        }
    }

    /// `neg dst`
    pub(super) fn emit_neg(&mut self, width: Width, dst: Reg) {
        self.asm.neg(size(width), gpr(dst));
    }

    /// To big endian and unconditional: `bswap`, for 16 bits followed by `shr r32, 16`. To little endian: truncation.
    pub(super) fn emit_endian(&mut self, op: EndianOp, size: insn::Size, dst: Reg) {
        let r = gpr(dst);
        match (op, mem_size(size)) {
            (EndianOp::ToLe, Size::Q) => {}
            (EndianOp::ToLe, Size::D) => self.asm.mov_rr(Size::D, r, r),
            (EndianOp::ToLe, from) => self.asm.movzx_rr(from, r, r),
            (_, Size::Q) => self.asm.bswap(Size::Q, r),
            (_, Size::D) => self.asm.bswap(Size::D, r),
            (_, _) => {
                self.asm.bswap(Size::D, r);
                self.asm.shift_ri(Shift::Shr, Size::D, r, 16);
            }
        }
    }

    /// Two-operand arithmetic. Shifts, multiplication and division have their own functions; the others are one
    /// instruction of the same name.
    pub(super) fn emit_alu(&mut self, op: AluOp, width: Width, dst: Reg, src: Src) {
        match op {
            AluOp::Add => self.emit_simple_alu(Alu::Add, width, dst, src),
            AluOp::Sub => self.emit_simple_alu(Alu::Sub, width, dst, src),
            AluOp::Or => self.emit_simple_alu(Alu::Or, width, dst, src),
            AluOp::And => self.emit_simple_alu(Alu::And, width, dst, src),
            AluOp::Xor => self.emit_simple_alu(Alu::Xor, width, dst, src),
            AluOp::Lsh => self.emit_shift(Shift::Shl, width, dst, src),
            AluOp::Rsh => self.emit_shift(Shift::Shr, width, dst, src),
            AluOp::Arsh => self.emit_shift(Shift::Sar, width, dst, src),
            AluOp::Mul => self.emit_mul(width, dst, src),
            AluOp::Div | AluOp::Mod | AluOp::SDiv | AluOp::SMod => self.emit_div(op, width, dst, src),
        }
    }

    fn emit_simple_alu(&mut self, op: Alu, width: Width, dst: Reg, src: Src) {
        let r = gpr(dst);
        match src {
            // Zero, and the narrower form says so.
            Src::Reg(src) if src == dst && matches!(op, Alu::Xor | Alu::Sub) => {
                self.asm.alu_rr(Alu::Xor, Size::D, r, r);
            }
            Src::Reg(src) => self.asm.alu_rr(op, size(width), r, gpr(src)),
            Src::Imm(imm) if self.blinds() => {
                self.emit_blinded_const(size(width), Gpr::R11, imm);
                self.asm.alu_rr(op, size(width), r, Gpr::R11);
            }
            Src::Imm(imm) => self.emit_alu_imm(op, size(width), r, imm),
        }
    }

    /// `op r, imm` in its shortest form: `inc`, `dec`, `movzx`, an imm8 of the opposite sign, or nothing.
    pub(super) fn emit_alu_imm(&mut self, op: Alu, size: Size, r: Gpr, imm: i32) {
        match (op, imm) {
            (Alu::Add | Alu::Sub | Alu::Or | Alu::Xor, 0) | (Alu::And, -1) => {
                if size == Size::D {
                    self.asm.mov_rr(Size::D, r, r);
                }
            }
            (Alu::Add, 1) | (Alu::Sub, -1) => self.asm.inc(size, r),
            (Alu::Add, -1) | (Alu::Sub, 1) => self.asm.dec(size, r),
            (Alu::Add, 128) => self.asm.alu_ri(Alu::Sub, size, r, -128),
            (Alu::Sub, 128) => self.asm.alu_ri(Alu::Add, size, r, -128),
            (Alu::And, 0) => self.asm.alu_rr(Alu::Xor, Size::D, r, r),
            (Alu::And, 0xff) => self.asm.movzx_rr(Size::B, r, r),
            (Alu::And, 0xffff) => self.asm.movzx_rr(Size::W, r, r),
            (Alu::And, 1..) => self.asm.alu_ri(op, Size::D, r, imm),
            _ => self.asm.alu_ri(op, size, r, imm),
        }
    }

    fn emit_shift(&mut self, op: Shift, width: Width, dst: Reg, src: Src) {
        let (size, r) = (size(width), gpr(dst));
        match src {
            Src::Imm(imm) => {
                let bits = if size == Size::Q { 63 } else { 31 };
                match (imm & bits) as u8 {
                    0 if size == Size::D => self.asm.mov_rr(Size::D, r, r),
                    0 => {}
                    n => self.asm.shift_ri(op, size, r, n),
                }
            }
            Src::Reg(src) if self.options.cpu.bmi2 => self.asm.shiftx_rrr(op, size, r, r, gpr(src)),
            Src::Reg(src) => self.emit_shift_cl(op, size, r, gpr(src)),
        }
    }

    /// A shift by a register without BMI2. The count has to be in cl, and rcx is R4:
    ///
    /// ```text
    /// src is rcx:  shl dst, cl
    /// otherwise:   mov r10, rcx ; mov ecx, src ; shl dst, cl ; mov rcx, r10      (dst is not rcx)
    ///              mov r10, rcx ; mov ecx, src ; shl r10, cl ; mov rcx, r10      (dst is rcx)
    /// ```
    fn emit_shift_cl(&mut self, op: Shift, size: Size, dst: Gpr, src: Gpr) {
        if src == Gpr::Rcx {
            self.asm.shift_rcl(op, size, dst);
            return;
        }
        self.asm.mov_rr(Size::Q, Gpr::R10, Gpr::Rcx);
        self.asm.mov_rr(Size::D, Gpr::Rcx, src);
        self.asm.shift_rcl(op, size, if dst == Gpr::Rcx { Gpr::R10 } else { dst });
        self.asm.mov_rr(Size::Q, Gpr::Rcx, Gpr::R10);
    }
}
