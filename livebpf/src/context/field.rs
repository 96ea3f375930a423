//! Fields of the UAPI context structs: what each holds, and which accesses it allows.
//!
//! The rules are those of the kernel's `*_is_valid_access` functions and of `bpf_ctx_narrow_access_ok`, as data. Never
//! knows which struct a field belongs to.

use super::{RecordAccess, record};
use crate::insn::Size;

/// What a field holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldKind {
    /// A number, stored verbatim.
    Scalar,
    /// Start of the packet, or of other bytes whose end is known to the program only by a comparison.
    PacketData,
    /// One past the packet's last byte.
    PacketEnd,
    /// Start of the metadata in front of the packet.
    PacketMeta,
    /// Address of memory of a known size.
    Memory(Region),
    /// Address of a socket, or null where `nullable`.
    Socket {
        /// What may be read through it.
        view: SocketView,
        /// May be null: unusable until compared.
        nullable: bool,
    },
}

/// Memory that a context points to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Region {
    /// `struct bpf_flow_keys` of a flow dissector: reads and writes at constant offsets.
    FlowKeys,
    /// The buffer of a writable raw tracepoint: reads and writes at constant offsets.
    Tracepoint,
}

impl Region {
    /// Bytes.
    pub const fn size(self) -> u32 {
        match self {
            Region::FlowKeys => 56,
            Region::Tracepoint => 4096,
        }
    }
    /// The kernel's name of pointers into it.
    pub const fn name(self) -> &'static str {
        match self {
            Region::FlowKeys => "flow_keys",
            Region::Tracepoint => "tp_buffer",
        }
    }
}

/// How much of a socket a pointer shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketView {
    /// What all sockets have, request sockets among them.
    Common,
    /// A full socket.
    Full,
}

impl SocketView {
    /// The kernel's name of pointers of this kind that are not null.
    pub const fn name(self) -> &'static str {
        match self {
            SocketView::Common => "sock_common",
            SocketView::Full => "sock",
        }
    }
}

/// Which reads smaller than a field are allowed. All are aligned and stay inside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Narrow {
    /// None.
    No,
    /// All.
    Yes,
    /// Those of its first byte.
    First,
    /// Those that lie in its first two bytes.
    LowHalf,
    /// Those of two bytes.
    Halves,
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
    /// Bytes of a part: `size`, or less where the field is an array.
    pub unit: u32,
    /// Accesses of more than one part are allowed where they are aligned in the struct.
    pub wide: bool,
    /// Reads of less than a part. Sign-extending ones are not allowed where `kind` is a pointer.
    pub narrow: Narrow,
    /// Programs may write it, whole parts at a time.
    pub writable: bool,
    /// Bytes that a write of the whole field keeps; less than `size` where the kernel's own field is smaller
    /// (`tc_index`, `tc_classid`, `queue_mapping`).
    pub stored: u32,
    /// It is the number of a queue: [`NO_QUEUE`](super::NO_QUEUE) and more are not written.
    pub queue: bool,
}

impl Field {
    /// Where an access at `off` bytes into the *UAPI struct* lands in the record, `None` where this field does not
    /// allow it.
    pub fn in_record(&self, off: u32, size: Size, write: bool) -> Option<RecordAccess> {
        let bytes = size.bytes();
        let at = off.checked_sub(self.offset)?;
        let inside = at.checked_add(bytes)? <= self.size && off.is_multiple_of(bytes);
        if !inside || (write && !self.writable) {
            return None;
        }
        let allowed = if bytes >= self.unit {
            at.is_multiple_of(self.unit) && (bytes == self.unit || self.wide)
        } else {
            !write
                && match self.narrow {
                    Narrow::No => false,
                    Narrow::Yes => true,
                    Narrow::First => at == 0,
                    Narrow::LowHalf => at + bytes <= 2,
                    Narrow::Halves => bytes == 2,
                }
        };
        if !allowed {
            return None;
        }
        match self.kind {
            FieldKind::Scalar if write && bytes == self.size => {
                let size = Size::from_bytes(self.stored)?;
                Some(RecordAccess { queue: self.queue, ..RecordAccess::at(record::UAPI + off, size) })
            }
            FieldKind::Scalar | FieldKind::Memory(_) | FieldKind::Socket { .. } => {
                Some(RecordAccess::at(record::UAPI + off, size))
            }
            FieldKind::PacketData => Some(RecordAccess::at(record::DATA, Size::DW)),
            FieldKind::PacketEnd => Some(RecordAccess::at(record::DATA_END, Size::DW)),
            FieldKind::PacketMeta => Some(RecordAccess::at(record::DATA_META, Size::DW)),
        }
    }

    /// Accesses of any size are allowed, wherever they are aligned and inside it.
    pub const fn any_size(&self) -> bool {
        self.unit == 1
    }

    /// A number that is read whole.
    pub(super) const fn exact(name: &'static str, offset: u32, size: u32) -> Field {
        let kind = FieldKind::Scalar;
        let (unit, narrow) = (size, Narrow::No);
        Field { name, offset, size, kind, unit, wide: false, narrow, writable: false, stored: size, queue: false }
    }
    /// A number of `size` bytes that is read whole or in parts.
    pub(super) const fn number(name: &'static str, offset: u32, size: u32) -> Field {
        Field::exact(name, offset, size).narrow(Narrow::Yes)
    }
    /// A 32-bit number that is read whole or in parts.
    pub(super) const fn word(name: &'static str, offset: u32) -> Field {
        Field::number(name, offset, 4)
    }
    /// Bytes without a structure: any size anywhere.
    pub(super) const fn bytes(name: &'static str, offset: u32, size: u32) -> Field {
        Field { unit: 1, wide: true, ..Field::exact(name, offset, size) }
    }
    /// An array of 32-bit numbers.
    pub(super) const fn words(name: &'static str, offset: u32, count: u32) -> Field {
        Field { unit: 4, ..Field::number(name, offset, 4 * count) }
    }
    /// An address.
    pub(super) const fn pointer(name: &'static str, offset: u32, size: u32, kind: FieldKind) -> Field {
        Field { kind, ..Field::exact(name, offset, size) }
    }
    /// The address of a socket.
    pub(super) const fn socket(name: &'static str, offset: u32, view: SocketView, nullable: bool) -> Field {
        Field::pointer(name, offset, 8, FieldKind::Socket { view, nullable })
    }
    /// Two parts of an array may be accessed at once.
    pub(super) const fn wide(self) -> Field {
        Field { wide: true, ..self }
    }
    pub(super) const fn narrow(self, narrow: Narrow) -> Field {
        Field { narrow, ..self }
    }
    pub(super) const fn writable(self) -> Field {
        Field { writable: true, ..self }
    }
    /// Writable, the kernel keeps the low 16 bits.
    pub(super) const fn writable_half(self) -> Field {
        Field { writable: true, stored: 2, ..self }
    }
    /// The same of a queue's number.
    pub(super) const fn writable_queue(self) -> Field {
        Field { queue: true, ..self.writable_half() }
    }
}
