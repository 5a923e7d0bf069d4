# SPDX-License-Identifier: Apache-2.0
"""Runs a compiler only where its result would change. setup.py uses it."""

import hashlib
import json
import os
import re
import time
from pathlib import Path

import toolchain


def digest(path):
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return None


def make(root, output, command, inputs, identity, quick=()):
    """Run `command` (plus `quick`, which changes no result) unless `output` is up to date.

    Up to date by content, not by time: same command, same compiler and torch (`identity`), same
    inputs, headers included. Every new clone or unpacked sdist has new times.
    """
    record, log, depends = (Path(root, f"{output}.{end}") for end in ("json", "log", "d"))
    try:
        old = json.loads(record.read_text())
    except (OSError, ValueError):
        old = {}
    rule = [*command, identity]
    if old.get("rule") == rule and (root / output).exists():
        if all(digest(root / path) == content for path, content in old["inputs"].items()):
            return
    record.parent.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    started = time.perf_counter()
    done = toolchain.run([*command, *quick], cwd=root)
    log.write_text(done.stderr)
    if done.returncode:
        raise toolchain.BuildFailed(toolchain.first_error(done))
    print(f"  {inputs[0] if len(inputs) == 1 else output}  {time.perf_counter() - started:.1f} s")
    for line in done.stderr.splitlines():
        if "warning" in line:
            print(line)
    if depends.exists():  # a makefile rule: "object: source header header \ ..."
        words = re.split(r"(?<!\\)\s+", depends.read_text().replace("\\\n", " ").strip())[1:]
        inputs = [word.replace("\\ ", " ") for word in words if not os.path.isabs(word)]
    record.write_text(
        json.dumps({"rule": rule, "inputs": {str(p): digest(root / p) for p in inputs}})
    )


def job_count():
    """One job a core, as far as free memory goes: nvcc takes up to 2 GB."""
    if os.environ.get("MAX_JOBS"):
        return max(1, int(os.environ["MAX_JOBS"]))
    try:
        free = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
        return max(1, min(len(os.sched_getaffinity(0)), int(free.group(1)) // 2**21))
    except (OSError, AttributeError):
        return 1
