//! What each program type may do, as data: which context fields it reads and writes, which helpers it has, what it
//! may return.
//!
//! The facts are those of the kernel's `*_is_valid_access` and `*_func_proto` functions (net/core/filter.c,
//! kernel/trace/bpf_trace.c) and of the verifier's return value check. Never says how a field gets its value.

use super::{ContextDesc, Field, FieldKind, TypeDesc};
use crate::helper::sets;
use crate::object::{AttachType, ProgType, ProgramKind};

/// `BPF_CGROUP_INET_EGRESS`
const CGROUP_INET_EGRESS: AttachType = AttachType(1);
/// `BPF_XDP_DEVMAP`
const XDP_DEVMAP: AttachType = AttachType(33);

/// What programs of type `prog_type` may do, for attach type 0; `None` where the type is not supported.
pub fn describe(prog_type: ProgType) -> Option<&'static TypeDesc> {
    describe_kind(&ProgramKind::new(prog_type))
}

/// What programs of this type and attach type may do; `None` where the type is not supported.
pub fn describe_kind(kind: &ProgramKind) -> Option<&'static TypeDesc> {
    match kind.prog_type {
        ProgType::XDP if kind.attach_type == XDP_DEVMAP => Some(&XDP_DEVMAP_TYPE),
        ProgType::XDP => Some(&XDP_TYPE),
        ProgType::SCHED_CLS => Some(&SCHED_CLS_TYPE),
        ProgType::SCHED_ACT => Some(&SCHED_ACT_TYPE),
        ProgType::SOCKET_FILTER => Some(&SOCKET_FILTER_TYPE),
        ProgType::CGROUP_SKB if kind.attach_type == CGROUP_INET_EGRESS => Some(&CGROUP_SKB_EGRESS_TYPE),
        ProgType::CGROUP_SKB => Some(&CGROUP_SKB_TYPE),
        ProgType::LWT_IN => Some(&LWT_IN_TYPE),
        ProgType::LWT_OUT => Some(&LWT_OUT_TYPE),
        ProgType::LWT_XMIT => Some(&LWT_XMIT_TYPE),
        ProgType::LWT_SEG6LOCAL => Some(&LWT_SEG6LOCAL_TYPE),
        ProgType::SYSCALL => Some(&SYSCALL_TYPE),
        ProgType::RAW_TRACEPOINT => Some(&RAW_TRACEPOINT_TYPE),
        _ => None,
    }
}

/// A type without packet, returns or helpers of its own; the others are written as differences from it.
const fn plain(prog_type: ProgType, context: &'static ContextDesc) -> TypeDesc {
    TypeDesc {
        prog_type,
        context,
        packet_read: false,
        packet_write: false,
        helpers: sets::of(prog_type),
        returns: None,
    }
}

static XDP_TYPE: TypeDesc = TypeDesc { packet_read: true, packet_write: true, ..plain(ProgType::XDP, &XDP_MD) };
static XDP_DEVMAP_TYPE: TypeDesc =
    TypeDesc { packet_read: true, packet_write: true, ..plain(ProgType::XDP, &XDP_MD_DEVMAP) };
static SCHED_CLS_TYPE: TypeDesc =
    TypeDesc { packet_read: true, packet_write: true, ..plain(ProgType::SCHED_CLS, &TC_SKB) };
static SCHED_ACT_TYPE: TypeDesc =
    TypeDesc { packet_read: true, packet_write: true, ..plain(ProgType::SCHED_ACT, &TC_SKB) };
static SOCKET_FILTER_TYPE: TypeDesc = TypeDesc { ..plain(ProgType::SOCKET_FILTER, &SOCKET_FILTER_SKB) };
static CGROUP_SKB_TYPE: TypeDesc =
    TypeDesc { packet_read: true, returns: Some((0, 1)), ..plain(ProgType::CGROUP_SKB, &CGROUP_SKB) };
static CGROUP_SKB_EGRESS_TYPE: TypeDesc =
    TypeDesc { packet_read: true, returns: Some((0, 3)), ..plain(ProgType::CGROUP_SKB, &CGROUP_SKB) };
static LWT_IN_TYPE: TypeDesc = TypeDesc { packet_read: true, ..plain(ProgType::LWT_IN, &LWT_SKB) };
static LWT_OUT_TYPE: TypeDesc = TypeDesc { packet_read: true, ..plain(ProgType::LWT_OUT, &LWT_SKB) };
static LWT_XMIT_TYPE: TypeDesc =
    TypeDesc { packet_read: true, packet_write: true, ..plain(ProgType::LWT_XMIT, &LWT_SKB) };
