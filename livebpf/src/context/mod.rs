//! Program types: the UAPI context structs, field by field, and how each field is read.
//!
//! A program sees the UAPI struct (`struct xdp_md`, `struct __sk_buff`); what R1 points to at run time is a
//! [`record`]: packet pointers as 64-bit words, then the UAPI struct's scalars verbatim. The verifier checks an
//! access against [`ContextDesc`] and notes where in the record it lands ([`Field::in_record`]).

use crate::insn::Size;
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
    /// Programs may write it (whole field only, unless `narrow`).
    pub writable: bool,
    /// Narrower reads at any aligned offset inside it are allowed.
    pub narrow: bool,
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
    /// u64: lowest address that `data` may be moved to.
    pub const BUF_START: u32 = 24;
    /// u64: highest address that `data_end` may be moved to.
    pub const BUF_END: u32 = 32;
    /// u64: reserved for the runtime.
    pub const RESERVED: u32 = 40;
    /// The UAPI struct's scalars, at their UAPI offsets from here.
    pub const UAPI: u32 = 48;
    /// Bytes of the whole record.
    pub const SIZE: u32 = 256;
}
