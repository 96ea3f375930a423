//! `bpf_spin_lock` and `bpf_spin_unlock`: the lock in a map's value, as `map::guard` has it. A run that cannot have one,
//! because it interrupts a thread that holds one, is ended as if the helper had panicked.
#![allow(unsafe_code)]

use crate::map::cell::Slice;
use crate::map::guard;

/// `void bpf_spin_lock(lock)`.
///
/// # Safety
/// R1 points to the 4 bytes, 4-aligned, of a lock in a value of a live map.
pub(super) unsafe fn spin_lock([lock, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let lock = unsafe { Slice::from_raw(lock, 4) };
    if let Some(Err(error)) = lock.atomic_u32(0).map(guard::acquire) {
        panic!("{error}");
    }
    0
}

/// `void bpf_spin_unlock(lock)`.
///
/// # Safety
/// As for [`spin_lock`], and this thread's program holds it.
pub(super) unsafe fn spin_unlock([lock, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let lock = unsafe { Slice::from_raw(lock, 4) };
    if let Some(word) = lock.atomic_u32(0) {
        guard::release(word);
    }
    0
}
