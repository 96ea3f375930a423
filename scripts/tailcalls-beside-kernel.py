#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""The kernel's own tail-call selftests, on livebpf beside the kernel.

    scripts/tailcalls-beside-kernel.py ORACLE_DIR [LIVEBPF]

ORACLE_DIR holds `koracle` (loads an object, takes steps, runs programs by BPF_PROG_TEST_RUN; root only) and `selftests/*.o`, built from a
kernel's sources; they are no part of this project. LIVEBPF is the CLI (default: target/release/livebpf); `-` leaves the livebpf columns
out. The steps are those of our own scenarios, which use the same names. Exit status 1 when a number differs from the kernel's."""
import itertools
import os
import subprocess
import sys

import scenario

ENGINES = ["interp", "jit", "slot"]
# The 13 cases of verifier_runtime_jit. What they return is asked of the kernel, not written down here.
RUNTIME_JIT = """call_within_bounds_prog_once call_within_bounds_prog_loop call_within_bounds_no_prog call_within_bounds_key_2
_2_key_2_first_branch _2_key_2_second_branch _0_key_2_first_branch _0_key_2_second_branch bounds_different_maps_first_branch
bounds_different_maps_second_branch tail_call_out_of_bounds negative_index_to_tail_call _32bit_index_to_tail_call""".split()


def rows(oracle):
    """(name, object, steps, data, program type): one for each selftest, its parts one after the other in one load."""
    of_test = lambda s: s["selftest"]["test"]
    for test, parts in itertools.groupby([s for s in scenario.read_all() if "selftest" in s], of_test):
        parts = list(parts)
        path = os.path.join(oracle, "selftests", parts[0]["selftest"]["object"])
        steps = sum((scenario.expand(s["steps"], path, s["selftest"].get("programs")) for s in parts), [])
        yield test, path, steps, scenario.data_of(parts[0]), "tc"
    path = os.path.join(oracle, "selftests", "verifier_runtime_jit.o")
    for name in RUNTIME_JIT:
        yield name, path, [{"run": name, "retval": None}], "00" * 64, None


def numbers(records):
    return " ".join(f"{got}" if got is not None else "-" for _, _, got in records)


def attempt(run):
    """The numbers of a run, or the first line of why there are none."""
    try:
        return numbers(run())
    except (RuntimeError, subprocess.TimeoutExpired, OSError) as error:
        return "failed: " + (str(error).splitlines() or ["?"])[0][:200]


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    oracle = sys.argv[1]
    livebpf = sys.argv[2] if len(sys.argv) == 3 else os.path.join(scenario.ROOT, "target", "release", "livebpf")
    engines, koracle = [] if livebpf == "-" else ENGINES, os.path.join(oracle, "koracle")
    bad = total = 0
    print(f"{'selftest':36}" + "".join(f"{e:8}" for e in engines) + "the kernel's numbers")
    for name, path, steps, data, kind in rows(oracle):
        kernel = attempt(lambda: scenario.on_kernel(koracle, path, steps, data, kind))
        known = " ".join(str(w) for s in steps for w in [s.get("retval", s.get("value") if "var" in s else s.get("error"))] if w is not None)
        differs = [f"kernel: {kernel} (wanted {known})"] if known and known != kernel or kernel.startswith("failed") else []
        cells = ""
        for engine in engines:
            ours = attempt(lambda: scenario.on_livebpf(livebpf, engine, path, steps, data, kind))
            cells += f"{'same' if ours == kernel else 'DIFFERS':8}"
            differs += [] if ours == kernel else [f"{engine}: {ours}"]
        print(f"{name:36}{cells}{kernel}")
        for line in differs:
            print("    " + line)
        bad, total = bad + bool(differs), total + 1
    print(f"{total} tests, {bad} differ")
    sys.exit(bad != 0)


main()
