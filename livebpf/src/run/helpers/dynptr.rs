//! Dynptrs: the helpers and kernel functions that make them, look at them, and read and write what they stand for.
//!
//! A dynptr lies in the program's stack as [`crate::map::dynptr`] has it. Verified programs hand over what one of these
//! functions made and nothing has written to since; the interpreter looks at each for itself.
#![allow(unsafe_code)]

use super::errno;
use super::map::live;
use super::record::{Record, sk_buff};
use super::ringbuf;
use crate::helper::{DYNPTR_SIZE, DynptrKind};
use crate::insn::Size;
use crate::map::cell::Slice;
use crate::map::dynptr::{Dynptr, MAX_SIZE};

/// `BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH`: what may be said when a socket buffer's bytes are written.
const SKB_FLAGS: u64 = 3;
const INVALIDATE_HASH: u64 = 2;

/// A result of 32 bits.
fn error32(number: i32) -> u64 {
    u64::from(-number as u32)
}

/// # Safety
/// `address` is that of 16 bytes which stay valid during the helper's call.
unsafe fn place(address: u64) -> Slice<'static> {
    // SAFETY: as the caller promises.
    unsafe { Slice::from_raw(address, DYNPTR_SIZE as usize) }
}

/// The dynptr at `address`; `None`: null.
///
/// # Safety
/// `address` is that of 16 bytes that hold null, or a dynptr whose memory lives: what one of these functions made.
unsafe fn dynptr(address: u64) -> Option<Dynptr> {
    // SAFETY: as the caller promises.
    Dynptr::load(unsafe { place(address) })
}

/// Makes a dynptr of at most [`MAX_SIZE`] bytes from the start of some memory, or null where that is an error.
///
/// # Safety
/// As for [`place`].
unsafe fn make(to: u64, addr: u64, size: u32, kind: DynptrKind, read_only: bool, error: i32) -> Result<(), i32> {
    let error = if size > MAX_SIZE { libc::E2BIG } else { error };
    let made = (error == 0).then_some(Dynptr { addr, kind, read_only, offset: 0, size });
    // SAFETY: as the caller promises.
    Dynptr::store(made, unsafe { place(to) });
    if error == 0 { Ok(()) } else { Err(error) }
}

/// `len` bytes at `offset`, which lie inside of `dynptr`; an error where a packet has become too short for them.
///
/// # Safety
/// The memory of `dynptr` lives.
unsafe fn memory(dynptr: &Dynptr, offset: u32, len: u32) -> Result<Slice<'static>, i32> {
    let from = dynptr.offset.saturating_add(offset);
    match dynptr.kind {
        DynptrKind::Local | DynptrKind::Ringbuf => {
            // SAFETY: as the caller promises.
            Ok(unsafe { Slice::from_raw(dynptr.addr + u64::from(from), len as usize) })
        }
        DynptrKind::Xdp if from > 0xffff || len > 0xffff => Err(libc::EFAULT),
        DynptrKind::Skb | DynptrKind::Xdp => {
            // SAFETY: as the caller promises: it is the context's record.
            let record = unsafe { Record::at(dynptr.addr) };
            let error = if dynptr.kind == DynptrKind::Xdp { libc::EINVAL } else { libc::EFAULT };
            let found = record.packet(from.into(), len.into()).ok_or(error)?;
            // SAFETY: the packet lies where it is as long as this call lasts, and the program runs.
            Ok(unsafe { Slice::from_raw(found.addr(), found.len()) })
        }
    }
}

/// `long bpf_dynptr_from_mem(data, size, flags, ptr)`: 0, -E2BIG or -EINVAL.
///
/// # Safety
/// R1 points to R2 (32 bits) readable and writable bytes, which stay so as long as the program runs; R4 as for [`place`].
pub(super) unsafe fn from_mem([data, size, flags, to, _]: [u64; 5]) -> u64 {
    let error = if flags != 0 { libc::EINVAL } else { 0 };
    // SAFETY: as the caller promises.
    unsafe { make(to, data, size as u32, DynptrKind::Local, false, error) }.map_or_else(errno, |()| 0)
}

