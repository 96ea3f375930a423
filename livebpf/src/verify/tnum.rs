//! Tracked numbers: which bits of a 64-bit value are known.
//!
//! Guarantee of every operation: when `x` is in `a` and `y` in `b`, `x op y` is in `a op b`. Follows "Sound,
//! Precise, and Fast Abstract Interpretation with Tristate Numbers" (CGO 2022) in idea.

/// Bits set in `mask` are unknown; the others are as in `value`. `value & mask` is 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tnum {
    pub value: u64,
    pub mask: u64,
}

const SIGN: u64 = 1 << 63;

impl Tnum {
    /// Nothing is known.
    pub const UNKNOWN: Tnum = Tnum { value: 0, mask: u64::MAX };

    pub const fn constant(value: u64) -> Tnum {
        Tnum { value, mask: 0 }
    }
    const fn new(value: u64, mask: u64) -> Tnum {
        Tnum { value: value & !mask, mask }
    }
    /// Every value from `min` to `max` (and usually more).
    pub fn range(min: u64, max: u64) -> Tnum {
        let differ = 64 - (min ^ max).leading_zeros();
        let mask = if differ == 64 { u64::MAX } else { (1 << differ) - 1 };
        Tnum::new(min, mask)
    }
    pub const fn is_constant(self) -> bool {
        self.mask == 0
    }
    pub const fn umin(self) -> u64 {
        self.value
    }
    pub const fn umax(self) -> u64 {
        self.value | self.mask
    }
    pub const fn smin(self) -> i64 {
        (self.value | (self.mask & SIGN)) as i64
    }
    pub const fn smax(self) -> i64 {
        (self.value | (self.mask & !SIGN)) as i64
    }
    #[cfg(test)]
    pub const fn contains(self, x: u64) -> bool {
        x & !self.mask == self.value
    }
    /// Every value of `other` is in `self`.
    pub const fn covers(self, other: Tnum) -> bool {
        other.mask & !self.mask == 0 && other.value & !self.mask == self.value
    }
    /// The values in both, or `None` when a known bit differs.
    pub fn intersect(self, other: Tnum) -> Option<Tnum> {
        let known_in_both = !(self.mask | other.mask);
        if (self.value ^ other.value) & known_in_both != 0 {
            return None;
        }
        Some(Tnum::new(self.value | other.value, self.mask & other.mask))
    }
    /// The low `bits` bits, zero-extended.
    pub const fn low(self, bits: u32) -> Tnum {
        let keep = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
        Tnum { value: self.value & keep, mask: self.mask & keep }
    }
    /// With the low half replaced by that of `low`.
    pub const fn with_low32(self, low: Tnum) -> Tnum {
        let keep = !0xffff_ffffu64;
        Tnum {
            value: (self.value & keep) | (low.value & 0xffff_ffff),
            mask: (self.mask & keep) | (low.mask & 0xffff_ffff),
        }
    }
    /// The low `bits` bits, sign-extended to 64.
    pub const fn sign_extend(self, bits: u32) -> Tnum {
        let up = 64 - bits;
        let value = (((self.value << up) as i64) >> up) as u64;
        let mask = (((self.mask << up) as i64) >> up) as u64;
        Tnum { value: value & !mask, mask }
    }
    pub fn add(self, other: Tnum) -> Tnum {
        let least = self.value.wrapping_add(other.value);
        let most = least.wrapping_add(self.mask.wrapping_add(other.mask));
        Tnum::new(least, (least ^ most) | self.mask | other.mask)
    }
    pub fn sub(self, other: Tnum) -> Tnum {
        let middle = self.value.wrapping_sub(other.value);
        let (most, least) = (middle.wrapping_add(self.mask), middle.wrapping_sub(other.mask));
        Tnum::new(middle, (least ^ most) | self.mask | other.mask)
    }
    pub fn and(self, other: Tnum) -> Tnum {
        let ones = self.value & other.value;
        let possible = self.umax() & other.umax();
        Tnum::new(ones, possible & !ones)
    }
    pub fn or(self, other: Tnum) -> Tnum {
        let ones = self.value | other.value;
        Tnum::new(ones, (self.mask | other.mask) & !ones)
    }
    pub fn xor(self, other: Tnum) -> Tnum {
        Tnum::new(self.value ^ other.value, self.mask | other.mask)
    }
    /// Long multiplication; known products are added exactly, the rest only as unknown bits.
    pub fn mul(self, other: Tnum) -> Tnum {
        let exact = Tnum::constant(self.value.wrapping_mul(other.value));
        let (mut a, mut b) = (self, other);
        let mut unknown = Tnum::constant(0);
        while a.value | a.mask != 0 {
            if a.value & 1 != 0 {
                unknown = unknown.add(Tnum::new(0, b.mask));
            } else if a.mask & 1 != 0 {
                unknown = unknown.add(Tnum::new(0, b.umax()));
            }
            a = a.shr(1);
            b = b.shl(1);
        }
        exact.add(unknown)
    }
    pub const fn shl(self, by: u32) -> Tnum {
        Tnum { value: self.value << by, mask: self.mask << by }
    }
    pub const fn shr(self, by: u32) -> Tnum {
        Tnum { value: self.value >> by, mask: self.mask >> by }
    }
    /// Arithmetic shift of the low `bits` bits; the result is zero-extended.
    pub const fn sar(self, by: u32, bits: u32) -> Tnum {
        let wide = self.sign_extend(bits);
        let value = ((wide.value as i64) >> by) as u64;
        let mask = ((wide.mask as i64) >> by) as u64;
        Tnum { value: value & !mask, mask }.low(bits)
    }
    /// Bytes in reverse order.
    pub const fn swap_bytes(self) -> Tnum {
        Tnum { value: self.value.swap_bytes(), mask: self.mask.swap_bytes() }
    }
}

