// SPDX-License-Identifier: MIT OR Apache-2.0
// build: -mcpu=v1,v2,v3,v4
// T16: two branches that recurse the same way: the first takes the whole budget. The array is filled by the object.
#include "livebpf.h"

int classifier_0(struct __sk_buff *skb);
int classifier_1(struct __sk_buff *skb);

PROG_ARRAY_INIT(jmp_table, 2) = { .values = { [0] = (void *)&classifier_0, [1] = (void *)&classifier_1 } };
int count0 = 0;
int count1 = 0;

#define BRANCH(n)                                               \
	static __noinline int branch##n(struct __sk_buff *skb)  \
	{                                                       \
		tail_call_static(skb, jmp_table, n);            \
		return 0;                                       \
	}                                                       \
	SEC("tc") int classifier_##n(struct __sk_buff *skb)     \
	{                                                       \
		count##n += 1;                                  \
		branch##n(skb);                                 \
		return 0;                                       \
	}
BRANCH(0)
BRANCH(1)

SEC("tc") int entry(struct __sk_buff *skb)
{
	branch0(skb);
	branch1(skb);
	return count1 << 16 | count0;
}

LICENSE("MIT OR Apache-2.0");
