// SPDX-License-Identifier: MIT OR Apache-2.0
// T17: one target in two arrays; it hands each array to the same subprogram, so the call there is indirect.
#include "livebpf.h"

int classifier_0(struct __sk_buff *skb);

PROG_ARRAY_INIT(jmp_table0, 1) = { .values = { [0] = (void *)&classifier_0 } };
PROG_ARRAY_INIT(jmp_table1, 1) = { .values = { [0] = (void *)&classifier_0 } };
int count = 0;

static __noinline int through(struct __sk_buff *skb, void *array)
{
	bpf_tail_call(skb, array, 0);
	return 0;
}

SEC("tc") int classifier_0(struct __sk_buff *skb)
{
	count += 1;
	through(skb, &jmp_table0);
	through(skb, &jmp_table1);
	return count;
}

SEC("tc") int entry(struct __sk_buff *skb)
{
	tail_call_static(skb, jmp_table0, 0);
	return 0;
}

LICENSE("MIT OR Apache-2.0");
