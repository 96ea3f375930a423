//! Values at which arithmetic, bounds and encodings change their behaviour.

use crate::Source;

/// 64-bit operands.
pub const U64: [u64; 24] = [
    0,
    1,
    2,
    3,
    7,
    8,
    31,
    32,
    63,
    64,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_8000_0000,
    0xffff_ffff_ffff_ffff,
];

/// 32-bit immediates.
pub const I32: [i32; 20] =
    [0, 1, 2, 3, -1, -2, 7, 8, 31, 32, 63, 64, 0x7f, 0x80, -128, 0x7fff, 0x8000, -0x8000, i32::MAX, i32::MIN];

/// 16-bit offsets.
pub const I16: [i16; 12] = [0, 1, -1, 2, 4, 8, -8, 14, -16, 64, i16::MAX, i16::MIN];

/// A 64-bit number: a corner, one next to a corner, or anything.
pub fn u64(source: &mut Source<'_>) -> u64 {
    match source.below(4) {
        0 | 1 => source.pick(&U64),
        2 => source.pick(&U64).wrapping_add(u64::from(source.below(3))).wrapping_sub(1),
        _ => source.u64(),
    }
}

/// A 32-bit immediate: a corner or anything.
pub fn i32(source: &mut Source<'_>) -> i32 {
    match source.below(4) {
        3 => source.u32() as i32,
        _ => source.pick(&I32),
    }
}

/// A 16-bit offset: a corner or anything.
pub fn i16(source: &mut Source<'_>) -> i16 {
    match source.below(4) {
        3 => source.u32() as i16,
        _ => source.pick(&I16),
    }
}
