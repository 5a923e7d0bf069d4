# SPDX-License-Identifier: Apache-2.0
"""compute-sanitizer over tools/sanitize.py: its four tools side by side, and what each found.

memcheck finds accesses out of bounds and misaligned ones, racecheck shared memory that two threads
use without a barrier between them, initcheck reads of memory that nothing has written, synccheck
barriers that not all threads reach.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parent
ERRORS = 99  # exit status that compute-sanitizer is asked for when it finds any
RUNS = {  # name -> (tool, arguments of sanitize.py)
    "memcheck": ("memcheck", ["--backend", "cuda"]),
    "racecheck": ("racecheck", ["--backend", "cuda"]),
    "initcheck": ("initcheck", ["--backend", "cuda"]),
    "synccheck": ("synccheck", ["--backend", "cuda"]),
    "memcheck, triton": ("memcheck", ["--backend", "triton"]),
}
OURS = re.compile(r"pose_kernels|_C_cuda|_kernel\b")


def find(default: str = "/usr/local/cuda") -> str | None:
    """compute-sanitizer: on PATH, in CUDA_HOME, beside nvcc, in /usr/local/cuda."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    nvcc = shutil.which("nvcc")
    homes += [str(Path(nvcc).resolve().parents[1]) if nvcc else None, default]
    folders = [os.environ.get("PATH", os.defpath)]
    for home in filter(None, homes):
        folders += [f"{home}/bin", f"{home}/compute-sanitizer"]
    found = (shutil.which("compute-sanitizer", path=folder) for folder in folders)
    return next(filter(None, found), None)


def read(text: str, status: int | None) -> dict[str, Any]:
    """What a run's output means. status: its exit status, None when it was stopped."""
    lines = text.splitlines()
    told = [line for line in lines if line.startswith("=========")]
    called = [line for line in lines if line and not line.startswith("=========")]
    found: dict[str, Any] = {"outcome": "passed", "errors": 0}
    for pattern in (r"ERROR SUMMARY: (\d+) error", r"RACECHECK SUMMARY: (\d+) hazard"):
        if match := re.search(pattern, text):
            found["errors"] = int(match[1])
    if status is None:
        found |= {"outcome": "failed", "why": f"out of time after: {(called or ['nothing'])[-1]}"}
    elif status == ERRORS or found["errors"]:
        first = next((i for i, line in enumerate(lines) if _accuses(line)), 0)
        before = [line for line in lines[:first] if line and not line.startswith("=========")]
        ours = any(OURS.search(line) for line in told)
        where = f"first in {before[-1]}" if before else "before the first op"
        found |= {"why": f"{found['errors']} errors, {where}", "ours": ours}
        if ours:
            found["outcome"] = "failed"
        else:
            found["why"] += "; none names a kernel of this package"
    elif status:
        found |= {"outcome": "failed", "why": f"exit status {status}: {' '.join(lines[-3:])}"}
    if "why" in found:
        found["output"] = "\n".join([line for line in told if _accuses(line) or " at " in line])[
            :4000
        ]
        found["tail"] = "\n".join(lines[-30:])[-3000:]
    return found


def _accuses(line: str) -> bool:
    words = r"========= (Error|Invalid|Misaligned|Uninitialized|Race|Barrier|Divergent|Program hit)"
    return bool(re.match(words, line))


def left_over(text: str, ops: Sequence[str]) -> list[str]:
    """The ops that a run did not come to: after an invalid access the process has no GPU."""
    words = [line.split()[0] for line in text.splitlines() if line.strip()]
    called = [word for word in words if word in ops]
    if re.search(r"^\d+ calls on .*: done$", text, re.MULTILINE):
        return []
    return list(ops[ops.index(called[-1]) + 1 :]) if called else []


def joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the runs of one tool found together."""
    whole = {**parts[0], "starts": len(parts), "errors": sum(part["errors"] for part in parts)}
    whole["seconds"] = max(part["seconds"] for part in parts)  # since the first began
    if any(part["outcome"] == "failed" for part in parts):
        whole["outcome"] = "failed"
    for key, between in (("why", "; "), ("output", "\n")):
        if told := [part[key] for part in parts if part.get(key)]:
            whole[key] = between.join(told)
    return whole


def stage(
    record: Any,
    runs: dict[str, tuple[str, list[str]]] = RUNS,
    ops: dict[str, list[str]] | None = None,
) -> None:
    """Fills the record of the stage of tools/gpu_check.py. ops: by backend, in their order."""
    found = find()
    if found is None:
        where = "on PATH, in CUDA_HOME, beside nvcc or in /usr/local/cuda"
        record.update(outcome="skipped", why=f"there is no compute-sanitizer {where}")
        return
    if ops is None:
        from op_calls import chosen

        ops = {name: list(dict.fromkeys(c.op for c in chosen(name))) for name in ("cuda", "triton")}
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # a block per tensor
    parts: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    begun = time.monotonic()
    seconds = record.left
    with tempfile.TemporaryDirectory(prefix="pose_kernels_sanitizer_") as folder:
        logs: dict[str, Path] = {}

        def start(name: str, rest: Sequence[str] = ()) -> subprocess.Popen[bytes]:
            tool, arguments = runs[name]
            command = [found, "--tool", tool, "--error-exitcode", str(ERRORS)]
            command += ["--print-limit", "20", sys.executable, str(TOOLS / "sanitize.py")]
            command += [*arguments, *(word for op in rest for word in ("--op", op))]
            logs[name] = Path(folder, f"{list(runs).index(name)}-{len(parts[name])}.log")
            with open(logs[name], "w") as log:
                return subprocess.Popen(command, stdout=log, stderr=log, env=environment)

        running = {name: start(name) for name in runs}
        while running:
            time.sleep(0.1)
            for name, process in list(running.items()):
                status, passed = process.poll(), time.monotonic() - begun
                if status is None and passed < seconds:
                    continue
                if status is None:
                    process.kill()
                    process.wait()
                text = logs[name].read_text(errors="replace")
                parts[name].append({**read(text, status), "seconds": round(passed, 1)})
                del running[name]
                rest = left_over(text, ops[runs[name][1][1]]) if status else []
                if rest:
                    running[name] = start(name, rest)
                record.update(runs={name: joined(done) for name, done in parts.items() if done})
    results = record.content["runs"]
    failed = [f"{name}: {r['why']}" for name, r in results.items() if r["outcome"] == "failed"]
    if failed:
        record.update(outcome="failed", why="; ".join(failed))
    else:
        record.update(outcome="passed")
