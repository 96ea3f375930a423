//! What arithmetic, comparisons and byte swaps mean: pure functions, the executable specification.
//!
//! RFC 9669, sections 4.1 to 4.3. Every result of a 32-bit operation is zero-extended. Never faults: division by zero
//! gives 0, modulo by zero leaves the destination, shifts are taken modulo the width.

use crate::insn::{AluOp, Cond, EndianOp, Size, Width};

/// `dst op src`.
pub const fn alu(op: AluOp, width: Width, dst: u64, src: u64) -> u64 {
    match width {
        Width::W64 => alu64(op, dst, src),
        Width::W32 => alu32(op, dst as u32, src as u32) as u64,
    }
}

const fn alu64(op: AluOp, dst: u64, src: u64) -> u64 {
    match op {
        AluOp::Add => dst.wrapping_add(src),
        AluOp::Sub => dst.wrapping_sub(src),
        AluOp::Mul => dst.wrapping_mul(src),
        AluOp::Div => match src {
            0 => 0,
            _ => dst / src,
        },
        AluOp::SDiv => match src {
            0 => 0,
            _ => (dst as i64).wrapping_div(src as i64) as u64,
        },
        AluOp::Mod => match src {
            0 => dst,
            _ => dst % src,
        },
        AluOp::SMod => match src {
            0 => dst,
            _ => (dst as i64).wrapping_rem(src as i64) as u64,
        },
        AluOp::Or => dst | src,
        AluOp::And => dst & src,
        AluOp::Xor => dst ^ src,
        AluOp::Lsh => dst << (src & 63),
        AluOp::Rsh => dst >> (src & 63),
        AluOp::Arsh => ((dst as i64) >> (src & 63)) as u64,
    }
}

const fn alu32(op: AluOp, dst: u32, src: u32) -> u32 {
    match op {
        AluOp::Add => dst.wrapping_add(src),
        AluOp::Sub => dst.wrapping_sub(src),
        AluOp::Mul => dst.wrapping_mul(src),
        AluOp::Div => match src {
            0 => 0,
            _ => dst / src,
        },
        AluOp::SDiv => match src {
            0 => 0,
            _ => (dst as i32).wrapping_div(src as i32) as u32,
        },
        AluOp::Mod => match src {
            0 => dst,
            _ => dst % src,
        },
        AluOp::SMod => match src {
            0 => dst,
            _ => (dst as i32).wrapping_rem(src as i32) as u32,
        },
        AluOp::Or => dst | src,
        AluOp::And => dst & src,
        AluOp::Xor => dst ^ src,
        AluOp::Lsh => dst << (src & 31),
        AluOp::Rsh => dst >> (src & 31),
        AluOp::Arsh => ((dst as i32) >> (src & 31)) as u32,
    }
}

/// `-dst`.
pub const fn neg(width: Width, dst: u64) -> u64 {
    match width {
        Width::W64 => dst.wrapping_neg(),
        Width::W32 => (dst as u32).wrapping_neg() as u64,
    }
}

/// A move.
pub const fn mov(width: Width, src: u64) -> u64 {
    match width {
        Width::W64 => src,
        Width::W32 => src as u32 as u64,
    }
}

/// The low `from` bytes of `value`, sign-extended to 64 bits.
pub const fn sign_extend(from: Size, value: u64) -> u64 {
    match from {
        Size::B => value as i8 as u64,
        Size::H => value as i16 as u64,
        Size::W => value as i32 as u64,
        Size::DW => value,
    }
}

/// The low `size` bytes of `value`, zero-extended.
pub const fn truncate(size: Size, value: u64) -> u64 {
    match size {
        Size::B => value as u8 as u64,
        Size::H => value as u16 as u64,
        Size::W => value as u32 as u64,
        Size::DW => value,
    }
}

/// A byte-order conversion on a little-endian machine.
pub const fn endian(op: EndianOp, size: Size, dst: u64) -> u64 {
    match op {
        EndianOp::ToLe => truncate(size, dst),
        EndianOp::ToBe | EndianOp::Swap => dst.swap_bytes() >> (64 - size.bits()),
    }
}

