#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs the demo's chain on the running kernel: each packet of its capture, in each of a few configurations of the stages.

    scripts/demo-on-kernel.py KORACLE [--write]

Compares with livebpf-cli/assets/demo/verdicts.tsv (`--write`: writes it) and checks that the counts of the stages add up. Root only;
packets of less than 14 bytes are left out, the kernel takes none. Exit status 1 when something differs."""
import json
import os
import struct
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DEMO = os.path.join(ROOT, "livebpf-cli", "assets", "demo")
STAGES = ["acl", "conntrack", "balance", "count", "drop"]
BLOCKED = ["c6336442", "cb007142"]
V1, V2 = {s: s for s in STAGES}, {s: s + "_v2" for s in STAGES}
# What stands in each slot of `stages`; `backends`: whether the backends are there.
CONFIGURATIONS = {
    "v1": V1, "v2": V2, **{f"no_{s}": {**V1, s: None} for s in STAGES}, "no_backends": {**V1, "backends": None},
    "nothing": {**{s: None for s in STAGES}, "backends": None},
    "mixed": {"acl": "acl_v2", "conntrack": "conntrack", "balance": "balance_v2", "count": None, "drop": "drop"},
}
TABLE = os.path.join(DEMO, "verdicts.tsv")


def packets():
    with open(os.path.join(DEMO, "traffic.pcap"), "rb") as f:
        data = f.read()
    at = 24
    while at < len(data):
        length, = struct.unpack_from("<I", data, at + 8)
        yield data[at + 16:at + 16 + length]
        at += 16 + length


def steps(configuration):
    result = []
    for slot, stage in enumerate(STAGES):
        program = configuration[stage]
        result += ["--fill", f"stages:{slot}={program}"] if program else ["--del", f"stages:{slot}"]
    for slot in range(4):
        result += ["--fill", f"backends:{slot}=backend_{slot}"] if configuration.get("backends", 1) else ["--del", f"backends:{slot}"]
    return result


def per_cpu(entry, cpus):
    """The u64 words of a per-CPU value, summed over the CPUs."""
    raw = bytes.fromhex(entry["value"])
    words = struct.unpack(f"<{len(raw) // 8}Q", raw)
    each = len(words) // cpus
    return [sum(words[i::each]) for i in range(each)]


def run(koracle, packet):
    """Per configuration (verdict, trail), and all maps at the end."""
    command = [koracle, "seq", os.path.join(DEMO, "chain.o"), "--type", "xdp", "--data-hex", packet.hex()]
    for address in BLOCKED:
        command += ["--set", f"blocked:hex/{address}=0"]
    for configuration in CONFIGURATIONS.values():
        command += steps(configuration) + ["--call", "parse", "--maps"]
    done = subprocess.run(command, capture_output=True, text=True)
    answers = json.loads(done.stdout)["steps"]
    verdicts = [a["retval"] for a in answers if a["step"] not in ("maps",) and "retval" in a]
    dumps = [{m["name"]: m for m in a["maps"]} for a in answers if "maps" in a]
    trails = []
    for maps in dumps:
        raw = bytes.fromhex(maps["scratch"]["entries"][0]["value"])
        each = len(raw) // maps["scratch"]["ncpu"]
        # The run may have been on any CPU: the one whose `totals` grew is not known, but runs of one process rarely move.
        trails.append([struct.unpack_from("<I", raw, each * c)[0] for c in range(maps["scratch"]["ncpu"])])
    return verdicts, trails, dumps


def adds_up(maps):
    """The equations of README.md, over all configurations of one packet. Returns those that do not hold."""
    cpus = maps["totals"]["ncpu"]
    packets_seen, malformed, not_ip, *ended = per_cpu(maps["totals"]["entries"][0], cpus)
    counts = {i: [0] * 4 for i in range(6)}
    for entry in maps["stage_counts"]["entries"]:
        counts[struct.unpack("<I", bytes.fromhex(entry["key"]))[0]] = per_cpu(entry, cpus)
    asked = [sum(counts[i][:3]) for i in range(6)]
    aside = [counts[i][3] for i in range(6)]
    ran = [counts[i][0] + counts[i][1] for i in range(6)]
    acl, conntrack, balance, count, drop, backend = range(6)
    equations = {
        "acl": asked[acl] == packets_seen - malformed - not_ip,
        "conntrack": asked[conntrack] == asked[acl] - aside[acl],
        "balance": asked[balance] == asked[conntrack] - aside[conntrack],
        "backend": asked[backend] == ran[balance] - aside[balance],
        "count": asked[count] == asked[balance] + not_ip,
        "drop": asked[drop] == malformed + aside[acl] + aside[conntrack],
        "ended": sum(ended) == packets_seen,
        "dropped": ended[1] == ran[drop] and ended[0] == counts[drop][2],
        "sent": ended[3] == counts[backend][0] and ended[2] + ended[3] == asked[count] and ended[4] == 0,
    }
    return [name for name, holds in equations.items() if not holds]


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    koracle, lines, bad = sys.argv[1], ["packet\t" + "\t".join(CONFIGURATIONS)], 0
    for number, packet in enumerate(packets()):
        if len(packet) < 14:
            continue
        verdicts, trails, dumps = run(koracle, packet)
        cells, before = [], None
        for verdict, trail, maps in zip(verdicts, trails, dumps):
            cpus = maps["totals"]["ncpu"]
            words = bytes.fromhex(maps["totals"]["entries"][0]["value"])
            seen = [struct.unpack_from("<Q", words, len(words) // cpus * c)[0] for c in range(cpus)]
            cpu = next(c for c in range(cpus) if seen[c] != (before[c] if before else 0))
            before = seen
            cells.append(f"{verdict}/{trail[cpu]:03x}")
        lines.append(f"{number}\t" + "\t".join(cells))
        for equation in adds_up(dumps[-1]):
            bad += 1
            print(f"packet {number}: the counts of `{equation}` do not add up")
    text = "\n".join(lines) + "\n"
    if "--write" in sys.argv:
        with open(TABLE, "w") as f:
            f.write(text)
    with open(TABLE) as f:
        committed = f.read().splitlines()
    for have, want in zip(lines, committed):
        if have != want:
            bad += 1
            print(f"kernel: {have}\nhere:   {want}")
    bad += len(lines) != len(committed)
    print(f"{len(lines) - 1} packets in {len(CONFIGURATIONS)} configurations, {bad} differences")
    sys.exit(bad != 0)


main()
