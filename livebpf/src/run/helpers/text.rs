//! Text to numbers and back: `bpf_strtol`, `bpf_strtoul`, `bpf_strncmp`, `bpf_snprintf`.
#![allow(unsafe_code)]

use super::{current, errno, printk};
use crate::insn::Size;
use crate::map::cell::Slice;

/// Longest number, white space and sign not counted.
const DIGITS_MAX: usize = 63;
/// Most arguments of a format (`MAX_BPRINTF_VARARGS`).
const ARGS_MAX: usize = 12;
/// Longest constant text that is looked at.
const TEXT_MAX: usize = 4096;

/// A number at the start of a text.
struct Number {
    magnitude: u64,
    negative: bool,
    /// Bytes that it takes, with the white space in front.
    len: usize,
}

/// Reads a number in base 8, 10 or 16, or with 0 as in C; an error number where there is none.
fn number(text: &[u8], base: u64) -> Result<Number, i32> {
    if ![0, 8, 10, 16].contains(&base) {
        return Err(libc::EINVAL);
    }
    let space = text.iter().take_while(|b| b.is_ascii_whitespace() || **b == 0x0b).count();
    let negative = text.get(space) == Some(&b'-');
    let start = space + usize::from(negative);
    let digits = &text[start..text.len().min(start + DIGITS_MAX)];
    let hex = matches!(digits, [b'0', b'x' | b'X', ..]);
    let (radix, prefix) = match (base, digits) {
        (0, [b'0', b'x' | b'X', digit, ..]) if digit.is_ascii_hexdigit() => (16, 2),
        (0, [b'0', ..]) => (8, 0),
        (0, _) => (10, 0),
        (16, _) if hex => (16, 2),
        (base, _) => (base, 0),
    };
    let digits = &digits[prefix..];
    let len = digits.iter().take_while(|b| char::from(**b).is_digit(radix as u32)).count();
    if len == 0 {
        return Err(libc::EINVAL);
    }
    let digits = digits[..len].iter().map(|b| u64::from(char::from(*b).to_digit(radix as u32).unwrap_or_default()));
    let magnitude = digits.into_iter().try_fold(0u64, |n, digit| n.checked_mul(radix)?.checked_add(digit));
    let magnitude = magnitude.ok_or(libc::ERANGE)?;
    Ok(Number { magnitude, negative, len: start + prefix + len })
}

/// # Safety
/// R1 points to R2 (32 bits) readable bytes, R4 to 8 writable ones.
unsafe fn convert([text, len, flags, to, _]: [u64; 5], value: impl FnOnce(&Number) -> Result<u64, i32>) -> u64 {
    // SAFETY: as the caller promises.
    let (text, to) = unsafe { (Slice::from_raw(text, len as u32 as usize), Slice::from_raw(to, 8)) };
    to.store(0, Size::DW, 0);
    let found = number(&text.to_vec(), flags).and_then(|number| Ok((value(&number)?, number.len)));
    match found {
        Ok((value, len)) => {
            to.store(0, Size::DW, value);
            len as u64
        }
        Err(error) => errno(error),
    }
}

/// `long bpf_strtol(text, len, base, long *to)`: bytes consumed, -EINVAL or -ERANGE.
///
/// # Safety
/// R1 points to R2 (32 bits) readable bytes, R4 to 8 writable ones.
pub(super) unsafe fn strtol(args: [u64; 5]) -> u64 {
    let value = |n: &Number| {
        let value = if n.negative { -i128::from(n.magnitude) } else { i128::from(n.magnitude) };
        i64::try_from(value).map(|v| v as u64).map_err(|_| libc::ERANGE)
    };
    // SAFETY: as the caller promises.
    unsafe { convert(args, value) }
}

/// `long bpf_strtoul(text, len, base, unsigned long *to)`: bytes consumed, -EINVAL or -ERANGE.
///
/// # Safety
/// R1 points to R2 (32 bits) readable bytes, R4 to 8 writable ones.
pub(super) unsafe fn strtoul(args: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { convert(args, |n| if n.negative { Err(libc::EINVAL) } else { Ok(n.magnitude) }) }
}

/// The constant text at `addr`, which lies in a value of one of the program's maps.
fn constant(addr: u64) -> Option<Vec<u8>> {
    let memory = current::readable(addr)?;
    let mut text = memory.sub(0, memory.len().min(TEXT_MAX))?.to_vec();
    text.truncate(text.iter().position(|b| *b == 0)?);
    Some(text)
}

