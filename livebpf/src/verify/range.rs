//! Intervals of machine words, unsigned and signed at once: [`R64`] for registers, [`R32`] for their low halves.
//!
//! Guarantee of every operation: the result contains `x op y` for all `x`, `y` in the operands, with the
//! wrap-around of the word. An operation that cannot bound its result gives the full range.

/// A comparison that holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rel {
    Eq,
    Ne,
    Gt,
    Ge,
    Lt,
    Le,
    Sgt,
    Sge,
    Slt,
    Sle,
}

macro_rules! range {
    ($name:ident, $u:ty, $s:ty) => {
        /// A set of words: those between both pairs of bounds, all inclusive.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(super) struct $name {
            pub umin: $u,
            pub umax: $u,
            pub smin: $s,
            pub smax: $s,
        }

        #[allow(dead_code)]
        impl $name {
            pub const FULL: $name = $name { umin: 0, umax: <$u>::MAX, smin: <$s>::MIN, smax: <$s>::MAX };

            pub const fn constant(x: $u) -> $name {
                $name { umin: x, umax: x, smin: x as $s, smax: x as $s }
            }
            pub fn unsigned(umin: $u, umax: $u) -> $name {
                $name { umin, umax, ..Self::FULL }.tight()
            }
            pub fn signed(smin: $s, smax: $s) -> $name {
                $name { smin, smax, ..Self::FULL }.tight()
            }
            pub const fn is_constant(&self) -> bool {
                self.umin == self.umax
            }
            pub const fn is_empty(&self) -> bool {
                self.umin > self.umax || self.smin > self.smax
            }
            pub const fn contains(&self, x: $u) -> bool {
                self.umin <= x && x <= self.umax && self.smin <= x as $s && x as $s <= self.smax
            }
            pub const fn covers(&self, other: &$name) -> bool {
                self.umin <= other.umin && other.umax <= self.umax && self.smin <= other.smin && other.smax <= self.smax
            }
            pub fn intersect(&self, other: &$name) -> $name {
                $name {
                    umin: self.umin.max(other.umin),
                    umax: self.umax.min(other.umax),
                    smin: self.smin.max(other.smin),
                    smax: self.smax.min(other.smax),
                }
            }
            /// Lets each pair of bounds learn from the other.
            pub fn tight(mut self) -> $name {
                if self.is_empty() {
                    return self;
                }
                // Both pairs cross the sign change: one half may be ruled out.
                if self.umin <= <$s>::MAX as $u && self.umax > <$s>::MAX as $u && self.smin < 0 && self.smax >= 0 {
                    if self.umin > self.smax as $u {
                        self.smax = -1;
                    } else if self.umax < self.smin as $u {
                        self.smin = 0;
                    }
                }
                if self.smin as $u <= self.smax as $u {
                    self.umin = self.umin.max(self.smin as $u);
                    self.umax = self.umax.min(self.smax as $u);
                }
                if self.umin as $s <= self.umax as $s {
                    self.smin = self.smin.max(self.umin as $s);
                    self.smax = self.smax.min(self.umax as $s);
                }
                self
            }
            pub fn add(&self, o: &$name) -> $name {
                let mut out = Self::FULL;
                let ((umin, low), (umax, high)) =
                    (self.umin.overflowing_add(o.umin), self.umax.overflowing_add(o.umax));
                if low == high {
                    (out.umin, out.umax) = (umin, umax);
                }
                if let (Some(smin), Some(smax)) = (self.smin.checked_add(o.smin), self.smax.checked_add(o.smax)) {
                    (out.smin, out.smax) = (smin, smax);
                }
                out.tight()
            }
            pub fn sub(&self, o: &$name) -> $name {
                let mut out = Self::FULL;
                let ((umin, low), (umax, high)) =
                    (self.umin.overflowing_sub(o.umax), self.umax.overflowing_sub(o.umin));
                if low == high {
                    (out.umin, out.umax) = (umin, umax);
                }
                if let (Some(smin), Some(smax)) = (self.smin.checked_sub(o.smax), self.smax.checked_sub(o.smin)) {
                    (out.smin, out.smax) = (smin, smax);
                }
                out.tight()
            }
            pub fn mul(&self, o: &$name) -> $name {
                let mut out = Self::FULL;
                if let Some(umax) = self.umax.checked_mul(o.umax) {
                    (out.umin, out.umax) = (self.umin * o.umin, umax);
                }
                let corners = [
                    self.smin.checked_mul(o.smin),
                    self.smin.checked_mul(o.smax),
                    self.smax.checked_mul(o.smin),
                    self.smax.checked_mul(o.smax),
                ];
                if let [Some(a), Some(b), Some(c), Some(d)] = corners {
                    (out.smin, out.smax) = (a.min(b).min(c).min(d), a.max(b).max(c).max(d));
                }
                out.tight()
            }
            pub fn and(&self, o: &$name) -> $name {
                Self::unsigned(0, self.umax.min(o.umax))
            }
            pub fn or(&self, o: &$name) -> $name {
                Self::unsigned(self.umin.max(o.umin), <$u>::MAX)
            }
            /// Shifts by `by.0` to `by.1` bits, both below the word's width.
            pub fn shl(&self, by: (u32, u32)) -> $name {
                let mut out = Self::FULL;
                if self.umax <= <$u>::MAX >> by.1 {
                    (out.umin, out.umax) = (self.umin << by.0, self.umax << by.1);
                }
                if by.0 == by.1 && self.smin >= <$s>::MIN >> by.0 && self.smax <= <$s>::MAX >> by.0 {
                    (out.smin, out.smax) = (self.smin << by.0, self.smax << by.0);
                }
                out.tight()
            }
            pub fn shr(&self, by: (u32, u32)) -> $name {
                Self::unsigned(self.umin >> by.1, self.umax >> by.0)
            }
            pub fn sar(&self, by: (u32, u32)) -> $name {
                let smin = self.smin >> if self.smin < 0 { by.0 } else { by.1 };
                let smax = self.smax >> if self.smax < 0 { by.1 } else { by.0 };
                Self::signed(smin, smax)
            }
            /// Unsigned; by zero gives zero.
            pub fn div(&self, o: &$name) -> $name {
                match (self.umin.checked_div(o.umax), self.umax.checked_div(o.umin)) {
                    (Some(umin), Some(umax)) => Self::unsigned(umin, umax),
                    _ => Self::unsigned(0, self.umax),
                }
            }
            /// Unsigned; by zero leaves the dividend.
            pub fn modulo(&self, o: &$name) -> $name {
                if o.umin > self.umax {
                    return *self;
                }
                match o.umin {
                    0 => Self::unsigned(0, self.umax),
                    _ => Self::unsigned(0, self.umax.min(o.umax - 1)),
                }
            }
            /// Narrows both sides by a comparison that holds; a side may become empty.
            pub fn refine(rel: Rel, a: &mut $name, b: &mut $name) {
                match rel {
                    Rel::Eq => {
                        *a = a.intersect(b);
                        *b = *a;
                    }
                    Rel::Ne => {
                        if b.is_constant() {
                            a.exclude(b.umin);
                        } else if a.is_constant() {
                            b.exclude(a.umin);
                        }
                    }
                    Rel::Le => {
                        a.umax = a.umax.min(b.umax);
                        b.umin = b.umin.max(a.umin);
                    }
                    Rel::Lt => match (b.umax.checked_sub(1), a.umin.checked_add(1)) {
                        (Some(below), Some(above)) => {
                            a.umax = a.umax.min(below);
                            b.umin = b.umin.max(above);
                        }
                        _ => (a.umin, a.umax) = (1, 0),
                    },
                    Rel::Sle => {
                        a.smax = a.smax.min(b.smax);
                        b.smin = b.smin.max(a.smin);
                    }
                    Rel::Slt => match (b.smax.checked_sub(1), a.smin.checked_add(1)) {
                        (Some(below), Some(above)) => {
                            a.smax = a.smax.min(below);
                            b.smin = b.smin.max(above);
                        }
                        _ => (a.smin, a.smax) = (1, 0),
                    },
                    Rel::Gt => Self::refine(Rel::Lt, b, a),
                    Rel::Ge => Self::refine(Rel::Le, b, a),
                    Rel::Sgt => Self::refine(Rel::Slt, b, a),
                    Rel::Sge => Self::refine(Rel::Sle, b, a),
                }
            }
            /// Drops `x` where it is a bound.
            fn exclude(&mut self, x: $u) {
                if self.is_constant() && self.umin == x {
                    (self.umin, self.umax) = (1, 0);
                    return;
                }
                if self.umin == x {
                    self.umin += 1;
                }
                if self.umax == x {
                    self.umax -= 1;
                }
                if self.smin == x as $s && self.smin < self.smax {
                    self.smin += 1;
                }
                if self.smax == x as $s && self.smin < self.smax {
                    self.smax -= 1;
                }
            }
            /// Whether a comparison holds for all pairs (`Some(true)`) or for none (`Some(false)`).
            pub fn decide(rel: Rel, a: &$name, b: &$name) -> Option<bool> {
                let order = |yes: bool, no: bool| {
                    if yes {
                        Some(true)
                    } else if no {
                        Some(false)
                    } else {
                        None
                    }
                };
                match rel {
                    Rel::Eq => {
                        let same = a.is_constant() && b.is_constant() && a.umin == b.umin;
                        order(same, a.intersect(b).is_empty())
                    }
                    Rel::Ne => Self::decide(Rel::Eq, a, b).map(|eq| !eq),
                    Rel::Lt => order(a.umax < b.umin, a.umin >= b.umax),
                    Rel::Le => order(a.umax <= b.umin, a.umin > b.umax),
                    Rel::Gt => Self::decide(Rel::Lt, b, a),
                    Rel::Ge => Self::decide(Rel::Le, b, a),
                    Rel::Slt => order(a.smax < b.smin, a.smin >= b.smax),
                    Rel::Sle => order(a.smax <= b.smin, a.smin > b.smax),
                    Rel::Sgt => Self::decide(Rel::Slt, b, a),
                    Rel::Sge => Self::decide(Rel::Sle, b, a),
                }
            }
        }
    };
}

