//! Helpers without memory arguments: time, random numbers, the CPU.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

use super::current;

/// `bpf_ktime_get_ns`: nanoseconds of the monotonic clock.
///
/// # Safety
/// None needed.
#[inline(always)]
pub(super) unsafe fn ktime_get_ns(_: [u64; 5]) -> u64 {
    current::now_ns()
}

/// `bpf_ktime_get_boot_ns`: nanoseconds since the system was started, with the time it slept.
///
/// # Safety
/// None needed.
pub(super) unsafe fn ktime_get_boot_ns(_: [u64; 5]) -> u64 {
    current::clock_ns(libc::CLOCK_BOOTTIME)
}

/// `bpf_ktime_get_coarse_ns`: the monotonic clock as of the last tick.
///
/// # Safety
/// None needed.
pub(super) unsafe fn ktime_get_coarse_ns(_: [u64; 5]) -> u64 {
    current::clock_ns(libc::CLOCK_MONOTONIC_COARSE)
}

/// `bpf_ktime_get_tai_ns`: international atomic time.
///
/// # Safety
/// None needed.
pub(super) unsafe fn ktime_get_tai_ns(_: [u64; 5]) -> u64 {
    current::clock_ns(libc::CLOCK_TAI)
}

/// Jiffies in a second.
const HZ: u64 = 250;

/// `bpf_jiffies64`: a counter of 1/250 seconds, which like the kernel's begins five minutes before 2^32.
///
/// # Safety
/// None needed.
pub(super) unsafe fn jiffies64(_: [u64; 5]) -> u64 {
    let start = (1 << 32) - 300 * HZ;
    start + current::clock_ns(libc::CLOCK_MONOTONIC_COARSE) / (1_000_000_000 / HZ)
}

/// `bpf_get_numa_node_id`: all memory is on one node.
///
/// # Safety
/// None needed.
pub(super) unsafe fn get_numa_node_id(_: [u64; 5]) -> u64 {
    0
}

/// `bpf_get_current_cgroup_id`: the root's.
///
/// # Safety
/// None needed.
pub(super) unsafe fn get_current_cgroup_id(_: [u64; 5]) -> u64 {
    1
}

/// `bpf_get_smp_processor_id`: the worker's CPU number.
///
/// # Safety
/// None needed.
#[inline(always)]
pub(super) unsafe fn get_smp_processor_id(_: [u64; 5]) -> u64 {
    u64::from(current::cpu())
}

/// `bpf_get_prandom_u32`: 32 random bits, not for secrets.
///
/// # Safety
/// None needed.
#[inline(always)]
pub(super) unsafe fn get_prandom_u32(_: [u64; 5]) -> u64 {
    STATE.with(|state| {
        let before = match state.get() {
            0 => seed(),
            state => state,
        };
        // A Weyl sequence, folded through a product.
        let now = before.wrapping_add(0xa076_1d64_78bd_642f);
        state.set(now);
        let product = u128::from(now) * u128::from(now ^ 0xe703_7ed1_a0b4_28db);
        u64::from((product >> 64) as u32 ^ product as u32)
    })
}

thread_local! {
    /// This thread's position in the sequence; 0 before the first use.
    static STATE: Cell<u64> = const { Cell::new(0) };
}

#[cold]
fn seed() -> u64 {
    RandomState::new().hash_one(std::thread::current().id()) | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_advances() {
        // SAFETY: no arguments.
        let (one, two) = unsafe { (ktime_get_ns([0; 5]), ktime_get_ns([0; 5])) };
        assert!(one > 0 && two >= one);
    }

    #[test]
    fn random_numbers_use_all_32_bits_evenly_and_differ_between_threads() {
        let draw = || -> Vec<u64> {
            // SAFETY: no arguments.
            (0..4096).map(|_| unsafe { get_prandom_u32([0; 5]) }).collect()
        };
        let (here, there) = (draw(), std::thread::spawn(draw).join().unwrap());
        assert_ne!(here, there);
        for bit in 0..32 {
            let ones = here.iter().filter(|n| *n >> bit & 1 == 1).count();
            // Eight standard deviations.
            assert!(ones.abs_diff(2048) < 256, "bit {bit}: {ones} of 4096");
        }
        assert!(here.iter().all(|n| *n >> 32 == 0));
    }
}
