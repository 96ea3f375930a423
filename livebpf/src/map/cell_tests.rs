//! Raw memory: every access at every alignment stays inside.
#![allow(unsafe_code)]

use super::*;

#[test]
fn zeroed_is_zero_and_aligned_and_refuses_absurd_sizes() {
    for len in [0, 1, 7, 64, 4097] {
        let bytes = Bytes::zeroed(len).unwrap();
        assert_eq!(bytes.addr() % ALIGN as u64, 0);
        assert_eq!(bytes.slice().to_vec(), vec![0; len as usize]);
        assert_eq!(bytes.is_empty(), len == 0);
    }
    for len in [u64::MAX, u64::MAX - 63, i64::MAX as u64, 1 << 62] {
        assert_eq!(Bytes::zeroed(len).unwrap_err(), OutOfMemory { len });
    }
}

#[test]
fn nothing_outside_the_window_is_reached() {
    let bytes = Bytes::zeroed(16).unwrap();
    let all = bytes.slice();
    for size in [Size::B, Size::H, Size::W, Size::DW] {
        let n = size.bytes() as usize;
        assert!(all.load(16 - n, size).is_some());
        for off in [16 - n + 1, 16, 17, usize::MAX - 2, usize::MAX] {
            assert_eq!(all.load(off, size), None);
            assert_eq!(all.store(off, size, !0), None);
        }
    }
    assert!(all.sub(17, 0).is_none() && all.sub(1, 16).is_none() && all.sub(2, usize::MAX).is_none());
    assert_eq!(all.sub(16, 0).unwrap().len(), 0);
    assert_eq!(all.to_vec(), [0; 16]);
    let middle = all.sub(3, 5).unwrap();
    assert_eq!(middle.write(&[0xff; 9]), 5);
    assert_eq!(all.to_vec(), [0, 0, 0, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut more = [7; 9];
    assert_eq!(middle.read(&mut more), 5);
    assert_eq!(more, [255, 255, 255, 255, 255, 7, 7, 7, 7]);
}

#[test]
fn loads_and_stores_at_every_alignment() {
    let bytes = Bytes::zeroed(32).unwrap();
    let all = bytes.slice();
    all.write(&(0u8..32).collect::<Vec<_>>());
    for off in 0..24 {
        let b = |i: usize| (off + i) as u64;
        assert_eq!(all.load(off, Size::H), Some(b(0) | b(1) << 8));
        assert_eq!(all.load(off, Size::W), Some((0..4).map(|i| b(i) << (8 * i)).sum()));
        assert_eq!(all.load(off, Size::DW), Some((0..8).map(|i| b(i) << (8 * i)).sum()));
        assert_eq!(all.atomic_u64(off).is_some(), off.is_multiple_of(8));
    }
    for (size, off) in [(Size::H, 1), (Size::W, 3), (Size::DW, 5), (Size::DW, 8), (Size::W, 4), (Size::H, 6)] {
        let other = Bytes::zeroed(32).unwrap();
        other.slice().store(off, size, 0x1122_3344_5566_7788).unwrap();
        let mut want = [0; 32];
        let n = size.bytes() as usize;
        want[off..off + n].copy_from_slice(&0x1122_3344_5566_7788u64.to_le_bytes()[..n]);
        assert_eq!(other.slice().to_vec(), want);
    }
}

#[test]
fn copies_compare_and_clear_at_every_alignment() {
    let pattern: Vec<u8> = (0..600).map(|i| (i % 251 + 1) as u8).collect();
    for off in 0..9 {
        for len in (0..=31).chain([63, 64, 65, 255, 256, 257, 515]) {
            let (one, two) = (Bytes::zeroed(530).unwrap(), Bytes::zeroed(530).unwrap());
            let (a, b) = (one.slice().sub(off, len).unwrap(), two.slice().sub(8 - off, len).unwrap());
            assert_eq!(a.write(&pattern), len);
            assert!(a.equals(&pattern[..len]) && !a.equals(&pattern[..len + 1]));
            assert_eq!(b.copy_from(a), len);
            assert_eq!(b.to_vec(), pattern[..len]);
            if let Some(last) = len.checked_sub(1) {
                b.store(last, Size::B, 0).unwrap();
                assert!(!b.equals(&pattern[..len]));
            }
            a.clear();
            assert_eq!(one.slice().to_vec(), [0; 530]);
        }
    }
}

#[test]
fn bytes_move_over_themselves() {
    let pattern: Vec<u8> = (0..200).map(|i| i as u8).collect();
    for (start, by) in (0..8).flat_map(|start| (0..=24).map(move |by| (start, by))) {
        for len in [31, 32, 40, 61, 64, 150] {
            let bytes = Bytes::zeroed(200).unwrap();
            bytes.slice().write(&pattern);
            let window = |off| bytes.slice().sub(off, len).unwrap();
            assert_eq!(window(start).copy_from(window(start + by)), len);
            let mut want = pattern.clone();
            want.copy_within(start + by..start + by + len, start);
            assert_eq!(bytes.slice().to_vec(), want, "{len} bytes from {by} further on to {start}");
            bytes.slice().write(&pattern);
            assert_eq!(window(start + by).move_from(window(start)), len);
            want.copy_from_slice(&pattern);
            want.copy_within(start..start + len, start + by);
            assert_eq!(bytes.slice().to_vec(), want, "{len} bytes from {start} to {by} further on");
        }
    }
}

#[test]
fn find_gives_the_offset_of_an_address() {
    let bytes = Bytes::zeroed(64).unwrap();
    let window = bytes.slice().sub(8, 16).unwrap();
    let addr = window.addr();
    assert_eq!(window.find(addr, 16), Some(0));
    assert_eq!(window.find(addr + 15, 1), Some(15));
    assert_eq!(window.find(addr + 16, 0), Some(16));
    for (at, len) in [(addr - 1, 1), (addr + 15, 2), (addr + 16, 1), (0, 1), (u64::MAX, 8), (addr, usize::MAX)] {
        assert_eq!(window.find(at, len), None);
    }
}

#[test]
fn external_memory_lives_as_long_as_its_owner() {
    let block = Box::into_raw(vec![1u8, 2, 3, 4].into_boxed_slice());
    let first = NonNull::new(block.cast::<u8>()).unwrap();
    struct Owner(*mut [u8]);
    // SAFETY: the pointer is only used by `drop`.
    unsafe impl Send for Owner {}
    // SAFETY: as above.
    unsafe impl Sync for Owner {}
    impl Drop for Owner {
        fn drop(&mut self) {
            // SAFETY: it came from `Box::into_raw`, and `Bytes` drops the owner last.
            drop(unsafe { Box::from_raw(self.0) });
        }
    }
    // SAFETY: `Owner` keeps the block, and nothing refers to it.
    let bytes = unsafe { Bytes::external(first, 4, Box::new(Owner(block))) };
    assert_eq!(bytes.slice().to_vec(), [1, 2, 3, 4]);
}
