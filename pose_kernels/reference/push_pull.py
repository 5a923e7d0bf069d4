# SPDX-License-Identifier: Apache-2.0
"""push_pull in pure PyTorch: the specification in code. Any device, any floating dtype."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import geometry_dtype


def push_pull(
    atlas: Tensor, weight: Tensor, *, radius: int | None = None, min_weight: float = 1e-3
) -> Tensor:
    """See :func:`pose_kernels.push_pull`. Differentiable through plain autograd."""
    count = math.prod(atlas.shape[:-3])
    tiles = atlas.reshape(count, *atlas.shape[-3:])
    known = weight.reshape(count, *weight.shape[-2:]).to(geometry_dtype(atlas.dtype))
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


# Each of these works along the last axis; both axes are done with a transpose in between.


def _both_axes(along: Callable[[Tensor, int], Tensor], x: Tensor, sides: tuple[int, int]) -> Tensor:
    return along(along(x, sides[1]).mT, sides[0]).mT


def _sum_pairs(x: Tensor, _: int) -> Tensor:
    return F.pad(x, (0, x.shape[-1] % 2)).unflatten(-1, (-1, 2)).sum(-1)


def _repeat_pairs(x: Tensor, children: int) -> Tensor:
    return x.repeat_interleave(2, -1)[..., :children]


def _upsample(x: Tensor, children: int) -> Tensor:
    """3/4 of the own parent, 1/4 of the one before (even child) or after (odd), clamped."""
    before = torch.cat([x[..., :1], x[..., :-1]], -1)
    after = torch.cat([x[..., 1:], x[..., -1:]], -1)
    pairs = torch.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], -1)
    return pairs.flatten(-2)[..., :children]


def _upsample_transpose(x: Tensor, _: int) -> Tensor:
    even, odd = F.pad(x, (0, x.shape[-1] % 2)).unflatten(-1, (-1, 2)).unbind(-1)
    own = 0.75 * (even + odd)
    to_before = torch.cat([even[..., :1] + even[..., 1:2], even[..., 2:], 0 * even[..., :1]], -1)
    to_after = torch.cat([0 * odd[..., :1], odd[..., :-2], odd[..., -2:-1] + odd[..., -1:]], -1)
    if x.shape[-1] <= 2:  # one parent, which is its own neighbor
        to_before, to_after = even, odd
    return own + 0.25 * (to_before + to_after)


def _child_sum(x: Tensor) -> Tensor:
    return _both_axes(_sum_pairs, x, (0, 0))


def _child_sum_transpose(x: Tensor, children: torch.Size) -> Tensor:
    return _both_axes(_repeat_pairs, x, (children[0], children[1]))


def _up(x: Tensor, children: torch.Size) -> Tensor:
    return _both_axes(_upsample, x, (children[0], children[1]))


def _up_transpose(x: Tensor) -> Tensor:
    return _both_axes(_upsample_transpose, x, (0, 0))
