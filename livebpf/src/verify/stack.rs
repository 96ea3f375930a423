//! Reads and writes of stack bytes: spills, fills, and plain memory.
//!
//! Offsets are bytes from the frame pointer, negative. Uninitialised bytes are never read, and a spilled pointer
//! comes back only as a whole.

use super::MAX_STACK;
use super::reject::{Fail, Rule, Step};
use super::scalar::Scalar;
use super::state::{Byte, Frame, Kind, Slot, State, Value};
use crate::insn::{Reg, Size};

/// Where byte `off` lies: slot and byte in it (0 is the lowest address).
fn place(off: i64) -> (usize, usize) {
    let below = (-off - 1) as usize;
    (below / 8, 7 - below % 8)
}

/// A stack access with a known frame and bounds of its offset.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub frame: usize,
    /// First byte, at the least and at the most.
    pub min: i64,
    pub max: i64,
    pub size: u32,
}

impl Span {
    fn exact(&self) -> bool {
        self.min == self.max
    }
    /// The slots it may touch, one bit each.
    pub fn slots(&self) -> u64 {
        let (first, last) = (place(self.max + i64::from(self.size) - 1).0, place(self.min).0);
        (u64::MAX >> (63 - last)) & (u64::MAX << first)
    }
    /// Whether it is one slot, all of it.
    pub fn whole_slot(&self) -> bool {
        self.exact() && self.size == 8 && self.min % 8 == 0
    }
}

/// Checks that `size` bytes at `off` from pointer `base` lie within its frame.
pub(super) fn span(reg: Reg, base: &Value, off: i64, size: u32, write: bool) -> Step<Span> {
    let Kind::Stack(frame) = base.kind else { unreachable!("callers pass stack pointers") };
    let (what, n) = (if write { "write to" } else { "read from" }, reg.number());
    let fixed = i64::from(base.off) + off;
    if base.num.known().is_none() && (base.num.r.smin <= -(1 << 29) || base.num.r.smax >= 1 << 29) {
        let text = format!("invalid unbounded variable-offset {what} stack R{n}");
        return Err(Fail::new(Rule::Memory, text).with(reg).help("bound the index on both sides before using it"));
    }
    let (min, max) = (fixed.saturating_add(base.num.r.smin), fixed.saturating_add(base.num.r.smax));
    if min < -i64::from(MAX_STACK) || max.saturating_add(size.max(1).into()) > 0 {
        return Err(outside(reg, base, off, size, write));
    }
    Ok(Span { frame: frame.into(), min, max, size })
}

/// The number in the `size` bytes at `off`, where it is known and was written as a whole (or is zero), and the slot that it is in.
/// `off` is inside of the stack.
pub(super) fn constant(frame: &Frame, off: i64, size: usize) -> (usize, Option<u64>) {
    let (n, first) = place(off);
    let slot = frame.slot(n);
    let bytes = slot.bytes.get(first..first + size);
    let number = match bytes {
        Some(bytes) if bytes.iter().all(|byte| *byte == Byte::Zero) => Some(0),
        Some(_) if first == 0 && slot.spilled() as usize == size && slot.spill.is_scalar() => slot.spill.num.known(),
        _ => None,
    };
    (n, number)
}

/// The refusal of an access that does not stay within the stack.
pub(super) fn outside(reg: Reg, base: &Value, off: i64, size: u32, write: bool) -> Box<Fail> {
    let (what, n) = (if write { "write to" } else { "read from" }, reg.number());
    let off = i64::from(base.off) + off;
    let text = match base.num.known() {
        Some(var) => format!("invalid {what} stack R{n} off={} size={size}", off.wrapping_add(var as i64)),
        None => format!("invalid variable-offset {what} stack R{n} var_off={} off={off} size={size}", base.num.bits),
    };
    Fail::new(Rule::Memory, text).with(reg)
}

/// Refuses a write that would leave part of a spilled address behind as a number: for authors who are not trusted, and may
/// not write where the offset varies.
pub(super) fn keep_whole(frame: &Frame, span: Span) -> Step<()> {
    let holds = |slot: usize| span.slots() >> slot & 1 == 1 && frame.slot(slot).holds_pointer();
    let whole = span.exact() && (span.size, place(span.min).1) == (8, 0);
    if whole || !(0..frame.stack.len()).any(holds) {
        return Ok(());
    }
    Err(Fail::new(Rule::Memory, "attempt to corrupt spilled pointer on stack"))
}

