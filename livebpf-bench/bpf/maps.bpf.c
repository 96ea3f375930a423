// SPDX-License-Identifier: MIT OR Apache-2.0
// A thousand lookups or updates of each kind of map, the loops without them, and what fills the maps. Every map has 256 elements.
#include "../../livebpf/tests/data/scenarios/livebpf.h"

enum { ROUNDS = 1000, ELEMENTS = 256, NO_PREALLOC = 1 };
enum {
	PERCPU_HASH = 5,
	LRU_HASH = 9,
	LRU_PERCPU_HASH = 10,
	LPM_TRIE = 11,
	ARRAY_OF_MAPS = 12,
	HASH_OF_MAPS = 13,
	QUEUE = 22,
	STACK = 23,
};

static long (*const bpf_map_push_elem)(void *map, const void *value, __u64 flags) = (void *)87;
static long (*const bpf_map_pop_elem)(void *map, void *value) = (void *)88;

/* Keys: four bytes, or a number and what it takes to the size. */
typedef __u32 key_4;
typedef __u64 key_8;
typedef struct { __u64 low, high; } key_16;
typedef struct { __u32 bits, address; } key_lpm;

#define make_4(i) (i)
#define make_8(i) (i)
#define make_16(i) ((key_16){ (i), 0 })
#define make_lpm(i) ((key_lpm){ 32, (i) })

#define MAP(name, kind, key_type, flags)                                                                            \
	struct {                                                                                                    \
		__uint(type, kind);                                                                                 \
		__uint(max_entries, ELEMENTS);                                                                      \
		__uint(map_flags, flags);                                                                           \
		__type(key, key_type);                                                                              \
		__type(value, __u64);                                                                               \
	} m_##name SEC(".maps");

