/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A chain of twelve stages with state in maps, for upgrades while packets flow. Every stage stamps the packet with VERSION in
 * its own byte, so that a packet that was handled by two versions shows it.
 */
#include "../scenarios/livebpf.h"

enum { STAGES = 12, ENTRY_STAMP = STAGES, FLOW = STAGES + 1, PACKET = 64 };

#define EACH_STAGE(do) do(0) do(1) do(2) do(3) do(4) do(5) do(6) do(7) do(8) do(9) do(10) do(11)
#define DECLARE(n) int stage_##n(struct xdp_md *ctx);
EACH_STAGE(DECLARE)

#define SLOT(n) [n] = (void *)&stage_##n,
PROG_ARRAY_INIT(stages, STAGES) = { .values = { EACH_STAGE(SLOT) } };

/* Packets by stage; one more for the entry. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, STAGES + 1);
	__type(key, __u32);
	__type(value, __u64);
} packets SEC(".maps");

/* Packets by flow. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u64);
} flows SEC(".maps");

/* All packets that came through the whole chain. */
__u64 finished;

static __always_inline __u8 *packet(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;
	return data + PACKET <= (__u8 *)(long)ctx->data_end ? data : 0;
}

static __always_inline int stamp(struct xdp_md *ctx, __u32 stage)
{
	__u8 *data = packet(ctx);
	__u32 key = stage;
	__u64 *count = bpf_map_lookup_elem(&packets, &key);
	if (!data || !count)
		return 0;
	data[stage] = VERSION;
	__sync_fetch_and_add(count, 1);
	return 1;
}

/* Runners use flows of their own, so that the first packet of a flow meets no other. */
static __noinline int count_flow(struct xdp_md *ctx)
{
	__u8 *data = packet(ctx);
	__u64 one = 1, *count;
	__u32 flow;
	if (!data)
		return 0;
	flow = data[FLOW];
	count = bpf_map_lookup_elem(&flows, &flow);
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		bpf_map_update_elem(&flows, &flow, &one, BPF_ANY);
	return 1;
}

static __noinline int finish(struct xdp_md *ctx)
{
	__sync_fetch_and_add(&finished, 1);
	return XDP_TX;
}

#define STAGE(n)                                          \
	SEC("xdp") int stage_##n(struct xdp_md *ctx)      \
	{                                                 \
		if (!stamp(ctx, n))                       \
			return XDP_ABORTED;               \
		if (n == 5 && !count_flow(ctx))           \
			return XDP_ABORTED;               \
		if (n == STAGES - 1)                      \
			return finish(ctx);               \
		tail_call_static(ctx, stages, (n + 1) % STAGES); \
		return XDP_DROP;                          \
	}
EACH_STAGE(STAGE)

SEC("xdp") int entry(struct xdp_md *ctx)
{
	if (!stamp(ctx, ENTRY_STAMP))
		return XDP_ABORTED;
	tail_call_static(ctx, stages, 0);
	return XDP_DROP;
}

LICENSE("MIT OR Apache-2.0");