static LWT_SEG6LOCAL_TYPE: TypeDesc = TypeDesc { packet_read: true, ..plain(ProgType::LWT_SEG6LOCAL, &LWT_SKB) };
static SYSCALL_TYPE: TypeDesc = plain(ProgType::SYSCALL, &SYSCALL_ARGS);
static RAW_TRACEPOINT_TYPE: TypeDesc = plain(ProgType::RAW_TRACEPOINT, &RAW_TRACEPOINT_ARGS);

/// A number that is read whole.
const fn exact(name: &'static str, offset: u32, size: u32) -> Field {
    Field { name, offset, size, kind: FieldKind::Scalar, writable: false, narrow: false, any_size: false, stored: size }
}
/// A 32-bit number that is read whole or in parts.
const fn word(name: &'static str, offset: u32) -> Field {
    Field { narrow: true, ..exact(name, offset, 4) }
}
/// A packet pointer.
const fn pointer(name: &'static str, offset: u32, kind: FieldKind) -> Field {
    Field { kind, ..exact(name, offset, 4) }
}
const fn writable(field: Field) -> Field {
    Field { writable: true, ..field }
}
/// A writable 32-bit number of which the kernel keeps the low 16 bits.
const fn writable_half(field: Field) -> Field {
    Field { writable: true, stored: 2, ..field }
}

/// Bytes of `struct xdp_md`.
const XDP_MD_SIZE: u32 = 24;
const XDP_DATA: Field = pointer("data", 0, FieldKind::PacketData);
const XDP_DATA_END: Field = pointer("data_end", 4, FieldKind::PacketEnd);
const XDP_DATA_META: Field = pointer("data_meta", 8, FieldKind::PacketMeta);
const XDP_INGRESS_IFINDEX: Field = exact("ingress_ifindex", 12, 4);
const XDP_RX_QUEUE_INDEX: Field = exact("rx_queue_index", 16, 4);
const XDP_EGRESS_IFINDEX: Field = exact("egress_ifindex", 20, 4);

static XDP_MD: ContextDesc = ContextDesc {
    name: "xdp_md",
    size: XDP_MD_SIZE,
    fields: &[XDP_DATA, XDP_DATA_END, XDP_DATA_META, XDP_INGRESS_IFINDEX, XDP_RX_QUEUE_INDEX],
};
static XDP_MD_DEVMAP: ContextDesc = ContextDesc {
    name: "xdp_md",
    size: XDP_MD_SIZE,
    fields: &[XDP_DATA, XDP_DATA_END, XDP_DATA_META, XDP_INGRESS_IFINDEX, XDP_RX_QUEUE_INDEX, XDP_EGRESS_IFINDEX],
};

/// Bytes of `struct __sk_buff`.
const SKB_SIZE: u32 = 192;
const LEN: Field = word("len", 0);
const PKT_TYPE: Field = word("pkt_type", 4);
const MARK: Field = word("mark", 8);
const QUEUE_MAPPING: Field = word("queue_mapping", 12);
const PROTOCOL: Field = word("protocol", 16);
const VLAN_PRESENT: Field = word("vlan_present", 20);
const VLAN_TCI: Field = word("vlan_tci", 24);
const VLAN_PROTO: Field = word("vlan_proto", 28);
const PRIORITY: Field = word("priority", 32);
const INGRESS_IFINDEX: Field = word("ingress_ifindex", 36);
const IFINDEX: Field = word("ifindex", 40);
const TC_INDEX: Field = word("tc_index", 44);
const CB: Field = Field { writable: true, any_size: true, ..exact("cb", 48, 20) };
const HASH: Field = word("hash", 68);
const TC_CLASSID: Field = word("tc_classid", 72);
const DATA: Field = pointer("data", 76, FieldKind::PacketData);
const DATA_END: Field = pointer("data_end", 80, FieldKind::PacketEnd);
const NAPI_ID: Field = word("napi_id", 84);
const FAMILY: Field = word("family", 88);
const REMOTE_IP4: Field = exact("remote_ip4", 92, 4);
const LOCAL_IP4: Field = exact("local_ip4", 96, 4);
const REMOTE_IP6: [Field; 4] = [
    exact("remote_ip6[0]", 100, 4),
    exact("remote_ip6[1]", 104, 4),
    exact("remote_ip6[2]", 108, 4),
    exact("remote_ip6[3]", 112, 4),
];
const LOCAL_IP6: [Field; 4] = [
    exact("local_ip6[0]", 116, 4),
    exact("local_ip6[1]", 120, 4),
    exact("local_ip6[2]", 124, 4),
    exact("local_ip6[3]", 128, 4),
];
const REMOTE_PORT: Field = word("remote_port", 132);
const LOCAL_PORT: Field = word("local_port", 136);
const DATA_META: Field = pointer("data_meta", 140, FieldKind::PacketMeta);
const TSTAMP: Field = exact("tstamp", 152, 8);
const WIRE_LEN: Field = word("wire_len", 160);
const GSO_SEGS: Field = word("gso_segs", 164);
const GSO_SIZE: Field = word("gso_size", 176);
const TSTAMP_TYPE: Field = exact("tstamp_type", 180, 1);
const HWTSTAMP: Field = exact("hwtstamp", 184, 8);

