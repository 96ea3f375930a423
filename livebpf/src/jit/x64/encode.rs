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

/// One instruction under construction: at most 15 bytes.
pub(super) struct Bytes {
    buf: [u8; 16],
    len: usize,
}

impl Bytes {
    pub(super) const fn new() -> Bytes {
        Bytes { buf: [0; 16], len: 0 }
    }
    #[inline(always)]
    pub(super) fn push(&mut self, b: u8) {
        self.buf[self.len & 15] = b;
        self.len += 1;
    }
    fn push_i32(&mut self, v: i32) {
        for b in v.to_le_bytes() {
            self.push(b);
        }
    }
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.buf[..self.len.min(16)]
    }
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
    fn imm(&mut self, imm: Imm) {
        match imm {
            Imm::None => {}
            Imm::I8(v) => self.push(v as u8),
            Imm::I16(v) => v.to_le_bytes().into_iter().for_each(|b| self.push(b)),
            Imm::I32(v) => self.push_i32(v),
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
    #[inline]
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
        0x40 => out.push(m.disp as u8),
        _ => out.push_i32(m.disp),
    }
}
