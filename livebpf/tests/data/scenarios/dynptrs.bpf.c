// SPDX-License-Identifier: MIT OR Apache-2.0
// build: -mcpu=v3,v4
// Dynptrs: memory whose size is known when the program runs. What each function answers, inside, outside, and for null.
#include "livebpf.h"

#define __ksym __attribute__((section(".ksyms")))
#define __weak __attribute__((weak))

struct bpf_dynptr { __u64 opaque[2]; } __attribute__((aligned(8)));
extern int bpf_dynptr_adjust(const struct bpf_dynptr *p, __u32 start, __u32 end) __weak __ksym;
extern _Bool bpf_dynptr_is_null(const struct bpf_dynptr *p) __weak __ksym;
extern _Bool bpf_dynptr_is_rdonly(const struct bpf_dynptr *p) __weak __ksym;
extern __u32 bpf_dynptr_size(const struct bpf_dynptr *p) __weak __ksym;
extern int bpf_dynptr_clone(const struct bpf_dynptr *p, struct bpf_dynptr *clone__uninit) __weak __ksym;
extern void *bpf_dynptr_slice(const struct bpf_dynptr *p, __u32 offset, void *buffer__opt, __u32 buffer__szk) __weak __ksym;
extern void *bpf_dynptr_slice_rdwr(const struct bpf_dynptr *p, __u32 offset, void *buffer__opt, __u32 buffer__szk) __weak __ksym;
extern int bpf_dynptr_from_skb(struct __sk_buff *skb, __u64 flags, struct bpf_dynptr *ptr__uninit) __weak __ksym;
extern int bpf_dynptr_from_xdp(struct xdp_md *xdp, __u64 flags, struct bpf_dynptr *ptr__uninit) __weak __ksym;

static long (*const bpf_dynptr_from_mem)(void *data, __u64 size, __u64 flags, struct bpf_dynptr *p) = (void *)197;
static long (*const bpf_ringbuf_reserve_dynptr)(void *map, __u32 size, __u64 flags, struct bpf_dynptr *p) = (void *)198;
static void (*const bpf_ringbuf_submit_dynptr)(struct bpf_dynptr *p, __u64 flags) = (void *)199;
static void (*const bpf_ringbuf_discard_dynptr)(struct bpf_dynptr *p, __u64 flags) = (void *)200;
static long (*const bpf_dynptr_read)(void *dst, __u64 len, const struct bpf_dynptr *src, __u64 offset, __u64 flags) = (void *)201;
static long (*const bpf_dynptr_write)(const struct bpf_dynptr *dst, __u64 offset, void *src, __u64 len, __u64 flags) = (void *)202;
static void *(*const bpf_dynptr_data)(const struct bpf_dynptr *p, __u64 offset, __u64 len) = (void *)203;
static __u64 (*const bpf_ringbuf_query)(void *map, __u64 what) = (void *)134;
static long (*const bpf_loop)(__u64 count, void *callback, void *context, __u64 flags) = (void *)181;

enum { BPF_MAP_TYPE_RINGBUF = 27 };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64[8]);
} values SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

__u32 size = 64;
__u64 offset = 0, flags = 0;
__u32 from = 0, to = 64;
__u64 number = 0;
__s64 made = 0, wrote = 0, got = 0, adjusted = 0, cloned = 0;
__u32 null = 0, rdonly = 0, bytes = 0;
__u64 unread = 0;

static __always_inline void ask(const struct bpf_dynptr *p)
{
	null = bpf_dynptr_is_null(p);
	rdonly = bpf_dynptr_is_rdonly(p);
	bytes = bpf_dynptr_size(p);
}

static __always_inline __u64 *value(__u32 key)
{
	return bpf_map_lookup_elem(&values, &key);
}

/* Writes a number into a map's value at an offset and reads it again. */
SEC("tc") int memory(struct __sk_buff *skb)
{
	struct bpf_dynptr p;
	__u64 *v = value(1), in = 0x1122334455667788, out = 1;

	if (!v || size > 64)
		return 1;
	made = bpf_dynptr_from_mem(v, size, flags, &p);
	ask(&p);
	wrote = bpf_dynptr_write(&p, offset, &in, 8, 0);
	got = bpf_dynptr_read(&out, 8, &p, offset, 0);
	number = out;
	return 0;
}

/* The same bytes through slices of three kinds. */
SEC("tc") int slices(struct __sk_buff *skb)
{
	struct bpf_dynptr p;
	__u64 *v = value(0), *a, *b;
	const __u64 *c;

	if (!v || size > 64)
		return 1;
	bpf_dynptr_from_mem(v, size, flags, &p);
	a = bpf_dynptr_data(&p, offset, 8);
	b = bpf_dynptr_slice_rdwr(&p, offset, 0, 8);
	c = bpf_dynptr_slice(&p, offset, 0, 8);
	if (!a || !b || !c)
		return 2 + !a + 2 * !b + 4 * !c;
	*a = 100;
	*b += 11;
	number = *c;
	return 0;
}

/* Only what is left can be reached; a clone keeps its own bounds. */
SEC("tc") int narrowed(struct __sk_buff *skb)
{
	struct bpf_dynptr p, q;
	__u64 *v = value(0), out = 0;
	__u32 i;

	if (!v || size > 64)
		return 1;
	for (i = 0; i < 8; i++)
		v[i] = i;
	made = bpf_dynptr_from_mem(v, size, flags, &p);
	cloned = bpf_dynptr_clone(&p, &q);
	adjusted = bpf_dynptr_adjust(&q, from, to);
	ask(&q);
	got = bpf_dynptr_read(&out, 8, &q, offset, 0);
	number = out;
	return bpf_dynptr_size(&p);
}


