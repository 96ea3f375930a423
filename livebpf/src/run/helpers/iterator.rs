//! Kernel functions of iterators: `bpf_iter_num_new`, `bpf_iter_num_next`, `bpf_iter_num_destroy`.
//!
//! The iterator is eight bytes of the program's stack: the number that is the item, and the one to stop before, both of 32
//! bits. The address of the item is that of the first.
#![allow(unsafe_code)]

use crate::helper::MAX_LOOPS;
use crate::insn::Size;
use crate::map::cell::Slice;

/// An iterator in memory.
struct Numbers(Slice<'static>);

impl Numbers {
    /// # Safety
    /// `address` is that of eight bytes which stay valid during the helper's call.
    unsafe fn at(address: u64) -> Numbers {
        // SAFETY: as the caller promises.
        Numbers(unsafe { Slice::from_raw(address, 8) })
    }
    fn get(&self) -> (i32, i32) {
        let part = |off| self.0.load(off, Size::W).unwrap_or(0) as u32 as i32;
        (part(0), part(4))
    }
    fn set(&self, item: i32, end: i32) {
        self.0.store(0, Size::W, u64::from(item as u32));
        self.0.store(4, Size::W, u64::from(end as u32));
    }
}

/// `int bpf_iter_num_new(struct bpf_iter_num *it, int start, int end)`: 0 or a negative error number; after an error the
/// iterator is empty.
///
/// # Safety
/// R1 points to eight writable bytes.
pub(super) unsafe fn num_new([it, start, end, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let it = unsafe { Numbers::at(it) };
    let (start, end) = (start as i32, end as i32);
    let error = if start > end {
        libc::EINVAL
    } else if i64::from(end) - i64::from(start) > MAX_LOOPS as i64 {
        libc::E2BIG
    } else {
        // The item before the first.
        it.set(start.wrapping_sub(1), end);
        return 0;
    };
    it.set(0, 0);
    u64::from(-error as u32)
}

/// `int *bpf_iter_num_next(struct bpf_iter_num *it)`: the item's address, or null for ever after the last.
///
/// # Safety
/// As for [`num_new`].
pub(super) unsafe fn num_next([address, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let it = unsafe { Numbers::at(address) };
    let (before, end) = it.get();
    let item = before.wrapping_add(1);
    if item >= end {
        it.set(0, 0);
        return 0;
    }
    it.set(item, end);
    address
}

/// `void bpf_iter_num_destroy(struct bpf_iter_num *it)`
///
/// # Safety
/// As for [`num_new`].
pub(super) unsafe fn num_destroy([it, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { Numbers::at(it) }.set(0, 0);
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::cell::Bytes;

    /// The items from `start` to `end`, at most five.
    fn items(start: i32, end: i32) -> (i32, Vec<i32>) {
        let memory = Bytes::zeroed(8).unwrap();
        let at = memory.addr();
        // SAFETY: eight writable bytes.
        let call = |f: unsafe fn([u64; 5]) -> u64| unsafe { f([at, start as u64, end as u64, 0, 0]) };
        let begun = call(num_new) as u32 as i32;
        let next = || (call(num_next) == at).then(|| memory.slice().load(0, Size::W).unwrap() as i32);
        let found = std::iter::from_fn(next).take(5).collect();
        call(num_destroy);
        assert_eq!(call(num_next), 0);
        (begun, found)
    }

    #[test]
    fn numbers_from_the_first_to_before_the_last() {
        assert_eq!(items(0, 3), (0, vec![0, 1, 2]));
        assert_eq!(items(-2, 1), (0, vec![-2, -1, 0]));
        assert_eq!(items(7, 7), (0, vec![]));
        assert_eq!(items(1, 0), (-libc::EINVAL, vec![]));
        assert_eq!(items(i32::MIN, i32::MIN + 2), (0, vec![i32::MIN, i32::MIN + 1]));
        assert_eq!(items(i32::MAX - 2, i32::MAX), (0, vec![i32::MAX - 2, i32::MAX - 1]));
        assert_eq!(items(0, 8 << 20), (0, vec![0, 1, 2, 3, 4]));
        assert_eq!(items(0, (8 << 20) + 1), (-libc::E2BIG, vec![]));
        assert_eq!(items(i32::MIN, i32::MAX), (-libc::E2BIG, vec![]));
    }
}
