//! Slots → [`Insn`]. One function a class; every field of every instruction is either used or checked to be zero.

use super::super::{AluOp, AtomicOp, Cond, EndianOp, Imm64, Insn, Pc, Reg, Size, Src, Width};
use super::opcode::{X, alu, atomic, call, class, imm64, jmp, mode, size};
use super::{DecodeError, Field, Raw};

/// A [`DecodeError`] that does not know its place yet.
pub(super) enum Fault {
    Cut,
    Opcode { opcode: u8, wanted: &'static str },
    Field { second: bool, opcode: u8, insn: &'static str, field: Field, found: i64, wanted: &'static str },
}

impl Fault {
    #[cold]
    pub(super) fn at(self, pc: Pc) -> DecodeError {
        match self {
            Fault::Cut => DecodeError::Cut { pc },
            Fault::Opcode { opcode, wanted } => DecodeError::Opcode { pc, opcode, wanted },
            Fault::Field { second, opcode, insn, field, found, wanted } => {
                let pc = if second { pc.next() } else { pc };
                DecodeError::Field { pc, opcode, second, insn, field, found, wanted }
            }
        }
    }
}

/// A slot with the name of its kind of instruction, for errors.
#[derive(Clone, Copy)]
struct Slot {
    raw: Raw,
    insn: &'static str,
}

impl Slot {
    #[cold]
    fn fault(self, field: Field, wanted: &'static str) -> Fault {
        let Raw { opcode, dst, src, off, imm } = self.raw;
        let found = match field {
            Field::Opcode => opcode.into(),
            Field::Dst => dst.into(),
            Field::Src => src.into(),
            Field::Off => off.into(),
            Field::Imm => imm.into(),
        };
        Fault::Field { second: false, opcode, insn: self.insn, field, found, wanted }
    }
    fn dst(self) -> Result<Reg, Fault> {
        Reg::new(self.raw.dst).ok_or_else(|| self.fault(Field::Dst, "a register, 0 to 10"))
    }
    fn src(self) -> Result<Reg, Fault> {
        Reg::new(self.raw.src).ok_or_else(|| self.fault(Field::Src, "a register, 0 to 10"))
    }
    /// The second operand, with the field that it does not use checked.
    fn operand(self) -> Result<Src, Fault> {
        if self.raw.opcode & X != 0 {
            self.no_imm()?;
            Ok(Src::Reg(self.src()?))
        } else {
            self.no_src()?;
            Ok(Src::Imm(self.raw.imm))
        }
    }
    fn no_dst(self) -> Result<(), Fault> {
        if self.raw.dst == 0 { Ok(()) } else { Err(self.fault(Field::Dst, "0")) }
    }
    fn no_src(self) -> Result<(), Fault> {
        if self.raw.src == 0 { Ok(()) } else { Err(self.fault(Field::Src, "0")) }
    }
    fn no_off(self) -> Result<(), Fault> {
        if self.raw.off == 0 { Ok(()) } else { Err(self.fault(Field::Off, "0")) }
    }
    fn no_imm(self) -> Result<(), Fault> {
        if self.raw.imm == 0 { Ok(()) } else { Err(self.fault(Field::Imm, "0")) }
    }
    /// Every field but the opcode is zero.
    fn bare(self) -> Result<(), Fault> {
        self.no_dst()?;
        self.no_src()?;
        self.no_off()?;
        self.no_imm()
    }
}

/// Decodes the instruction that begins with `raw`; `second` is the slot after it.
#[inline]
pub(super) fn insn(raw: Raw, second: Option<Raw>) -> Result<Insn, Fault> {
    match raw.opcode & 7 {
        class::LD => ld(raw, second),
        class::LDX => ldx(raw),
        class::ST => st(raw),
        class::STX => stx(raw),
        class::ALU => arithmetic(raw, Width::W32),
        class::ALU64 => arithmetic(raw, Width::W64),
        class::JMP => jump(raw),
        _ => jump32(raw),
    }
}

fn unknown<T>(raw: Raw, wanted: &'static str) -> Result<T, Fault> {
    Err(Fault::Opcode { opcode: raw.opcode, wanted })
}

fn access_size(opcode: u8) -> Size {
    match opcode & 0x18 {
        size::B => Size::B,
        size::H => Size::H,
        size::W => Size::W,
        _ => Size::DW,
    }
}

fn ld(raw: Raw, second: Option<Raw>) -> Result<Insn, Fault> {
    let size = access_size(raw.opcode);
    match (raw.opcode & 0xe0, size) {
        (mode::IMM, Size::DW) => load_imm64(raw, second),
        (mode::ABS, Size::B | Size::H | Size::W) => {
            let slot = Slot { raw, insn: "a packet load" };
            slot.no_dst()?;
            slot.no_src()?;
            slot.no_off()?;
            Ok(Insn::LoadAbs { size, off: raw.imm })
        }
        (mode::IND, Size::B | Size::H | Size::W) => {
            let slot = Slot { raw, insn: "a packet load" };
            slot.no_dst()?;
            slot.no_off()?;
            Ok(Insn::LoadInd { size, src: slot.src()?, off: raw.imm })
        }
        _ => unknown(raw, "in class LD: 0x18, 0x20, 0x28, 0x30, 0x40, 0x48 or 0x50"),
    }
}

fn load_imm64(raw: Raw, second: Option<Raw>) -> Result<Insn, Fault> {
    let slot = Slot { raw, insn: "a 64-bit immediate load" };
    let dst = slot.dst()?;
    let next = second.ok_or(Fault::Cut)?;
    let half = Slot { raw: next, insn: "the second half of a 64-bit immediate load" };
    let in_second = |fault| match fault {
        Fault::Field { insn, field, found, wanted, .. } => {
            Fault::Field { second: true, opcode: next.opcode, insn, field, found, wanted }
        }
        other => other,
    };
    if next.opcode != 0 {
        return Err(in_second(half.fault(Field::Opcode, "0")));
    }
    half.no_dst().and_then(|()| half.no_src()).and_then(|()| half.no_off()).map_err(in_second)?;
    slot.no_off()?;
    if raw.src > imm64::MAP_IDX_VALUE {
        return Err(slot.fault(Field::Src, "a kind of immediate, 0 to 6"));
    }
    let whole = |value| if next.imm == 0 { Ok(value) } else { Err(in_second(half.fault(Field::Imm, "0"))) };
    let value = match raw.src {
        imm64::CONST => Imm64::Const(u64::from(raw.imm as u32) | u64::from(next.imm as u32) << 32),
        imm64::MAP_FD => whole(Imm64::MapFd(raw.imm))?,
        imm64::MAP_FD_VALUE => Imm64::MapFdValue { fd: raw.imm, off: next.imm as u32 },
        imm64::BTF_ID => Imm64::BtfId { id: raw.imm, fd: next.imm },
        imm64::FUNC => whole(Imm64::Func { off: raw.imm })?,
        imm64::MAP_IDX => whole(Imm64::MapIdx(raw.imm))?,
        _ => Imm64::MapIdxValue { idx: raw.imm, off: next.imm as u32 },
    };
    Ok(Insn::LoadImm64 { dst, value })
}

fn ldx(raw: Raw) -> Result<Insn, Fault> {
    let slot = Slot { raw, insn: "a load" };
    let size = access_size(raw.opcode);
    let sign_extend = match (raw.opcode & 0xe0, size) {
        (mode::MEM, _) => false,
        (mode::MEMSX, Size::B | Size::H | Size::W) => true,
        _ => return unknown(raw, "in class LDX: 0x61, 0x69, 0x71, 0x79, 0x81, 0x89 or 0x91"),
    };
    slot.no_imm()?;
    let (dst, base, off) = (slot.dst()?, slot.src()?, raw.off);
    Ok(if sign_extend { Insn::LoadSx { size, dst, base, off } } else { Insn::Load { size, dst, base, off } })
}

fn st(raw: Raw) -> Result<Insn, Fault> {
    if raw.opcode & 0xe0 != mode::MEM {
        return unknown(raw, "in class ST: 0x62, 0x6a, 0x72 or 0x7a");
    }
    let slot = Slot { raw, insn: "a store of an immediate" };
    slot.no_src()?;
    Ok(Insn::Store { size: access_size(raw.opcode), base: slot.dst()?, off: raw.off, src: Src::Imm(raw.imm) })
}

fn stx(raw: Raw) -> Result<Insn, Fault> {
    let size = access_size(raw.opcode);
    match raw.opcode & 0xe0 {
        mode::MEM => {
            let slot = Slot { raw, insn: "a store" };
            slot.no_imm()?;
            Ok(Insn::Store { size, base: slot.dst()?, off: raw.off, src: Src::Reg(slot.src()?) })
        }
        mode::ATOMIC => atomic_insn(raw, size),
        _ => unknown(raw, "in class STX: 0x63, 0x6b, 0x73, 0x7b, 0xc3, 0xcb, 0xd3 or 0xdb"),
    }
}

fn atomic_insn(raw: Raw, size: Size) -> Result<Insn, Fault> {
    let slot = Slot { raw, insn: "an atomic operation" };
    let (dst, src, off) = (slot.dst()?, slot.src()?, raw.off);
    match raw.imm {
        atomic::LOAD_ACQ => return Ok(Insn::LoadAcquire { size, dst, base: src, off }),
        atomic::STORE_REL => return Ok(Insn::StoreRelease { size, base: dst, off, src }),
        _ => {}
    }
    let width = match size {
        Size::W => Width::W32,
        Size::DW => Width::W64,
        Size::B | Size::H => {
            return Err(slot.fault(Field::Imm, "0x100 (load_acquire) or 0x110 (store_release) at this size"));
        }
    };
    let fetch = raw.imm & atomic::FETCH != 0;
    let op = match raw.imm & !atomic::FETCH {
        atomic::ADD => AtomicOp::Add { fetch },
        atomic::OR => AtomicOp::Or { fetch },
        atomic::AND => AtomicOp::And { fetch },
        atomic::XOR => AtomicOp::Xor { fetch },
        _ if raw.imm == atomic::XCHG => AtomicOp::Xchg,
        _ if raw.imm == atomic::CMPXCHG => AtomicOp::Cmpxchg,
        _ => return Err(slot.fault(Field::Imm, "an atomic operation of RFC 9669, 0x100 or 0x110")),
    };
    Ok(Insn::Atomic { op, width, base: dst, off, src })
}

fn arithmetic(raw: Raw, width: Width) -> Result<Insn, Fault> {
    let op = match raw.opcode & 0xf0 {
        alu::MOV => return mov(raw, width),
        alu::NEG => return neg(raw, width),
        alu::END => return endian(raw, width),
        alu::DIV => return division(raw, width, AluOp::Div, AluOp::SDiv),
        alu::MOD => return division(raw, width, AluOp::Mod, AluOp::SMod),
        alu::ADD => AluOp::Add,
        alu::SUB => AluOp::Sub,
        alu::MUL => AluOp::Mul,
        alu::OR => AluOp::Or,
        alu::AND => AluOp::And,
        alu::LSH => AluOp::Lsh,
        alu::RSH => AluOp::Rsh,
        alu::XOR => AluOp::Xor,
        alu::ARSH => AluOp::Arsh,
        _ => return unknown(raw, "in classes ALU and ALU64: an operation up to 0xd0 in the high four bits"),
    };
    let slot = Slot { raw, insn: "arithmetic" };
    slot.no_off()?;
    Ok(Insn::Alu { op, width, dst: slot.dst()?, src: slot.operand()? })
}

fn division(raw: Raw, width: Width, unsigned: AluOp, signed: AluOp) -> Result<Insn, Fault> {
    let slot = Slot { raw, insn: "a division" };
    let op = match raw.off {
        0 => unsigned,
        1 => signed,
        _ => return Err(slot.fault(Field::Off, "0 (unsigned) or 1 (signed)")),
    };
    Ok(Insn::Alu { op, width, dst: slot.dst()?, src: slot.operand()? })
}

fn mov(raw: Raw, width: Width) -> Result<Insn, Fault> {
    let slot = Slot { raw, insn: "a move" };
    let (dst, src) = (slot.dst()?, slot.operand()?);
    let from = match (src, raw.off, width) {
        (_, 0, _) => return Ok(Insn::Mov { width, dst, src }),
        (Src::Imm(_), _, _) => return Err(slot.fault(Field::Off, "0")),
        (Src::Reg(_), 8, _) => Size::B,
        (Src::Reg(_), 16, _) => Size::H,
        (Src::Reg(_), 32, Width::W64) => Size::W,
        (Src::Reg(_), _, Width::W64) => return Err(slot.fault(Field::Off, "0, 8, 16 or 32")),
        (Src::Reg(_), _, Width::W32) => return Err(slot.fault(Field::Off, "0, 8 or 16")),
    };
    Ok(Insn::MovSx { width, from, dst, src: slot.src()? })
}

fn neg(raw: Raw, width: Width) -> Result<Insn, Fault> {
    if raw.opcode & X != 0 {
        return unknown(raw, "for a negation: 0x84 or 0x87");
    }
    let slot = Slot { raw, insn: "a negation" };
    slot.no_src()?;
    slot.no_off()?;
    slot.no_imm()?;
    Ok(Insn::Neg { width, dst: slot.dst()? })
}

fn endian(raw: Raw, width: Width) -> Result<Insn, Fault> {
    let op = match (width, raw.opcode & X != 0) {
        (Width::W32, false) => EndianOp::ToLe,
        (Width::W32, true) => EndianOp::ToBe,
        (Width::W64, false) => EndianOp::Swap,
        (Width::W64, true) => return unknown(raw, "for a byte swap: 0xd4, 0xdc or 0xd7"),
    };
    let slot = Slot { raw, insn: "a byte swap" };
    slot.no_src()?;
    slot.no_off()?;
    let size = match raw.imm {
        16 => Size::H,
        32 => Size::W,
        64 => Size::DW,
        _ => return Err(slot.fault(Field::Imm, "16, 32 or 64")),
    };
    Ok(Insn::Endian { op, size, dst: slot.dst()? })
}

fn jump(raw: Raw) -> Result<Insn, Fault> {
    let register = raw.opcode & X != 0;
    match (raw.opcode & 0xf0, register) {
        (jmp::JA, false) => {
            let slot = Slot { raw, insn: "goto" };
            slot.no_dst()?;
            slot.no_src()?;
            slot.no_imm()?;
            Ok(Insn::Ja { off: raw.off })
        }
        (jmp::JCOND, false) => {
            let slot = Slot { raw, insn: "may_goto" };
            slot.no_dst()?;
            slot.no_src()?;
            slot.no_imm()?;
            Ok(Insn::MayGoto { off: raw.off })
        }
        (jmp::CALL, false) => call_insn(raw),
        (jmp::CALL, true) => {
            let slot = Slot { raw, insn: "callx" };
            slot.no_src()?;
            slot.no_off()?;
            slot.no_imm()?;
            Ok(Insn::CallX { reg: slot.dst()? })
        }
        (jmp::EXIT, false) => Slot { raw, insn: "exit" }.bare().map(|()| Insn::Exit),
        (jmp::JA | jmp::JCOND | jmp::EXIT, true) => {
            unknown(raw, "without the register bit (0x08), which goto, may_goto and exit do not have")
        }
        _ => conditional(raw, Width::W64),
    }
}

fn jump32(raw: Raw) -> Result<Insn, Fault> {
    match raw.opcode & 0xf0 {
        jmp::JA if raw.opcode & X == 0 => {
            let slot = Slot { raw, insn: "gotol" };
            slot.no_dst()?;
            slot.no_src()?;
            slot.no_off()?;
            Ok(Insn::JaL { off: raw.imm })
        }
        jmp::JA | jmp::CALL | jmp::EXIT | jmp::JCOND => unknown(raw, "in class JMP32: 0x06 or a comparison"),
        _ => conditional(raw, Width::W32),
    }
}

fn conditional(raw: Raw, width: Width) -> Result<Insn, Fault> {
    let cond = match raw.opcode & 0xf0 {
        jmp::JEQ => Cond::Eq,
        jmp::JNE => Cond::Ne,
        jmp::JGT => Cond::Gt,
        jmp::JGE => Cond::Ge,
        jmp::JLT => Cond::Lt,
        jmp::JLE => Cond::Le,
        jmp::JSGT => Cond::Sgt,
        jmp::JSGE => Cond::Sge,
        jmp::JSLT => Cond::Slt,
        jmp::JSLE => Cond::Sle,
        jmp::JSET => Cond::Set,
        _ => return unknown(raw, "in classes JMP and JMP32: an operation up to 0xe0 in the high four bits"),
    };
    let slot = Slot { raw, insn: "a conditional jump" };
    Ok(Insn::Jmp { cond, width, dst: slot.dst()?, src: slot.operand()?, off: raw.off })
}

fn call_insn(raw: Raw) -> Result<Insn, Fault> {
    let slot = Slot { raw, insn: "a call" };
    slot.no_dst()?;
    match raw.src {
        call::HELPER => {
            slot.no_off()?;
            Ok(Insn::Call { helper: raw.imm as u32 })
        }
        call::SUBPROG => {
            slot.no_off()?;
            Ok(Insn::CallSubprog { off: raw.imm })
        }
        call::KFUNC => Ok(Insn::CallKfunc { btf_id: raw.imm, off: raw.off }),
        _ => Err(slot.fault(Field::Src, "0 (helper), 1 (subprogram) or 2 (kernel function)")),
    }
}