/// `long bpf_dynptr_read(dst, len, src, offset, flags)`: 0, -EINVAL for null and flags, -E2BIG outside.
///
/// # Safety
/// R1 points to R2 (32 bits) writable bytes; R3 as for [`dynptr`].
pub(super) unsafe fn read([to, len, from, offset, flags]: [u64; 5]) -> u64 {
    let (len, offset) = (len as u32, offset as u32);
    // SAFETY: as the caller promises.
    let (to, from) = unsafe { (Slice::from_raw(to, len as usize), dynptr(from)) };
    let Some(from) = from.filter(|_| flags == 0) else { return errno(libc::EINVAL) };
    if !from.has(offset, len) {
        return errno(libc::E2BIG);
    }
    // SAFETY: as the caller promises.
    match unsafe { memory(&from, offset, len) } {
        Ok(from) => {
            to.move_from(from);
            0
        }
        Err(number) => {
            if from.kind == DynptrKind::Skb {
                to.clear();
            }
            errno(number)
        }
    }
}

/// `long bpf_dynptr_write(dst, offset, src, len, flags)`: 0, -EINVAL for null, flags and what is read-only, -E2BIG outside.
///
/// # Safety
/// R1 as for [`dynptr`]; R3 points to R4 (32 bits) readable bytes.
pub(super) unsafe fn write([to, offset, from, len, flags]: [u64; 5]) -> u64 {
    let (len, offset) = (len as u32, offset as u32);
    // SAFETY: as the caller promises.
    let (from, to) = unsafe { (Slice::from_raw(from, len as usize), dynptr(to)) };
    let Some(to) = to.filter(|d| !d.read_only) else { return errno(libc::EINVAL) };
    if !to.has(offset, len) {
        return errno(libc::E2BIG);
    }
    let allowed = if to.kind == DynptrKind::Skb { SKB_FLAGS } else { 0 };
    if flags & !allowed != 0 {
        return errno(libc::EINVAL);
    }
    // SAFETY: as the caller promises.
    match unsafe { memory(&to, offset, len) } {
        Ok(memory) => memory.move_from(from),
        Err(number) => return errno(number),
    };
    if flags & INVALIDATE_HASH != 0 {
        // SAFETY: as the caller promises: it is the context's record.
        unsafe { Record::at(to.addr) }.put(sk_buff::HASH, Size::W, 0);
    }
    0
}

