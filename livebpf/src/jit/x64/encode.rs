//! Prefixes, REX, opcode, ModRM, SIB, displacement, immediate: how an instruction's parts become bytes.

use super::operand::{Gpr, Mem};

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

/// Up to 8 bytes of an instruction, in a word, the first one lowest; those above its length are zero.
///
/// The pieces are put together by selecting and not by jumping, since what comes next differs from one instruction to the next.
#[derive(Clone, Copy)]
pub(super) struct Short {
    word: u64,
    len: u32,
}

/// The bytes of an instruction that can have more than 8.
#[derive(Clone, Copy)]
pub(super) struct Long {
    words: [u64; 2],
    len: u32,
}

impl Short {
    #[inline(always)]
    fn opcode(op: Op) -> Short {
        match op {
            Op::One(b) => Short { word: b.into(), len: 1 },
            Op::Two(b) => Short { word: 0x0f | u64::from(b) << 8, len: 2 },
            Op::Three(b) => Short { word: 0x380f | u64::from(b) << 16, len: 3 },
        }
    }
    /// A one-byte opcode with the register in its low bits.
    #[inline(always)]
    pub(super) fn register(wide: bool, op: u8, r: Gpr) -> Short {
        let rex = u8::from(wide) << 3 | u8::from(r.high());
        Short::opcode(Op::One(op | r.low())).behind(0x40 | rex, rex != 0)
    }
    /// With `byte` in front where `wanted`.
    #[inline(always)]
    fn behind(self, byte: u8, wanted: bool) -> Short {
        let with = Short { word: self.word << 8 | u64::from(byte), len: self.len + 1 };
        if wanted { with } else { self }
    }
    /// With an immediate behind, where that fits.
    #[inline(always)]
    pub(super) fn then(self, imm: Imm) -> Short {
        let (imm, len) = imm.encode();
        Short { word: self.word | imm << ((self.len * 8) & 63), len: self.len + len }
    }
    /// With the lowest `len` (at most 8) bytes of `tail` behind; those above are zero. This is not empty, nor 8 bytes long.
    #[inline(always)]
    pub(super) fn then_long(self, tail: u64, len: u32) -> Long {
        let bits = self.len * 8;
        Long { words: [self.word | tail << (bits & 63), tail >> ((64 - bits) & 63)], len: self.len + len }
    }
    /// Appends it. A copy of constant size is much cheaper than one of the instruction's size.
    #[inline(always)]
    pub(super) fn append_to(self, out: &mut Vec<u8>) {
        append(out, [self.word, 0], self.len);
    }
}

impl Long {
    /// As [`Short::append_to`].
    #[inline(always)]
    pub(super) fn append_to(self, out: &mut Vec<u8>) {
        append(out, self.words, self.len);
    }
}

#[inline(always)]
fn append(out: &mut Vec<u8>, [low, high]: [u64; 2], len: u32) {
    // That there is not enough room is looked at here, so that what follows that is no part of every caller.
    if out.capacity() - out.len() < 16 {
        return append_to_full(out, low, high, len);
    }
    let end = out.len() + len as usize;
    out.extend_from_slice(&(u128::from(high) << 64 | u128::from(low)).to_le_bytes());
    out.truncate(end);
}

#[cold]
#[inline(never)]
fn append_to_full(out: &mut Vec<u8>, low: u64, high: u64, len: u32) {
    out.reserve(4096);
    append(out, [low, high], len);
}

impl Imm {
    /// Its bytes, and how many.
    #[inline(always)]
    fn encode(self) -> (u64, u32) {
        match self {
            Imm::None => (0, 0),
            Imm::I8(v) => ((v as u8).into(), 1),
            Imm::I16(v) => ((v as u16).into(), 2),
            Imm::I32(v) => ((v as u32).into(), 4),
        }
    }
}

