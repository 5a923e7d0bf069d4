# SPDX-License-Identifier: Apache-2.0
"""mesh_raster in pure PyTorch: the specification in code. Mirrors csrc/math/depth_triangle.h.

The arithmetic is part of the definition, so that every backend finds the same face at every pixel:
float64, one operation at a time. Faces are expanded to the pixels of their boxes, a million at a
time, and the nearest face of a pixel is the minimum of 64-bit keys, depth above face.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import geometry_dtype

LARGEST = 3.4028234663852886e38  # of float32: a face with a number beyond is left out
LEAST_AREA = 1e-150  # twice the area; no float32 triangle lies between it and 0
NO_FACE = 2**63 - 1  # the key that is behind all others
_AT_ONCE = 2**20  # pixels of boxes


def mesh_raster(vertices: Tensor, faces: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """See :func:`pose_kernels.mesh_raster`."""
    vertices = vertices.detach().to(geometry_dtype(vertices.dtype))
    return raster(vertices, faces.expand(vertices.shape[0], *faces.shape), size)


def raster(vertices: Tensor, faces: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """face (N, H, W) int32 and barycentrics (N, 3, H, W) of vertices (N, V, 3), faces (N, F, 3)."""
    (H, W), (N, V), F = size, vertices.shape[:2], faces.shape[1]
    faces = faces.to(torch.int64)
    known = ((faces >= 0) & (faces < V)).all(-1)
    if faces.device.type == "cpu" and not known.all():
        raise ValueError("faces must hold indices of vertices")
    # What is left out gets the corner V three times, which has no area.
    corner = faces.where(known[..., None], V).flatten(1)[..., None].expand(-1, -1, 3)
    padded = torch.nn.functional.pad(vertices.to(torch.float64), (0, 0, 0, 1))
    x, y, z = padded.gather(1, corner).view(N * F, 3, 3).unbind(-1)  # (N F, 3) each
    keys = torch.full((N * H * W,), NO_FACE, dtype=torch.int64, device=faces.device)
    _draw(set_up(x, y, z, H, W), F, H, W, keys)

    face = (keys & 0x7FFFFFFF).where(keys != NO_FACE, -1)
    bary = torch.zeros((N, 3, H * W), dtype=vertices.dtype, device=vertices.device)
    hit = (face >= 0).nonzero()[:, 0]
    n, pixel = hit // (H * W), hit % (H * W)
    own = n * F + face[hit]
    bary[n, :, pixel] = barycentrics(edges_at(x[own], y[own], pixel % W, pixel // W)).to(bary.dtype)
    return face.to(torch.int32).view(N, H, W), bary.view(N, 3, H, W)


class Triangles(NamedTuple):
    """Those that reach a pixel center, turned so that their area is positive."""

    item: Tensor  # (K,) n F + f
    x: Tensor  # (K, 3)
    y: Tensor  # (K, 3)
    depth: Tensor  # (K, 5): z0, w1, w2, nearest, farthest
    first: Tensor  # (K, 2) of their pixels: x, y
    wide: Tensor  # (K,) pixels in a row of the box
    pixels: Tensor  # (K,) of the box


def set_up(x: Tensor, y: Tensor, z: Tensor, H: int, W: int) -> Triangles:
    """x, y, z: (N F, 3) corners."""
    known = ((x.abs() <= LARGEST) & (y.abs() <= LARGEST) & (z.abs() <= LARGEST)).all(1)  # no NaN
    x, y, z = (v.where(known[:, None], 0) for v in (x, y, z))
    area = cross(x[:, 1] - x[:, 0], y[:, 1] - y[:, 0], x[:, 2] - x[:, 0], y[:, 2] - y[:, 0])
    turned = area < 0
    order = torch.tensor([[0, 1, 2], [0, 2, 1]], device=x.device)[turned.long()]
    x, y, z, area = x.gather(1, order), y.gather(1, order), z.gather(1, order), area.abs()
    low = torch.stack([x.amin(1).ceil().clamp(0, W), y.amin(1).ceil().clamp(0, H)], 1)
    high = torch.stack([x.amax(1).floor().clamp(-1, W - 1), y.amax(1).floor().clamp(-1, H - 1)], 1)
    sides = (high - low + 1).to(torch.int64)
    index = (known & (area >= LEAST_AREA) & (sides > 0).all(1)).nonzero()[:, 0]
    x, y, z, area, low, sides = (v[index] for v in (x, y, z, area, low, sides))
    slopes = [(z[:, i] - z[:, 0]) / area for i in (1, 2)]
    depth = torch.stack([z[:, 0], *slopes, z.amin(1), z.amax(1)], 1)
    return Triangles(index, x, y, depth, low.to(torch.int64), sides[:, 0], sides.prod(1))


def _draw(triangles: Triangles, F: int, H: int, W: int, keys: Tensor) -> None:
    """Lowers keys (N H W) to those of the faces that cover a pixel."""
    ends = triangles.pixels.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    for start in range(0, total, _AT_ONCE):
        candidate = torch.arange(start, min(start + _AT_ONCE, total), device=keys.device)
        k = torch.searchsorted(ends, candidate, right=True)
        offset = candidate - (ends - triangles.pixels)[k]
        wide = triangles.wide[k]
        px, py = triangles.first[k, 0] + offset % wide, triangles.first[k, 1] + offset // wide
        edges = edges_at(triangles.x[k], triangles.y[k], px, py)
        inside = ((edges[0] >= 0) & (edges[1] >= 0) & (edges[2] >= 0)).nonzero()[:, 0]
        depth = depth_at(triangles.depth[k[inside]], edges[1][inside], edges[2][inside])
        index = triangles.item[k[inside]]
        pixel = (index // F * H + py[inside]) * W + px[inside]
        keys.scatter_reduce_(0, pixel, depth_key(depth, index % F), "amin")


def cross(ax: Tensor, ay: Tensor, bx: Tensor, by: Tensor) -> Tensor:
    return ax * by - ay * bx


def edges_at(x: Tensor, y: Tensor, px: Tensor, py: Tensor) -> list[Tensor]:
    """E_0, E_1, E_2 (K,) of triangles (K, 3) at pixels (K,)."""
    x0, x1, x2 = (x - px[:, None]).unbind(1)
    y0, y1, y2 = (y - py[:, None]).unbind(1)
    return [cross(x1, y1, x2, y2), cross(x2, y2, x0, y0), cross(x0, y0, x1, y1)]


def depth_at(depth: Tensor, e1: Tensor, e2: Tensor) -> Tensor:
    """float32 (K,), within the depths of the vertices; -0 becomes 0."""
    z0, w1, w2, nearest, farthest = depth.unbind(1)
    plane = z0 + (e1 * w1 + e2 * w2)
    return torch.minimum(torch.maximum(plane, nearest), farthest).to(torch.float32) + 0.0


def depth_key(depth: Tensor, face: Tensor) -> Tensor:
    """int64, ordered by depth and then by face."""
    bits = depth.view(torch.int32)
    ordered = bits.where(bits >= 0, bits ^ 0x7FFFFFFF)  # as the floats are ordered
    return ordered.to(torch.int64) * 2**32 + face


def barycentrics(edges: list[Tensor]) -> Tensor:
    """(K, 3) float64; of a needle that has rounded to nothing, its first vertex."""
    total = (edges[0] + edges[1]) + edges[2]
    inverse = 1.0 / total.where(total != 0, 1)
    first = (edges[0] * inverse).where(total != 0, 1)
    return torch.stack([first, edges[1] * inverse, edges[2] * inverse], 1)
