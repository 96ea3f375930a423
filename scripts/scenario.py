# SPDX-License-Identifier: MIT OR Apache-2.0
"""Reads the scenarios of livebpf/tests/data/scenarios (see the README there) and runs them on the kernel, or on the livebpf CLI.

Both ways return one record for each step that can be right or wrong: (what, wanted, got)."""
import fnmatch
import json
import os
import re
import subprocess
import tempfile

from bpfelf import Elf

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCENARIOS = os.path.join(ROOT, "livebpf", "tests", "data", "scenarios")


def read_all(folder=SCENARIOS):
    """Every scenario, in the order T1, T2, ..., A1, ..."""
    found = []
    for name in os.listdir(folder):
        if name.endswith(".json"):
            with open(os.path.join(folder, name)) as f:
                found.append(json.load(f))
    return sorted(found, key=lambda s: (s["name"][0] != "T", int((re.findall(r"\d+", s["name"]) or [999])[0]), s["name"]))


def data_of(scenario):
    """The packet, as hexadecimal digits."""
    data = scenario.get("data", {"zero": 64})
    return data["hex"] if "hex" in data else "00" * data["zero"]


def expand(steps, path, rename=None):
    """The steps with `run_each` replaced by a `run` for each program, and programs renamed."""
    rename, result = rename or {}, []
    for step in steps:
        if "run_each" in step:
            names = fnmatch.filter(Elf(path).programs(), step["run_each"])
            if len(names) != step["programs"]:
                raise ValueError(f"{path}: {step['run_each']} matches {len(names)} programs, not {step['programs']}")
            result += [{"run": n, "retval": step["retval"]} for n in names]
            continue
        step = dict(step)
        if "run" in step:
            step["run"] = rename.get(step["run"], step["run"])
        if "set" in step:
            step["set"] = [*step["set"][:2], rename.get(step["set"][2], step["set"][2])]
        result.append(step)
    return result


def describe(step):
    if "run" in step:
        times = step.get("times", 1) * step.get("threads", 1)
        return step["run"] + (f" x{times}" if times > 1 else "")
    if "var" in step:
        return step["var"]
    if "clear" in step:
        return "clear {}[{}]".format(*step["clear"])
    if "set" in step:
        return "set {}[{}]={}".format(*step["set"])
    return next(iter(step))


# ---- the kernel, through koracle ----

def on_kernel(koracle, path, steps, data, prog_type=None):
    """Runs expanded steps by BPF_PROG_TEST_RUN. Root only. Returns records, or raises RuntimeError."""
    refused = [s for s in steps if "refuse" in s]
    if refused:
        return [_refused_by_kernel(koracle, path, s) for s in refused]
    arguments, asked, repeat = [], [], _common_repeat(steps)
    for step in steps:
        asked += [(step, len(arguments))]
        arguments += _kernel_step(step, repeat)
    command = [koracle, "seq", path, "--data-hex", data, "--repeat", str(repeat)]
    command += ["--type", prog_type] if prog_type else []
    done = subprocess.run(command + [a for pair in arguments for a in pair], capture_output=True, text=True)
    try:
        answers = json.loads(done.stdout)["steps"]
    except (ValueError, KeyError):
        raise RuntimeError((done.stdout + done.stderr).strip()[-2000:]) from None
    records = []
    for step, first in asked:
        count = len(_kernel_step(step, repeat))
        records += [_kernel_record(step, a) for a in answers[first:first + count]][-1:]
    return [r for r in records if r]


def _common_repeat(steps):
    """koracle repeats all runs or none: 1000 where every run wants 1000, else the runs are written out."""
    times = {s.get("times", 1) * s.get("threads", 1) for s in steps if "run" in s}
    return times.pop() if len(times) == 1 else 1


