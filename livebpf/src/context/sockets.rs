//! Contexts of programs that work on sockets and cgroups, and `struct bpf_sock` behind a socket pointer.

use super::field::Field;
use super::{ContextDesc, FieldKind, Narrow, SocketView};

const BOUND_DEV_IF: Field = Field::exact("bound_dev_if", 0, 4);
const FAMILY: Field = Field::word("family", 4).narrow(Narrow::First);
const TYPE: Field = Field::word("type", 8).narrow(Narrow::First);
const PROTOCOL: Field = Field::word("protocol", 12).narrow(Narrow::First);
const MARK: Field = Field::exact("mark", 16, 4);
const PRIORITY: Field = Field::exact("priority", 20, 4);
const SRC_IP4: Field = Field::word("src_ip4", 24);
const SRC_IP6: Field = Field::words("src_ip6", 28, 4);
const SRC_PORT: Field = Field::word("src_port", 44).narrow(Narrow::First);
/// 16 bits in network order and 16 bits of zero, which old programs read with them.
const DST_PORT: Field = Field::word("dst_port", 48).narrow(Narrow::LowHalf);
const DST_IP4: Field = Field::word("dst_ip4", 52);
const DST_IP6: Field = Field::words("dst_ip6", 56, 4);
const STATE: Field = Field::word("state", 72).narrow(Narrow::First);
const RX_QUEUE_MAPPING: Field = Field::word("rx_queue_mapping", 76).narrow(Narrow::First);

/// Bytes of `struct bpf_sock`.
pub(super) const SOCK_SIZE: u32 = 80;
const fn bpf_sock(fields: &'static [Field]) -> ContextDesc {
    ContextDesc { name: "bpf_sock", size: SOCK_SIZE, fields }
}

/// When a socket is created or released.
pub(super) static SOCK_CREATE: ContextDesc = bpf_sock(&[
    BOUND_DEV_IF.writable(),
    FAMILY,
    TYPE,
    PROTOCOL,
    MARK.writable(),
    PRIORITY.writable(),
    DST_PORT,
    DST_IP4,
    DST_IP6,
    STATE,
    RX_QUEUE_MAPPING,
]);
/// After an IPv4 bind.
pub(super) static SOCK_POST_BIND4: ContextDesc =
    bpf_sock(&[FAMILY, TYPE, PROTOCOL, SRC_IP4, SRC_PORT, DST_PORT, DST_IP4, DST_IP6, STATE, RX_QUEUE_MAPPING]);
/// After an IPv6 bind.
pub(super) static SOCK_POST_BIND6: ContextDesc =
    bpf_sock(&[FAMILY, TYPE, PROTOCOL, SRC_IP6, SRC_PORT, DST_PORT, DST_IP4, DST_IP6, STATE, RX_QUEUE_MAPPING]);

impl SocketView {
    /// What may be read through a pointer of this kind.
    pub fn desc(self) -> &'static ContextDesc {
        static COMMON: ContextDesc = bpf_sock(&[
            BOUND_DEV_IF,
            FAMILY,
            SRC_IP4,
            SRC_IP6,
            SRC_PORT,
            DST_PORT,
            DST_IP4,
            DST_IP6,
            STATE,
            RX_QUEUE_MAPPING,
        ]);
        static FULL: ContextDesc = bpf_sock(&[
            BOUND_DEV_IF,
            FAMILY,
            TYPE,
            PROTOCOL,
            MARK,
            PRIORITY,
            SRC_IP4,
            SRC_IP6,
            SRC_PORT,
            DST_PORT,
            DST_IP4,
            DST_IP6,
            STATE,
            RX_QUEUE_MAPPING,
        ]);
        match self {
            SocketView::Common => &COMMON,
            SocketView::Full => &FULL,
        }
    }
}

const USER_FAMILY: Field = Field::exact("user_family", 0, 4);
const USER_IP4: Field = Field::word("user_ip4", 4).writable();
const USER_IP6: Field = Field::words("user_ip6", 8, 4).wide().writable();
const USER_PORT: Field = Field::word("user_port", 24).writable();
const ADDR_FAMILY: Field = Field::exact("family", 28, 4);
const ADDR_TYPE: Field = Field::exact("type", 32, 4);
const ADDR_PROTOCOL: Field = Field::exact("protocol", 36, 4);
const MSG_SRC_IP4: Field = Field::word("msg_src_ip4", 40).writable();
const MSG_SRC_IP6: Field = Field::words("msg_src_ip6", 44, 4).wide().writable();
const ADDR_SK: Field = Field::socket("sk", 64, SocketView::Full, false);

