# SPDX-License-Identifier: Apache-2.0
"""uv_gather in pure PyTorch: the specification in code. Any device, any floating dtype."""

from __future__ import annotations

from torch import Tensor

from ..checks import geometry_dtype
from .bilinear import tile_points
from .layout import in_format_of


def uv_gather(atlas: Tensor, part: Tensor, uv: Tensor) -> Tensor:
    """See :func:`pose_kernels.uv_gather`. Differentiable through plain autograd."""
    num_parts, size = atlas.shape[1], atlas.shape[-1]
    points = tile_points(part, uv.to(geometry_dtype(atlas.dtype)), num_parts, size)
    return _read(atlas, part, points.inside, points.texel, points.weight)


def uv_gather_tangent(
    atlas: Tensor,
    part: Tensor,
    uv: Tensor,
    atlas_tangent: Tensor | None,
    uv_tangent: Tensor | None,
) -> Tensor:
    """Directional derivative of the image along (atlas_tangent, uv_tangent)."""
    points = tile_points(part, uv, atlas.shape[1], atlas.shape[-1])
    tangent = atlas.new_zeros(())
    if atlas_tangent is not None:
        tangent = tangent + _read(atlas_tangent, part, points.inside, points.texel, points.weight)
    if uv_tangent is not None:
        dw = points.along(uv_tangent)
        tangent = tangent + _read(atlas, part, points.inside, points.texel, dw)
    return tangent


def _read(atlas: Tensor, part: Tensor, inside: Tensor, texel: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum of four texels per pixel, in the atlas's dtype and memory format."""
    N, P, C, S, _ = atlas.shape
    texels = atlas.movedim(2, -1).reshape(N * P * S * S, C).to(weight.dtype)
    total = weight.new_zeros(*weight.shape[1:], C)
    for q, w in zip(texel, weight, strict=True):
        total = total + texels[q].where(inside[..., None], 0) * w[..., None]
    image = total.transpose(1, 2).reshape(N, C, *part.shape[1:])
    return in_format_of(image.to(atlas.dtype), atlas)
