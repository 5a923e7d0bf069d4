# SPDX-License-Identifier: Apache-2.0
"""Between pictures and the texture of the body: the two ends of the warping stream.

texture, mask = lift(image, part, uv, size=256)     # picture -> 24 tiles, sec. 3.2
warped, painted = paint(texture, target_part, target_uv)     # tiles -> another pose
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import pose_kernels as pk

from .config import UVEncode
from .pose import PARTS

_SEEN = 1e-3  # of uv_splat's weight: below, a texel has no color


def lift(
    image: Tensor,
    part: Tensor,
    uv: Tensor,
    *,
    size: int,
    encode: UVEncode = "quad",
    max_edge: float = 0.12,
    radius: int = 4,
) -> tuple[Tensor, Tensor]:
    """The texture that a picture shows.

    * quad: linear interpolation on the triangles of the pixel grid (`pk.uv_raster`);
    * splat: the pixels' bilinear splat, and holes within `radius` texels of it filled
      (`pk.uv_splat`, `pk.push_pull`);
    * delaunay: linear interpolation on the Delaunay triangulation of each part's pixels in (u, v).
      Needs SciPy, copies to the CPU and takes seconds: a reference for the other two.

    Args:
        image: (N, C, H, W), any range.
        part: (N, H, W) integers, 1..24 are parts.
        uv: (N, 2, H, W) in [0, 1].
        size: S, side of a tile; column u (S-1), row (1-v) (S-1).
        max_edge: triangles with a longer edge in (u, v) do not count; not for splat.
        radius: texels; splat only.

    Returns:
        texture (N, 24, C, S, S), 0 where unknown, in the dtype of the picture; mask
        (N, 24, 1, S, S), 1 where known, else 0. Gradient flows to the picture.
    """
    if encode == "delaunay":
        return _delaunay(image, part, uv, size, max_edge)
    if encode == "quad":
        texture, weight = pk.uv_raster(image, part, uv, size=size, max_edge=max_edge)
        return texture, (weight > 0)[:, :, None].to(texture.dtype)
    texture, weight = pk.uv_splat(image, part, uv, size=size)
    texture = pk.push_pull(texture, weight, radius=radius)
    hit = (weight > _SEEN).to(texture.dtype)
    rows = F.max_pool2d(hit, (2 * radius + 1, 1), 1, (radius, 0))  # by axis: 2 k reads, not k^2
    return texture, F.max_pool2d(rows, (1, 2 * radius + 1), 1, (0, radius))[:, :, None]


def paint(
    texture: Tensor, part: Tensor, uv: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A texture in a pose, sampled bilinearly within each tile.

    Args:
        texture: (N, 24, C, S, S).
        part, uv: the pose, (N, H, W) and (N, 2, H, W).
        mask: (N, 24, 1, S, S), share of each texel that is known; None where all are.

    Returns:
        picture (N, C, H, W), 0 off the body; and (N, 1, H, W), the known share of each pixel's
        color, 0 off the body.
    """
    if mask is None:
        body = (part >= 1) & (part <= PARTS) & uv.isfinite().all(1)
        return pk.uv_gather(texture, part, uv), body[:, None].to(texture.dtype)
    both = pk.uv_gather(torch.cat([texture, mask.to(texture.dtype)], 2), part, uv)
    return both[:, :-1], both[:, -1:]


def _delaunay(
    image: Tensor, part: Tensor, uv: Tensor, size: int, max_edge: float
) -> tuple[Tensor, Tensor]:
    N, C, H, W = image.shape
    pixels = image.flatten(2)  # (N, C, H W)
    texture = image.new_zeros(N, PARTS, C, size * size)
    mask = image.new_zeros(N, PARTS, 1, size * size)
    for n in range(N):
        for i in range(PARTS):
            at = (part[n].flatten() == i + 1) & uv[n].flatten(1).isfinite().all(0)
            index = at.nonzero()[:, 0]
            found = _interpolation(uv[n].flatten(1)[:, index].T, size, max_edge)
            if found is None:
                continue
            texel, corner, weight = (value.to(image.device) for value in found)
            corners = pixels[n][:, index[corner]]  # (C, texels, 3)
            color = (corners * weight.to(image.dtype)).sum(-1)
            texture = texture.index_put(
                (torch.tensor(n), torch.tensor(i), torch.arange(C)[:, None], texel[None]), color
            )
            mask[n, i, 0, texel] = 1
    shape = (size, size)
    return texture.unflatten(-1, shape), mask.unflatten(-1, shape)


def _interpolation(uv: Tensor, size: int, max_edge: float) -> tuple[Tensor, Tensor, Tensor] | None:
    """Texels (T,) inside triangles of the points uv (K, 2), their corners (T, 3) and weights."""
    try:
        from scipy.spatial import Delaunay, QhullError
    except ImportError as error:
        raise ValueError("--uv-encode delaunay needs SciPy: pip install scipy") from error
    points = uv.detach().double().cpu().clamp(0, 1)
    if len(points) < 3:
        return None
    try:
        faces = torch.from_numpy(Delaunay(points.numpy()).simplices).long()
    except QhullError:  # all on one line
        return None
    corners = points[faces]  # (F, 3, 2)
    faces = faces[((corners - corners.roll(1, 1)).norm(dim=-1) < max_edge).all(1)]
    u, v = points.unbind(1)
    vertices = torch.stack([u, 1 - v, torch.zeros_like(u)], 1) * (size - 1)
    face, weight = pk.mesh_raster(vertices[None].float(), faces, (size, size))
    texel = (face.flatten() >= 0).nonzero()[:, 0]
    return texel, faces[face.flatten()[texel].long()], weight.flatten(2)[0, :, texel].T
