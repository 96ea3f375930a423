// SPDX-License-Identifier: MIT OR Apache-2.0
// A4: a failed call changes nothing. 16 sets of callee-saved registers x 9 stack depths x 3 ways to fail, each a program
// of its own, in assembly so that it uses exactly those registers and exactly that stack. 0 is right.
#include "livebpf.h"

#define REGISTER_SETS(X, depth)                                                                                     \
	X(0000, depth) X(0001, depth) X(0010, depth) X(0011, depth) X(0100, depth) X(0101, depth) X(0110, depth)    \
	X(0111, depth) X(1000, depth) X(1001, depth) X(1010, depth) X(1011, depth) X(1100, depth) X(1101, depth)    \
	X(1110, depth) X(1111, depth)
#define ALL(X)                                                                                                      \
	REGISTER_SETS(X, 0) REGISTER_SETS(X, 1) REGISTER_SETS(X, 7) REGISTER_SETS(X, 8) REGISTER_SETS(X, 9)         \
	REGISTER_SETS(X, 255) REGISTER_SETS(X, 256) REGISTER_SETS(X, 511) REGISTER_SETS(X, 512)

/* A set is written as four digits: R9 R8 R7 R6, 1 where the program uses the register. */
#define SET_0000(R)
#define SET_0001(R) R(6)
#define SET_0010(R) R(7)
#define SET_0011(R) R(6) R(7)
#define SET_0100(R) R(8)
#define SET_0101(R) R(6) R(8)
#define SET_0110(R) R(7) R(8)
#define SET_0111(R) R(6) R(7) R(8)
#define SET_1000(R) R(9)
#define SET_1001(R) R(6) R(9)
#define SET_1010(R) R(7) R(9)
#define SET_1011(R) R(6) R(7) R(9)
#define SET_1100(R) R(8) R(9)
#define SET_1101(R) R(6) R(8) R(9)
#define SET_1110(R) R(7) R(8) R(9)
#define SET_1111(R) R(6) R(7) R(8) R(9)
/* What registers and stack hold comes from memory and is compared with memory: no verifier can know that the checks
   succeed and have them removed. */
__u64 seeds[6] = { 0x6060606060606060, 0x7171717171717171, 0x8282828282828282, 0x9393939393939393, 0x24, 1 };
#define AT_6 "0"
#define AT_7 "8"
#define AT_8 "16"
#define AT_9 "24"
#define GIVE(n) "r" #n " = *(u64 *)(r1 + " AT_##n ")\n"
#define CHECK(n) "r2 = *(u64 *)(r1 + " AT_##n ")\n if r" #n " != r2 goto 1f\n"

/* The deepest byte, the highest one and, where there is room, eight bytes between. */
#define PUT_BYTE(at) "r0 = *(u8 *)(r1 + 32)\n *(u8 *)(r10 - " at ") = r0\n"
#define SEE_BYTE(at) "r0 = *(u8 *)(r10 - " at ")\n r2 = *(u8 *)(r1 + 32)\n if r0 != r2 goto 1f\n"
#define PUT_WORD(at) "r0 = *(u64 *)(r1 + 0)\n *(u64 *)(r10 - " at ") = r0\n"
#define SEE_WORD(at) "r0 = *(u64 *)(r10 - " at ")\n r2 = *(u64 *)(r1 + 0)\n if r0 != r2 goto 1f\n"
#define PUT_0
#define SEE_0
#define PUT_1 PUT_BYTE("1")
#define SEE_1 SEE_BYTE("1")
#define PUT_7 PUT_1 PUT_BYTE("7")
#define SEE_7 SEE_1 SEE_BYTE("7")
#define PUT_8 PUT_WORD("8")
#define SEE_8 SEE_WORD("8")
#define PUT_9 PUT_8 PUT_BYTE("9")
#define SEE_9 SEE_8 SEE_BYTE("9")
#define PUT_255 PUT_1 PUT_WORD("128") PUT_BYTE("255")
#define SEE_255 SEE_1 SEE_WORD("128") SEE_BYTE("255")
#define PUT_256 PUT_1 PUT_WORD("128") PUT_WORD("256")
#define SEE_256 SEE_1 SEE_WORD("128") SEE_WORD("256")
#define PUT_511 PUT_1 PUT_WORD("256") PUT_BYTE("511")
#define SEE_511 SEE_1 SEE_WORD("256") SEE_BYTE("511")
#define PUT_512 PUT_1 PUT_WORD("256") PUT_WORD("512")
#define SEE_512 SEE_1 SEE_WORD("256") SEE_WORD("512")

#define PROGRAM(name, set, depth, array, at)                                             \
	SEC("tc") __naked int name##_##set##_##depth(void)                               \
	{                                                                                \
		asm volatile("r4 = r1\n r1 = seeds ll\n" SET_##set(GIVE) PUT_##depth     \
			     "r1 = r4\n r2 = " array " ll\n r3 = %[index]\n call 12\n"   \
			     "r1 = seeds ll\n" SET_##set(CHECK) SEE_##depth              \
			     "r2 = *(u64 *)(r1 + 40)\n if r2 != 1 goto 1f\n"             \
			     "r0 = 0\n exit\n"                                           \
			     "1:\n r0 = 1\n exit\n" ::[index] "i"(at));                  \
	}

enum {
#define NUMBER(set, depth) NUMBER_##set##_##depth,
	ALL(NUMBER)
	PROGRAMS
};

PROG_ARRAY(none, 1);

#define EMPTY(set, depth) PROGRAM(empty, set, depth, "none", 0)
ALL(EMPTY)
#define OUTSIDE(set, depth) PROGRAM(outside, set, depth, "none", 1)
ALL(OUTSIDE)

/* Each stands in its own slot and calls itself: the 34th body is the one whose call fails, and whose result we see. */
#define DECLARE(set, depth) int limit_##set##_##depth(void);
ALL(DECLARE)
PROG_ARRAY_INIT(self, PROGRAMS) = {
	.values = {
#define SLOT(set, depth) [NUMBER_##set##_##depth] = (void *)&limit_##set##_##depth,
		ALL(SLOT)
	},
};
#define LIMIT(set, depth) PROGRAM(limit, set, depth, "self", NUMBER_##set##_##depth)
ALL(LIMIT)

LICENSE("MIT OR Apache-2.0");
