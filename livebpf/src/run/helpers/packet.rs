//! Helpers on the packet: `bpf_skb_load_bytes`, and those of XDP.
//!
//! They work on the context record (`context::record`): packet bytes are [data, data_end), metadata is
//! [data_meta, data), and the buffer around both is [buf_start, buf_end).
#![allow(unsafe_code)]

use super::errno;
use super::record::Record;
use crate::context::record;
use crate::map::cell::Slice;

/// Shortest packet that the adjusting helpers leave: an Ethernet header.
const ETH_HLEN: i64 = 14;

/// `long bpf_skb_load_bytes(ctx, offset, to, len)`: copies packet bytes; 0, or -EFAULT and `to` is zeroed.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it, R3 points to R4 (32 bits) writable bytes.
pub(super) unsafe fn skb_load_bytes([ctx, offset, to, len, _]: [u64; 5]) -> u64 {
    let (offset, len) = (offset as u32, len as u32);
    // SAFETY: as the caller promises.
    let (record, to) = unsafe { (Record::at(ctx), Slice::from_raw(to, len as usize)) };
    match record.packet(offset.into(), len.into()).filter(|_| offset <= i32::MAX as u32) {
        Some(from) => {
            to.copy_from(from);
            0
        }
        None => {
            to.clear();
            errno(libc::EFAULT)
        }
    }
}

/// `long bpf_xdp_adjust_head(ctx, delta)`: moves the packet's start; metadata moves along. 0 or -EINVAL.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it.
pub(super) unsafe fn xdp_adjust_head([ctx, delta, ..]: [u64; 5]) -> u64 {
    let delta = i64::from(delta as i32);
    // SAFETY: as the caller promises.
    let record = unsafe { Record::at(ctx) };
    let (data, end) = (record.get(record::DATA), record.get(record::DATA_END));
    let meta = record.get(record::DATA_META);
    let meta_len = (data - meta).max(0);
    let new = data + delta;
    if new < record.get(record::BUF_START) + meta_len || new > end - ETH_HLEN {
        return errno(libc::EINVAL);
    }
    if let (1.., Some(from), Some(to)) =
        (meta_len, record.buffer(meta, meta_len), record.buffer(meta + delta, meta_len))
    {
        to.move_from(from);
    }
    record.set(record::DATA_META, meta + delta);
    record.set(record::DATA, new);
    record.set(record::LOW, record.get(record::LOW).min(meta + delta));
    0
}

/// `long bpf_xdp_adjust_tail(ctx, delta)`: moves the packet's end; new bytes are zero. 0 or -EINVAL.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it.
pub(super) unsafe fn xdp_adjust_tail([ctx, delta, ..]: [u64; 5]) -> u64 {
    let delta = i64::from(delta as i32);
    // SAFETY: as the caller promises.
    let record = unsafe { Record::at(ctx) };
    let (data, end) = (record.get(record::DATA), record.get(record::DATA_END));
    let new = end + delta;
    if new > record.get(record::BUF_END) || new < data + ETH_HLEN {
        return errno(libc::EINVAL);
    }
    if let Some(grown) = record.buffer(end, new - end) {
        grown.clear();
    }
    record.set(record::DATA_END, new);
    0
}

/// Most bytes of metadata (what the kernel's counter of them holds).
const META_MAX: i64 = 255;

