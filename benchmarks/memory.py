# SPDX-License-Identifier: Apache-2.0
"""Peak memory of one call beyond what was there before it: outputs and workspace.

CPU. The kernel's own count of resident pages (VmHWM, reset through /proc/self/clear_refs), so
workspace of C++ and of other libraries is seen too. It needs an allocator that gives every large
block back, which the warm one does not; so it is taken in a process of its own, with
MALLOC_MMAP_THRESHOLD_ fixed: ``python -m benchmarks.run --memory-only``, which run.py starts.
Exact to about 0.3 MB: the kernel batches its counts per thread.

CUDA. torch.cuda.max_memory_allocated, in the same process.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

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
