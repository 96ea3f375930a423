//! The kernel's notation for what registers and stack slots hold, as its log and the tools that read it have it.
//!
//! `R1=ctx() R2=scalar(id=1,smin=umin=1,smax=umax=255,var_off=(0x0; 0xff)) R10=fp0 fp-8=mmmmmmmm`: bounds that say
//! nothing are left out, equal ones of one sign share their number. Never decides anything.

use std::fmt::{self, Write as _};

use super::resource::Held;
use super::scalar::Scalar;
use super::state::{AT_END, Byte, Kind, PAST_END, Slot, State, Value};
use crate::insn::{Insn, Reg};
use crate::link::Program;

/// A value to be printed. Without a program maps are shown by their number.
pub(super) struct Shown<'a> {
    value: &'a Value,
    program: Option<&'a Program>,
    /// The frame from which it is seen: pointers to the stack of another one show its number.
    frame: Option<usize>,
}

impl Value {
    /// As it looks in a register of the frame numbered `frame`.
    pub fn shown<'a>(&'a self, program: &'a Program, frame: usize) -> Shown<'a> {
        Shown { value: self, program: Some(program), frame: Some(frame) }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Shown { value: self, program: None, frame: None }.fmt(f)
    }
}

/// A signed number: decimal where it fits 16 bits, else the 64 bits of it.
fn signed(x: i64) -> String {
    if i16::try_from(x).is_ok() { x.to_string() } else { format!("{:#x}", x as u64) }
}

/// An unsigned number: decimal where it fits 16 bits.
fn unsigned(x: u64) -> String {
    if x <= u16::MAX.into() { x.to_string() } else { format!("{x:#x}") }
}

/// The bounds that say something, `name=name=number` where several are equal.
fn bounds(n: &Scalar, parts: &mut Vec<String>) {
    let (r, w) = (&n.r, &n.w);
    let wide = i64::from;
    let s = |name: &'static str, x: i64, says: bool| (name, x as u64, x < 0, true, says);
    let u = |name: &'static str, x: u64, says: bool| (name, x, false, false, says);
    let mut all = [
        s("smin", r.smin, r.smin != i64::MIN),
        s("smax", r.smax, r.smax != i64::MAX),
        u("umin", r.umin, r.umin != 0),
        u("umax", r.umax, r.umax != u64::MAX),
        s("smin32", wide(w.smin), w.smin != i32::MIN),
        s("smax32", wide(w.smax), w.smax != i32::MAX),
        u("umin32", w.umin.into(), w.umin != 0),
        u("umax32", w.umax.into(), w.umax != u32::MAX),
    ];
    for i in 0..all.len() {
        let (name, x, negative, is_signed, says) = all[i];
        if !says {
            continue;
        }
        let mut text = format!("{name}=");
        for (other, y, other_negative, _, says) in all.iter_mut().skip(i + 2).step_by(2) {
            if *says && *y == x && *other_negative == negative {
                *says = false;
                text.push_str(other);
                text.push('=');
            }
        }
        parts.push(text + &if is_signed { signed(x as i64) } else { unsigned(x) });
    }
}