/// `flow_keys` (144) belongs to flow dissectors, and `sk` (168) needs the kernel's sockets: neither is accessible.
static TC_SKB: ContextDesc = ContextDesc {
    name: "__sk_buff",
    size: SKB_SIZE,
    fields: &[
        LEN,
        PKT_TYPE,
        writable(MARK),
        writable_half(QUEUE_MAPPING),
        PROTOCOL,
        VLAN_PRESENT,
        VLAN_TCI,
        VLAN_PROTO,
        writable(PRIORITY),
        INGRESS_IFINDEX,
        IFINDEX,
        writable_half(TC_INDEX),
        CB,
        HASH,
        writable_half(TC_CLASSID),
        DATA,
        DATA_END,
        NAPI_ID,
        DATA_META,
        writable(TSTAMP),
        WIRE_LEN,
        GSO_SEGS,
        GSO_SIZE,
        TSTAMP_TYPE,
        HWTSTAMP,
    ],
};

static SOCKET_FILTER_SKB: ContextDesc = ContextDesc {
    name: "__sk_buff",
    size: SKB_SIZE,
    fields: &[
        LEN,
        PKT_TYPE,
        MARK,
        QUEUE_MAPPING,
        PROTOCOL,
        VLAN_PRESENT,
        VLAN_TCI,
        VLAN_PROTO,
        PRIORITY,
        INGRESS_IFINDEX,
        IFINDEX,
        TC_INDEX,
        CB,
        HASH,
        NAPI_ID,
        GSO_SEGS,
        GSO_SIZE,
    ],
};

static CGROUP_SKB: ContextDesc = ContextDesc {
    name: "__sk_buff",
    size: SKB_SIZE,
    fields: &[
        LEN,
        PKT_TYPE,
        writable(MARK),
        QUEUE_MAPPING,
        PROTOCOL,
        VLAN_PRESENT,
        VLAN_TCI,
        VLAN_PROTO,
        writable(PRIORITY),
        INGRESS_IFINDEX,
        IFINDEX,
        TC_INDEX,
        CB,
        HASH,
        DATA,
        DATA_END,
        NAPI_ID,
        FAMILY,
        REMOTE_IP4,
        LOCAL_IP4,
        REMOTE_IP6[0],
        REMOTE_IP6[1],
        REMOTE_IP6[2],
        REMOTE_IP6[3],
        LOCAL_IP6[0],
        LOCAL_IP6[1],
        LOCAL_IP6[2],
        LOCAL_IP6[3],
        REMOTE_PORT,
        LOCAL_PORT,
        writable(TSTAMP),
        GSO_SEGS,
        GSO_SIZE,
        HWTSTAMP,
    ],
};

static LWT_SKB: ContextDesc = ContextDesc {
    name: "__sk_buff",
    size: SKB_SIZE,
    fields: &[
        LEN,
        PKT_TYPE,
        writable(MARK),
        QUEUE_MAPPING,
        PROTOCOL,
        VLAN_PRESENT,
        VLAN_TCI,
        VLAN_PROTO,
        writable(PRIORITY),
        INGRESS_IFINDEX,
        IFINDEX,
        TC_INDEX,
        CB,
        HASH,
        DATA,
        DATA_END,
        NAPI_ID,
        GSO_SEGS,
        GSO_SIZE,
    ],
};

/// Arguments of a syscall program: as many bytes as the record holds (the kernel allows 64 KiB).
static SYSCALL_ARGS: ContextDesc = ContextDesc {
    name: "syscall arguments",
    size: 192,
    fields: &[Field { writable: true, any_size: true, ..exact("args", 0, 192) }],
};

