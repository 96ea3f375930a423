//! Damage to wire bytes: for decoders, which must refuse or accept but never fail, and for verifiers, which must not
//! be fooled by a program that is almost right.

use livebpf::insn::Insns;
use livebpf::link::Program;

use crate::{Source, Suite, corners};

const SLOT: usize = 8;

/// Damages `bytes` in one to four places. The length changes at times.
pub fn bytes(source: &mut Source<'_>, bytes: &mut Vec<u8>) {
    for _ in 0..source.between(1, 4) {
        if source.chance(1, 16) {
            resize(source, bytes);
        } else {
            damage(source, bytes);
        }
    }
}

/// The program with one to four places of its code damaged; `None` where the result does not decode.
pub fn program(source: &mut Source<'_>, program: &Program) -> Option<Program> {
    let mut bytes = program.insns.encode();
    for _ in 0..source.between(1, 4) {
        damage(source, &mut bytes);
    }
    let insns = Insns::decode(&bytes).ok()?;
    Some(Program { insns, ..program.clone() })
}

/// Damages about every second program of a suite.
pub fn suite(source: &mut Source<'_>, suite: &mut Suite) {
    for whole in &mut suite.programs {
        if source.chance(1, 2)
            && let Some(mutant) = program(source, whole)
        {
            *whole = mutant;
        }
    }
}

/// One damage that keeps the length.
fn damage(source: &mut Source<'_>, bytes: &mut [u8]) {
    if bytes.len() < SLOT {
        return;
    }
    let slots = (bytes.len() / SLOT) as u32;
    let at = source.below(slots) as usize * SLOT;
    let other = source.below(slots) as usize * SLOT;
    match source.below(8) {
        0 => bytes[at + source.below(8) as usize] ^= 1 << source.below(8),
        1 => bytes[at] = source.below(256) as u8,
        2 => {
            let registers = &mut bytes[at + 1];
            let new = source.below(11) as u8;
            *registers = if source.chance(1, 2) { *registers & 0xf0 | new } else { *registers & 0x0f | new << 4 };
        }
        3 => bytes[at + 2..at + 4].copy_from_slice(&corners::i16(source).to_le_bytes()),
        4 => {
            let nudge = source.pick(&[1i16, -1, 2, -2, 4, -4, 8, -8]);
            let off = i16::from_le_bytes([bytes[at + 2], bytes[at + 3]]).wrapping_add(nudge);
            bytes[at + 2..at + 4].copy_from_slice(&off.to_le_bytes());
        }
        5 => bytes[at + 4..at + 8].copy_from_slice(&corners::i32(source).to_le_bytes()),
        6 => {
            let imm = [bytes[at + 4], bytes[at + 5], bytes[at + 6], bytes[at + 7]];
            let nudged = i32::from_le_bytes(imm).wrapping_add(source.pick(&[1, -1, 8, -8, i32::MIN]));
            bytes[at + 4..at + 8].copy_from_slice(&nudged.to_le_bytes());
        }
        _ => {
            for i in 0..SLOT {
                bytes.swap(at + i, other + i);
            }
        }
    }
}

/// One damage that changes the length.
fn resize(source: &mut Source<'_>, bytes: &mut Vec<u8>) {
    let len = bytes.len() as u32;
    match source.below(3) {
        0 => bytes.truncate(source.below(len + 1) as usize),
        1 if bytes.len() >= SLOT => {
            let at = source.below(len / SLOT as u32) as usize * SLOT;
            bytes.drain(at..at + SLOT);
        }
        _ => {
            let at = source.below(len / SLOT as u32 + 1) as usize * SLOT;
            let slot = source.u64().to_le_bytes();
            bytes.splice(at..at, slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Generator, Shape};

    #[test]
    fn damage_is_done_and_repeats() {
        let original = Generator::new(5).program(&Shape::xdp());
        let (mut changed, mut decoded) = (0, 0);
        for seed in 0..500 {
            let mut source = Source::seeded(seed);
            let mut wire = original.insns.encode();
            bytes(&mut source, &mut wire);
            changed += u32::from(wire != original.insns.encode());
            let mutant = program(&mut Source::seeded(seed), &original);
            assert_eq!(mutant, program(&mut Source::seeded(seed), &original));
            decoded += u32::from(mutant.is_some());
        }
        assert!(changed > 450, "{changed}");
        assert!((50..500).contains(&decoded), "{decoded}");
    }

    #[test]
    fn nothing_is_too_short_to_be_damaged() {
        for len in 0..20 {
            for seed in 0..200 {
                bytes(&mut Source::seeded(seed), &mut vec![0; len]);
            }
        }
    }
}
