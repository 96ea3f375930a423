#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Asks the running kernel what programs of each type may do, and prints it as livebpf/tests/data/contexts/kernel.txt has it.

Every access of the first bytes of each context (every size, every offset, read and write), every helper, and every small
return value is one program that is loaded and thrown away; nothing is attached. Needs root and Python only.

    python3 scripts/contexts-on-kernel.py > livebpf/tests/data/contexts/kernel.txt
"""
import ctypes
import os
import re
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
LOG = ctypes.create_string_buffer(1 << 20)
LICENCE = ctypes.create_string_buffer(b"GPL")
SYS_BPF, PROG_LOAD, F_SLEEPABLE = 321, 5, 1 << 4
# Bytes of a context that are tried, and helpers.
SPAN, HELPERS = 264, 211

# Name, program type, attach type.
KINDS = [
    ("socket_filter", 1, 0), ("kprobe", 2, 0), ("kprobe session", 2, 56), ("uprobe session", 2, 57), ("sched_cls", 3, 0),
    ("sched_act", 4, 0), ("tracepoint", 5, 0), ("xdp", 6, 37), ("xdp devmap", 6, 33), ("xdp cpumap", 6, 35),
    ("perf_event", 7, 0), ("cgroup_skb ingress", 8, 0), ("cgroup_skb egress", 8, 1), ("cgroup_sock create", 9, 2),
    ("cgroup_sock release", 9, 34), ("cgroup_sock post_bind4", 9, 12), ("cgroup_sock post_bind6", 9, 13),
    ("lwt_in", 10, 0), ("lwt_out", 11, 0), ("lwt_xmit", 12, 0), ("sock_ops", 13, 3), ("sk_skb", 14, 0),
    ("sk_skb verdict", 14, 38), ("cgroup_device", 15, 6), ("sk_msg", 16, 7), ("raw_tracepoint", 17, 0),
    ("lwt_seg6local", 19, 0), ("sk_reuseport", 21, 39), ("sk_reuseport migrate", 21, 40), ("flow_dissector", 22, 17),
    ("cgroup_sysctl", 23, 18), ("raw_tracepoint_writable", 24, 0), ("getsockopt", 25, 21), ("setsockopt", 25, 22),
    ("sk_lookup", 30, 36), ("syscall", 31, 0),
] + [("cgroup_sock_addr", 18, attach) for attach in (8, 9, 10, 11, 14, 15, 19, 20, 29, 30, 31, 32, 49, 50, 51, 52, 53)]


def load(prog_type, attach, insns, level=0):
    """The errno (0: loaded) and the verifier's log."""
    code = ctypes.create_string_buffer(insns, len(insns))
    LOG[0:1] = b"\0"
    attr = bytearray(152)
    log = (level, len(LOG), ctypes.addressof(LOG)) if level else (0, 0, 0)
    flags = F_SLEEPABLE if prog_type == 31 else 0
    struct.pack_into("<IIQQIIQII", attr, 0, prog_type, len(insns) // 8, ctypes.addressof(code),
                     ctypes.addressof(LICENCE), *log, 0, flags)
    struct.pack_into("<I", attr, 68, attach)
    fd = LIBC.syscall(SYS_BPF, PROG_LOAD, bytes(attr), len(attr))
    if fd >= 0:
        os.close(fd)
        return 0, LOG.value.decode(errors="replace")
    return ctypes.get_errno(), LOG.value.decode(errors="replace")


def insn(code, dst=0, src=0, off=0, imm=0):
    return struct.pack("<BBhi", code, dst | src << 4, off, imm)


EXIT = insn(0x95)
SIZE_BITS = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}


def give(value):
    return insn(0xB7, 0, imm=value) + EXIT


def runs(numbers, step):
    """Ascending numbers `step` apart as FROM-TO."""
    out = []
    for n in numbers:
        if out and out[-1][1] + step == n:
            out[-1][1] = n
        else:
            out.append([n, n])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in out)


def access(kind, size, off, write, end):
    """What a read gives, "yes" for a write, None where it is refused."""
    _, prog_type, attach = kind
    if write:
        code = insn(0xB7, 2) + insn(0x63 | SIZE_BITS[size], 1, 2, off)
    else:
        code = insn(0x61 | SIZE_BITS[size], 2, 1, off)
    errno, log = load(prog_type, attach, code + give(end), 2)
    if errno:
        if "invalid bpf_context access" not in log:
            sys.exit(f"{kind} {size} {off}: {log}")
        return None
    return "yes" if write else re.search(r"R2(?:_w)?=([a-z_]+)", log).group(1)


def section(kind):
    name, prog_type, attach = kind
    returns = [n for n in range(-3, 9) if load(prog_type, attach, give(n))[0] == 0]
    if not returns:
        sys.exit(f"{kind}: nothing can be loaded")
    print(f"== {name}: type {prog_type} attach {attach}")
    print("returns", "any" if len(returns) == 12 else f"{returns[0]} {returns[-1]}")
    for write in (False, True):
        for size in (1, 2, 4, 8):
            found = {}
            for off in range(SPAN):
                what = access(kind, size, off, write, returns[-1])
                if what:
                    found.setdefault(what, []).append(off)
            for what, offsets in found.items():
                print("write" if write else "read", size, what, runs(offsets, size))
    helpers = [n for n in range(1, HELPERS + 1)
               if "cannot use helper" not in load(prog_type, attach, insn(0x85, imm=n) + give(returns[-1]), 1)[1]]
    print("helpers", runs(helpers, 1))


def main():
    print(f"# What Linux {os.uname().release} lets programs of each type do; made by scripts/contexts-on-kernel.py.")
    for kind in KINDS:
        section(kind)


main()
