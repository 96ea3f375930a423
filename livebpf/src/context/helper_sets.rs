//! Which of the kernel's helpers each program type may call (the `*_func_proto` functions), whether livebpf provides
//! them or not.
//!
//! `BASE` is what every type has. A helper that is missing from a type's set is refused there, so a new prototype in
//! [`crate::helper`] needs nothing here.

use crate::helper::HelperSet;

pub(super) const BASE: HelperSet = HelperSet::named(
    "map_lookup_elem map_update_elem map_delete_elem map_push_elem map_pop_elem map_peek_elem map_lookup_percpu_elem \
for_each_map_elem loop strncmp strtol strtoul snprintf snprintf_btf trace_printk trace_vprintk tail_call \
get_prandom_u32 get_smp_processor_id get_numa_node_id jiffies64 ktime_get_ns ktime_get_boot_ns ktime_get_tai_ns \
ringbuf_output ringbuf_reserve ringbuf_submit ringbuf_discard ringbuf_query user_ringbuf_drain ringbuf_reserve_dynptr \
ringbuf_submit_dynptr ringbuf_discard_dynptr dynptr_from_mem dynptr_read dynptr_write dynptr_data spin_lock \
spin_unlock timer_init timer_set_callback timer_start timer_cancel kptr_xchg probe_read_user probe_read_kernel \
probe_read_user_str probe_read_kernel_str copy_from_user copy_from_user_task per_cpu_ptr this_cpu_ptr \
get_current_pid_tgid get_current_uid_gid get_current_comm get_current_task get_current_task_btf get_task_stack \
task_pt_regs current_task_under_cgroup get_cgroup_classid get_current_cgroup_id get_current_ancestor_cgroup_id \
get_ns_current_pid_tgid send_signal send_signal_thread task_storage_get task_storage_delete cgrp_storage_get \
cgrp_storage_delete perf_event_read perf_event_read_value get_branch_snapshot find_vma",
);

/// Casts of socket pointers.
const CASTS: HelperSet = HelperSet::named(
    "skc_to_tcp6_sock skc_to_tcp_sock skc_to_tcp_timewait_sock skc_to_tcp_request_sock skc_to_udp6_sock \
skc_to_unix_sock skc_to_mptcp_sock",
);
/// Looking up sockets, and releasing them.
const SOCK_LOOKUPS: HelperSet = HelperSet::named("sk_lookup_tcp sk_lookup_udp sk_release skc_lookup_tcp");
/// Storage at sockets.
const SK_STORAGE: HelperSet = HelperSet::named("sk_storage_get sk_storage_delete");
/// The result that cgroup programs pass on.
const RETVAL: HelperSet = HelperSet::named("get_retval set_retval");
const RAW_SYNCOOKIES: HelperSet = HelperSet::named(
    "tcp_raw_gen_syncookie_ipv4 tcp_raw_gen_syncookie_ipv6 tcp_raw_check_syncookie_ipv4 tcp_raw_check_syncookie_ipv6",
);
/// What light-weight tunnels and traffic control have in common.
const ROUTED: HelperSet = HelperSet::named(
    "get_route_realm perf_event_output skb_load_bytes csum_diff skb_under_cgroup get_hash_recalc skb_pull_data \
ktime_get_coarse_ns",
);
/// Changing a packet.
const SKB_CHANGES: HelperSet = HelperSet::named(
    "skb_store_bytes l3_csum_replace l4_csum_replace clone_redirect skb_get_tunnel_key skb_set_tunnel_key redirect \
skb_get_tunnel_opt skb_set_tunnel_opt skb_change_tail csum_update set_hash_invalid skb_change_head csum_level",
);

pub(super) const TRACING: HelperSet = BASE.and(HelperSet::named(
    "probe_read probe_read_str perf_event_output get_stackid get_stack get_func_ip get_attach_cookie",
));
pub(super) const PERF_EVENT: HelperSet = TRACING.and(HelperSet::named("perf_prog_read_value read_branch_records"));

pub(super) const XDP: HelperSet = BASE.and(CASTS).and(SOCK_LOOKUPS).and(RAW_SYNCOOKIES).and(HelperSet::named(
    "xdp_adjust_head xdp_adjust_tail xdp_adjust_meta xdp_get_buff_len xdp_load_bytes xdp_store_bytes redirect \
redirect_map perf_event_output csum_diff fib_lookup check_mtu tcp_check_syncookie tcp_gen_syncookie \
ktime_get_coarse_ns",
));
pub(super) const SOCKET_FILTER: HelperSet = BASE.and(CASTS).and(HelperSet::named(
    "classic_nlattr classic_nlattr_nest classic_pay_offset classic_hatype skb_load_bytes skb_load_bytes_relative get_socket_cookie get_socket_uid get_netns_cookie perf_event_output \
ktime_get_coarse_ns",
));
pub(super) const SCHED: HelperSet =
    BASE.and(CASTS).and(SOCK_LOOKUPS).and(SK_STORAGE).and(RAW_SYNCOOKIES).and(ROUTED).and(SKB_CHANGES).and(
        HelperSet::named(
            "skb_vlan_push skb_vlan_pop skb_change_proto skb_change_type get_socket_cookie \
get_socket_uid set_hash skb_adjust_room skb_get_xfrm_state skb_load_bytes_relative fib_lookup skb_cgroup_id \
skb_ancestor_cgroup_id skb_cgroup_classid sk_fullsock tcp_sock skb_ecn_set_ce get_listener_sock tcp_check_syncookie \
tcp_gen_syncookie get_netns_cookie sk_assign redirect_neigh redirect_peer check_mtu skb_set_tstamp",
        ),
    );
