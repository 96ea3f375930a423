//! What the kernel's log says about bytes that are no instruction, for tools that match on it.

use super::Field;
use super::opcode::{alu, class, jmp, mode, size};

/// 0x18: a 64-bit immediate load.
const LOAD_IMM64: u8 = class::LD | mode::IMM | size::DW;

/// About an unknown opcode.
pub(super) fn opcode(opcode: u8) -> String {
    match opcode & 7 {
        class::LDX => "BPF_LDX uses reserved fields".to_owned(),
        _ => format!("unknown opcode {opcode:02x}"),
    }
}

/// About a field of an instruction; `second`: of the second slot of a 64-bit immediate load.
pub(super) fn field(opcode: u8, second: bool, field: Field, found: i64) -> String {
    let register = matches!(field, Field::Dst | Field::Src) && found > 10;
    match (opcode, second) {
        (_, true) if field == Field::Imm => return "unrecognized bpf_ld_imm64 insn".to_owned(),
        (_, true) => return "invalid bpf_ld_imm64 insn".to_owned(),
        (LOAD_IMM64, _) if field == Field::Src => return "unrecognized bpf_ld_imm64 insn".to_owned(),
        _ if register => return format!("R{found} is invalid"),
        _ => {}
    }
    let what = match opcode & 7 {
        class::LD if opcode == LOAD_IMM64 => "LD_IMM64",
        class::LD => "LD_[ABS|IND]",
        class::LDX => "LDX",
        class::ST => "ST",
        class::STX if opcode & 0xe0 == mode::ATOMIC => "ATOMIC",
        class::STX => "STX",
        class::ALU | class::ALU64 => match opcode & 0xf0 {
            alu::NEG => "NEG",
            alu::END => "END",
            alu::MOV => "MOV",
            _ => "ALU",
        },
        _ => match opcode & 0xf0 {
            jmp::CALL => "CALL",
            jmp::JA => "JA",
            jmp::EXIT => "EXIT",
            _ => "JMP",
        },
    };
    format!("BPF_{what} uses reserved fields")
}
