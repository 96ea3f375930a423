//! Arithmetic on numbers: what a register can hold after an instruction.
//!
//! [`binary`] contains `x op y` for all members of its operands, as `insn` defines the operation: at 32 bits the
//! result is zero-extended, division by zero gives zero, modulo by zero leaves the (truncated) dividend.

use super::range::{R32, R64};
use super::scalar::Scalar;
use super::tnum::Tnum;
use crate::insn::{AluOp, Width};

/// `a op b`.
pub(super) fn binary(op: AluOp, width: Width, a: &Scalar, b: &Scalar) -> Scalar {
    let bits = if width == Width::W64 { 64 } else { 32 };
    let shift = matches!(op, AluOp::Lsh | AluOp::Rsh | AluOp::Arsh);
    if shift && (if bits == 64 { b.r.umax } else { b.w.umax.into() }) >= bits {
        // The machine masks the amount, other machines may not: nothing is known, as in the kernel.
        return Scalar::unsigned_bits(bits as u32);
    }
    // As in the kernel, a quotient is no constant: there are programs that only hide one so.
    let divides = matches!(op, AluOp::Div | AluOp::SDiv | AluOp::Mod | AluOp::SMod) && b.known() != Some(0);
    if let (Some(x), Some(y), false) = (a.known(), b.known(), divides) {
        return Scalar::constant(evaluate(op, width, x, y));
    }
    match width {
        Width::W64 => binary64(op, a, b),
        Width::W32 => binary32(op, &a.truncate(32), &b.truncate(32)),
    }
}

/// `-a`.
pub(super) fn negate(width: Width, a: &Scalar) -> Scalar {
    binary(AluOp::Sub, width, &Scalar::constant(0), a)
}

/// The operation on two numbers.
pub(super) fn evaluate(op: AluOp, width: Width, x: u64, y: u64) -> u64 {
    match width {
        Width::W64 => evaluate64(op, x, y),
        Width::W32 => evaluate32(op, x as u32, y as u32).into(),
    }
}

fn evaluate64(op: AluOp, x: u64, y: u64) -> u64 {
    let (s, t) = (x as i64, y as i64);
    match op {
        AluOp::Add => x.wrapping_add(y),
        AluOp::Sub => x.wrapping_sub(y),
        AluOp::Mul => x.wrapping_mul(y),
        AluOp::Div => x.checked_div(y).unwrap_or(0),
        AluOp::SDiv => {
            if t == 0 {
                0
            } else {
                s.wrapping_div(t) as u64
            }
        }
        AluOp::Or => x | y,
        AluOp::And => x & y,
        AluOp::Lsh => x.wrapping_shl(y as u32),
        AluOp::Rsh => x.wrapping_shr(y as u32),
        AluOp::Mod => x.checked_rem(y).unwrap_or(x),
        AluOp::SMod => {
            if t == 0 {
                x
            } else {
                s.wrapping_rem(t) as u64
            }
        }
        AluOp::Xor => x ^ y,
        AluOp::Arsh => s.wrapping_shr(y as u32) as u64,
    }
}

fn evaluate32(op: AluOp, x: u32, y: u32) -> u32 {
    let (s, t) = (x as i32, y as i32);
    match op {
        AluOp::Add => x.wrapping_add(y),
        AluOp::Sub => x.wrapping_sub(y),
        AluOp::Mul => x.wrapping_mul(y),
        AluOp::Div => x.checked_div(y).unwrap_or(0),
        AluOp::SDiv => {
            if t == 0 {
                0
            } else {
                s.wrapping_div(t) as u32
            }
        }
        AluOp::Or => x | y,
        AluOp::And => x & y,
        AluOp::Lsh => x.wrapping_shl(y),
        AluOp::Rsh => x.wrapping_shr(y),
        AluOp::Mod => x.checked_rem(y).unwrap_or(x),
        AluOp::SMod => {
            if t == 0 {
                x
            } else {
                s.wrapping_rem(t) as u32
            }
        }
        AluOp::Xor => x ^ y,
        AluOp::Arsh => s.wrapping_shr(y) as u32,
    }
}

/// The amounts a shift can have; they only count for shifts, where they are below the width.
fn amounts(b: &Scalar, bits: u32) -> (u32, u32) {
    let limit = u64::from(bits - 1);
    (b.r.umin.min(limit) as u32, b.r.umax.min(limit) as u32)
}

fn binary64(op: AluOp, a: &Scalar, b: &Scalar) -> Scalar {
    let by = amounts(b, 64);
    let exact = by.0 == by.1;
    let shift = |f: fn(Tnum, u32) -> Tnum| if exact { f(a.bits, by.0) } else { Tnum::UNKNOWN };
    let (t, full, half) = (Tnum::UNKNOWN, R64::FULL, R32::FULL);
    let (bits, r, w) = match op {
        AluOp::Add => (a.bits.add(b.bits), a.r.add(&b.r), a.w.add(&b.w)),
        AluOp::Sub => (a.bits.sub(b.bits), a.r.sub(&b.r), a.w.sub(&b.w)),
        AluOp::Mul => (a.bits.mul(b.bits), a.r.mul(&b.r), a.w.mul(&b.w)),
        AluOp::And => (a.bits.and(b.bits), a.r.and(&b.r), a.w.and(&b.w)),
        AluOp::Or => (a.bits.or(b.bits), a.r.or(&b.r), a.w.or(&b.w)),
        AluOp::Xor => (a.bits.xor(b.bits), full, half),
        AluOp::Div => (t, R64::unsigned(0, a.r.div(&b.r).umax), half),
        AluOp::Mod => (t, R64::unsigned(0, a.r.modulo(&b.r).umax), half),
        AluOp::SDiv | AluOp::SMod => (t, full, half),
        // What compilers write to extend a low half: only that half counts.
        AluOp::Lsh if by == (32, 32) => (shift(Tnum::shl), low_to_high(&a.w), R32::constant(0)),
        AluOp::Lsh => (shift(Tnum::shl), a.r.shl(by), if by.1 < 32 { a.w.shl(by) } else { half }),
        AluOp::Rsh => (shift(Tnum::shr), a.r.shr(by), half),
        AluOp::Arsh => (shift(|t, by| t.sar(by, 64)), a.r.sar(by), half),
    };
    Scalar { bits, r, w }.sync()
}

