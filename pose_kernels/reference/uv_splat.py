# SPDX-License-Identifier: Apache-2.0
"""uv_splat in pure PyTorch: the specification in code. Any device, any floating dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import geometry_dtype
from .bilinear import TilePoints, tile_points
from .layout import in_format_of


def uv_splat(
    image: Tensor,
    part: Tensor,
    uv: Tensor,
    *,
    num_parts: int = 24,
    size: int = 256,
    normalize: bool = True,
    min_weight: float = 1e-3,
) -> tuple[Tensor, Tensor]:
    """See :func:`pose_kernels.uv_splat`. Differentiable through plain autograd."""
    points = tile_points(part, uv.to(geometry_dtype(image.dtype)), num_parts, size)
    total, weight = accumulate(points, points.weight, image, num_parts, size)
    if normalize:
        visible = weight > min_weight
        total = (total / weight.where(visible, 1)[:, :, None]).where(visible[:, :, None], 0)
    return in_format_of(total.to(image.dtype), image), weight


def accumulate(
    points: TilePoints, weights: Tensor, image: Tensor, num_parts: int, size: int
) -> tuple[Tensor, Tensor]:
    """Sum of weights * image and of weights, per texel. weights (4, N, H W)."""
    N, C = image.shape[:2]
    accumulator = geometry_dtype(image.dtype)
    color = image.reshape(N, C, points.inside.shape[1]).transpose(1, 2).to(accumulator)
    color = color.where(points.inside[..., None], 0).reshape(points.inside.numel(), C)
    texels = N * num_parts * size * size
    total = color.new_zeros(texels, C)
    weight = color.new_zeros(texels)
    for q, w in zip(points.texel, weights, strict=True):
        q, w = q.reshape(-1), w.reshape(-1)
        total = total.index_add(0, q, color * w[:, None])
        weight = weight.index_add(0, q, w)
    total = total.view(N, num_parts, size, size, C).movedim(-1, 2)
    return total, weight.view(N, num_parts, size, size)


def uv_splat_tangent(
    image: Tensor,
    part: Tensor,
    uv: Tensor,
    atlas: Tensor,
    weight: Tensor,
    image_tangent: Tensor | None,
    uv_tangent: Tensor | None,
    *,
    normalize: bool,
    min_weight: float,
) -> tuple[Tensor, Tensor | None]:
    """Directional derivative of (atlas, weight) along (image_tangent, uv_tangent).

    The second is None where uv has no tangent: weight does not move.
    """
    num_parts, size = atlas.shape[1], atlas.shape[-1]
    points = tile_points(part, uv, num_parts, size)
    d_total = torch.zeros_like(atlas, dtype=geometry_dtype(image.dtype))
    d_weight = None
    if image_tangent is not None:
        d_total = d_total + accumulate(points, points.weight, image_tangent, num_parts, size)[0]
    if uv_tangent is not None:
        dw = points.along(uv_tangent)
        moved, d_weight = accumulate(points, dw, image, num_parts, size)
        d_total = d_total + moved
    if normalize:
        visible = weight > min_weight
        if d_weight is not None:
            d_total = d_total - atlas * d_weight[:, :, None]
        d_total = (d_total / weight.where(visible, 1)[:, :, None]).where(visible[:, :, None], 0)
    return d_total.to(image.dtype), d_weight


def uv_splat_backward(
    grad_atlas: Tensor,
    grad_weight: Tensor | None,
    image: Tensor | None,
    part: Tensor,
    uv: Tensor,
    atlas: Tensor | None,
    weight: Tensor | None,
    min_weight: float,
    need_image: bool,
    need_uv: bool,
) -> tuple[Tensor, Tensor]:
    """The gather that undoes the splat; arguments and formula as in csrc/ops/uv_splat.h."""
    N, P, C, S, _ = grad_atlas.shape
    H, W = part.shape[1:]
    accumulator = geometry_dtype(grad_atlas.dtype)
    points = tile_points(part, uv, P, S)
    q = grad_atlas.to(accumulator)
    if weight is not None:
        visible = (weight > min_weight)[:, :, None]
        q = (q / weight[:, :, None].where(visible, 1)).where(visible, 0)
    q = corners(q, points)  # (4, N, H W, C)
    grad_image = grad_uv = grad_atlas.new_empty(0)
    if need_image:
        grad = (points.weight[..., None] * q).sum(0).transpose(1, 2).reshape(N, C, H, W)
        grad_image = in_format_of(grad.to(grad_atlas.dtype), grad_atlas)
    if need_uv:
        assert image is not None
        color = image.reshape(N, C, H * W).transpose(1, 2).to(accumulator)
        if weight is not None:
            assert atlas is not None
            color = color - corners(atlas.to(accumulator), points)
        g = (color * q).sum(-1)  # (4, N, H W)
        if grad_weight is not None:
            g = g + corners(grad_weight[:, :, None], points)[..., 0]
        g = g.where(points.inside, 0)
        moved = (points.tangent * g).sum(1)
        moved = moved.where((points.tangent != 0).any(1), 0)  # clamped: not even by NaN
        grad_uv = moved.movedim(0, 1).reshape(N, 2, H, W)
    return grad_image, grad_uv.to(uv.dtype)


def corners(atlas: Tensor, points: TilePoints) -> Tensor:
    """(N, P, C, S, S) read at the four corners of every pixel: (4, N, H W, C)."""
    N, P, C, S, _ = atlas.shape
    texels = atlas.movedim(2, -1).reshape(N * P * S * S, C)
    return texels[points.texel]