range!(R64, u64, i64);
range!(R32, u32, i32);

#[cfg(test)]
mod tests {
    use super::Rel;

    // The same code at eight bits, where a sample of ranges can be checked member by member.
    range!(R8, u8, i8);

    const RELS: [Rel; 10] =
        [Rel::Eq, Rel::Ne, Rel::Gt, Rel::Ge, Rel::Lt, Rel::Le, Rel::Sgt, Rel::Sge, Rel::Slt, Rel::Sle];

    fn holds(rel: Rel, x: u8, y: u8) -> bool {
        let (s, t) = (x as i8, y as i8);
        match rel {
            Rel::Eq => x == y,
            Rel::Ne => x != y,
            Rel::Gt => x > y,
            Rel::Ge => x >= y,
            Rel::Lt => x < y,
            Rel::Le => x <= y,
            Rel::Sgt => s > t,
            Rel::Sge => s >= t,
            Rel::Slt => s < t,
            Rel::Sle => s <= t,
        }
    }
    fn sample() -> Vec<R8> {
        let points = [0u8, 1, 7, 126, 127, 128, 200, 255];
        let mut out = vec![R8::FULL];
        for (i, &a) in points.iter().enumerate() {
            for &b in &points[i..] {
                out.push(R8::unsigned(a, b));
                out.push(R8::signed((a ^ 128) as i8, (b ^ 128) as i8));
            }
        }
        out.push(R8 { umin: 3, umax: 240, smin: -20, smax: 60 });
        out
    }
    fn members(r: &R8) -> Vec<u8> {
        (0..=255).filter(|&x| r.contains(x)).collect()
    }

