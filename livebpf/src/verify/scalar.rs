//! What is known about a number in a register: its bits, and the bounds of the whole and of its low half.
//!
//! The three views are kept in step by [`Scalar::sync`]. Guarantee: a [`Scalar`] contains every value that the
//! register can hold on the path.

use super::range::{R32, R64, Rel};
use super::tnum::Tnum;
use crate::insn::{Cond, Size, Width};

/// A set of 64-bit numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Scalar {
    pub bits: Tnum,
    pub r: R64,
    pub w: R32,
}

const LOW: u64 = 0xffff_ffff;
const SIGN: u64 = 1 << 63;

impl Scalar {
    pub const UNKNOWN: Scalar = Scalar { bits: Tnum::UNKNOWN, r: R64::FULL, w: R32::FULL };
    /// Any number that fits 32 bits.
    const ANY_U32: Scalar = Scalar::unsigned_bits(32);

    pub const fn constant(x: u64) -> Scalar {
        Scalar { bits: Tnum::constant(x), r: R64::constant(x), w: R32::constant(x as u32) }
    }
    /// Any number that fits `bits` bits, zero-extended.
    pub const fn unsigned_bits(bits: u32) -> Scalar {
        if bits >= 64 {
            return Scalar::UNKNOWN;
        }
        let max = (1u64 << bits) - 1;
        let r = R64 { umin: 0, umax: max, smin: 0, smax: max as i64 };
        let low = max as u32;
        let w = match bits {
            32.. => R32::FULL,
            _ => R32 { umin: 0, umax: low, smin: 0, smax: low as i32 },
        };
        Scalar { bits: Tnum::UNKNOWN.low(bits), r, w }
    }
    /// Any number from `low` to `high`.
    pub fn between(low: i64, high: i64) -> Scalar {
        Scalar { r: R64::signed(low, high), ..Scalar::UNKNOWN }.sync()
    }
    /// The single value, where there is just one.
    pub const fn known(&self) -> Option<u64> {
        if self.bits.is_constant() { Some(self.bits.value) } else { None }
    }
    /// The single value of the low half.
    pub fn known32(&self) -> Option<u32> {
        let low = self.bits.low(32);
        low.is_constant().then_some(low.value as u32)
    }
    /// No value is left: the path is impossible.
    pub const fn is_empty(&self) -> bool {
        self.r.is_empty() || self.w.is_empty()
    }
    /// The upper half is zero.
    pub const fn fits_u32(&self) -> bool {
        self.r.umax <= LOW
    }
    /// Every value of `other` is in `self`.
    pub fn covers(&self, other: &Scalar) -> bool {
        self.r.covers(&other.r) && self.w.covers(&other.w) && self.bits.covers(other.bits)
    }
    /// The values in both, where there are any.
    pub fn intersect(&self, other: &Scalar) -> Option<Scalar> {
        let bits = self.bits.intersect(other.bits)?;
        let both = Scalar { bits, r: self.r.intersect(&other.r), w: self.w.intersect(&other.w) }.sync();
        (!both.is_empty()).then_some(both)
    }
    #[cfg(test)]
    pub fn contains(&self, x: u64) -> bool {
        self.bits.contains(x) && self.r.contains(x) && self.w.contains(x as u32)
    }

    /// Lets bits and bounds learn from each other. A set that turns out empty stays recognisable as empty.
    pub fn sync(mut self) -> Scalar {
        // Most numbers in programs that hash or parse: nothing is left to be learnt.
        if self == Scalar::ANY_U32 || self == Scalar::UNKNOWN {
            return self;
        }
        self.bounds_from_bits();
        self.halves();
        self.r = self.r.tight();
        self.w = self.w.tight();
        self.halves();
        self.r = self.r.tight();
        self.w = self.w.tight();
        if self.is_empty() {
            return self;
        }
        let whole = self.bits.intersect(Tnum::range(self.r.umin, self.r.umax));
        let both = whole.and_then(|bits| {
            let low = Tnum::range(self.w.umin.into(), self.w.umax.into());
            bits.low(32).intersect(low).map(|low| bits.with_low32(low))
        });
        match both {
            Some(bits) => self.bits = bits,
            None => (self.r.umin, self.r.umax) = (1, 0),
        }
        self.bounds_from_bits();
        self
    }

