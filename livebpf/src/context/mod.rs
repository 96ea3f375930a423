//! Program types: the UAPI context structs, field by field, and how each field is read.
//!
//! A program sees the UAPI struct (`struct xdp_md`, `struct __sk_buff`); what R1 points to at run time is a
//! [`record`]: packet pointers as 64-bit words, then the UAPI struct's scalars verbatim. The verifier checks an
//! access against [`ContextDesc`] and notes where in the record it lands ([`Field::in_record`]). A program type is data
//! ([`TypeDesc`]): to add one, describe its context beside the others, its helpers, and its row in [`describe_kind`].

mod buffer;
mod describe;
mod field;
mod helper_sets;
mod packets;
mod sockets;
mod supplied;
#[cfg(test)]
mod tests;
mod tracing;

pub use buffer::{
    Context, ContextError, ETH_HLEN, HEADROOM, SKB_MAX_PACKET, XDP_FRAME, XDP_HEAD_RESERVE, XDP_MAX_META,
    XDP_MAX_PACKET, XDP_TAIL_RESERVE,
};
pub use describe::{describe, describe_kind};
pub use field::{Field, FieldKind, Narrow, Region, SocketView};

use crate::helper::HelperSet;
use crate::insn::{Size, Src};
use crate::map::cell::Slice;
use crate::object::ProgType;

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

/// What programs of a type may do with the packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Packet {
    /// They see none.
    None,
    /// They may read it themselves, but not have helpers read it.
    Look,
    /// They and helpers may read it.
    Read,
    /// They and helpers may also write it.
    Write,
}

/// A program type: its context, helpers and return range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TypeDesc {
    /// The type.
    pub prog_type: ProgType,
    /// Its context.
    pub context: &'static ContextDesc,
    /// What is allowed with packet bytes, through `data` pointers.
    pub packet: Packet,
    /// The kernel's helpers that it may call; those of the embedder are allowed everywhere.
    pub helpers: HelperSet,
    /// Allowed return values, inclusive, where the kernel limits them.
    pub returns: Option<(i32, i32)>,
}

impl TypeDesc {
    /// Programs that may run anywhere, even while a lock is held: the kernel lets them take none.
    pub fn is_tracing(&self) -> bool {
        matches!(
            self.prog_type,
            ProgType::KPROBE
                | ProgType::TRACEPOINT
                | ProgType::PERF_EVENT
                | ProgType::RAW_TRACEPOINT
                | ProgType::RAW_TRACEPOINT_WRITABLE
        )
    }
}

/// Where an access of a context field lands in the record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordAccess {
    /// Bytes from the start of the record.
    pub offset: u32,
    /// Bytes to read or write there: 8 for packet pointers, else the access's own size.
    pub size: Size,
    /// A store of a queue's number: [`NO_QUEUE`] and more are not written.
    pub queue: bool,
}

/// Says that there is no queue, where a queue's number of 16 bits is wanted (`NO_QUEUE_MAPPING`).
pub const NO_QUEUE: u32 = 0xffff;

impl RecordAccess {
    /// `size` bytes, `offset` bytes from the start of the record.
    pub const fn at(offset: u32, size: Size) -> RecordAccess {
        RecordAccess { offset, size, queue: false }
    }

    /// Whether a store is carried out. As in the kernel all 64 bits of a register count, and the sign of a constant.
    pub fn is_stored(&self, src: Src, value: u64) -> bool {
        match src {
            Src::Reg(_) => !self.queue || value < NO_QUEUE.into(),
            Src::Imm(imm) => !self.queue || imm < NO_QUEUE as i32,
        }
    }
}

pub mod record {
    //! Layout of the record that R1 points to at run time, in bytes. It is 8-aligned, and at least `SIZE` bytes long:
    //! `UAPI`, the UAPI struct, and what else belongs to a packet.

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
    /// u64: address of the Ethernet header as it was at the start.
    pub const MAC: u32 = 48;
    /// u64: address of the network header as it was at the start.
    pub const NETWORK: u32 = 56;
    /// The UAPI struct at its own offsets from here: numbers verbatim, addresses other than the packet's as 64-bit words.
    pub const UAPI: u32 = 64;
    /// u32: hardware type of the interface (`ARPHRD_*`), which is in no UAPI struct and which classic filters read.
    pub const HATYPE: u32 = UAPI + 192;
    /// Bytes of the record of a packet, and the least of any.
    pub const SIZE: u32 = UAPI + 200;
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
