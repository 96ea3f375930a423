// SPDX-License-Identifier: MIT OR Apache-2.0
// build: -mcpu=v1,v2,v3,v4
// Arithmetic that clang translates differently for each version of the instruction set: 32-bit registers and jumps (v3),
// jumps on less-than (v2), sign-extending loads and moves, signed division, byte swaps and stored constants (v4).
// The results are the same for all.
#include "livebpf.h"

__u64 wide = 0xfedcba9876543210ULL;
__u32 narrow = 0x89abcdefU;
__s64 minus = -1234567890123LL;
__s32 minus32 = -77777;
__s16 minus16 = -1234;
__s8 minus8 = -100;
__u64 zero = 0, ones = ~0ULL;
__u64 written = 0, bytes = 0;

#define MIX(sum, value) sum = (sum ^ (__u64)(value)) * 0x100000001b3ULL

static __always_inline int folded(__u64 sum) { return (__u32)(sum >> 32) ^ (__u32)sum; }

SEC("tc") int shifts(struct __sk_buff *skb)
{
	__u64 sum = 1, w = wide;
	__u32 n = narrow, by = skb->len & 31;

	MIX(sum, w << (n & 63));
	MIX(sum, w >> (n & 63));
	MIX(sum, minus >> (n & 63));
	MIX(sum, n << by);
	MIX(sum, n >> 7);
	MIX(sum, minus32 >> 5);
	MIX(sum, (__s32)n >> 9);
	MIX(sum, -w);
	MIX(sum, -n);
	MIX(sum, ~n | w);
	return folded(sum);
}

SEC("tc") int sign_extensions(struct __sk_buff *skb)
{
	__u64 sum = 2;

	MIX(sum, (__s64)minus8);
	MIX(sum, (__s64)minus16);
	MIX(sum, (__s64)minus32);
	MIX(sum, (__s32)minus8);
	MIX(sum, (__s64)(__s8)wide);
	MIX(sum, (__s64)(__s16)narrow);
	MIX(sum, (__s64)(__s32)(narrow + skb->len));
	MIX(sum, (__u64)narrow);
	return folded(sum);
}

SEC("tc") int divisions(struct __sk_buff *skb)
{
	__u64 sum = 3, z = zero;
	__u32 n = narrow;

	MIX(sum, wide / (n | 1));
	MIX(sum, wide % (n | 1));
	MIX(sum, n / 1000);
	MIX(sum, n % 1000);
	hide(z);
	/* By zero: the quotient is 0, the remainder the dividend. */
	MIX(sum, wide / z);
	MIX(sum, wide % z);
	MIX(sum, n / (__u32)z);
	MIX(sum, n % (__u32)z);
	return folded(sum);
}

/* Signed division exists from v4 on; before that it is done by hand. */
static __always_inline __s64 divide(__s64 a, __s64 b)
{
#if __BPF_CPU_VERSION__ >= 4
	return a / b;
#else
	__u64 quotient = (__u64)(a < 0 ? -a : a) / (__u64)(b < 0 ? -b : b);

	return (a < 0) != (b < 0) ? -quotient : quotient;
#endif
}

SEC("tc") int signed_divisions(struct __sk_buff *skb)
{
	__u64 sum = 4;
	__s64 len = skb->len;

	MIX(sum, divide(minus, len));
	MIX(sum, divide(minus, minus32));
	MIX(sum, divide(len, minus16));
	MIX(sum, minus - divide(minus, minus16) * minus16);
	return folded(sum);
}

SEC("tc") int comparisons(struct __sk_buff *skb)
{
	__u64 bits = 0;
	__u32 n = narrow, len = skb->len;

#define BIT(condition) bits = bits << 1 | (condition)
	BIT(wide > ones);
	BIT((__s64)wide > (__s64)ones);
	BIT(n > len);
	BIT((__s32)n > (__s32)len);
	BIT(minus < (__s64)len);
	BIT((__u64)minus < len);
	BIT(minus32 <= minus16);
	BIT((__u32)minus32 <= (__u32)minus16);
	BIT((n & len) != 0);
	BIT((__u32)wide == 0x76543210);
	BIT(wide == 0xfedcba9876543210ULL);
	if (n > 0x80000000U && (__s32)n < 0)
		BIT(1);
	if (minus8 >= minus16 || len < 10)
		BIT(1);
	return bits;
}

SEC("tc") int swaps(struct __sk_buff *skb)
{
	__u64 sum = 6;

	MIX(sum, __builtin_bswap64(wide));
	MIX(sum, __builtin_bswap32(narrow));
	MIX(sum, __builtin_bswap16((__u16)narrow));
	MIX(sum, __builtin_bswap16((__u16)skb->len));
	return folded(sum);
}

SEC("tc") int stores(struct __sk_buff *skb)
{
	volatile __u8 room[16];
	__u64 sum = 7;

	written = 0x11223344;
	*(__u32 *)&bytes = 0x55667788;
	*((__u16 *)&bytes + 2) = 0x99aa;
	*((__u8 *)&bytes + 7) = 0xbb;
	for (int i = 0; i < 16; i++)
		room[i] = i * 3;
	for (int i = 0; i < 16; i++)
		MIX(sum, room[i]);
	return folded(sum);
}

SEC("tc") int atomics(struct __sk_buff *skb)
{
	__sync_fetch_and_add(&written, 5);
	__sync_fetch_and_add((__u32 *)&bytes, skb->len);
#if __BPF_CPU_VERSION__ >= 3
	if (__sync_fetch_and_add(&written, 1) != __sync_val_compare_and_swap(&written, 1, 2) - 1)
		return 1;
	if (__sync_lock_test_and_set(&bytes, 9) != skb->len || __sync_fetch_and_or(&bytes, 6) != 9)
		return 2;
	if (__sync_fetch_and_and(&bytes, 13) != 15 || __sync_fetch_and_xor(&bytes, 8) != 13)
		return 3;
	__sync_fetch_and_add(&bytes, skb->len - 5);
	__sync_fetch_and_add(&written, -1);
#endif
	return 0;
}

LICENSE("MIT OR Apache-2.0");
