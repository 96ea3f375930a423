//! Dynptrs: sixteen bytes in the stack that stand for memory whose size is known when the program runs.
//!
//! A dynptr is two slots that are made together and gone together. A program reaches the memory by helpers, or by a slice: a
//! pointer to so many bytes, or null. What belongs to a dynptr names it in [`Value::owner`]: where it stands for a reference
//! (a record of a ring buffer), that is the reference, which its clones share; else it is the dynptr's own name.
//!
//! *Guarantees.* The bytes of a dynptr are never read or written but by its functions: a read is refused, a write makes an
//! end of it and of its slices, and is refused where it stands for a reference. So at run time a dynptr is what one of
//! the functions made.

use super::Trust;
use super::explore::Verifier;
use super::memory::unmodified;
use super::reject::{Fail, Rule, Step};
use super::resource::Resource;
use super::stack::{self, Span};
use super::state::{Dynptr, Frame, Kind, Slot, State, Value};
use crate::context::Packet;
use crate::helper::kfunc::id as kfunc;
use crate::helper::{DYNPTR_SIZE, DynptrKind, id};
use crate::insn::{Pc, Reg};

/// Bytes of a slot.
const SLOT: i64 = 8;

fn fail(reg: Reg, text: String) -> Box<Fail> {
    Fail::new(Rule::Resource, text).with(reg)
}

/// The first slot of the dynptr that `base` may point to; the error says why there can be none.
fn first_slot(base: &Value) -> Result<usize, String> {
    let Some(off) = base.fixed_offset() else { return Err("dynptr has to be at a constant offset".to_owned()) };
    if off % SLOT != 0 || off > -i64::from(DYNPTR_SIZE) {
        return Err(format!("cannot pass in dynptr at an offset={off}"));
    }
    Ok((-off / SLOT) as usize - 1)
}

/// The dynptr whose first slot is numbered so.
fn at(frame: &Frame, slot: usize) -> Option<Dynptr> {
    let first = frame.slot(slot).dynptr().filter(|d| d.first)?;
    let second = frame.slot(slot.checked_sub(1)?).dynptr().filter(|d| !d.first)?;
    (first.owner == second.owner).then_some(first)
}

/// What a dynptr that is made shall stand for.
pub(super) enum New {
    /// Something of this kind.
    Of(DynptrKind),
    /// The same as this one.
    Clone(Dynptr),
}

impl Dynptr {
    /// One that a caller passed on in `value`. It may be of any kind: what is made from it goes when a packet moves.
    fn passed_on(value: &Value) -> Dynptr {
        Dynptr { kind: DynptrKind::Xdp, owner: value.owner, first: true }
    }
}

impl State {
    /// The dynptrs that name `owner` are gone, in every frame.
    pub fn forget_dynptrs(&mut self, owner: u32) {
        let lost = |slot: &Slot| slot.dynptr().is_some_and(|d| d.owner == owner);
        for i in 0..=self.depth() {
            if self.frame(i).stack.iter().any(lost) {
                let stack = std::rc::Rc::make_mut(&mut self.frame_mut(i).stack);
                stack.iter_mut().filter(|slot| lost(slot)).for_each(|slot| *slot = Slot::EMPTY);
            }
        }
    }

    /// Makes an end of the dynptrs that lie where `span` is written, and of their slices.
    pub fn overwrite_dynptrs(&mut self, span: Span, trust: Trust) -> Step<()> {
        let touched = |state: &State| {
            let frame = state.frame(span.frame);
            let slots = (0..frame.stack.len()).filter(|n| span.slots() >> n & 1 == 1);
            slots.filter_map(|n| frame.slot(n).dynptr()).next()
        };
        while let Some(dynptr) = touched(self) {
            if dynptr.is_reference() {
                let fail = Fail::new(Rule::Resource, "cannot overwrite referenced dynptr");
                return Err(fail.help("submit or discard the record first"));
            }
            self.invalidate(|v| v.owner == dynptr.owner, trust);
            self.forget_dynptrs(dynptr.owner);
        }
        Ok(())
    }
}

