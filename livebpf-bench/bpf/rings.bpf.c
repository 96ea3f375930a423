// SPDX-License-Identifier: MIT OR Apache-2.0
// A hundred records of eight bytes into a ring buffer that somebody empties between the runs.
#include "../../livebpf/tests/data/scenarios/livebpf.h"

enum { RECORDS = 100, RINGBUF = 27, NO_WAKEUP = 1 };

static long (*const bpf_ringbuf_output)(void *ring, void *data, __u64 size, __u64 flags) = (void *)130;
static void *(*const bpf_ringbuf_reserve)(void *ring, __u64 size, __u64 flags) = (void *)131;
static void (*const bpf_ringbuf_submit)(void *data, __u64 flags) = (void *)132;

struct {
	__uint(type, RINGBUF);
	__uint(max_entries, 1 << 22);
} m_ring SEC(".maps");

SEC("tc") int ring_output(struct __sk_buff *skb)
{
	int done = 0;
	for (__u32 i = 0; i < RECORDS; i++) {
		__u64 record = i;
		done += bpf_ringbuf_output(&m_ring, &record, sizeof(record), NO_WAKEUP) == 0;
	}
	return done;
}

SEC("tc") int ring_reserve(struct __sk_buff *skb)
{
	int done = 0;
	for (__u32 i = 0; i < RECORDS; i++) {
		__u64 *record = bpf_ringbuf_reserve(&m_ring, sizeof(*record), 0);
		if (!record)
			continue;
		*record = i;
		bpf_ringbuf_submit(record, NO_WAKEUP);
		done++;
	}
	return done;
}

LICENSE("Dual MIT/GPL");
