//! Classic BPF, as `tcpdump -ddd` writes it and packet sockets take it → a socket filter that is verified and run like any other.
//!
//! [`Filter`] is a classic program that passed the checks of the kernel's `bpf_check_classic` (net/core/filter.c): every instruction
//! is known, every jump goes forward and stays inside, the last instruction returns, scratch memory is written before it is
//! read. [`Filter::translate`] gives eBPF with the same result for every packet:
//!
//! | classic | eBPF |
//! | --- | --- |
//! | A, X | R0, R7; zero at the start; only the low 32 bits are ever set |
//! | M\[0\] to M\[15\] | the 64 bytes below R10 |
//! | the packet | R6, the context; loads are `LD_ABS` and `LD_IND`, which end the program with 0 outside of the packet |
//! | ancillary data (`SKF_AD_OFF`) | fields of the context and helpers: [`Ancillary`] |
//! | division by X = 0 | ends the program with 0 |
//!
//! Pure: text or bytes in, a program out. It knows no proof and no machine code.

mod ancillary;
mod check;
mod error;
mod parse;
#[cfg(test)]
mod tests;
mod translate;

pub use ancillary::Ancillary;
pub use error::CbpfError;

/// One classic instruction: `struct sock_filter`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ClassicInsn {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a condition is true.
    pub jt: u8,
    /// Instructions to skip when it is false.
    pub jf: u8,
    /// The constant.
    pub k: u32,
}

/// Most instructions of a filter (`BPF_MAXINSNS`).
pub const MAX_INSNS: usize = 4096;
/// Words of scratch memory (`BPF_MEMWORDS`).
pub const SCRATCH_WORDS: u32 = 16;

/// A classic program that passed all checks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    insns: Vec<ClassicInsn>,
}

impl Filter {
    /// Checks a program.
    ///
    /// # Errors
    /// [`CbpfError`]: which instruction, what was found, what was wanted.
    pub fn new(insns: &[ClassicInsn]) -> Result<Filter, CbpfError> {
        check::check(insns)?;
        Ok(Filter { insns: insns.to_vec() })
    }

    /// Reads what `tcpdump -ddd` writes, decimal numbers: how many instructions, then a line `code jt jf k` for each. Commas may stand
    /// for line feeds, as in iptables' `--bytecode`.
    ///
    /// # Errors
    /// As [`new`](Self::new), and for text of another form: which line.
    pub fn parse(text: &str) -> Result<Filter, CbpfError> {
        Filter::new(&parse::parse(text)?)
    }

    /// Reads an array of `struct sock_filter`, little endian, as `SO_ATTACH_FILTER` takes it.
    ///
    /// # Errors
    /// As [`new`](Self::new), and where the bytes do not end with an instruction.
    pub fn decode(bytes: &[u8]) -> Result<Filter, CbpfError> {
        let (words, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(CbpfError::Length { len: bytes.len() });
        }
        let insn = |b: &[u8; 8]| ClassicInsn {
            code: u16::from_le_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
        };
        Filter::new(&words.iter().map(insn).collect::<Vec<_>>())
    }

    /// Its instructions.
    pub fn insns(&self) -> &[ClassicInsn] {
        &self.insns
    }
}

/// Operations: the fields of `code` (uapi/linux/bpf_common.h).
mod code {
    pub const LD: u16 = 0x00;
    pub const LDX: u16 = 0x01;
    pub const ST: u16 = 0x02;
    pub const STX: u16 = 0x03;
    pub const ALU: u16 = 0x04;
    pub const JMP: u16 = 0x05;
    pub const RET: u16 = 0x06;
    pub const MISC: u16 = 0x07;

    pub const W: u16 = 0x00;
    pub const H: u16 = 0x08;
    pub const B: u16 = 0x10;

    pub const IMM: u16 = 0x00;
    pub const ABS: u16 = 0x20;
    pub const IND: u16 = 0x40;
    pub const MEM: u16 = 0x60;
    pub const LEN: u16 = 0x80;
    pub const MSH: u16 = 0xa0;

    pub const K: u16 = 0x00;
    pub const X: u16 = 0x08;
    pub const A: u16 = 0x10;
    pub const TAX: u16 = 0x00;
    pub const TXA: u16 = 0x80;

    pub const ADD: u16 = 0x00;
    pub const SUB: u16 = 0x10;
    pub const MUL: u16 = 0x20;
    pub const DIV: u16 = 0x30;
    pub const OR: u16 = 0x40;
    pub const AND: u16 = 0x50;
    pub const LSH: u16 = 0x60;
    pub const RSH: u16 = 0x70;
    pub const NEG: u16 = 0x80;
    pub const MOD: u16 = 0x90;
    pub const XOR: u16 = 0xa0;

