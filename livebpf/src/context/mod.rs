//! Program types: the UAPI context structs, field by field, and how each field is read.
//!
//! A program sees the UAPI struct (`struct xdp_md`, `struct __sk_buff`); what R1 points to at run time is a
//! [`record`]: packet pointers as 64-bit words, then the UAPI struct's scalars verbatim. The verifier checks an
//! access against [`ContextDesc`] and notes where in the record it lands ([`Field::in_record`]).

mod buffer;
mod describe;
#[cfg(test)]
mod tests;

pub use buffer::{
    Context, ContextError, ETH_HLEN, HEADROOM, SKB_MAX_PACKET, XDP_FRAME, XDP_HEAD_RESERVE, XDP_MAX_META,
    XDP_MAX_PACKET, XDP_TAIL_RESERVE,
};
pub use describe::{describe, describe_kind};

use crate::insn::Size;
use crate::map::cell::Slice;
use crate::object::ProgType;

/// What a field holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldKind {
    /// A number, stored verbatim.
    Scalar,
    /// Start of the packet.
    PacketData,
    /// One past the packet's last byte.
    PacketEnd,
    /// Start of the metadata in front of the packet.
    PacketMeta,
}

/// One field of a UAPI context struct. Bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    /// UAPI name, for instance `ingress_ifindex`.
    pub name: &'static str,
    /// Offset in the UAPI struct.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
    /// What it holds.
    pub kind: FieldKind,
    /// Programs may write it; the whole field at once, unless `any_size`.
    pub writable: bool,
    /// Narrower reads at any aligned offset inside it are allowed. Sign-extending ones are not allowed where `kind` is
    /// a packet pointer.
    pub narrow: bool,
    /// Reads, and writes where `writable`, of any size at any aligned offset that stay inside it (`cb`).
    pub any_size: bool,
    /// Bytes that a write of the whole field keeps; less than `size` where the kernel's own field is smaller
    /// (`tc_index`, `tc_classid`, `queue_mapping`).
    pub stored: u32,
}

impl Field {
    /// Where an access at `off` bytes into the *UAPI struct* lands in the record, `None` where this field does not
    /// allow it (kernel: `*_is_valid_access`, `bpf_ctx_narrow_access_ok`).
    pub fn in_record(&self, off: u32, size: Size, write: bool) -> Option<RecordAccess> {
        let bytes = size.bytes();
        let inside = off >= self.offset && off.checked_add(bytes)? <= self.offset + self.size;
        if !inside || !off.is_multiple_of(bytes) || (write && !self.writable) {
            return None;
        }
        let whole = off == self.offset && bytes == self.size;
        let part = self.any_size || (self.narrow && !write);
        if !whole && !part {
            return None;
        }
        match self.kind {
            FieldKind::Scalar if write && whole && !self.any_size => {
                let size = Size::from_bytes(self.stored)?;
                Some(RecordAccess { offset: record::UAPI + off, size })
            }
            FieldKind::Scalar => Some(RecordAccess { offset: record::UAPI + off, size }),
            FieldKind::PacketData => Some(RecordAccess { offset: record::DATA, size: Size::DW }),
            FieldKind::PacketEnd => Some(RecordAccess { offset: record::DATA_END, size: Size::DW }),
            FieldKind::PacketMeta => Some(RecordAccess { offset: record::DATA_META, size: Size::DW }),
        }
    }
}

/// A context struct.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContextDesc {
    /// UAPI name, for instance `xdp_md`.
    pub name: &'static str,
    /// Bytes of the UAPI struct.
    pub size: u32,
    /// Fields by offset; gaps are not accessible.
    pub fields: &'static [Field],
}

