//! `bpf_spin_lock` and `bpf_spin_unlock`: a word in a map's value that one run at a time holds.
//!
//! Programs cannot call anything while they hold one, and they release it on every path, so nobody waits for long. A signal
//! handler's run that wants one while the thread it interrupts holds one could wait for ever: it is ended as if the helper
//! had panicked. (The kernel keeps interrupts out instead.)
#![allow(unsafe_code)]

use std::cell::Cell;
use std::sync::atomic::{Ordering, compiler_fence};

use crate::map::cell::Slice;

thread_local! {
    /// This thread's program holds a lock.
    static HOLDS: Cell<bool> = const { Cell::new(false) };
}

/// `void bpf_spin_lock(lock)`.
///
/// # Safety
/// R1 points to the 4 bytes, 4-aligned, of a lock in a value of a live map.
pub(super) unsafe fn spin_lock([lock, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let lock = unsafe { Slice::from_raw(lock, 4) };
    assert!(!HOLDS.replace(true), "a program that was interrupted holds a lock");
    compiler_fence(Ordering::SeqCst);
    let Some(word) = lock.atomic_u32(0) else { return 0 };
    let mut spins = 0u32;
    while word.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
        spins = spins.wrapping_add(1);
        if spins.is_multiple_of(64) { std::thread::yield_now() } else { std::hint::spin_loop() }
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
        word.store(0, Ordering::Release);
    }
    compiler_fence(Ordering::SeqCst);
    HOLDS.set(false);
    0
}