impl Shown<'_> {
    /// What belongs to the kind of pointer.
    fn details(&self, parts: &mut Vec<String>) {
        let v = self.value;
        if let Kind::MapValue(map) | Kind::MapKey(map) | Kind::Map(map) = v.kind {
            match self.program {
                Some(program) => {
                    let def = program.map(map);
                    parts.push(format!("map={}", def.name));
                    parts.push(format!("ks={},vs={}", def.key_size, def.value_size));
                }
                None => parts.push(format!("map={}", map.0)),
            }
        }
        if v.is_pointer() && v.off != 0 {
            parts.push(format!("off={}", signed(v.off.into())));
        }
        match v.kind {
            Kind::Packet | Kind::PacketMeta => parts.push(match v.range {
                // Compared with the end, which tells that it is there, or behind it.
                AT_END => "r=0xffffffffffffffff".to_owned(),
                PAST_END => "r=0xfffffffffffffffe".to_owned(),
                range => format!("r={range}"),
            }),
            Kind::Mem(size) | Kind::Record(size) | Kind::Item(size) | Kind::PacketSlice { size, .. } => {
                parts.push(format!("sz={}", unsigned(size.into())))
            }
            Kind::Uninit
            | Kind::Scalar
            | Kind::Ctx
            | Kind::PacketEnd
            | Kind::Stack(_)
            | Kind::MapValue(_)
            | Kind::MapKey(_)
            | Kind::Func(_)
            | Kind::Dynptr
            | Kind::Handle(_)
            | Kind::Region(_)
            | Kind::Socket(_)
            | Kind::Map(_) => {}
        }
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (v, n) = (self.value, &self.value.num);
        if let (true, Some(x)) = (v.is_scalar(), n.known()) {
            return f.write_str(&signed(x as i64));
        }
        f.write_str(v.name())?;
        if let Kind::Stack(frame) = v.kind {
            if self.frame.is_some_and(|from| from != usize::from(frame)) {
                write!(f, "[{frame}]")?;
            }
            if let Some(off) = v.fixed_offset() {
                return f.write_str(&signed(off));
            }
        }
        let mut parts = Vec::new();
        if v.id != 0 {
            // A number at a constant distance from the one that it is linked to.
            let distance = if v.is_scalar() && v.off != 0 { format!("{:+}", v.off) } else { String::new() };
            parts.push(format!("id={}{distance}", v.id));
        }
        if v.owner != 0 {
            parts.push(format!("ref_obj_id={}", v.owner));
        }
        self.details(&mut parts);
        match n.known() {
            Some(0) => {}
            Some(x) => parts.push(format!("imm={}", signed(x as i64))),
            None if v.kind == Kind::Uninit => {}
            None => {
                bounds(n, &mut parts);
                if n.bits.mask != u64::MAX {
                    parts.push(format!("var_off=({:#x}; {:#x})", n.bits.value, n.bits.mask));
                }
            }
        }
        write!(f, "({})", parts.join(","))
    }
}

/// Eight bytes of stack, the highest address first, with the register that is spilled in the low ones.
fn slot(slot: &Slot, program: &Program, frame: usize) -> String {
    if let Some(it) = slot.iterator() {
        let state = if it.drained { "drained" } else { "active" };
        return format!("iter_num(ref_id={},state={state},depth={})", it.id, it.items);
    }
    if let Some(dynptr) = slot.dynptr() {
        let (kind, owner) = (dynptr.kind.name(), dynptr.owner);
        return match dynptr.is_reference() {
            true => format!("dynptr_{kind}(ref_id={owner})"),
            false => format!("dynptr_{kind}(id={owner},dynptr_id={owner})"),
        };
    }
    let mut text = String::new();
    for byte in slot.bytes.iter().rev() {
        text.push(match byte {
            Byte::Invalid => '?',
            Byte::Misc => 'm',
            Byte::Zero => '0',
            Byte::Iterator => 'i',
            Byte::Dynptr => 'd',
            Byte::Spill if slot.bytes[0] == Byte::Spill => break,
            Byte::Spill => 'r',
        });
    }
    if slot.bytes[0] == Byte::Spill {
        // Writing to a string cannot fail.
        let _ = write!(text, "{}", slot.spill.shown(program, frame));
    }
    text
}

/// Which registers and slots of a frame are wanted, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Wanted {
    pub regs: u16,
    pub slots: u64,
}

impl Wanted {
    pub const ALL: Wanted = Wanted { regs: u16::MAX, slots: u64::MAX };
}