/* A record of a size that the program does not know. */
SEC("tc") int record(struct __sk_buff *skb)
{
	struct bpf_dynptr p, q;
	__u64 in = 7, out = 0, *slice;

	made = bpf_ringbuf_reserve_dynptr(&ring, size, flags, &p);
	ask(&p);
	cloned = bpf_dynptr_clone(&p, &q);
	wrote = bpf_dynptr_write(&q, offset, &in, 8, 0);
	got = bpf_dynptr_read(&out, 8, &p, offset, 0);
	slice = bpf_dynptr_data(&p, 0, 16);
	if (slice)
		slice[1] = 9;
	number = out;
	if (to == 1)
		bpf_ringbuf_discard_dynptr(&p, 0);
	else
		bpf_ringbuf_submit_dynptr(&q, 0);
	unread = bpf_ringbuf_query(&ring, 0);
	return 0;
}

/* Dynptrs passed on to functions and callbacks. */
__noinline int sum_of(const struct bpf_dynptr *p)
{
	struct bpf_dynptr half;
	__u64 out = 0;

	if (bpf_dynptr_read(&out, 8, p, 0, 0))
		return -1;
	bpf_dynptr_clone(p, &half);
	bpf_dynptr_adjust(&half, 8, 16);
	const __u64 *second = bpf_dynptr_slice(&half, 0, 0, 8);
	return second ? out + *second : -2;
}

static int write_index(__u32 index, struct bpf_dynptr *p)
{
	__u64 n = index;

	return bpf_dynptr_write(p, 8 * index, &n, 8, 0) != 0;
}

SEC("tc") int passed_on(struct __sk_buff *skb)
{
	struct bpf_dynptr p;
	__u64 *v = value(0);

	if (!v)
		return 100;
	bpf_dynptr_from_mem(v, 64, 0, &p);
	number = bpf_loop(100, write_index, &p, 0);
	bpf_dynptr_adjust(&p, from, 64);
	return sum_of(&p);
}

SEC("tc") int packet_passed_on(struct __sk_buff *skb)
{
	struct bpf_dynptr p;
	__u64 in = 5;

	made = bpf_dynptr_from_skb(skb, flags, &p);
	wrote = bpf_dynptr_write(&p, 8, &in, 8, 0);
	return sum_of(&p);
}

SEC("tc") int skb_packet(struct __sk_buff *skb)
{
	struct bpf_dynptr p;
	__u64 in = 0x0102030405060708, out = 1;
	__u8 buffer[8] = {}, *slice;

	made = bpf_dynptr_from_skb(skb, flags, &p);
	ask(&p);
	wrote = bpf_dynptr_write(&p, offset, &in, 8, 0);
	got = bpf_dynptr_read(&out, 8, &p, offset, 0);
	number = out;
	if (bpf_dynptr_data(&p, 0, 1))
		return 1;
	slice = bpf_dynptr_slice_rdwr(&p, offset, buffer, 8);
	if (!slice)
		return 2;
	slice[1] = 0xee;
	slice = bpf_dynptr_slice(&p, offset + 1, buffer, 1);
	return slice ? *slice : 3;
}

SEC("xdp") int xdp_packet(struct xdp_md *xdp)
{
	struct bpf_dynptr p;
	__u64 in = 0x0102030405060708, out = 1;
	__u8 buffer[8] = {}, *slice;

	made = bpf_dynptr_from_xdp(xdp, flags, &p);
	ask(&p);
	wrote = bpf_dynptr_write(&p, offset, &in, 8, 0);
	got = bpf_dynptr_read(&out, 8, &p, offset, 0);
	number = out;
	slice = bpf_dynptr_slice_rdwr(&p, offset, buffer, 8);
	if (!slice)
		return 1;
	slice[1] = 0xee;
	slice = bpf_dynptr_slice(&p, offset + 1, buffer, 1);
	return slice ? *slice : 2;
}

/* The packet becomes shorter than the dynptr. */
SEC("xdp") int xdp_shorter(struct xdp_md *xdp)
{
	struct bpf_dynptr p;
	__u64 out = 1;

	made = bpf_dynptr_from_xdp(xdp, 0, &p);
	if (bpf_xdp_adjust_tail(xdp, -16))
		return 100;
	bytes = bpf_dynptr_size(&p);
	wrote = bpf_dynptr_write(&p, 48, &out, 8, 0);
	got = bpf_dynptr_read(&out, 8, &p, 48, 0);
	number = out;
	return !bpf_dynptr_slice(&p, 48, 0, 8) + 2 * !bpf_dynptr_slice(&p, 40, 0, 8);
}

SEC("cgroup_skb/egress") int skb_read_only(struct __sk_buff *skb)
{
	struct bpf_dynptr p;
	__u64 in = 1;
	__u8 buffer[4] = {};

	made = bpf_dynptr_from_skb(skb, 0, &p);
	ask(&p);
	wrote = bpf_dynptr_write(&p, 0, &in, 8, 0);
	return bpf_dynptr_slice(&p, 0, buffer, 4) != 0;
}

LICENSE("Dual MIT/GPL");
