// SPDX-License-Identifier: MIT OR Apache-2.0
// build: -mcpu=v3 -g0
// Without type information: code, data and a subprogram; no maps, lines or signatures. And no licence.
#include "../scenarios/livebpf.h"

__u64 total;

static __noinline int add(int n)
{
	total += n;
	return total;
}

SEC("socket") int entry(struct __sk_buff *skb)
{
	return add(skb->len);
}
