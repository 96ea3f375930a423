//! [`Insn`] → slots. Total; the inverse of `decode`.

use super::super::{AluOp, AtomicOp, Cond, EndianOp, Imm64, Insn, Reg, Size, Src, Width};
use super::Raw;
use super::opcode::{X, alu, atomic, call, class, imm64, jmp, mode, size};

/// The slot or the two slots of an instruction.
pub(super) fn insn(insn: &Insn) -> (Raw, Option<Raw>) {
    let raw = match *insn {
        Insn::LoadImm64 { dst, value } => return load_imm64(dst, value),
        Insn::Alu { op, width, dst, src } => {
            let (code, off) = alu_op(op);
            with_src(alu_class(width) | code, dst, src, off)
        }
        Insn::Neg { width, dst } => raw(alu_class(width) | alu::NEG, dst, Reg::R0, 0, 0),
        Insn::Mov { width, dst, src } => with_src(alu_class(width) | alu::MOV, dst, src, 0),
        Insn::MovSx { width, from, dst, src } => raw(alu_class(width) | alu::MOV | X, dst, src, from.bits() as i16, 0),
        Insn::Endian { op, size, dst } => {
            let code = match op {
                EndianOp::ToLe => class::ALU | alu::END,
                EndianOp::ToBe => class::ALU | alu::END | X,
                EndianOp::Swap => class::ALU64 | alu::END,
            };
            raw(code, dst, Reg::R0, 0, size.bits() as i32)
        }
        Insn::Load { size, dst, base, off } => raw(class::LDX | mode::MEM | size_bits(size), dst, base, off, 0),
        Insn::LoadSx { size, dst, base, off } => raw(class::LDX | mode::MEMSX | size_bits(size), dst, base, off, 0),
        Insn::Store { size, base, off, src } => {
            let code = mode::MEM | size_bits(size);
            match src {
                Src::Reg(src) => raw(class::STX | code, base, src, off, 0),
                Src::Imm(imm) => raw(class::ST | code, base, Reg::R0, off, imm),
            }
        }
        Insn::Atomic { op, width, base, off, src } => {
            let size = if width == Width::W64 { size::DW } else { size::W };
            raw(class::STX | mode::ATOMIC | size, base, src, off, atomic_op(op))
        }
        Insn::LoadAcquire { size, dst, base, off } => {
            raw(class::STX | mode::ATOMIC | size_bits(size), dst, base, off, atomic::LOAD_ACQ)
        }
        Insn::StoreRelease { size, base, off, src } => {
            raw(class::STX | mode::ATOMIC | size_bits(size), base, src, off, atomic::STORE_REL)
        }
        Insn::LoadAbs { size, off } => raw(class::LD | mode::ABS | size_bits(size), Reg::R0, Reg::R0, 0, off),
        Insn::LoadInd { size, src, off } => raw(class::LD | mode::IND | size_bits(size), Reg::R0, src, 0, off),
        Insn::Ja { off } => raw(class::JMP | jmp::JA, Reg::R0, Reg::R0, off, 0),
        Insn::JaL { off } => raw(class::JMP32 | jmp::JA, Reg::R0, Reg::R0, 0, off),
        Insn::MayGoto { off } => raw(class::JMP | jmp::JCOND, Reg::R0, Reg::R0, off, 0),
        Insn::Jmp { cond, width, dst, src, off } => {
            let class = if width == Width::W64 { class::JMP } else { class::JMP32 };
            with_src(class | cond_code(cond), dst, src, off)
        }
        Insn::Call { helper } => call_insn(call::HELPER, 0, helper as i32),
        Insn::CallSubprog { off } => call_insn(call::SUBPROG, 0, off),
        Insn::CallKfunc { btf_id, off } => call_insn(call::KFUNC, off, btf_id),
        Insn::CallX { reg } => raw(class::JMP | jmp::CALL | X, reg, Reg::R0, 0, 0),
        Insn::Exit => raw(class::JMP | jmp::EXIT, Reg::R0, Reg::R0, 0, 0),
    };
    (raw, None)
}

