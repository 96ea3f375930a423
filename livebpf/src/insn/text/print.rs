//! `Display`: one instruction, or a listing, as the kernel's verifier and bpftool write it.

use std::fmt;

use super::super::{AtomicOp, EndianOp, Imm64, Insn, Insns, Reg, Size, Src, Width};
use super::names;

impl fmt::Display for Insn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Insn::Alu { op, width, dst, src } => {
                write!(f, "{} {} {}", R(width, dst), names::of(&names::ALU, op), Decimal(width, src))
            }
            Insn::Neg { width, dst } => write!(f, "{0} = -{0}", R(width, dst)),
            Insn::Mov { width, dst, src } => write!(f, "{} = {}", R(width, dst), Decimal(width, src)),
            Insn::MovSx { width, from, dst, src } => {
                write!(f, "{} = (s{}){}", R(width, dst), from.bits(), R(width, src))
            }
            Insn::Endian { op, size, dst } => {
                let name = match op {
                    EndianOp::ToLe => "le",
                    EndianOp::ToBe => "be",
                    EndianOp::Swap => "bswap",
                };
                write!(f, "{dst} = {name}{} {dst}", size.bits())
            }
            Insn::LoadImm64 { dst, value } => write!(f, "{dst} = {value}"),
            Insn::Load { size, dst, base, off } => write!(f, "{dst} = *{}", At('u', size, base, off)),
            Insn::LoadSx { size, dst, base, off } => write!(f, "{dst} = *{}", At('s', size, base, off)),
            Insn::Store { size, base, off, src } => {
                write!(f, "*{} = {}", At('u', size, base, off), Decimal(Width::W64, src))
            }
            Insn::Atomic { op, width, base, off, src } => atomic(f, op, width, base, off, src),
            Insn::LoadAcquire { size, dst, base, off } => {
                write!(f, "{dst} = load_acquire({})", At('u', size, base, off))
            }
            Insn::StoreRelease { size, base, off, src } => {
                write!(f, "store_release({}, {src})", At('u', size, base, off))
            }
            Insn::LoadAbs { size, off } => write!(f, "r0 = *(u{} *)skb[{off}]", size.bits()),
            Insn::LoadInd { size, src, off } => write!(f, "r0 = *(u{} *)skb[{src} + {off}]", size.bits()),
            Insn::Ja { off } => write!(f, "goto pc{off:+}"),
            Insn::JaL { off } => write!(f, "gotol pc{off:+}"),
            Insn::MayGoto { off } => write!(f, "may_goto pc{off:+}"),
            Insn::Jmp { cond, width, dst, src, off } => {
                let cond = names::of(&names::COND, cond);
                match src {
                    Src::Reg(src) => write!(f, "if {} {cond} {} goto pc{off:+}", R(width, dst), R(width, src)),
                    Src::Imm(imm) => write!(f, "if {} {cond} {imm:#x} goto pc{off:+}", R(width, dst)),
                }
            }
            Insn::Call { helper } => write!(f, "call {helper}"),
            Insn::CallSubprog { off } => write!(f, "call pc{off:+}"),
            Insn::CallKfunc { btf_id, off: 0 } => write!(f, "call kfunc:{btf_id}"),
            Insn::CallKfunc { btf_id, off } => write!(f, "call kfunc:{btf_id}@{off}"),
            Insn::CallX { reg } => write!(f, "callx {reg}"),
            Insn::Exit => f.write_str("exit"),
        }
    }
}

impl fmt::Display for Imm64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Imm64::Const(value) => write!(f, "{value:#x} ll"),
            Imm64::MapFd(fd) => write!(f, "map[fd:{fd}]"),
            Imm64::MapFdValue { fd, off } => write!(f, "map[fd:{fd}][0]+{off}"),
            Imm64::BtfId { id, fd: 0 } => write!(f, "btf[id:{id}]"),
            Imm64::BtfId { id, fd } => write!(f, "btf[id:{id},fd:{fd}]"),
            Imm64::Func { off } => write!(f, "subprog[{off:+}]"),
            Imm64::MapIdx(idx) => write!(f, "map[idx:{idx}]"),
            Imm64::MapIdxValue { idx, off } => write!(f, "map[idx:{idx}][0]+{off}"),
        }
    }
}

/// A listing: a line for each instruction, with its slot and its opcode.
impl fmt::Display for Insns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (pc, insn) in self.iter() {
            writeln!(f, "{pc}: ({:02x}) {insn}", insn.opcode())?;
        }
        Ok(())
    }
}

fn atomic(f: &mut fmt::Formatter<'_>, op: AtomicOp, width: Width, base: Reg, off: i16, src: Reg) -> fmt::Result {
    let (size, suffix) = match width {
        Width::W32 => (Size::W, ""),
        Width::W64 => (Size::DW, "64"),
    };
    let at = At('u', size, base, off);
    match op {
        AtomicOp::Add { fetch: false }
        | AtomicOp::Or { fetch: false }
        | AtomicOp::And { fetch: false }
        | AtomicOp::Xor { fetch: false } => {
            write!(f, "lock *{at} {} {src}", names::of(&names::ATOMIC_ASSIGN, op))
        }
        AtomicOp::Add { fetch: true }
        | AtomicOp::Or { fetch: true }
        | AtomicOp::And { fetch: true }
        | AtomicOp::Xor { fetch: true }
        | AtomicOp::Xchg => {
            write!(f, "{src} = atomic{suffix}_{}({at}, {src})", names::of(&names::ATOMIC_FETCH, op))
        }
        AtomicOp::Cmpxchg => write!(f, "r0 = atomic{suffix}_cmpxchg({at}, r0, {src})"),
    }
}

/// A register at a width: `r1` or `w1`.
struct R(Width, Reg);

impl fmt::Display for R {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Width::W32 => write!(f, "w{}", self.1.number()),
            Width::W64 => write!(f, "r{}", self.1.number()),
        }
    }
}

/// A second operand, immediates in decimal.
struct Decimal(Width, Src);

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Src::Reg(reg) => R(self.0, reg).fmt(f),
            Src::Imm(imm) => write!(f, "{imm}"),
        }
    }
}

/// `(u32 *)(r6 +16)`: sign letter, size, base, offset.
struct At(char, Size, Reg, i16);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}{} *)({} {:+})", self.0, self.1.bits(), self.2, self.3)
    }
}
