//! The wire format: slots of eight bytes ↔ [`Insn`] (RFC 9669 section 3, little endian).
//!
//! Decoding accepts exactly the bytes that encoding produces: an unknown opcode, a register above 10, a field that
//! the instruction does not use and is not zero, or a value that has no meaning is an error. So every accepted
//! program has one spelling, and nothing behind this room sees a reserved bit. It checks single instructions only:
//! jump targets, constant shifts by too much and constant divisions by zero are the verifier's.

mod decode;
mod encode;
mod opcode;
mod sentence;

use std::fmt;

use super::{Insn, Insns, Pc};

/// Bytes of a slot.
pub const SLOT_BYTES: usize = 8;

/// One slot, taken apart into its fields and not interpreted. Both registers are four bits wide.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Raw {
    /// Bits 0 to 7.
    pub opcode: u8,
    /// Bits 8 to 11.
    pub dst: u8,
    /// Bits 12 to 15.
    pub src: u8,
    /// Bits 16 to 31.
    pub off: i16,
    /// Bits 32 to 63.
    pub imm: i32,
}

impl Raw {
    /// Takes eight bytes apart.
    #[inline]
    pub const fn from_bytes(bytes: [u8; SLOT_BYTES]) -> Raw {
        let word = u64::from_le_bytes(bytes);
        Raw {
            opcode: word as u8,
            dst: (word >> 8) as u8 & 0xf,
            src: (word >> 12) as u8 & 0xf,
            off: (word >> 16) as i16,
            imm: (word >> 32) as i32,
        }
    }
    /// Puts the fields together; only the low four bits of the registers are used.
    #[inline]
    pub const fn to_bytes(self) -> [u8; SLOT_BYTES] {
        let registers = ((self.src & 0xf) << 4 | (self.dst & 0xf)) as u64;
        let word =
            self.opcode as u64 | registers << 8 | (self.off as u16 as u64) << 16 | (self.imm as u32 as u64) << 32;
        word.to_le_bytes()
    }
}

/// A field of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Field {
    /// Bits 0 to 7.
    Opcode,
    /// The destination register.
    Dst,
    /// The source register, which some instructions use as a selector.
    Src,
    /// The 16-bit offset.
    Off,
    /// The 32-bit immediate.
    Imm,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Field::Opcode => "opcode",
            Field::Dst => "dst_reg",
            Field::Src => "src_reg",
            Field::Off => "off",
            Field::Imm => "imm",
        })
    }
}

/// Why bytes are not instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes do not end at a slot's end.
    #[error("slot {}: {} bytes at the end, wanted slots of 8 bytes", len / 8, len % 8)]
    Length {
        /// Bytes in all.
        len: usize,
    },
    /// More slots than positions can count.
    #[error("{slots} slots, wanted at most {}", u32::MAX)]
    TooLong {
        /// Slots in all.
        slots: usize,
    },
    /// A 64-bit immediate load without its second slot.
    #[error(
        "slot {pc}: a 64-bit immediate load (opcode 0x18) ends after its first slot, wanted a second slot (invalid \
         bpf_ld_imm64 insn)"
    )]
    Cut {
        /// The first slot.
        pc: Pc,
    },
    /// An opcode that means nothing.
    #[error("slot {pc}: opcode is {opcode:#04x}, wanted {wanted} ({})", sentence::opcode(*opcode))]
    Opcode {
        /// Where.
        pc: Pc,
        /// What was found.
        opcode: u8,
        /// What the class of the opcode allows.
        wanted: &'static str,
    },
    /// A field with a value that its instruction does not allow.
    #[error(
        "slot {pc}: {field} of {insn} (opcode {opcode:#04x}) is {found}, wanted {wanted} ({})",
        sentence::field(*opcode, *second, *field, *found)
    )]
    Field {
        /// Where; for the second slot of a 64-bit immediate load that slot.
        pc: Pc,
        /// The opcode of the instruction.
        opcode: u8,
        /// Whether it is the second slot of a 64-bit immediate load.
        second: bool,
        /// What kind of instruction it is.
        insn: &'static str,
        /// Which field.
        field: Field,
        /// What was found.
        found: i64,
        /// What is allowed.
        wanted: &'static str,
    },
}

impl DecodeError {
    /// The slot it is about; `None` when it is about the whole.
    pub fn pc(&self) -> Option<Pc> {
        match *self {
            DecodeError::Length { len } => u32::try_from(len / SLOT_BYTES).ok().map(Pc),
            DecodeError::TooLong { .. } => None,
            DecodeError::Cut { pc } | DecodeError::Opcode { pc, .. } | DecodeError::Field { pc, .. } => Some(pc),
        }
    }
}

/// Decodes the instruction that begins with `first`. `second` is the slot after it, where there is one; it is looked
/// at only by a 64-bit immediate load. `pc` is used in errors.
pub fn decode_one(pc: Pc, first: [u8; SLOT_BYTES], second: Option<[u8; SLOT_BYTES]>) -> Result<Insn, DecodeError> {
    decode::insn(Raw::from_bytes(first), second.map(Raw::from_bytes)).map_err(|fault| fault.at(pc))
}

/// Encodes one instruction: its slot, and for a 64-bit immediate load the second.
///
/// A few values of [`Insn`] have no encoding, those whose size its documentation excludes (a byte swap of one byte,
/// say): they give bytes that decoding refuses.
pub fn encode_one(insn: &Insn) -> ([u8; SLOT_BYTES], Option<[u8; SLOT_BYTES]>) {
    let (first, second) = encode::insn(insn);
    (first.to_bytes(), second.map(Raw::to_bytes))
}

impl Insns {
    /// Decodes a whole program from its bytes, eight a slot.
    pub fn decode(bytes: &[u8]) -> Result<Insns, DecodeError> {
        let (words, rest) = bytes.as_chunks::<SLOT_BYTES>();
        if !rest.is_empty() {
            return Err(DecodeError::Length { len: bytes.len() });
        }
        if u32::try_from(words.len()).is_err() {
            return Err(DecodeError::TooLong { slots: words.len() });
        }
        let mut slots = Vec::with_capacity(words.len());
        while let Some(&word) = words.get(slots.len()) {
            let second = words.get(slots.len() + 1).map(|&w| Raw::from_bytes(w));
            match decode::insn(Raw::from_bytes(word), second) {
                Ok(insn) => {
                    slots.push(Some(insn));
                    if matches!(insn, Insn::LoadImm64 { .. }) {
                        slots.push(None);
                    }
                }
                Err(fault) => return Err(fault.at(Pc(slots.len() as u32))),
            }
        }
        Ok(Insns { slots })
    }

    /// Encodes a whole program, eight bytes a slot. See [`encode_one`] for values without an encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.slots.len() * SLOT_BYTES);
        for insn in self.slots.iter().flatten() {
            let (first, second) = encode_one(insn);
            bytes.extend_from_slice(&first);
            bytes.extend(second.into_iter().flatten());
        }
        bytes
    }
}
