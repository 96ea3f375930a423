//! Prefixes, REX, opcode, ModRM, SIB, displacement, immediate: how an instruction's parts become bytes.

use super::operand::{Gpr, Mem, Size};

/// An opcode: the bytes of its map, and its own.
#[derive(Clone, Copy)]
pub(super) enum Op {
    /// One byte.
    One(u8),
    /// After 0F.
    Two(u8),
    /// After 0F 38.
    Three(u8),
}

/// What ModRM.rm names.
#[derive(Clone, Copy)]
pub(super) enum Rm {
    Reg(Gpr),
    Mem(Mem),
}

impl From<Gpr> for Rm {
    fn from(r: Gpr) -> Rm {
        Rm::Reg(r)
    }
}

impl From<Mem> for Rm {
    fn from(m: Mem) -> Rm {
        Rm::Mem(m)
    }
}

/// What ModRM.reg holds.
#[derive(Clone, Copy)]
pub(super) enum RegField {
    Reg(Gpr),
    /// An opcode extension, 0 to 7.
    Ext(u8),
}

/// An immediate in its encoded size.
#[derive(Clone, Copy)]
pub(super) enum Imm {
    None,
    I8(i8),
    I16(i16),
    I32(i32),
}

/// One instruction under construction: prefixes, opcode, ModRM and SIB (at most 8 bytes), then displacement and
/// immediate (at most 8 bytes). Kept in two words, because bytes written one by one are slow to read back together.
pub(super) struct Bytes {
    head: u64,
    head_bits: u32,
    tail: u64,
    tail_bits: u32,
}

impl Bytes {
    pub(super) const fn new() -> Bytes {
        Bytes { head: 0, head_bits: 0, tail: 0, tail_bits: 0 }
    }
    /// Appends a byte in front of displacement and immediate.
    #[inline(always)]
    pub(super) fn push(&mut self, b: u8) {
        self.head |= u64::from(b) << (self.head_bits & 63);
        self.head_bits += 8;
    }
    #[inline(always)]
    fn push_tail(&mut self, value: u32, bits: u32) {
        self.tail |= u64::from(value) << (self.tail_bits & 63);
        self.tail_bits += bits;
    }
    /// Appends it. Copies of constant size are much cheaper than one of the instruction's size.
    #[inline(always)]
    pub(super) fn append_to(&self, out: &mut Vec<u8>) {
        let end = out.len() + (self.head_bits / 8) as usize;
        out.extend_from_slice(&self.head.to_le_bytes());
        out.truncate(end);
        if self.tail_bits != 0 {
            let end = end + (self.tail_bits / 8) as usize;
            out.extend_from_slice(&self.tail.to_le_bytes());
            out.truncate(end);
        }
    }
    #[inline(always)]
    fn opcode(&mut self, op: Op) {
        match op {
            Op::One(b) => self.push(b),
            Op::Two(b) => {
                self.push(0x0f);
                self.push(b);
            }
            Op::Three(b) => {
                self.push(0x0f);
                self.push(0x38);
                self.push(b);
            }
        }
    }
    #[inline(always)]
    fn imm(&mut self, imm: Imm) {
        match imm {
            Imm::None => {}
            Imm::I8(v) => self.push_tail((v as u8).into(), 8),
            Imm::I16(v) => self.push_tail((v as u16).into(), 16),
            Imm::I32(v) => self.push_tail(v as u32, 32),
        }
    }
}

/// The parts of an instruction with a ModRM byte.
pub(super) struct Parts {
    pub lock: bool,
    pub size: Size,
    pub op: Op,
    pub reg: RegField,
    pub rm: Rm,
    /// The register in ModRM.reg / ModRM.rm is used as a byte register: 4 to 7 then need a REX.
    pub byte_reg: bool,
    pub byte_rm: bool,
    pub imm: Imm,
}

impl Parts {
    #[inline(always)]
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Bytes::new();
        if self.lock {
            out.push(0xf0);
        }
        if self.size == Size::W {
            out.push(0x66);
        }
        let rex = self.rex();
        if rex != 0 {
            out.push(rex);
        }
        out.opcode(self.op);
        let reg = match self.reg {
            RegField::Reg(r) => r.low(),
            RegField::Ext(e) => e,
        } << 3;
        match self.rm {
            Rm::Reg(r) => out.push(0xc0 | reg | r.low()),
            Rm::Mem(m) => modrm_mem(&mut out, reg, m),
        }
        out.imm(self.imm);
        out
    }

    /// The REX byte, or 0 where none is needed.
    fn rex(&self) -> u8 {
        let is_low_byte = |r: Gpr| !r.high() && r.low() >= 4;
        let mut bits = u8::from(self.size == Size::Q) << 3;
        let mut needed = false;
        if let RegField::Reg(r) = self.reg {
            bits |= u8::from(r.high()) << 2;
            needed |= self.byte_reg && is_low_byte(r);
        }
        match self.rm {
            Rm::Reg(r) => {
                bits |= u8::from(r.high());
                needed |= self.byte_rm && is_low_byte(r);
            }
            Rm::Mem(m) => {
                bits |= u8::from(m.base.high());
                bits |= m.index.map_or(0, |(i, _)| u8::from(i.high()) << 1);
            }
        }
        if bits != 0 || needed { 0x40 | bits } else { 0 }
    }
}

/// ModRM, SIB and the shortest displacement. `reg` is already in place.
fn modrm_mem(out: &mut Bytes, reg: u8, m: Mem) {
    // rm = 100 announces a SIB byte, so rsp and r12 as a base need one; mod = 00 with rm = 101 means something else, so
    // rbp and r13 always have a displacement.
    let mode = if m.disp == 0 && m.base.low() != 5 {
        0x00
    } else if i8::try_from(m.disp).is_ok() {
        0x40
    } else {
        0x80
    };
    match m.index {
        Some((index, scale)) => {
            debug_assert!(index != Gpr::Rsp, "rsp cannot be an index");
            out.push(mode | reg | 4);
            out.push((scale as u8) << 6 | index.low() << 3 | m.base.low());
        }
        None if m.base.low() == 4 => {
            out.push(mode | reg | 4);
            out.push(0x24);
        }
        None => out.push(mode | reg | m.base.low()),
    }
    match mode {
        0x00 => {}
        0x40 => out.push_tail((m.disp as u8).into(), 8),
        _ => out.push_tail(m.disp as u32, 32),
    }
}
