// SPDX-License-Identifier: MIT OR Apache-2.0
// build: -mcpu=v3,v4
// Loops that the verifier does not unroll: callbacks, walks through maps, iterators, may_goto. What is counted is what
// the kernel counts.
#include "livebpf.h"

#define __ksym __attribute__((section(".ksyms")))
#define __weak __attribute__((weak))

struct bpf_iter_num { __u64 opaque; } __attribute__((aligned(8)));
extern int bpf_iter_num_new(struct bpf_iter_num *it, int start, int end) __weak __ksym;
extern int *bpf_iter_num_next(struct bpf_iter_num *it) __weak __ksym;
extern void bpf_iter_num_destroy(struct bpf_iter_num *it) __weak __ksym;
extern void bpf_no_such_function(void) __weak __ksym;

static long (*const bpf_for_each_map_elem)(void *map, void *callback, void *context, __u64 flags) = (void *)164;
static long (*const bpf_loop)(__u64 count, void *callback, void *context, __u64 flags) = (void *)181;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 5);
	__type(key, __u32);
	__type(value, __u64);
} five SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, __u64);
} three SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32);
	__type(key, __u64);
	__type(value, __u64);
} table SEC(".maps");

__u32 count = 10;
__u32 stop = 100;
__u64 flags = 0;
int first = 0, last = 0, nought = 0;
__u64 sum = 0, calls = 0;
__s64 result = 0;

struct totals { __u64 sum, calls, stop; };

static int add_index(__u32 index, struct totals *t)
{
	t->sum += index;
	t->calls++;
	return index == t->stop;
}

/* Calls back for 0, 1, .. below count, or until the callback says stop. */
SEC("tc") int loop_counts(struct __sk_buff *skb)
{
	struct totals t = { .stop = stop };

	result = bpf_loop(count, add_index, &t, flags);
	sum = t.sum;
	calls = t.calls;
	return t.calls;
}

static int nothing(__u32 index, void *context)
{
	calls++;
	return 0;
}

SEC("tc") int loop_without_context(struct __sk_buff *skb)
{
	calls = 0;
	result = bpf_loop(count, nothing, 0, 0);
	return calls;
}

static int inner(__u32 index, struct totals *t)
{
	t->sum += 1;
	return 0;
}

static int outer(__u32 index, struct totals *t)
{
	bpf_loop(index, inner, t, 0);
	t->calls += bpf_loop(3, inner, t, 0);
	return 0;
}

/* Callbacks that call back. */
SEC("tc") int loop_nested(struct __sk_buff *skb)
{
	struct totals t = {};

	result = bpf_loop(count, outer, &t, 0);
	calls = t.calls;
	return t.sum;
}

static __noinline int weigh(__u32 a, __u32 b, __u32 c)
{
	hide(a);
	return a * 3 + b * 5 + c * 7;
}

static int with_frames(__u32 index, struct totals *t)
{
	volatile __u64 buffer[4] = { index, index + 1, index + 2, index + 3 };

	t->sum += weigh(buffer[0], buffer[3], t->calls++);
	return 0;
}

/* Registers and frames of everybody stay what they are. */
SEC("tc") int loop_keeps_registers(struct __sk_buff *skb)
{
	struct totals t = {};
	__u64 a = skb->len, b = a * 3, c = b + 7, d = c ^ a;

	hide(a); hide(b); hide(c); hide(d);
	bpf_loop(count, with_frames, &t, 0);
	return t.sum + a + 10 * b + 100 * c + 1000 * d;
}

static int one(__u32 index, struct totals *t) { t->sum += 1; return 0; }
static int ten(__u32 index, struct totals *t) { t->sum += 10; return 0; }

/* Which function is called back is not known before. */
SEC("tc") int loop_either(struct __sk_buff *skb)
{
	struct totals t = {};

	if (stop == 1)
		bpf_loop(count, one, &t, 0);
	else
		bpf_loop(count, ten, &t, 0);
	return t.sum;
}

static int visit_five(void *map, __u32 *key, __u64 *value, struct totals *t)
{
	t->sum += *key * 100 + *value;
	t->calls++;
	*value += 1;
	return *key == t->stop;
}