impl Verifier<'_> {
    /// The dynptr in `reg`, which was made and is an argument of a helper, or of another function.
    pub(super) fn dynptr(&self, state: &State, reg: Reg, of_helper: bool) -> Step<Dynptr> {
        let value = self.dynptr_pointer(state, reg, of_helper)?;
        let Kind::Stack(frame) = value.kind else {
            unmodified(reg, &value)?;
            return Ok(Dynptr::passed_on(&value));
        };
        let wanted = format!("Expected an initialized dynptr as arg #{}", reg.index() - 1);
        let slot = first_slot(&value).map_err(|why| fail(reg, format!("{why}\n{wanted}")))?;
        let found = at(state.frame(frame.into()), slot);
        found.ok_or_else(|| fail(reg, wanted).help("make the dynptr first, on every path that leads here"))
    }

    /// The dynptr in `reg` that stands for a reference, to be given back.
    pub(super) fn dynptr_released(&self, state: &State, reg: Reg) -> Step<Dynptr> {
        let value = self.dynptr_pointer(state, reg, true)?;
        let Kind::Stack(frame) = value.kind else {
            return Err(fail(reg, "cannot release unowned const bpf_dynptr".to_owned()));
        };
        let unacquired = format!("arg {} is an unacquired reference", reg.number());
        let slot = first_slot(&value).map_err(|why| fail(reg, format!("{why}\n{unacquired}")))?;
        let held = |d: &Dynptr| state.held(d.owner).is_some_and(|held| held.what == Resource::Dynptr);
        // Its second half stands for the same, but is no dynptr.
        if state.frame(frame.into()).slot(slot).dynptr().is_some_and(|d| held(&d) && !d.first) {
            return Err(fail(reg, format!("Expected an initialized dynptr as arg #{}", reg.index() - 1)));
        }
        at(state.frame(frame.into()), slot).filter(held).ok_or_else(|| fail(reg, unacquired))
    }

    /// The pointer in `reg`, which is one that may lead to a dynptr.
    fn dynptr_pointer(&self, state: &State, reg: Reg, of_helper: bool) -> Step<Value> {
        let value = self.readable(state, reg)?;
        let text = match value.kind {
            Kind::Stack(_) | Kind::Dynptr => return Ok(value),
            _ if of_helper => format!("R{} type={} expected=fp, dynptr_ptr", reg.number(), value.name()),
            _ => format!("arg#{} expected pointer to stack or const struct bpf_dynptr", reg.index() - 1),
        };
        Err(fail(reg, text).help("make the dynptr in a variable of the function"))
    }

    /// Makes a dynptr where `reg`, an argument of a helper or of another function, points to.
    pub(super) fn dynptr_new(&mut self, state: &mut State, pc: Pc, reg: Reg, what: New, of_helper: bool) -> Step<()> {
        let base = self.dynptr_pointer(state, reg, of_helper)?;
        let uninitialised = "Dynptr has to be an uninitialized dynptr";
        if base.kind == Kind::Dynptr {
            return Err(fail(reg, uninitialised.to_owned()));
        }
        let slot = first_slot(&base).map_err(|why| fail(reg, format!("{why}\n{uninitialised}")))?;
        let span = self.stack_span(state, reg, &base, 0, DYNPTR_SIZE, true)?;
        state.overwrite_dynptrs(span, self.options.trust).map_err(|f| f.with(reg))?;
        let name = self.ids.next();
        let (kind, owner) = match what {
            New::Clone(of) if of.is_reference() => (of.kind, of.owner),
            New::Clone(of) => (of.kind, name),
            New::Of(DynptrKind::Ringbuf) => {
                let id = self.ids.next();
                state.acquire(id, pc, Resource::Dynptr)?;
                (DynptrKind::Ringbuf, id)
            }
            New::Of(kind) => (kind, name),
        };
        let frame = state.frame_mut(span.frame);
        *frame.slot_mut(slot) = Slot::of_dynptr(Dynptr { kind, owner, first: true });
        *frame.slot_mut(slot - 1) = Slot::of_dynptr(Dynptr { kind, owner, first: false });
        Ok(())
    }

    /// A slice of `size` bytes, or null.
    pub(super) fn slice(&mut self, dynptr: Dynptr, size: u32, write: bool) -> Value {
        let kind = match (dynptr.kind.is_packet(), write) {
            (true, write) => Kind::PacketSlice { size, write },
            (false, true) => Kind::Mem(size),
            (false, false) => Kind::Item(size),
        };
        Value { nullable: true, id: self.ids.next(), owner: dynptr.owner, ..Value::pointer(kind) }
    }

    /// What function `id` does besides what its contract says, `dynptr` being the one among its arguments.
    pub(super) fn dynptr_called(&mut self, state: &mut State, id: u32, dynptr: Option<Dynptr>) -> Step<()> {
        let data = state.reg(Reg::R1);
        match id {
            id::DYNPTR_FROM_MEM if !matches!(data.kind, Kind::MapValue(_)) => {
                let text = format!("Unsupported reg type {} for bpf_dynptr_from_mem data", data.name());
                return Err(fail(Reg::R1, text).help("pass memory in a map's value"));
            }
            kfunc::DYNPTR_SLICE_RDWR if self.desc.packet != Packet::Write => {
                return Err(Fail::new(Rule::Helper, "the prog does not allow writes to packet data"));
            }
            id::DYNPTR_WRITE => {
                self.notes.changes_packet |= dynptr.is_some_and(|d| d.kind.is_packet());
                if dynptr.is_some_and(|d| d.kind == DynptrKind::Skb) {
                    state.forget_packet(self.options.trust);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Refuses a write by a helper to where a dynptr lies.
    pub(super) fn keep_dynptrs(&self, state: &State, reg: Reg, span: Span) -> Step<()> {
        let found = stack::bytes(state.frame(span.frame), span).find(|(_, slot)| slot.dynptr().is_some());
        match found {
            Some((off, _)) => Err(fail(reg, format!("potential write to dynptr at off={off} disallowed"))),
            None => Ok(()),
        }
    }
}