/// What the frame numbered `i` holds, as far as it is initialised and wanted; begins with a space.
pub(super) fn frame(program: &Program, state: &State, i: usize, wanted: Wanted) -> String {
    let mut text = if i > 0 { format!(" frame{i}:") } else { String::new() };
    let frame = state.frame(i);
    for reg in Reg::ALL {
        let value = frame.reg(reg);
        if wanted.regs & (1 << reg.index()) != 0 && value.kind != Kind::Uninit {
            let _ = write!(text, " R{}={}", reg.number(), value.shown(program, i));
        }
    }
    for (n, content) in frame.stack.iter().enumerate() {
        // A dynptr is shown at its first bytes.
        let second = content.dynptr().is_some_and(|dynptr| !dynptr.first);
        if wanted.slots >> n & 1 == 1 && !second && content.bytes != [Byte::Invalid; 8] {
            let _ = write!(text, " fp-{}={}", 8 * (n + 1), slot(content, program, i));
        }
    }
    if !state.held.is_empty() {
        let ids: Vec<String> = state.held.iter().map(|held: &Held| held.id.to_string()).collect();
        let _ = write!(text, " refs={}", ids.join(","));
    }
    if i > 0 && matches!(program.insns.get(frame.call_site), Some(Insn::Call { .. })) {
        text.push_str(" cb");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::range::{R32, R64};
    use super::super::state::Frame;
    use super::super::tnum::Tnum;
    use super::*;
    use crate::insn::{Insns, Pc};
    use crate::link::SubprogId;
    use crate::object::{ProgType, ProgramKind};

    fn shown(num: Scalar) -> String {
        Value::scalar(num).to_string()
    }

    #[test]
    fn bounds_that_say_nothing_are_left_out_and_equal_ones_share_their_number() {
        assert_eq!(shown(Scalar::UNKNOWN), "scalar()");
        assert_eq!(
            shown(Scalar::unsigned_bits(8)),
            "scalar(smin=smin32=0,smax=umax=smax32=umax32=255,var_off=(0x0; 0xff))"
        );
        assert_eq!(shown(Scalar::unsigned_bits(32)), "scalar(smin=0,smax=umax=0xffffffff,var_off=(0x0; 0xffffffff))");
        assert_eq!(
            shown(Scalar { r: R64::signed(-3, 70_000), w: R32::FULL, bits: Tnum::UNKNOWN }),
            "scalar(smin=-3,smax=0x11170)"
        );
    }

    #[test]
    fn numbers_of_different_sign_never_share() {
        let w = R32 { smin: -240, smax: -1, umin: 0xffff_ff10, umax: u32::MAX };
        let text = shown(Scalar { r: R64::FULL, w, bits: Tnum::UNKNOWN });
        assert_eq!(text, "scalar(smin32=-240,smax32=-1,umin32=0xffffff10)");
    }

    #[test]
    fn constants_and_pointers() {
        let numbers = [(5, "5"), (u64::MAX, "-1"), (0xffff_ffff, "0xffffffff"), (1 << 63, "0x8000000000000000")];
        for (x, text) in numbers {
            assert_eq!(shown(Scalar::constant(x)), text);
        }
        assert_eq!(Value { off: -16, ..Value::pointer(Kind::Stack(0)) }.to_string(), "fp-16");
        assert_eq!(Value { off: 14, range: 20, ..Value::pointer(Kind::Packet) }.to_string(), "pkt(off=14,r=20)");
        assert_eq!(Value::pointer(Kind::Ctx).to_string(), "ctx()");
        assert_eq!(Value { id: 4, off: -5, ..Value::UNKNOWN }.to_string(), "scalar(id=4-5)");
        assert_eq!(
            Value { nullable: true, id: 3, ..Value::pointer(Kind::Mem(8)) }.to_string(),
            "mem_or_null(id=3,sz=8)"
        );
    }

    #[test]
    fn frames_show_what_is_initialised() {
        let program = Program::bare("p", ProgramKind::new(ProgType::XDP), Insns::default());
        let mut state = State::new(Frame::new(0, SubprogId(0), Pc(0)));
        state.set(Reg::R1, Value::pointer(Kind::Ctx));
        let half = Slot { spill: Value::constant(7), ..Slot::EMPTY };
        let slot = state.cur.slot_mut(1);
        *slot = half;
        slot.bytes[..4].fill(Byte::Spill);
        state.cur.slot_mut(0).bytes = [
            Byte::Zero,
            Byte::Misc,
            Byte::Misc,
            Byte::Misc,
            Byte::Invalid,
            Byte::Invalid,
            Byte::Invalid,
            Byte::Invalid,
        ];
        assert_eq!(frame(&program, &state, 0, Wanted::ALL), " R1=ctx() R10=fp0 fp-8=????mmm0 fp-16=????7");
        assert_eq!(frame(&program, &state, 0, Wanted { regs: 2, slots: 0 }), " R1=ctx()");
    }
}
