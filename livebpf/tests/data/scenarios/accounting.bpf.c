// SPDX-License-Identifier: MIT OR Apache-2.0
// build: -mcpu=v1,v2,v3,v4
// A1-A3, A6, A7, A9, A12: what is counted, what is not, and what a tail call leaves alone.
#include "livebpf.h"

PROG_ARRAY(jmp_table, 8);
enum { LOOPER, STEADY, LINK_1, LINK_2, MIX_A, MIX_B, MIX_C, EMPTY };

__u32 count, survivors, mixed_a, mixed_b, mixed_c, empty_slot = EMPTY, mix_slot = MIX_C;

// Calls itself until the limit; the bodies of this run are counted in the context, those of all runs in `count`.
SEC("tc") int looper(struct __sk_buff *skb)
{
	skb->cb[0] += 1;
	__sync_fetch_and_add(&count, 1);
	tail_call_static(skb, jmp_table, LOOPER);
	return skb->cb[0];
}

#define TEN(call) call call call call call call call call call call

// A1: a hundred calls of an empty slot (a hundred sites; then one site a hundred times), then the loop.
SEC("tc") int empty_direct(struct __sk_buff *skb)
{
	skb->cb[0] = 0;
	TEN(TEN(tail_call_static(skb, jmp_table, EMPTY);))
	tail_call_static(skb, jmp_table, LOOPER);
	return 0;
}
SEC("tc") int empty_indirect(struct __sk_buff *skb)
{
	skb->cb[0] = 0;
	for (int i = 0; i < 100; i++)
		bpf_tail_call(skb, &jmp_table, empty_slot);
	tail_call_static(skb, jmp_table, LOOPER);
	return 0;
}

// A2: the same beyond the end of the array.
SEC("tc") int outside_direct(struct __sk_buff *skb)
{
	skb->cb[0] = 0;
	TEN(TEN(tail_call_static(skb, jmp_table, 1000);))
	tail_call_static(skb, jmp_table, LOOPER);
	return 0;
}
SEC("tc") int outside_indirect(struct __sk_buff *skb)
{
	skb->cb[0] = 0;
	for (int i = 0; i < 100; i++)
		bpf_tail_call(skb, &jmp_table, empty_slot + 1 + i);
	tail_call_static(skb, jmp_table, LOOPER);
	return 0;
}

// A3: 34 bodies, of which the last one survives its call; then registers, frame and context are as before it.
SEC("tc") int steady(struct __sk_buff *skb)
{
	volatile __u64 frame[8];
	__u64 a, b, c;
	int wrong = 0;

	count += 1;
	a = count * 3ULL;
	b = a * a + 0x123456789abcULL;
	c = b ^ (a << 40);
	hide(a);
	hide(b);
	hide(c);
	skb->cb[1] = count * 7;
	for (int i = 0; i < 8; i++)
		frame[i] = c + i;
	tail_call_static(skb, jmp_table, STEADY);
	survivors += 1;
	wrong |= a != count * 3ULL;
	wrong |= (b != a * a + 0x123456789abcULL) << 1;
	wrong |= (c != (b ^ (a << 40))) << 2;
	for (int i = 0; i < 8; i++)
		wrong |= (frame[i] != c + i) << 3;
	wrong |= (skb->cb[1] != count * 7) << 4;
	wrong |= (skb->len == 0) << 5;
	return wrong;
}

// A6: what the last program of a chain returns is the result, of the run or of the subprogram.
SEC("tc") int link_1(struct __sk_buff *skb)
{
	tail_call_static(skb, jmp_table, LINK_2);
	return 1;
}
SEC("tc") int link_2(struct __sk_buff *skb) { return 77; }
SEC("tc") int result_of_run(struct __sk_buff *skb)
{
	tail_call_static(skb, jmp_table, LINK_1);
	return 2;
}
static __noinline int into_chain(struct __sk_buff *skb)
{
	int missed = 3;

	hide(missed);
	tail_call_static(skb, jmp_table, LINK_1);
	return missed;
}
SEC("tc") int result_of_subprogram(struct __sk_buff *skb) { return into_chain(skb) + 1000; }

// A9: nothing but the context is written, so any number of threads may run it at once and each must get 33.
SEC("tc") int alone(struct __sk_buff *skb)
{
	skb->cb[0] = 0;
	tail_call_static(skb, jmp_table, LOOPER);
	return 0;
}

// A12: direct from A to B, indirect from B to C, from a subprogram of C to A: 33 bodies, 11 of each, and the frames of
// the eleven Cs are still there to add 100 each to the 5 of the subprogram whose call failed.
SEC("tc") int mix_a(struct __sk_buff *skb)
{
	mixed_a += 1;
	tail_call_static(skb, jmp_table, MIX_B);
	return 1;
}
SEC("tc") int mix_b(struct __sk_buff *skb)
{
	mixed_b += 1;
	bpf_tail_call(skb, &jmp_table, mix_slot);
	return 2;
}
static __noinline int back_to_a(struct __sk_buff *skb)
{
	int missed = 5;

	hide(missed);
	tail_call_static(skb, jmp_table, MIX_A);
	return missed;
}
SEC("tc") int mix_c(struct __sk_buff *skb)
{
	mixed_c += 1;
	return back_to_a(skb) + 100;
}
SEC("tc") int mix(struct __sk_buff *skb)
{
	tail_call_static(skb, jmp_table, MIX_A);
	return 3;
}

LICENSE("MIT OR Apache-2.0");
