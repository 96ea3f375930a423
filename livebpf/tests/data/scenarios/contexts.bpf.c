// SPDX-License-Identifier: MIT OR Apache-2.0
// Programs whose context is supplied by whoever runs them.
#include "livebpf.h"

LICENSE("Dual MIT/GPL");

struct pt_regs {
	__u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};

SEC("kprobe/any") int probe(struct pt_regs *regs)
{
	return regs->di + regs->si;
}

struct entry {
	__u64 common;
	__u64 id, args[6];
};

SEC("tracepoint/any/entry") int tracepoint(struct entry *entry)
{
	return entry->id * entry->args[5];
}

SEC("raw_tracepoint/any") int raw_tracepoint(__u64 *args)
{
	return args[0] - args[1];
}

struct bpf_flow_keys {
	__u16 nhoff, thoff, addr_proto;
	__u8 is_frag, is_first_frag, is_encap, ip_proto;
	__u16 n_proto, sport, dport;
};

struct flow_skb {
	__u32 head[19], data, data_end, pad[15];
	struct bpf_flow_keys *flow_keys;
};

/* The ports of IPv4 without options. */
SEC("flow_dissector") int dissect(struct flow_skb *skb)
{
	struct bpf_flow_keys *keys = skb->flow_keys;
	__u8 *data = (void *)(__u64)skb->data, *end = (void *)(__u64)skb->data_end;

	if (data + 38 > end || keys->n_proto != 0x0008 || data[14] != 0x45)
		return 2;
	keys->thoff = keys->nhoff + 20;
	keys->ip_proto = data[23];
	keys->sport = *(__u16 *)(data + 34);
	keys->dport = *(__u16 *)(data + 36);
	return 0;
}

struct bpf_sock_addr {
	__u32 user_family, user_ip4, user_ip6[4], user_port, family, type, protocol;
};

SEC("cgroup/connect6") int connect(struct bpf_sock_addr *addr)
{
	if (addr->user_port == 0x5000) {
		*(volatile __u64 *)&addr->user_ip6[2] = 0x100000000000000ULL;
		addr->user_port = 0x901f;
	}
	return 1;
}

struct bpf_sockopt {
	__u64 sk;
	void *optval, *optval_end;
	__s32 level, optname, optlen, retval;
};

SEC("cgroup/setsockopt") int option(struct bpf_sockopt *option)
{
	__u8 *value = option->optval, *end = option->optval_end;

	if (value + 1 > end)
		return 0;
	value[0] += option->level;
	option->optlen = 1;
	return 1;
}

struct bpf_sk_lookup {
	__u64 sk;
	__u32 family, protocol, remote_ip4, remote_ip6[4], remote_port, local_ip4, local_ip6[4], local_port;
};

SEC("sk_lookup") int lookup(struct bpf_sk_lookup *lookup)
{
	return lookup->protocol == 6 && lookup->local_port == 80;
}
