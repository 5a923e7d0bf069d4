# SPDX-License-Identifier: Apache-2.0
"""What this machine's memory gives, now: GB/s of a copy and of a fill, by size.

A result of the benchmarks is held against the faster of the two at the size nearest to the bytes
that it moves: small problems live in caches, large ones do not. Copies count bytes read and bytes
written, fills bytes written.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor

from .timing import Contender, cuda_timing, interleave, l2_sets

CPU_SIZES = (2 << 20, 8 << 20, 32 << 20, 128 << 20, 384 << 20)  # bytes moved
CUDA_SIZES = (8 << 20, 64 << 20, 512 << 20)


class Ceiling:
    """copy, fill: GB/s by bytes moved."""

    def __init__(self, copy: dict[int, float], fill: dict[int, float]) -> None:
        self.copy, self.fill = copy, fill

    def at(self, moved: int) -> float:
        size = min(self.copy, key=lambda s: abs(math.log(s / max(1, moved))))
        return max(self.copy[size], self.fill[size])

    def rows(self) -> list[dict[str, float]]:
        return [
            {"megabytes": size / 1e6, "copy_gb_s": self.copy[size], "fill_gb_s": self.fill[size]}
            for size in self.copy
        ]


def measure(device: str, *, rounds: int, patience: float) -> Ceiling:
    copy, fill = {}, {}
    for size in CPU_SIZES if device == "cpu" else CUDA_SIZES:
        if device == "cpu":
            source, target = (torch.ones(size // 8) for _ in range(2))  # fp32: half of it each
            whole = torch.ones(size // 4)
            timings = interleave(
                [
                    Contender("copy", lambda a=source, b=target: b.copy_(a), nullcontext),
                    Contender("fill", whole.zero_, nullcontext),
                ],
                rounds=rounds,
                block_s=0.1,
                patience=patience,
            )
        else:
            sets = l2_sets(size)
            timings = {
                name: cuda_timing(lambda f=f, n=size, k=sets: f(n, k), nullcontext, rounds=rounds)
                for name, f in (("copy", _cuda_copies), ("fill", _cuda_fills))
            }
        copy[size] = size / timings["copy"].median / 1e9
        fill[size] = size / timings["fill"].median / 1e9
    return Ceiling(copy, fill)


def _cuda_copies(size: int, sets: int) -> list:
    pairs = [torch.ones(2, size // 8, device="cuda").unbind(0) for _ in range(sets)]
    return [lambda a=a, b=b: b.copy_(a) for a, b in pairs]


def _cuda_fills(size: int, sets: int) -> list:
    buffers: list[Tensor] = [torch.ones(size // 4, device="cuda") for _ in range(sets)]
    return [buffer.zero_ for buffer in buffers]
