// SPDX-License-Identifier: MIT OR Apache-2.0
// T15: the entry calls a subprogram twice, which tail calls the entry: one budget for the whole tree.
#include "livebpf.h"

PROG_ARRAY(jmp_table, 1);
int count = 0;

static __noinline int branch(struct __sk_buff *skb)
{
	tail_call_static(skb, jmp_table, 0);
	return 0;
}

SEC("tc") int entry(struct __sk_buff *skb)
{
	int one = 1;

	count += 1;
	branch(skb);
	branch(skb);
	hide(one);
	return one;
}

LICENSE("MIT OR Apache-2.0");