/// The parts of an instruction with a ModRM byte, but for what ModRM.rm names.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    pub lock: bool,
    /// The operands have 16 bits.
    pub word: bool,
    /// The operands have 64 bits.
    pub wide: bool,
    pub op: Op,
    pub reg: RegField,
    /// The register in ModRM.reg / ModRM.rm is used as a byte register: 4 to 7 then need a REX.
    pub byte_reg: bool,
    pub byte_rm: bool,
    pub imm: Imm,
}

impl Parts {
    /// With a register.
    #[inline(always)]
    pub(super) fn with_reg(self, rm: Gpr) -> Short {
        let opcode = Short::opcode(self.op);
        let modrm = 0xc0 | self.reg.low() | rm.low();
        let code = Short { word: opcode.word | u64::from(modrm) << (opcode.len * 8), len: opcode.len + 1 };
        let rex = self.rex() | u8::from(rm.high());
        let needed = rex != 0x40 || self.byte_reg && self.reg.is_low_byte() || self.byte_rm && is_low_byte(rm);
        code.behind(rex, needed).behind(0x66, self.word).then(self.imm)
    }

    /// With memory: ModRM, SIB and the shortest displacement.
    #[inline(always)]
    pub(super) fn with_mem(self, m: Mem) -> Long {
        // rm = 100 announces a SIB byte, so rsp and r12 as a base need one; mod = 00 with rm = 101 means something else,
        // so rbp and r13 always have a displacement.
        let near = i8::try_from(m.disp).is_ok();
        let (mode, disp, disp_len) = if near { (0x40, m.disp as u8 as u32, 1) } else { (0x80, m.disp as u32, 4) };
        let (mode, disp_len) = if m.disp == 0 && m.base.low() != 5 { (0x00, 0) } else { (mode, disp_len) };
        let modrm = mode | self.reg.low();
        let (modrm, modrm_len, index_high) = match m.index {
            Some((index, scale)) => {
                debug_assert!(index != Gpr::Rsp, "rsp cannot be an index");
                let sib = (scale as u8) << 6 | index.low() << 3 | m.base.low();
                (u64::from(modrm | 4) | u64::from(sib) << 8, 2, index.high())
            }
            None if m.base.low() == 4 => (u64::from(modrm | 4) | 0x2400, 2, false),
            None => (u64::from(modrm | m.base.low()), 1, false),
        };
        let opcode = Short::opcode(self.op);
        let code = Short { word: opcode.word | modrm << (opcode.len * 8), len: opcode.len + modrm_len };
        let rex = self.rex() | u8::from(index_high) << 1 | u8::from(m.base.high());
        let needed = rex != 0x40 || self.byte_reg && self.reg.is_low_byte();
        let code = code.behind(rex, needed).behind(0x66, self.word).behind(0xf0, self.lock);
        let (imm, imm_len) = self.imm.encode();
        code.then_long(u64::from(disp) | imm << (disp_len * 8), disp_len + imm_len)
    }

    /// REX, with what is known of it without ModRM.rm.
    #[inline(always)]
    fn rex(&self) -> u8 {
        0x40 | u8::from(self.wide) << 3 | self.reg.high() << 2
    }
}

impl RegField {
    /// In its place in ModRM.
    #[inline(always)]
    const fn low(self) -> u8 {
        match self {
            RegField::Reg(r) => r.low() << 3,
            RegField::Ext(e) => e << 3,
        }
    }
    #[inline(always)]
    const fn high(self) -> u8 {
        match self {
            RegField::Reg(r) => r.high() as u8,
            RegField::Ext(_) => 0,
        }
    }
    #[inline(always)]
    const fn is_low_byte(self) -> bool {
        match self {
            RegField::Reg(r) => is_low_byte(r),
            RegField::Ext(_) => false,
        }
    }
}

/// Whether as a byte register it needs a REX: spl, bpl, sil, dil.
const fn is_low_byte(r: Gpr) -> bool {
    !r.high() && r.low() >= 4
}