const fn sock_addr(fields: &'static [Field]) -> ContextDesc {
    ContextDesc { name: "bpf_sock_addr", size: 72, fields }
}
/// IPv4: bind, connect, recvmsg, getpeername, getsockname.
pub(super) static SOCK_ADDR_INET4: ContextDesc =
    sock_addr(&[USER_FAMILY, USER_IP4, USER_PORT, ADDR_FAMILY, ADDR_TYPE, ADDR_PROTOCOL, ADDR_SK]);
/// The same for IPv6.
pub(super) static SOCK_ADDR_INET6: ContextDesc =
    sock_addr(&[USER_FAMILY, USER_IP6, USER_PORT, ADDR_FAMILY, ADDR_TYPE, ADDR_PROTOCOL, ADDR_SK]);
/// IPv4 sendmsg.
pub(super) static SOCK_ADDR_SENDMSG4: ContextDesc =
    sock_addr(&[USER_FAMILY, USER_IP4, USER_PORT, ADDR_FAMILY, ADDR_TYPE, ADDR_PROTOCOL, MSG_SRC_IP4, ADDR_SK]);
/// IPv6 sendmsg.
pub(super) static SOCK_ADDR_SENDMSG6: ContextDesc =
    sock_addr(&[USER_FAMILY, USER_IP6, USER_PORT, ADDR_FAMILY, ADDR_TYPE, ADDR_PROTOCOL, MSG_SRC_IP6, ADDR_SK]);
/// Unix sockets, all operations.
pub(super) static SOCK_ADDR_UNIX: ContextDesc =
    sock_addr(&[USER_FAMILY, USER_PORT, ADDR_FAMILY, ADDR_TYPE, ADDR_PROTOCOL, ADDR_SK]);

pub(super) static SOCK_OPS: ContextDesc = ContextDesc {
    name: "bpf_sock_ops",
    size: 224,
    fields: &[
        Field::exact("op", 0, 4),
        Field::exact("reply", 4, 4).writable(),
        Field::exact("args[1]", 8, 4),
        Field::exact("args[2]", 12, 4),
        Field::exact("args[3]", 16, 4),
        Field::exact("family", 20, 4),
        Field::exact("remote_ip4", 24, 4),
        Field::exact("local_ip4", 28, 4),
        Field::words("remote_ip6", 32, 4).narrow(Narrow::No),
        Field::words("local_ip6", 48, 4).narrow(Narrow::No),
        Field::exact("remote_port", 64, 4),
        Field::exact("local_port", 68, 4),
        Field::exact("is_fullsock", 72, 4),
        Field::exact("snd_cwnd", 76, 4),
        Field::exact("srtt_us", 80, 4),
        Field::exact("bpf_sock_ops_cb_flags", 84, 4),
        Field::exact("state", 88, 4),
        Field::exact("rtt_min", 92, 4),
        Field::exact("snd_ssthresh", 96, 4),
        Field::exact("rcv_nxt", 100, 4),
        Field::exact("snd_nxt", 104, 4),
        Field::exact("snd_una", 108, 4),
        Field::exact("mss_cache", 112, 4),
        Field::exact("ecn_flags", 116, 4),
        Field::exact("rate_delivered", 120, 4),
        Field::exact("rate_interval_us", 124, 4),
        Field::exact("packets_out", 128, 4),
        Field::exact("retrans_out", 132, 4),
        Field::exact("total_retrans", 136, 4),
        Field::exact("segs_in", 140, 4),
        Field::exact("data_segs_in", 144, 4),
        Field::exact("segs_out", 148, 4),
        Field::exact("data_segs_out", 152, 4),
        Field::exact("lost_out", 156, 4),
        Field::exact("sacked_out", 160, 4),
        Field::exact("sk_txhash", 164, 4).writable(),
        Field::exact("bytes_received", 168, 8),
        Field::exact("bytes_acked", 176, 8),
        Field::socket("sk", 184, SocketView::Full, true),
        Field::pointer("skb_data", 192, 8, FieldKind::PacketData),
        Field::pointer("skb_data_end", 200, 8, FieldKind::PacketEnd),
        Field::exact("skb_len", 208, 4),
        Field::word("skb_tcp_flags", 212).narrow(Narrow::First),
        Field::exact("skb_hwtstamp", 216, 8),
    ],
};

