//! What programs run on: packets, context fields and map contents whose bytes are numbers that the program compares with, and
//! their neighbours.

use livebpf::insn::{Imm64, Insn, Src};
use livebpf::link::Program;
use livebpf::object::ProgType;

use crate::{Source, corners};

/// One input.
#[derive(Clone, Debug)]
pub(super) struct Input {
    pub packet: Vec<u8>,
    /// Context fields that are set before the run.
    pub fields: Vec<(&'static str, u64)>,
    /// The value of the map of one element.
    pub single: Vec<u8>,
    /// The values of the array.
    pub array: Vec<Vec<u8>>,
    /// Key and value of the hash map.
    pub hash: Vec<([u8; 8], Vec<u8>)>,
    /// The values of the per-CPU array.
    pub percpu: Vec<Vec<u8>>,
}

/// Numbers near those that a program mentions.
pub(super) struct Pool(Vec<u64>);

impl Pool {
    pub(super) fn of(program: &Program) -> Pool {
        let mut numbers = Vec::new();
        for (_, insn) in program.insns.iter() {
            let number = match insn {
                Insn::Alu { src: Src::Imm(imm), .. }
                | Insn::Mov { src: Src::Imm(imm), .. }
                | Insn::Jmp { src: Src::Imm(imm), .. } => imm as i64 as u64,
                Insn::LoadImm64 { value: Imm64::Const(value), .. } => value,
                _ => continue,
            };
            numbers.extend([number, number.wrapping_add(1), number.wrapping_sub(1), number.wrapping_neg(), !number]);
        }
        Pool(numbers)
    }

    fn number(&self, source: &mut Source<'_>) -> u64 {
        match source.below(4) {
            0 | 1 if !self.0.is_empty() => self.0[source.below(self.0.len() as u32) as usize],
            2 => corners::u64(source),
            _ => source.u64() >> source.below(64),
        }
    }

    fn bytes(&self, source: &mut Source<'_>, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            let number = self.number(source);
            match source.below(4) {
                0 => out.push(number as u8),
                1 => out.extend((number as u32).to_le_bytes()),
                2 => out.extend(number.swap_bytes().to_le_bytes()),
                _ => out.extend(number.to_le_bytes()),
            }
        }
        out.truncate(len);
        out
    }

    /// An input for a program of this type.
    pub(super) fn input(&self, source: &mut Source<'_>, prog_type: ProgType) -> Input {
        let len = source.pick(&[64, 14, 15, 18, 22, 34, 42, 60, 74, 75, 130, 300]);
        let mut packet = self.bytes(source, len);
        // A context refuses frames of a protocol whose header they are too short for: a type for local experiments.
        packet[12..14].copy_from_slice(&[0x88, 0xb5]);
        let mut fields = Vec::new();
        if prog_type == ProgType::XDP {
            if source.chance(1, 4) && len >= 34 {
                fields.push(("data", source.pick(&[4, 8, 16])));
            }
            fields.push(("rx_queue_index", self.number(source) & 0xffff_ffff));
        } else {
            fields.push(("mark", self.number(source) & 0xffff_ffff));
            fields.push(("cb[0]", self.number(source) & 0xffff_ffff));
            fields.push(("cb[1]", self.number(source) & 0xffff_ffff));
        }
        let hash = (0..source.below(5)).map(|key| (u64::from(key).to_le_bytes(), self.bytes(source, 16))).collect();
        Input {
            packet,
            fields,
            single: self.words(source, 48),
            array: (0..3).map(|_| self.bytes(source, 20)).collect(),
            hash,
            percpu: (0..2).map(|_| self.bytes(source, 8)).collect(),
        }
    }

    /// Aligned words: these are read as such.
    fn words(&self, source: &mut Source<'_>, len: usize) -> Vec<u8> {
        (0..len / 8).flat_map(|_| self.number(source).to_le_bytes()).collect()
    }
}
