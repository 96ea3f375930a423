//! What `livebpf doctor` asks of this machine: does an aligned store to running code tear, and what does the kernel offer.
//!
//! [`tearing`] builds a jump in memory of its own, lets threads execute it, and stores one of two displacements into it
//! as fast as it can. The two differ in all four bytes, and *each of the 16 mixtures of their bytes leads to code* that
//! answers "torn": so a tear is counted, it does not crash. Where the field is aligned there must be none; where it
//! crosses a 32-byte or 64-byte boundary many machines show some, which says that the test can see them.
//!
//! *Never.* Nothing here touches a region, an image or a site of the runtime.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::view::Views;
use super::{CoreSync, Region, RegionOptions, TextError};

/// The two displacements, byte by byte from the lowest: every mixture is less than 16 MiB away.
const FIRST: [u8; 4] = [0x20, 0x3c, 0x5a, 0x00];
const SECOND: [u8; 4] = [0xe0, 0xc3, 0xa5, 0xff];
/// Bytes of memory: 16 MiB in both directions. Only the pages with code in them are ever touched.
const LEN: u32 = 32 << 20;
/// Where the cache line with the jump's displacement begins.
const LINE: u32 = LEN / 2;
/// Answers of the code at the ends of the jump.
const TORN: u32 = 3;

/// What [`tearing`] saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tearing {
    /// Stores made.
    pub stores: u64,
    /// Runs that arrived at the first target.
    pub first: u64,
    /// Runs that arrived at the second target.
    pub second: u64,
    /// Runs that saw bytes of both displacements.
    pub torn: u64,
}

impl Tearing {
    /// Runs made.
    pub fn runs(&self) -> u64 {
        self.first + self.second + self.torn
    }
}

/// Stores to the displacement of a running jump for the given time. `offset`, 0 to 63, is where in a 64-byte line the
/// displacement begins.
///
/// # Errors
/// [`TextError::Os`] where executable memory is refused.
///
/// # Panics
/// When `offset` is above 63.
pub fn tearing(time: Duration, offset: u32) -> Result<Tearing, TextError> {
    assert!(offset < 64, "an offset in a line of 64 bytes");
    let memory = Views::new(LEN, None)?;
    let field = LINE + offset;
    for mixture in 0..16u32 {
        let byte = |i: usize| if mixture & 1 << i == 0 { FIRST[i] } else { SECOND[i] };
        let displacement = i32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)]);
        let answer = match mixture {
            0 => 1,
            15 => 2,
            _ => TORN,
        };
        // mov eax, answer ; ret
        let [a, b, c, d] = answer.to_le_bytes();
        memory.write((field + 4).wrapping_add_signed(displacement), &[0xb8, a, b, c, d, 0xc3]);
    }
    memory.write(field - 1, &[0xe9, FIRST[0], FIRST[1], FIRST[2], FIRST[3]]);
    // Threads that are started from here on cannot have fetched any of it.
    let stop = AtomicBool::new(false);
    let runners = std::thread::available_parallelism().map_or(1, |n| n.get().saturating_sub(1).max(1));
    Ok(std::thread::scope(|scope| {
        let handles: Vec<_> = (0..runners).map(|_| scope.spawn(|| run(&memory, field - 1, &stop))).collect();
        let mut total = Tearing { stores: store(&memory, field, time), ..Tearing::default() };
        stop.store(true, Ordering::Relaxed);
        for seen in handles.into_iter().filter_map(|handle| handle.join().ok()) {
            total.first += seen.first;
            total.second += seen.second;
            total.torn += seen.torn;
        }
        total
    }))
}

/// Stores the two displacements in turn. Answers how often.
fn store(memory: &Views, field: u32, time: Duration) -> u64 {
    let (end, mut stores) = (Instant::now() + time, 0);
    let at = memory.data_at(field);
    while Instant::now() < end {
        for displacement in [SECOND, FIRST].map(u32::from_le_bytes).iter().cycle().take(2000) {
            // SAFETY: four bytes in the view; one instruction, because the field need not be aligned, which Rust's
            // own stores want. The threads that execute these bytes are prepared for either value and any mixture.
            unsafe {
                std::arch::asm!("mov dword ptr [{at}], {value:e}", at = in(reg) at, value = in(reg) *displacement,
                    options(nostack, preserves_flags));
            }
        }
        stores += 2000;
    }
    stores
}

fn run(memory: &Views, jump: u32, stop: &AtomicBool) -> Tearing {
    let address = memory.code_at(jump);
    // SAFETY: code that follows the C ABI: a jump to `mov eax, answer ; ret`, wherever the jump leads.
    let function = unsafe { std::mem::transmute::<*mut u8, extern "C" fn() -> u32>(address) };
    let mut seen = Tearing::default();
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..1000 {
            match function() {
                1 => seen.first += 1,
                2 => seen.second += 1,
                _ => seen.torn += 1,
            }
        }
    }
    seen
}

/// What the system offers for code that is patched while it runs.
#[derive(Debug)]
pub struct Machine {
    /// Why every thread cannot be made to serialise (`membarrier` SYNC_CORE); `None` when it can.
    pub core_sync: Option<String>,
    /// Why one memory file cannot be mapped writable and executable, each in a view of its own; `None` when it can.
    pub two_views: Option<String>,
    /// Why the `bpf()` system call cannot be used; `None` when it can. livebpf does not need it.
    pub bpf: Option<String>,
}

/// Asks the system.
pub fn machine() -> Machine {
    let region = Region::new(RegionOptions { capacity: 64 << 10, ..RegionOptions::default() });
    Machine {
        core_sync: CoreSync::detect().refusal().map(str::to_owned),
        two_views: region.err().map(|error| error.to_string()),
        bpf: bpf().err().map(|error| error.to_string()),
    }
}

/// Makes the smallest map there is in the kernel, and drops it.
fn bpf() -> io::Result<()> {
    const BPF_MAP_CREATE: libc::c_long = 0;
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    // map_type, key_size, value_size, max_entries, map_flags
    let attr: [u32; 5] = [BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0];
    // SAFETY: the kernel reads `size_of_val(&attr)` bytes of `attr` and takes the rest of the union for zero.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, attr.as_ptr(), size_of_val(&attr)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mixture_of_the_two_displacements_leads_to_code_of_its_own() {
        let ends = |mixture: u32| {
            let byte = |i: usize| if mixture & 1 << i == 0 { FIRST[i] } else { SECOND[i] };
            i64::from(i32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)]))
        };
        for mixture in 0..16 {
            assert!(ends(mixture).abs() < i64::from(LEN / 2) - 128, "{mixture} leaves the memory");
            for other in 0..mixture {
                assert!(ends(mixture).abs_diff(ends(other)) >= 6, "{mixture} and {other} overlap");
            }
        }
    }

    #[test]
    fn aligned_stores_do_not_tear_and_both_targets_are_reached() {
        let seen = tearing(Duration::from_millis(300), 28).unwrap();
        assert!(seen.stores > 1000 && seen.first > 0 && seen.second > 0, "{seen:?}");
        assert_eq!(seen.torn, 0, "{seen:?}");
    }
}
