//! Conditional jumps: which sides are possible, and what each side knows.

use super::alu;
use super::explore::Verifier;
use super::history::Place;
use super::live::Mask;
use super::reject::Step;
use super::scalar::{self, Scalar};
use super::state::{AT_END, Kind, PAST_END, State, Value};
use crate::context::Region;
use crate::insn::{AluOp, Cond, Insn, Pc, Reg, Src, Width};

/// Packet pointers are compared up to this offset.
const MAX_PACKET_OFFSET: u64 = 0xffff;

/// The sides of a conditional jump that are possible. The state that was split is the only one, or the one that is not taken.
pub(super) enum Sides {
    /// Both; this is the one that is taken.
    Both(Box<State>),
    Taken,
    Fall,
    /// No value takes either.
    Neither,
}

impl Verifier<'_> {
    /// Splits `state` at a conditional jump.
    pub(super) fn branch(&mut self, state: &mut State, pc: Pc, insn: &Insn) -> Step<Sides> {
        let Insn::Jmp { cond, width, dst, src, .. } = *insn else { unreachable!("callers pass conditional jumps") };
        let a = self.readable(state, dst)?;
        let b = self.operand(state, src)?;
        if a.is_scalar() && b.is_scalar() {
            return Ok(self.numbers(state, pc, (cond, width), (dst, &a), (src, &b)));
        }
        if width == Width::W64 && matches!(cond, Cond::Eq | Cond::Ne) && (a.is_null() || b.is_null()) {
            let pointer = if a.is_pointer() { a } else { b };
            let equal_is_taken = cond == Cond::Eq;
            // That the other side is zero decides what is learnt.
            self.demand_numbers(state, pc, &[(dst, &a)], src, &b);
            if pointer.nullable {
                let taken = self.forks.fork(state);
                return Ok(null_check(state, taken, &pointer, (equal_is_taken, self.has_lock(&pointer))));
            }
            if matches!(
                pointer.kind,
                Kind::MapValue(_)
                    | Kind::MapKey(_)
                    | Kind::Item(_)
                    | Kind::PacketSlice { .. }
                    | Kind::Map(_)
                    | Kind::Mem(_)
                    | Kind::Record(_)
                    | Kind::Handle(_)
                    | Kind::Region(Region::FlowKeys)
                    | Kind::Socket(_)
            ) {
                return Ok(self.one_side(state, !equal_is_taken, dst, src));
            }
        }
        // A number compared with a pointer: which number it is does not matter, both sides stay possible.
        let packet = packet_check(cond, &a, &b).filter(|_| width == Width::W64);
        if let Some(taken) = packet.and_then(|(pointer, cond)| packet_decided(pointer, cond)) {
            return Ok(self.one_side(state, taken, dst, src));
        }
        let mut taken = self.forks.fork(state);
        match packet {
            Some((pointer, cond)) => packet_sides(&mut taken, state, pointer, cond),
            None => {
                self.keep_address(dst, &a, "pointer comparison prohibited")?;
                if let Src::Reg(src) = src {
                    self.keep_address(src, &b, "pointer comparison prohibited")?;
                }
                equal_pointers(&mut taken, state, (cond, width), (&a, self.has_lock(&a)), (&b, self.has_lock(&b)));
            }
        }
        Ok(Sides::Both(taken))
    }

    /// A jump that always goes one way.
    fn one_side(&mut self, state: &mut State, taken: bool, dst: Reg, src: Src) -> Sides {
        match (self.mistaken(state, dst, src), taken) {
            (None, true) => Sides::Taken,
            (None, false) => Sides::Fall,
            (Some(mut other), true) => {
                std::mem::swap(state, &mut other);
                Sides::Both(other)
            }
            (Some(other), false) => Sides::Both(other),
        }
    }

    fn demand_numbers(&mut self, state: &State, pc: Pc, regs: &[(Reg, &Value)], src: Src, b: &Value) {
        for (reg, value) in regs {
            if value.is_scalar() {
                self.demand(state, pc, *reg);
            }
        }
        if let (Src::Reg(reg), true) = (src, b.is_scalar()) {
            self.demand(state, pc, reg);
        }
    }

    fn numbers(
        &mut self,
        state: &mut State,
        pc: Pc,
        (cond, width): (Cond, Width),
        (dst, a): (Reg, &Value),
        (src, b): (Src, &Value),
    ) -> Sides {
        let same = src == Src::Reg(dst);
        let decided = match same {
            true => same_register(cond, &a.num, width),
            false => scalar::decide(cond, width, &a.num, &b.num),
        };
        if let Some(taken) = decided {
            self.demand_numbers(state, pc, &[(dst, a)], src, b);
            return self.one_side(state, taken, dst, src);
        }
        if same {
            return Sides::Both(self.forks.fork(state));
        }
        let sides = [false, true].map(|taken| scalar::refine(cond, width, taken, &a.num, &b.num));
        if sides.iter().any(Option::is_none) {
            self.demand_numbers(state, pc, &[(dst, a)], src, b);
        }
        for id in [a.id, b.id].into_iter().filter(|id| *id != 0) {
            let places: Vec<Place> = linked_places(state, id);
            self.history.learnt(&mut state.at, pc, places.into_iter());
        }
        let apply = |state: &mut State, (x, y): (Scalar, Scalar)| {
            learn(state, dst, a, x);
            if let Src::Reg(src) = src {
                learn(state, src, b, y);
            }
        };
        match sides {
            [Some(fallen), Some(taken)] => {
                let mut other = self.forks.fork(state);
                apply(&mut other, taken);
                apply(state, fallen);
                Sides::Both(other)
            }
            [Some(fallen), None] => {
                apply(state, fallen);
                Sides::Fall
            }
            [None, Some(taken)] => {
                apply(state, taken);
                Sides::Taken
            }
            [None, None] => Sides::Neither,
        }
    }
}

