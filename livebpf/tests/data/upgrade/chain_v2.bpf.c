// SPDX-License-Identifier: MIT OR Apache-2.0
// The second version: a map of its own, and a stage that uses it.
#define VERSION 2
#include "chain.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} news SEC(".maps");

SEC("xdp") int news_count(struct xdp_md *ctx)
{
	__u32 zero = 0;
	__u64 *count = bpf_map_lookup_elem(&news, &zero);
	if (count)
		__sync_fetch_and_add(count, 1);
	return XDP_PASS;
}
