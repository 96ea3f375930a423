// SPDX-License-Identifier: MIT OR Apache-2.0
// A13: R0 after a failed tail call. A verifier must refuse each of these; run unverified, no address may show up in what
// they store.
#include "livebpf.h"

PROG_ARRAY(table, 2);
__u64 seen_r0 = 1, seen_r3 = 1, seen_r4 = 1, seen_r5 = 1;
__u32 slot = 0;

#define STORE(reg) "r6 = seen_" reg " ll\n *(u64 *)(r6 + 0) = " reg "\n"
#define PROGRAM(name, index)                                               \
	SEC("tc") __naked int name(void)                  \
	{                                                                  \
		asm volatile("r0 = 0x5151\n r4 = 0x5454\n r5 = 0x5555\n"   \
			     index "r2 = table ll\n"                       \
			     "call 12\n" STORE("r0") STORE("r3")           \
			     STORE("r4") STORE("r5") "r0 = 1\n exit\n");   \
	}

PROGRAM(empty_direct, "r3 = 0\n")
PROGRAM(empty_indirect, "r6 = slot ll\n r3 = *(u32 *)(r6 + 0)\n")
PROGRAM(outside_direct, "r3 = 7\n")
PROGRAM(outside_indirect, "r6 = slot ll\n r3 = *(u32 *)(r6 + 0)\n r3 += 7\n")

// Slot 1 holds itself: what is stored is what the 34th body found.
PROGRAM(limit_direct, "r3 = 1\n")
PROGRAM(limit_indirect, "r6 = slot ll\n r3 = *(u32 *)(r6 + 0)\n r3 += 1\n")

LICENSE("MIT OR Apache-2.0");