    fn bounds_from_bits(&mut self) {
        let (bits, low) = (self.bits, self.bits.low(32));
        let r = &mut self.r;
        r.umin = r.umin.max(bits.umin());
        r.umax = r.umax.min(bits.umax());
        r.smin = r.smin.max(bits.smin());
        r.smax = r.smax.min(bits.smax());
        let w = &mut self.w;
        w.umin = w.umin.max(low.umin() as u32);
        w.umax = w.umax.min(low.umax() as u32);
        let (value, mask) = (low.value as u32, low.mask as u32);
        w.smin = w.smin.max((value | (mask & 1 << 31)) as i32);
        w.smax = w.smax.min((value | (mask & !(1 << 31))) as i32);
    }

    /// Bounds of the low half from those of the whole, and back.
    fn halves(&mut self) {
        let (r, w) = (&mut self.r, &mut self.w);
        if r.umin >> 32 == r.umax >> 32 {
            w.umin = w.umin.max(r.umin as u32);
            w.umax = w.umax.min(r.umax as u32);
        }
        if r.smin >> 32 == r.smax >> 32 {
            w.umin = w.umin.max(r.smin as u32);
            w.umax = w.umax.min(r.smax as u32);
        }
        // Bounds less than 2^32 apart whose low halves are in signed order: the low half stays between them.
        if r.umax.wrapping_sub(r.umin) <= LOW && r.umin <= r.umax && r.umin as i32 <= r.umax as i32 {
            w.smin = w.smin.max(r.umin as i32);
            w.smax = w.smax.min(r.umax as i32);
        }
        if (r.smax as u64).wrapping_sub(r.smin as u64) <= LOW && r.smin <= r.smax && r.smin as i32 <= r.smax as i32 {
            w.smin = w.smin.max(r.smin as i32);
            w.smax = w.smax.min(r.smax as i32);
        }
        // The nearest number inside whose low half is one of those possible.
        r.umin = at_least(r.umin, w).unwrap_or(r.umin);
        r.umax = at_most(r.umax, w).unwrap_or(r.umax);
        r.smin = at_least(r.smin as u64 ^ SIGN, w).map_or(r.smin, |x| (x ^ SIGN) as i64);
        r.smax = at_most(r.smax as u64 ^ SIGN, w).map_or(r.smax, |x| (x ^ SIGN) as i64);
        if r.smin >= i64::from(i32::MIN) && r.smax <= i64::from(i32::MAX) {
            r.smin = r.smin.max(w.smin.into());
            r.smax = r.smax.min(w.smax.into());
        }
    }

    /// The low `bits` bits, zero-extended.
    pub fn truncate(&self, bits: u32) -> Scalar {
        if bits >= 64 || self.r.umax >> bits == 0 {
            return *self;
        }
        let keep = (1u64 << bits) - 1;
        let r = if self.r.umin & !keep == self.r.umax & !keep {
            R64::unsigned(self.r.umin & keep, self.r.umax & keep)
        } else {
            R64::unsigned(0, keep)
        };
        let w = if bits == 32 { self.w } else { R32::FULL };
        Scalar { bits: self.bits.low(bits), r, w }.sync()
    }
    /// The low `bits` bits, sign-extended to 64.
    pub fn sign_extend(&self, bits: u32) -> Scalar {
        if bits >= 64 {
            return *self;
        }
        let up = 64 - bits;
        let extend = |x: i64| (x << up) >> up;
        let top = 1i64 << (bits - 1);
        let (smin, smax) = (extend(self.r.smin), extend(self.r.smax));
        let same_above = self.r.smin >> bits == self.r.smax >> bits;
        let fits = self.r.smin >= -top && self.r.smax < top;
        let mut r =
            if fits || (same_above && smin <= smax) { R64::signed(smin, smax) } else { R64::signed(-top, top - 1) };
        if bits == 32 {
            r = r.intersect(&R64::signed(self.w.smin.into(), self.w.smax.into()));
        }
        Scalar { bits: self.bits.sign_extend(bits), r, w: R32::FULL }.sync()
    }
    /// The low `size` bytes in reverse order, zero-extended.
    pub fn swap_bytes(&self, size: Size) -> Scalar {
        let bits = self.bits.low(size.bits()).swap_bytes().shr(64 - size.bits());
        Scalar { bits, ..Scalar::UNKNOWN }.sync()
    }
}

