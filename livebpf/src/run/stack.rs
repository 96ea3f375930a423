//! How much native stack the calling thread has left.
#![allow(unsafe_code)]

use std::cell::Cell;

thread_local! {
    /// (lowest usable address, one past the highest) of this thread's stack; (0, 0) before it was asked for.
    static BOUNDS: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Bytes between here and the lowest usable address of this thread's stack. `None` where the stack pointer lies outside the
/// thread's own stack (coroutines), so that nothing is known.
#[inline]
pub(super) fn remaining() -> Option<u64> {
    let here = 0u8;
    let sp = &raw const here as u64;
    let (low, high) = match BOUNDS.get() {
        (0, 0) => lookup(),
        known => known,
    };
    (low..high).contains(&sp).then(|| sp - low)
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
