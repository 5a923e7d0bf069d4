# SPDX-License-Identifier: Apache-2.0
"""capsule_mask in pure PyTorch: the specification in code. Mirrors csrc/math/capsule.h.

Any device, float32 and float64. Distances are taken capsule by capsule, so that memory grows with
the parts, not with the capsules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import geometry_dtype

LARGEST = 1e18  # numbers beyond this make a capsule empty


def capsule_mask(
    start: Tensor,
    end: Tensor,
    radius: Tensor,
    part: Tensor,
    *,
    size: Sequence[int],
    num_parts: int,
    packed: bool = True,
    softness: float | None = None,
) -> Tensor:
    """See :func:`pose_kernels.capsule_mask`. Differentiable through plain autograd."""
    dtype = geometry_dtype(start.dtype)
    radius = radius if radius.dim() == 3 else radius[..., None].expand(start.shape)
    points = start.to(dtype), end.to(dtype), radius.to(dtype)
    parts = part.to(torch.int64).expand(start.shape[:2])
    if softness is None:
        return hard(*points, parts, size, num_parts, packed)
    return soft(*points, parts, size, num_parts, softness)


def voxels(size: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and z of every voxel, flat: (D H W) each."""
    D, H, W = size
    z, y, x = (torch.arange(n, device=like.device, dtype=like.dtype) for n in (D, H, W))
    x = x.expand(D, H, W).reshape(-1)
    y = y[:, None].expand(D, H, W).reshape(-1)
    z = z[:, None, None].expand(D, H, W).reshape(-1)
    return x, y, z


class Points(NamedTuple):
    """The nearest point of a capsule's segment, seen from voxels: see csrc/math/capsule.h."""

    t: Tensor
    q: list[Tensor]  # x, y, z
    d2: Tensor


def nearest_point(a: list[Tensor], b: list[Tensor], r: list[Tensor], v: Sequence[Tensor]) -> Points:
    """a, b, r: x, y and z of ends and half-axes; v: of voxels. All broadcast against each other."""
    e = [(b[i] - a[i]) / r[i] for i in range(3)]
    length2 = e[0] * e[0] + e[1] * e[1] + e[2] * e[2]
    long = length2 >= torch.finfo(torch.float32).tiny
    wa = [(v[i] - a[i]) / r[i] for i in range(3)]
    wb = [(v[i] - b[i]) / r[i] for i in range(3)]
    along = wa[0] * e[0] + wa[1] * e[1] + wa[2] * e[2]
    t = along / length2.where(long, 1)
    t = t.where(long & (t > 0), 0)  # NaN goes to 0
    t = t.where(t < 1, 1)
    q = [(1 - t) * wa[i] + t * wb[i] for i in range(3)]
    return Points(t, q, q[0] * q[0] + q[1] * q[1] + q[2] * q[2])


def counts(start: Tensor, end: Tensor, radius: Tensor, part: Tensor, num_parts: int) -> Tensor:
    """(N, K) bool: not empty, and of one of the parts 0..P-1."""
    usable = (start.abs() <= LARGEST) & (end.abs() <= LARGEST)  # false for NaN
    usable = usable & (radius > 0) & (radius <= LARGEST) & (1 / radius <= LARGEST)
    length2 = ((end - start) / radius).square().sum(-1)
    full = usable.all(-1) & length2.isfinite()
    return full & (part >= 0) & (part < num_parts)


def _one(points: Tensor, k: int) -> list[Tensor]:
    """Capsule k of (N, K, 3), ready to be broadcast against voxels: x, y, z of (N, 1)."""
    return [points[:, k, i, None] for i in range(3)]


def hard(
    start: Tensor,
    end: Tensor,
    radius: Tensor,
    part: Tensor,
    size: Sequence[int],
    num_parts: int,
    packed: bool,
) -> Tensor:
    """(N, D, H, W) int32 where packed, else (N, P, D, H, W) bool."""
    v = voxels(size, start)
    full = counts(start, end, radius, part, num_parts)
    parts = torch.arange(num_parts, device=part.device)
    N, volume = start.shape[0], v[0].shape[0]
    mask = torch.zeros(
        (N, volume) if packed else (N, num_parts, volume),
        dtype=torch.int32 if packed else torch.bool,
        device=start.device,
    )
    for k in range(start.shape[1]):
        d2 = nearest_point(_one(start, k), _one(end, k), _one(radius, k), v).d2
        inside = (d2 <= 1) & full[:, k, None]
        if packed:
            bit = torch.ones_like(part[:, k]) << part[:, k].clamp(0, num_parts - 1)
            mask = mask | inside * bit.to(torch.int32)[:, None]
        else:
            own = part[:, k, None] == parts
            mask = mask | inside[:, None] & own[..., None]
    return mask.view(*mask.shape[:-1], *size)


class Winners(NamedTuple):
    """The capsule nearest to each voxel, per part; the lowest index where several are."""

    capsule: Tensor  # (N, P, D H W) int64; 0 where there is none
    found: Tensor  # (N, P, 1) bool: the part has a capsule that counts