/// The least number from `x` upwards whose low half is between the unsigned bounds of `w`, where there is one.
fn at_least(x: u64, w: &R32) -> Option<u64> {
    let (high, low) = (x & !LOW, x as u32);
    if low > w.umax {
        return Some(high.checked_add(LOW + 1)? | u64::from(w.umin));
    }
    Some(high | u64::from(low.max(w.umin)))
}

/// The greatest number from `x` downwards whose low half is between the unsigned bounds of `w`, where there is one.
fn at_most(x: u64, w: &R32) -> Option<u64> {
    let (high, low) = (x & !LOW, x as u32);
    if low < w.umin {
        return Some(high.checked_sub(LOW + 1)? | u64::from(w.umax));
    }
    Some(high | u64::from(low.min(w.umax)))
}

/// The comparison of `cond` that holds when the jump is taken or not; `None` for bit tests.
fn relation(cond: Cond, taken: bool) -> Option<Rel> {
    let rel = match (cond, taken) {
        (Cond::Eq, true) | (Cond::Ne, false) => Rel::Eq,
        (Cond::Ne, true) | (Cond::Eq, false) => Rel::Ne,
        (Cond::Gt, true) | (Cond::Le, false) => Rel::Gt,
        (Cond::Ge, true) | (Cond::Lt, false) => Rel::Ge,
        (Cond::Lt, true) | (Cond::Ge, false) => Rel::Lt,
        (Cond::Le, true) | (Cond::Gt, false) => Rel::Le,
        (Cond::Sgt, true) | (Cond::Sle, false) => Rel::Sgt,
        (Cond::Sge, true) | (Cond::Slt, false) => Rel::Sge,
        (Cond::Slt, true) | (Cond::Sge, false) => Rel::Slt,
        (Cond::Sle, true) | (Cond::Sgt, false) => Rel::Sle,
        (Cond::Set, _) => return None,
    };
    Some(rel)
}

/// Whether a conditional jump is always (`Some(true)`) or never taken with these operands.
pub(super) fn decide(cond: Cond, width: Width, a: &Scalar, b: &Scalar) -> Option<bool> {
    let (x, y) = match width {
        Width::W64 => (a.bits, b.bits),
        Width::W32 => (a.bits.low(32), b.bits.low(32)),
    };
    let Some(rel) = relation(cond, true) else {
        return match (x.value & y.value, x.umax() & y.umax()) {
            (0, 0) => Some(false),
            (0, _) => None,
            _ => Some(true),
        };
    };
    let by_range = match width {
        Width::W64 => R64::decide(rel, &a.r, &b.r),
        Width::W32 => R32::decide(rel, &a.w, &b.w),
    };
    by_range.or_else(|| match rel {
        Rel::Eq if x.intersect(y).is_none() => Some(false),
        Rel::Ne if x.intersect(y).is_none() => Some(true),
        _ => None,
    })
}

/// What the operands are once a conditional jump was taken or not; `None` when that is impossible.
pub(super) fn refine(cond: Cond, width: Width, taken: bool, a: &Scalar, b: &Scalar) -> Option<(Scalar, Scalar)> {
    let before = (a, b);
    let (mut a, mut b) = (*a, *b);
    match relation(cond, taken) {
        None => {
            let low = |t: Tnum| if width == Width::W32 { t.low(32) } else { t };
            let (x, y) = (low(a.bits), low(b.bits));
            if y.is_constant() {
                a.bits = test_bits(a.bits, y.value, taken)?;
            } else if x.is_constant() {
                b.bits = test_bits(b.bits, x.value, taken)?;
            }
        }
        Some(rel) => {
            match width {
                Width::W64 => R64::refine(rel, &mut a.r, &mut b.r),
                Width::W32 => R32::refine(rel, &mut a.w, &mut b.w),
            }
            if rel == Rel::Eq {
                match width {
                    Width::W64 => {
                        a.bits = a.bits.intersect(b.bits)?;
                        b.bits = a.bits;
                        (a.w, b.w) = (a.w.intersect(&b.w), a.w.intersect(&b.w));
                    }
                    Width::W32 => {
                        let low = a.bits.low(32).intersect(b.bits.low(32))?;
                        a.bits = a.bits.with_low32(low);
                        b.bits = b.bits.with_low32(low);
                    }
                }
            }
        }
    }
    // What has not changed is in step already.
    let sync = |new: Scalar, old: &Scalar| if new == *old { new } else { new.sync() };
    let (a, b) = (sync(a, before.0), sync(b, before.1));
    (!a.is_empty() && !b.is_empty()).then_some((a, b))
}

