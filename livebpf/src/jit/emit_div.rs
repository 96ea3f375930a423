//! Multiplication and division.

use super::emit::{Emitter, gpr};
use super::emit_alu::size;
use super::x64::{Alu, Cc, Gpr, Label, Mem, Scale, Shift, Size};
use crate::insn::{AluOp, Reg, Src, Width};

/// Division by multiplication: for every x below 2^bits, x / divisor = x * multiplier >> shift.
///
/// With multiplier = ceil(2^shift / divisor) the product is too large by x * excess, where excess = multiplier * divisor - 2^shift.
/// That does not reach the next quotient as long as excess <= 2^(shift - bits). (Granlund and Montgomery, "Division by invariant
/// integers using multiplication", 1994, theorem 4.2.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Magic {
    /// At most one bit longer than what is divided.
    multiplier: u128,
    /// `bits` to twice as much.
    shift: u32,
}

impl Magic {
    /// For a divisor above 1 and dividends of 32 or 64 bits; with the least shift that does.
    fn of(divisor: u64, bits: u32) -> Magic {
        let divisor = u128::from(divisor);
        // 2^128 is one more than there is room for.
        let below = |shift: u32| u128::MAX >> (128 - shift);
        let magic = |shift: u32| Magic { multiplier: below(shift) / divisor + 1, shift };
        let excess = |magic: &Magic| magic.multiplier.wrapping_mul(divisor).wrapping_sub(below(magic.shift)) - 1;
        let serves = |magic: &Magic| excess(magic) <= 1 << (magic.shift - bits);
        // 2^(shift - bits) is not below the divisor at the last of these, and the excess always is.
        (bits..=2 * bits).map(magic).find(serves).unwrap_or_else(|| magic(2 * bits))
    }
    /// The multiplier without its highest bit, and whether it has that.
    fn parts(&self, bits: u32) -> (u64, bool) {
        let mask = u128::MAX >> (128 - bits);
        ((self.multiplier & mask) as u64, self.multiplier > mask)
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
            Src::Imm(imm) if matches!(op, AluOp::Div | AluOp::Mod) => match width {
                Width::W32 => self.emit_div_multiplying(op, r, imm as u32),
                Width::W64 => self.emit_div_multiplying_64(op, r, imm),
            },
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
        let magic = Magic::of(divisor.into(), 32);
        let ((multiplier, is_long), shift) = (magic.parts(32), magic.shift as u8);
        self.asm.mov_ri32(Gpr::R11, multiplier as u32);
        self.asm.mov_rr(Size::D, Gpr::R10, dst);
        self.asm.imul_rr(Size::Q, Gpr::R11, Gpr::R10);
        if is_long {
            self.asm.shift_ri(Shift::Shr, Size::Q, Gpr::R11, 32);
            self.asm.alu_rr(Alu::Add, Size::Q, Gpr::R11, Gpr::R10);
            self.asm.shift_ri(Shift::Shr, Size::Q, Gpr::R11, shift - 32);
        } else {
            self.asm.shift_ri(Shift::Shr, Size::Q, Gpr::R11, shift);
        }
        if op == AluOp::Div {
            self.asm.mov_rr(Size::D, dst, Gpr::R11);
        } else {
            self.asm.imul_rri(Size::D, Gpr::R11, Gpr::R11, divisor as i32);
            self.asm.alu_rr(Alu::Sub, Size::D, dst, Gpr::R11);
        }
    }