def winners(
    start: Tensor,
    end: Tensor,
    radius: Tensor,
    part: Tensor,
    size: Sequence[int],
    num_parts: int,
) -> Winners:
    start, end, radius = start.detach(), end.detach(), radius.detach()
    v = voxels(size, start)
    full = counts(start, end, radius, part, num_parts)
    own = full[:, :, None] & (part[..., None] == torch.arange(num_parts, device=part.device))
    shape = (start.shape[0], num_parts, v[0].shape[0])
    index = torch.zeros(shape, dtype=torch.int64, device=start.device)
    least = torch.full(shape, float("inf"), dtype=start.dtype, device=start.device)
    for k in range(start.shape[1]):
        d2 = nearest_point(_one(start, k), _one(end, k), _one(radius, k), v).d2[:, None]
        less = (d2 < least) & own[:, k, :, None]
        least = torch.where(less, d2, least)
        index = torch.where(less, k, index)
    return Winners(index, own.any(1)[..., None])


def _of_winners(points: Tensor, index: Tensor) -> list[Tensor]:
    """x, y and z (N, P, D H W) of each voxel's winner, of (N, K, 3)."""
    flat = index.flatten(1)
    return [points[:, :, i].gather(1, flat).view_as(index) for i in range(3)]


def _usable(start: Tensor, end: Tensor, radius: Tensor, full: Tensor) -> tuple[Tensor, ...]:
    """The same capsules with harmless numbers in those that are empty."""
    full = full[..., None]
    return start.where(full, 0), end.where(full, 0), radius.where(full, 1)


def soft(
    start: Tensor,
    end: Tensor,
    radius: Tensor,
    part: Tensor,
    size: Sequence[int],
    num_parts: int,
    softness: float,
) -> Tensor:
    """(N, P, D, H, W): sigma((1 - d) / s) of the nearest capsule, 0 in a part without any."""
    full = counts(start, end, radius, part, num_parts)
    points = _usable(start, end, radius, full)
    won = winners(start, end, radius, part, size, num_parts)
    a, b, r = (_of_winners(x, won.capsule) for x in points)
    d2 = nearest_point(a, b, r, voxels(size, start)).d2
    d = d2.where(d2 > 0, 1).sqrt().where(d2 > 0, 0)  # no gradient at d = 0
    mask = torch.sigmoid((1 - d) / softness).where(won.found, 0)
    return mask.view(*mask.shape[:2], *size)


def _slopes(
    grad: Tensor,
    start: Tensor,
    end: Tensor,
    radius: Tensor,
    part: Tensor,
    softness: float,
) -> tuple[Winners, list[Tensor], Points, Tensor]:
    """Winners, their half-axes, nearest points, and grad sigma (1 - sigma) / (s d) of each."""
    num_parts, size = grad.shape[1], grad.shape[2:]
    full = counts(start, end, radius, part, num_parts)
    points = _usable(start, end, radius, full)
    won = winners(start, end, radius, part, size, num_parts)
    a, b, r = (_of_winners(x, won.capsule) for x in points)
    point = nearest_point(a, b, r, voxels(size, start))
    d = point.d2.sqrt()
    sigma = torch.sigmoid((1 - d) / softness)
    slope = sigma * torch.sigmoid((d - 1) / softness) / (softness * d.where(d > 0, 1))
    slope = slope.where(won.found & (d > 0), 0)
    return won, r, point, grad.reshape(won.capsule.shape) * slope


def soft_backward(
    grad: Tensor, start: Tensor, end: Tensor, radius: Tensor, part: Tensor, softness: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of :func:`soft`, by the formulas of csrc/math/capsule.h."""
    won, r, (t, q, _), slope = _slopes(grad, start, end, radius, part, softness)
    index = won.capsule.flatten(1)

    def collect(terms: list[Tensor]) -> Tensor:
        zeros = start.new_zeros(start.shape[:2], dtype=torch.float64)  # of as many as all voxels
        sums = [zeros.scatter_add(1, index, term.double().flatten(1)) for term in terms]
        return torch.stack(sums, -1).to(start.dtype)

    axes = range(3)
    return (
        collect([slope * (1 - t) * q[i] / r[i] for i in axes]),
        collect([slope * t * q[i] / r[i] for i in axes]),
        collect([slope * q[i] * q[i] / r[i] for i in axes]),
    )


def soft_tangent(
    start: Tensor,
    end: Tensor,
    radius: Tensor,
    part: Tensor,
    size: Sequence[int],
    num_parts: int,
    softness: float,
    tangents: dict[str, Tensor],
) -> Tensor:
    """Directional derivative of :func:`soft` along the tangents of start, end and radius."""
    ones = start.new_ones((start.shape[0], num_parts, *size))
    won, r, (t, q, _), slope = _slopes(ones, start, end, radius, part, softness)
    moved = torch.zeros_like(slope)
    for name, share in (("start", 1 - t), ("end", t), ("radius", None)):
        if name in tangents:
            d = _of_winners(tangents[name], won.capsule)
            for i in range(3):
                factor = q[i] if share is None else share
                moved = moved + factor * q[i] / r[i] * d[i]
    return (slope * moved).view(ones.shape)
