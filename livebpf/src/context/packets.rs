//! Contexts of programs that work on packets: `struct xdp_md`, and `struct __sk_buff` as each program type sees it.

use super::field::Field;
use super::{ContextDesc, FieldKind, Region, SocketView};

/// Bytes of `struct xdp_md`.
const XDP_MD_SIZE: u32 = 24;
const XDP_DATA: Field = Field::pointer("data", 0, 4, FieldKind::PacketData);
const XDP_DATA_END: Field = Field::pointer("data_end", 4, 4, FieldKind::PacketEnd);
const XDP_DATA_META: Field = Field::pointer("data_meta", 8, 4, FieldKind::PacketMeta);
const XDP_INGRESS_IFINDEX: Field = Field::exact("ingress_ifindex", 12, 4);
const XDP_RX_QUEUE_INDEX: Field = Field::exact("rx_queue_index", 16, 4);
const XDP_EGRESS_IFINDEX: Field = Field::exact("egress_ifindex", 20, 4);

pub(super) static XDP_MD: ContextDesc = ContextDesc {
    name: "xdp_md",
    size: XDP_MD_SIZE,
    fields: &[XDP_DATA, XDP_DATA_END, XDP_DATA_META, XDP_INGRESS_IFINDEX, XDP_RX_QUEUE_INDEX],
};
pub(super) static XDP_MD_DEVMAP: ContextDesc = ContextDesc {
    name: "xdp_md",
    size: XDP_MD_SIZE,
    fields: &[XDP_DATA, XDP_DATA_END, XDP_DATA_META, XDP_INGRESS_IFINDEX, XDP_RX_QUEUE_INDEX, XDP_EGRESS_IFINDEX],
};

/// Bytes of `struct __sk_buff`.
const SKB_SIZE: u32 = 192;
const LEN: Field = Field::word("len", 0);
const PKT_TYPE: Field = Field::word("pkt_type", 4);
const MARK: Field = Field::word("mark", 8);
const QUEUE_MAPPING: Field = Field::word("queue_mapping", 12);
const PROTOCOL: Field = Field::word("protocol", 16);
const VLAN_PRESENT: Field = Field::word("vlan_present", 20);
const VLAN_TCI: Field = Field::word("vlan_tci", 24);
const VLAN_PROTO: Field = Field::word("vlan_proto", 28);
const PRIORITY: Field = Field::word("priority", 32);
const INGRESS_IFINDEX: Field = Field::word("ingress_ifindex", 36);
const IFINDEX: Field = Field::word("ifindex", 40);
const TC_INDEX: Field = Field::word("tc_index", 44);
const CB: Field = Field::bytes("cb", 48, 20);
const HASH: Field = Field::word("hash", 68);
const TC_CLASSID: Field = Field::word("tc_classid", 72);
const DATA: Field = Field::pointer("data", 76, 4, FieldKind::PacketData);
const DATA_END: Field = Field::pointer("data_end", 80, 4, FieldKind::PacketEnd);
const NAPI_ID: Field = Field::word("napi_id", 84);
const FAMILY: Field = Field::word("family", 88);
const REMOTE_IP4: Field = Field::exact("remote_ip4", 92, 4);
const LOCAL_IP4: Field = Field::exact("local_ip4", 96, 4);
const REMOTE_IP6: [Field; 4] = [
    Field::exact("remote_ip6[0]", 100, 4),
    Field::exact("remote_ip6[1]", 104, 4),
    Field::exact("remote_ip6[2]", 108, 4),
    Field::exact("remote_ip6[3]", 112, 4),
];
const LOCAL_IP6: [Field; 4] = [
    Field::exact("local_ip6[0]", 116, 4),
    Field::exact("local_ip6[1]", 120, 4),
    Field::exact("local_ip6[2]", 124, 4),
    Field::exact("local_ip6[3]", 128, 4),
];
const REMOTE_PORT: Field = Field::word("remote_port", 132);
const LOCAL_PORT: Field = Field::word("local_port", 136);
const DATA_META: Field = Field::pointer("data_meta", 140, 4, FieldKind::PacketMeta);
const FLOW_KEYS: Field = Field::pointer("flow_keys", 144, 8, FieldKind::Memory(Region::FlowKeys));
const TSTAMP: Field = Field::exact("tstamp", 152, 8);
const WIRE_LEN: Field = Field::word("wire_len", 160);
const GSO_SEGS: Field = Field::word("gso_segs", 164);
const SK: Field = Field::socket("sk", 168, SocketView::Common, true);
const GSO_SIZE: Field = Field::word("gso_size", 176);
const TSTAMP_TYPE: Field = Field::exact("tstamp_type", 180, 1);
const HWTSTAMP: Field = Field::exact("hwtstamp", 184, 8);