    #[test]
    fn tightening_keeps_every_member() {
        for a in [1u8, 5, 127, 128, 200] {
            for b in [5u8, 127, 128, 200, 255] {
                for s in [-128i8, -3, 0, 9] {
                    for t in [-2i8, 0, 9, 127] {
                        let r = R8 { umin: a, umax: b, smin: s, smax: t };
                        assert_eq!(members(&r), members(&r.tight()), "{r:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn arithmetic_contains_every_result() {
        type Op = (&'static str, fn(&R8, &R8) -> R8, fn(u8, u8) -> u8);
        let ops: [Op; 7] = [
            ("add", R8::add, |x, y| x.wrapping_add(y)),
            ("sub", R8::sub, |x, y| x.wrapping_sub(y)),
            ("mul", R8::mul, |x, y| x.wrapping_mul(y)),
            ("and", R8::and, |x, y| x & y),
            ("or", R8::or, |x, y| x | y),
            ("div", R8::div, |x, y| x.checked_div(y).unwrap_or(0)),
            ("mod", R8::modulo, |x, y| x.checked_rem(y).unwrap_or(x)),
        ];
        let sample = sample();
        for (i, a) in sample.iter().enumerate() {
            for b in sample.iter().skip(i % 3).step_by(3) {
                for (name, op, eval) in ops {
                    let out = op(a, b);
                    for x in members(a).into_iter().step_by(3) {
                        for y in members(b).into_iter().step_by(2) {
                            assert!(out.contains(eval(x, y)), "{name} {x} {y}: {a:?} {b:?} {out:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn shifts_contain_every_result() {
        for a in sample() {
            for low in 0..8 {
                for high in low..8 {
                    for x in members(&a) {
                        for by in low..=high {
                            assert!(a.shl((low, high)).contains(x << by));
                            assert!(a.shr((low, high)).contains(x >> by));
                            assert!(a.sar((low, high)).contains((x as i8 >> by) as u8));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn comparisons_keep_every_pair_that_satisfies_them() {
        let sample = sample();
        for (i, a) in sample.iter().enumerate() {
            for b in sample.iter().skip(i % 4).step_by(4) {
                for rel in RELS {
                    let (mut c, mut d) = (*a, *b);
                    R8::refine(rel, &mut c, &mut d);
                    let decided = R8::decide(rel, a, b);
                    for x in members(a) {
                        for y in members(b).into_iter().step_by(3) {
                            let yes = holds(rel, x, y);
                            assert!(decided.is_none_or(|d| d == yes), "{rel:?} {x} {y}: {a:?} {b:?}");
                            assert!(!yes || c.contains(x) && d.contains(y), "{rel:?} {x} {y}: {a:?} {b:?} {c:?} {d:?}");
                        }
                    }
                }
            }
        }
    }
}
