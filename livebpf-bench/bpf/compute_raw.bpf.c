// SPDX-License-Identifier: MIT OR Apache-2.0
// build: -mcpu=v2
// The computations of compute.h over bytes that the first argument points to, for machines that know no contexts: they check every
// access themselves. Version 2 of the instruction set, which is what all of them agree about.
#include "../../livebpf/tests/data/scenarios/livebpf.h"
#include "compute.h"

#define PROGRAM(name) SEC("tc") wide name(const byte *data) { return do_##name(data); }

FOR_EACH_COMPUTATION(PROGRAM)

LICENSE("Dual MIT/GPL");