/// `void *bpf_dynptr_data(ptr, offset, len)`: an address, or 0: for null, outside, read-only, or of a packet.
///
/// # Safety
/// R1 as for [`dynptr`].
pub(super) unsafe fn data([from, offset, len, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let found = unsafe { dynptr(from) }.filter(|d| !d.read_only && !d.kind.is_packet());
    // SAFETY: as the caller promises.
    found.map_or(0, |d| unsafe { window(&d, offset, len) })
}

/// The address of `len` bytes at `offset`, or 0.
///
/// # Safety
/// The memory of `dynptr` lives.
unsafe fn window(dynptr: &Dynptr, offset: u64, len: u64) -> u64 {
    let (offset, len) = (offset as u32, len as u32);
    if !dynptr.has(offset, len) {
        return 0;
    }
    // SAFETY: as the caller promises.
    unsafe { memory(dynptr, offset, len) }.map_or(0, Slice::addr)
}

/// `long bpf_ringbuf_reserve_dynptr(map, size, flags, ptr)`: 0, -EINVAL for flags and where there is no room, -E2BIG.
///
/// # Safety
/// R1 is the address of a live `Map`; R4 as for [`place`].
pub(super) unsafe fn reserve([map, size, flags, to, _]: [u64; 5]) -> u64 {
    let size = size as u32;
    let wanted = flags == 0 && size <= MAX_SIZE;
    // SAFETY: as the caller promises.
    let ring = unsafe { live(map) }.ring().filter(|_| wanted);
    let record = ring.and_then(|ring| ring.reserve(size.into())).map(Slice::addr);
    let error = if record.is_some() || (flags == 0 && size > MAX_SIZE) { 0 } else { libc::EINVAL };
    // SAFETY: as the caller promises.
    let made = unsafe { make(to, record.unwrap_or_default(), size, DynptrKind::Ringbuf, false, error) };
    made.map_or_else(errno, |()| 0)
}

/// `void bpf_ringbuf_submit_dynptr(ptr, flags)`: nothing for null, which it becomes.
///
/// # Safety
/// R1 as for [`dynptr`], and its record is not yet committed.
pub(super) unsafe fn submit([from, flags, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    if let Some(record) = unsafe { taken(from) } {
        // SAFETY: as the caller promises.
        unsafe { ringbuf::submit([record, flags, 0, 0, 0]) };
    }
    0
}

/// `void bpf_ringbuf_discard_dynptr(ptr, flags)`
///
/// # Safety
/// As for [`submit`].
pub(super) unsafe fn discard([from, flags, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    if let Some(record) = unsafe { taken(from) } {
        // SAFETY: as the caller promises.
        unsafe { ringbuf::discard([record, flags, 0, 0, 0]) };
    }
    0
}

/// The record of a dynptr, which becomes null.
///
/// # Safety
/// As for [`dynptr`].
unsafe fn taken(from: u64) -> Option<u64> {
    // SAFETY: as the caller promises.
    let (found, place) = unsafe { (dynptr(from), place(from)) };
    Dynptr::store(None, place);
    found.filter(|d| d.kind == DynptrKind::Ringbuf).map(|d| d.addr)
}

/// `int bpf_dynptr_adjust(ptr, start, end)`: only the bytes from `start` to before `end` are left; 0, -EINVAL or -ERANGE.
///
/// # Safety
/// R1 as for [`dynptr`].
pub(super) unsafe fn adjust([from, start, end, ..]: [u64; 5]) -> u64 {
    let (start, end) = (start as u32, end as u32);
    // SAFETY: as the caller promises.
    let (found, place) = unsafe { (dynptr(from), place(from)) };
    let Some(found) = found.filter(|_| start <= end) else { return error32(libc::EINVAL) };
    if end > found.size {
        return error32(libc::ERANGE);
    }
    let left = Dynptr { offset: found.offset.saturating_add(start), size: end - start, ..found };
    Dynptr::store(Some(left), place);
    0
}

/// `bool bpf_dynptr_is_null(ptr)`
///
/// # Safety
/// R1 as for [`dynptr`].
pub(super) unsafe fn is_null([from, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { dynptr(from) }.is_none().into()
}

/// `bool bpf_dynptr_is_rdonly(ptr)`
///
/// # Safety
/// R1 as for [`dynptr`].
pub(super) unsafe fn is_rdonly([from, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { dynptr(from) }.is_some_and(|d| d.read_only).into()
}

/// `u32 bpf_dynptr_size(ptr)`: bytes, or -EINVAL for null.
///
/// # Safety
/// R1 as for [`dynptr`].
pub(super) unsafe fn size([from, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { dynptr(from) }.map_or(error32(libc::EINVAL), |d| d.size.into())
}

/// `int bpf_dynptr_clone(ptr, clone)`: 0, or -EINVAL for null.
///
/// # Safety
/// R1 as for [`dynptr`], R2 as for [`place`].
pub(super) unsafe fn clone([from, to, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let (found, place) = unsafe { (dynptr(from), place(to)) };
    Dynptr::store(found, place);
    if found.is_some() { 0 } else { error32(libc::EINVAL) }
}

/// `void *bpf_dynptr_slice(ptr, offset, buffer, len)`: an address, or 0. Packets are in one piece here, so the buffer is
/// never needed.
///
/// # Safety
/// R1 as for [`dynptr`].
pub(super) unsafe fn slice([from, offset, _, len, _]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { dynptr(from).map_or(0, |d| window(&d, offset, len)) }
}

/// `void *bpf_dynptr_slice_rdwr(ptr, offset, buffer, len)`: the same, for what may be written.
///
/// # Safety
/// R1 as for [`dynptr`].
pub(super) unsafe fn slice_rdwr([from, offset, _, len, _]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { dynptr(from).filter(|d| !d.read_only).map_or(0, |d| window(&d, offset, len)) }
}

/// A dynptr of the packet.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it, R3 as for [`place`].
unsafe fn from_packet([ctx, flags, to, ..]: [u64; 5], kind: DynptrKind, read_only: bool) -> u64 {
    // SAFETY: as the caller promises.
    let len = unsafe { Record::at(ctx) }.len().max(0);
    let error = if flags != 0 { libc::EINVAL } else { 0 };
    let size = u32::try_from(len).unwrap_or(u32::MAX);
    // SAFETY: as the caller promises.
    unsafe { make(to, ctx, size, kind, read_only, error) }.map_or_else(error32, |()| 0)
}

/// `int bpf_dynptr_from_skb(skb, flags, ptr)`: 0 or -EINVAL.
///
/// # Safety
/// As for [`from_packet`].
pub(super) unsafe fn from_skb(args: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { from_packet(args, DynptrKind::Skb, false) }
}

/// The same, for programs that may not write to the packet.
///
/// # Safety
/// As for [`from_packet`].
pub(super) unsafe fn from_skb_rdonly(args: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { from_packet(args, DynptrKind::Skb, true) }
}

/// `int bpf_dynptr_from_xdp(xdp, flags, ptr)`: 0 or -EINVAL.
///
/// # Safety
/// As for [`from_packet`].
pub(super) unsafe fn from_xdp(args: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { from_packet(args, DynptrKind::Xdp, false) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::cell::Bytes;

    fn code(result: u64) -> i32 {
        result as i32
    }

    #[test]
    fn memory_is_reached_inside_only_and_by_what_is_left_of_it() {
        let (data, stack) = (Bytes::zeroed(32).unwrap(), Bytes::zeroed(48).unwrap());
        let (p, q, buffer) = (stack.addr(), stack.addr() + 16, stack.addr() + 32);
        data.slice().write(&(0..32).collect::<Vec<u8>>());
        // SAFETY: sizes and places are those of the memory.
        unsafe {
            assert_eq!(code(from_mem([data.addr(), 1 << 24, 0, p, 0])), -libc::E2BIG);
            assert_eq!((is_null([p; 5]), code(size([p; 5]))), (1, -libc::EINVAL));
            assert_eq!(code(from_mem([data.addr(), 32, 1, p, 0])), -libc::EINVAL);
            assert_eq!(code(clone([p, q, 0, 0, 0])), -libc::EINVAL);
            assert_eq!(from_mem([data.addr(), 32, 0, p, 0]), 0);
            assert_eq!((is_null([p; 5]), is_rdonly([p; 5]), size([p; 5])), (0, 0, 32));
            assert_eq!(super::data([p, 8, 24, 0, 0]), data.addr() + 8);
            assert_eq!((super::data([p, 8, 25, 0, 0]), super::data([p, u32::MAX.into(), 2, 0, 0])), (0, 0));
            assert_eq!(clone([p, q, 0, 0, 0]), 0);
            assert_eq!(code(adjust([q, 5, 4, 0, 0])), -libc::EINVAL);
            assert_eq!(code(adjust([q, 5, 33, 0, 0])), -libc::ERANGE);
            assert_eq!((adjust([q, 4, 12, 0, 0]), adjust([q, 2, 6, 0, 0])), (0, 0));
            assert_eq!((size([q; 5]), size([p; 5])), (4, 32));
            assert_eq!(slice([q, 1, 0, 3, 0]), data.addr() + 7);
            assert_eq!((slice_rdwr([q, 4, 0, 0, 0]), slice([q, 4, 0, 1, 0])), (data.addr() + 10, 0));
            assert_eq!(read([buffer, 4, q, 0, 0]), 0);
            assert_eq!(stack.slice().load(32, Size::W), Some(0x0908_0706));
            assert_eq!(code(read([buffer, 4, q, 1, 0])), -libc::E2BIG);
            assert_eq!(code(read([buffer, 4, q, 0, 1])), -libc::EINVAL);
            assert_eq!(write([q, 1, buffer, 3, 0]), 0);
            assert_eq!(data.slice().load(6, Size::W), Some(0x0807_0606));
            assert_eq!(code(write([q, 2, buffer, 3, 0])), -libc::E2BIG);
            assert_eq!(code(write([q, 0, buffer, 3, 2])), -libc::EINVAL);
            // Onto itself, one byte further.
            assert_eq!(write([p, 1, data.addr(), 31, 0]), 0);
            assert_eq!(data.slice().to_vec()[..9], [0, 0, 1, 2, 3, 4, 5, 6, 6]);
        }
    }
}