SEC("tc") int each_of_array(struct __sk_buff *skb)
{
	struct totals t = { .stop = stop };

	result = bpf_for_each_map_elem(&five, visit_five, &t, flags);
	sum = t.sum;
	return t.calls;
}

SEC("tc") int each_of_percpu_array(struct __sk_buff *skb)
{
	struct totals t = { .stop = stop };
	__u32 key = 1;
	__u64 *value = bpf_map_lookup_elem(&three, &key);

	if (value)
		*value = 40;
	result = bpf_for_each_map_elem(&three, visit_five, &t, 0);
	sum = t.sum;
	return t.calls;
}

static int fill(__u32 index, void *context)
{
	__u64 key = index, value = index * 2;

	bpf_map_update_elem(&table, &key, &value, BPF_ANY);
	return 0;
}

static int visit_table(void *map, __u64 *key, __u64 *value, struct totals *t)
{
	t->sum += *key + *value;
	t->calls++;
	if (*key & 1)
		bpf_map_delete_elem(map, key);
	return t->calls == t->stop;
}

/* Every element once, also when it is deleted meanwhile. */
SEC("tc") int each_of_hash(struct __sk_buff *skb)
{
	struct totals t = { .stop = stop };

	bpf_loop(count, fill, 0, 0);
	result = bpf_for_each_map_elem(&table, visit_table, &t, 0);
	sum = t.sum;
	return t.calls;
}

static int count_table(void *map, __u64 *key, __u64 *value, struct totals *t)
{
	t->calls++;
	return 0;
}

SEC("tc") int size_of_hash(struct __sk_buff *skb)
{
	struct totals t = {};

	bpf_for_each_map_elem(&table, count_table, &t, 0);
	return t.calls;
}

SEC("tc") int numbers(struct __sk_buff *skb)
{
	struct bpf_iter_num it;
	__u64 n = 0;
	int *v;

	sum = 0;
	result = bpf_iter_num_new(&it, first, last);
	while ((v = bpf_iter_num_next(&it))) {
		sum += *v;
		n++;
	}
	bpf_iter_num_destroy(&it);
	return n;
}

static __noinline __u64 below(int n)
{
	struct bpf_iter_num it;
	__u64 s = 0;
	int *v;

	bpf_iter_num_new(&it, 0, n);
	while ((v = bpf_iter_num_next(&it)))
		s += *v;
	bpf_iter_num_destroy(&it);
	return s;
}

/* An iterator in the frame of each call, and one around them. */
SEC("tc") int numbers_of_numbers(struct __sk_buff *skb)
{
	struct bpf_iter_num it;
	__u64 s = 0;
	int *v;

	bpf_iter_num_new(&it, first, last);
	while ((v = bpf_iter_num_next(&it)))
		s += below(*v);
	bpf_iter_num_destroy(&it);
	return s;
}

SEC("tc") int what_there_is(struct __sk_buff *skb)
{
	__u64 yes = (__u64)&bpf_iter_num_new, no = (__u64)&bpf_no_such_function;

	hide(yes); hide(no);
	return (yes != 0) + 2 * (no != 0);
}

/* may_goto +off: opcode e5. The assembler computes differences of labels as words only: the offset and half of the imm. */
#define may_goto(label)                                                                                             \
	asm volatile goto("1: .byte 0xe5, 0; .long ((%l[" #label "] - 1b - 8) / 8) & 0xffff; .short 0" : : : : label)

SEC("tc") int may_goto_counts(struct __sk_buff *skb)
{
	__u64 i, s = 0;

	for (i = 0; i < count; i++) {
		may_goto(out);
		s += i;
	}
out:
	return s;
}

static __noinline __u64 ever(__u64 s)
{
	for (;;) {
		may_goto(out);
		s++;
		hide(s);
	}
out:
	return s;
}

/* Ends though nothing but may_goto ends it; each call begins anew. */
SEC("tc") int may_goto_ends(struct __sk_buff *skb)
{
	__u64 a = ever(nought), b = ever(nought);

	return a > 1 && b > 1;
}

LICENSE("Dual MIT/GPL");