/// A comparison of a register with itself.
fn same_register(cond: Cond, num: &Scalar, width: Width) -> Option<bool> {
    match cond {
        Cond::Eq | Cond::Ge | Cond::Le | Cond::Sge | Cond::Sle => Some(true),
        Cond::Ne | Cond::Gt | Cond::Lt | Cond::Sgt | Cond::Slt => Some(false),
        Cond::Set => scalar::decide(Cond::Ne, width, num, &Scalar::constant(0)),
    }
}

/// Whether `v` is a number at a constant distance from `from`.
fn distant(v: &Value, from: &Value) -> bool {
    from.id != 0 && v.is_scalar() && v.id == from.id && v.off != from.off
}

/// `reg`, which held `before`, is now known to be `num`; so is everything that holds the same number.
fn learn(state: &mut State, reg: Reg, before: &Value, num: Scalar) {
    if before.id != 0 {
        let same = |v: &Value| v.is_scalar() && v.id == before.id && v.off == before.off;
        state.for_each(same, |v| v.num = num);
        state.for_each(
            |v| distant(v, before),
            |v| {
                let by = Scalar::constant((i64::from(v.off) - i64::from(before.off)) as u64);
                let derived = alu::binary(AluOp::Add, Width::W64, &num, &by);
                v.num = v.num.intersect(&derived).unwrap_or(derived);
            },
        );
    }
    state.cur.regs[reg.index()].num = num;
}

/// Everything that holds the number called `id`.
fn linked_places(state: &State, id: u32) -> Vec<Place> {
    let same = |v: &Value| v.is_scalar() && v.id == id;
    let mut out = Vec::new();
    for i in 0..=state.depth() {
        let frame = state.frame(i);
        let mut mask = Mask::default();
        for (n, _) in frame.regs.iter().enumerate().filter(|(_, v)| same(v)) {
            mask.regs |= 1 << n;
        }
        for (n, _) in frame.stack.iter().enumerate().filter(|(_, s)| s.spilled() > 0 && same(&s.spill)) {
            mask.slots |= 1 << n;
        }
        if mask != Mask::default() {
            out.push(Place { frame: i as u8, mask });
        }
    }
    out
}

