# SPDX-License-Identifier: Apache-2.0
"""A short race on this machine, now: the ops against the same in pure PyTorch."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import backends, reference
from ..clip import place_in_frame
from ..ops.capsule_mask import capsule_mask
from ..ops.helmert_warp import helmert_warp
from ..ops.push_pull import push_pull
from ..ops.uv_gather import uv_gather
from ..ops.uv_splat import uv_splat
from ..people.person import POSES, render_person
from ..people.pose import joints
from ..skeleton import PARTS, SIZE, body_parts, part_transforms

# The jobs in the order of the table, and the op whose backend each reports.
JOBS = (
    ("uv_splat", "uv_splat"),
    ("uv_gather", "uv_gather"),
    ("push_pull", "push_pull"),
    ("uv_splat, with gradients", "uv_splat_backward"),
    ("uv_gather, with gradients", "uv_splat_backward"),
)
PART_WARP = ("part warp", "helmert_warp")


class Row(NamedTuple):
    """One line of the table; times in milliseconds."""

    name: str
    backend: str
    ours: float
    pytorch: float
    runs: int


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock read next is the end of the work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def allocator(device: torch.device) -> str:
    """Which allocator the times include, in words."""
    if device.type == "cuda":
        return "PyTorch's caching CUDA allocator, warm"
    names = ("jemalloc", "tcmalloc", "mimalloc")
    loaded = [n for n in names if n in os.environ.get("LD_PRELOAD", "")]
    tuned = [n for n in ("MALLOC_TOP_PAD_", "THP_MEM_ALLOC_ENABLE") if os.environ.get(n)]
    if loaded or tuned:
        return ", ".join(loaded + tuned)
    return "the default one: each large result pays its page faults, in both columns"


def measure(
    contenders: list[Callable[[], object]], device: torch.device, runs: int, patience: float
) -> tuple[list[float], int]:
    """Median milliseconds of each contender, and of how many runs.

    They take turns, after one untimed call each. No new turn begins after `patience` seconds,
    except that each contender gets three.
    """
    times: list[list[float]] = [[] for _ in contenders]
    begin = time.perf_counter()
    for run in range(runs + 1):
        if run > 3 and time.perf_counter() - begin > patience:
            break
        for contender, record in zip(contenders, times, strict=True):
            synchronize(device)
            start = time.perf_counter()
            result = contender()
            synchronize(device)
            elapsed = (time.perf_counter() - start) * 1e3
            del result  # freeing is not part of the op
            if run:
                record.append(elapsed)
    return [statistics.median(record) for record in times], len(times[0])


def _step(
    op: Callable[[Tensor, Tensor], Tensor], features: Tensor, uv: Tensor
) -> Callable[[], object]:
    """A training step's worth of an op: forward, then the gradients of both inputs."""
    leaves = [features.detach().requires_grad_(), uv.detach().requires_grad_()]
    upstream = torch.ones_like(op(*leaves))
    return lambda: torch.autograd.grad(op(*leaves), leaves, upstream)


def race(
    device: torch.device, *, batch: int, side: int, runs: int = 9, patience: float = 4.0
) -> list[Row]:
    """Time the jobs on `batch` people in as many poses, float32, pictures and tiles side x side."""
    names = [list(POSES)[i % len(POSES)] for i in range(batch)]
    people = [render_person(name, i, side) for i, name in enumerate(names)]
    image = torch.stack([p.image for p in people]).to(device)
    part = torch.stack([p.part for p in people]).to(device)
    uv = torch.stack([p.uv for p in people]).to(device)
    atlas, weight = uv_splat(image, part, uv, size=side)

    def jobs(
        splat: Callable[..., tuple[Tensor, Tensor]],
        gather: Callable[..., Tensor],
        fill: Callable[..., Tensor],
    ) -> list[Callable[[], object]]:
        return [
            lambda: splat(image, part, uv, size=side),
            lambda: gather(atlas, part, uv),
            lambda: fill(atlas, weight),
            _step(lambda c, uv: splat(c, part, uv, size=side)[0], image, uv),
            _step(lambda a, uv: gather(a, part, uv), atlas, uv),
        ]

    ours = jobs(uv_splat, uv_gather, push_pull)
    theirs = jobs(reference.uv_splat, reference.uv_gather, reference.push_pull)
    rows = []
    for (name, op), mine, other in zip(JOBS, ours, theirs, strict=True):
        (quick, slow), count = measure([mine, other], device, runs, patience)
        rows.append(Row(name, backends.chosen(op, device), quick, slow, count))
    return rows


def _grid_sampled_parts(volume: Tensor, mask: Tensor, transform: Tensor) -> Tensor:
    """helmert_warp as one writes it in PyTorch: masked copies, `grid_sample`, running maximum."""
    N, C, D, H, W = volume.shape
    # voxel units to -1..1, on both sides of the transform
    sides = transform.new_tensor([W - 1, H - 1, D - 1])
    linear = transform[..., :3] * sides / sides[:, None]
    shift = (transform[..., :3] @ sides[:, None] + 2 * transform[..., 3:]) / sides[:, None] - 1
    theta = torch.cat((linear, shift), -1)
    out: Tensor | None = None
    for p in range(transform.shape[1]):
        grid = F.affine_grid(theta[:, p], [N, C, D, H, W], align_corners=True)
        part = volume * ((mask >> p) & 1)[:, None]
        moved = F.grid_sample(part, grid, align_corners=True)
        out = moved if out is None else torch.maximum(out, moved)
    assert out is not None
    return out


def race_of_volumes(
    device: torch.device, *, channels: int, runs: int = 9, patience: float = 4.0
) -> Row:
    """Time the part warp of one float32 volume of 65 x 65 x 33 voxels, "stand" to "walk"."""
    stand, walk = (
        body_parts(place_in_frame(torch.from_numpy(joints(POSES[pose])).float()))
        for pose in ("stand", "walk")
    )
    transform = part_transforms(stand, walk)[None].to(device)
    start, end, radius = (x[None] for x in stand.capsules[:3])
    mask = capsule_mask(start, end, radius, stand.part, size=SIZE, num_parts=len(PARTS)).to(device)
    generator = torch.Generator().manual_seed(0)
    volume = torch.rand(1, channels, *SIZE, generator=generator).to(device)
    contenders: list[Callable[[], object]] = [
        lambda: helmert_warp(volume, mask, transform),
        lambda: _grid_sampled_parts(volume, mask, transform),
    ]
    (quick, slow), count = measure(contenders, device, runs, patience)
    return Row(PART_WARP[0], backends.chosen(PART_WARP[1], device), quick, slow, count)


def table(rows: list[Row]) -> str:
    """The rows as aligned text."""
    lines = [f"{'':26}{'backend':>10}{'ours':>12}{'PyTorch':>12}{'faster':>9}"]
    for row in rows:
        ratio = row.pytorch / row.ours
        lines.append(
            f"{row.name:26}{row.backend:>10}{row.ours:>9.2f} ms{row.pytorch:>9.2f} ms{ratio:>8.1f}x"
        )
    return "\n".join(lines)
