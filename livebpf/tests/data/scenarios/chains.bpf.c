// SPDX-License-Identifier: MIT OR Apache-2.0
// build: -mcpu=v1,v2,v3,v4
// T34-T38: chains by length, frames of different sizes, the limit, helper calls in front of a tail call, failed calls.
#include "livebpf.h"

int add_1(struct __sk_buff *skb);
int add_2(struct __sk_buff *skb);
int add_3(struct __sk_buff *skb);
int roomy(struct __sk_buff *skb);
int again(struct __sk_buff *skb);
int again_noisy(struct __sk_buff *skb);

enum { ADD_1, ADD_2, ADD_3, ROOMY, AGAIN, AGAIN_NOISY, EMPTY, SLOTS };

PROG_ARRAY_INIT(table, SLOTS) = {
	.values = {
		[ADD_1] = (void *)&add_1, [ADD_2] = (void *)&add_2, [ADD_3] = (void *)&add_3,
		[ROOMY] = (void *)&roomy, [AGAIN] = (void *)&again, [AGAIN_NOISY] = (void *)&again_noisy,
	},
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} cell SEC(".maps");

__u64 bodies = 0;

// T34: the sum travels in the context; whoever is called first starts it at 0.
SEC("tc") int add_1(struct __sk_buff *skb)
{
	skb->cb[0] += 1;
	return skb->cb[0];
}
#define ADD(n, previous)                                \
	SEC("tc") int add_##n(struct __sk_buff *skb)    \
	{                                               \
		skb->cb[0] += n;                        \
		tail_call_static(skb, table, previous); \
		return -1;                              \
	}
ADD(2, ADD_1)
ADD(3, ADD_2)
ADD(4, ADD_3)

#define START(name, last)                            \
	SEC("tc") int name(struct __sk_buff *skb)    \
	{                                            \
		skb->cb[0] = 0;                      \
		return last(skb);                    \
	}
// (1, 2, 3, 4 in the names: how many programs add.)
START(chain_1, add_1)
START(chain_2, add_2)
START(chain_3, add_3)
START(chain_4, add_4)

// T35: 16 bytes of stack in the caller, 32 in the target; each writes its own and reads it back.
SEC("tc") int roomy(struct __sk_buff *skb)
{
	volatile __u64 room[4];

	for (int i = 0; i < 4; i++)
		room[i] = 0x1122334455667700ULL + i;
	return (room[0] ^ room[1] ^ room[2] ^ room[3]) + (room[3] - 0x1122334455667703ULL);
}
SEC("tc") int small_frame(struct __sk_buff *skb)
{
	volatile __u64 room[2] = { 0xa5a5a5a5a5a5a5a5ULL, 0x5a5a5a5a5a5a5a5aULL };

	tail_call_static(skb, table, ROOMY);
	return (room[0] ^ room[1]) == ~0ULL ? 100 : 101;
}

// T36: counts its own bodies, the first included.
SEC("tc") int again(struct __sk_buff *skb)
{
	bodies += 1;
	tail_call_static(skb, table, AGAIN);
	return 1;
}

// T37: six helper calls, each free to overwrite every register that a callee may, before the tail call.
SEC("tc") int again_noisy(struct __sk_buff *skb)
{
	__u32 key = 0;
	__u8 two[2];

	bodies += 1;
	keep(bpf_ktime_get_ns());
	keep(bpf_get_prandom_u32());
	keep(bpf_get_smp_processor_id());
	bpf_map_update_elem(&cell, &key, &bodies, BPF_ANY);
	keep(bpf_map_lookup_elem(&cell, &key));
	bpf_skb_load_bytes(skb, 0, two, sizeof(two));
	tail_call_static(skb, table, AGAIN_NOISY);
	return 1;
}

// T38: calls that fail cost nothing and change nothing.
SEC("tc") int to_empty(struct __sk_buff *skb)
{
	bodies += 1;
	tail_call_static(skb, table, EMPTY);
	return 1;
}
SEC("tc") int to_outside(struct __sk_buff *skb)
{
	bodies += 1;
	tail_call_static(skb, table, SLOTS + 1000);
	return 1;
}

LICENSE("MIT OR Apache-2.0");
