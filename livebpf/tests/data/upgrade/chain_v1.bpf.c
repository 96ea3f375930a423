// SPDX-License-Identifier: MIT OR Apache-2.0
#define VERSION 1
#include "chain.h"
