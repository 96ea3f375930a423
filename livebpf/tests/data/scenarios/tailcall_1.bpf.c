// SPDX-License-Identifier: MIT OR Apache-2.0
// build: -mcpu=v1,v2,v3,v4
// T1-T3: twelve direct calls, four for each of three slots, so that one update has four sites to change.
#include "livebpf.h"

PROG_ARRAY(jmp_table, 3);

SEC("tc") int classifier_0(struct __sk_buff *skb) { return 0; }
SEC("tc") int classifier_1(struct __sk_buff *skb) { return 1; }
SEC("tc") int classifier_2(struct __sk_buff *skb) { return 2; }

#define FOUR_TIMES(slot)                         \
	tail_call_static(skb, jmp_table, slot);  \
	tail_call_static(skb, jmp_table, slot);  \
	tail_call_static(skb, jmp_table, slot);  \
	tail_call_static(skb, jmp_table, slot)

SEC("tc") int entry(struct __sk_buff *skb)
{
	FOUR_TIMES(0);
	FOUR_TIMES(1);
	FOUR_TIMES(2);
	return 3;
}

LICENSE("MIT OR Apache-2.0");
