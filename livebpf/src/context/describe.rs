//! What each program type may do, as data: its context, the helpers it has, what it may return.
//!
//! The facts are those of the kernel's `*_is_valid_access` and `*_func_proto` functions (net/core/filter.c,
//! kernel/trace/bpf_trace.c) and of the verifier's return value check, as Linux 6.18 answers them
//! (tests/data/contexts). Never says how a field gets its value.

use super::{ContextDesc, Packet, TypeDesc, helper_sets as set, packets, sockets, tracing};
use crate::helper::HelperSet;
use crate::object::{AttachType, ProgType, ProgramKind};

/// What programs of type `prog_type` may do, for attach type 0; `None` where the type is not supported.
pub fn describe(prog_type: ProgType) -> Option<&'static TypeDesc> {
    describe_kind(&ProgramKind::new(prog_type))
}

/// What programs of this type and attach type may do; `None` where the type is not supported.
pub fn describe_kind(kind: &ProgramKind) -> Option<&'static TypeDesc> {
    let attach = kind.attach_type;
    Some(match kind.prog_type {
        ProgType::XDP if attach == AttachType::XDP_DEVMAP => &XDP_DEVMAP,
        ProgType::XDP => &XDP,
        ProgType::SCHED_CLS => &SCHED_CLS,
        ProgType::SCHED_ACT => &SCHED_ACT,
        ProgType::SOCKET_FILTER => &SOCKET_FILTER,
        ProgType::CGROUP_SKB if attach == AttachType::CGROUP_INET_EGRESS => &CGROUP_SKB_EGRESS,
        ProgType::CGROUP_SKB => &CGROUP_SKB,
        ProgType::LWT_IN => &LWT_IN,
        ProgType::LWT_OUT => &LWT_OUT,
        ProgType::LWT_XMIT => &LWT_XMIT,
        ProgType::LWT_SEG6LOCAL => &LWT_SEG6LOCAL,
        ProgType::FLOW_DISSECTOR => &FLOW_DISSECTOR,
        ProgType::SK_SKB => &SK_SKB,
        ProgType::SK_MSG => &SK_MSG,
        ProgType::SOCK_OPS => &SOCK_OPS,
        ProgType::SK_LOOKUP => &SK_LOOKUP,
        ProgType::SK_REUSEPORT => &SK_REUSEPORT,
        ProgType::CGROUP_SOCK => cgroup_sock(attach),
        ProgType::CGROUP_SOCK_ADDR => sock_addr(attach),
        ProgType::CGROUP_SOCKOPT if attach == AttachType::CGROUP_SETSOCKOPT => &SETSOCKOPT,
        ProgType::CGROUP_SOCKOPT => &GETSOCKOPT,
        ProgType::CGROUP_DEVICE => &CGROUP_DEVICE,
        ProgType::CGROUP_SYSCTL => &CGROUP_SYSCTL,
        ProgType::TRACEPOINT => &TRACEPOINT,
        ProgType::RAW_TRACEPOINT => &RAW_TRACEPOINT,
        ProgType::RAW_TRACEPOINT_WRITABLE => &RAW_TRACEPOINT_WRITABLE,
        ProgType::KPROBE if attach.is_session() => &KPROBE_SESSION,
        ProgType::KPROBE => &KPROBE,
        ProgType::PERF_EVENT => &PERF_EVENT,
        ProgType::SYSCALL => &SYSCALL,
        _ => return None,
    })
}

/// The descriptions of a program type for all attach types.
pub(super) fn variants(prog_type: ProgType) -> Vec<&'static TypeDesc> {
    let mut found: Vec<&'static TypeDesc> = Vec::new();
    for attach in 0..AttachType::COUNT {
        let kind = ProgramKind { attach_type: AttachType(attach), ..ProgramKind::new(prog_type) };
        if let Some(desc) = describe_kind(&kind).filter(|desc| !found.iter().any(|known| std::ptr::eq(*known, *desc))) {
            found.push(desc);
        }
    }
    found
}

fn cgroup_sock(attach: AttachType) -> &'static TypeDesc {
    match attach {
        AttachType::CGROUP_INET4_POST_BIND => &POST_BIND4,
        AttachType::CGROUP_INET6_POST_BIND => &POST_BIND6,
        _ => &SOCK_CREATE,
    }
}

