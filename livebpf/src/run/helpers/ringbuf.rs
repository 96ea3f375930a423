//! Ring buffers: `bpf_ringbuf_reserve`, `submit`, `discard`, `output` and `query`.
#![allow(unsafe_code)]

use super::errno;
use super::map::live;
use crate::map::cell::Slice;
use crate::map::ring::{HEADER, Ring};

/// `BPF_RB_NO_WAKEUP`, `BPF_RB_FORCE_WAKEUP`: readers of ours look on their own.
const WAKEUP: u64 = 3;

/// `void *bpf_ringbuf_reserve(map, size, flags)`: a record's address, or 0: no room, or any flag.
///
/// # Safety
/// R1 is the address of a live `Map`.
pub(super) unsafe fn reserve([map, size, flags, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let map = unsafe { live(map) };
    if flags != 0 {
        return 0;
    }
    map.ring().and_then(|ring| ring.reserve(size)).map_or(0, Slice::addr)
}

/// `void bpf_ringbuf_submit(record, flags)`.
///
/// # Safety
/// R1 is the address of a record that was reserved and not yet committed, of a map that lives.
pub(super) unsafe fn submit([record, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    Ring::commit(unsafe { header(record) }, false);
    0
}

/// `void bpf_ringbuf_discard(record, flags)`.
///
/// # Safety
/// As for [`submit`].
pub(super) unsafe fn discard([record, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    Ring::commit(unsafe { header(record) }, true);
    0
}

/// # Safety
/// As for [`submit`].
unsafe fn header<'a>(record: u64) -> Slice<'a> {
    // SAFETY: every record has its header in front, in the same ring.
    unsafe { Slice::from_raw(record - HEADER, HEADER as usize) }
}

/// `long bpf_ringbuf_output(map, data, size, flags)`: 0, -EINVAL for unknown flags, -EAGAIN where there is no room.
///
/// # Safety
/// R1 is the address of a live `Map`, R2 points to R3 readable bytes.
pub(super) unsafe fn output([map, data, size, flags, _]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let (map, data) = unsafe { (live(map), Slice::from_raw(data, size as usize)) };
    if flags & !WAKEUP != 0 {
        return errno(libc::EINVAL);
    }
    if map.ring().is_some_and(|ring| ring.output(&[data])) { 0 } else { errno(libc::EAGAIN) }
}

/// `u64 bpf_ringbuf_query(map, what)`: bytes that are not read yet (0), of the ring (1), the reader's position (2), the
/// writers' (3); else 0.
///
/// # Safety
/// R1 is the address of a live `Map`.
pub(super) unsafe fn query([map, what, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let Some(ring) = unsafe { live(map) }.ring() else { return 0 };
    match what {
        0 => ring.produced().saturating_sub(ring.consumed()),
        1 => ring.size(),
        2 => ring.consumed(),
        3 => ring.produced(),
        _ => 0,
    }
}
