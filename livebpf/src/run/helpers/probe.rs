//! `bpf_probe_read_kernel` and its kin: they read the memory that the caller of the program has declared
//! (`Worker::declare`) and values of the program's maps. Everything else is as if it were not mapped: -EFAULT, and the
//! target is zeroed.
#![allow(unsafe_code)]

use super::{current, errno};
use crate::map::cell::Slice;

/// `long bpf_probe_read_kernel(to, size, from)`: 0 or -EFAULT.
///
/// # Safety
/// R1 points to R2 (32 bits) writable bytes.
pub(super) unsafe fn probe_read([to, size, from, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let to = unsafe { Slice::from_raw(to, size as u32 as usize) };
    if to.is_empty() {
        return 0;
    }
    match current::probe(from, to.len()) {
        Some(bytes) => {
            to.write(&bytes);
            0
        }
        None => {
            to.clear();
            errno(libc::EFAULT)
        }
    }
}

/// `long bpf_probe_read_kernel_str(to, size, from)`: the length, its NUL included; a longer string is cut. -EFAULT where memory
/// ends before the string does.
///
/// # Safety
/// R1 points to R2 (32 bits) writable bytes.
pub(super) unsafe fn probe_read_str([to, size, from, ..]: [u64; 5]) -> u64 {
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
                return errno(libc::EFAULT);
            }
        }
    }
    text.push(0);
    to.write(&text);
    text.len() as u64
}
