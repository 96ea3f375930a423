//! When a state need not be explored because an explored one covers it.
//!
//! `old` covers `new` when every machine that `new` describes is one that `old` describes, except in registers
//! that are dead ([`super::live`]), slots that are not read, and numbers that do not matter ([`super::history`]).

use super::history::Marks;
use super::live::{ARGS, CALLEE_SAVED, Mask};
use super::resource::{Held, Resource};
use super::state::{Byte, Dynptr, Frame, Slot, State, Value};
use crate::insn::{Pc, Reg};

/// How to compare.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// `old` may describe more.
    Covers(Names),
    /// Both describe the same (to find loops that make no progress).
    Same,
}

/// What loops use up ([`super::looping`]).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// The same in both.
    Same,
    /// Of the same kind: for what is done.
    Alike,
}

impl Mode {
    fn covers(self) -> bool {
        matches!(self, Mode::Covers(_))
    }
}

/// One comparison; reused to avoid allocation.
#[derive(Default)]
pub(super) struct Compare {
    ids: Vec<(u32, u32)>,
    fresh: u32,
}

/// The registers that are live in frame `i` of a state at `pc`.
fn live_in(state: &State, i: usize, pc: Pc, live: &[u16]) -> u16 {
    if i == state.depth() {
        return live[pc.index()];
    }
    let callee = state.frame(i + 1);
    // A helper that calls back gives its arguments to each callback.
    let kept = if callee.called_back.is_some() { CALLEE_SAVED | ARGS } else { CALLEE_SAVED };
    live[callee.call_site.index()] & kept
}

/// Forgets the registers that are dead at `pc`, and ids that only one place has.
pub(super) fn clean(state: &mut State, pc: Pc, live: &[u16]) {
    for i in 0..=state.depth() {
        let live = Mask { regs: live_in(state, i, pc, live), slots: 0 };
        let frame = state.frame_mut(i);
        for reg in Reg::ALL {
            if !live.reg(reg) && reg != Reg::FP {
                frame.set(reg, Value::UNINIT);
            }
        }
    }
    let mut seen = Vec::new();
    for i in 0..=state.depth() {
        let frame = state.frame(i);
        let spilled = frame.stack.iter().filter(|s| s.bytes[0] == Byte::Spill).map(|s| s.spill.id);
        seen.extend(frame.regs.iter().map(|v| v.id).chain(spilled).filter(|id| *id != 0));
    }
    seen.sort_unstable();
    let single = |id: u32| {
        let at = seen.partition_point(|x| *x < id);
        seen.get(at + 1) != Some(&id)
    };
    state.for_each(|v| v.is_scalar() && v.id != 0 && single(v.id), |v| (v.id, v.off) = (0, 0));
}

impl Compare {
    /// Whether `old`, stored at `pc`, stands for `new`. `marks` says what of `old` matters, by frame; without it, all does.
    pub fn states(
        &mut self,
        old: &State,
        new: &State,
        pc: Pc,
        live: &[u16],
        marks: Option<&[Marks]>,
        mode: Mode,
    ) -> bool {
        if old.depth() != new.depth() {
            return false;
        }
        self.ids.clear();
        self.fresh = u32::MAX;
        if !self.held(&old.held, &new.held) {
            return false;
        }
        for i in (0..=old.depth()).rev() {
            let (a, b) = (old.frame(i), new.frame(i));
            if a.func != b.func || a.call_site != b.call_site || !same_loops(a, b, mode) {
                return false;
            }
            let live = live_in(old, i, pc, live);
            let (precise, read) =
                marks.and_then(|m| m.get(i)).map_or((Mask::ALL, u64::MAX), |marks| (marks.precise, marks.read));
            if !self.frames(a, b, (Mask { regs: live, slots: read }, precise), mode) {
                return false;
            }
        }
        true
    }

    /// The same things are held, in the same order.
    fn held(&mut self, old: &[Held], new: &[Held]) -> bool {
        old.len() == new.len()
            && old.iter().zip(new).all(|(a, b)| {
                let same = match (a.what, b.what) {
                    (Resource::Lock { map: m, value: v }, Resource::Lock { map: n, value: w }) => {
                        m == n && (v == 0) == (w == 0) && (v == 0 || self.same_id(v, w))
                    }
                    (x, y) => x == y,
                };
                same && self.same_id(a.id, b.id)
            })
    }

    fn frames(&mut self, a: &Frame, b: &Frame, masks: (Mask, Mask), mode: Mode) -> bool {
        let (live, precise) = masks;
        for reg in Reg::ALL {
            if live.reg(reg) && !self.values(a.reg(reg), b.reg(reg), precise.reg(reg), mode) {
                return false;
            }
        }
        if std::rc::Rc::ptr_eq(&a.stack, &b.stack) {
            // Unchanged since; linked numbers in it, and dynptrs and their slices, stay linked among themselves only.
            let spilled = |s: &Slot| s.bytes[0] == Byte::Spill && (s.spill.id != 0 || s.spill.owner != 0);
            let linked = |s: &Slot| spilled(s) || s.dynptr().is_some();
            if !a.stack.iter().any(linked) {
                return true;
            }
        }
        for n in 0..a.stack.len().max(b.stack.len()) {
            let here = mode == Mode::Same || n < a.stack.len();
            // Iterators and dynptrs are there for whoever may still use them, or must not write over them.
            let kept = a.slot(n).iterator().is_some() || a.slot(n).dynptr().is_some() || b.slot(n).dynptr().is_some();
            let matters = kept || here && live.slot(n);
            if matters && !self.slots(&a.slot(n), &b.slot(n), precise.slot(n), mode) {
                return false;
            }
        }
        true
    }

