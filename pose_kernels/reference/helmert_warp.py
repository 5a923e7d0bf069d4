# SPDX-License-Identifier: Apache-2.0
"""helmert_warp in pure PyTorch: the specification in code. Any device, any floating dtype."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import geometry_dtype
from .layout import in_format_of


def helmert_warp(volume: Tensor, mask: Tensor, transform: Tensor) -> Tensor:
    """See :func:`pose_kernels.helmert_warp`. Differentiable through plain autograd."""
    best = None
    for i in range(transform.shape[1]):
        value = _sample(volume, mask, transform, i).value
        best = value if best is None else torch.where(_stays(best, value), best, value)
    assert best is not None
    return _as_volume(best, volume)


def helmert_warp_tangent(
    volume: Tensor,
    mask: Tensor,
    transform: Tensor,
    volume_tangent: Tensor | None,
    mask_tangent: Tensor | None,
    transform_tangent: Tensor | None,
) -> Tensor:
    """Directional derivative of the result; the winners are those of the primal inputs."""
    best = moved = None
    for i in range(transform.shape[1]):
        s = _sample(volume, mask, transform, i)
        tangent = torch.zeros_like(s.value)
        if volume_tangent is not None:
            values = _rows(volume_tangent, s.weight.dtype)
            for q, w, m in zip(s.corner, s.weight, s.mask, strict=True):
                tangent = tangent + _read(values, q, m, mask) * (w * m)[..., None]
        if mask_tangent is not None or transform_tangent is not None:
            values = _rows(volume, s.weight.dtype)
            change = torch.zeros_like(s.weight)
            if mask_tangent is not None:
                dm = mask_tangent.movedim(1, 0)[i].reshape(-1)
                change = change + s.weight * torch.stack([dm[q] for q in s.corner])
            if transform_tangent is not None:
                step = transform_tangent[:, i].to(s.weight.dtype)
                ds = (s.voxel.to(step.dtype) @ step.transpose(1, 2)).movedim(-1, 0)
                change = change + s.mask * (s.derivative * ds).sum(1)
            change = change.where(s.covered, 0)
            for q, m, w in zip(s.corner, s.mask, change, strict=True):
                tangent = tangent + _read(values, q, m, mask) * w[..., None]
        if best is None or moved is None:
            best, moved = s.value, tangent
        else:
            stays = _stays(best, s.value)
            best, moved = torch.where(stays, best, s.value), torch.where(stays, moved, tangent)
    assert moved is not None
    return _as_volume(moved, volume)


def helmert_warp_backward(
    grad: Tensor,
    volume: Tensor,
    mask: Tensor,
    transform: Tensor,
    need_volume: bool,
    need_mask: bool,
    need_transform: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of volume, mask and transform; those not needed are empty. One part at a time."""
    N, C = volume.shape[:2]
    P = transform.shape[1]
    best = winner = None
    for i in range(P):
        value = _sample(volume, mask, transform, i).value
        if best is None or winner is None:
            best, winner = value, torch.zeros_like(value, dtype=torch.int16)
        else:
            stays = _stays(best, value)
            best, winner = torch.where(stays, best, value), winner.where(stays, i)
    assert best is not None
    g, values = _rows(grad, best.dtype).view_as(best), _rows(volume, best.dtype)
    grad_values = torch.zeros_like(values)
    grad_mask = torch.zeros_like(mask) if need_mask else mask.new_empty(0)
    grad_transform = torch.zeros_like(transform) if need_transform else transform.new_empty(0)
    for i in range(P):
        s = _sample(volume, mask, transform, i)
        g_i = g.where((winner == i) & s.covered[..., None], 0)
        change = best.new_zeros(N, 3, len(s.voxel))
        for k, q in enumerate(s.corner):
            if need_volume:
                moved = g_i * (s.weight[k] * s.mask[k])[..., None]
                grad_values.index_add_(0, q.flatten(), moved.flatten(0, 1))
            if need_mask or need_transform:
                dot = (g_i * _read(values, q, s.mask[k], mask)).sum(-1)  # (N, M)
                if need_mask:
                    passed = (s.weight[k] * dot).flatten()  # 0 where not covered: so is g_i
                    flat = dot.new_zeros(len(values)).index_add_(0, q.flatten(), passed)
                    grad_mask[:, i] += flat.view(N, *volume.shape[2:])
                change = change + s.derivative[k].movedim(0, 1) * (s.mask[k] * dot)[:, None]
        if need_transform:
            grad_transform[:, i] = (change.double() @ s.voxel).to(transform.dtype)
    if not need_volume:
        return volume.new_empty(0), grad_mask, grad_transform
    return _as_volume(grad_values.view(g.shape), grad), grad_mask, grad_transform


