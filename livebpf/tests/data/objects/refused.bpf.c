// SPDX-License-Identifier: MIT OR Apache-2.0
// Programs for `prog verify`: one that is fine, and one for each of the mistakes that are made most.
#include "../scenarios/livebpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

static __noinline int twice(int n)
{
	return n + n;
}

SEC("xdp") int fine(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;
	__u64 *count = bpf_map_lookup_elem(&seen, &key);

	if (count)
		*count += 1;
	return twice(key & 1);
}

SEC("xdp") int unchecked_packet(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;

	if (ctx->rx_queue_index > 7)
		return XDP_PASS;
	return data[12] & 1;
}

SEC("xdp") int unchecked_value(struct xdp_md *ctx)
{
	__u32 key = 0;
	__u64 *count = bpf_map_lookup_elem(&seen, &key);

	*count += 1;
	return XDP_PASS;
}

SEC("xdp") int endless(struct xdp_md *ctx)
{
	volatile __u32 zero = 0;

	while (!zero)
		;
	return XDP_PASS;
}

LICENSE("MIT");