fn raw(opcode: u8, dst: Reg, src: Reg, off: i16, imm: i32) -> Raw {
    Raw { opcode, dst: dst.number(), src: src.number(), off, imm }
}

fn with_src(opcode: u8, dst: Reg, src: Src, off: i16) -> Raw {
    match src {
        Src::Reg(src) => raw(opcode | X, dst, src, off, 0),
        Src::Imm(imm) => raw(opcode, dst, Reg::R0, off, imm),
    }
}

fn call_insn(kind: u8, off: i16, imm: i32) -> Raw {
    Raw { opcode: class::JMP | jmp::CALL, dst: 0, src: kind, off, imm }
}

fn load_imm64(dst: Reg, value: Imm64) -> (Raw, Option<Raw>) {
    let (src, imm, next_imm) = match value {
        Imm64::Const(value) => (imm64::CONST, value as u32 as i32, (value >> 32) as i32),
        Imm64::MapFd(fd) => (imm64::MAP_FD, fd, 0),
        Imm64::MapFdValue { fd, off } => (imm64::MAP_FD_VALUE, fd, off as i32),
        Imm64::BtfId { id, fd } => (imm64::BTF_ID, id, fd),
        Imm64::Func { off } => (imm64::FUNC, off, 0),
        Imm64::MapIdx(idx) => (imm64::MAP_IDX, idx, 0),
        Imm64::MapIdxValue { idx, off } => (imm64::MAP_IDX_VALUE, idx, off as i32),
    };
    let first = Raw { opcode: class::LD | mode::IMM | size::DW, dst: dst.number(), src, off: 0, imm };
    (first, Some(Raw { imm: next_imm, ..Raw::default() }))
}

fn alu_class(width: Width) -> u8 {
    match width {
        Width::W32 => class::ALU,
        Width::W64 => class::ALU64,
    }
}

fn size_bits(size: Size) -> u8 {
    match size {
        Size::B => size::B,
        Size::H => size::H,
        Size::W => size::W,
        Size::DW => size::DW,
    }
}

/// The code and the offset: signed division and modulo are the unsigned ones with offset 1.
fn alu_op(op: AluOp) -> (u8, i16) {
    match op {
        AluOp::Add => (alu::ADD, 0),
        AluOp::Sub => (alu::SUB, 0),
        AluOp::Mul => (alu::MUL, 0),
        AluOp::Div => (alu::DIV, 0),
        AluOp::SDiv => (alu::DIV, 1),
        AluOp::Or => (alu::OR, 0),
        AluOp::And => (alu::AND, 0),
        AluOp::Lsh => (alu::LSH, 0),
        AluOp::Rsh => (alu::RSH, 0),
        AluOp::Mod => (alu::MOD, 0),
        AluOp::SMod => (alu::MOD, 1),
        AluOp::Xor => (alu::XOR, 0),
        AluOp::Arsh => (alu::ARSH, 0),
    }
}

fn cond_code(cond: Cond) -> u8 {
    match cond {
        Cond::Eq => jmp::JEQ,
        Cond::Ne => jmp::JNE,
        Cond::Gt => jmp::JGT,
        Cond::Ge => jmp::JGE,
        Cond::Lt => jmp::JLT,
        Cond::Le => jmp::JLE,
        Cond::Sgt => jmp::JSGT,
        Cond::Sge => jmp::JSGE,
        Cond::Slt => jmp::JSLT,
        Cond::Sle => jmp::JSLE,
        Cond::Set => jmp::JSET,
    }
}

fn atomic_op(op: AtomicOp) -> i32 {
    match op {
        AtomicOp::Add { fetch } => atomic::ADD | i32::from(fetch),
        AtomicOp::Or { fetch } => atomic::OR | i32::from(fetch),
        AtomicOp::And { fetch } => atomic::AND | i32::from(fetch),
        AtomicOp::Xor { fetch } => atomic::XOR | i32::from(fetch),
        AtomicOp::Xchg => atomic::XCHG,
        AtomicOp::Cmpxchg => atomic::CMPXCHG,
    }
}
