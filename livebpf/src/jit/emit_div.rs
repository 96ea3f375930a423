//! Multiplication and division.

use super::emit::{Emitter, gpr};
use super::emit_alu::size;
use super::x64::{Alu, Cc, Gpr, Label, Mem, Scale, Shift, Size};
use crate::insn::{AluOp, Reg, Src, Width};

/// Division by multiplication: for every x below 2^32, x / divisor = x * multiplier >> shift.
///
/// With multiplier = ceil(2^shift / divisor) the product is too large by x * excess, where excess = multiplier * divisor - 2^shift.
/// That does not reach the next quotient as long as excess <= 2^(shift - 32). (Granlund and Montgomery, "Division by invariant
/// integers using multiplication", 1994, theorem 4.2.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Magic {
    /// Below 2^33.
    multiplier: u64,
    /// 32 to 64.
    shift: u8,
}

impl Magic {
    /// For a divisor above 1; with the least shift that does.
    fn of(divisor: u32) -> Magic {
        let divisor = u128::from(divisor);
        let magic = |shift: u8| ((1u128 << shift).div_ceil(divisor), shift);
        let serves = |(multiplier, shift): &(u128, u8)| multiplier * divisor - (1 << *shift) <= 1 << (*shift - 32);
        // 2^(shift - 32) is not below the divisor at the last of these, and the excess always is.
        let (multiplier, shift) = (32..=64).map(magic).find(serves).unwrap_or_else(|| magic(64));
        Magic { multiplier: multiplier as u64, shift }
    }
}

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
            Src::Imm(imm) if size == Size::D && matches!(op, AluOp::Div | AluOp::Mod) => {
                self.emit_div_multiplying(op, r, imm as u32);
            }
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

    /// Unsigned division of 32 bits by a constant that is neither 0 nor a power of two, without a division (see [`Magic`]):
    ///
    /// ```text
    /// mov  r11d, multiplier
    /// mov  r10d, dst
    /// imul r11, r10
    /// shr  r11, shift               with a multiplier of 33 bits: shr r11, 32 ; add r11, r10 ; shr r11, shift - 32
    /// mov  dst, r11d                modulo: imul r11d, r11d, divisor ; sub dst, r11d
    /// ```
    fn emit_div_multiplying(&mut self, op: AluOp, dst: Gpr, divisor: u32) {
        let Magic { multiplier, shift } = Magic::of(divisor);
        self.asm.mov_ri32(Gpr::R11, multiplier as u32);
        self.asm.mov_rr(Size::D, Gpr::R10, dst);
        self.asm.imul_rr(Size::Q, Gpr::R11, Gpr::R10);
        if multiplier <= u32::MAX.into() {
            self.asm.shift_ri(Shift::Shr, Size::Q, Gpr::R11, shift);
        } else {
            self.asm.shift_ri(Shift::Shr, Size::Q, Gpr::R11, 32);
            self.asm.alu_rr(Alu::Add, Size::Q, Gpr::R11, Gpr::R10);
            self.asm.shift_ri(Shift::Shr, Size::Q, Gpr::R11, shift - 32);
        }
        if op == AluOp::Div {
            self.asm.mov_rr(Size::D, dst, Gpr::R11);
        } else {
            self.asm.imul_rri(Size::D, Gpr::R11, Gpr::R11, divisor as i32);
            self.asm.alu_rr(Alu::Sub, Size::D, dst, Gpr::R11);
        }
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

#[cfg(test)]
mod tests {
    use super::Magic;

    #[test]
    fn a_product_is_the_quotient() {
        let mut seed = 1u64;
        let mut random = || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let bits = seed >> 59;
            (seed >> 27) as u32 >> bits
        };
        let mut long = 0;
        let corners = [7, 65_535, 65_537, u32::MAX, u32::MAX - 1, 1 << 31, (1 << 31) + 1];
        let divisors: Vec<u32> = (2..2000).chain(corners).chain((0..20_000).map(|_| random().max(2))).collect();
        for divisor in divisors {
            let Magic { multiplier, shift } = Magic::of(divisor);
            assert!(multiplier < 1 << 33 && (32..=64).contains(&shift), "{divisor}: {multiplier:#x} >> {shift}");
            long += u32::from(multiplier >> 32 != 0);
            let near = (u32::MAX / divisor).wrapping_mul(divisor);
            for x in [0, 1, divisor - 1, divisor, near, near.wrapping_sub(1), u32::MAX, random(), random()] {
                let quotient = ((u128::from(x) * u128::from(multiplier)) >> shift) as u32;
                assert_eq!(quotient, x / divisor, "{x} / {divisor}");
                if multiplier >> 32 != 0 {
                    // As it is computed: nothing is lost in 64 bits.
                    let high = (u64::from(x) * (multiplier & 0xffff_ffff)) >> 32;
                    assert_eq!(((high + u64::from(x)) >> (shift - 32)) as u32, x / divisor, "{x} / {divisor}");
                }
            }
        }
        assert!(long > 1000, "{long} divisors have a multiplier of 33 bits");
    }
}
