//! Ancillary data: what loads at `SKF_AD_OFF` and above read (uapi/linux/filter.h).

use crate::helper::id;

/// From here on offsets mean ancillary data.
const SKF_AD_OFF: u32 = 0xffff_f000;

/// Something about a packet that is not in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Ancillary {
    /// The Ethernet type, in host byte order.
    Protocol,
    /// To us, broadcast, multicast or to others.
    PacketType,
    /// Index of the interface.
    Ifindex,
    /// Offset of the netlink attribute of type X behind offset A.
    Nlattr,
    /// The same inside of the attribute at offset A.
    NlattrNest,
    /// The mark.
    Mark,
    /// Number of the receive queue.
    Queue,
    /// Hardware type of the interface.
    Hatype,
    /// The receive hash.
    RxHash,
    /// Number of the CPU.
    Cpu,
    /// A = A xor X.
    AluXorX,
    /// The VLAN tag.
    VlanTag,
    /// Whether there is one.
    VlanTagPresent,
    /// Offset of the payload.
    PayOffset,
    /// A random number.
    Random,
    /// The VLAN tag's Ethernet type, in host byte order.
    VlanTpid,
}

/// Where ancillary data comes from.
pub(super) enum Origin {
    /// A field of `struct __sk_buff` that has 32 bits.
    Field(&'static str),
    /// A field with 16 bits in network byte order.
    Swapped(&'static str),
    /// A helper that is given the context, A and X.
    Helper(u32),
    /// A helper without arguments.
    Plain(u32),
    /// The registers.
    Xor,
}

impl Ancillary {
    /// What is at `SKF_AD_OFF + offset`.
    pub const fn at(offset: u32) -> Option<Ancillary> {
        Some(match offset {
            0 => Ancillary::Protocol,
            4 => Ancillary::PacketType,
            8 => Ancillary::Ifindex,
            12 => Ancillary::Nlattr,
            16 => Ancillary::NlattrNest,
            20 => Ancillary::Mark,
            24 => Ancillary::Queue,
            28 => Ancillary::Hatype,
            32 => Ancillary::RxHash,
            36 => Ancillary::Cpu,
            40 => Ancillary::AluXorX,
            44 => Ancillary::VlanTag,
            48 => Ancillary::VlanTagPresent,
            52 => Ancillary::PayOffset,
            56 => Ancillary::Random,
            60 => Ancillary::VlanTpid,
            _ => return None,
        })
    }

    pub(super) const fn origin(self) -> Origin {
        match self {
            Ancillary::Protocol => Origin::Swapped("protocol"),
            Ancillary::PacketType => Origin::Field("pkt_type"),
            Ancillary::Ifindex => Origin::Field("ifindex"),
            Ancillary::Nlattr => Origin::Helper(id::CLASSIC_NLATTR),
            Ancillary::NlattrNest => Origin::Helper(id::CLASSIC_NLATTR_NEST),
            Ancillary::Mark => Origin::Field("mark"),
            Ancillary::Queue => Origin::Field("queue_mapping"),
            Ancillary::Hatype => Origin::Helper(id::CLASSIC_HATYPE),
            Ancillary::RxHash => Origin::Field("hash"),
            Ancillary::Cpu => Origin::Plain(id::GET_SMP_PROCESSOR_ID),
            Ancillary::AluXorX => Origin::Xor,
            Ancillary::VlanTag => Origin::Field("vlan_tci"),
            Ancillary::VlanTagPresent => Origin::Field("vlan_present"),
            Ancillary::PayOffset => Origin::Helper(id::CLASSIC_PAY_OFFSET),
            Ancillary::Random => Origin::Plain(id::GET_PRANDOM_U32),
            Ancillary::VlanTpid => Origin::Swapped("vlan_proto"),
        }
    }
}

/// What a load at a constant offset reads.
pub(super) enum Place {
    Packet,
    Ancillary(Ancillary),
    /// Nothing, at this distance from `SKF_AD_OFF`.
    Unknown(u32),
}

pub(super) fn place(k: u32) -> Place {
    match k.checked_sub(SKF_AD_OFF) {
        None => Place::Packet,
        Some(offset) => Ancillary::at(offset).map_or(Place::Unknown(offset), Place::Ancillary),
    }
}
