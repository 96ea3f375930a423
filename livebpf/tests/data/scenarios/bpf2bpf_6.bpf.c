// SPDX-License-Identifier: MIT OR Apache-2.0
// T14: one byte of stack in the entry, so that its frame is no multiple of 8.
#include "livebpf.h"

PROG_ARRAY(jmp_table, 1);
int done = 0;

SEC("tc") int classifier_0(struct __sk_buff *skb)
{
	done = 1;
	return 0;
}

static __noinline int leap(struct __sk_buff *skb)
{
	int missed = 1;

	hide(missed);
	tail_call_static(skb, jmp_table, 0);
	return missed;
}

SEC("tc") int entry(struct __sk_buff *skb)
{
	volatile char byte = 0;

	keep(byte);
	return leap(skb);
}

LICENSE("MIT OR Apache-2.0");
