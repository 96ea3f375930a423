// SPDX-License-Identifier: MIT OR Apache-2.0
// build: -mcpu=v1,v2,v3,v4
// T6: as T5, with the index read from memory.
#include "livebpf.h"

PROG_ARRAY(jmp_table, 1);
int count, slot;

SEC("tc") int classifier_0(struct __sk_buff *skb)
{
	count += 1;
	bpf_tail_call(skb, &jmp_table, slot);
	return 1;
}

SEC("tc") int entry(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &jmp_table, slot);
	return 0;
}

LICENSE("MIT OR Apache-2.0");