    pub const JA: u16 = 0x00;
    pub const JEQ: u16 = 0x10;
    pub const JGT: u16 = 0x20;
    pub const JGE: u16 = 0x30;
    pub const JSET: u16 = 0x40;
}

/// What an instruction does: the operations that the kernel knows (`chk_code_allowed`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Op {
    /// A = a constant.
    LoadImm,
    /// A = the packet's length.
    LoadLen,
    /// A = bytes of the packet at a constant offset, or ancillary data.
    LoadAbs(crate::insn::Size),
    /// A = bytes of the packet at X and a constant.
    LoadInd(crate::insn::Size),
    /// A = a word of scratch memory.
    LoadMem,
    /// X = a constant.
    LoadXImm,
    /// X = the packet's length.
    LoadXLen,
    /// X = a word of scratch memory.
    LoadXMem,
    /// X = four times the low four bits of a byte of the packet: an IPv4 header's length.
    LoadXMsh,
    /// A word of scratch memory = A.
    StoreA,
    /// A word of scratch memory = X.
    StoreX,
    /// A = A op X, or op a constant.
    Alu(crate::insn::AluOp, bool),
    /// A = -A.
    Neg,
    Ja,
    /// Compares A with X, or with a constant.
    Jump(crate::insn::Cond, bool),
    ReturnA,
    ReturnK,
    /// X = A.
    Tax,
    /// A = X.
    Txa,
}

impl ClassicInsn {
    /// What it does; `None` for a code that the kernel does not take.
    fn op(self) -> Option<Op> {
        use crate::insn::Size;
        use code as c;
        let size = match self.code & 0x18 {
            c::W => Some(Size::W),
            c::H => Some(Size::H),
            c::B => Some(Size::B),
            _ => None,
        };
        // What no case below takes has bits that mean nothing.
        Some(match self.code & 7 {
            c::LD => match self.code & !0x1f {
                c::ABS => Op::LoadAbs(size?),
                c::IND => Op::LoadInd(size?),
                c::IMM if self.code == c::LD | c::W => Op::LoadImm,
                c::MEM if self.code == c::LD | c::W | c::MEM => Op::LoadMem,
                c::LEN if self.code == c::LD | c::W | c::LEN => Op::LoadLen,
                _ => return None,
            },
            c::LDX => match self.code & !7 {
                v if v == c::W | c::IMM => Op::LoadXImm,
                v if v == c::W | c::MEM => Op::LoadXMem,
                v if v == c::W | c::LEN => Op::LoadXLen,
                v if v == c::B | c::MSH => Op::LoadXMsh,
                _ => return None,
            },
            c::ST if self.code == c::ST => Op::StoreA,
            c::STX if self.code == c::STX => Op::StoreX,
            c::ALU if self.code == c::ALU | c::NEG => Op::Neg,
            c::ALU => Op::Alu(alu(self.code & !0xf)?, self.code & c::X != 0),
            c::JMP if self.code == c::JMP | c::JA => Op::Ja,
            c::JMP => Op::Jump(condition(self.code & !0xf)?, self.code & c::X != 0),
            c::RET if self.code == c::RET | c::K => Op::ReturnK,
            c::RET if self.code == c::RET | c::A => Op::ReturnA,
            c::MISC if self.code == c::MISC | c::TAX => Op::Tax,
            c::MISC if self.code == c::MISC | c::TXA => Op::Txa,
            _ => return None,
        })
    }
}

fn alu(op: u16) -> Option<crate::insn::AluOp> {
    use crate::insn::AluOp;
    Some(match op {
        code::ADD => AluOp::Add,
        code::SUB => AluOp::Sub,
        code::MUL => AluOp::Mul,
        code::DIV => AluOp::Div,
        code::OR => AluOp::Or,
        code::AND => AluOp::And,
        code::LSH => AluOp::Lsh,
        code::RSH => AluOp::Rsh,
        code::MOD => AluOp::Mod,
        code::XOR => AluOp::Xor,
        _ => return None,
    })
}

fn condition(op: u16) -> Option<crate::insn::Cond> {
    use crate::insn::Cond;
    Some(match op {
        code::JEQ => Cond::Eq,
        code::JGT => Cond::Gt,
        code::JGE => Cond::Ge,
        code::JSET => Cond::Set,
        _ => return None,
    })
}
