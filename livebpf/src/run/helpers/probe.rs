//! `bpf_probe_read_kernel` and its kin: they read the memory that the caller of the program has declared
//! (`Worker::declare`) and values of the program's maps. Everything else is as if it were not mapped: -EFAULT, or for the helpers
//! that read the kernel's memory and an address that is none of the kernel's -ERANGE; and the target is zeroed.
#![allow(unsafe_code)]

use super::{current, errno};
use crate::map::cell::Slice;

/// The kernel's addresses begin here (on x86-64 with four levels of page tables).
const KERNEL: u64 = 0xffff_8000_0000_0000;

/// What there is in place of an address that cannot be read.
fn refusal(from: u64) -> u64 {
    errno(if from < KERNEL { libc::ERANGE } else { libc::EFAULT })
}

/// `long bpf_probe_read_user(to, size, from)`, `long bpf_probe_read(to, size, from)`: 0 or -EFAULT.
///
/// # Safety
/// R1 points to R2 (32 bits) writable bytes.
pub(super) unsafe fn probe_read([to, size, from, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { read(to, size, from, |_| errno(libc::EFAULT)) }
}

/// `long bpf_probe_read_kernel(to, size, from)`: 0, -EFAULT or -ERANGE.
///
/// # Safety
/// R1 points to R2 (32 bits) writable bytes.
pub(super) unsafe fn probe_read_kernel([to, size, from, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { read(to, size, from, refusal) }
}

/// # Safety
/// `to` points to `size` (32 bits) writable bytes.
unsafe fn read(to: u64, size: u64, from: u64, refusal: fn(u64) -> u64) -> u64 {
    // SAFETY: as the caller promises.
    let to = unsafe { Slice::from_raw(to, size as u32 as usize) };
    if to.is_empty() && refusal(from) == errno(libc::EFAULT) {
        return 0;
    }
    match current::probe(from, to.len()) {
        Some(bytes) => {
            to.write(&bytes);
            0
        }
        None => {
            to.clear();
            refusal(from)
        }
    }
}

/// `long bpf_probe_read_user_str(to, size, from)` and `bpf_probe_read_str`: the length, its NUL included; a longer string is cut.
/// -EFAULT where memory ends before the string does.
///
/// # Safety
/// R1 points to R2 (32 bits) writable bytes.
pub(super) unsafe fn probe_read_str([to, size, from, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { read_str(to, size, from, |_| errno(libc::EFAULT)) }
}

/// `long bpf_probe_read_kernel_str(to, size, from)`: the same, or -ERANGE.
///
/// # Safety
/// R1 points to R2 (32 bits) writable bytes.
pub(super) unsafe fn probe_read_kernel_str([to, size, from, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { read_str(to, size, from, refusal) }
}

/// # Safety
/// `to` points to `size` (32 bits) writable bytes.
unsafe fn read_str(to: u64, size: u64, from: u64, refusal: fn(u64) -> u64) -> u64 {
    // SAFETY: as the caller promises.
    let to = unsafe { Slice::from_raw(to, size as u32 as usize) };
    if to.is_empty() {
        return 0;
    }
    let mut text = Vec::new();
    while text.len() + 1 < to.len() {
        match current::probe(from.wrapping_add(text.len() as u64), 1).as_deref() {
            Some([0]) => break,
            Some(byte) => text.extend_from_slice(byte),
            None => {
                to.clear();
                return refusal(from);
            }
        }
    }
    text.push(0);
    to.write(&text);
    text.len() as u64
}
