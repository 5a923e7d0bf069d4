# SPDX-License-Identifier: Apache-2.0
"""push_pull: fill the 8 x 24 tiles that the main uv_splat case really produces."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

import pose_kernels as pk

from . import bench_uv_splat
from .registry import Provider, ours
from .surface import MIN_WEIGHT, P, SurfaceCase, element_size, touched

_MAIN = dict(N=8, C=3, H=256, W=256, main=True)
CASES = [
    SurfaceCase(**_MAIN),
    SurfaceCase(**_MAIN, direction="backward"),
    SurfaceCase(**_MAIN, direction="both"),
    SurfaceCase(**_MAIN, dtype=torch.bfloat16),
    SurfaceCase(8, 3, 256, 256, channels_last=True),
    SurfaceCase(8, 3, 256, 256, radius=8),
    SurfaceCase(1, 64, 256, 256, channels_last=True),
]
DIFFERENTIABLE = ("atlas",)


@lru_cache(maxsize=2)
def _splatted(case: SurfaceCase, seed: int) -> tuple[Tensor, Tensor]:
    return bench_uv_splat.smart(*bench_uv_splat.inputs(case, "cpu", seed).values(), case.S)


def inputs(case: SurfaceCase, device: str, seed: int = 0) -> dict[str, Tensor]:
    plain = dataclasses.replace(case, direction="forward", radius=None, main=False)
    atlas, weight = _splatted(plain, seed)
    if case.channels_last:
        atlas = atlas.movedim(2, -1).contiguous().movedim(-1, 2)
    else:
        atlas = atlas.contiguous()
    return {"atlas": atlas.to(device), "weight": weight.to(device)}


def reference(case: SurfaceCase, atlas: Tensor, weight: Tensor) -> tuple[Tensor]:
    return (pk.reference.push_pull(atlas, weight, radius=case.radius, min_weight=MIN_WEIGHT),)


def pull(values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the known ones of 2 x 2 nodes, and where there are any. (M,C,H,W), (M,1,H,W)."""
    share = F.avg_pool2d(known.to(values.dtype), 2)
    return F.avg_pool2d(values, 2) / share.clamp(min=0.25), share > 0


def push(coarse: Tensor) -> Tensor:
    return F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)


def fill(values: Tensor, known: Tensor) -> Tensor:
    """values (M,C,h,h), 0 where not known (M,1,h,h); h a power of two."""
    if values.shape[-1] == 1:
        return values
    return torch.where(known, values, push(fill(*pull(values, known))))


def near(known: Tensor, radius: int, filled: Tensor) -> Tensor:
    """filled within the radius of a known texel, 0 elsewhere."""
    window = dict(kernel_size=2 * radius + 1, stride=1, padding=radius)
    return torch.where(F.max_pool2d(known.float(), **window) > 0, filled, 0)


def eager(atlas: Tensor, weight: Tensor, radius: int | None) -> tuple[Tensor]:
    """The obvious code: a pyramid of avg_pool2d, back up with bilinear interpolate."""
    known = (weight > MIN_WEIGHT).flatten(0, 1)[:, None]  # (N P, 1, S, S)
    filled = fill(torch.where(known, atlas.flatten(0, 1).to(weight.dtype), 0), known)
    if radius is not None:
        filled = near(known, radius, filled)
    return (filled.to(atlas.dtype).view_as(atlas),)


def smart(atlas: Tensor, weight: Tensor, radius: int | None) -> tuple[Tensor]:
    """Few texels are known: at full size only those are pulled, and written over what is pushed.

    One dense pass at full size is left, the interpolation.
    """
    N, _, C, S, _ = atlas.shape
    M, h = N * P, S // 2
    known = (weight > MIN_WEIGHT).flatten().nonzero().flatten()  # index into M S S
    tile, q = known // (S * S), known % (S * S)
    parent = q // S // 2 * h + q % S // 2
    count = weight.new_zeros(M * h * h)
    count = count.index_add_(0, tile * h * h + parent, weight.new_ones(len(known)))
    count = count.view(M, 1, h, h)
    rows = atlas.movedim(2, -1)
    if rows.is_contiguous():  # texels are rows of C
        values = rows.reshape(-1, C).index_select(0, known).to(weight.dtype)
        total = weight.new_zeros(M * h * h, C).index_add_(0, tile * h * h + parent, values)
        total = total.view(M, h, h, C).movedim(-1, 1)
    else:  # single elements, of C planes
        plane = tile * C + torch.arange(C, device=atlas.device)[:, None]  # (C, K)
        values = atlas.reshape(-1).index_select(0, (plane * S * S + q).flatten()).to(weight.dtype)
        total = weight.new_zeros(M * C * h * h)
        total = total.index_add_(0, (plane * h * h + parent).flatten(), values).view(M, C, h, h)
    filled = push(fill(total / count.clamp(min=1), count > 0))
    if rows.is_contiguous():
        filled = filled.movedim(1, -1).reshape(-1, C).index_copy_(0, known, values)
        filled = filled.view(M, S, S, C).movedim(-1, 1)
    else:
        filled = filled.reshape(-1).index_copy_(0, (plane * S * S + q).flatten(), values)
        filled = filled.view(M, C, S, S)
    if radius is not None:
        filled = near((weight > MIN_WEIGHT).flatten(0, 1)[:, None], radius, filled)
    return (filled.to(atlas.dtype).view_as(atlas),)


def providers(case: SurfaceCase, device: str) -> list[Provider]:
    radius = case.radius

    def pose_kernels(atlas: Tensor, weight: Tensor) -> tuple[Tensor]:
        return (pk.push_pull(atlas, weight, radius=radius, min_weight=MIN_WEIGHT),)

    return [
        *ours("push_pull", pose_kernels, device),
        Provider("avg_pool2d + interpolate", "eager", lambda *t: eager(*t, radius)),
        Provider(
            "known texels, then dense",
            "smart",
            lambda *t: smart(*t, radius),
            synchronizes=True,
        ),
    ]


def coordinate_range(case: SurfaceCase) -> int:
    return 0  # no coordinates: the weights are 1/4 and 3/4


def longest_sum(case: SurfaceCase) -> int:
    return 16 * case.S.bit_length()  # four children down and four parents up, at every level


def bytes_moved(case: SurfaceCase) -> int:
    """Weight everywhere, the known texels; the atlas written once. Backward: its gradient read."""
    e = element_size(case)
    tiles = case.N * P * case.S**2
    forward = tiles * 4 + touched(case).texels * case.C * e + tiles * case.C * e
    backward = tiles * 4 + 2 * tiles * case.C * e
    return {"forward": forward, "backward": backward, "both": forward + backward}[case.direction]


def flops(case: SurfaceCase) -> int:
    """Per node of a pyramid of 4/3 texels: 1 down, 7 up; the adjoint does the same."""
    forward = case.N * P * case.S**2 * case.C * 8 * 4 // 3
    return {"forward": forward, "backward": forward, "both": 2 * forward}[case.direction]