/// As the kernel prints it: a number, or value and mask.
impl std::fmt::Display for Tnum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.mask, self.value) {
            (0, 0) => f.write_str("0"),
            (0, value) => write!(f, "{value:#x}"),
            (mask, value) => write!(f, "({value:#x}; {mask:#x})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BITS: u32 = 4;

    fn all() -> Vec<Tnum> {
        let n = 1u64 << BITS;
        (0..n).flat_map(|mask| (0..n).filter(move |v| v & mask == 0).map(move |value| Tnum { value, mask })).collect()
    }
    fn members(t: Tnum) -> Vec<u64> {
        (0..1u64 << BITS).filter(|&x| t.contains(x)).collect()
    }
    fn sound2(name: &str, op: impl Fn(Tnum, Tnum) -> Tnum, eval: impl Fn(u64, u64) -> u64) {
        for a in all() {
            for b in all() {
                let out = op(a, b);
                assert_eq!(out.value & out.mask, 0, "{name}: {a:?} {b:?} is not well formed");
                for x in members(a) {
                    for y in members(b) {
                        assert!(out.contains(eval(x, y)), "{name}: {x} of {a:?}, {y} of {b:?} is not in {out:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn arithmetic_contains_every_result() {
        sound2("add", Tnum::add, u64::wrapping_add);
        sound2("sub", Tnum::sub, u64::wrapping_sub);
        sound2("mul", Tnum::mul, u64::wrapping_mul);
        sound2("and", Tnum::and, |x, y| x & y);
        sound2("or", Tnum::or, |x, y| x | y);
        sound2("xor", Tnum::xor, |x, y| x ^ y);
    }

    #[test]
    fn bitwise_results_are_exact() {
        for a in all() {
            for b in all() {
                for (out, f) in [
                    (a.and(b), (|x, y| x & y) as fn(u64, u64) -> u64),
                    (a.or(b), |x, y| x | y),
                    (a.xor(b), |x, y| x ^ y),
                ] {
                    for bit in 0..BITS {
                        let seen = |want: u64| {
                            members(a).iter().any(|&x| members(b).iter().any(|&y| f(x, y) >> bit & 1 == want))
                        };
                        assert_eq!(out.mask >> bit & 1 == 1, seen(0) && seen(1));
                    }
                }
            }
        }
    }

    #[test]
    fn shifts_and_extensions() {
        for a in all() {
            for x in members(a) {
                for by in 0..BITS {
                    assert!(a.shl(by).contains(x << by));
                    assert!(a.shr(by).contains(x >> by));
                    let narrow = ((x << 60) as i64 >> 60 >> by) as u64 & 15;
                    assert!(a.sar(by, 4).contains(narrow));
                }
                assert!(a.sign_extend(4).contains(((x << 60) as i64 >> 60) as u64));
                assert!(a.low(2).contains(x & 3));
                assert!(a.swap_bytes().contains(x.swap_bytes()));
            }
        }
    }

    #[test]
    fn ranges_intersections_and_bounds() {
        for a in 0..16u64 {
            for b in a..16 {
                let t = Tnum::range(a, b);
                assert!((a..=b).all(|x| t.contains(x)));
            }
        }
        assert_eq!(Tnum::range(0, u64::MAX), Tnum::UNKNOWN);
        for a in all() {
            assert_eq!(members(a).first(), Some(&a.umin()));
            assert_eq!(members(a).last(), Some(&a.umax()));
            for b in all() {
                let both: Vec<u64> = members(a).into_iter().filter(|&x| b.contains(x)).collect();
                match a.intersect(b) {
                    Some(t) => assert_eq!(members(t), both),
                    None => assert!(both.is_empty()),
                }
                assert_eq!(a.covers(b), members(b).iter().all(|&x| a.contains(x)));
            }
        }
    }
}
