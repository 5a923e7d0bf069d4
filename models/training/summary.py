# SPDX-License-Identifier: Apache-2.0
"""What a run comes to: its last losses, its time and its memory."""

from __future__ import annotations

import math
import resource
import sys
import time
from dataclasses import dataclass, field

import torch

from .log import Terms


@dataclass
class Summary:
    """step: the last one; terms: of its turns; seconds: mean per step, without the first two
    steps, sheets and checkpoints; memory: bytes at the peak, and whose, of the first process."""

    step: int
    terms: Terms = field(default_factory=dict)
    seconds: float = math.nan
    memory: int = 0
    memory_of: str = ""
    processes: int = 1

    def line(self) -> str:
        many = f" in each of {self.processes} processes" if self.processes > 1 else ""
        memory = f"peak memory {self.memory / 2**20:.0f} MiB ({self.memory_of}){many}"
        if math.isnan(self.seconds):
            return f"step {self.step}; {memory}"
        return f"step {self.step}: {self.seconds * 1e3:.4g} ms per step, {memory}"


class Clock:
    """Mean seconds of what runs inside, without the first two times, which warm up."""

    def __init__(self) -> None:
        self.count, self.total = 0, 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.count += 1
        if self.count > 2:
            self.total += time.perf_counter() - self._start

    @property
    def mean(self) -> float:
        return self.total / (self.count - 2) if self.count > 2 else math.nan


def peak_memory(device: torch.device) -> tuple[int, str]:
    """Bytes, and whose: of the GPU's allocator, or of this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "allocated on the GPU"
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024), "resident"