def _kernel_step(step, repeat):
    if "set" in step:
        return [("--fill", "{}:{}={}".format(*step["set"]))]
    if "clear" in step:
        return [("--del", "{}:{}".format(*step["clear"]))]
    if "setvar" in step:
        return [("--setvar", f"{step['setvar']}={step['value']}")]
    if "var" in step:
        return [("--peek", step["var"])]
    if "run" in step:
        times = step.get("times", 1) * step.get("threads", 1)
        return [("--call", step["run"])] * (times // repeat)
    raise ValueError(f"no such step: {step}")


def _kernel_record(step, answer):
    error = answer.get("errno") if answer.get("err") else None
    if "var" in step:
        return describe(step), step["value"], answer["value"]
    if "run" in step:
        return describe(step), step["retval"], error or answer["retval"]
    if "clear" in step or "set" in step:
        return (describe(step), step.get("error", "ok"), error or "ok") if error or "error" in step else None
    return None


def _refused_by_kernel(koracle, path, step):
    done = subprocess.run([koracle, "verify", path, "--prog", step["refuse"]], capture_output=True, text=True)
    program = json.loads(done.stdout)["programs"][0]
    wanted = step["kernel_message"]
    got = wanted if program["verdict"] == "reject" and wanted in program["log_tail"] else program["verdict"] + ": " + program["log_tail"]
    return "refuse " + step["refuse"], wanted, got


# ---- livebpf, through the CLI's batch files ----

def on_livebpf(livebpf, engine, path, steps, data, prog_type=None):
    """Runs expanded steps in one process of the CLI. Returns records, or raises RuntimeError."""
    elf = Elf(path)
    with tempfile.TemporaryDirectory() as folder:
        packet, batch = os.path.join(folder, "packet"), os.path.join(folder, "batch")
        with open(packet, "wb") as f:
            f.write(bytes.fromhex(data))
        lines = [f"prog loadall {path}" + (f" type {prog_type}" if prog_type else "")]
        sections = {}
        for step in steps:
            lines.append(_batch_line(step, elf, packet, sections))
        with open(batch, "w") as f:
            f.write("\n".join(lines) + "\n")
        done = subprocess.run([livebpf, "--engine", engine, "-j", "batch", "--keep-going", "file", batch],
                              capture_output=True, text=True, timeout=120)
    try:
        answers = json.loads(done.stdout)
    except ValueError:
        raise RuntimeError((done.stdout + done.stderr).strip()[-2000:] or f"exit status {done.returncode}") from None
    if len(answers) != len(lines):
        raise RuntimeError(f"{len(lines)} commands, {len(answers)} answers: {json.dumps(answers)[-600:]}")
    if "error" in answers[0]:
        raise RuntimeError(answers[0]["error"])
    return [r for r in (_batch_record(s, a, elf) for s, a in zip(steps, answers[1:])) if r]


def _hex(number, size):
    return " ".join(f"{b:02x}" for b in (number % (1 << 8 * size)).to_bytes(size, "little"))


def _batch_line(step, elf, packet, sections):
    if "set" in step:
        array, index, program = step["set"]
        return f"map update name {array} key hex {_hex(index, 4)} value name {program}"
    if "clear" in step:
        return f"map delete name {step['clear'][0]} key hex {_hex(step['clear'][1], 4)}"
    if "setvar" in step:
        # The map's whole value is written: what this script has not set itself is as the object has it.
        name, size, offset, length = elf.variable(step["setvar"])
        if name not in sections:
            section = next(s for s in elf.sections if s["name"] == name)
            sections[name] = bytearray(elf.content(section).ljust(size, b"\0"))
        sections[name][offset:offset + length] = (step["value"] % (1 << 8 * length)).to_bytes(length, "little")
        return f"map update name {name} key hex {_hex(0, 4)} value hex {sections[name].hex(' ')}"
    if "var" in step:
        return f"map lookup name {elf.variable(step['var'])[0]} key hex {_hex(0, 4)}"
    if "run" in step:
        times = step.get("times", 1) * step.get("threads", 1)
        return f"prog run name {step['run']} data_in {packet}" + (f" repeat {times}" if times > 1 else "")
    raise ValueError(f"no such step: {step}")


ERRNO_TEXT = {"ENOENT": "No such file or directory", "E2BIG": "Argument list too long", "EINVAL": "Invalid argument", "EBADF": "Bad file descriptor"}


def _batch_record(step, answer, elf):
    error = answer.get("error")
    if "error" in step and error is not None:
        known = step["error"] in error or ERRNO_TEXT[step["error"]].lower() in error.lower()
        return describe(step), step["error"], step["error"] if known else error
    if error is not None:
        return describe(step), step.get("retval", step.get("value", "ok")), error
    if "var" in step:
        _, _, offset, length = elf.variable(step["var"])
        value = bytes(int(b, 16) for b in answer["output"]["value"])
        return describe(step), step["value"], int.from_bytes(value[offset:offset + length], "little")
    if "run" in step:
        return describe(step), step["retval"], answer["output"]["retval"]
    return (describe(step), step["error"], "ok") if "error" in step else None
