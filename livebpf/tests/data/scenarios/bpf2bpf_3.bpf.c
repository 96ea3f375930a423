// SPDX-License-Identifier: MIT OR Apache-2.0
// T11: 128 bytes of stack in each program, 64 in each subprogram, and packet loads of the classic kind between.
#include "livebpf.h"

PROG_ARRAY(jmp_table, 2);

#define STACK(bytes)                    \
	volatile char room[bytes] = {}; \
	keep(room[bytes - 1])

__noinline int second(struct __sk_buff *skb)
{
	volatile char room[64] = {};

	if (load_word(skb, 0) | load_half(skb, 0))
		tail_call_static(skb, jmp_table, 10);
	else
		tail_call_static(skb, jmp_table, 1);
	keep(room[63]);
	return skb->len;
}

static __noinline int first(struct __sk_buff *skb)
{
	volatile char room[64] = {};

	tail_call_static(skb, jmp_table, 0);
	keep(room[63]);
	return skb->len * 2;
}

SEC("tc") int classifier_0(struct __sk_buff *skb)
{
	STACK(128);
	return second(skb);
}

SEC("tc") int classifier_1(struct __sk_buff *skb)
{
	STACK(128);
	return skb->len * 3;
}

SEC("tc") int entry(struct __sk_buff *skb)
{
	STACK(128);
	return first(skb);
}

LICENSE("MIT OR Apache-2.0");
