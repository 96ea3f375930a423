//! What classic filters read beside packet bytes and numbers of the context: netlink attributes, where the payload begins, the
//! hardware type. `crate::cbpf` calls them in place of what the kernel's translation calls.
#![allow(unsafe_code)]

use super::record::{ETH_P_IP, ETH_P_IPV6, Record};
use crate::context::record;
use crate::insn::Size;

/// Bytes of `struct nlattr`: length and type, in host byte order.
const NLA_HDRLEN: i64 = 4;
/// The bits of an attribute's type that are not flags.
const NLA_TYPE_MASK: u64 = 0x3fff;
/// Headers on the way to the payload before one gives up.
const MAX_HEADERS: u32 = 15;

/// The number of `size` bytes at `offset` of the packet, in host byte order.
fn load(record: &Record, offset: i64, size: Size) -> Option<u64> {
    record.packet(offset, size.bytes().into())?.load(0, size)
}

/// The same in network byte order.
fn load_be(record: &Record, offset: i64, size: Size) -> Option<u64> {
    load(record, offset, size).map(|raw| raw.swap_bytes() >> (64 - size.bits()))
}

/// The attribute of the given type among those in [offset, offset + left), which stand behind one another.
fn find(record: &Record, mut offset: i64, mut left: i64, wanted: u64) -> Option<i64> {
    loop {
        let len = attribute(record, offset, left)?;
        if load(record, offset + 2, Size::H)? & NLA_TYPE_MASK == wanted {
            return Some(offset);
        }
        let whole = (len + 3) & !3;
        (offset, left) = (offset + whole, left - whole);
    }
}

/// The length of the attribute at `offset`, where it lies within the `left` bytes there are.
fn attribute(record: &Record, offset: i64, left: i64) -> Option<i64> {
    let len = load(record, offset, Size::H).filter(|_| left >= NLA_HDRLEN)? as i64;
    (NLA_HDRLEN..=left).contains(&len).then_some(len)
}

/// Offset of the netlink attribute of type R3 at or behind offset R2; 0 where there is none.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it.
pub(super) unsafe fn nlattr([skb, a, x, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let record = unsafe { Record::at(skb) };
    let (a, x) = (i64::from(a as u32), u64::from(x as u32));
    find(&record, a, record.len() - a, x).unwrap_or(0) as u64
}

/// Offset of the netlink attribute of type R3 inside the one at offset R2; 0 where there is none.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it.
pub(super) unsafe fn nlattr_nest([skb, a, x, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let record = unsafe { Record::at(skb) };
    let (a, x) = (i64::from(a as u32), u64::from(x as u32));
    let inside = attribute(&record, a, record.len() - a);
    let found = inside.and_then(|len| find(&record, a + NLA_HDRLEN, len - NLA_HDRLEN, x));
    found.unwrap_or(0) as u64
}

/// The interface's hardware type.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it.
pub(super) unsafe fn hatype([skb, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { Record::at(skb) }.number(record::HATYPE - record::UAPI, Size::W)
}

/// Offset of what the transport header carries; 0 where no network header is found.
///
/// VLAN tags, IPv4, IPv6 with its extension headers, and either in either are looked through; other tunnels (GRE, MPLS, PPPoE), which
/// the kernel looks through as well, are not.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it.
pub(super) unsafe fn pay_offset([skb, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let record = unsafe { Record::at(skb) };
    payload(&record, record.protocol(), record.network_offset()).unwrap_or(0) as u64
}

/// What the next header is.
enum Next {
    /// An Ethernet type's.
    Network(u16),
    /// An IP protocol's.
    Transport(u8),
    /// Nothing is to be looked at: a later fragment.
    Payload,
}

fn payload(record: &Record, protocol: u16, mut at: i64) -> Option<i64> {
    let mut next = Next::Network(protocol);
    for _ in 0..MAX_HEADERS {
        (next, at) = match next {
            Next::Payload => return Some(at),
            Next::Network(ETH_P_IP) | Next::Transport(4) => ipv4(record, at)?,
            Next::Network(ETH_P_IPV6) | Next::Transport(41) => ipv6(record, at)?,
            Next::Network(0x8100 | 0x88a8) => (Next::Network(load_be(record, at + 2, Size::H)? as u16), at + 4),
            Next::Network(_) => return None,
            // Hop-by-hop options, routing, destination options: length in units of 8 bytes behind the first 8.
            Next::Transport(0 | 43 | 60) => {
                let (next, units) = (load(record, at, Size::B)?, load(record, at + 1, Size::B)?);
                (Next::Transport(next as u8), at + 8 + 8 * units as i64)
            }
            Next::Transport(44) => {
                let (next, offset) = (load(record, at, Size::B)?, load_be(record, at + 2, Size::H)?);
                let first = offset & 0xfff8 == 0;
                (if first { Next::Transport(next as u8) } else { Next::Payload }, at + 8)
            }
            Next::Transport(protocol) => return Some(at + header_len(record, protocol, at)),
        };
    }
    None
}

fn ipv4(record: &Record, at: i64) -> Option<(Next, i64)> {
    let header = record.packet(at, 20)?;
    let words = (header.load(0, Size::B)? & 15) as i64;
    let fragment = load_be(record, at + 6, Size::H)?;
    let protocol = header.load(9, Size::B)? as u8;
    let next = if fragment & 0x1fff != 0 { Next::Payload } else { Next::Transport(protocol) };
    (words >= 5).then_some((next, at + 4 * words))
}

fn ipv6(record: &Record, at: i64) -> Option<(Next, i64)> {
    let header = record.packet(at, 40)?;
    Some((Next::Transport(header.load(6, Size::B)? as u8), at + 40))
}

/// Bytes of the transport header at `at`; 0 for a protocol without one.
fn header_len(record: &Record, protocol: u8, at: i64) -> i64 {
    match i32::from(protocol) {
        libc::IPPROTO_TCP => load(record, at + 12, Size::B).map_or(0, |byte| ((byte as i64 & 0xf0) >> 2).max(20)),
        libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE | libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6 | libc::IPPROTO_IGMP => 8,
        libc::IPPROTO_DCCP | libc::IPPROTO_SCTP => 12,
        _ => 0,
    }
}
