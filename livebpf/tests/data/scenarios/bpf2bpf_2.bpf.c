// SPDX-License-Identifier: MIT OR Apache-2.0
// build: -mcpu=v1,v2,v3,v4
// T10: a target whose subprogram tail calls the target again, until the limit.
#include "livebpf.h"

PROG_ARRAY(jmp_table, 1);
int count = 0;

static __noinline int again(struct __sk_buff *skb)
{
	tail_call_static(skb, jmp_table, 0);
	return 1;
}

SEC("tc") int classifier_0(struct __sk_buff *skb)
{
	count += 1;
	return again(skb);
}

SEC("tc") int entry(struct __sk_buff *skb)
{
	tail_call_static(skb, jmp_table, 0);
	return 0;
}

LICENSE("MIT OR Apache-2.0");
