/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What is computed by everybody: included by the BPF programs and by the native library. Each function reads LENGTH bytes at
 * `p`, or starts from the first eight of them, so that no compiler knows the result. Names begin with `do_`.
 */
#ifndef LIVEBPF_BENCH_COMPUTE_H
#define LIVEBPF_BENCH_COMPUTE_H

enum { LENGTH = 1500, ROUNDS = 10000 };

typedef unsigned char byte;
typedef unsigned short half;
typedef unsigned int word;
typedef unsigned long long wide;

#define INLINE static inline __attribute__((always_inline))

/* Per round: three shifts and three exclusive ors, one after the other. */
INLINE word do_xorshift(const byte *p)
{
	wide x = *(const wide *)p;
	for (word i = 0; i < ROUNDS; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
	}
	return x ^ x >> 32;
}

/* A multiplication and an addition per round. */
INLINE word do_lcg(const byte *p)
{
	wide x = *(const wide *)p;
	for (word i = 0; i < ROUNDS; i++)
		x = x * 6364136223846793005ull + 1442695040888963407ull;
	return x ^ x >> 32;
}

/* A division and a remainder per round, by a number that changes. */
INLINE word do_divmod(const byte *p)
{
	wide x = *(const wide *)p, sum = 0;
	for (wide i = 1; i <= ROUNDS; i++)
		sum += x / i + x % i;
	return sum ^ sum >> 32;
}

INLINE void fletcher_block(const half *p, word count, word *low, word *high)
{
	for (word i = 0; i < count; i++) {
		*low += p[i];
		*high += *low;
	}
	*low %= 65535;
	*high %= 65535;
}

/* Fletcher's sum of 750 halves; two sums stay below 2^32 for 360 of them. */
INLINE word do_fletcher32(const byte *p)
{
	word low = 0, high = 0;
	fletcher_block((const half *)p, 360, &low, &high);
	fletcher_block((const half *)p + 360, 360, &low, &high);
	fletcher_block((const half *)p + 720, 30, &low, &high);
	return high << 16 | low;
}

/* The Internet checksum's sum, two bytes a step. */
INLINE word do_csum16(const byte *p)
{
	wide sum = 0;
	for (word i = 0; i < LENGTH / 2; i++)
		sum += ((const half *)p)[i];
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* The same sum, four bytes a step. */
INLINE word do_csum32(const byte *p)
{
	wide sum = 0;
	for (word i = 0; i < LENGTH / 4; i++)
		sum += ((const word *)p)[i];
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* FNV-1a, a byte a step. */
INLINE word do_fnv1a(const byte *p)
{
	word hash = 2166136261u;
	for (word i = 0; i < LENGTH; i++)
		hash = (hash ^ p[i]) * 16777619;
	return hash;
}

#define FOR_EACH_COMPUTATION(X) X(xorshift) X(lcg) X(divmod) X(fletcher32) X(csum16) X(csum32) X(fnv1a)

#endif