fn sock_addr(attach: AttachType) -> &'static TypeDesc {
    match attach {
        AttachType::CGROUP_INET4_BIND => &BIND4,
        AttachType::CGROUP_INET6_BIND => &BIND6,
        AttachType::CGROUP_INET4_CONNECT => &CONNECT4,
        AttachType::CGROUP_INET6_CONNECT => &CONNECT6,
        AttachType::CGROUP_UDP4_SENDMSG => &SENDMSG4,
        AttachType::CGROUP_UDP6_SENDMSG => &SENDMSG6,
        AttachType::CGROUP_UDP4_RECVMSG
        | AttachType::CGROUP_INET4_GETPEERNAME
        | AttachType::CGROUP_INET4_GETSOCKNAME => &NAME4,
        AttachType::CGROUP_UDP6_RECVMSG
        | AttachType::CGROUP_INET6_GETPEERNAME
        | AttachType::CGROUP_INET6_GETSOCKNAME => &NAME6,
        AttachType::CGROUP_UNIX_CONNECT | AttachType::CGROUP_UNIX_SENDMSG => &UNIX,
        // The least of all for attach types that the kernel refuses.
        _ => &UNIX_NAME,
    }
}

/// A type without packet and return range; the others are written as differences from it.
const fn plain(prog_type: ProgType, context: &'static ContextDesc, helpers: HelperSet) -> TypeDesc {
    TypeDesc { prog_type, context, packet: Packet::None, helpers, returns: None }
}
/// A type that reads packets.
const fn reading(prog_type: ProgType, context: &'static ContextDesc, helpers: HelperSet) -> TypeDesc {
    TypeDesc { packet: Packet::Read, ..plain(prog_type, context, helpers) }
}
/// A type that also writes them.
const fn writing(prog_type: ProgType, context: &'static ContextDesc, helpers: HelperSet) -> TypeDesc {
    TypeDesc { packet: Packet::Write, ..plain(prog_type, context, helpers) }
}
/// With a return value from `low` to `high`.
const fn within(low: i32, high: i32, desc: TypeDesc) -> TypeDesc {
    TypeDesc { returns: Some((low, high)), ..desc }
}

use ProgType as T;

static XDP: TypeDesc = writing(T::XDP, &packets::XDP_MD, set::XDP);
static XDP_DEVMAP: TypeDesc = writing(T::XDP, &packets::XDP_MD_DEVMAP, set::XDP);
static SCHED_CLS: TypeDesc = writing(T::SCHED_CLS, &packets::TC_SKB, set::SCHED);
static SCHED_ACT: TypeDesc = writing(T::SCHED_ACT, &packets::TC_SKB, set::SCHED);
static SOCKET_FILTER: TypeDesc = plain(T::SOCKET_FILTER, &packets::SOCKET_FILTER_SKB, set::SOCKET_FILTER);
static CGROUP_SKB: TypeDesc = within(0, 1, reading(T::CGROUP_SKB, &packets::CGROUP_SKB, set::CGROUP_SKB));
static CGROUP_SKB_EGRESS: TypeDesc = within(0, 3, CGROUP_SKB);
static LWT_IN: TypeDesc = reading(T::LWT_IN, &packets::LWT_SKB, set::LWT_IN);
static LWT_OUT: TypeDesc = reading(T::LWT_OUT, &packets::LWT_SKB, set::LWT_OUT);
static LWT_XMIT: TypeDesc = writing(T::LWT_XMIT, &packets::LWT_SKB, set::LWT_XMIT);
static LWT_SEG6LOCAL: TypeDesc = reading(T::LWT_SEG6LOCAL, &packets::LWT_SKB, set::LWT_SEG6LOCAL);
static FLOW_DISSECTOR: TypeDesc = reading(T::FLOW_DISSECTOR, &packets::FLOW_DISSECTOR_SKB, set::FLOW_DISSECTOR);
static SK_SKB: TypeDesc = writing(T::SK_SKB, &packets::SK_SKB, set::SK_SKB);

static SK_MSG: TypeDesc = writing(T::SK_MSG, &sockets::SK_MSG, set::SK_MSG);
static SOCK_OPS: TypeDesc =
    TypeDesc { packet: Packet::Look, ..within(0, 1, plain(T::SOCK_OPS, &sockets::SOCK_OPS, set::SOCK_OPS)) };