/// Writes the low `span.size` bytes of `value`; a number that is spilled whole gets an id, so that it stays linked.
pub(super) fn write(state: &mut State, span: Span, value: &mut Value, new_id: impl FnOnce() -> u32) -> Step<()> {
    if matches!(value.kind, Kind::Stack(_)) && span.frame != state.depth() {
        return Err(Fail::new(Rule::Pointer, "cannot spill pointers to stack into stack frame of the caller"));
    }
    let frame = state.frame_mut(span.frame);
    if !span.exact() {
        weaken(frame, span, value.is_null());
        return Ok(());
    }
    let (slot, low) = place(span.min);
    let slot = frame.slot_mut(slot);
    let size = span.size as usize;
    if value.is_pointer() || (size == 8 && value.kind != Kind::Uninit) || (low == 0 && value.is_scalar()) {
        if value.is_pointer() && size != 8 {
            return Err(Fail::new(Rule::Memory, "invalid size of register spill"));
        }
        slot.scrub();
        let fits = span.size == 8 || value.num.r.umax >> (8 * span.size) == 0;
        if value.is_scalar() && value.num.known().is_none() && value.id == 0 && fits {
            value.id = new_id();
        }
        // What is linked has the same bounds everywhere.
        let num = if value.is_scalar() && !fits { value.num.truncate(8 * span.size) } else { value.num };
        let (id, off) = if fits || value.is_pointer() { (value.id, value.off) } else { (0, 0) };
        slot.spill = Value { num, id, off, ..*value };
        slot.bytes[..size].fill(Byte::Spill);
        return Ok(());
    }
    slot.scrub();
    let byte = if value.is_null() { Byte::Zero } else { Byte::Misc };
    slot.bytes[low..low + size].fill(byte);
    Ok(())
}

/// Bytes that may have been written: whatever was initialised becomes some number.
fn weaken(frame: &mut Frame, span: Span, zero: bool) {
    for off in span.min..span.max + i64::from(span.size) {
        let (slot, byte) = place(off);
        if frame.slot(slot) == Slot::EMPTY {
            continue;
        }
        let slot = frame.slot_mut(slot);
        slot.scrub();
        let old = slot.bytes[byte];
        if old == Byte::Misc || old == Byte::Zero && !zero {
            slot.bytes[byte] = Byte::Misc;
        }
    }
}

/// Marks bytes as some number (written by a helper or a global function). Variable spans only weaken.
pub(super) fn overwrite(state: &mut State, span: Span) {
    let frame = state.frame_mut(span.frame);
    if !span.exact() {
        weaken(frame, span, false);
        return;
    }
    for off in span.min..span.min + i64::from(span.size) {
        let (slot, byte) = place(off);
        let slot = frame.slot_mut(slot);
        slot.scrub();
        slot.bytes[byte] = Byte::Misc;
    }
}

/// What reading stack bytes gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Content {
    /// All are zero.
    pub zero: bool,
    /// Some were not written.
    pub unwritten: bool,
    /// Some belong to a spilled pointer.
    pub pointer: bool,
}

/// Reads a register's worth; the result is zero-extended.
pub(super) fn read(state: &State, span: Span, size: Size, rules: Rules) -> Step<(Value, Content)> {
    let frame = state.frame(span.frame);
    let bits = size.bits();
    if span.exact() {
        let (index, low) = place(span.min);
        let slot = frame.slot(index);
        let spilled = slot.spilled();
        if spilled > 0 && slot.spill.is_pointer() {
            if span.size != 8 {
                return Err(Fail::new(Rule::Memory, "invalid size of register fill"));
            }
            return Ok((slot.spill, Content { pointer: true, ..Content::default() }));
        }
        if low == 0 && spilled >= span.size {
            let fits = span.size == 8 || slot.spill.num.r.umax >> bits == 0;
            let (id, off) = if fits { (slot.spill.id, slot.spill.off) } else { (0, 0) };
            let num = if fits { slot.spill.num } else { slot.spill.num.truncate(bits) };
            let value = Value { num, id, off, ..slot.spill };
            return Ok((value, Content::default()));
        }
    }
    let content = readable(frame, span, rules)?;
    Ok((if content.zero { Value::constant(0) } else { Value::scalar(Scalar::unsigned_bits(bits)) }, content))
}

/// The bytes that an access of the span may touch: offset, and the slot that each lies in.
pub(super) fn bytes(frame: &Frame, span: Span) -> impl Iterator<Item = (i64, Slot)> + '_ {
    (span.min..span.max + i64::from(span.size)).map(|off| (off, frame.slot(place(off).0)))
}

/// Which bytes may be read.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// Those of spilled pointers.
    pub pointers: bool,
    /// Those that were not written.
    pub unwritten: bool,
    /// The register that a helper gets, where the bytes are its argument.
    pub argument: Option<Reg>,
}

