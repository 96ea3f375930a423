// SPDX-License-Identifier: MIT OR Apache-2.0
// The computations of compute.h over a packet's first bytes, as classifiers.
#include "../../livebpf/tests/data/scenarios/livebpf.h"
#include "compute.h"

#define PROGRAM(name)                                                                                               \
	SEC("tc") int name(struct __sk_buff *skb)                                                                   \
	{                                                                                                           \
		const byte *data = (const byte *)(unsigned long)skb->data;                                          \
		if ((const void *)(data + LENGTH) > (const void *)(unsigned long)skb->data_end)                     \
			return 0;                                                                                   \
		return do_##name(data);                                                                             \
	}

FOR_EACH_COMPUTATION(PROGRAM)

LICENSE("Dual MIT/GPL");
