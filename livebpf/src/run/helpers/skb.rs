//! Bytes and numbers of a socket buffer: `bpf_skb_store_bytes`, `bpf_skb_load_bytes_relative`, the hash, the time stamp.
#![allow(unsafe_code)]

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use super::errno;
use super::record::{ETH_P_IP, ETH_P_IPV6, Record, sk_buff};
use crate::context::record;
use crate::insn::Size;
use crate::map::cell::Slice;

/// `BPF_F_RECOMPUTE_CSUM`: no packet of ours carries a sum of all of it.
const RECOMPUTE_CSUM: u64 = 1;
/// `BPF_F_INVALIDATE_HASH`
const INVALIDATE_HASH: u64 = 2;
/// Largest `pkt_type` that programs may use (`PACKET_OTHERHOST`).
const OTHERHOST: u64 = 3;

/// `long bpf_skb_store_bytes(skb, offset, from, len, flags)`: 0, -EINVAL for flags or -EFAULT outside the packet.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it, R3 points to R4 (32 bits) readable bytes.
pub(super) unsafe fn skb_store_bytes([skb, offset, from, len, flags]: [u64; 5]) -> u64 {
    let (offset, len) = (offset as u32, len as u32);
    // SAFETY: as the caller promises.
    let (record, from) = unsafe { (Record::at(skb), Slice::from_raw(from, len as usize)) };
    if flags & !(RECOMPUTE_CSUM | INVALIDATE_HASH) != 0 {
        return errno(libc::EINVAL);
    }
    let target = record.packet(offset.into(), len.into()).filter(|_| offset <= i32::MAX as u32);
    let Some(target) = target else { return errno(libc::EFAULT) };
    // The two may overlap: packet bytes can be copied within the packet.
    target.move_from(from);
    if flags & INVALIDATE_HASH != 0 {
        record.put(sk_buff::HASH, Size::W, 0);
    }
    0
}

/// `long bpf_skb_load_bytes_relative(skb, offset, to, len, start)`: copies bytes from the Ethernet header (start 0) or the
/// network header (1) on; 0, or -EFAULT and `to` is zeroed.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it, R3 points to R4 (32 bits) writable bytes.
pub(super) unsafe fn skb_load_bytes_relative([skb, offset, to, len, start]: [u64; 5]) -> u64 {
    let (offset, len) = (i64::from(offset as u32), i64::from(len as u32));
    // SAFETY: as the caller promises.
    let (record, to) = unsafe { (Record::at(skb), Slice::from_raw(to, len as usize)) };
    let header = match start as u32 {
        0 => record.get(record::MAC),
        1 => record.get(record::NETWORK),
        _ => 0,
    };
    let fits = header != 0 && offset <= 0xffff && header + offset + len <= record.get(record::DATA_END);
    match record.buffer(header + offset, len).filter(|_| fits) {
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

/// `u32 bpf_get_hash_recalc(skb)`: the packet's flow hash, made from its addresses and ports where it has none. Never 0.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it.
pub(super) unsafe fn get_hash_recalc([skb, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let record = unsafe { Record::at(skb) };
    let known = record.number(sk_buff::HASH, Size::W);
    if known != 0 {
        return known;
    }
    static SEED: OnceLock<RandomState> = OnceLock::new();
    let flow = (record.protocol(), flow(&record));
    let hash = (SEED.get_or_init(RandomState::new).hash_one(flow) as u32).max(1);
    record.put(sk_buff::HASH, Size::W, hash.into());
    hash.into()
}

/// What tells the packet's flow from others: addresses, protocol and ports.
fn flow(record: &Record) -> Vec<u8> {
    let network = record.network_offset();
    let bytes = |offset: i64, len: i64| record.packet(network + offset, len).map(Slice::to_vec).unwrap_or_default();
    let byte = |offset: i64| i64::from(bytes(offset, 1).first().copied().unwrap_or_default());
    let (protocol, addresses, transport) = match record.protocol() {
        ETH_P_IP => (byte(9), bytes(12, 8), (byte(0) & 0xf) * 4),
        ETH_P_IPV6 => (byte(6), bytes(8, 32), 40),
        _ => return Vec::new(),
    };
    let ports = match protocol as i32 {
        libc::IPPROTO_TCP | libc::IPPROTO_UDP | libc::IPPROTO_SCTP => bytes(transport, 4),
        _ => Vec::new(),
    };
    [addresses, vec![protocol as u8], ports].concat()
}

/// `long bpf_set_hash(skb, hash)`: 0.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it.
pub(super) unsafe fn set_hash([skb, hash, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { Record::at(skb) }.put(sk_buff::HASH, Size::W, hash);
    0
}

/// `void bpf_set_hash_invalid(skb)`.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it.
pub(super) unsafe fn set_hash_invalid([skb, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { Record::at(skb) }.put(sk_buff::HASH, Size::W, 0);
    0
}

/// `long bpf_skb_set_tstamp(skb, tstamp, type)`: 0, -EINVAL, or -EOPNOTSUPP for packets that are not of IP.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it.
pub(super) unsafe fn skb_set_tstamp([skb, tstamp, kind, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let record = unsafe { Record::at(skb) };
    if ![ETH_P_IP, ETH_P_IPV6].contains(&record.protocol()) {
        return errno(libc::EOPNOTSUPP);
    }
    // Real time takes any number, the monotonic clock and TAI none but those that mean something.
    let fits = match kind as u32 {
        0 => true,
        1 | 2 => tstamp != 0,
        _ => false,
    };
    if !fits {
        return errno(libc::EINVAL);
    }
    record.put(sk_buff::TSTAMP, Size::DW, tstamp);
    record.put(sk_buff::TSTAMP_TYPE, Size::B, kind & 3);
    0
}

/// `long bpf_skb_change_type(skb, type)`: 0, or -EINVAL for types other than host, broadcast, multicast and other host.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it.
pub(super) unsafe fn skb_change_type([skb, kind, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let record = unsafe { Record::at(skb) };
    let kind = u64::from(kind as u32);
    if kind > OTHERHOST || record.number(sk_buff::PKT_TYPE, Size::W) > OTHERHOST {
        return errno(libc::EINVAL);
    }
    record.put(sk_buff::PKT_TYPE, Size::W, kind);
    0
}

/// Helpers whose answer is about the kernel's own tables, of which there are none here: 0.
///
/// # Safety
/// None needed.
pub(super) unsafe fn nothing(_: [u64; 5]) -> u64 {
    0
}

/// `u64 bpf_get_socket_cookie(ctx)`: a number that is not 0; all packets seem to come from one socket.
///
/// # Safety
/// None needed.
pub(super) unsafe fn get_socket_cookie(_: [u64; 5]) -> u64 {
    1
}
