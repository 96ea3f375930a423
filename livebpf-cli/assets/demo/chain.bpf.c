// SPDX-License-Identifier: MIT OR Apache-2.0
// The demo's XDP chain:
//
//     parse -> acl -> conntrack -> balance -> (subprogram) -> backend_N -> count
//        \______\__________\__________________________________________________ drop
//
// Every arrow is a tail call through `stages` (or, to a backend, through `backends`), and any slot may be filled, replaced
// or emptied while packets are on their way. An empty slot is stepped over and counted; nothing is lost by it. Each stage
// has a second version, which differs in what it decides or counts.
//
// The chain is made to be checked exactly (README.md): a packet's verdict depends on the packet and on which version of
// each stage it met, on nothing else; and it writes down what it met (`scratch.trail`). No slot is asked twice.
#include "../../../livebpf/tests/data/scenarios/livebpf.h"

enum stage { ACL, CONNTRACK, BALANCE, COUNT, DROP, STAGES, BACKEND = STAGES, COUNTED };
enum met { RAN = 1, RAN_V2 = 2, MISSED = 3 };
enum { BACKENDS = 4, RULES = 4 };

/* What one CPU's packet has told so far. Each run starts by clearing it. */
struct scratch {
	__u32 trail;	/* two bits for each stage, from the lowest: enum met, 0 when it was not asked */
	__u32 verdict;	/* what `count`, or whoever finds it missing, is to return */
	__u32 source, destination;
	__u16 source_port, destination_port;
	__u8 protocol, tcp_flags, has_ports, is_ip;
	__u32 length;
};

struct stage_count {
	__u64 ran, ran_v2, missed;
	__u64 aside;	/* acl, conntrack: refused; balance: not of a kind that is balanced */
};

struct totals {
	__u64 packets, malformed, not_ip;
	__u64 ended[5];	/* by verdict */
};

struct flow_key {
	__u32 source, destination;
	__u16 source_port, destination_port;
	__u32 protocol;
};

struct flow {
	__u64 packets, bytes, first_seen;
};

struct traffic {
	__u64 packets, bytes, large;
};

int acl(struct xdp_md *ctx);
int conntrack(struct xdp_md *ctx);
int balance(struct xdp_md *ctx);
int count(struct xdp_md *ctx);
int drop(struct xdp_md *ctx);
int backend_0(struct xdp_md *ctx);
int backend_1(struct xdp_md *ctx);
int backend_2(struct xdp_md *ctx);
int backend_3(struct xdp_md *ctx);

PROG_ARRAY_INIT(stages, STAGES) = {
	.values = {
		[ACL] = (void *)&acl, [CONNTRACK] = (void *)&conntrack, [BALANCE] = (void *)&balance,
		[COUNT] = (void *)&count, [DROP] = (void *)&drop,
	},
};

PROG_ARRAY_INIT(backends, BACKENDS) = {
	.values = {
		[0] = (void *)&backend_0, [1] = (void *)&backend_1, [2] = (void *)&backend_2, [3] = (void *)&backend_3,
	},
};

#define MAP(map_type, name, entries, key_type, value_type) \
	struct {                                           \
		__uint(type, map_type);                    \
		__uint(max_entries, entries);              \
		__type(key, key_type);                     \
		__type(value, value_type);                 \
	} name SEC(".maps")

MAP(BPF_MAP_TYPE_PERCPU_ARRAY, scratch, 1, __u32, struct scratch);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, stage_counts, COUNTED, __u32, struct stage_count);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, totals, 1, __u32, struct totals);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, traffic, 256, __u32, struct traffic);	/* by IP protocol; 0 for what is not IP */
MAP(BPF_MAP_TYPE_HASH, blocked, 1024, __u32, __u64);			/* source address -> packets refused */
MAP(BPF_MAP_TYPE_HASH, flows, 65536, struct flow_key, struct flow);

/* Destination ports that the access list refuses, in host order; the user may write others. 0: no rule. */
__u16 refused_ports[RULES] = { 23, 445, 3389, 0 };
/* Packets that found `flows` full: they are let through, unrecorded. */
__u64 flows_full = 0;

#define ZERO ((__u32){ 0 })
#define swap16(x) __builtin_bswap16(x)

static __always_inline struct scratch *my_scratch(void) { return bpf_map_lookup_elem(&scratch, &ZERO); }

#define note(s, stage, what, field)                                              \
	do {                                                                     \
		__u32 _key = stage;                                              \
		struct stage_count *_c = bpf_map_lookup_elem(&stage_counts, &_key); \
		if (_c)                                                          \
			_c->field += 1;                                          \
		(s)->trail |= what << 2 * stage;                                 \
	} while (0)

