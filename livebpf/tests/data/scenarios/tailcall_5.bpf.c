// SPDX-License-Identifier: MIT OR Apache-2.0
// T8: one call, whose index is a constant on each path that leads to it, but not the same one.
#include "livebpf.h"

PROG_ARRAY(jmp_table, 3);
int selector = 0;

SEC("tc") int classifier_0(struct __sk_buff *skb) { return 0; }
SEC("tc") int classifier_1(struct __sk_buff *skb) { return 1; }
SEC("tc") int classifier_2(struct __sk_buff *skb) { return 2; }

SEC("tc") int entry(struct __sk_buff *skb)
{
	__u32 slot;

	switch (selector) {
	case 1234:
		slot = 1;
		break;
	case 5678:
		slot = 2;
		break;
	default:
		slot = 0;
	}
	bpf_tail_call(skb, &jmp_table, slot);
	return 3;
}

LICENSE("MIT OR Apache-2.0");
