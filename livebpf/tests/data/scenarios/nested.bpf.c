// SPDX-License-Identifier: MIT OR Apache-2.0
// A8: a helper of the embedder runs another program. Each outermost run and each nested one has its own 33.
#include "livebpf.h"

int outer(struct __sk_buff *skb);
int inner(struct __sk_buff *skb);

enum { OUTER, INNER };
PROG_ARRAY_INIT(table, 2) = { .values = { [OUTER] = (void *)&outer, [INNER] = (void *)&inner } };

__u32 outer_bodies, inner_bodies, nested_result;

// The test's own helper: runs the program `inner` on the same context and returns what it returned.
static long (*const run_inner)(void *ctx) = (void *)0x10000;

SEC("tc") int inner(struct __sk_buff *skb)
{
	inner_bodies += 1;
	tail_call_static(skb, table, INNER);
	return 3;
}

SEC("tc") int outer(struct __sk_buff *skb)
{
	outer_bodies += 1;
	if (outer_bodies == 5 || outer_bodies == 20)
		nested_result += run_inner(skb);
	tail_call_static(skb, table, OUTER);
	return 9;
}

SEC("tc") int entry(struct __sk_buff *skb)
{
	tail_call_static(skb, table, OUTER);
	return 0;
}

// From a subprogram, whose frame and budget must be as before when the nested run is over.
static __noinline int into_outer(struct __sk_buff *skb)
{
	int missed = 1;

	hide(missed);
	nested_result += run_inner(skb);
	tail_call_static(skb, table, OUTER);
	return missed;
}
SEC("tc") int entry_subprogram(struct __sk_buff *skb) { return into_outer(skb) + 100; }

LICENSE("MIT OR Apache-2.0");