/// Whether a conditional jump is taken.
pub const fn taken(cond: Cond, width: Width, dst: u64, src: u64) -> bool {
    let (dst, src, sdst, ssrc) = match width {
        Width::W64 => (dst, src, dst as i64, src as i64),
        Width::W32 => (dst as u32 as u64, src as u32 as u64, dst as i32 as i64, src as i32 as i64),
    };
    match cond {
        Cond::Eq => dst == src,
        Cond::Ne => dst != src,
        Cond::Gt => dst > src,
        Cond::Ge => dst >= src,
        Cond::Lt => dst < src,
        Cond::Le => dst <= src,
        Cond::Sgt => sdst > ssrc,
        Cond::Sge => sdst >= ssrc,
        Cond::Slt => sdst < ssrc,
        Cond::Sle => sdst <= ssrc,
        Cond::Set => dst & src != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Width::{W32, W64};

    #[test]
    fn division_by_zero_and_overflow() {
        let all = u64::MAX;
        assert_eq!(alu(AluOp::Div, W64, 7, 0), 0);
        assert_eq!(alu(AluOp::SDiv, W64, 7, 0), 0);
        assert_eq!(alu(AluOp::Mod, W64, all, 0), all);
        assert_eq!(alu(AluOp::SMod, W64, all, 0), all);
        assert_eq!(alu(AluOp::Mod, W32, all, 0), 0xffff_ffff, "a 32-bit result is zero-extended even then");
        assert_eq!(alu(AluOp::SMod, W32, all, 1 << 32), 0xffff_ffff, "only the low half divides");
        assert_eq!(alu(AluOp::SDiv, W64, 1 << 63, all), 1 << 63);
        assert_eq!(alu(AluOp::SMod, W64, 1 << 63, all), 0);
        assert_eq!(alu(AluOp::SDiv, W32, 0x8000_0000, 0xffff_ffff), 0x8000_0000);
        assert_eq!(alu(AluOp::SMod, W32, 0x8000_0000, 0xffff_ffff), 0);
        assert_eq!(alu(AluOp::SDiv, W64, -13i64 as u64, 3), -4i64 as u64);
        assert_eq!(alu(AluOp::SMod, W64, -13i64 as u64, 3), -1i64 as u64);
        assert_eq!(alu(AluOp::SMod, W64, 13, -3i64 as u64), 1);
        assert_eq!(alu(AluOp::SDiv, W32, -13i32 as u32 as u64, 3), -4i32 as u32 as u64);
        assert_eq!(alu(AluOp::Div, W64, -13i64 as u64, 3), (u64::MAX - 12) / 3);
    }

    #[test]
    fn shifts_wrap_at_the_width() {
        assert_eq!(alu(AluOp::Lsh, W64, 1, 64), 1);
        assert_eq!(alu(AluOp::Lsh, W64, 1, 63), 1 << 63);
        assert_eq!(alu(AluOp::Lsh, W32, 1, 33), 2);
        assert_eq!(alu(AluOp::Rsh, W32, u64::MAX, 31), 1);
        assert_eq!(alu(AluOp::Arsh, W64, 1 << 63, 63), u64::MAX);
        assert_eq!(alu(AluOp::Arsh, W32, 0x8000_0000, 31), 0xffff_ffff);
    }

    #[test]
    fn arithmetic_wraps_and_32_bits_are_zero_extended() {
        assert_eq!(alu(AluOp::Add, W64, u64::MAX, 2), 1);
        assert_eq!(alu(AluOp::Add, W32, u64::MAX, 2), 1);
        assert_eq!(alu(AluOp::Sub, W32, 0, 1), 0xffff_ffff);
        assert_eq!(alu(AluOp::Mul, W64, 1 << 63, 2), 0);
        assert_eq!(alu(AluOp::Mul, W32, 0x1_0000_0003, 0x8000_0001), 0x8000_0003);
        assert_eq!(alu(AluOp::Or, W32, 1 << 40, 5), 5);
        assert_eq!(alu(AluOp::Xor, W64, u64::MAX, u64::MAX), 0);
        assert_eq!(alu(AluOp::And, W64, 0xff00, 0x0ff0), 0x0f00);
        assert_eq!((neg(W64, 1), neg(W32, 1)), (u64::MAX, 0xffff_ffff));
        assert_eq!((mov(W64, u64::MAX), mov(W32, u64::MAX)), (u64::MAX, 0xffff_ffff));
    }

    #[test]
    fn extension_and_byte_order() {
        assert_eq!(sign_extend(Size::B, 0x80), -128i64 as u64);
        assert_eq!(sign_extend(Size::H, 0x1_7fff), 0x7fff);
        assert_eq!(sign_extend(Size::W, 0x8000_0000), 0xffff_ffff_8000_0000);
        assert_eq!(endian(EndianOp::ToLe, Size::H, 0x1234_5678), 0x5678);
        assert_eq!(endian(EndianOp::ToBe, Size::H, 0x1234_5678), 0x7856);
        assert_eq!(endian(EndianOp::ToBe, Size::W, 0xff_1234_5678), 0x7856_3412);
        assert_eq!(endian(EndianOp::Swap, Size::DW, 0x0102_0304_0506_0708), 0x0807_0605_0403_0201);
    }

    #[test]
    fn comparisons() {
        let minus = u64::MAX;
        assert!(taken(Cond::Gt, W64, minus, 1) && !taken(Cond::Sgt, W64, minus, 1));
        assert!(taken(Cond::Slt, W64, minus, 1) && taken(Cond::Sle, W64, 1, 1) && taken(Cond::Sge, W64, 1, minus));
        assert!(taken(Cond::Eq, W32, 1 << 32, 0) && !taken(Cond::Eq, W64, 1 << 32, 0));
        assert!(taken(Cond::Ne, W64, 1 << 32, 0) && !taken(Cond::Ne, W32, 1 << 32, 0));
        assert!(taken(Cond::Slt, W32, 0x8000_0000, 0) && !taken(Cond::Slt, W64, 0x8000_0000, 0));
        assert!(taken(Cond::Set, W64, 6, 2) && !taken(Cond::Set, W32, 1 << 32, 1 << 32));
        assert!(taken(Cond::Le, W64, 1, 1) && taken(Cond::Lt, W64, 0, 1) && taken(Cond::Ge, W64, 1, 1));
    }
}