/// Checks that all bytes of the span may be read, and says what they are.
pub(super) fn readable(frame: &Frame, span: Span, rules: Rules) -> Step<Content> {
    let mut content = Content { zero: true, ..Content::default() };
    let refused = |off: i64| {
        let what = rules.argument.map(|reg| format!(" R{}", reg.number())).unwrap_or_default();
        format!("invalid read from stack{what} off {}+{} size {}", span.min, off - span.min, span.size)
    };
    for off in span.min..span.max + i64::from(span.size) {
        let (index, byte) = place(off);
        let slot = frame.slot(index);
        match slot.bytes[byte] {
            Byte::Zero => {}
            Byte::Misc => content.zero = false,
            Byte::Spill if slot.spill.is_scalar() => content.zero &= slot.spill.is_null(),
            Byte::Spill if rules.pointers => (content.zero, content.pointer) = (false, true),
            Byte::Spill => {
                let text = format!("leaking pointer from stack off {off}");
                return Err(Fail::new(Rule::Pointer, text));
            }
            Byte::Iterator | Byte::Dynptr => {
                let text = refused(off);
                return Err(
                    Fail::new(Rule::Memory, text).help("iterators and dynptrs are for their own functions only")
                );
            }
            Byte::Invalid if rules.unwritten => (content.zero, content.unwritten) = (false, true),
            Byte::Invalid => {
                let text = refused(off);
                return Err(Fail::new(Rule::Uninitialised, text).help("initialise the variable on the stack first"));
            }
        }
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insn::Pc;
    use crate::link::SubprogId;

    fn state() -> State {
        State::new(Frame::new(0, SubprogId(0), Pc(0)))
    }
    fn at(off: i64, size: u32) -> Span {
        Span { frame: 0, min: off, max: off, size }
    }
    fn put(state: &mut State, off: i64, size: u32, mut value: Value) -> Step<()> {
        write(state, at(off, size), &mut value, || 7)
    }

    fn read(state: &State, span: Span, size: Size) -> Step<Value> {
        let strict = Rules { pointers: false, unwritten: false, argument: None };
        super::read(state, span, size, strict).map(|(value, _)| value)
    }

    #[test]
    fn places_are_little_endian() {
        assert_eq!([place(-1), place(-8), place(-9), place(-512)], [(0, 7), (0, 0), (1, 7), (63, 0)]);
    }

    #[test]
    fn a_spilled_pointer_comes_back_whole_or_not_at_all() {
        let mut s = state();
        let pointer = Value::pointer(Kind::Ctx);
        put(&mut s, -8, 8, pointer).unwrap();
        assert_eq!(read(&s, at(-8, 8), Size::DW).unwrap(), pointer);
        assert!(read(&s, at(-8, 4), Size::W).unwrap_err().message.contains("register fill"));
        assert!(put(&mut s, -16, 4, pointer).unwrap_err().message.contains("register spill"));
        put(&mut s, -8, 1, Value::constant(1)).unwrap();
        assert!(read(&s, at(-8, 8), Size::DW).unwrap().is_scalar());
    }

    #[test]
    fn narrow_spills_keep_what_is_known() {
        let mut s = state();
        put(&mut s, -8, 4, Value::constant(0x1_0000_0005)).unwrap();
        assert_eq!(read(&s, at(-8, 4), Size::W).unwrap().num.known(), Some(5));
        assert_eq!(read(&s, at(-8, 2), Size::H).unwrap().num.known(), Some(5));
        assert!(read(&s, at(-8, 8), Size::DW).unwrap_err().message.contains("invalid read from stack"));
        put(&mut s, -4, 4, Value::constant(0)).unwrap();
        assert_eq!(read(&s, at(-8, 8), Size::DW).unwrap().num.known(), None);
        assert_eq!(read(&s, at(-4, 4), Size::W).unwrap().num.known(), Some(0));
    }

    #[test]
    fn uninitialised_bytes_are_refused_and_variable_writes_do_not_initialise() {
        let mut s = state();
        assert!(read(&s, at(-8, 1), Size::B).is_err());
        let span = Span { frame: 0, min: -16, max: -9, size: 1 };
        let mut value = Value::constant(1);
        put(&mut s, -16, 4, Value::constant(0)).unwrap();
        write(&mut s, span, &mut value, || 1).unwrap();
        assert_eq!(read(&s, at(-16, 4), Size::W).unwrap().num.known(), None);
        assert!(read(&s, at(-12, 4), Size::W).is_err());
        overwrite(&mut s, at(-16, 8));
        assert!(read(&s, at(-16, 8), Size::DW).is_ok());
    }
}
