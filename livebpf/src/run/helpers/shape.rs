//! Socket buffers that grow, shrink or move: `bpf_skb_change_head` and its kin, VLAN tags.
//!
//! A packet grows into the room that its buffer has in front and behind (256 bytes in front); where that is too little a
//! helper answers -ENOMEM, as the kernel does when it cannot copy the packet to a larger buffer.
#![allow(unsafe_code)]

use super::errno;
use super::record::{ETH_P_IP, ETH_P_IPV6, Record, sk_buff};
use crate::context::record;
use crate::insn::Size;

const ENOTSUPP: i32 = 524;
/// Longest packet that these helpers make (`BPF_SKB_MAX_LEN`).
const MAX_LEN: i64 = 16_064;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;
/// Bytes of a VLAN tag in the packet.
const VLAN_HLEN: i64 = 4;
/// Bytes of the two Ethernet addresses.
const ADDRESSES: i64 = 12;
const IPV4_HLEN: i64 = 20;
const IPV6_HLEN: i64 = 40;

/// A helper's outcome: an error number in place of one that cannot be had.
type Outcome = Result<(), i32>;

fn answer(outcome: Outcome) -> u64 {
    match outcome {
        Ok(()) => 0,
        Err(number) => errno(number),
    }
}

/// Opens a gap of `len` zero bytes, `offset` bytes into the packet: what is in front of it moves down.
fn open_gap(record: &Record, offset: i64, len: i64) -> Outcome {
    let data = record.get(record::DATA);
    let front = record.packet(0, offset).ok_or(libc::EINVAL)?.to_vec();
    record.buffer(data - len, len).ok_or(libc::ENOMEM)?;
    record.set_data(data - len);
    if let Some(target) = record.packet(0, offset) {
        target.write(&front);
    }
    if let Some(gap) = record.packet(offset, len) {
        gap.clear();
    }
    Ok(())
}

/// Takes `len` bytes out, `offset` bytes into the packet: what is in front of them moves up.
fn close_gap(record: &Record, offset: i64, len: i64) -> Outcome {
    let front = record.packet(0, offset).ok_or(libc::EINVAL)?.to_vec();
    record.packet(offset, len).ok_or(libc::ENOMEM)?;
    record.set_data(record.get(record::DATA) + len);
    if let Some(target) = record.packet(0, offset) {
        target.write(&front);
    }
    Ok(())
}

/// Where the Ethernet header is, after the packet's start has moved by `by` in front of it.
fn move_mac(record: &Record, by: i64) {
    record.set(record::MAC, record.get(record::MAC) + by);
}