/// `x << 32`, where `low` is what the low half of `x` can be.
fn low_to_high(low: &R32) -> R64 {
    let unsigned = R64::unsigned(u64::from(low.umin) << 32, u64::from(low.umax) << 32);
    unsigned.intersect(&R64::signed(i64::from(low.smin) << 32, i64::from(low.smax) << 32)).tight()
}

/// On operands that are already zero-extended low halves.
fn binary32(op: AluOp, a: &Scalar, b: &Scalar) -> Scalar {
    let by = amounts(b, 32);
    let exact = by.0 == by.1;
    let shift = |f: fn(Tnum, u32) -> Tnum| if exact { f(a.bits, by.0) } else { Tnum::UNKNOWN };
    let (t, half) = (Tnum::UNKNOWN, R32::FULL);
    let (bits, w) = match op {
        AluOp::Add => (a.bits.add(b.bits), a.w.add(&b.w)),
        AluOp::Sub => (a.bits.sub(b.bits), a.w.sub(&b.w)),
        AluOp::Mul => (a.bits.mul(b.bits), a.w.mul(&b.w)),
        AluOp::And => (a.bits.and(b.bits), a.w.and(&b.w)),
        AluOp::Or => (a.bits.or(b.bits), a.w.or(&b.w)),
        AluOp::Xor => (a.bits.xor(b.bits), half),
        AluOp::Div => (t, R32::unsigned(0, a.w.div(&b.w).umax)),
        AluOp::Mod => (t, R32::unsigned(0, a.w.modulo(&b.w).umax)),
        AluOp::SDiv | AluOp::SMod => (t, half),
        AluOp::Lsh => (shift(Tnum::shl), a.w.shl(by)),
        AluOp::Rsh => (shift(Tnum::shr), a.w.shr(by)),
        AluOp::Arsh => (shift(|t, by| t.sar(by, 32)), a.w.sar(by)),
    };
    Scalar { bits: bits.low(32), r: R64::unsigned(0, u32::MAX.into()), w }.sync()
}

#[cfg(test)]
mod tests {
    use super::super::scalar::tests::{Rng, sample};
    use super::*;

    const OPS: [AluOp; 13] = [
        AluOp::Add,
        AluOp::Sub,
        AluOp::Mul,
        AluOp::Div,
        AluOp::SDiv,
        AluOp::Or,
        AluOp::And,
        AluOp::Lsh,
        AluOp::Rsh,
        AluOp::Mod,
        AluOp::SMod,
        AluOp::Xor,
        AluOp::Arsh,
    ];

    #[test]
    fn results_are_contained() {
        let mut rng = Rng(3);
        for _ in 0..10_000 {
            let ((a, xs), (mut b, mut ys)) = (sample(&mut rng), sample(&mut rng));
            if rng.below(3) == 0 {
                ys = vec![rng.below(64)];
                b = Scalar::constant(ys[0]);
            }
            for op in OPS {
                for width in [Width::W32, Width::W64] {
                    let out = binary(op, width, &a, &b);
                    assert!(!out.is_empty());
                    for &x in &xs {
                        for &y in &ys {
                            let z = evaluate(op, width, x, y);
                            assert!(out.contains(z), "{op:?} {width:?} {x:#x} {y:#x} = {z:#x}\n{a:?}\n{b:?}\n{out:?}");
                        }
                    }
                }
            }
            for width in [Width::W32, Width::W64] {
                let out = negate(width, &a);
                for &x in &xs {
                    assert!(out.contains(evaluate(AluOp::Sub, width, 0, x)));
                }
            }
        }
    }

    #[test]
    fn a_low_half_is_extended_by_two_shifts() {
        let (mut rng, by) = (Rng(11), Scalar::constant(32));
        for _ in 0..20_000 {
            let (a, xs) = sample(&mut rng);
            let up = binary(AluOp::Lsh, Width::W64, &a, &by);
            assert!(xs.iter().all(|x| up.contains(x << 32)));
            let signed = binary(AluOp::Arsh, Width::W64, &up, &by);
            assert!(signed.r.smin >= i64::from(a.w.smin) && signed.r.smax <= i64::from(a.w.smax), "{a:?} {signed:?}");
            let unsigned = binary(AluOp::Rsh, Width::W64, &up, &by);
            assert!(unsigned.r.umin >= a.w.umin.into() && unsigned.r.umax <= a.w.umax.into(), "{a:?} {unsigned:?}");
        }
    }

    #[test]
    fn masking_and_scaling_stay_precise() {
        let index = binary(AluOp::And, Width::W64, &Scalar::UNKNOWN, &Scalar::constant(0x3f));
        assert_eq!((index.r.umin, index.r.umax), (0, 0x3f));
        let scaled = binary(AluOp::Lsh, Width::W64, &index, &Scalar::constant(3));
        assert_eq!((scaled.r.umax, scaled.bits.mask), (0x1f8, 0x1f8));
        let length = binary(AluOp::Lsh, Width::W32, &Scalar::unsigned_bits(8), &Scalar::constant(2));
        let length = binary(AluOp::And, Width::W32, &length, &Scalar::constant(60));
        assert_eq!((length.r.umin, length.r.umax), (0, 60));
    }
}