/// Twelve words (`MAX_BPF_FUNC_ARGS`), read-only.
static RAW_TRACEPOINT_ARGS: ContextDesc = ContextDesc {
    name: "bpf_raw_tracepoint_args",
    size: 96,
    fields: &[Field { any_size: true, ..exact("args", 0, 96) }],
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{RecordAccess, record};
    use crate::insn::Size;

    fn access(prog_type: ProgType, off: u32, size: Size, write: bool) -> Option<RecordAccess> {
        describe(prog_type).unwrap().context.access(off, size, write).map(|(_, place)| place)
    }

    #[test]
    fn fields_ascend_and_fit_the_struct_and_the_record() {
        for n in 0..40 {
            let Some(desc) = describe(ProgType(n)) else { continue };
            assert_eq!(desc.prog_type, ProgType(n));
            let mut end = 0;
            for field in desc.context.fields {
                assert!(field.offset >= end, "{} of {}", field.name, desc.context.name);
                assert!(Size::from_bytes(field.stored).is_some() || field.any_size);
                end = field.offset + field.size;
            }
            assert!(end <= desc.context.size);
            assert!(record::UAPI + desc.context.size <= record::SIZE);
        }
    }

    #[test]
    fn xdp_fields_are_read_whole() {
        let xdp = ProgType::XDP;
        assert_eq!(access(xdp, 0, Size::W, false), Some(RecordAccess { offset: record::DATA, size: Size::DW }));
        assert_eq!(access(xdp, 4, Size::W, false), Some(RecordAccess { offset: record::DATA_END, size: Size::DW }));
        assert_eq!(access(xdp, 8, Size::W, false), Some(RecordAccess { offset: record::DATA_META, size: Size::DW }));
        let rxq = RecordAccess { offset: record::UAPI + 16, size: Size::W };
        assert_eq!(access(xdp, 16, Size::W, false), Some(rxq));
        assert_eq!(access(xdp, 16, Size::H, false), None);
        assert_eq!(access(xdp, 16, Size::W, true), None);
        assert_eq!(access(xdp, 0, Size::DW, false), None);
        assert_eq!(access(xdp, 20, Size::W, false), None, "egress_ifindex is for devmap programs");
        let devmap = ProgramKind { attach_type: XDP_DEVMAP, ..ProgramKind::new(xdp) };
        assert!(describe_kind(&devmap).unwrap().context.access(20, Size::W, false).is_some());
    }

    #[test]
    fn skb_fields_differ_by_type() {
        let (tc, socket) = (ProgType::SCHED_CLS, ProgType::SOCKET_FILTER);
        let (cgroup, lwt) = (ProgType::CGROUP_SKB, ProgType::LWT_IN);
        let data = 76;
        assert!(access(tc, data, Size::W, false).is_some());
        assert!(access(lwt, data, Size::W, false).is_some());
        assert_eq!(access(socket, data, Size::W, false), None);
        let (mark, tstamp, family, classid) = (8, 152, 88, 72);
        assert!(access(tc, mark, Size::W, true).is_some());
        assert_eq!(access(tc, mark, Size::H, true), None, "writes take the whole field");
        assert_eq!(access(socket, mark, Size::W, true), None);
        assert!(access(cgroup, mark, Size::W, true).is_some());
        assert!(access(tc, tstamp, Size::DW, true).is_some());
        assert_eq!(access(tc, tstamp, Size::W, false), None);
        assert_eq!(access(lwt, tstamp, Size::DW, false), None);
        assert!(access(cgroup, family, Size::W, false).is_some());
        assert_eq!(access(tc, family, Size::W, false), None);
        let kept = RecordAccess { offset: record::UAPI + classid, size: Size::H };
        assert_eq!(access(tc, classid, Size::W, true), Some(kept));
        assert_eq!(access(cgroup, classid, Size::W, false), None);
    }

    #[test]
    fn narrow_and_wide_accesses() {
        let tc = ProgType::SCHED_CLS;
        for off in 0..4 {
            assert!(access(tc, off, Size::B, false).is_some());
        }
        assert!(access(tc, 2, Size::H, false).is_some());
        assert_eq!(access(tc, 1, Size::H, false), None, "not aligned");
        assert_eq!(access(tc, 0, Size::DW, false), None, "wider than the field");
        let cb = 48;
        assert!(access(tc, cb, Size::DW, true).is_some());
        assert!(access(tc, cb + 8, Size::DW, false).is_some());
        assert_eq!(access(tc, cb + 16, Size::DW, false), None, "runs past cb[4]");
        assert!(access(tc, cb + 3, Size::B, true).is_some());
        for gap in [144, 168, 181] {
            assert_eq!(access(tc, gap, Size::B, false), None);
        }
        assert_eq!(access(tc, u32::MAX - 3, Size::W, false), None);
    }
}
