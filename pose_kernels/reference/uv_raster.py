# SPDX-License-Identifier: Apache-2.0
"""uv_raster in pure PyTorch: the specification in code. Any device, any floating dtype."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import geometry_dtype
from .bilinear import tile_points
from .layout import in_format_of
from .uv_splat import accumulate, corners

LEAST_WEIGHT = -1e-6  # of each vertex, at a covered texel
LEAST_AREA = 1e-10  # of a triangle, in texels squared
LEAST_FALLBACK = 1e-3  # of the splat's D at a texel it may color
_AT_ONCE = 1 << 21  # texels tested at once


def uv_raster(
    image: Tensor,
    part: Tensor,
    uv: Tensor,
    *,
    num_parts: int = 24,
    size: int = 256,
    max_edge: float = 0.12,
) -> tuple[Tensor, Tensor]:
    """See :func:`pose_kernels.uv_raster`. Differentiable through plain autograd."""
    N, C, H, W = image.shape
    uv = uv.detach().to(geometry_dtype(image.dtype))
    accumulator = geometry_dtype(image.dtype)
    triangles = find_triangles(part, uv, num_parts, size, max_edge)
    color = image.movedim(1, -1).reshape(N * H * W, C).to(accumulator)
    total = color.new_zeros(N * num_parts * size * size, C)
    count = torch.zeros(total.shape[0], dtype=accumulator, device=image.device)
    for vertex, texel, weight in triangles.covered(size):
        weight = weight.to(accumulator)
        a, b, c = (w[:, None] * color[p] for w, p in zip(weight, vertex, strict=True))
        total = total.index_add(0, texel, a + b + c)
        count = count.index_add(0, texel, torch.ones_like(weight[0]))
    total = total.view(N, num_parts, size, size, C).movedim(-1, 2)
    count = count.view(N, num_parts, size, size)

    lonely = tile_points(part.where(triangles.lonely(part), 0), uv, num_parts, size)
    splat, D = accumulate(lonely, lonely.weight, image, num_parts, size)
    weight = raster_weight(count, D)
    total = total.where((count > 0)[:, :, None], splat)
    seen = (weight > 0)[:, :, None]
    atlas = (total / weight[:, :, None].where(seen, 1)).where(seen, 0)
    return in_format_of(atlas.to(image.dtype), image), weight


def uv_raster_backward(
    grad_atlas: Tensor, part: Tensor, uv: Tensor, weight: Tensor, max_edge: float
) -> Tensor:
    """The gradient to the image; ``weight`` is the forward's."""
    N, P, C, S, _ = grad_atlas.shape
    H, W = part.shape[1:]
    accumulator = geometry_dtype(grad_atlas.dtype)
    share = grad_atlas.to(accumulator)
    share = (share / weight[:, :, None].where(weight[:, :, None] > 0, 1)).movedim(2, -1)
    share = share.reshape(N * P * S * S, C)
    grad = share.new_zeros(N * H * W, C)
    triangles = find_triangles(part, uv, P, S, max_edge)
    for vertex, texel, weights in triangles.covered(S):
        for p, w in zip(vertex, weights.to(accumulator), strict=True):
            grad.index_add_(0, p, w[:, None] * share[texel])

    lonely = tile_points(part.where(triangles.lonely(part), 0), uv, P, S)
    splatted = ((weight != weight.floor()) & (weight > 0))[:, :, None]
    tiles = (share.view(N, P, S, S, C).movedim(-1, 2)).where(splatted, 0)
    more = (lonely.weight[..., None] * corners(tiles, lonely)).sum(0)
    grad = (grad + more.where(lonely.inside[..., None], 0).reshape(N * H * W, C)).view(N, H, W, C)
    return in_format_of(grad.movedim(-1, 1).to(grad_atlas.dtype), grad_atlas)


def raster_weight(count: Tensor, D: Tensor) -> Tensor:
    """The number of triangles; where there is none, D, changed so that it is no integer."""
    most = 2.0**52 - 0.5 if D.dtype == torch.float64 else 2.0**23 - 0.5
    above = torch.nextafter(D, torch.full_like(D, torch.inf)).clamp(max=most)
    D = D.where(D != D.floor(), above).where(D > LEAST_FALLBACK, 0)
    return count.where(count > 0, D)