/// `t` once `t & mask` is known to be not zero (`set`) or zero.
fn test_bits(t: Tnum, mask: u64, set: bool) -> Option<Tnum> {
    if set {
        let possible = t.umax() & mask;
        return match possible.count_ones() {
            0 => None,
            1 => Some(Tnum { value: t.value | possible, mask: t.mask & !possible }),
            _ => Some(t),
        };
    }
    (t.value & mask == 0).then_some(Tnum { value: t.value, mask: t.mask & !mask })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A small deterministic generator (splitmix64).
    pub struct Rng(pub u64);
    impl Rng {
        pub fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }
        pub fn below(&mut self, n: u64) -> u64 {
            self.next() % n
        }
        /// A number near an interesting one.
        pub fn number(&mut self) -> u64 {
            let base = [0, 1 << 31, 1 << 32, 1 << 63, u64::MAX, 0x1234_5678_9abc_def0, 0xffff, 1 << 7];
            let near = base[self.below(8) as usize];
            let spread = self.next() >> self.below(64);
            if self.below(2) == 0 { near.wrapping_add(spread) } else { near.wrapping_sub(spread) }
        }
    }

    /// A set and some of its members.
    pub fn sample(rng: &mut Rng) -> (Scalar, Vec<u64>) {
        let members: Vec<u64> = match rng.below(3) {
            0 => vec![rng.number()],
            1 => {
                let base = rng.number();
                let width = rng.next() >> rng.below(64);
                (0..6).map(|_| base.wrapping_add(if width == 0 { 0 } else { rng.below(width) })).collect()
            }
            _ => (0..3).map(|_| rng.number()).collect(),
        };
        let join = |f: fn(u64, u64) -> u64| members.iter().copied().reduce(f).unwrap();
        let ones = join(|a, b| a & b);
        let some = join(|a, b| a | b);
        let mut s = Scalar { bits: Tnum { value: ones, mask: some & !ones }, ..Scalar::UNKNOWN };
        if rng.below(2) == 0 {
            let signed = |f: fn(i64, i64) -> i64| members.iter().map(|&x| x as i64).reduce(f).unwrap();
            s.r = R64 { umin: join(u64::min), umax: join(u64::max), smin: signed(i64::min), smax: signed(i64::max) };
        }
        if rng.below(2) == 0 {
            let low = |f: fn(u32, u32) -> u32| members.iter().map(|&x| x as u32).reduce(f).unwrap();
            s.w = R32::unsigned(low(u32::min), low(u32::max));
        } else {
            let low = |f: fn(i32, i32) -> i32| members.iter().map(|&x| x as i32).reduce(f).unwrap();
            s.w = R32::signed(low(i32::min), low(i32::max));
        }
        (s.sync(), members)
    }

    const ROUNDS: usize = 40_000;

    #[test]
    fn syncing_and_conversions_keep_every_member() {
        let mut rng = Rng(1);
        for _ in 0..ROUNDS {
            let (s, members) = sample(&mut rng);
            for &x in &members {
                assert!(s.contains(x), "{x:#x} not in {s:?}");
                for bits in [8, 16, 32] {
                    let (up, mask) = (64 - bits, (1u64 << bits) - 1);
                    assert!(s.truncate(bits).contains(x & mask), "{x:#x} {bits} {s:?}");
                    let extended = ((x << up) as i64 >> up) as u64;
                    assert!(s.sign_extend(bits).contains(extended), "{x:#x} {bits} {s:?}");
                }
                assert!(s.swap_bytes(Size::DW).contains(x.swap_bytes()));
                assert!(s.swap_bytes(Size::W).contains((x as u32).swap_bytes().into()));
                assert!(s.swap_bytes(Size::H).contains((x as u16).swap_bytes().into()));
            }
        }
    }

    pub const CONDS: [Cond; 11] = [
        Cond::Eq,
        Cond::Ne,
        Cond::Gt,
        Cond::Ge,
        Cond::Lt,
        Cond::Le,
        Cond::Sgt,
        Cond::Sge,
        Cond::Slt,
        Cond::Sle,
        Cond::Set,
    ];

    pub fn holds(cond: Cond, width: Width, x: u64, y: u64) -> bool {
        let (x, y) = if width == Width::W32 { (x as i32 as i64, y as i32 as i64) } else { (x as i64, y as i64) };
        let (u, v) = if width == Width::W32 { (x as u32 as u64, y as u32 as u64) } else { (x as u64, y as u64) };
        match cond {
            Cond::Eq => x == y,
            Cond::Ne => x != y,
            Cond::Gt => u > v,
            Cond::Ge => u >= v,
            Cond::Lt => u < v,
            Cond::Le => u <= v,
            Cond::Sgt => x > y,
            Cond::Sge => x >= y,
            Cond::Slt => x < y,
            Cond::Sle => x <= y,
            Cond::Set => u & v != 0,
        }
    }

    #[test]
    fn comparisons_keep_every_pair_that_satisfies_them() {
        let mut rng = Rng(2);
        for _ in 0..ROUNDS / 4 {
            let ((a, xs), (b, ys)) = (sample(&mut rng), sample(&mut rng));
            for cond in CONDS {
                for width in [Width::W32, Width::W64] {
                    let decided = decide(cond, width, &a, &b);
                    let sides = [false, true].map(|taken| refine(cond, width, taken, &a, &b));
                    for &x in &xs {
                        for &y in &ys {
                            let yes = holds(cond, width, x, y);
                            assert!(decided.is_none_or(|d| d == yes), "{cond:?} {width:?} {x:#x} {y:#x}\n{a:?}\n{b:?}");
                            let (c, d) = sides[usize::from(yes)].expect("possible");
                            assert!(c.contains(x) && d.contains(y), "{cond:?} {width:?} {x:#x} {y:#x}\n{a:?}\n{b:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn intersections_keep_what_is_in_both() {
        let mut rng = Rng(7);
        for _ in 0..ROUNDS {
            let ((a, xs), (b, _)) = (sample(&mut rng), sample(&mut rng));
            let both = a.intersect(&b);
            for x in xs.into_iter().filter(|&x| b.contains(x)) {
                assert!(both.is_some_and(|both| both.contains(x)), "{x:#x}\n{a:?}\n{b:?}\n{both:?}");
            }
        }
    }

    #[test]
    fn bounds_end_at_numbers_whose_low_half_is_possible() {
        let w = |umin, umax| R32 { umin, umax, ..R32::FULL };
        // All numbers of a window around each carry, member by member.
        for base in [0u64, 1 << 32, 5 << 32, SIGN, u64::MAX - 40] {
            for x in (0..20).map(|i| base.wrapping_add(i).wrapping_sub(10)) {
                for (low, high) in [(0u32, 3), (4, 8), (u32::MAX - 7, u32::MAX - 2), (3, u32::MAX), (0, u32::MAX)] {
                    let fits = |y: &u64| (low..=high).contains(&(*y as u32));
                    let near = |step: u64| (0..30u64).map(move |i| x.wrapping_add(i.wrapping_mul(step)));
                    if let Some(up) = near(1).take_while(|y| *y >= x).find(fits) {
                        assert_eq!(at_least(x, &w(low, high)), Some(up), "{x:#x} {low:#x} {high:#x}");
                    }
                    if let Some(down) = near(u64::MAX).take_while(|y| *y <= x).find(fits) {
                        assert_eq!(at_most(x, &w(low, high)), Some(down), "{x:#x} {low:#x} {high:#x}");
                    }
                }
            }
        }
        assert_eq!((at_least(u64::MAX, &w(0, 3)), at_most(2, &w(4, 9))), (None, None));
    }

    #[test]
    fn what_clang_relies_on() {
        let byte = Scalar::unsigned_bits(8);
        let (below, _) = refine(Cond::Lt, Width::W64, true, &byte, &Scalar::constant(20)).unwrap();
        assert_eq!((below.r.umin, below.r.umax), (0, 19));
        let word = Scalar::unsigned_bits(32);
        let (below, _) = refine(Cond::Slt, Width::W32, true, &word, &Scalar::constant(20)).unwrap();
        let (both, _) = refine(Cond::Sgt, Width::W32, true, &below, &Scalar::constant(u64::MAX)).unwrap();
        assert_eq!((both.r.umin, both.r.umax), (0, 19));
        assert_eq!(decide(Cond::Gt, Width::W64, &byte, &Scalar::constant(255)), Some(false));
        assert!(refine(Cond::Eq, Width::W64, true, &byte, &Scalar::constant(256)).is_none());
    }
}
