//! When a state need not be explored because an explored one covers it.
//!
//! `old` covers `new` when every machine that `new` describes is one that `old` describes, except in registers
//! and slots that cannot matter any more ([`super::live`]). What was let pass for the latter reason is recorded,
//! because the demands behind the masks can still grow; the caller checks it in the end.

use super::live::{Mask, Masks};
use super::resource::{Held, Resource};
use super::state::{Byte, Frame, Slot, State, Value};
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
    /// Places where a number only passed because it does not matter: (position of the mask, what).
    pub relied: Vec<(Pc, Mask)>,
}

/// Registers that survive in a caller's frame.
const CALLEE_SAVED: u16 = 0b111_1100_0000;
/// And in the frame of a helper's call that calls back, which gives them to each callback.
const ARGS: u16 = 0b11_1110;

/// The mask of frame `i` of a state at `pc`, and the position it is taken from.
pub(super) fn mask_of(state: &State, i: usize, pc: Pc, masks: &[Mask]) -> (Pc, Mask) {
    if i == state.depth() {
        return (pc, masks[pc.index()]);
    }
    let callee = state.frame(i + 1);
    let kept = if callee.called_back.is_some() { CALLEE_SAVED | ARGS } else { CALLEE_SAVED };
    let mask = masks[callee.call_site.index()];
    (callee.call_site, Mask { regs: mask.regs & kept, slots: mask.slots })
}

