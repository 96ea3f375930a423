//! Internet checksums: `bpf_csum_diff`, `bpf_l3_csum_replace`, `bpf_l4_csum_replace` and their kin.
//!
//! Sums are 32 bits wide with the carry brought round, words in the machine's byte order, as in include/net/checksum.h.
#![allow(unsafe_code)]

use super::errno;
use super::record::Record;
use crate::insn::Size;
use crate::map::cell::Slice;

/// The kernel's own number for what is not supported.
const ENOTSUPP: i32 = 524;
/// Length of the field that changes, in the low bits of the flags (`BPF_F_HDR_FIELD_MASK`).
const FIELD: u64 = 0xf;
/// `BPF_F_PSEUDO_HDR`
const PSEUDO_HDR: u64 = 0x10;
/// `BPF_F_MARK_MANGLED_0`
const MARK_MANGLED_0: u64 = 0x20;
/// `BPF_F_MARK_ENFORCE`
const MARK_ENFORCE: u64 = 0x40;
/// `BPF_F_IPV6`
const IPV6: u64 = 0x80;

fn add(a: u32, b: u32) -> u32 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u32::from(carry)
}

fn sub(a: u32, b: u32) -> u32 {
    add(a, !b)
}

/// The two halves, added.
fn to16(sum: u32) -> u16 {
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// The checksum that `sum` makes.
fn fold(sum: u32) -> u16 {
    !to16(sum)
}

/// Adds up `memory`, whose length is even or whose last byte counts as a low one.
fn partial(memory: Slice<'_>, seed: u32) -> u32 {
    let (mut sum, mut off) = (seed, 0);
    while let Some(word) = memory.load(off, Size::W) {
        sum = add(sum, word as u32);
        off += 4;
    }
    if let Some(half) = memory.load(off, Size::H) {
        sum = add(sum, half as u32);
        off += 2;
    }
    if let Some(byte) = memory.load(off, Size::B) {
        sum = add(sum, byte as u32);
    }
    sum
}

/// `s64 bpf_csum_diff(from, from_size, to, to_size, seed)`: the difference, folded to 16 bits.
///
/// # Safety
/// R1 points to R2 readable bytes and R3 to R4; where a size is 0, its address may be anything.
pub(super) unsafe fn csum_diff([from, from_size, to, to_size, seed]: [u64; 5]) -> u64 {
    let (from_size, to_size, seed) = (from_size as u32, to_size as u32, seed as u32);
    // SAFETY: as the caller promises.
    let (from, to) = unsafe { (Slice::from_raw(from, from_size as usize), Slice::from_raw(to, to_size as usize)) };
    match (from_size, to_size) {
        (0, 0) => to16(seed).into(),
        (0, _) => to16(partial(to, seed)).into(),
        (_, 0) => to16(!partial(from, !seed)).into(),
        _ => to16(sub(partial(to, seed), partial(from, 0))).into(),
    }
}

/// `s64 bpf_csum_update(skb, csum)`: no packet of ours carries a sum of all of it: -ENOTSUPP, as in a test run of the kernel.
///
/// # Safety
/// None needed.
pub(super) unsafe fn csum_update(_: [u64; 5]) -> u64 {
    errno(ENOTSUPP)
}

/// `long bpf_csum_level(skb, level)`: nothing is verified, so there is no level: -EACCES for a query, else 0.
///
/// # Safety
/// None needed.
pub(super) unsafe fn csum_level([_, level, ..]: [u64; 5]) -> u64 {
    match level {
        0 => errno(libc::EACCES),
        1..=3 => 0,
        _ => errno(libc::EINVAL),
    }
}

/// The place of a checksum in the packet.
fn place(record: &Record, offset: u64) -> Option<Slice<'_>> {
    let offset = offset as u32;
    let fits = offset <= 0xffff && offset & 1 == 0;
    record.packet(offset.into(), 2).filter(|_| fits)
}

/// The checksum `old` after a field of `size` bytes has changed; `None` for sizes that there are not.
fn replaced(old: u16, from: u64, to: u64, size: u64) -> Option<u16> {
    let old = u32::from(!old);
    Some(match size {
        0 if from == 0 => fold(add(to as u32, old)),
        2 => fold(add(sub(old, from as u16 as u32), to as u16 as u32)),
        4 => fold(add(sub(old, from as u32), to as u32)),
        _ => return None,
    })
}