static SK_LOOKUP: TypeDesc = within(0, 1, plain(T::SK_LOOKUP, &sockets::SK_LOOKUP, set::SK_LOOKUP));
static SK_REUSEPORT: TypeDesc = reading(T::SK_REUSEPORT, &sockets::SK_REUSEPORT, set::SK_REUSEPORT);

static SOCK_CREATE: TypeDesc = within(0, 1, plain(T::CGROUP_SOCK, &sockets::SOCK_CREATE, set::CGROUP_SOCK));
static POST_BIND4: TypeDesc = TypeDesc { context: &sockets::SOCK_POST_BIND4, ..SOCK_CREATE };
static POST_BIND6: TypeDesc = TypeDesc { context: &sockets::SOCK_POST_BIND6, ..SOCK_CREATE };
static GETSOCKOPT: TypeDesc = within(0, 1, writing(T::CGROUP_SOCKOPT, &sockets::GETSOCKOPT, set::GETSOCKOPT));
static SETSOCKOPT: TypeDesc = within(0, 1, writing(T::CGROUP_SOCKOPT, &sockets::SETSOCKOPT, set::SETSOCKOPT));
static CGROUP_DEVICE: TypeDesc = within(0, 1, plain(T::CGROUP_DEVICE, &sockets::CGROUP_DEVICE, set::CGROUP_DEVICE));
static CGROUP_SYSCTL: TypeDesc = within(0, 1, plain(T::CGROUP_SYSCTL, &sockets::CGROUP_SYSCTL, set::CGROUP_SYSCTL));

const fn addr(context: &'static ContextDesc, helpers: HelperSet, low: i32, high: i32) -> TypeDesc {
    within(low, high, plain(T::CGROUP_SOCK_ADDR, context, helpers))
}
static BIND4: TypeDesc = addr(&sockets::SOCK_ADDR_INET4, set::SOCK_ADDR_RETVAL, 0, 3);
static BIND6: TypeDesc = addr(&sockets::SOCK_ADDR_INET6, set::SOCK_ADDR_RETVAL, 0, 3);
static CONNECT4: TypeDesc = addr(&sockets::SOCK_ADDR_INET4, set::SOCK_ADDR_CONNECT, 0, 1);
static CONNECT6: TypeDesc = addr(&sockets::SOCK_ADDR_INET6, set::SOCK_ADDR_CONNECT, 0, 1);
static SENDMSG4: TypeDesc = addr(&sockets::SOCK_ADDR_SENDMSG4, set::SOCK_ADDR_RETVAL, 0, 1);
static SENDMSG6: TypeDesc = addr(&sockets::SOCK_ADDR_SENDMSG6, set::SOCK_ADDR_RETVAL, 0, 1);
static NAME4: TypeDesc = addr(&sockets::SOCK_ADDR_INET4, set::SOCK_ADDR, 1, 1);
static NAME6: TypeDesc = addr(&sockets::SOCK_ADDR_INET6, set::SOCK_ADDR, 1, 1);
static UNIX: TypeDesc = addr(&sockets::SOCK_ADDR_UNIX, set::SOCK_ADDR_RETVAL, 0, 1);
static UNIX_NAME: TypeDesc = addr(&sockets::SOCK_ADDR_UNIX, set::SOCK_ADDR, 1, 1);

static TRACEPOINT: TypeDesc = plain(T::TRACEPOINT, &tracing::TRACEPOINT, set::TRACING);
static RAW_TRACEPOINT: TypeDesc = plain(T::RAW_TRACEPOINT, &tracing::RAW_TRACEPOINT, set::TRACING);
static RAW_TRACEPOINT_WRITABLE: TypeDesc =
    plain(T::RAW_TRACEPOINT_WRITABLE, &tracing::RAW_TRACEPOINT_WRITABLE, set::TRACING);
static KPROBE: TypeDesc = plain(T::KPROBE, &tracing::PT_REGS, set::TRACING);
static KPROBE_SESSION: TypeDesc = within(0, 1, KPROBE);
static PERF_EVENT: TypeDesc = plain(T::PERF_EVENT, &tracing::PERF_EVENT, set::PERF_EVENT);
static SYSCALL: TypeDesc = plain(T::SYSCALL, &tracing::SYSCALL, set::SYSCALL);