pub(super) const CGROUP_SKB: HelperSet = BASE.and(CASTS).and(SOCK_LOOKUPS).and(SK_STORAGE).and(HelperSet::named(
    "skb_load_bytes skb_load_bytes_relative get_socket_cookie get_socket_uid skb_cgroup_id skb_ancestor_cgroup_id \
sk_cgroup_id sk_ancestor_cgroup_id get_local_storage sk_fullsock tcp_sock skb_ecn_set_ce get_listener_sock \
get_netns_cookie perf_event_output ktime_get_coarse_ns",
));
pub(super) const LWT_OUT: HelperSet = BASE.and(CASTS).and(ROUTED);
pub(super) const LWT_IN: HelperSet = LWT_OUT.and(HelperSet::named("lwt_push_encap"));
pub(super) const LWT_XMIT: HelperSet = LWT_IN.and(SKB_CHANGES);
pub(super) const LWT_SEG6LOCAL: HelperSet =
    LWT_OUT.and(HelperSet::named("lwt_seg6_store_bytes lwt_seg6_adjust_srh lwt_seg6_action"));
pub(super) const FLOW_DISSECTOR: HelperSet =
    BASE.and(CASTS).and(HelperSet::named("skb_load_bytes ktime_get_coarse_ns"));

pub(super) const SK_SKB: HelperSet = BASE.and(CASTS).and(SOCK_LOOKUPS).and(HelperSet::named(
    "skb_store_bytes skb_load_bytes skb_pull_data skb_change_tail skb_change_head skb_adjust_room get_socket_cookie \
get_socket_uid sk_redirect_map sk_redirect_hash perf_event_output ktime_get_coarse_ns",
));
pub(super) const SK_MSG: HelperSet = BASE.and(CASTS).and(SK_STORAGE).and(HelperSet::named(
    "msg_redirect_map msg_redirect_hash msg_apply_bytes msg_cork_bytes msg_pull_data msg_push_data msg_pop_data \
get_netns_cookie perf_event_output ktime_get_coarse_ns",
));
pub(super) const SOCK_OPS: HelperSet = BASE.and(CASTS).and(SK_STORAGE).and(HelperSet::named(
    "get_socket_cookie setsockopt getsockopt sock_map_update sock_hash_update sock_ops_cb_flags_set get_local_storage \
tcp_sock get_netns_cookie load_hdr_opt store_hdr_opt reserve_hdr_opt perf_event_output ktime_get_coarse_ns",
));
pub(super) const SK_LOOKUP: HelperSet =
    BASE.and(CASTS).and(HelperSet::named("sk_assign sk_release perf_event_output ktime_get_coarse_ns"));
pub(super) const SK_REUSEPORT: HelperSet = BASE.and(HelperSet::named(
    "sk_select_reuseport skb_load_bytes skb_load_bytes_relative get_socket_cookie ktime_get_coarse_ns",
));

pub(super) const CGROUP_DEVICE: HelperSet =
    BASE.and(RETVAL).and(HelperSet::named("get_local_storage perf_event_output"));
pub(super) const CGROUP_SYSCTL: HelperSet = CGROUP_DEVICE.and(HelperSet::named(
    "sysctl_get_name sysctl_get_current_value sysctl_get_new_value sysctl_set_new_value ktime_get_coarse_ns",
));
pub(super) const CGROUP_SOCK: HelperSet =
    CGROUP_DEVICE.and(HelperSet::named("get_socket_cookie sk_storage_get get_netns_cookie ktime_get_coarse_ns"));
pub(super) const GETSOCKOPT: HelperSet =
    CGROUP_DEVICE.and(SK_STORAGE).and(HelperSet::named("tcp_sock get_netns_cookie"));
pub(super) const SETSOCKOPT: HelperSet = GETSOCKOPT.and(HelperSet::named("setsockopt getsockopt"));
/// Operations whose result no program may set: recvmsg, getpeername, getsockname.
pub(super) const SOCK_ADDR: HelperSet = BASE.and(CASTS).and(SOCK_LOOKUPS).and(SK_STORAGE).and(HelperSet::named(
    "get_socket_cookie setsockopt getsockopt get_local_storage get_netns_cookie perf_event_output \
ktime_get_coarse_ns",
));
pub(super) const SOCK_ADDR_RETVAL: HelperSet = SOCK_ADDR.and(RETVAL);
pub(super) const SOCK_ADDR_CONNECT: HelperSet = SOCK_ADDR_RETVAL.and(HelperSet::named("bind"));

/// Without those that take a pointer of the kernel there and a context elsewhere (`get_socket_cookie`,
/// `xdp_get_buff_len`).
pub(super) const SYSCALL: HelperSet = BASE.and(CASTS).and(SK_STORAGE).and(HelperSet::named(
    "probe_read probe_read_str perf_event_output get_stackid get_stack get_func_ip skb_output xdp_output \
d_path sock_from_file sys_bpf btf_find_by_name_kind sys_close kallsyms_lookup_name",
));
