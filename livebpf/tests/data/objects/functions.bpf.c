// SPDX-License-Identifier: MIT OR Apache-2.0
// build: -mcpu=v1,v2,v3,v4
// Functions wherever they can be: several programs in one section, static and global subprograms in .text and in
// other sections, a callback whose address is taken, and global data of every kind.
#include "../scenarios/livebpf.h"

static long (*const bpf_loop)(__u32 n, void *callback, void *ctx, __u64 flags) = (void *)181;

volatile const __u32 limit = 7;
__u32 runs;
static volatile __u64 hidden_runs;
int answer = 42;
struct { __u32 a, b; } custom SEC(".data.custom") = { 1, 2 };
volatile const __u64 table[4] SEC(".rodata.table") = { 10, 20, 30, 40 };
__u64 scratch[1000] SEC(".bss.scratch");

static __noinline __u64 local_helper(__u64 x)
{
	hidden_runs += x;
	return x * 3 + answer;
}

__noinline int global_helper(struct __sk_buff *skb, int n)
{
	return local_helper(n) + skb->len;
}

__attribute__((visibility("hidden"))) __noinline int hidden_helper(int n)
{
	return local_helper(n + 1);
}

__attribute__((weak)) __noinline int weak_helper(int n)
{
	return n + (int)hidden_runs;
}

static __attribute__((section("tc"), noinline)) int beside(__u32 n)
{
	scratch[n % 1000] = n;
	return custom.a + n;
}

__attribute__((section("shared_code"), noinline)) int elsewhere(int n)
{
	return table[n & 3] + runs;
}

static int callback(__u32 index, void *ctx)
{
	*(__u64 *)ctx += index;
	return 0;
}

SEC("tc") int first(struct __sk_buff *skb)
{
	return global_helper(skb, 1) + beside(skb->mark);
}

SEC("tc") int second(struct __sk_buff *skb)
{
	runs++;
	return beside(2) + elsewhere(skb->len) + weak_helper(3) + hidden_helper(4);
}

SEC("?xdp.frags") int optional(struct xdp_md *xdp)
{
	return custom.b + limit > 3 ? XDP_PASS : XDP_DROP;
}

SEC("xdp") int looping(struct xdp_md *xdp)
{
	__u64 sum = 0;

	bpf_loop(limit, callback, &sum, 0);
	return sum > 100 ? XDP_DROP : XDP_PASS;
}

SEC("tc/ingress") int alone(struct __sk_buff *skb)
{
	const char text[] = "sixteen letters and more of them, so that it stays in a section";

	return text[skb->len % sizeof(text)];
}

#define __tag(text) __attribute__((btf_decl_tag(text)))

__noinline int tagged(struct __sk_buff *skb __tag("arg:ctx"), int *value __tag("arg:nonnull"))
{
	return skb->len + *value;
}

SEC("classifier") int with_tags(struct __sk_buff *skb)
{
	int value = skb->mark;

	return tagged(skb, &value);
}

LICENSE("Dual MIT/GPL");
