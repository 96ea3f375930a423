//! Instructions that compute: moves, arithmetic on numbers and with pointers, byte order.
//!
//! Numbers that are copies of each other stay linked by their id, at a constant distance. Never touches memory.

use super::explore::Verifier;
use super::reject::{Fail, Rule, Step};
use super::scalar::Scalar;
use super::state::{State, Value};
use super::{Trust, alu, pointer};
use crate::insn::{AluOp, EndianOp, Insn, Pc, Reg, Size, Src, Width};

impl Verifier<'_> {
    /// An instruction that computes.
    pub(super) fn arithmetic(&mut self, state: &mut State, pc: Pc, insn: &Insn) -> Step<()> {
        let (dst, value) = match *insn {
            Insn::Mov { width, dst, src } => (dst, self.copy(state, width, src)?),
            Insn::MovSx { width, from, dst, src } => {
                let value = self.readable(state, src)?;
                self.keep_address(src, &value, "sign-extension part of pointer")?;
                let num = if value.is_scalar() { value.num } else { Scalar::UNKNOWN };
                let positive = num.r.umax >> (from.bits() - 1) == 0;
                let extended = num.sign_extend(from.bits());
                let extended = if width == Width::W32 { extended.truncate(32) } else { extended };
                let copy = if positive { self.linked(state, Src::Reg(src))? } else { Value::scalar(extended) };
                (dst, copy)
            }
            Insn::Neg { width, dst } => {
                let value = self.readable(state, dst)?;
                self.keep_address(dst, &value, "pointer arithmetic prohibited")?;
                (dst, if value.is_scalar() { Value::scalar(alu::negate(width, &value.num)) } else { Value::UNKNOWN })
            }
            Insn::Endian { op, size, dst } => {
                let value = self.readable(state, dst)?;
                self.keep_address(dst, &value, "pointer arithmetic prohibited")?;
                (dst, if value.is_scalar() { Value::scalar(endian(op, size, &value.num)) } else { Value::UNKNOWN })
            }
            Insn::Alu { op, width, dst, src } => {
                let (a, b) = (self.readable(state, dst)?, self.operand(state, src)?);
                check_immediate(op, width, src)?;
                if a.is_scalar() && b.is_scalar() {
                    let same = src == Src::Reg(dst);
                    let zero = same && matches!(op, AluOp::Sub | AluOp::Xor);
                    let num = if zero { Scalar::constant(0) } else { alu::binary(op, width, &a.num, &b.num) };
                    (dst, Value { num, ..moved(op, width, &a, &b) })
                } else {
                    for (reg, value) in [(Src::Reg(dst), &a), (src, &b)] {
                        if let (Src::Reg(reg), true) = (reg, value.is_scalar()) {
                            self.demand(state, pc, reg);
                        }
                    }
                    let result = pointer::arithmetic(op, width, dst, &a, &b, || self.ids.next())?;
                    self.guard_offset(pc, op, (dst, src), (&a, &b), &result)?;
                    if result.is_scalar() {
                        self.keep_address(dst, if a.is_pointer() { &a } else { &b }, "pointer -= pointer prohibited")?;
                    }
                    (dst, result)
                }
            }
            Insn::LoadImm64 { .. }
            | Insn::Load { .. }
            | Insn::LoadSx { .. }
            | Insn::Store { .. }
            | Insn::Atomic { .. }
            | Insn::LoadAcquire { .. }
            | Insn::StoreRelease { .. }
            | Insn::LoadAbs { .. }
            | Insn::LoadInd { .. }
            | Insn::Ja { .. }
            | Insn::JaL { .. }
            | Insn::MayGoto { .. }
            | Insn::Jmp { .. }
            | Insn::Call { .. }
            | Insn::CallSubprog { .. }
            | Insn::CallKfunc { .. }
            | Insn::CallX { .. }
            | Insn::Exit => unreachable!("callers pass arithmetic"),
        };
        state.set(dst, value);
        Ok(())
    }

    /// Refuses to let the program of an author who is not trusted see a number made of `value`, which `reg` holds, if it
    /// is an address.
    pub(super) fn keep_address(&mut self, reg: Reg, value: &Value, what: &str) -> Step<()> {
        if !value.is_pointer() {
            return Ok(());
        }
        self.notes.shows_addresses = true;
        match self.options.trust {
            Trust::Trusted => Ok(()),
            Trust::Untrusted => Err(Fail::new(Rule::Pointer, format!("R{} {what}", reg.number())).with(reg)),
        }
    }

    /// A move; numbers that are not known exactly stay linked to their source.
    fn copy(&mut self, state: &mut State, width: Width, src: Src) -> Step<Value> {
        let value = self.operand(state, src)?;
        match width {
            Width::W64 if value.is_scalar() => self.linked(state, src),
            Width::W64 => Ok(value),
            Width::W32 if value.is_pointer() => {
                if let Src::Reg(reg) = src {
                    self.keep_address(reg, &value, "partial copy of pointer")?;
                }
                Ok(Value::scalar(Scalar::unsigned_bits(32)))
            }
            Width::W32 if value.num.fits_u32() => self.linked(state, src),
            Width::W32 => Ok(Value::scalar(value.num.truncate(32))),
        }
    }

    fn linked(&mut self, state: &mut State, src: Src) -> Step<Value> {
        if let Src::Reg(reg) = src {
            let value = &mut state.cur.regs[reg.index()];
            if value.id == 0 && value.num.known().is_none() {
                value.id = self.ids.next();
            }
            return Ok(*value);
        }
        self.operand(state, src)
    }
}

/// The link of `a ± b` to what `a` is linked to, where `b` is a constant; the number is not set yet.
fn moved(op: AluOp, width: Width, a: &Value, b: &Value) -> Value {
    let by = b.num.known().map(|by| by as i64);
    let off = by.and_then(|by| match (op, width) {
        (AluOp::Add, Width::W64) => i64::from(a.off).checked_add(by),
        (AluOp::Sub, Width::W64) => i64::from(a.off).checked_sub(by),
        _ => None,
    });
    match off.and_then(|off| i32::try_from(off).ok()) {
        Some(off) if a.id != 0 => Value { id: a.id, off, ..Value::UNKNOWN },
        _ => Value::UNKNOWN,
    }
}

/// Immediates that make no sense.
fn check_immediate(op: AluOp, width: Width, src: Src) -> Step<()> {
    let Src::Imm(imm) = src else { return Ok(()) };
    let bits = if width == Width::W64 { 64 } else { 32 };
    match op {
        AluOp::Div | AluOp::SDiv | AluOp::Mod | AluOp::SMod if imm == 0 => {
            Err(Fail::new(Rule::Structure, "div by zero"))
        }
        AluOp::Lsh | AluOp::Rsh | AluOp::Arsh if !(0..bits).contains(&imm) => {
            Err(Fail::new(Rule::Structure, format!("invalid shift {imm}")))
        }
        _ => Ok(()),
    }
}

fn endian(op: EndianOp, size: Size, num: &Scalar) -> Scalar {
    match op {
        EndianOp::ToLe => num.truncate(size.bits()),
        EndianOp::ToBe | EndianOp::Swap => num.swap_bytes(size),
    }
}
