//! Conditional jumps: which sides are possible, and what each side knows.

use super::explore::Verifier;
use super::reject::Step;
use super::scalar::{self, Scalar};
use super::state::{Kind, State, Value};
use crate::context::Region;
use crate::insn::{Cond, Insn, Pc, Reg, Src, Width};

/// Packet pointers are compared up to this offset.
const MAX_PACKET_OFFSET: u64 = 0xffff;

/// The sides of a conditional jump that are possible.
pub(super) struct Sides {
    pub taken: Option<State>,
    pub fall: bool,
}

impl Verifier<'_> {
    /// Splits `state` at a conditional jump. Afterwards `state` is the side that is not taken, if there is one.
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
            self.demand_numbers(pc, &[(dst, &a)], src, &b);
            if pointer.nullable {
                return Ok(null_check(state, &pointer, equal_is_taken));
            }
            if matches!(
                pointer.kind,
                Kind::MapValue(_)
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
        let mut taken = state.clone();
        if width != Width::W64 || !packet_check(&mut taken, state, cond, &a, &b) {
            self.keep_address(dst, &a, "pointer comparison prohibited")?;
            if let Src::Reg(src) = src {
                self.keep_address(src, &b, "pointer comparison prohibited")?;
            }
        }
        Ok(Sides { taken: Some(taken), fall: true })
    }

    /// A jump that always goes one way.
    fn one_side(&self, state: &mut State, taken: bool, dst: Reg, src: Src) -> Sides {
        match (self.mistaken(state, dst, src), taken) {
            (None, true) => Sides { taken: Some(state.clone()), fall: false },
            (None, false) => Sides { taken: None, fall: true },
            (Some(other), true) => Sides { taken: Some(std::mem::replace(state, other)), fall: true },
            (Some(other), false) => Sides { taken: Some(other), fall: true },
        }
    }

    fn demand_numbers(&mut self, pc: Pc, regs: &[(Reg, &Value)], src: Src, b: &Value) {
        for (reg, value) in regs {
            if value.is_scalar() {
                self.demand(pc, *reg);
            }
        }
        if let (Src::Reg(reg), true) = (src, b.is_scalar()) {
            self.demand(pc, reg);
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
            self.demand_numbers(pc, &[(dst, a)], src, b);
            return self.one_side(state, taken, dst, src);
        }
        if same {
            return Sides { taken: Some(state.clone()), fall: true };
        }
        let sides = [false, true].map(|taken| scalar::refine(cond, width, taken, &a.num, &b.num));
        let linked = matches!(src, Src::Reg(_)) && (a.id != 0 || b.id != 0);
        if linked || sides.iter().any(Option::is_none) {
            self.demand_numbers(pc, &[(dst, a)], src, b);
        }
        let mut taken = sides[1].is_some().then(|| state.clone());
        let fall = sides[0].is_some();
        let apply = |state: &mut State, (x, y): (Scalar, Scalar)| {
            learn(state, dst, a, x);
            if let Src::Reg(src) = src {
                learn(state, src, b, y);
            }
        };
        if let (Some(state), Some(known)) = (taken.as_mut(), sides[1]) {
            apply(state, known);
        }
        if let Some(known) = sides[0] {
            apply(state, known);
        }
        Sides { taken, fall }
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

/// `reg`, which held `before`, is now known to be `num`; so is everything that holds the same number.
fn learn(state: &mut State, reg: Reg, before: &Value, num: Scalar) {
    if before.id != 0 {
        let id = before.id;
        state.for_each(|v| v.is_scalar() && v.id == id, |v| v.num = num);
    }
    state.cur.regs[reg.index()].num = num;
}

/// `pointer == NULL` or not: resolves every copy of it.
fn null_check(state: &mut State, pointer: &Value, equal_is_taken: bool) -> Sides {
    let mut taken = state.clone();
    let resolve = |state: &mut State, null: bool| {
        let same = |v: &Value| v.nullable && v.id == pointer.id;
        if null && pointer.owner != 0 && pointer.owner == pointer.id {
            // There was nothing to give back.
            state.drop_held(pointer.owner);
        }
        state.for_each(same, |v| match null {
            true => *v = Value::constant(0),
            false => {
                v.nullable = false;
                v.id = 0;
            }
        });
    };
    resolve(&mut taken, equal_is_taken);
    resolve(state, !equal_is_taken);
    Sides { taken: Some(taken), fall: true }
}

/// A packet pointer compared with the end of its region: on one side the bytes in front of it exist.
/// False for any other comparison.
fn packet_check(taken: &mut State, fall: &mut State, cond: Cond, a: &Value, b: &Value) -> bool {
    let ends = |p: &Value, end: &Value| match p.kind {
        Kind::Packet => end.kind == Kind::PacketEnd,
        Kind::PacketMeta => end.kind == Kind::Packet && end.id == 0 && end.fixed_offset() == Some(0),
        _ => false,
    };
    // As "pointer REL end".
    let (pointer, cond) = if ends(a, b) {
        (a, cond)
    } else if ends(b, a) {
        let mirrored = match cond {
            Cond::Gt => Cond::Lt,
            Cond::Lt => Cond::Gt,
            Cond::Ge => Cond::Le,
            Cond::Le => Cond::Ge,
            _ => return false,
        };
        (b, mirrored)
    } else {
        return false;
    };
    // `open`: the pointer is strictly below the end, so one byte more exists.
    let (state, open) = match cond {
        Cond::Gt => (fall, false),
        Cond::Ge => (fall, true),
        Cond::Lt => (taken, true),
        Cond::Le => (taken, false),
        _ => return false,
    };
    let Ok(off) = u64::try_from(pointer.off) else { return true };
    let umax = pointer.num.r.umax;
    if (off == 0 && open) || umax > MAX_PACKET_OFFSET || umax + off > MAX_PACKET_OFFSET {
        return true;
    }
    let range = off as u32 + u32::from(open);
    let (kind, id) = (pointer.kind, pointer.id);
    state.for_each(|v| v.kind == kind && v.id == id, |v| v.range = v.range.max(range));
    true
}
