//! Multiplication and division.

use super::emit::{Emitter, gpr};
use super::emit_alu::size;
use super::x64::{Alu, Cc, Gpr, Label, Mem, Scale, Shift, Size};
use crate::insn::{AluOp, Reg, Src, Width};

impl Emitter<'_> {
    /// `imul dst, src`; by a constant `lea`, `shl` or `imul dst, dst, imm`.
    pub(super) fn emit_mul(&mut self, width: Width, dst: Reg, src: Src) {
        let (size, r) = (size(width), gpr(dst));
        let imm = match src {
            Src::Reg(src) => return self.asm.imul_rr(size, r, gpr(src)),
            Src::Imm(imm) if self.blinds() => {
                self.emit_blinded_const(size, Gpr::R11, imm);
                return self.asm.imul_rr(size, r, Gpr::R11);
            }
            Src::Imm(imm) => imm,
        };
        match imm {
            0 => self.asm.alu_rr(Alu::Xor, Size::D, r, r),
            1 if size == Size::D => self.asm.mov_rr(Size::D, r, r),
            1 => {}
            3 => self.asm.lea(size, r, Mem::indexed(r, r, Scale::X2)),
            5 => self.asm.lea(size, r, Mem::indexed(r, r, Scale::X4)),
            9 => self.asm.lea(size, r, Mem::indexed(r, r, Scale::X8)),
            2.. if imm.count_ones() == 1 => self.asm.shift_ri(Shift::Shl, size, r, imm.trailing_zeros() as u8),
            _ => self.asm.imul_rri(size, r, r, imm),
        }
    }

    /// Division and modulo. By zero: 0, and the dividend; the least number by −1: itself, and 0.
    pub(super) fn emit_div(&mut self, op: AluOp, width: Width, dst: Reg, src: Src) {
        let (size, r) = (size(width), gpr(dst));
        match src {
            Src::Imm(imm) if self.blinds() => {
                self.emit_blinded_const(size, Gpr::R11, imm);
                self.emit_div_checked(op, size, r, Gpr::R11);
            }
            Src::Imm(imm) if self.emit_div_simple(op, size, r, imm) => {}
            Src::Imm(imm) => {
                if size == Size::Q {
                    self.emit_const(Gpr::R11, imm as i64 as u64);
                } else {
                    self.asm.mov_ri32(Gpr::R11, imm as u32);
                }
                self.emit_div_core(op, size, r, Gpr::R11);
            }
            Src::Reg(src) => self.emit_div_checked(op, size, r, gpr(src)),
        }
    }

    /// Divisors that need no division: 0, 1, −1 and, unsigned, powers of two. Returns whether it was one.
    fn emit_div_simple(&mut self, op: AluOp, size: Size, r: Gpr, imm: i32) -> bool {
        let signed = matches!(op, AluOp::SDiv | AluOp::SMod);
        let quotient = matches!(op, AluOp::Div | AluOp::SDiv);
        match (quotient, imm) {
            (true, 0) | (false, 1) => self.asm.alu_rr(Alu::Xor, Size::D, r, r),
            (true, 1) | (false, 0) => {
                if size == Size::D {
                    self.asm.mov_rr(Size::D, r, r);
                }
            }
            (true, -1) if signed => self.asm.neg(size, r),
            (false, -1) if signed => self.asm.alu_rr(Alu::Xor, Size::D, r, r),
            (true, 2..) if !signed && imm.count_ones() == 1 => {
                self.asm.shift_ri(Shift::Shr, size, r, imm.trailing_zeros() as u8);
            }
            (false, 2..) if !signed && imm.count_ones() == 1 => self.emit_alu_imm(Alu::And, Size::D, r, imm - 1),
            _ => return false,
        }
        true
    }

    /// Division by a register:
    ///
    /// ```text
    ///            mov  r11, src           only when src is rax or rdx
    ///            test src, src ; jz zero
    ///            cmp  src, -1 ; je minus      signed only
    ///            ... division ...
    ///            jmp  done
    /// minus:     neg  dst                modulo: xor dst, dst
    ///            jmp  done
    /// zero:      xor  dst, dst           modulo: mov dst32, dst32 at 32 bits, nothing at 64
    /// done:
    /// ```
    fn emit_div_checked(&mut self, op: AluOp, size: Size, dst: Gpr, src: Gpr) {
        let quotient = matches!(op, AluOp::Div | AluOp::SDiv);
        let divisor = if matches!(src, Gpr::Rax | Gpr::Rdx) {
            self.asm.mov_rr(size, Gpr::R11, src);
            Gpr::R11
        } else {
            src
        };
        let (zero, minus, done) = (self.asm.new_label(), self.asm.new_label(), self.asm.new_label());
        self.asm.test_rr(size, divisor, divisor);
        self.asm.jcc(Cc::E, zero);
        if matches!(op, AluOp::SDiv | AluOp::SMod) {
            self.asm.alu_ri(Alu::Cmp, size, divisor, -1);
            self.asm.jcc(Cc::E, minus);
        }
        self.emit_div_core(op, size, dst, divisor);
        self.asm.jmp(done);
        self.emit_div_minus_one(op, size, dst, minus, done);
        self.asm.bind(zero);
        if quotient {
            self.asm.alu_rr(Alu::Xor, Size::D, dst, dst);
        } else if size == Size::D {
            self.asm.mov_rr(Size::D, dst, dst);
        }
        self.asm.bind(done);
    }

    fn emit_div_minus_one(&mut self, op: AluOp, size: Size, dst: Gpr, minus: Label, done: Label) {
        self.asm.bind(minus);
        match op {
            AluOp::SDiv => self.asm.neg(size, dst),
            AluOp::SMod => self.asm.alu_rr(Alu::Xor, Size::D, dst, dst),
            _ => return,
        }
        self.asm.jmp(done);
    }

    /// The division itself, by a divisor that is neither 0 nor (signed) −1 and not in rax or rdx:
    ///
    /// ```text
    /// mov r10, rax ; mov r9, rdx        those that are not dst
    /// mov rax, dst
    /// xor edx, edx ; div divisor        signed: cqo ; idiv divisor
    /// mov dst, rax                      modulo: rdx
    /// mov rax, r10 ; mov rdx, r9
    /// ```
    fn emit_div_core(&mut self, op: AluOp, size: Size, dst: Gpr, divisor: Gpr) {
        let (save_rax, save_rdx) = (dst != Gpr::Rax, dst != Gpr::Rdx);
        if save_rax {
            self.asm.mov_rr(Size::Q, Gpr::R10, Gpr::Rax);
            self.asm.mov_rr(size, Gpr::Rax, dst);
        }
        if save_rdx {
            self.asm.mov_rr(Size::Q, Gpr::R9, Gpr::Rdx);
        }
        if matches!(op, AluOp::SDiv | AluOp::SMod) {
            self.asm.sign_rax_to_rdx(size);
            self.asm.idiv(size, divisor);
        } else {
            self.asm.alu_rr(Alu::Xor, Size::D, Gpr::Rdx, Gpr::Rdx);
            self.asm.div(size, divisor);
        }
        let result = if matches!(op, AluOp::Div | AluOp::SDiv) { Gpr::Rax } else { Gpr::Rdx };
        if result != dst {
            self.asm.mov_rr(size, dst, result);
        }
        if save_rax {
            self.asm.mov_rr(Size::Q, Gpr::Rax, Gpr::R10);
        }
        if save_rdx {
            self.asm.mov_rr(Size::Q, Gpr::Rdx, Gpr::R9);
        }
    }
}
