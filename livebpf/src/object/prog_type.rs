//! Program types and attach types, numbered as in the kernel's UAPI.

/// Program types, numbered as in `enum bpf_prog_type`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ProgType(pub u32);

#[allow(missing_docs)]
impl ProgType {
    pub const SOCKET_FILTER: ProgType = ProgType(1);
    pub const KPROBE: ProgType = ProgType(2);
    pub const SCHED_CLS: ProgType = ProgType(3);
    pub const SCHED_ACT: ProgType = ProgType(4);
    pub const TRACEPOINT: ProgType = ProgType(5);
    pub const XDP: ProgType = ProgType(6);
    pub const PERF_EVENT: ProgType = ProgType(7);
    pub const CGROUP_SKB: ProgType = ProgType(8);
    pub const CGROUP_SOCK: ProgType = ProgType(9);
    pub const LWT_IN: ProgType = ProgType(10);
    pub const LWT_OUT: ProgType = ProgType(11);
    pub const LWT_XMIT: ProgType = ProgType(12);
    pub const SOCK_OPS: ProgType = ProgType(13);
    pub const SK_SKB: ProgType = ProgType(14);
    pub const CGROUP_DEVICE: ProgType = ProgType(15);
    pub const SK_MSG: ProgType = ProgType(16);
    pub const RAW_TRACEPOINT: ProgType = ProgType(17);
    pub const CGROUP_SOCK_ADDR: ProgType = ProgType(18);
    pub const LWT_SEG6LOCAL: ProgType = ProgType(19);
    pub const LIRC_MODE2: ProgType = ProgType(20);
    pub const SK_REUSEPORT: ProgType = ProgType(21);
    pub const FLOW_DISSECTOR: ProgType = ProgType(22);
    pub const CGROUP_SYSCTL: ProgType = ProgType(23);
    pub const RAW_TRACEPOINT_WRITABLE: ProgType = ProgType(24);
    pub const CGROUP_SOCKOPT: ProgType = ProgType(25);
    pub const TRACING: ProgType = ProgType(26);
    pub const STRUCT_OPS: ProgType = ProgType(27);
    pub const EXT: ProgType = ProgType(28);
    pub const LSM: ProgType = ProgType(29);
    pub const SK_LOOKUP: ProgType = ProgType(30);
    pub const SYSCALL: ProgType = ProgType(31);
    pub const NETFILTER: ProgType = ProgType(32);
}

impl ProgType {
    const NAMES: [&'static str; 33] = [
        "unspec",
        "socket_filter",
        "kprobe",
        "sched_cls",
        "sched_act",
        "tracepoint",
        "xdp",
        "perf_event",
        "cgroup_skb",
        "cgroup_sock",
        "lwt_in",
        "lwt_out",
        "lwt_xmit",
        "sock_ops",
        "sk_skb",
        "cgroup_device",
        "sk_msg",
        "raw_tracepoint",
        "cgroup_sock_addr",
        "lwt_seg6local",
        "lirc_mode2",
        "sk_reuseport",
        "flow_dissector",
        "cgroup_sysctl",
        "raw_tracepoint_writable",
        "cgroup_sockopt",
        "tracing",
        "struct_ops",
        "ext",
        "lsm",
        "sk_lookup",
        "syscall",
        "netfilter",
    ];
    /// bpftool's name, for instance `sched_cls`.
    pub fn name(self) -> Option<&'static str> {
        Self::NAMES.get(self.0 as usize).copied()
    }
    /// The type with bpftool's name `name`.
    pub fn from_name(name: &str) -> Option<ProgType> {
        Self::NAMES.iter().position(|n| *n == name).map(|i| ProgType(i as u32))
    }
}

impl std::fmt::Display for ProgType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "program type {}", self.0),
        }
    }
}

/// Attach types, numbered as in `enum bpf_attach_type`; 0 where the type has none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct AttachType(pub u32);

#[allow(missing_docs)]
impl AttachType {
    pub const CGROUP_INET_EGRESS: AttachType = AttachType(1);
    pub const CGROUP_INET4_BIND: AttachType = AttachType(8);
    pub const CGROUP_INET6_BIND: AttachType = AttachType(9);
    pub const CGROUP_INET4_CONNECT: AttachType = AttachType(10);
    pub const CGROUP_INET6_CONNECT: AttachType = AttachType(11);
    pub const CGROUP_INET4_POST_BIND: AttachType = AttachType(12);
    pub const CGROUP_INET6_POST_BIND: AttachType = AttachType(13);
    pub const CGROUP_UDP4_SENDMSG: AttachType = AttachType(14);
    pub const CGROUP_UDP6_SENDMSG: AttachType = AttachType(15);
    pub const CGROUP_UDP4_RECVMSG: AttachType = AttachType(19);
    pub const CGROUP_UDP6_RECVMSG: AttachType = AttachType(20);
    pub const CGROUP_GETSOCKOPT: AttachType = AttachType(21);
    pub const CGROUP_SETSOCKOPT: AttachType = AttachType(22);
    pub const CGROUP_INET4_GETPEERNAME: AttachType = AttachType(29);
    pub const CGROUP_INET6_GETPEERNAME: AttachType = AttachType(30);
    pub const CGROUP_INET4_GETSOCKNAME: AttachType = AttachType(31);
    pub const CGROUP_INET6_GETSOCKNAME: AttachType = AttachType(32);
    pub const XDP_DEVMAP: AttachType = AttachType(33);
    pub const CGROUP_UNIX_CONNECT: AttachType = AttachType(49);
    pub const CGROUP_UNIX_SENDMSG: AttachType = AttachType(50);
    pub const TRACE_KPROBE_SESSION: AttachType = AttachType(56);
    pub const TRACE_UPROBE_SESSION: AttachType = AttachType(57);

    /// One past the last.
    pub const COUNT: u32 = 59;

    /// A program that is run at a function's entry and at its return, and decides at the first about the second.
    pub fn is_session(self) -> bool {
        matches!(self, AttachType::TRACE_KPROBE_SESSION | AttachType::TRACE_UPROBE_SESSION)
    }
}

/// What a section name says about the programs in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ProgramKind {
    /// The program type.
    pub prog_type: ProgType,
    /// The expected attach type.
    pub attach_type: AttachType,
    /// `xdp.frags`: multi-buffer packets are understood.
    pub xdp_frags: bool,
    /// `.s`: may sleep.
    pub sleepable: bool,
}

impl ProgramKind {
    /// A plain program of the given type.
    pub const fn new(prog_type: ProgType) -> ProgramKind {
        ProgramKind { prog_type, attach_type: AttachType(0), xdp_frags: false, sleepable: false }
    }
}
