# SPDX-License-Identifier: Apache-2.0
"""push_pull in pure PyTorch: the specification in code. Any device, any floating dtype."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import geometry_dtype


def push_pull(
    atlas: Tensor, weight: Tensor, *, radius: int | None = None, min_weight: float = 1e-3
) -> Tensor:
    """See :func:`pose_kernels.push_pull`. Differentiable through plain autograd."""
    tiles = atlas.reshape(-1, *atlas.shape[-3:])
    known = weight.reshape(-1, *weight.shape[-2:])
    return fill(tiles, known, -1 if radius is None else radius, min_weight).view(atlas.shape)


def fill(atlas: Tensor, weight: Tensor, radius: int, min_weight: float) -> Tensor:
    """atlas (M,C,H,W), weight (M,H,W); radius < 0: unlimited."""
    known, counts = _known_pyramid(weight > min_weight)
    values = [atlas.to(geometry_dtype(atlas.dtype)).where(known[0], 0)]
    for count in counts:  # pull: mean of the known children
        values.append(_child_sum(values[-1]) / count.clamp(min=1))
    filled = values[-1]
    for level in reversed(range(len(counts))):  # push: blend in from above where unknown
        filled = values[level].where(known[level], _up(filled, values[level].shape[-2:]))
    return filled.where(_within(known[0], radius), 0).to(atlas.dtype)


def fill_adjoint(grad: Tensor, weight: Tensor, radius: int, min_weight: float) -> Tensor:
    """The transpose of :func:`fill` for the same weight, radius and min_weight."""
    known, counts = _known_pyramid(weight > min_weight)
    grad_filled = grad.to(geometry_dtype(grad.dtype)).where(_within(known[0], radius), 0)
    to_values = []  # what each level's known nodes receive directly
    for level in range(len(counts)):
        to_values.append(grad_filled.where(known[level], 0))
        rest = grad_filled.where(~known[level], 0)
        grad_filled = _up_transpose(rest)
    total = grad_filled
    for level in reversed(range(len(counts))):
        share = total / counts[level].clamp(min=1)
        down = _child_sum_transpose(share, to_values[level].shape[-2:])
        total = to_values[level] + down.where(known[level], 0)
    return total.where(known[0], 0).to(grad.dtype)


def _known_pyramid(known: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Known nodes (M,1,h,w) bool of every level, and known children per node of levels 1.. ."""
    levels, counts = [known[:, None]], []
    while max(levels[-1].shape[-2:]) > 1:
        counts.append(_child_sum(levels[-1].float()))
        levels.append(counts[-1] > 0)
    return levels, counts


def _within(known: Tensor, radius: int) -> Tensor:
    """Texels no farther (Chebyshev) than radius from a known one; all of them if radius < 0."""
    H, W = known.shape[-2:]
    if radius < 0 or min(H, W) == 0:
        return torch.ones_like(known)
    ry, rx = min(radius, H), min(radius, W)  # two one-dimensional dilations
    rows = F.max_pool2d(F.pad(known.float(), (rx, rx)), (1, 2 * rx + 1), stride=1)
    return F.max_pool2d(F.pad(rows, (0, 0, ry, ry)), (2 * ry + 1, 1), stride=1) > 0


def _parents(children: int, like: Tensor) -> tuple[Tensor, Tensor, int]:
    """Own parent and next one over (clamped) of every child along an axis; number of parents."""
    parents = (children + 1) // 2
    index = torch.arange(children, device=like.device)
    side = (index // 2 + (index % 2) * 2 - 1).clamp(0, max(parents - 1, 0))
    return index // 2, side, parents


def _child_sum(x: Tensor) -> Tensor:
    for dim in (-2, -1):
        own, _, parents = _parents(x.shape[dim], x)
        shape = list(x.shape)
        shape[dim] = parents
        x = x.new_zeros(shape).index_add(dim, own, x)
    return x


def _child_sum_transpose(x: Tensor, children: torch.Size) -> Tensor:
    for dim in (-2, -1):
        own, _, _ = _parents(children[dim], x)
        x = x.index_select(dim, own)
    return x


def _up(x: Tensor, children: torch.Size) -> Tensor:
    for dim in (-2, -1):
        own, side, _ = _parents(children[dim], x)
        x = 0.75 * x.index_select(dim, own) + 0.25 * x.index_select(dim, side)
    return x


def _up_transpose(x: Tensor) -> Tensor:
    for dim in (-2, -1):
        own, side, parents = _parents(x.shape[dim], x)
        shape = list(x.shape)
        shape[dim] = parents
        x = x.new_zeros(shape).index_add(dim, own, 0.75 * x).index_add(dim, side, 0.25 * x)
    return x
