// SPDX-License-Identifier: MIT OR Apache-2.0
// build: -mcpu=v1,v2,v3,v4
// A5, A10, A11: registers and frames of callers and targets that differ as much as they can.
#include "livebpf.h"

int bare(struct __sk_buff *skb);
int full(void);
int greedy(void);

enum { BARE, FULL, GREEDY };
PROG_ARRAY_INIT(table, 3) = {
	.values = { [BARE] = (void *)&bare, [FULL] = (void *)&full, [GREEDY] = (void *)&greedy },
};

// No stack, no callee-saved register.
SEC("tc") int bare(struct __sk_buff *skb) { return skb->len; }

// All 512 bytes: the ends and the middle are written and read back.
#define FILL                                              \
	"r0 = 1\n *(u64 *)(r10 - 512) = r0\n"             \
	"r0 = 15\n *(u64 *)(r10 - 256) = r0\n"            \
	"r0 = 2000\n *(u64 *)(r10 - 8) = r0\n"
#define SUM                                                                                  \
	"r0 = *(u64 *)(r10 - 512)\n r2 = *(u64 *)(r10 - 256)\n r3 = *(u64 *)(r10 - 8)\n"     \
	"r0 += r2\n r0 += r3\n exit\n"
SEC("tc") __naked int full(void) { asm volatile(FILL SUM); }

// Overwrites R6-R9 and returns what R1 said: the length of the packet.
SEC("tc") __naked int greedy(void)
{
	asm volatile("r0 = *(u32 *)(r1 + 0)\n"
		     "r6 = -1\n r7 = -2\n r8 = -3\n r9 = -4\n"
		     "r0 += r6\n r0 -= r7\n r0 += r8\n r0 -= r9\n"
		     "r0 -= 2\n"
		     "exit\n");
}

static __noinline int to_greedy(struct __sk_buff *skb)
{
	int missed = -1;

	hide(missed);
	tail_call_static(skb, table, GREEDY);
	return missed;
}

// A5: straight to it; and through a subprogram, after which R6-R9 are still the caller's.
SEC("tc") int native(struct __sk_buff *skb)
{
	tail_call_static(skb, table, GREEDY);
	return -1;
}
SEC("tc") __naked int retained(void)
{
	asm volatile("r6 = 0x1111\n r7 = 0x2222\n r8 = 0x3333\n r9 = 0x4444\n"
		     "*(u64 *)(r10 - 8) = r9\n"
		     "call %[sub]\n"
		     "r6 += r7\n r6 += r8\n r6 += r9\n"
		     "r1 = *(u64 *)(r10 - 8)\n"
		     "r6 += r1\n"
		     "r0 += r6\n"
		     "exit\n" ::[sub] "i"(to_greedy));
}

// A10: from 512 bytes of stack to none, and the reverse.
SEC("tc") __naked int full_to_bare(void)
{
	asm volatile(FILL "r2 = table ll\n r3 = 0\n call 12\n" SUM);
}
SEC("tc") int bare_to_full(struct __sk_buff *skb)
{
	tail_call_static(skb, table, FULL);
	return -1;
}

// The same in a subprogram, whose caller then still has its own frame.
static __noinline int large_sub(struct __sk_buff *skb)
{
	volatile __u64 room[56];

#pragma clang loop unroll(full)
	for (int i = 0; i < 56; i++)
		room[i] = ~0ULL;
	tail_call_static(skb, table, BARE);
	return room[55];
}
static __noinline int bare_sub(struct __sk_buff *skb)
{
	int missed = -1;

	hide(missed);
	tail_call_static(skb, table, FULL);
	return missed;
}
SEC("tc") int sub_full_to_bare(struct __sk_buff *skb)
{
	volatile __u32 mine = 10000;

	return large_sub(skb) + mine;
}
SEC("tc") int sub_bare_to_full(struct __sk_buff *skb)
{
	volatile __u32 mine = 10000;

	return bare_sub(skb) + mine;
}

// A11: eight frames, the tail call in the deepest; each adds its digit on the way back, from a value it kept.
static __noinline int depth_8(struct __sk_buff *skb, __u32 kept)
{
	hide(kept);
	tail_call_static(skb, table, FULL);
	return kept;
}
#define DEPTH(n, next, digit)                                               \
	static __noinline int depth_##n(struct __sk_buff *skb, __u32 kept)  \
	{                                                                   \
		volatile __u32 mine = kept * digit;                         \
		int below = depth_##next(skb, kept);                        \
		return below + mine + kept;                                 \
	}
DEPTH(7, 8, 1000000)
DEPTH(6, 7, 100000)
DEPTH(5, 6, 10000)
DEPTH(4, 5, 1000)
DEPTH(3, 4, 100)
DEPTH(2, 3, 10)
SEC("tc") int deepest(struct __sk_buff *skb)
{
	__u32 one = 1;

	hide(one);
	return depth_2(skb, one);
}

LICENSE("MIT OR Apache-2.0");
