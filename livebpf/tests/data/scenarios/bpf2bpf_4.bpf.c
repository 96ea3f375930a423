// SPDX-License-Identifier: MIT OR Apache-2.0
// build: -mcpu=v1,v2,v3,v4
// T12, T13: entry -> sub -> 0 -> sub -> 1 -> sub -> 2 -> sub -> 2 ...; with `noise`, a map lookup (which is rewritten,
// so that instructions move) stands in front of the call.
#include "livebpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} nothing SEC(".maps");

PROG_ARRAY(jmp_table, 3);
int count = 0;
int noise = 0;

static __always_inline void make_noise(void)
{
	__u32 key = 0;

	keep(bpf_map_lookup_elem(&nothing, &key));
}

__noinline int to_third(struct __sk_buff *skb)
{
	if (noise)
		make_noise();
	tail_call_static(skb, jmp_table, 2);
	return skb->len * 3;
}

__noinline int to_second(struct __sk_buff *skb)
{
	tail_call_static(skb, jmp_table, 1);
	return skb->len * 2;
}

__noinline int to_first(struct __sk_buff *skb)
{
	tail_call_static(skb, jmp_table, 0);
	return skb->len;
}

SEC("tc") int classifier_0(struct __sk_buff *skb) { return to_second(skb); }
SEC("tc") int classifier_1(struct __sk_buff *skb) { return to_third(skb); }
SEC("tc") int classifier_2(struct __sk_buff *skb)
{
	count += 1;
	return to_third(skb);
}

SEC("tc") int entry(struct __sk_buff *skb) { return to_first(skb); }

LICENSE("MIT OR Apache-2.0");
