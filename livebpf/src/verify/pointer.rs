//! Arithmetic with pointers: what is allowed, and where the result points.

use super::reject::{Fail, Rule, Step};
use super::scalar::Scalar;
use super::state::{Kind, Value};
use crate::context::Region;
use crate::insn::{AluOp, Reg, Width};

/// Offsets stay below this.
const MAX_OFFSET: i64 = 1 << 29;

fn fail(message: String, reg: Reg) -> Box<Fail> {
    Fail::new(Rule::Pointer, message).with(reg)
}

/// The operator in the kernel's messages.
fn symbol(op: AluOp) -> &'static str {
    match op {
        AluOp::Add => "+=",
        AluOp::Sub => "-=",
        AluOp::Mul => "*=",
        AluOp::Div | AluOp::SDiv => "/=",
        AluOp::Or => "|=",
        AluOp::And => "&=",
        AluOp::Lsh => "<<=",
        AluOp::Rsh => ">>=",
        AluOp::Mod | AluOp::SMod => "%=",
        AluOp::Xor => "^=",
        AluOp::Arsh => "s>>=",
    }
}

/// `dst op src` where at least one of them is a pointer. `new_id` names a new variable base of packet pointers.
pub(super) fn arithmetic(
    op: AluOp,
    width: Width,
    reg: Reg,
    dst: &Value,
    src: &Value,
    new_id: impl FnOnce() -> u32,
) -> Step<Value> {
    let n = reg.number();
    if dst.is_pointer() && src.is_pointer() {
        if op == AluOp::Sub {
            let low = Value::scalar(Scalar::unsigned_bits(32));
            return Ok(if width == Width::W64 { Value::UNKNOWN } else { low });
        }
        return Err(fail(format!("R{n} pointer {} pointer prohibited", symbol(op)), reg));
    }
    let (ptr, num) = if dst.is_pointer() { (dst, src) } else { (src, dst) };
    if width == Width::W32 {
        if op == AluOp::Sub {
            return Ok(Value::scalar(Scalar::unsigned_bits(32)));
        }
        return Err(fail(format!("R{n} 32-bit pointer arithmetic prohibited"), reg));
    }
    if ptr.nullable {
        let text = format!("R{n} pointer arithmetic on {} prohibited, null-check it first", ptr.name());
        return Err(fail(text, reg).help("compare the pointer with NULL before using it"));
    }
    match op {
        AluOp::Add => {}
        AluOp::Sub if !dst.is_pointer() => {
            return Err(fail(format!("R{n} tried to subtract pointer from scalar"), reg));
        }
        AluOp::Sub if matches!(ptr.kind, Kind::Stack(_)) => {
            return Err(fail(format!("R{n} subtraction from stack pointer prohibited"), reg));
        }
        AluOp::Sub => {}
        AluOp::And | AluOp::Or | AluOp::Xor => {
            return Err(fail(format!("R{n} bitwise operator {} on pointer prohibited", symbol(op)), reg));
        }
        _ => return Err(fail(format!("R{n} pointer arithmetic with {} operator prohibited", symbol(op)), reg)),
    }
    match ptr.kind {
        Kind::Map(_) if op == AluOp::Add && num.is_null() => Ok(*ptr),
        Kind::Region(Region::FlowKeys) if num.num.known().is_some() => offset(op, reg, ptr, &num.num, new_id),
        Kind::Map(_)
        | Kind::PacketEnd
        | Kind::Handle(_)
        | Kind::Func(_)
        | Kind::Socket(_)
        | Kind::Region(Region::FlowKeys) => {
            Err(fail(format!("R{n} pointer arithmetic on {} prohibited", ptr.name()), reg))
        }
        Kind::Ctx
        | Kind::Packet
        | Kind::PacketMeta
        | Kind::Stack(_)
        | Kind::MapValue(_)
        | Kind::MapKey(_)
        | Kind::Item(_)
        | Kind::PacketSlice { .. }
        | Kind::Dynptr
        | Kind::Mem(_)
        | Kind::Record(_)
        | Kind::Region(Region::Tracepoint)
        | Kind::Uninit
        | Kind::Scalar => offset(op, reg, ptr, &num.num, new_id),
    }
}

/// `ptr ± num`.
fn offset(op: AluOp, reg: Reg, ptr: &Value, num: &Scalar, new_id: impl FnOnce() -> u32) -> Step<Value> {
    in_bounds(reg, ptr, num)?;
    let mut out = *ptr;
    let known = num.known().map(|x| x as i64);
    let moved = known.and_then(|x| match op {
        AluOp::Sub => i64::from(ptr.off).checked_sub(x),
        _ => i64::from(ptr.off).checked_add(x),
    });
    if let Some(off) = moved.and_then(|off| i32::try_from(off).ok()) {
        // What is not below the end stays so when it moves up.
        if off < out.off && out.past_end() {
            out.range = 0;
        }
        out.off = off;
    } else {
        out.num = super::alu::binary(op, Width::W64, &ptr.num, num);
        if matches!(ptr.kind, Kind::Packet | Kind::PacketMeta) {
            out.id = new_id();
            out.range = 0;
        }
    }
    if i64::from(out.off).abs() >= MAX_OFFSET {
        return Err(fail(format!("{} pointer offset {} is not allowed", ptr.name(), out.off), reg));
    }
    in_bounds(reg, &out, &out.num)?;
    Ok(out)
}

/// The variable offset must be bounded, or at least bounded below.
fn in_bounds(reg: Reg, ptr: &Value, num: &Scalar) -> Step<()> {
    let name = ptr.name();
    if let Some(x) = num.known() {
        let x = x as i64;
        if x >= MAX_OFFSET || x <= -MAX_OFFSET {
            return Err(fail(format!("math between {name} pointer and {x} is not allowed"), reg));
        }
        return Ok(());
    }
    let smin = num.r.smin;
    if smin == i64::MIN {
        let text = format!("math between {name} pointer and register with unbounded min value is not allowed");
        return Err(fail(text, reg).help("bound the offset with a comparison or a mask before adding it"));
    }
    if smin >= MAX_OFFSET || smin <= -MAX_OFFSET {
        return Err(fail(format!("value {smin} makes {name} pointer be out of bounds"), reg));
    }
    Ok(())
}