/// `long bpf_strncmp(s1, size, s2)`: -1, 0 or 1.
///
/// # Safety
/// R1 points to R2 (32 bits) readable bytes.
pub(super) unsafe fn strncmp([one, size, two, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let one = unsafe { Slice::from_raw(one, size as u32 as usize) }.to_vec();
    let two = constant(two).unwrap_or_default();
    let at = |text: &[u8], i: usize| text.get(i).copied().unwrap_or(0);
    for (i, byte) in one.iter().enumerate() {
        match byte.cmp(&at(&two, i)) {
            std::cmp::Ordering::Less => return -1i64 as u64,
            std::cmp::Ordering::Greater => return 1,
            std::cmp::Ordering::Equal if *byte == 0 => return 0,
            std::cmp::Ordering::Equal => {}
        }
    }
    0
}

/// The words that a format's arguments lie in; `None` for a size that is not one of words, or of too many.
///
/// # Safety
/// `data` points to `len` (32 bits) readable bytes.
unsafe fn words(data: u64, len: u64) -> Option<Vec<u64>> {
    let len = len as u32 as usize;
    if !len.is_multiple_of(8) || len > 8 * ARGS_MAX {
        return None;
    }
    // SAFETY: as the caller promises.
    let data = unsafe { Slice::from_raw(data, len) };
    (0..len / 8).map(|i| data.load(8 * i, Size::DW)).collect()
}

/// `long bpf_snprintf(to, size, fmt, data, data_len)`: length of the whole text with its NUL, or -EINVAL.
///
/// # Safety
/// R1 points to R2 (32 bits) writable bytes, R4 to R5 (32 bits) readable ones.
pub(super) unsafe fn snprintf([to, size, format, data, data_len]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let (to, args) = unsafe { (Slice::from_raw(to, size as u32 as usize), words(data, data_len)) };
    let text = args.zip(constant(format)).and_then(|(args, format)| printk::text(&format, &args, current::readable));
    let Some(text) = text else {
        to.clear();
        return errno(libc::EINVAL);
    };
    let kept = text.kept.len().min(to.len().saturating_sub(1));
    to.write(&[&text.kept[..kept], &[0]].concat());
    text.len as u64 + 1
}

/// `long bpf_trace_vprintk(fmt, fmt_size, data, data_len)`: length of the text, or -EINVAL.
///
/// # Safety
/// R1 points to R2 (32 bits) readable bytes, R3 to R4 (32 bits).
pub(super) unsafe fn trace_vprintk([format, size, data, data_len, _]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let (format, args) = unsafe { (Slice::from_raw(format, size as u32 as usize), words(data, data_len)) };
    args.map_or(errno(libc::EINVAL), |args| printk::print(format, &args))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(text: &str, base: u64) -> (i64, i64) {
        let (mut text, mut to) = (text.as_bytes().to_vec(), [0xff; 8]);
        let (text, place) = (Slice::from_mut(&mut text), Slice::from_mut(&mut to));
        // SAFETY: both are as long as said.
        let r0 = unsafe { strtol([text.addr(), text.len() as u64, base, place.addr(), 0]) };
        (r0 as i64, i64::from_ne_bytes(to))
    }

    fn unsigned(text: &str, base: u64) -> (i64, u64) {
        let (mut text, mut to) = (text.as_bytes().to_vec(), [0xff; 8]);
        let (text, place) = (Slice::from_mut(&mut text), Slice::from_mut(&mut to));
        // SAFETY: both are as long as said.
        let r0 = unsafe { strtoul([text.addr(), text.len() as u64, base, place.addr(), 0]) };
        (r0 as i64, u64::from_ne_bytes(to))
    }

    #[test]
    fn numbers_are_read_as_the_kernel_reads_them() {
        let (inval, range) = (-i64::from(libc::EINVAL), -i64::from(libc::ERANGE));
        assert_eq!(signed("600 602", 0), (3, 600));
        assert_eq!(signed(" \t-17x", 10), (5, -17));
        assert_eq!(signed("0x1F", 0), (4, 31));
        assert_eq!(signed("0x1F", 16), (4, 31));
        assert_eq!(signed("0x1F", 10), (1, 0));
        assert_eq!(signed("017", 0), (3, 15));
        assert_eq!(signed("0x", 0), (1, 0));
        assert_eq!(signed("", 0), (inval, 0));
        assert_eq!(signed("-", 0), (inval, 0));
        assert_eq!(signed("abc", 0), (inval, 0));
        assert_eq!(signed("12", 7), (inval, 0));
        assert_eq!(signed("12", 32), (inval, 0));
        assert_eq!(signed("9223372036854775807", 0), (19, i64::MAX));
        assert_eq!(signed("9223372036854775808", 0), (range, 0));
        assert_eq!(signed("-9223372036854775808", 0), (20, i64::MIN));
        assert_eq!(signed("-9223372036854775809", 0), (range, 0));
        assert_eq!(unsigned("18446744073709551615", 0), (20, u64::MAX));
        assert_eq!(unsigned("18446744073709551616", 0), (range, 0));
        assert_eq!(unsigned("-1", 0), (inval, 0));
    }

    #[test]
    fn the_words_of_a_format() {
        let mut data = [1u8; 104];
        let data = Slice::from_mut(&mut data);
        // SAFETY: the memory is longer than that.
        let words = |len| unsafe { words(data.addr(), len) };
        assert_eq!(words(0), Some(Vec::new()));
        assert_eq!(words(16), Some(vec![0x0101_0101_0101_0101; 2]));
        assert_eq!((words(4), words(104)), (None, None));
    }
}