/* Every element becomes 1. */
#define FILL(name, size)                                                                                            \
	SEC("tc") int fill_##name(struct __sk_buff *skb)                                                            \
	{                                                                                                           \
		int failed = 0;                                                                                     \
		for (__u32 i = 0; i < ELEMENTS; i++) {                                                              \
			key_##size key = make_##size(i);                                                            \
			__u64 one = 1;                                                                              \
			failed |= bpf_map_update_elem(&m_##name, &key, &one, BPF_ANY);                              \
		}                                                                                                   \
		return failed;                                                                                      \
	}

#define LOOKUP(name, size)                                                                                          \
	SEC("tc") int lookup_##name(struct __sk_buff *skb)                                                          \
	{                                                                                                           \
		__u64 sum = 0;                                                                                      \
		for (__u32 i = 0; i < ROUNDS; i++) {                                                                \
			key_##size key = make_##size(i & (ELEMENTS - 1));                                           \
			__u64 *found = bpf_map_lookup_elem(&m_##name, &key);                                        \
			if (found)                                                                                  \
				sum += *found;                                                                      \
		}                                                                                                   \
		return sum;                                                                                         \
	}

#define UPDATE(name, size)                                                                                          \
	SEC("tc") int update_##name(struct __sk_buff *skb)                                                          \
	{                                                                                                           \
		int done = 0;                                                                                       \
		for (__u32 i = 0; i < ROUNDS; i++) {                                                                \
			key_##size key = make_##size(i & (ELEMENTS - 1));                                           \
			__u64 one = 1;                                                                              \
			done += bpf_map_update_elem(&m_##name, &key, &one, BPF_ANY) == 0;                           \
		}                                                                                                   \
		return done;                                                                                        \
	}

/* The loop around lookups: the key is made, and something is read by a pointer. */
#define BASE_LOOKUP(size)                                                                                           \
	SEC("tc") int base_lookup_##size(struct __sk_buff *skb)                                                     \
	{                                                                                                           \
		__u64 sum = 0;                                                                                      \
		for (__u32 i = 0; i < ROUNDS; i++) {                                                                \
			key_##size key = make_##size(i & (ELEMENTS - 1)), *found = &key;                            \
			keep(found);                                                                                \
			hide(found);                                                                                \
			sum += *(__u32 *)found;                                                                     \
		}                                                                                                   \
		return sum;                                                                                         \
	}

/* The loop around updates: key and value are made. */
#define BASE_UPDATE(size)                                                                                           \
	SEC("tc") int base_update_##size(struct __sk_buff *skb)                                                     \
	{                                                                                                           \
		int done = 0;                                                                                       \
		for (__u32 i = 0; i < ROUNDS; i++) {                                                                \
			key_##size key = make_##size(i & (ELEMENTS - 1));                                           \
			__u64 one = 1;                                                                              \
			keep(&key);                                                                                 \
			keep(&one);                                                                                 \
			done++;                                                                                     \
		}                                                                                                   \
		return done;                                                                                        \
	}

#define BASES(size) BASE_LOOKUP(size) BASE_UPDATE(size)

BASES(4) BASES(8) BASES(16) BASES(lpm)

#define KEYED(name, kind, size, flags) MAP(name, kind, key_##size, flags) FILL(name, size) LOOKUP(name, size) UPDATE(name, size)

KEYED(array, BPF_MAP_TYPE_ARRAY, 4, 0)
KEYED(percpu_array, BPF_MAP_TYPE_PERCPU_ARRAY, 4, 0)
KEYED(hash, BPF_MAP_TYPE_HASH, 4, 0)
KEYED(hash_8, BPF_MAP_TYPE_HASH, 8, 0)
KEYED(hash_16, BPF_MAP_TYPE_HASH, 16, 0)
KEYED(percpu_hash, PERCPU_HASH, 4, 0)
KEYED(lru_hash, LRU_HASH, 4, 0)
KEYED(lru_percpu_hash, LRU_PERCPU_HASH, 4, 0)
KEYED(lpm_trie, LPM_TRIE, lpm, NO_PREALLOC)

/* An element of a hash removed and put back. */
SEC("tc") int refill_hash(struct __sk_buff *skb)
{
	int done = 0;
	for (__u32 i = 0; i < ROUNDS; i++) {
		key_4 key = i & (ELEMENTS - 1);
		__u64 one = 1;
		done += bpf_map_delete_elem(&m_hash, &key) == 0 && bpf_map_update_elem(&m_hash, &key, &one, BPF_ANY) == 0;
	}
	return done;
}

/* In and out again. */
#define PUSH_POP(name, kind)                                                                                        \
	struct {                                                                                                    \
		__uint(type, kind);                                                                                 \
		__uint(max_entries, ELEMENTS);                                                                      \
		__type(value, __u64);                                                                               \
	} m_##name SEC(".maps");                                                                                    \
	SEC("tc") int push_pop_##name(struct __sk_buff *skb)                                                        \
	{                                                                                                           \
		int sum = 0;                                                                                        \
		for (__u32 i = 0; i < ROUNDS; i++) {                                                                \
			__u64 value = 1;                                                                            \
			if (bpf_map_push_elem(&m_##name, &value, BPF_ANY) == 0 && bpf_map_pop_elem(&m_##name, &value) == 0) \
				sum += value;                                                                       \
		}                                                                                                   \
		return sum;                                                                                         \
	}

PUSH_POP(queue, QUEUE)
PUSH_POP(stack, STACK)

/* A map of maps, whose slots all hold the one above, and a lookup in that. */
#define OUTER(name, kind)                                                                                           \
	struct {                                                                                                    \
		__uint(type, kind);                                                                                 \
		__uint(max_entries, ELEMENTS);                                                                      \
		__type(key, key_4);                                                                                 \
		__array(values, typeof(m_array));                                                                   \
	} m_##name SEC(".maps");                                                                                    \
	SEC("tc") int lookup_##name(struct __sk_buff *skb)                                                          \
	{                                                                                                           \
		__u64 sum = 0;                                                                                      \
		for (__u32 i = 0; i < ROUNDS; i++) {                                                                \
			key_4 key = i & (ELEMENTS - 1);                                                             \
			void *inner = bpf_map_lookup_elem(&m_##name, &key);                                         \
			__u64 *found = inner ? bpf_map_lookup_elem(inner, &key) : 0;                                \
			if (found)                                                                                  \
				sum += *found;                                                                      \
		}                                                                                                   \
		return sum;                                                                                         \
	}

OUTER(array_of_maps, ARRAY_OF_MAPS)
OUTER(hash_of_maps, HASH_OF_MAPS)

LICENSE("Dual MIT/GPL");