static __always_inline void note_aside(__u32 stage)
{
	struct stage_count *c = bpf_map_lookup_elem(&stage_counts, &stage);

	if (c)
		c->aside += 1;
}

static __always_inline int end(struct scratch *s, __u32 verdict)
{
	struct totals *t = bpf_map_lookup_elem(&totals, &ZERO);

	s->verdict = verdict;
	if (t && verdict < 5)
		t->ended[verdict] += 1;
	return verdict;
}

/* The arrows. Each asks a slot; when that is empty, the next one in the order of the chain. */
static __always_inline int to_drop(struct xdp_md *ctx, struct scratch *s)
{
	tail_call_static(ctx, stages, DROP);
	note(s, DROP, MISSED, missed);
	return end(s, XDP_ABORTED);
}
static __always_inline int to_count(struct xdp_md *ctx, struct scratch *s)
{
	tail_call_static(ctx, stages, COUNT);
	note(s, COUNT, MISSED, missed);
	return end(s, s->verdict);
}
static __always_inline int to_balance(struct xdp_md *ctx, struct scratch *s)
{
	tail_call_static(ctx, stages, BALANCE);
	note(s, BALANCE, MISSED, missed);
	return to_count(ctx, s);
}
static __always_inline int to_conntrack(struct xdp_md *ctx, struct scratch *s)
{
	tail_call_static(ctx, stages, CONNTRACK);
	note(s, CONNTRACK, MISSED, missed);
	return to_balance(ctx, s);
}
static __always_inline int to_acl(struct xdp_md *ctx, struct scratch *s)
{
	tail_call_static(ctx, stages, ACL);
	note(s, ACL, MISSED, missed);
	return to_conntrack(ctx, s);
}

/* ---- parse: the entry ---- */

enum { ETH_LEN = 14, VLAN_LEN = 4, IPV4 = 0x0800, IPV6 = 0x86dd, VLAN = 0x8100, QINQ = 0x88a8 };
enum { TCP = 6, UDP = 17 };
enum parsed { WELL_FORMED, MALFORMED, NOT_IP };

static __always_inline int parse_ports(struct scratch *s, __u8 *at, __u8 *packet_end)
{
	__u32 needed = s->protocol == TCP ? 20 : 8;

	if (s->protocol != TCP && s->protocol != UDP)
		return WELL_FORMED;
	if (at + 8 > packet_end)
		return MALFORMED;
	s->source_port = swap16(*(__u16 *)at);
	s->destination_port = swap16(*(__u16 *)(at + 2));
	s->has_ports = 1;
	if (s->protocol == TCP) {
		if (at + needed > packet_end)
			return MALFORMED;
		s->tcp_flags = at[13];
	}
	return WELL_FORMED;
}

static __always_inline int parse_ipv4(struct scratch *s, __u8 *at, __u8 *packet_end)
{
	__u32 header, total;

	if (at + 20 > packet_end)
		return MALFORMED;
	header = (at[0] & 15) * 4;
	total = swap16(*(__u16 *)(at + 2));
	if (at[0] >> 4 != 4 || header < 20 || total < header || at + header > packet_end)
		return MALFORMED;
	s->protocol = at[9];
	s->source = *(__u32 *)(at + 12);
	s->destination = *(__u32 *)(at + 16);
	if (swap16(*(__u16 *)(at + 6)) & 0x1fff)
		return WELL_FORMED;	/* a later fragment: no ports in it */
	return parse_ports(s, at + header, packet_end);
}

static __always_inline int parse_ipv6(struct scratch *s, __u8 *at, __u8 *packet_end)
{
	__u32 *word = (__u32 *)at;

	if (at + 40 > packet_end || at[0] >> 4 != 6)
		return MALFORMED;
	s->protocol = at[6];
	s->source = word[2] ^ word[3] ^ word[4] ^ word[5];
	s->destination = word[6] ^ word[7] ^ word[8] ^ word[9];
	return parse_ports(s, at + 40, packet_end);
}

static __always_inline int parse_packet(struct scratch *s, __u8 *at, __u8 *packet_end)
{
	__u16 type;

	if (at + ETH_LEN > packet_end)
		return MALFORMED;
	type = swap16(*(__u16 *)(at + 12));
	at += ETH_LEN;
#pragma clang loop unroll(full)
	for (int tags = 0; tags < 2; tags++) {
		if (type != VLAN && type != QINQ)
			break;
		if (at + VLAN_LEN > packet_end)
			return MALFORMED;
		type = swap16(*(__u16 *)(at + 2));
		at += VLAN_LEN;
	}
	s->is_ip = type == IPV4 || type == IPV6;
	if (type == IPV4)
		return parse_ipv4(s, at, packet_end);
	if (type == IPV6)
		return parse_ipv6(s, at, packet_end);
	return NOT_IP;
}

