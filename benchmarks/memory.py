# SPDX-License-Identifier: Apache-2.0
"""Peak memory of one call beyond what was there before it: outputs and workspace.

CPU. The kernel's own count of resident pages (VmHWM, reset through /proc/self/clear_refs), so
workspace of C++ and of other libraries is seen too. It needs an allocator that gives every large
block back, which the warm one does not; so it is taken in a process of its own, with
MALLOC_MMAP_THRESHOLD_ fixed: ``python -m benchmarks.run --memory-only``, which run.py starts.
Exact to about 0.3 MB: the kernel batches its counts per thread. Counted is the second call at full
size, of slow ones the first; by then the small copy of the case has loaded libraries.

CUDA. torch.cuda.max_memory_allocated, in the same process.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from . import registry
from .registry import Case, Provider
from .timing import SLOW_S

ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process in bytes; 0 where the system does not tell."""
    try:
        with open("/proc/self/status") as status:
            found = re.search(rf"^{field}:\s+(\d+) kB", status.read(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def size_of(result: Any) -> int:
    """Bytes of the tensors and arrays in a call's result."""
    if isinstance(result, (tuple, list)):
        return sum(size_of(item) for item in result)
    return result.nbytes


def peak(call: Callable[[], Any], device: str) -> int | None:
    """Bytes; None where the system does not let us measure."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        with open("/proc/self/clear_refs", "w") as reset:
            reset.write("5")
    except OSError:
        return None
    before = resident("VmRSS")
    call()
    return max(0, resident("VmHWM") - before)


class Peaks(NamedTuple):
    """found: [peak, result] in bytes by key(); seconds: how long every case took."""

    found: dict[str, list[int | None]]
    seconds: list[float]


def key(op: str, case: Case, provider: Provider) -> str:
    return " | ".join((op, case.direction, case.title, provider.name))


def of_case(op: str, case: Case) -> dict[str, list[int | None]]:
    """[peak, result] of every CPU provider of a case by key(), torch.compile left out."""
    module, found = registry.load(op), {}
    tensors = module.inputs(case, "cpu")
    small = dataclasses.replace(case.small(), dtype=case.dtype)
    few = module.inputs(small, "cpu")
    for provider in module.providers(case, "cpu"):
        forward_only = not provider.gradients and case.direction != "forward"
        if forward_only or registry.unavailable(provider):
            continue
        try:
            (same,) = (p for p in module.providers(small, "cpu") if p.name == provider.name)
            registry.workload(module, small, same, few)()
            call = registry.workload(module, case, provider, tensors)
            with provider.active():
                found[key(op, case, provider)] = _settled(call)
        except Exception as error:  # its row will say that it cannot run
            print(f"    {provider.name}: {type(error).__name__}", file=sys.stderr)
        call = None
        gc.collect()
    return found


def _settled(call: Callable[[], Any]) -> list[int | None]:
    sizes: list[int] = []
    began = time.perf_counter()
    found = peak(lambda: sizes.append(size_of(call())), "cpu")
    if time.perf_counter() - began < SLOW_S:
        found = peak(lambda: sizes.append(size_of(call())), "cpu")
    return [found, sizes[-1]]


def elsewhere(argv: Sequence[str], say: Callable[[str], None]) -> Peaks:
    """of_case of the cases that these arguments of run.py select, in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | ENVIRONMENT
    words = [word for word in argv if word != "--compiled"] + ["--memory-only"]
    command = [sys.executable, "-m", "benchmarks.run", *words, "--allocator", "default"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    cases = [json.loads(line) for line in done.stdout.splitlines() if line.endswith("}")]
    if done.returncode != 0:
        say(f"peak memory: its process ended with {done.returncode} after {len(cases)} cases")
    found = {name: peak for case in cases for name, peak in case["peaks"].items()}
    return Peaks(found, [case["seconds"] for case in cases])
