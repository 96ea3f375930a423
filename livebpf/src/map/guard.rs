//! The lock in a map's value: `struct bpf_spin_lock`, 4 bytes that one program or user at a time holds.
//!
//! Programs cannot call anything while they hold one, and they release it on every path, so nobody waits for long. A
//! signal handler's run that wants one while the thread it interrupts holds one would wait for ever: it is refused. (The
//! kernel keeps interrupts out instead.)
//!
//! Nothing but [`acquire`] and [`release`] writes these bytes: setting a value leaves them as they are.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering, compiler_fence};

use super::cell::Slice;
use super::{MapError, Source};

thread_local! {
    /// This thread holds a lock.
    static HOLDS: Cell<bool> = const { Cell::new(false) };
}

/// Takes the lock; `EBUSY` where this thread holds one.
pub(crate) fn acquire(lock: &AtomicU32) -> Result<(), MapError> {
    if HOLDS.replace(true) {
        return Err(MapError::Busy("this thread was interrupted while it held the lock of a value".into()));
    }
    compiler_fence(Ordering::SeqCst);
    let mut spins = 0u32;
    while lock.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
        spins = spins.wrapping_add(1);
        if spins.is_multiple_of(64) { std::thread::yield_now() } else { std::hint::spin_loop() }
    }
    Ok(())
}

/// Releases the lock, which this thread holds.
pub(crate) fn release(lock: &AtomicU32) {
    lock.store(0, Ordering::Release);
    compiler_fence(Ordering::SeqCst);
    HOLDS.set(false);
}

/// Bytes of a lock.
const SIZE: usize = 4;

/// Sets `target`, which has a lock at `lock`, from `value`; with `locked`, while holding it.
pub(super) fn put(value: impl Source, target: Slice<'_>, lock: usize, locked: bool) -> Result<(), MapError> {
    let mut bytes = vec![0; target.len()];
    value.copy_to(Slice::from_mut(&mut bytes));
    let word = target.atomic_u32(lock).filter(|_| locked);
    word.map_or(Ok(()), acquire)?;
    for (from, to) in [(0, lock), (lock + SIZE, bytes.len())] {
        if let Some(part) = target.sub(from, to.saturating_sub(from)) {
            part.write(&bytes[from..to]);
        }
    }
    word.inspect(|word| release(word));
    Ok(())
}

/// A copy of `value`, in which the lock at `lock` is 0; with `locked`, taken while holding it.
pub(super) fn copy(value: Slice<'_>, lock: usize, locked: bool) -> Result<Vec<u8>, MapError> {
    let word = value.atomic_u32(lock).filter(|_| locked);
    let mut bytes = vec![0; value.len()];
    word.map_or(Ok(()), acquire)?;
    value.read(&mut bytes);
    word.inspect(|word| release(word));
    bytes[lock..lock + SIZE].fill(0);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_change_and_locks_stay() {
        let mut bytes = [1u8; 24];
        let value = Slice::from_mut(&mut bytes);
        value.atomic_u32(8).unwrap().store(0, Ordering::Relaxed);
        put(&[7; 24][..], value, 8, true).unwrap();
        assert_eq!(value.to_vec(), [[7; 8].as_slice(), &[0; 4], &[7; 12]].concat());
        value.atomic_u32(8).unwrap().store(1, Ordering::Relaxed);
        put(&[9; 24][..], value, 8, false).unwrap();
        assert_eq!(value.to_vec()[8..12], 1u32.to_ne_bytes());
        assert_eq!(copy(value, 8, false).unwrap(), [[9; 8].as_slice(), &[0; 4], &[9; 12]].concat());
    }

    #[test]
    fn the_thread_that_holds_one_is_refused() {
        let (one, two) = (AtomicU32::new(0), AtomicU32::new(0));
        acquire(&one).unwrap();
        assert!(acquire(&two).is_err());
        release(&one);
        acquire(&two).unwrap();
        release(&two);
        assert_eq!((one.into_inner(), two.into_inner()), (0, 0));
    }
}