class Triangles(NamedTuple):
    """The T triangles of a batch of maps, in the order of their cells; all positions in float64."""

    vertex: Tensor  # (3, T) int64: flat index into (N, H, W)
    tile: Tensor  # (T,) int64: flat index into (N, P)
    x: Tensor  # (3, T): texel positions
    y: Tensor  # (3, T)

    def lonely(self, part: Tensor) -> Tensor:
        """Pixels (N, H, W) bool in no triangle."""
        used = torch.zeros(part.numel(), dtype=torch.bool, device=part.device)
        used[self.vertex.flatten()] = True
        return ~used.view(part.shape)

    def covered(self, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """In pieces: vertices (3, K), texels (K,) into (N, P, S, S), weights (3, K) in float64."""
        left, right = _texel_range(self.x, size)
        top, bottom = _texel_range(self.y, size)
        wide = (right - left + 1).clamp(min=0)
        tested = wide * (bottom - top + 1).clamp(min=0)
        ends = tested.cumsum(0)
        first = 0
        while first < len(tested):
            before = int(ends[first] - tested[first])
            last = int(torch.searchsorted(ends, before + _AT_ONCE, right=True))
            some = torch.arange(first, max(last, first + 1), device=self.tile.device)
            first = int(some[-1]) + 1
            t = some.repeat_interleave(tested[some])
            within = torch.arange(len(t), device=t.device) + before - (ends - tested)[t]
            column, row = left[t] + within % wide[t], top[t] + within // wide[t]
            weights = self._weights(t, column, row)
            inside = (weights >= LEAST_WEIGHT).all(0).nonzero().flatten()
            t, column, row = t[inside], column[inside], row[inside]
            texel = (self.tile[t] * size + row) * size + column
            yield self.vertex[:, t], texel, weights[:, inside]

    def _weights(self, t: Tensor, column: Tensor, row: Tensor) -> Tensor:
        """Barycentric coordinates (3, K) of texels in triangles t."""
        (x, *_), (y, *_) = self.x, self.y
        ex, fx = self.x[1:] - x
        ey, fy = self.y[1:] - y
        inverse = 1 / (ex * fy - fx * ey)
        dx, dy = column - x[t], row - y[t]
        b = (dx * fy[t] - fx[t] * dy) * inverse[t]
        c = (ex[t] * dy - dx * ey[t]) * inverse[t]
        return torch.stack([1 - b - c, b, c])


def find_triangles(
    part: Tensor, uv: Tensor, num_parts: int, size: int, max_edge: float
) -> Triangles:
    """part (N, H, W) integer, uv (N, 2, H, W)."""
    N, H, W = part.shape
    label = part.to(torch.int64)
    known = (label >= 1) & (label <= num_parts) & uv.isfinite().all(1)
    place = uv.to(torch.float64).where(known[:, None], 0.5).clamp(0, 1)
    pixel = torch.arange(N * H * W, device=part.device).view(N, H, W)
    n, e = pixel[:, :-1, :-1], pixel[:, :-1, 1:]
    s, d = pixel[:, 1:, :-1], pixel[:, 1:, 1:]
    vertex = torch.stack([torch.stack([n, e]), torch.stack([e, d]), torch.stack([s, s])])
    vertex = vertex.movedim(1, -1).flatten(1)  # (3, T), both triangles of a cell side by side

    tile = pixel // max(1, H * W) * num_parts + label - 1
    tile = tile.where(known, -1).flatten()[vertex]
    u, v = place.movedim(1, -1).reshape(N * H * W, 2).unbind(1)
    u, v = u[vertex], v[vertex]
    squared = (u - u.roll(-1, 0)) ** 2 + (v - v.roll(-1, 0)) ** 2
    x, y = u * (size - 1), (1 - v) * (size - 1)
    doubled = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
    valid = (tile[0] >= 0) & (tile == tile[0]).all(0) & (squared < max_edge**2).all(0)
    keep = (valid & (doubled.abs() >= 2 * LEAST_AREA)).nonzero().flatten()
    return Triangles(vertex[:, keep], tile[0, keep], x[:, keep], y[:, keep])


def _texel_range(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """First and last texel (T,) that a triangle with these positions (3, T) can cover."""
    low, high = position.amin(0), position.amax(0)
    slack = -4 * LEAST_WEIGHT * (high - low) + 1e-9
    first = (low - slack).ceil().clamp(0, size - 1)
    last = (high + slack).floor().clamp(0, size - 1)
    return first.to(torch.int64), last.to(torch.int64)