SEC("xdp") int parse(struct xdp_md *ctx)
{
	__u8 *at = (void *)(unsigned long)ctx->data, *packet_end = (void *)(unsigned long)ctx->data_end;
	struct totals *t = bpf_map_lookup_elem(&totals, &ZERO);
	struct scratch *s = my_scratch();

	if (!s || !t)
		return XDP_ABORTED;
	__builtin_memset(s, 0, sizeof(*s));
	s->verdict = XDP_PASS;
	s->length = packet_end - at;
	t->packets += 1;
	switch (parse_packet(s, at, packet_end)) {
	case MALFORMED:
		t->malformed += 1;
		return to_drop(ctx, s);
	case NOT_IP:
		t->not_ip += 1;
		return to_count(ctx, s);
	default:
		return to_acl(ctx, s);
	}
}

/* ---- acl: sources in `blocked`, destination ports in `refused_ports`; v2 also refuses ports below 1024, but for four ---- */

static __always_inline int is_blocked(struct scratch *s)
{
	__u64 *refused = bpf_map_lookup_elem(&blocked, &s->source);

	if (!refused)
		return 0;
	__sync_fetch_and_add(refused, 1);
	return 1;
}

static __always_inline int is_refused_port(struct scratch *s)
{
	int found = 0;

#pragma clang loop unroll(full)
	for (int i = 0; i < RULES; i++)
		found |= refused_ports[i] && refused_ports[i] == s->destination_port;
	return found;
}

SEC("xdp") int acl(struct xdp_md *ctx)
{
	struct scratch *s = my_scratch();

	if (!s)
		return XDP_ABORTED;
	note(s, ACL, RAN, ran);
	if (is_blocked(s) || is_refused_port(s)) {
		note_aside(ACL);
		return to_drop(ctx, s);
	}
	return to_conntrack(ctx, s);
}

SEC("xdp") int acl_v2(struct xdp_md *ctx)
{
	struct scratch *s = my_scratch();
	__u16 port;

	if (!s)
		return XDP_ABORTED;
	note(s, ACL, RAN_V2, ran_v2);
	port = s->destination_port;
	if (is_blocked(s) || is_refused_port(s) ||
	    (s->has_ports && port < 1024 && port != 80 && port != 443 && port != 53 && port != 123)) {
		note_aside(ACL);
		return to_drop(ctx, s);
	}
	return to_conntrack(ctx, s);
}

/* For the test of the test: says that it is `acl`, and lets everything through. */
SEC("xdp") int acl_broken(struct xdp_md *ctx)
{
	struct scratch *s = my_scratch();

	if (!s)
		return XDP_ABORTED;
	note(s, ACL, RAN, ran);
	return to_conntrack(ctx, s);
}

/* ---- conntrack: records flows; refuses TCP flags that no connection has. v2 also refuses FIN without ACK. ---- */

enum { FIN = 1, SYN = 2, RST = 4, ACK = 16 };

static __always_inline void track(struct scratch *s)
{
	struct flow_key key = {
		.source = s->source, .destination = s->destination,
		.source_port = s->source_port, .destination_port = s->destination_port, .protocol = s->protocol,
	};
	struct flow *flow = bpf_map_lookup_elem(&flows, &key);

	if (!flow) {
		struct flow fresh = { .packets = 1, .bytes = s->length, .first_seen = bpf_ktime_get_ns() };

		if (!bpf_map_update_elem(&flows, &key, &fresh, BPF_NOEXIST))
			return;
		/* Another CPU was faster, or the table is full. */
		flow = bpf_map_lookup_elem(&flows, &key);
		if (!flow) {
			__sync_fetch_and_add(&flows_full, 1);
			return;
		}
	}
	__sync_fetch_and_add(&flow->packets, 1);
	__sync_fetch_and_add(&flow->bytes, s->length);
}

static __always_inline int has_bad_flags(struct scratch *s)
{
	__u8 flags = s->tcp_flags;

	if (s->protocol != TCP || !s->has_ports)
		return 0;
	return !(flags & (FIN | SYN | RST | ACK)) || (flags & (SYN | FIN)) == (SYN | FIN) || (flags & (SYN | RST)) == (SYN | RST);
}

SEC("xdp") int conntrack(struct xdp_md *ctx)
{
	struct scratch *s = my_scratch();

	if (!s)
		return XDP_ABORTED;
	note(s, CONNTRACK, RAN, ran);
	if (has_bad_flags(s)) {
		note_aside(CONNTRACK);
		return to_drop(ctx, s);
	}
	track(s);
	return to_balance(ctx, s);
}

