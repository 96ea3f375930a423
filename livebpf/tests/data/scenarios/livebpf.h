/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Everything our own BPF programs need to be compiled by `clang -target bpf` alone: no libbpf, no kernel headers.
 * Names, numbers and layouts are the kernel's user ABI and libbpf's conventions; the text is ours.
 */
#ifndef LIVEBPF_H
#define LIVEBPF_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;

#define SEC(name) __attribute__((section(name), used))
#define __noinline __attribute__((noinline))
#define __always_inline inline __attribute__((always_inline))
#define __naked __attribute__((naked))

/* BTF-defined maps: a number is encoded as the length of an array type. */
#define __uint(name, number) int(*name)[number]
#define __type(name, t) typeof(t) *name
#define __array(name, t) typeof(t) *name[]

#define LICENSE(text) char _license[] SEC("license") = text

enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PROG_ARRAY = 3,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
};

enum { BPF_ANY = 0, BPF_NOEXIST = 1, BPF_EXIST = 2 };

enum { XDP_ABORTED = 0, XDP_DROP = 1, XDP_PASS = 2, XDP_TX = 3, XDP_REDIRECT = 4 };

struct __sk_buff {
	__u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto;
	__u32 priority, ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid;
	__u32 data, data_end, napi_id;
	__u32 family, remote_ip4, local_ip4, remote_ip6[4], local_ip6[4], remote_port, local_port;
	__u32 data_meta;
};

struct xdp_md {
	__u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static __u32 (*const bpf_get_prandom_u32)(void) = (void *)7;
static __u32 (*const bpf_get_smp_processor_id)(void) = (void *)8;
static long (*const bpf_tail_call)(void *ctx, void *array, __u32 index) = (void *)12;
static long (*const bpf_skb_load_bytes)(const void *skb, __u32 offset, void *to, __u32 len) = (void *)26;
static long (*const bpf_xdp_adjust_head)(struct xdp_md *xdp, int delta) = (void *)44;
static long (*const bpf_xdp_adjust_tail)(struct xdp_md *xdp, int delta) = (void *)65;

/* Packet loads of the classic kind (LD_ABS): the program ends with 0 when the bytes are not there. */
unsigned long long load_word(void *skb, unsigned long long offset) asm("llvm.bpf.load.word");
unsigned long long load_half(void *skb, unsigned long long offset) asm("llvm.bpf.load.half");

/* A tail call whose array and index are constants in the call itself, however the compiler arranges the rest. */
#define tail_call_static(ctx, array, index)                                                                         \
	asm volatile("r1 = %[c]\n"                                                                                  \
		     "r2 = %[a] ll\n"                                                                               \
		     "r3 = %[i]\n"                                                                                  \
		     "call 12\n"                                                                                    \
		     :                                                                                              \
		     : [c] "r"(ctx), [a] "i"(&(array)), [i] "i"(index)                                              \
		     : "r0", "r1", "r2", "r3", "r4", "r5", "memory")

/*
 * The compiler must believe that the value is read (keep) or may be anything from here on (hide). A subprogram with a tail
 * call hides what it returns after it: else the compiler, which knows of no other way out, puts that constant into the caller.
 */
#define keep(value) asm volatile("" : : "r"(value) : "memory")
#define hide(value) asm volatile("" : "+r"(value))

#define PROG_ARRAY(name, n)                                                                                         \
	struct {                                                                                                    \
		__uint(type, BPF_MAP_TYPE_PROG_ARRAY);                                                              \
		__uint(max_entries, n);                                                                             \
		__uint(key_size, 4);                                                                                \
		__uint(value_size, 4);                                                                              \
	} name SEC(".maps")

/* The same with `= { .values = { [index] = (void *)&program } };` to follow. */
#define PROG_ARRAY_INIT(name, n)                                                                                    \
	struct {                                                                                                    \
		__uint(type, BPF_MAP_TYPE_PROG_ARRAY);                                                              \
		__uint(max_entries, n);                                                                             \
		__uint(key_size, 4);                                                                                \
		__array(values, void(void));                                                                        \
	} name SEC(".maps")

#endif