pub(super) static SK_MSG: ContextDesc = ContextDesc {
    name: "sk_msg_md",
    size: 80,
    fields: &[
        Field::pointer("data", 0, 8, FieldKind::PacketData),
        Field::pointer("data_end", 8, 8, FieldKind::PacketEnd),
        Field::exact("family", 16, 4),
        Field::exact("remote_ip4", 20, 4),
        Field::exact("local_ip4", 24, 4),
        Field::words("remote_ip6", 28, 4).narrow(Narrow::No),
        Field::words("local_ip6", 44, 4).narrow(Narrow::No),
        Field::exact("remote_port", 60, 4),
        Field::exact("local_port", 64, 4),
        Field::exact("size", 68, 4),
        Field::socket("sk", 72, SocketView::Full, false),
    ],
};

pub(super) static SK_LOOKUP: ContextDesc = ContextDesc {
    name: "bpf_sk_lookup",
    size: 72,
    fields: &[
        Field::socket("sk", 0, SocketView::Full, true),
        Field::word("family", 8),
        Field::word("protocol", 12),
        Field::word("remote_ip4", 16),
        Field::words("remote_ip6", 20, 4),
        Field::word("remote_port", 36),
        Field::word("local_ip4", 40),
        Field::words("local_ip6", 44, 4),
        Field::word("local_port", 60),
        Field::word("ingress_ifindex", 64),
    ],
};

pub(super) static SK_REUSEPORT: ContextDesc = ContextDesc {
    name: "sk_reuseport_md",
    size: 56,
    fields: &[
        Field::pointer("data", 0, 8, FieldKind::PacketData),
        Field::pointer("data_end", 8, 8, FieldKind::PacketEnd),
        Field::word("len", 16),
        Field::word("eth_protocol", 20).narrow(Narrow::Halves),
        Field::word("ip_protocol", 24),
        Field::word("bind_inany", 28),
        Field::exact("hash", 32, 4),
        Field::socket("sk", 40, SocketView::Full, false),
        Field::socket("migrating_sk", 48, SocketView::Common, true),
    ],
};

const OPT_SK: Field = Field::socket("sk", 0, SocketView::Full, false);
const OPTVAL: Field = Field::pointer("optval", 8, 8, FieldKind::PacketData);
const OPTVAL_END: Field = Field::pointer("optval_end", 16, 8, FieldKind::PacketEnd);
const LEVEL: Field = Field::exact("level", 24, 4);
const OPTNAME: Field = Field::exact("optname", 28, 4);
const OPTLEN: Field = Field::exact("optlen", 32, 4).writable();
const RETVAL: Field = Field::exact("retval", 36, 4).writable();

pub(super) static GETSOCKOPT: ContextDesc = ContextDesc {
    name: "bpf_sockopt",
    size: 40,
    fields: &[OPT_SK, OPTVAL, OPTVAL_END, LEVEL, OPTNAME, OPTLEN, RETVAL],
};
pub(super) static SETSOCKOPT: ContextDesc = ContextDesc {
    name: "bpf_sockopt",
    size: 40,
    fields: &[OPT_SK, OPTVAL, OPTVAL_END, LEVEL.writable(), OPTNAME.writable(), OPTLEN],
};

pub(super) static CGROUP_DEVICE: ContextDesc = ContextDesc {
    name: "bpf_cgroup_dev_ctx",
    size: 12,
    fields: &[Field::word("access_type", 0), Field::exact("major", 4, 4), Field::exact("minor", 8, 4)],
};

pub(super) static CGROUP_SYSCTL: ContextDesc = ContextDesc {
    name: "bpf_sysctl",
    size: 8,
    fields: &[Field::word("write", 0), Field::word("file_pos", 4).writable()],
};