/// `long bpf_skb_pull_data(skb, len)`: packets lie in one piece: 0, or -ENOMEM past the end.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it.
pub(super) unsafe fn skb_pull_data([skb, len, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let record = unsafe { Record::at(skb) };
    if i64::from(len as u32) > record.len() { errno(libc::ENOMEM) } else { 0 }
}

/// `long bpf_skb_change_head(skb, len, flags)`: zero bytes in front: 0, -EINVAL or -ENOMEM.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it.
pub(super) unsafe fn skb_change_head([skb, len, flags, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let (record, len) = (unsafe { Record::at(skb) }, i64::from(len as u32));
    if flags != 0 || record.len() + len > MAX_LEN {
        return errno(libc::EINVAL);
    }
    answer(open_gap(&record, 0, len).map(|()| record.set(record::MAC, record.get(record::DATA))))
}

/// `long bpf_skb_change_tail(skb, len, flags)`: the packet's new length; new bytes are zero. 0, -EINVAL or -ENOMEM.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it.
pub(super) unsafe fn skb_change_tail([skb, len, flags, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let (record, len) = (unsafe { Record::at(skb) }, i64::from(len as u32));
    if flags != 0 || len > MAX_LEN || len < record.network_offset() {
        return errno(libc::EINVAL);
    }
    let (old, grows) = (record.get(record::DATA_END), (len - record.len()).max(0));
    let Some(room) = record.buffer(old, grows) else { return errno(libc::ENOMEM) };
    room.clear();
    record.set_end(record.get(record::DATA) + len);
    0
}

/// `long bpf_skb_change_proto(skb, proto, flags)`: IPv4 to IPv6 or back: makes or takes 20 bytes behind the Ethernet header.
/// 0, -EINVAL for flags, -ENOTSUPP for other protocols.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it.
pub(super) unsafe fn skb_change_proto([skb, proto, flags, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let record = unsafe { Record::at(skb) };
    if flags != 0 {
        return errno(libc::EINVAL);
    }
    let (grow, at) = (IPV6_HLEN - IPV4_HLEN, record.network_offset().max(0));
    let wanted = (proto as u16).swap_bytes();
    let done = match (record.protocol(), wanted) {
        (ETH_P_IP, ETH_P_IPV6) => open_gap(&record, at, grow).map(|()| shift(&record, -grow)),
        (ETH_P_IPV6, ETH_P_IP) => close_gap(&record, at, grow).map(|()| shift(&record, grow)),
        _ => Err(ENOTSUPP),
    };
    answer(done.map(|()| {
        record.set_protocol(wanted);
        record.put(sk_buff::HASH, Size::W, 0);
    }))
}

/// The Ethernet and network headers have moved by `by`.
fn shift(record: &Record, by: i64) {
    move_mac(record, by);
    record.set(record::NETWORK, record.get(record::NETWORK) + by);
}

/// Flags of `bpf_skb_adjust_room` that are known: all `BPF_F_ADJ_ROOM_*`, and the length of an inner Ethernet header.
const ROOM_FLAGS: u64 = 0x1ff | 0xff << 56;

/// `long bpf_skb_adjust_room(skb, len_diff, mode, flags)`: makes or takes room behind the network header (mode 0) or the
/// Ethernet header (1). 0, -EINVAL, -EFAULT, -ENOTSUPP or -ENOMEM.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it.
pub(super) unsafe fn skb_adjust_room([skb, diff, mode, flags, _]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let (record, diff) = (unsafe { Record::at(skb) }, i64::from(diff as i32));
    if flags & !ROOM_FLAGS != 0 {
        return errno(libc::EINVAL);
    }
    if diff.abs() > 0xfff {
        return errno(libc::EFAULT);
    }
    let header = match record.protocol() {
        ETH_P_IP => IPV4_HLEN,
        ETH_P_IPV6 => IPV6_HLEN,
        _ => return errno(ENOTSUPP),
    };
    let network = record.network_offset().max(0);
    let at = match mode as u32 {
        0 => network + header,
        1 => network,
        _ => return errno(ENOTSUPP),
    };
    let left = record.len() - network + diff;
    if (diff < 0 && left < header) || (diff > 0 && record.len() + diff > MAX_LEN) {
        return errno(ENOTSUPP);
    }
    let done = match diff {
        0.. => open_gap(&record, at, diff),
        _ => close_gap(&record, at, -diff),
    };
    answer(done.map(|()| shift(&record, -diff)))
}

/// The tag beside the packet: protocol in host byte order, and tag control information.
fn tag(record: &Record) -> Option<(u16, u64)> {
    let present = record.number(sk_buff::VLAN_PRESENT, Size::W) != 0;
    let proto = (record.number(sk_buff::VLAN_PROTO, Size::W) as u16).swap_bytes();
    present.then(|| (proto, record.number(sk_buff::VLAN_TCI, Size::W)))
}

fn set_tag(record: &Record, tag: Option<(u16, u64)>) {
    let (proto, tci) = tag.unwrap_or_default();
    record.put(sk_buff::VLAN_PRESENT, Size::W, tag.is_some().into());
    record.put(sk_buff::VLAN_TCI, Size::W, tci);
    record.put(sk_buff::VLAN_PROTO, Size::W, proto.swap_bytes().into());
}

fn is_vlan(protocol: u16) -> bool {
    [ETH_P_8021Q, ETH_P_8021AD].contains(&protocol)
}

/// `long bpf_skb_vlan_push(skb, proto, tci)`: the tag goes beside the packet, one that is there already into it.
/// 0, -EINVAL or -ENOMEM.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it.
pub(super) unsafe fn skb_vlan_push([skb, proto, tci, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let record = unsafe { Record::at(skb) };
    let proto = Some((proto as u16).swap_bytes()).filter(|p| is_vlan(*p)).unwrap_or(ETH_P_8021Q);
    if let Some((outer, old)) = tag(&record) {
        if let Err(number) = open_gap(&record, ADDRESSES, VLAN_HLEN) {
            return errno(number);
        }
        if let Some(place) = record.packet(ADDRESSES, VLAN_HLEN) {
            place.write(&[outer.to_be_bytes(), (old as u16).to_be_bytes()].concat());
        }
        move_mac(&record, -VLAN_HLEN);
        record.set_protocol(outer);
    }
    set_tag(&record, Some((proto, tci & 0xffff)));
    0
}

/// `long bpf_skb_vlan_pop(skb)`: the tag beside the packet goes, and the next one in the packet takes its place.
/// 0, -EINVAL or -ENOMEM.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it.
pub(super) unsafe fn skb_vlan_pop([skb, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let record = unsafe { Record::at(skb) };
    if tag(&record).is_some() {
        set_tag(&record, None);
    } else if !is_vlan(record.protocol()) {
        return 0;
    } else if let Err(number) = take_out(&record) {
        return errno(number);
    }
    let proto = record.protocol();
    if !is_vlan(proto) {
        return 0;
    }
    match take_out(&record) {
        Ok(tci) => {
            set_tag(&record, Some((proto, tci)));
            0
        }
        Err(number) => errno(number),
    }
}

/// Takes the outermost tag out of the packet; its tag control information.
fn take_out(record: &Record) -> Result<u64, i32> {
    let place = record.packet(ADDRESSES, VLAN_HLEN + 2).ok_or(libc::ENOMEM)?.to_vec();
    close_gap(record, ADDRESSES, VLAN_HLEN)?;
    move_mac(record, VLAN_HLEN);
    record.set_protocol(u16::from_be_bytes([place[4], place[5]]));
    let network = record.get(record::NETWORK).max(record.get(record::DATA) + ADDRESSES + 2);
    record.set(record::NETWORK, network);
    Ok(u16::from_be_bytes([place[2], place[3]]).into())
}