class _Sample(NamedTuple):
    """One part at every output voxel (M = D H W); corners in the order of csrc/math/trilinear.h."""

    value: Tensor  # (N, M, C): sum over corners of w m V
    covered: Tensor  # (N, M) bool
    corner: Tensor  # (8, N, M) int64: flat index into (N, D, H, W); 0 where not a corner
    weight: Tensor  # (8, N, M): w_q; 0 outside
    mask: Tensor  # (8, N, M): m_i(q); 0 outside
    derivative: Tensor  # (8, 3, N, M): d w_q / d position (x, y, z)
    voxel: Tensor  # (M, 4) float64: (x, y, z, 1)


def _sample(volume: Tensor, mask: Tensor, transform: Tensor, i: int) -> _Sample:
    N, _, D, H, W = volume.shape
    accumulator = geometry_dtype(volume.dtype)
    index = (torch.arange(size, device=volume.device) for size in (D, H, W))
    z, y, x = (axis.flatten() for axis in torch.meshgrid(*index, indexing="ij"))
    voxel = torch.stack([x, y, z, torch.ones_like(x)], 1).double()
    # In float64: in float32 the fraction of a position would be off by 1e-5.
    position = (voxel @ transform[:, i].double().transpose(1, 2)).movedim(-1, 0)
    finite = transform[:, i].isfinite().all(-1).all(-1)[:, None] & position.isfinite().all(0)
    position = position.where(finite, -2.0)
    lower = position.detach().floor()
    fraction = (position - lower).to(accumulator)
    lower = lower.clamp(-2, max(D, H, W) + 1).long()

    sizes = (W, H, D)
    inside = finite
    for axis in range(3):
        inside = inside & (lower[axis] <= sizes[axis] - 1)
        inside = inside & ((lower[axis] >= 0) | ((lower[axis] == -1) & (fraction[axis] > 0)))
    batch = torch.arange(N, device=volume.device)[:, None]
    corners, weights, masks, derivatives = [], [], [], []
    for k in range(8):
        far = (k & 1, k >> 1 & 1, k >> 2 & 1)
        q = [lower[axis] + far[axis] for axis in range(3)]
        exists = inside
        for axis in range(3):
            exists = exists & (q[axis] >= 0) & (q[axis] < sizes[axis])
        flat = (((batch * D + q[2]) * H + q[1]) * W + q[0]).where(exists, 0)
        along = [fraction[axis] if far[axis] else 1 - fraction[axis] for axis in range(3)]
        sign = [1.0 if far[axis] else -1.0 for axis in range(3)]
        slope = torch.stack(
            [
                sign[0] * along[1] * along[2],
                sign[1] * along[0] * along[2],
                sign[2] * along[0] * along[1],
            ]
        )
        corners.append(flat)
        weights.append((along[0] * along[1] * along[2]).where(exists, 0))
        derivatives.append(slope.where(exists, 0))
        masks.append(_mask_at(mask, i, flat, accumulator).where(exists, 0))
    corner, weight, m = torch.stack(corners), torch.stack(weights), torch.stack(masks)
    covered = (m != 0).any(0)
    m = m.where(covered, 0)
    values = _rows(volume, accumulator)
    value = values.new_zeros(*covered.shape, values.shape[1])
    for q, w, m_q in zip(corner, weight, m, strict=True):
        weighted = (w * m_q)[..., None]
        read = values[q]
        # What has no weight is not read, be it NaN; but it still makes the derivative of weights.
        value = value + read.where((weighted != 0) | read.isfinite(), 0) * weighted
    return _Sample(value, covered, corner, weight, m, torch.stack(derivatives), voxel)


def _read(values: Tensor, q: Tensor, m: Tensor, mask: Tensor) -> Tensor:
    """Features (N, M, C) at corner q. What lies outside the bits is nothing, NaN included.

    Outside a floating mask it is not nothing: the mask's gradient is made of it.
    """
    read = values[q]
    return read if mask.is_floating_point() else read.where((m != 0)[..., None], 0)


def _mask_at(mask: Tensor, i: int, flat: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dim() == 5:
        return mask.movedim(1, 0)[i].flatten()[flat].to(dtype)
    return (mask.flatten()[flat] >> i & 1).to(dtype)


def _stays(best: Tensor, value: Tensor) -> Tensor:
    """Whether the running maximum keeps its value: the lowest index wins, the first NaN stays."""
    return (best >= value) | best.isnan()


def _rows(volume: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, C, D, H, W) as (N D H W, C)."""
    N, C, D, H, W = volume.shape
    return volume.movedim(1, -1).reshape(N * D * H * W, C).to(dtype)


def _as_volume(rows: Tensor, like: Tensor) -> Tensor:
    N, C, D, H, W = like.shape
    volume = rows.transpose(1, 2).reshape(N, C, D, H, W)
    return in_format_of(volume.to(like.dtype), like, spatial=3)