    fn slots(&mut self, a: &Slot, b: &Slot, precise: bool, mode: Mode) -> bool {
        let spilled = a.spilled() as usize;
        if let Some(x) = a.iterator() {
            let same = |y: super::state::Iterator| {
                x.drained == y.drained
                    && (x.id == y.id || mode != Mode::Covers(Names::Same))
                    && self.same_id(x.id, y.id)
            };
            return b.iterator().is_some_and(same);
        }
        match (a.dynptr(), b.dynptr()) {
            (None, None) => {}
            (Some(x), Some(y)) => return self.dynptrs(x, y),
            (Some(_), None) | (None, Some(_)) => return false,
        }
        if spilled > 0 {
            let Some(value) = content(b, spilled) else { return false };
            if mode == Mode::Same && b.spilled() as usize != spilled || !self.values(&a.spill, &value, precise, mode) {
                return false;
            }
        }
        a.bytes.iter().zip(&b.bytes).skip(spilled).all(|(x, y)| {
            let zero = *y == Byte::Zero || *y == Byte::Spill && b.spill.is_null();
            match (*x, *y) {
                (Byte::Invalid, Byte::Invalid) => true,
                (_, Byte::Iterator | Byte::Dynptr) => false,
                (Byte::Invalid, _) if mode.covers() => true,
                (_, Byte::Invalid) => false,
                (Byte::Misc | Byte::Zero, Byte::Spill) if b.spill.is_pointer() => false,
                (Byte::Misc, _) if mode.covers() => true,
                (Byte::Zero, _) if zero => true,
                (Byte::Zero, _) if !precise && mode.covers() => true,
                (x, y) => x == y,
            }
        })
    }

    fn dynptrs(&mut self, a: Dynptr, b: Dynptr) -> bool {
        a.kind == b.kind && a.first == b.first && self.same_id(a.owner, b.owner)
    }

    fn values(&mut self, a: &Value, b: &Value, precise: bool, mode: Mode) -> bool {
        use super::state::Kind;
        if a.kind == Kind::Uninit && (mode.covers() || b.kind == Kind::Uninit) {
            return true;
        }
        if a.kind != b.kind || a.nullable != b.nullable || (a.owner == 0) != (b.owner == 0) {
            return false;
        }
        if a.owner != 0 && !self.same_id(a.owner, b.owner) {
            return false;
        }
        if mode == Mode::Same {
            let same = a.off == b.off && a.range == b.range && a.num == b.num && (a.id == 0) == (b.id == 0);
            return a.is_scalar() && a.num == b.num || same && (a.id == 0 || self.same_id(a.id, b.id));
        }
        if a.is_scalar() {
            return !precise || a.num.covers(&b.num) && (a.id == 0 || a.off == b.off && self.same_id(a.id, b.id));
        }
        let reach = if a.past_end() { a.range == b.range } else { a.range <= b.reach() };
        let same = a.num.covers(&b.num) && a.off == b.off && reach;
        same && (a.id == 0 || self.same_id(a.id, b.id))
    }

    /// Ids are names: what has one id in the old state must have one id in the new one.
    fn same_id(&mut self, old: u32, new: u32) -> bool {
        if let Some((_, known)) = self.ids.iter().find(|(a, _)| *a == old) {
            return *known == new && new != 0;
        }
        let new = if new == 0 {
            self.fresh -= 1;
            self.fresh
        } else {
            new
        };
        self.ids.push((old, new));
        true
    }
}

/// Two frames are in the same place of the loops around them.
fn same_loops(a: &Frame, b: &Frame, mode: Mode) -> bool {
    let names = mode == Mode::Covers(Names::Same);
    a.called_back == b.called_back
        && (a.calls.id == 0) == (b.calls.id == 0)
        && a.calls.count <= b.calls.count
        && a.budget.spent == b.budget.spent
        && (!names || a.calls.id == b.calls.id && b.budget.continues(a.budget))
}

/// The low `bytes` bytes of a slot as one value; `None` where they are not one.
fn content(slot: &Slot, bytes: usize) -> Option<Value> {
    use super::scalar::Scalar;
    let spilled = slot.spilled() as usize;
    if spilled == bytes {
        return Some(slot.spill);
    }
    if slot.holds_pointer()
        || slot.bytes[..bytes].iter().any(|b| matches!(b, Byte::Invalid | Byte::Iterator | Byte::Dynptr))
    {
        return None;
    }
    if slot.bytes[..bytes].iter().all(|b| *b == Byte::Zero) {
        return Some(Value::constant(0));
    }
    Some(Value::scalar(Scalar::unsigned_bits(8 * bytes as u32)))
}