/// Forgets everything in `state` that is dead at `pc`, and ids that only one place has.
pub(super) fn clean(state: &mut State, pc: Pc, masks: &Masks) {
    for i in 0..=state.depth() {
        let (_, live) = mask_of(state, i, pc, &masks.live);
        let frame = state.frame_mut(i);
        for reg in Reg::ALL {
            if !live.reg(reg) && reg != Reg::FP {
                frame.set(reg, Value::UNINIT);
            }
        }
        let dead = |(n, slot): (usize, &Slot)| live.slots >> n & 1 == 0 && *slot != Slot::EMPTY;
        if frame.stack.iter().enumerate().any(dead) {
            let stack = std::rc::Rc::make_mut(&mut frame.stack);
            for (n, slot) in stack.iter_mut().enumerate() {
                if live.slots >> n & 1 == 0 {
                    *slot = Slot::EMPTY;
                }
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
    /// Whether `old`, stored at `pc`, stands for `new`.
    pub fn states(&mut self, old: &State, new: &State, pc: Pc, masks: &Masks, mode: Mode) -> bool {
        if old.depth() != new.depth() {
            return false;
        }
        self.ids.clear();
        self.relied.clear();
        self.fresh = u32::MAX;
        if !self.held(&old.held, &new.held) {
            return false;
        }
        for i in (0..=old.depth()).rev() {
            let (a, b) = (old.frame(i), new.frame(i));
            if a.func != b.func || a.call_site != b.call_site || !same_loops(a, b, mode) {
                return false;
            }
            let (at, precise) = mask_of(old, i, pc, &masks.precise);
            let (_, live) = mask_of(old, i, pc, &masks.live);
            let mut relied = Mask::default();
            if !self.frames(a, b, (live, precise), mode, &mut relied) {
                return false;
            }
            if relied != Mask::default() {
                self.relied.push((at, relied));
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

    fn frames(&mut self, a: &Frame, b: &Frame, masks: (Mask, Mask), mode: Mode, relied: &mut Mask) -> bool {
        let (live, precise) = masks;
        for reg in Reg::ALL {
            if !live.reg(reg) {
                continue;
            }
            match self.values(a.reg(reg), b.reg(reg), precise.reg(reg), mode) {
                Verdict::No => return false,
                Verdict::Yes => {}
                Verdict::Relied => relied.regs |= 1 << reg.index(),
            }
        }
        if std::rc::Rc::ptr_eq(&a.stack, &b.stack) {
            // Unchanged since; linked numbers in it stay linked among themselves only.
            let linked = |s: &Slot| s.bytes[0] == Byte::Spill && s.spill.id != 0;
            if !a.stack.iter().any(linked) {
                return true;
            }
        }
        for n in 0..a.stack.len().max(if mode == Mode::Same { b.stack.len() } else { 0 }) {
            if live.slots >> n & 1 == 0 {
                continue;
            }
            match self.slots(&a.slot(n), &b.slot(n), precise.slots >> n & 1 == 1, mode) {
                Verdict::No => return false,
                Verdict::Yes => {}
                Verdict::Relied => relied.slots |= 1 << n,
            }
        }
        true
    }

    fn slots(&mut self, a: &Slot, b: &Slot, precise: bool, mode: Mode) -> Verdict {
        if let Some(x) = a.iterator() {
            let same = |y: super::state::Iterator| {
                x.drained == y.drained
                    && (x.id == y.id || mode != Mode::Covers(Names::Same))
                    && self.same_id(x.id, y.id)
            };
            return Verdict::from(b.iterator().is_some_and(same));
        }
        let mut verdict = Verdict::Yes;
        let spilled = a.spilled() as usize;
        if spilled > 0 {
            let value = content(b, spilled);
            let Some(value) = value else { return Verdict::No };
            if mode == Mode::Same && b.spilled() as usize != spilled {
                return Verdict::No;
            }
            verdict = self.values(&a.spill, &value, precise, mode);
        }
        for (x, y) in a.bytes.iter().zip(&b.bytes).skip(spilled) {
            let zero = *y == Byte::Zero || *y == Byte::Spill && b.spill.is_null();
            verdict = verdict.and(match (*x, *y) {
                (Byte::Invalid, Byte::Invalid) => Verdict::Yes,
                (Byte::Invalid, _) if mode.covers() => Verdict::Yes,
                (_, Byte::Invalid) => Verdict::No,
                (_, Byte::Iterator) => Verdict::No,
                (Byte::Misc, Byte::Spill) if b.spill.is_pointer() => Verdict::No,
                (Byte::Misc, _) if mode.covers() => Verdict::Yes,
                (Byte::Zero, _) if zero => Verdict::Yes,
                (Byte::Zero, Byte::Spill) if b.spill.is_pointer() => Verdict::No,
                (Byte::Zero, _) if !precise && mode.covers() => Verdict::Relied,
                (x, y) if x == y => Verdict::Yes,
                _ => Verdict::No,
            });
        }
        verdict
    }

    fn values(&mut self, a: &Value, b: &Value, precise: bool, mode: Mode) -> Verdict {
        use super::state::Kind;
        if a.kind == Kind::Uninit && (mode.covers() || b.kind == Kind::Uninit) {
            return Verdict::Yes;
        }
        if a.kind != b.kind || a.nullable != b.nullable || (a.owner == 0) != (b.owner == 0) {
            return Verdict::No;
        }
        if a.owner != 0 && !self.same_id(a.owner, b.owner) {
            return Verdict::No;
        }
        if mode == Mode::Same {
            let same = a.off == b.off && a.range == b.range && a.num == b.num && (a.id == 0) == (b.id == 0);
            return Verdict::from(a.is_scalar() && a.num == b.num || same && (a.id == 0 || self.same_id(a.id, b.id)));
        }
        let covers = a.num.covers(&b.num);
        if a.is_scalar() {
            if a.id != 0 && (a.off != b.off || !self.same_id(a.id, b.id)) {
                return Verdict::No;
            }
            return match (covers, precise) {
                (true, _) => Verdict::Yes,
                (false, false) => Verdict::Relied,
                (false, true) => Verdict::No,
            };
        }
        let reach = if a.past_end() { a.range == b.range } else { a.range <= b.reach() };
        let same = covers && a.off == b.off && reach;
        Verdict::from(same && (a.id == 0 || self.same_id(a.id, b.id)))
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
    if slot.holds_pointer() || slot.bytes[..bytes].iter().any(|b| matches!(b, Byte::Invalid | Byte::Iterator)) {
        return None;
    }
    if slot.bytes[..bytes].iter().all(|b| *b == Byte::Zero) {
        return Some(Value::constant(0));
    }
    Some(Value::scalar(Scalar::unsigned_bits(8 * bytes as u32)))
}

/// The outcome of comparing one place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    No,
    Yes,
    /// Yes, because the number does not matter.
    Relied,
}

impl Verdict {
    fn and(self, other: Verdict) -> Verdict {
        match (self, other) {
            (Verdict::No, _) | (_, Verdict::No) => Verdict::No,
            (Verdict::Relied, _) | (_, Verdict::Relied) => Verdict::Relied,
            (Verdict::Yes, Verdict::Yes) => Verdict::Yes,
        }
    }
}

impl From<bool> for Verdict {
    fn from(yes: bool) -> Verdict {
        if yes { Verdict::Yes } else { Verdict::No }
    }
}