impl ContextDesc {
    /// The field that contains byte `off` of the UAPI struct.
    pub fn field_at(&self, off: u32) -> Option<&'static Field> {
        let n = self.fields.partition_point(|f| f.offset <= off);
        n.checked_sub(1).map(|i| &self.fields[i]).filter(|f| off < f.offset + f.size)
    }
    /// The field with UAPI name `name`.
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|f| f.name == name)
    }
    /// The field that an access at `off` bytes into the UAPI struct touches and where it lands in the record; `None`
    /// where it is not allowed.
    pub fn access(&self, off: u32, size: Size, write: bool) -> Option<(&'static Field, RecordAccess)> {
        let field = self.field_at(off)?;
        field.in_record(off, size, write).map(|place| (field, place))
    }
}

/// A program type: its context, helpers and return range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TypeDesc {
    /// The type.
    pub prog_type: ProgType,
    /// Its context.
    pub context: &'static ContextDesc,
    /// Packet bytes may be read through `data` pointers.
    pub packet_read: bool,
    /// And written.
    pub packet_write: bool,
    /// Numbers of the helpers it may call besides those every type may.
    pub helpers: &'static [u32],
    /// Allowed return values, inclusive, where the kernel limits them.
    pub returns: Option<(u32, u32)>,
}

/// Where an access of a context field lands in the record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordAccess {
    /// Bytes from the start of the record.
    pub offset: u32,
    /// Bytes to read or write there: 8 for packet pointers, else the access's own size.
    pub size: Size,
}

pub mod record {
    //! Layout of the record that R1 points to at run time, in bytes. It is `SIZE` bytes long and 8-aligned.

    /// u64: address of the packet's first byte.
    pub const DATA: u32 = 0;
    /// u64: address one past the packet's last byte.
    pub const DATA_END: u32 = 8;
    /// u64: address of the metadata, `DATA` where there is none.
    pub const DATA_META: u32 = 16;
    /// u64: lowest address that `data_meta` may be moved to (so `data` stays the metadata's length above it).
    pub const BUF_START: u32 = 24;
    /// u64: highest address that `data_end` may be moved to.
    pub const BUF_END: u32 = 32;
    /// u64: lowest address that `data_meta` has had; whoever moves `data_meta` down keeps it (what lies below is zero).
    pub const LOW: u32 = 40;
    /// The UAPI struct's scalars, at their UAPI offsets from here.
    pub const UAPI: u32 = 48;
    /// u64: address of the Ethernet header as it was at the start.
    pub const MAC: u32 = 240;
    /// u64: address of the network header as it was at the start.
    pub const NETWORK: u32 = 248;
    /// Bytes of the whole record.
    pub const SIZE: u32 = 256;
}

/// What the legacy packet loads (`LD_ABS`, `LD_IND`) read at `off`, converted from network to host byte order; `None`
/// where it lies outside the packet, which ends the function with 0.
///
/// Offsets count from `data`; from -0x100000 (`SKF_NET_OFF`) they count from the network header and from -0x200000
/// (`SKF_LL_OFF`) from the Ethernet header, as in `bpf_skb_load_helper_*` (net/core/filter.c). `record` is the record and
/// `packet` any window that contains the packet from its Ethernet header to its end.
pub fn legacy_load(record: Slice<'_>, packet: Slice<'_>, off: i32, size: Size) -> Option<u64> {
    const NET_OFF: i32 = -0x10_0000;
    const LL_OFF: i32 = -0x20_0000;
    let word = |at: u32| record.load(at as usize, Size::DW);
    let (start, off) = match off {
        0.. => (word(record::DATA)?, off),
        NET_OFF..0 => (word(record::NETWORK)?, off - NET_OFF),
        LL_OFF..NET_OFF => (word(record::MAC)?, off - LL_OFF),
        _ => return None,
    };
    let addr = start.checked_add(u64::try_from(off).ok()?)?;
    let bytes = u64::from(size.bytes());
    if addr.checked_add(bytes)? > word(record::DATA_END)? {
        return None;
    }
    let raw = packet.load(packet.find(addr, bytes as usize)?, size)?;
    Some(raw.swap_bytes() >> (64 - size.bits()))
}