    /// The same of 64 bits, by a constant that is sign-extended:
    ///
    /// ```text
    /// mov  r10, rax ; mov r9, rdx
    /// mov  rax, dst                 not when it is there
    /// mov  r11, multiplier
    /// mul  r11
    /// mov  r11, rdx                 with a multiplier of 65 bits: mov r11, x ; sub r11, rdx ; shr r11, 1 ; add r11, rdx
    /// shr  r11, shift - 64          with one of 65 bits: shr r11, shift - 65
    /// mov  rax, r10 ; mov rdx, r9
    /// mov  dst, r11                 modulo: imul r11, r11, divisor ; sub dst, r11
    /// ```
    fn emit_div_multiplying_64(&mut self, op: AluOp, dst: Gpr, divisor: i32) {
        let magic = Magic::of(i64::from(divisor) as u64, 64);
        let ((multiplier, is_long), shift) = (magic.parts(64), magic.shift as u8 - 64);
        self.asm.mov_rr(Size::Q, Gpr::R10, Gpr::Rax);
        self.asm.mov_rr(Size::Q, Gpr::R9, Gpr::Rdx);
        if dst != Gpr::Rax {
            self.asm.mov_rr(Size::Q, Gpr::Rax, dst);
        }
        self.emit_const(Gpr::R11, multiplier);
        self.asm.mul(Size::Q, Gpr::R11);
        let mut left = shift;
        if is_long {
            let x = match dst {
                Gpr::Rax => Gpr::R10,
                Gpr::Rdx => Gpr::R9,
                other => other,
            };
            self.asm.mov_rr(Size::Q, Gpr::R11, x);
            self.asm.alu_rr(Alu::Sub, Size::Q, Gpr::R11, Gpr::Rdx);
            self.asm.shift_ri(Shift::Shr, Size::Q, Gpr::R11, 1);
            self.asm.alu_rr(Alu::Add, Size::Q, Gpr::R11, Gpr::Rdx);
            left -= 1;
        } else {
            self.asm.mov_rr(Size::Q, Gpr::R11, Gpr::Rdx);
        }
        if left > 0 {
            self.asm.shift_ri(Shift::Shr, Size::Q, Gpr::R11, left);
        }
        self.asm.mov_rr(Size::Q, Gpr::Rax, Gpr::R10);
        self.asm.mov_rr(Size::Q, Gpr::Rdx, Gpr::R9);
        if op == AluOp::Div {
            self.asm.mov_rr(Size::Q, dst, Gpr::R11);
        } else {
            self.asm.imul_rri(Size::Q, Gpr::R11, Gpr::R11, divisor);
            self.asm.alu_rr(Alu::Sub, Size::Q, dst, Gpr::R11);
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

    /// Numbers of all lengths.
    fn numbers() -> impl FnMut() -> u64 {
        let mut seed = 1u64;
        move || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let word = (seed ^ seed >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            word >> (seed >> 58)
        }
    }

    /// The quotient of `bits` bits, as it is computed: nothing is lost in 64 bits.
    fn quotient(x: u64, magic: Magic, bits: u32) -> u64 {
        let (multiplier, is_long) = magic.parts(bits);
        let high = ((u128::from(x) * u128::from(multiplier)) >> bits) as u64;
        match (is_long, bits) {
            (false, _) => high >> (magic.shift - bits),
            (true, 32) => (high + x) >> (magic.shift - 32),
            (true, _) => (((x - high) >> 1) + high) >> (magic.shift - bits - 1),
        }
    }

    fn check(bits: u32, divisors: impl Iterator<Item = u64>) -> u32 {
        let (mut random, mut long) = (numbers(), 0);
        let most = u64::MAX >> (64 - bits);
        for divisor in divisors {
            let magic = Magic::of(divisor, bits);
            assert!(magic.multiplier >> bits < 2 && (bits..=2 * bits).contains(&magic.shift), "{divisor}: {magic:?}");
            long += u32::from(magic.parts(bits).1);
            let near = (most / divisor).wrapping_mul(divisor);
            for x in [0, 1, divisor - 1, divisor, near, near.wrapping_sub(1) & most, most, random(), random()] {
                let x = x & most;
                assert_eq!(quotient(x, magic, bits), x / divisor, "{x} / {divisor}: {magic:?}");
            }
        }
        long
    }

    #[test]
    fn a_product_is_the_quotient() {
        let corners = [7, 65_535, 65_537, u32::MAX, u32::MAX - 1, 1 << 31, (1 << 31) + 1].map(u64::from);
        let mut random = numbers();
        let narrow: Vec<u64> =
            (2..2000).chain(corners).chain((0..20_000).map(|_| random() & 0xffff_ffff).filter(|d| *d > 1)).collect();
        assert!(check(32, narrow.iter().copied()) > 1000, "some divisors have a multiplier of 33 bits");
        // An immediate of 32 bits that is sign-extended.
        let wide = narrow.iter().map(|divisor| *divisor as u32 as i32 as i64 as u64);
        assert!(check(64, wide) > 1000, "some divisors have a multiplier of 65 bits");
    }
}
