// SPDX-License-Identifier: MIT OR Apache-2.0
// Maps of every shape that a definition can take, and static initialisers.
#include "../scenarios/livebpf.h"

#define __ulong(name, number) enum { __unique_##name = number } name

struct key { __u32 a; __u16 b; __u8 c[3]; };
typedef const volatile struct key key_t;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 100);
	__uint(map_flags, 1);
	__uint(numa_node, 0);
	__uint(pinning, 1);
	__type(key, key_t);
	__type(value, __u64[5]);
} by_type SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 13);
	__uint(max_entries, 3);
	enum { by_size_extra = 0x123456789abcULL } map_extra;
} by_size SEC(".maps");

int first(struct xdp_md *xdp);
int second(struct xdp_md *xdp);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__array(values, int(struct xdp_md *));
} programs SEC(".maps") = { .values = { [1] = (void *)&first, [3] = (void *)&second } };

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} inner_a SEC(".maps"), inner_b SEC(".maps");

struct {
	__uint(type, 12);
	__uint(max_entries, 5);
	__type(key, __u32);
	__array(values, struct inner);
} array_of_maps SEC(".maps") = { .values = { [0] = &inner_a, [4] = &inner_b } };

struct {
	__uint(type, 13);
	__uint(max_entries, 5);
	__type(key, __u32);
	__array(values, struct inner);
} hash_of_maps SEC(".maps") = { .values = { [2] = &inner_a } };

static struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} local_map SEC(".maps");

SEC("xdp") int first(struct xdp_md *xdp)
{
	struct key key = {};
	__u32 zero = 0;
	__u64 *value = bpf_map_lookup_elem(&by_type, &key);
	__u32 *local = bpf_map_lookup_elem(&local_map, &zero);

	bpf_map_lookup_elem(&by_size, &zero);
	bpf_map_lookup_elem(&array_of_maps, &zero);
	return (value ? *value : 0) + (local ? *local : 0);
}

SEC("xdp") int second(struct xdp_md *xdp)
{
	__u32 two = 2;

	bpf_map_lookup_elem(&hash_of_maps, &two);
	bpf_tail_call(xdp, &programs, 1);
	return XDP_PASS;
}

LICENSE("GPL");