/// `pointer == NULL` or not, on `taken` and on the other side: resolves every copy of it. `keep`: which value it points to still matters.
fn null_check(
    state: &mut State,
    mut taken: Box<State>,
    pointer: &Value,
    (equal_is_taken, keep): (bool, bool),
) -> Sides {
    let resolve = |state: &mut State, null: bool| {
        let same = |v: &Value| v.nullable && v.id == pointer.id;
        if null && pointer.owner != 0 && pointer.owner == pointer.id {
            // There was nothing to give back.
            state.drop_held(pointer.owner);
        }
        state.for_each(same, |v| match null {
            true => *v = Value::constant(0),
            false => not_null(v, keep),
        });
    };
    resolve(&mut taken, equal_is_taken);
    resolve(state, !equal_is_taken);
    Sides::Both(taken)
}

/// `keep`: which value it is still matters, for the lock in it.
pub(super) fn not_null(v: &mut Value, keep: bool) {
    v.nullable = false;
    if !keep {
        v.id = 0;
    }
}

/// Two pointers compared: what equals one that exists is not null.
fn equal_pointers(
    taken: &mut State,
    fall: &mut State,
    (cond, width): (Cond, Width),
    a: (&Value, bool),
    b: (&Value, bool),
) {
    let equal = match (cond, width) {
        (Cond::Eq, Width::W64) => taken,
        (Cond::Ne, Width::W64) => fall,
        _ => return,
    };
    for ((pointer, keep), (other, _)) in [(a, b), (b, a)] {
        if pointer.nullable && other.is_solid() {
            equal.for_each(|v| v.nullable && v.id == pointer.id, |v| not_null(v, keep));
        }
    }
}

/// A packet pointer compared with the end of its region, as "pointer REL end". `None` for any other comparison.
fn packet_check<'v>(cond: Cond, a: &'v Value, b: &'v Value) -> Option<(&'v Value, Cond)> {
    let ends = |p: &Value, end: &Value| match p.kind {
        Kind::Packet => end.kind == Kind::PacketEnd,
        Kind::PacketMeta => end.kind == Kind::Packet && end.id == 0 && end.fixed_offset() == Some(0),
        _ => false,
    };
    let orders = matches!(cond, Cond::Gt | Cond::Lt | Cond::Ge | Cond::Le);
    match (ends(a, b), ends(b, a)) {
        (true, _) if orders => Some((a, cond)),
        (_, true) if orders => Some((b, mirrored(cond))),
        _ => None,
    }
}

/// The relation with its sides exchanged.
fn mirrored(cond: Cond) -> Cond {
    match cond {
        Cond::Gt => Cond::Lt,
        Cond::Lt => Cond::Gt,
        Cond::Ge => Cond::Le,
        Cond::Le => Cond::Ge,
        Cond::Eq | Cond::Ne | Cond::Sgt | Cond::Sge | Cond::Slt | Cond::Sle | Cond::Set => cond,
    }
}

/// Whether "pointer REL end" holds, as far as earlier comparisons say.
fn packet_decided(pointer: &Value, cond: Cond) -> Option<bool> {
    let (at, past) = (pointer.past_end(), pointer.range == PAST_END);
    match cond {
        Cond::Gt if past => Some(true),
        Cond::Le if past => Some(false),
        Cond::Ge if at => Some(true),
        Cond::Lt if at => Some(false),
        _ => None,
    }
}

/// What both sides of "pointer REL end" know: on one the bytes in front of the pointer exist, on the other the pointer is
/// not inside.
fn packet_sides(taken: &mut State, fall: &mut State, pointer: &Value, cond: Cond) {
    // `open`: the pointer is strictly below the end, so one byte more exists.
    let (inside, outside, open) = match cond {
        Cond::Gt => (fall, taken, false),
        Cond::Ge => (fall, taken, true),
        Cond::Lt => (taken, fall, true),
        Cond::Le => (taken, fall, false),
        _ => return,
    };
    let (kind, id) = (pointer.kind, pointer.id);
    if kind == Kind::Packet && pointer.reach() == 0 {
        let end = if open { AT_END } else { PAST_END };
        outside.for_each(|v| v == pointer, |v| v.range = end);
    }
    let Ok(off) = u64::try_from(pointer.off) else { return };
    let umax = pointer.num.r.umax;
    if (off == 0 && open) || umax > MAX_PACKET_OFFSET || umax + off > MAX_PACKET_OFFSET {
        return;
    }
    let range = off as u32 + u32::from(open);
    inside.for_each(|v| v.kind == kind && v.id == id, |v| v.range = v.reach().max(range));
}
