#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs our own scenarios on the running kernel: are the numbers in them the kernel's?

    scripts/scenarios-on-kernel.py KORACLE [NAME...]

KORACLE is a program that loads an object, takes `seq` steps and runs programs by BPF_PROG_TEST_RUN; root only. Exit status 1 when a
number differs."""
import os
import sys

import scenario


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    koracle, wanted, bad, ran = sys.argv[1], set(sys.argv[2:]), 0, 0
    for s in scenario.read_all():
        if wanted and s["name"] not in wanted:
            continue
        if "kernel" in s:
            print(f"{s['name']:15} not on the kernel: {s['kernel']}")
            continue
        for name in [s["object"], *s.get("also", [])]:
            path = os.path.join(scenario.SCENARIOS, name)
            try:
                records = scenario.on_kernel(koracle, path, scenario.expand(s["steps"], path), scenario.data_of(s))
            except RuntimeError as error:
                records = [("load", "ok", str(error))]
            wrong = [r for r in records if r[1] != r[2]]
            bad, ran = bad + bool(wrong), ran + 1
            print(f"{s['name']:15} {name:22} {'DIFFERS' if wrong else 'same':8} {len(records):4} numbers")
            for what, want, got in wrong:
                print(f"    {what}: {want} here, {got} in the kernel")
    print(f"{ran} runs, {bad} differ")
    sys.exit(bad != 0)


main()
