//! Section names: what libbpf's `SEC("...")` strings say about the programs in a section.

use super::prog_type::{AttachType, ProgType, ProgramKind};

/// A section name, read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SectionName {
    /// Program type and attach type; `None` for a name that libbpf does not know either.
    pub(crate) kind: Option<ProgramKind>,
    /// `false` with a leading `?`: loaded only when asked for by name.
    pub(crate) autoload: bool,
}

/// Reads a section name.
pub(crate) fn parse(name: &str) -> SectionName {
    let bare = name.strip_prefix('?');
    SectionName { kind: kind(bare.unwrap_or(name)), autoload: bare.is_none() }
}

fn kind(name: &str) -> Option<ProgramKind> {
    let found = KINDS.iter().find(|k| k.matches(name))?;
    Some(ProgramKind {
        prog_type: found.prog_type,
        attach_type: AttachType(found.attach),
        xdp_frags: found.how.contains('f'),
        sleepable: found.how.contains('s'),
    })
}

/// One row: a section name; `how` has `+` where `/anything` may follow, `*` where anything may (older
/// libbpf), `s` for sleepable, `f` for XDP frags.
struct Kind {
    name: &'static str,
    how: &'static str,
    prog_type: ProgType,
    attach: u32,
}

impl Kind {
    fn matches(&self, name: &str) -> bool {
        match name.strip_prefix(self.name) {
            Some("") => true,
            Some(rest) => self.how.contains('*') || self.how.contains('+') && rest.starts_with('/'),
            None => false,
        }
    }
}

const fn k(name: &'static str, how: &'static str, prog_type: ProgType, attach: u32) -> Kind {
    Kind { name, how, prog_type, attach }
}

use ProgType as T;