/// `long bpf_xdp_adjust_meta(ctx, delta)`: moves the start of the metadata. 0, -EINVAL, or -EACCES for a length that is too
/// long or no multiple of 4.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it.
pub(super) unsafe fn xdp_adjust_meta([ctx, delta, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let record = unsafe { Record::at(ctx) };
    let data = record.get(record::DATA);
    let new = record.get(record::DATA_META) + i64::from(delta as i32);
    if new < record.get(record::BUF_START) || new > data {
        return errno(libc::EINVAL);
    }
    if (data - new) % 4 != 0 || data - new > META_MAX {
        return errno(libc::EACCES);
    }
    record.set(record::DATA_META, new);
    record.set(record::LOW, record.get(record::LOW).min(new));
    0
}

/// `u64 bpf_xdp_get_buff_len(ctx)`: bytes of the packet.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it.
pub(super) unsafe fn xdp_get_buff_len([ctx, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { Record::at(ctx) }.len() as u64
}

/// The bytes of an XDP packet that a helper copies; an error number where they are not inside it.
fn copied(record: &Record, offset: u64, len: u64) -> Result<Slice<'_>, i32> {
    let (offset, len) = (offset as u32, len as u32);
    if offset > 0xffff || len > 0xffff {
        return Err(libc::EFAULT);
    }
    record.packet(offset.into(), len.into()).ok_or(libc::EINVAL)
}

/// `long bpf_xdp_load_bytes(ctx, offset, to, len)`: 0, -EFAULT or -EINVAL.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it, R3 points to R4 (32 bits) writable bytes.
pub(super) unsafe fn xdp_load_bytes([ctx, offset, to, len, _]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let (record, to) = unsafe { (Record::at(ctx), Slice::from_raw(to, len as u32 as usize)) };
    match copied(&record, offset, len) {
        Ok(from) => {
            to.copy_from(from);
            0
        }
        Err(number) => errno(number),
    }
}

/// `long bpf_xdp_store_bytes(ctx, offset, from, len)`: 0, -EFAULT or -EINVAL.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it, R3 points to R4 (32 bits) readable bytes.
pub(super) unsafe fn xdp_store_bytes([ctx, offset, from, len, _]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let (record, from) = unsafe { (Record::at(ctx), Slice::from_raw(from, len as u32 as usize)) };
    match copied(&record, offset, len) {
        Ok(to) => {
            to.move_from(from);
            0
        }
        Err(number) => errno(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insn::Size;
    use crate::map::cell::Bytes;

    /// A buffer of 128 bytes: 32 of headroom, a packet of 64 whose byte i is i + 1, 32 of tailroom full of 0xee.
    struct Packet {
        record: Bytes,
        buffer: Bytes,
    }

    impl Packet {
        fn new(meta_len: u64) -> Packet {
            let packet =
                Packet { record: Bytes::zeroed(record::SIZE.into()).unwrap(), buffer: Bytes::zeroed(128).unwrap() };
            let start = packet.buffer.addr();
            for (field, addr) in [
                (record::DATA, start + 32),
                (record::DATA_END, start + 96),
                (record::DATA_META, start + 32 - meta_len),
                (record::BUF_START, start),
                (record::BUF_END, start + 128),
            ] {
                packet.record.slice().store(field as usize, Size::DW, addr).unwrap();
            }
            packet.buffer.slice().write(&[0xee; 128]);
            packet.buffer.slice().sub(32, 64).unwrap().write(&(1..=64).collect::<Vec<u8>>());
            packet
        }
        /// data_meta, data and data_end from the start of the buffer.
        fn place(&self) -> (u64, u64, u64) {
            let at = |f: u32| self.record.slice().load(f as usize, Size::DW).unwrap() - self.buffer.addr();
            (at(record::DATA_META), at(record::DATA), at(record::DATA_END))
        }
        fn head(&self, delta: i32) -> i64 {
            // SAFETY: the record describes our buffer.
            unsafe { xdp_adjust_head([self.record.addr(), delta as u32 as u64, 0, 0, 0]) as i64 }
        }
        fn tail(&self, delta: i32) -> i64 {
            // SAFETY: the record describes our buffer.
            unsafe { xdp_adjust_tail([self.record.addr(), delta as u32 as u64, 0, 0, 0]) as i64 }
        }
    }

    const EINVAL: i64 = -(libc::EINVAL as i64);

    #[test]
    fn the_head_moves_within_the_headroom_and_leaves_an_ethernet_header() {
        let packet = Packet::new(0);
        for wrong in [-33, i32::MIN, 51, 64, i32::MAX] {
            assert_eq!(packet.head(wrong), EINVAL, "{wrong}");
            assert_eq!(packet.place(), (32, 32, 96));
        }
        assert_eq!((packet.head(-32), packet.place()), (0, (0, 0, 96)));
        assert_eq!(packet.head(-1), EINVAL);
        assert_eq!((packet.head(82), packet.place()), (0, (82, 82, 96)));
        assert_eq!((packet.head(0), packet.head(1)), (0, EINVAL));
    }

    #[test]
    fn metadata_moves_with_the_head() {
        let packet = Packet::new(8);
        let meta = packet.buffer.slice().sub(24, 8).unwrap();
        meta.write(b"metadata");
        assert_eq!(packet.head(-25), EINVAL, "the metadata needs its place, too");
        assert_eq!((packet.head(-4), packet.place()), (0, (20, 28, 96)));
        assert_eq!(packet.buffer.slice().sub(20, 8).unwrap().to_vec(), b"metadata");
        assert_eq!((packet.head(-20), packet.place()), (0, (0, 8, 96)));
        assert_eq!((packet.head(40), packet.place()), (0, (40, 48, 96)));
        assert_eq!(packet.buffer.slice().sub(40, 8).unwrap().to_vec(), b"metadata");
    }

    #[test]
    fn the_tail_grows_by_zeros_and_shrinks_to_an_ethernet_header() {
        let packet = Packet::new(0);
        for wrong in [33, i32::MAX, -51, i32::MIN] {
            assert_eq!(packet.tail(wrong), EINVAL, "{wrong}");
        }
        assert_eq!((packet.tail(20), packet.place()), (0, (32, 32, 116)));
        let tail = packet.buffer.slice().sub(96, 32).unwrap().to_vec();
        assert_eq!(tail, [[0; 20].as_slice(), &[0xee; 12]].concat());
        assert_eq!((packet.tail(12), packet.tail(1)), (0, EINVAL));
        assert_eq!((packet.tail(-82), packet.place()), (0, (32, 32, 46)));
        assert_eq!(packet.tail(-1), EINVAL);
    }

    #[test]
    fn bytes_are_loaded_from_inside_the_packet_only() {
        let packet = Packet::new(0);
        let load = |offset: u64, len: u64| {
            let target = Bytes::zeroed(len + 1).unwrap();
            target.slice().write(&vec![0xaa; len as usize + 1]);
            // SAFETY: the record describes our buffer, and the target is longer than len.
            let r0 = unsafe { skb_load_bytes([packet.record.addr(), offset, target.addr(), len, 0]) };
            (r0 as i64, target.slice().to_vec())
        };
        assert_eq!(load(0, 3), (0, vec![1, 2, 3, 0xaa]));
        assert_eq!(load(61, 3), (0, vec![62, 63, 64, 0xaa]));
        assert_eq!(load(64, 0), (0, vec![0xaa]));
        for offset in [62, 64, 65, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
            assert_eq!(load(offset, 3), (-i64::from(libc::EFAULT), vec![0, 0, 0, 0xaa]), "{offset}");
        }
        assert_eq!(load(0x1_0000_0000, 1).0, 0, "the offset has 32 bits");
    }
}