/// `long bpf_l3_csum_replace(skb, offset, from, to, size)`: 0, -EINVAL or -EFAULT.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it.
pub(super) unsafe fn l3_csum_replace([skb, offset, from, to, flags]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let record = unsafe { Record::at(skb) };
    if flags & !FIELD != 0 {
        return errno(libc::EINVAL);
    }
    let Some(place) = place(&record, offset) else { return errno(libc::EFAULT) };
    let old = place.load(0, Size::H).unwrap_or_default() as u16;
    let Some(new) = replaced(old, from, to, flags & FIELD) else { return errno(libc::EINVAL) };
    place.store(0, Size::H, new.into());
    0
}

/// `long bpf_l4_csum_replace(skb, offset, from, to, flags)`: 0, -EINVAL or -EFAULT.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it.
pub(super) unsafe fn l4_csum_replace([skb, offset, from, to, flags]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let record = unsafe { Record::at(skb) };
    if flags & !(FIELD | PSEUDO_HDR | MARK_MANGLED_0 | MARK_ENFORCE | IPV6) != 0 {
        return errno(libc::EINVAL);
    }
    let Some(place) = place(&record, offset) else { return errno(libc::EFAULT) };
    let old = place.load(0, Size::H).unwrap_or_default() as u16;
    let marks = flags & MARK_MANGLED_0 != 0;
    if marks && flags & MARK_ENFORCE == 0 && old == 0 {
        return 0;
    }
    let Some(new) = replaced(old, from, to, flags & FIELD) else { return errno(libc::EINVAL) };
    let new = if marks && new == 0 { 0xffff } else { new };
    place.store(0, Size::H, new.into());
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diff(from: &[u8], to: &[u8], seed: u32) -> u64 {
        let (mut from, mut to) = (from.to_vec(), to.to_vec());
        let (from, to) = (Slice::from_mut(&mut from), Slice::from_mut(&mut to));
        // SAFETY: the sizes are those of the memory.
        unsafe { csum_diff([from.addr(), from.len() as u64, to.addr(), to.len() as u64, seed.into()]) }
    }

    /// Each of these is what Linux 6.18 answered in a test run.
    #[test]
    fn differences_are_the_kernels() {
        assert_eq!(diff(&[], &[], 0x1234_5678), 0x68ac);
        assert_eq!(diff(&[], &[1, 0, 2, 0], 0), 3);
        assert_eq!(diff(&[1, 0, 2, 0], &[], 0), 0xfffc);
        assert_eq!(diff(&[1, 0, 2, 0], &[1, 0, 2, 0], 7), 7);
        assert_eq!(diff(&[], &[0xff; 8], 1), 1);
        assert_eq!(diff(&[1, 2, 3], &[], 0), 0xfdfb);
        let (from, to) = ([0x12, 0x34, 0x56, 0x78].repeat(3), [0xaa, 0xbb, 0xcc, 0xdd, 1, 2, 3, 4]);
        assert_eq!(diff(&from, &to, 0xdead_beef), 0x37df);
        assert_eq!(diff(&[], &[0; 4], u32::MAX), 0xffff);
        assert_eq!((diff(&[0; 4], &[], 0), diff(&[0; 4], &[0; 4], 0)), (0, 0xffff));
    }

    #[test]
    fn a_header_stays_valid_when_a_field_changes() {
        let header = [0x45, 0, 0, 0x28, 0, 1, 0, 0, 0x40, 6, 0x66, 0xcd, 10, 0, 0, 1, 10, 0, 0, 2];
        let sum = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            fold(partial(Slice::from_mut(&mut bytes), 0))
        };
        assert_eq!(sum(&header), 0);
        let mut changed = header;
        changed[16..20].copy_from_slice(&[192, 168, 1, 77]);
        let old = u16::from_le_bytes([header[10], header[11]]);
        let word = |b: &[u8]| u64::from(u32::from_le_bytes([b[16], b[17], b[18], b[19]]));
        let new = replaced(old, word(&header), word(&changed), 4).unwrap();
        changed[10..12].copy_from_slice(&new.to_le_bytes());
        assert_eq!(sum(&changed), 0);
        assert_eq!(replaced(old, 1, 2, 0), None);
        assert_eq!(replaced(old, 1, 2, 3), None);
    }
}
