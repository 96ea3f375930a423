// SPDX-License-Identifier: MIT OR Apache-2.0
// T7: the index is read from memory.
#include "livebpf.h"

PROG_ARRAY(jmp_table, 3);
int selector = 0;

SEC("tc") int classifier_0(struct __sk_buff *skb) { return 0; }
SEC("tc") int classifier_1(struct __sk_buff *skb) { return 1; }
SEC("tc") int classifier_2(struct __sk_buff *skb) { return 2; }

SEC("tc") int entry(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &jmp_table, selector);
	return 3;
}

LICENSE("MIT OR Apache-2.0");
