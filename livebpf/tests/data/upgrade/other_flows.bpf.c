// SPDX-License-Identifier: MIT OR Apache-2.0
// A chain that lacks most stages, and whose map `flows` is another one.
#include "../scenarios/livebpf.h"

int stage_0(struct xdp_md *ctx);
PROG_ARRAY_INIT(stages, 12) = { .values = { [0] = (void *)&stage_0 } };

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 512);
	__type(key, __u32);
	__type(value, __u64);
} flows SEC(".maps");

SEC("xdp") int stage_0(struct xdp_md *ctx)
{
	__u32 flow = 0;
	return bpf_map_lookup_elem(&flows, &flow) ? XDP_PASS : XDP_TX;
}

SEC("xdp") int entry(struct xdp_md *ctx)
{
	tail_call_static(ctx, stages, 0);
	return XDP_DROP;
}

LICENSE("MIT OR Apache-2.0");
