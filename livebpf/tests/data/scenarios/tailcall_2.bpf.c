// SPDX-License-Identifier: MIT OR Apache-2.0
// T4: a chain 0 -> 1 -> 2, a pair 3 <-> 4 that never ends by itself, and an entry that tries 0, 2 and 3.
#include "livebpf.h"

PROG_ARRAY(jmp_table, 5);

#define LINK(number, next)                                      \
	SEC("tc") int classifier_##number(struct __sk_buff *skb) \
	{                                                       \
		tail_call_static(skb, jmp_table, next);         \
		return number;                                  \
	}
LINK(0, 1)
LINK(1, 2)
LINK(3, 4)
LINK(4, 3)

SEC("tc") int classifier_2(struct __sk_buff *skb) { return 2; }

SEC("tc") int entry(struct __sk_buff *skb)
{
	tail_call_static(skb, jmp_table, 0);
	tail_call_static(skb, jmp_table, 2);
	tail_call_static(skb, jmp_table, 3);
	return 3;
}

LICENSE("MIT OR Apache-2.0");
