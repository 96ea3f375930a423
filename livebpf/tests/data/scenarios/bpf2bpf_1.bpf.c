// SPDX-License-Identifier: MIT OR Apache-2.0
// T9: a tail call in the entry, then one in a subprogram, then neither: the caller goes on normally.
#include "livebpf.h"

PROG_ARRAY(jmp_table, 2);

SEC("tc") int classifier_0(struct __sk_buff *skb) { return 0; }
SEC("tc") int classifier_1(struct __sk_buff *skb) { return 1; }

static __noinline int try_first(struct __sk_buff *skb)
{
	tail_call_static(skb, jmp_table, 0);
	return skb->len * 2;
}

SEC("tc") int entry(struct __sk_buff *skb)
{
	tail_call_static(skb, jmp_table, 1);
	return try_first(skb);
}

LICENSE("MIT OR Apache-2.0");