/// In libbpf's order (section_defs in libbpf.c, v6.12, and the sessions of v6.13); the first match counts.
#[rustfmt::skip]
const KINDS: &[Kind] = &[
    k("socket", "*", T::SOCKET_FILTER, 0),
    k("sk_reuseport/migrate", "", T::SK_REUSEPORT, 40),
    k("sk_reuseport", "", T::SK_REUSEPORT, 39),
    k("kprobe", "+", T::KPROBE, 0),
    k("uprobe", "+", T::KPROBE, 0),
    k("uprobe.s", "+s", T::KPROBE, 0),
    k("kretprobe", "+", T::KPROBE, 0),
    k("uretprobe", "+", T::KPROBE, 0),
    k("uretprobe.s", "+s", T::KPROBE, 0),
    k("kprobe.multi", "+", T::KPROBE, 42),
    k("kretprobe.multi", "+", T::KPROBE, 42),
    k("kprobe.session", "+", T::KPROBE, 56),
    k("uprobe.multi", "+", T::KPROBE, 48),
    k("uretprobe.multi", "+", T::KPROBE, 48),
    k("uprobe.multi.s", "+s", T::KPROBE, 48),
    k("uretprobe.multi.s", "+s", T::KPROBE, 48),
    k("uprobe.session", "+", T::KPROBE, 57),
    k("uprobe.session.s", "+s", T::KPROBE, 57),
    k("ksyscall", "+", T::KPROBE, 0),
    k("kretsyscall", "+", T::KPROBE, 0),
    k("usdt", "+", T::KPROBE, 0),
    k("usdt.s", "+s", T::KPROBE, 0),
    k("tc/ingress", "", T::SCHED_CLS, 46),
    k("tc/egress", "", T::SCHED_CLS, 47),
    k("tcx/ingress", "", T::SCHED_CLS, 46),
    k("tcx/egress", "", T::SCHED_CLS, 47),
    k("tc", "", T::SCHED_CLS, 0),
    k("classifier", "", T::SCHED_CLS, 0),
    k("action", "", T::SCHED_ACT, 0),
    k("netkit/primary", "", T::SCHED_CLS, 54),
    k("netkit/peer", "", T::SCHED_CLS, 55),
    k("tracepoint", "+", T::TRACEPOINT, 0),
    k("tp", "+", T::TRACEPOINT, 0),
    k("raw_tracepoint", "+", T::RAW_TRACEPOINT, 0),
    k("raw_tp", "+", T::RAW_TRACEPOINT, 0),
    k("raw_tracepoint.w", "+", T::RAW_TRACEPOINT_WRITABLE, 0),
    k("raw_tp.w", "+", T::RAW_TRACEPOINT_WRITABLE, 0),
    k("tp_btf", "+", T::TRACING, 23),
    k("fentry", "+", T::TRACING, 24),
    k("fmod_ret", "+", T::TRACING, 26),
    k("fexit", "+", T::TRACING, 25),
    k("fentry.s", "+s", T::TRACING, 24),
    k("fmod_ret.s", "+s", T::TRACING, 26),
    k("fexit.s", "+s", T::TRACING, 25),
    k("freplace", "+", T::EXT, 0),
    k("lsm", "+", T::LSM, 27),
    k("lsm.s", "+s", T::LSM, 27),
    k("lsm_cgroup", "+", T::LSM, 43),
    k("iter", "+", T::TRACING, 28),
    k("iter.s", "+s", T::TRACING, 28),
    k("syscall", "s", T::SYSCALL, 0),
    k("xdp.frags/devmap", "f", T::XDP, 33),
    k("xdp/devmap", "", T::XDP, 33),
    k("xdp.frags/cpumap", "f", T::XDP, 35),
    k("xdp/cpumap", "", T::XDP, 35),
    k("xdp.frags", "f", T::XDP, 37),
    k("xdp", "", T::XDP, 37),
    k("perf_event", "", T::PERF_EVENT, 0),
    k("lwt_in", "", T::LWT_IN, 0),
    k("lwt_out", "", T::LWT_OUT, 0),
    k("lwt_xmit", "", T::LWT_XMIT, 0),
    k("lwt_seg6local", "", T::LWT_SEG6LOCAL, 0),
    k("sockops", "", T::SOCK_OPS, 3),
    k("sk_skb/stream_parser", "", T::SK_SKB, 4),
    k("sk_skb/stream_verdict", "", T::SK_SKB, 5),
    k("sk_skb/verdict", "", T::SK_SKB, 38),
    k("sk_skb", "", T::SK_SKB, 0),
    k("sk_msg", "", T::SK_MSG, 7),
    k("lirc_mode2", "", T::LIRC_MODE2, 16),
    k("flow_dissector", "", T::FLOW_DISSECTOR, 17),
    k("cgroup_skb/ingress", "", T::CGROUP_SKB, 0),
    k("cgroup_skb/egress", "", T::CGROUP_SKB, 1),
    k("cgroup/skb", "", T::CGROUP_SKB, 0),
    k("cgroup/sock_create", "", T::CGROUP_SOCK, 2),
    k("cgroup/sock_release", "", T::CGROUP_SOCK, 34),
    k("cgroup/sock", "", T::CGROUP_SOCK, 2),
    k("cgroup/post_bind4", "", T::CGROUP_SOCK, 12),
    k("cgroup/post_bind6", "", T::CGROUP_SOCK, 13),
    k("cgroup/bind4", "", T::CGROUP_SOCK_ADDR, 8),
    k("cgroup/bind6", "", T::CGROUP_SOCK_ADDR, 9),
    k("cgroup/connect4", "", T::CGROUP_SOCK_ADDR, 10),
    k("cgroup/connect6", "", T::CGROUP_SOCK_ADDR, 11),
    k("cgroup/connect_unix", "", T::CGROUP_SOCK_ADDR, 49),
    k("cgroup/sendmsg4", "", T::CGROUP_SOCK_ADDR, 14),
    k("cgroup/sendmsg6", "", T::CGROUP_SOCK_ADDR, 15),
    k("cgroup/sendmsg_unix", "", T::CGROUP_SOCK_ADDR, 50),
    k("cgroup/recvmsg4", "", T::CGROUP_SOCK_ADDR, 19),
    k("cgroup/recvmsg6", "", T::CGROUP_SOCK_ADDR, 20),
    k("cgroup/recvmsg_unix", "", T::CGROUP_SOCK_ADDR, 51),
    k("cgroup/getpeername4", "", T::CGROUP_SOCK_ADDR, 29),
    k("cgroup/getpeername6", "", T::CGROUP_SOCK_ADDR, 30),
    k("cgroup/getpeername_unix", "", T::CGROUP_SOCK_ADDR, 52),
    k("cgroup/getsockname4", "", T::CGROUP_SOCK_ADDR, 31),
    k("cgroup/getsockname6", "", T::CGROUP_SOCK_ADDR, 32),
    k("cgroup/getsockname_unix", "", T::CGROUP_SOCK_ADDR, 53),
    k("cgroup/sysctl", "", T::CGROUP_SYSCTL, 18),
    k("cgroup/getsockopt", "", T::CGROUP_SOCKOPT, 21),
    k("cgroup/setsockopt", "", T::CGROUP_SOCKOPT, 22),
    k("cgroup/dev", "", T::CGROUP_DEVICE, 6),
    k("struct_ops", "+", T::STRUCT_OPS, 0),
    k("struct_ops.s", "+s", T::STRUCT_OPS, 0),
    k("sk_lookup", "", T::SK_LOOKUP, 36),
    k("netfilter", "", T::NETFILTER, 45),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, type_name: &str, attach: u32, flags: &str) {
        let read = parse(name);
        let kind = read.kind.unwrap_or_else(|| panic!("{name} is known"));
        assert_eq!(kind.prog_type.name(), Some(type_name), "{name}");
        assert_eq!(kind.attach_type, AttachType(attach), "{name}");
        assert_eq!(kind.xdp_frags, flags.contains('f'), "{name}");
        assert_eq!(kind.sleepable, flags.contains('s'), "{name}");
        assert_eq!(read.autoload, !name.starts_with('?'), "{name}");
    }

    #[test]
    fn names_as_in_libbpf() {
        check("xdp", "xdp", 37, "");
        check("xdp.frags", "xdp", 37, "f");
        check("xdp/devmap", "xdp", 33, "");
        check("xdp.frags/cpumap", "xdp", 35, "f");
        check("tc", "sched_cls", 0, "");
        check("tc/ingress", "sched_cls", 46, "");
        check("tcx/egress", "sched_cls", 47, "");
        check("netkit/peer", "sched_cls", 55, "");
        check("?tc", "sched_cls", 0, "");
        check("classifier", "sched_cls", 0, "");
        check("action", "sched_act", 0, "");
        check("cgroup_skb/egress", "cgroup_skb", 1, "");
        check("cgroup/skb", "cgroup_skb", 0, "");
        check("raw_tp/sys_enter", "raw_tracepoint", 0, "");
        check("raw_tp", "raw_tracepoint", 0, "");
        check("raw_tracepoint.w/x", "raw_tracepoint_writable", 0, "");
        check("uprobe.multi.s//proc/self/exe:f", "kprobe", 48, "s");
        check("kprobe.session/f", "kprobe", 56, "");
        check("uprobe.session.s//bin/x:f", "kprobe", 57, "s");
        check("syscall", "syscall", 0, "s");
        check("socket1", "socket_filter", 0, "");
        check("fentry.s/bpf_fentry_test1", "tracing", 24, "s");
        check("freplace/f", "ext", 0, "");
        check("lsm/file_open", "lsm", 27, "");
        check("struct_ops.s/init", "struct_ops", 0, "s");
    }

    #[test]
    fn unknown_names() {
        for name in ["", "?", "??tc", "xdp1", "xdp/other", "tc/other", "kprobes", "sk_msg1", "sock"] {
            assert_eq!(parse(name).kind, None, "{name}");
        }
    }
}