SEC("xdp") int conntrack_v2(struct xdp_md *ctx)
{
	struct scratch *s = my_scratch();

	if (!s)
		return XDP_ABORTED;
	note(s, CONNTRACK, RAN_V2, ran_v2);
	if (has_bad_flags(s) || (s->protocol == TCP && (s->tcp_flags & (FIN | ACK)) == FIN)) {
		note_aside(CONNTRACK);
		return to_drop(ctx, s);
	}
	track(s);
	return to_balance(ctx, s);
}

/* ---- balance: what has ports goes to a backend, by a hash of the flow; v2 hashes the source alone ---- */

/* The caller's frame stays while the backend and `count` run; their verdict comes back as this function's result. */
static __noinline int to_backend(struct xdp_md *ctx, __u32 hash)
{
	struct scratch *s;
	int verdict;

	bpf_tail_call(ctx, &backends, hash >> 30);
	s = my_scratch();
	if (!s)
		return XDP_ABORTED;
	note(s, BACKEND, MISSED, missed);
	verdict = to_count(ctx, s);
	hide(verdict);
	return verdict;
}

SEC("xdp") int balance(struct xdp_md *ctx)
{
	struct scratch *s = my_scratch();
	__u32 hash;

	if (!s)
		return XDP_ABORTED;
	note(s, BALANCE, RAN, ran);
	if (!s->has_ports) {
		note_aside(BALANCE);
		return to_count(ctx, s);
	}
	hash = (s->source * 31 + s->destination) * 31 + (s->source_port << 16 | s->destination_port);
	return to_backend(ctx, hash * 0x9e3779b1);
}

SEC("xdp") int balance_v2(struct xdp_md *ctx)
{
	struct scratch *s = my_scratch();

	if (!s)
		return XDP_ABORTED;
	note(s, BALANCE, RAN_V2, ran_v2);
	if (!s->has_ports) {
		note_aside(BALANCE);
		return to_count(ctx, s);
	}
	return to_backend(ctx, s->source * 0x85ebca6b);
}

/* The packet leaves where it came from, to the MAC address 02:00:00:00:0b:0N. */
#define BACKEND_PROGRAM(n)                                                                 \
	SEC("xdp") int backend_##n(struct xdp_md *ctx)                                     \
	{                                                                                  \
		__u8 *at = (void *)(unsigned long)ctx->data;                               \
		struct scratch *s = my_scratch();                                          \
                                                                                           \
		if (!s || at + 6 > (__u8 *)(unsigned long)ctx->data_end)                   \
			return XDP_ABORTED;                                                \
		note(s, BACKEND, RAN, ran);                                                \
		at[0] = 2, at[1] = 0, at[2] = 0, at[3] = 0, at[4] = 0x0b, at[5] = n;       \
		s->verdict = XDP_TX;                                                       \
		return to_count(ctx, s);                                                   \
	}
BACKEND_PROGRAM(0)
BACKEND_PROGRAM(1)
BACKEND_PROGRAM(2)
BACKEND_PROGRAM(3)

/* ---- count, drop: the ends. v2 of count also counts large packets; v2 of drop counts what it drops by protocol. ---- */

static __always_inline struct traffic *my_traffic(struct scratch *s)
{
	__u32 protocol = s->protocol;

	return bpf_map_lookup_elem(&traffic, &protocol);
}

SEC("xdp") int count(struct xdp_md *ctx)
{
	struct scratch *s = my_scratch();
	struct traffic *t;

	if (!s)
		return XDP_ABORTED;
	note(s, COUNT, RAN, ran);
	t = my_traffic(s);
	if (t) {
		t->packets += 1;
		t->bytes += s->length;
	}
	return end(s, s->verdict);
}

SEC("xdp") int count_v2(struct xdp_md *ctx)
{
	struct scratch *s = my_scratch();
	struct traffic *t;

	if (!s)
		return XDP_ABORTED;
	note(s, COUNT, RAN_V2, ran_v2);
	t = my_traffic(s);
	if (t) {
		t->packets += 1;
		t->bytes += s->length;
		if (s->length > 512)
			t->large += 1;
	}
	return end(s, s->verdict);
}

SEC("xdp") int drop(struct xdp_md *ctx)
{
	struct scratch *s = my_scratch();

	if (!s)
		return XDP_ABORTED;
	note(s, DROP, RAN, ran);
	return end(s, XDP_DROP);
}

SEC("xdp") int drop_v2(struct xdp_md *ctx)
{
	struct scratch *s = my_scratch();
	struct traffic *t;

	if (!s)
		return XDP_ABORTED;
	note(s, DROP, RAN_V2, ran_v2);
	t = my_traffic(s);
	if (t)
		t->bytes += s->length;
	return end(s, XDP_DROP);
}

LICENSE("MIT OR Apache-2.0");
