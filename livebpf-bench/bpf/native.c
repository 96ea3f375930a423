/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The native side: compiled by `cc -O2 -shared` when it is measured. Every function takes LENGTH bytes and answers a number, as the BPF
 * programs do.
 */
#include "compute.h"

/* In a run. */
enum { CALLS = 1000 };

#define FUNCTION(name) word name(const byte *data) { return do_##name(data); }

FOR_EACH_COMPUTATION(FUNCTION)

word empty(const byte *data)
{
	(void)data;
	return 0;
}

/* A function that is called, not inlined, with one argument. */
static __attribute__((noinline, noclone)) wide plus_one(wide x)
{
	__asm__ volatile("" : "+r"(x));
	return x + 1;
}

word call_loop(const byte *data)
{
	wide x = 0;
	(void)data;
	for (word i = 0; i < CALLS; i++)
		x = plus_one(x);
	return x;
}

/* The same through a pointer that could be another function's every time, as a helper's would be. */
wide (*volatile helper)(wide) = plus_one;

word helper_loop(const byte *data)
{
	wide x = 0;
	(void)data;
	for (word i = 0; i < CALLS; i++)
		x = helper(x);
	return x;
}

word no_call_loop(const byte *data)
{
	wide x = 0;
	(void)data;
	for (word i = 0; i < CALLS; i++) {
		__asm__ volatile("" : "+r"(x));
		x = x + 1;
	}
	return x;
}