pub(super) static TC_SKB: ContextDesc = ContextDesc {
    name: "__sk_buff",
    size: SKB_SIZE,
    fields: &[
        LEN,
        PKT_TYPE,
        MARK.writable(),
        QUEUE_MAPPING.writable_queue(),
        PROTOCOL,
        VLAN_PRESENT,
        VLAN_TCI,
        VLAN_PROTO,
        PRIORITY.writable(),
        INGRESS_IFINDEX,
        IFINDEX,
        TC_INDEX.writable_half(),
        CB.writable(),
        HASH,
        TC_CLASSID.writable_half(),
        DATA,
        DATA_END,
        NAPI_ID,
        DATA_META,
        TSTAMP.writable(),
        WIRE_LEN,
        GSO_SEGS,
        SK,
        GSO_SIZE,
        TSTAMP_TYPE,
        HWTSTAMP,
    ],
};

pub(super) static SOCKET_FILTER_SKB: ContextDesc = ContextDesc {
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
        CB.writable(),
        HASH,
        NAPI_ID,
        GSO_SEGS,
        SK,
        GSO_SIZE,
    ],
};

pub(super) static CGROUP_SKB: ContextDesc = ContextDesc {
    name: "__sk_buff",
    size: SKB_SIZE,
    fields: &[
        LEN,
        PKT_TYPE,
        MARK.writable(),
        QUEUE_MAPPING,
        PROTOCOL,
        VLAN_PRESENT,
        VLAN_TCI,
        VLAN_PROTO,
        PRIORITY.writable(),
        INGRESS_IFINDEX,
        IFINDEX,
        TC_INDEX,
        CB.writable(),
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
        TSTAMP.writable(),
        GSO_SEGS,
        SK,
        GSO_SIZE,
        HWTSTAMP,
    ],
};

pub(super) static LWT_SKB: ContextDesc = ContextDesc {
    name: "__sk_buff",
    size: SKB_SIZE,
    fields: &[
        LEN,
        PKT_TYPE,
        MARK.writable(),
        QUEUE_MAPPING,
        PROTOCOL,
        VLAN_PRESENT,
        VLAN_TCI,
        VLAN_PROTO,
        PRIORITY.writable(),
        INGRESS_IFINDEX,
        IFINDEX,
        TC_INDEX,
        CB.writable(),
        HASH,
        DATA,
        DATA_END,
        NAPI_ID,
        GSO_SEGS,
        SK,
        GSO_SIZE,
    ],
};

pub(super) static SK_SKB: ContextDesc = ContextDesc {
    name: "__sk_buff",
    size: SKB_SIZE,
    fields: &[
        LEN,
        PKT_TYPE,
        QUEUE_MAPPING,
        PROTOCOL,
        VLAN_PRESENT,
        VLAN_TCI,
        VLAN_PROTO,
        PRIORITY.writable(),
        INGRESS_IFINDEX,
        IFINDEX,
        TC_INDEX.writable_half(),
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
        GSO_SEGS,
        SK,
        GSO_SIZE,
    ],
};

pub(super) static FLOW_DISSECTOR_SKB: ContextDesc =
    ContextDesc { name: "__sk_buff", size: SKB_SIZE, fields: &[DATA, DATA_END, FLOW_KEYS] };
