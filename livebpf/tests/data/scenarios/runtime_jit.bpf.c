// SPDX-License-Identifier: MIT OR Apache-2.0
// build: -mcpu=v1,v2,v3,v4
// T30-T33: the index and the array of one call, in every relation to what is known when the code is made. Written in
// assembly so that no compiler splits or joins a call. Each program stores a mark in the context and reads it back:
// what comes back is unknown to the verifier, so both branches live, and one of them runs.
#include "livebpf.h"

int answer_42(void);
int answer_24(void);
int loop_small(void);
int loop_large(void);

PROG_ARRAY_INIT(small, 4) = {
	.values = { [0] = (void *)&answer_42, [1] = (void *)&loop_small, [2] = (void *)&answer_24 },
};
PROG_ARRAY_INIT(large, 8) = {
	.values = { [1] = (void *)&loop_large, [2] = (void *)&answer_24, [7] = (void *)&answer_42 },
};

#define PROGRAM(name, text)                                        \
	SEC("socket") __naked int name(void)      \
	{                                                          \
		asm volatile(text ::[small] "i"(&small),           \
			     [large] "i"(&large),                  \
			     [cb] "i"(__builtin_offsetof(struct __sk_buff, cb))); \
	}

#define CALL(array, index) "r3 = " index "\n r2 = %[" array "] ll\n call 12\n"
#define RETURN(value) "r0 = " value "\n exit\n"
#define IF_MARK(mark, then, otherwise)       \
	"r0 = " mark "\n"                    \
	"*(u8 *)(r1 + %[cb]) = r0\n"         \
	"r0 = *(u8 *)(r1 + %[cb])\n"         \
	"if r0 == 13 goto 1f\n" otherwise    \
	"goto 2f\n"                          \
	"1:\n" then "2:\n"
#define PICK(array, index) "r3 = " index "\n r2 = %[" array "] ll\n"

PROGRAM(answer_42, RETURN("42"))
PROGRAM(answer_24, RETURN("24"))
PROGRAM(loop_small, CALL("small", "1") RETURN("41"))
PROGRAM(loop_large, CALL("large", "1") RETURN("41"))

PROGRAM(once, CALL("small", "0") RETURN("1"))
PROGRAM(loop, CALL("small", "1") RETURN("1"))
PROGRAM(empty, CALL("small", "3") RETURN("1"))
PROGRAM(key_2, CALL("small", "2") RETURN("1"))

#define SAME(mark) IF_MARK(mark, PICK("small", "2"), PICK("small", "2")) "call 12\n" RETURN("1")
PROGRAM(same_key_first, SAME("13"))
PROGRAM(same_key_second, SAME("14"))
#define OTHER(mark) IF_MARK(mark, PICK("small", "2"), PICK("small", "0")) "call 12\n" RETURN("1")
PROGRAM(other_key_first, OTHER("13"))
PROGRAM(other_key_second, OTHER("14"))
#define ARRAYS(mark) IF_MARK(mark, PICK("large", "0"), PICK("small", "0")) "call 12\n" RETURN("1")
PROGRAM(other_array_first, ARRAYS("13"))
PROGRAM(other_array_second, ARRAYS("14"))

PROGRAM(out_of_range, CALL("small", "256") RETURN("2"))
PROGRAM(negative, CALL("small", "-1") RETURN("2"))
PROGRAM(over_32_bits, CALL("small", "0x100000000 ll") RETURN("2"))

// T33: what the object put into the arrays is there before the first update.
PROGRAM(from_object, CALL("large", "7") RETURN("1"))
PROGRAM(from_object_hole, CALL("large", "0") RETURN("1"))

LICENSE("MIT OR Apache-2.0");
