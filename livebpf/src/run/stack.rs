//! How much native stack the calling thread has left.
#![allow(unsafe_code)]

use std::cell::Cell;

thread_local! {
    /// (lowest usable address, one past the highest) of this thread's stack; (0, 0) before it was asked for.
    static BOUNDS: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// The stack pointer. (The address of a local may be elsewhere: sanitisers keep such locals on the heap.)
#[inline(always)]
fn pointer() -> u64 {
    let rsp;
    // SAFETY: a register is read.
    unsafe { std::arch::asm!("mov {}, rsp", out(reg) rsp, options(nomem, nostack, preserves_flags)) };
    rsp
}

/// Bytes between here and the lowest usable address of this thread's stack. `None` where the stack pointer lies outside the
/// thread's own stack (coroutines), so that nothing is known.
#[inline]
pub(super) fn remaining() -> Option<u64> {
    let sp = pointer();
    let (low, high) = match BOUNDS.get() {
        (0, 0) => lookup(),
        known => known,
    };
    (low..high).contains(&sp).then(|| sp - low)
}

/// Whether at least so many bytes are left; true where nothing is known.
#[inline]
pub(super) fn suffices(wanted: u64) -> bool {
    let (low, high) = BOUNDS.get();
    let left = pointer().wrapping_sub(low);
    // Not so before the first time, nor outside of the thread's own stack.
    left >= wanted && left < high.wrapping_sub(low) || looks_sufficient(wanted)
}

#[cold]
fn looks_sufficient(wanted: u64) -> bool {
    remaining().is_none_or(|left| left >= wanted)
}

#[cold]
fn lookup() -> (u64, u64) {
    let bounds = thread_stack().unwrap_or((0, 1));
    BOUNDS.set(bounds);
    bounds
}

fn thread_stack() -> Option<(u64, u64)> {
    // SAFETY: plain calls with valid pointers to locals; the attribute object is destroyed after use.
    unsafe {
        let mut attr = std::mem::zeroed::<libc::pthread_attr_t>();
        if libc::pthread_getattr_np(libc::pthread_self(), &mut attr) != 0 {
            return None;
        }
        let (mut address, mut size, mut guard) = (std::ptr::null_mut(), 0usize, 0usize);
        let stack = libc::pthread_attr_getstack(&attr, &mut address, &mut size);
        let guarded = libc::pthread_attr_getguardsize(&attr, &mut guard);
        libc::pthread_attr_destroy(&mut attr);
        if stack != 0 || guarded != 0 {
            return None;
        }
        let low = address as u64;
        Some((low + guard as u64, low + size as u64))
    }
}

/// What a helper and a signal handler on top of the deepest frame may use.
const RESERVE: u64 = 48 * 1024;

/// What every native frame may have on top of its BPF stack: return address and saved rbp, four saved registers, the
/// may_goto counter, rounding and padding.
const FRAME_MORE: u64 = 16 + 32 + 8 + 16;
/// Most that the callers of a function with a tail call keep standing in a verified program: less than 256 bytes in up to seven frames.
const RETAINED: u64 = 256 + 7 * FRAME_MORE;
/// The deepest chain of calls in a verified program: 512 bytes in up to eight frames.
const DEEPEST: u64 = 512 + 8 * FRAME_MORE;

/// Native stack that the worst chain of tail calls between verified programs may need, in bytes. Asked for by every run,
/// whatever is loaded: a chain may lead into programs that are loaded after it began.
pub(crate) const VERIFIED_NEED: u64 = worst(RETAINED, DEEPEST);

/// A tail call releases the frame of the function that makes it and leaves its callers' frames standing; 33 of them may succeed,
/// and the last program reached calls as deeply as it can.
const fn worst(retained: u64, deepest: u64) -> u64 {
    crate::jit::MAX_TAIL_CALL_CNT as u64 * retained + deepest + RESERVE
}

/// The same for chains with a program that may not be verified.
pub(crate) fn need(code: &crate::jit::Code) -> u64 {
    let retained = code.frames.iter().map(|f| f.retained).max().unwrap_or(0);
    let deepest = code.frames.iter().map(|f| f.deepest).max().unwrap_or(0);
    worst(RETAINED.max(retained.into()), DEEPEST.max(deepest.into()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_small_thread_has_less_than_it_was_given_and_more_than_half() {
        let given = 256 * 1024;
        let left = std::thread::Builder::new().stack_size(given).spawn(super::remaining).unwrap().join().unwrap();
        let left = left.expect("an ordinary thread runs on its own stack");
        assert!(left < given as u64 + 65536 && left > given as u64 / 2, "{left}");
    }
}
