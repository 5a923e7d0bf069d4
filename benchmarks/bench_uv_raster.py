# SPDX-License-Identifier: Apache-2.0
"""uv_raster: photo -> atlas without gaps, and weight.

No peer: what rasterizes triangles in PyTorch (nvdiffrast, pytorch3d) draws a mesh with a depth
buffer, one triangle a pixel, and not the mean of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import pose_kernels as pk

from . import surface
from .registry import Provider, ours
from .surface import P, SurfaceCase, element_size, touched

MAX_EDGE = 0.12
_SIZE = dict(C=3, H=256, W=256, main=True)
CASES = [
    SurfaceCase(8, **_SIZE),
    # Of two photos: the graph of the obvious code takes 3 GB a photo.
    SurfaceCase(2, **_SIZE, direction="backward"),
    SurfaceCase(2, **_SIZE, direction="both"),
    SurfaceCase(1, 64, 256, 256, channels_last=True),
    SurfaceCase(1, 3, 1024, 1024),
    SurfaceCase(8, 3, 256, 256, maps="random"),
]
DIFFERENTIABLE = ("image",)


def inputs(case: SurfaceCase, device: str, seed: int = 0) -> dict[str, Tensor]:
    part, uv = surface.maps(case, seed)
    image = surface.features((case.N, case.C, case.H, case.W), case, seed)
    uv = uv.to(torch.float64) if case.dtype == torch.float64 else uv
    return {"image": image.to(device), "part": part.to(device), "uv": uv.to(device)}


def reference(case: SurfaceCase, image: Tensor, part: Tensor, uv: Tensor) -> tuple[Tensor, Tensor]:
    return pk.reference.uv_raster(image, part, uv, size=case.S, max_edge=MAX_EDGE)


def triangles(part: Tensor, uv: Tensor, S: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Vertices (3, T) into N H W, tiles (T,) into N P, texel positions (3, T, 2), lonely pixels."""
    N, H, W = part.shape
    pixel = torch.arange(N * H * W, device=part.device).view(N, H, W)
    n, e, s, d = pixel[:, :-1, :-1], pixel[:, :-1, 1:], pixel[:, 1:, :-1], pixel[:, 1:, 1:]
    vertex = torch.stack([torch.stack(t, 0).flatten(1) for t in ((n, e, s), (e, d, s))], -1)
    vertex = vertex.flatten(1)
    label = part.flatten().long()[vertex]
    vertex = vertex[:, (label[0] > 0) & (label == label[0]).all(0)]
    place = uv.movedim(1, -1).reshape(-1, 2).double().clamp(0, 1)[vertex]
    short = ((place - place.roll(1, 0)).square().sum(-1) < MAX_EDGE**2).all(0)
    at = torch.stack([place[..., 0], 1 - place[..., 1]], -1) * (S - 1)
    keep = short & (cross(at[1] - at[0], at[2] - at[0]).abs() >= 2e-10)
    vertex, at = vertex[:, keep], at[:, keep]
    lonely = part.flatten() > 0
    lonely[vertex.flatten()] = False
    tile = vertex[0] // (H * W) * P + part.flatten().long()[vertex[0]] - 1
    return vertex, tile, at, lonely.view_as(part)


def cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def boxes(at: Tensor, S: int) -> tuple[Tensor, Tensor]:
    """First texel and size of every triangle's box: (T, 2) each."""
    first = (at.amin(0) - 1e-3).ceil().clamp(0, S - 1).long()
    return first, (at.amax(0) + 1e-3).floor().clamp(0, S - 1).long() - first + 1


Piece = tuple[Tensor, Tensor, Tensor]  # triangle (K,), texel (K,) of its tile, weights (3, K)


Pieces = Callable[[Tensor, int], Iterator[Piece]]


def tested(at: Tensor, t: Tensor, x: Tensor, y: Tensor, S: int) -> Piece:
    """What of these candidates is covered."""
    a, b, c = at[:, t].unbind(0)
    q = torch.stack([x, y], -1).double()
    area = cross(b - a, c - a)
    v, w = cross(q - a, c - a) / area, cross(b - a, q - a) / area
    weights = torch.stack([1 - v - w, v, w])
    inside = ((weights >= -1e-6).all(0) & (x < S) & (y < S)).nonzero().flatten()
    return t[inside], (y * S + x)[inside], weights[:, inside]


def windows(at: Tensor, S: int) -> Iterator[Piece]:
    """The obvious code: for every offset within the largest box, all triangles that reach it."""
    first, size = boxes(at, S)
    high = int(size[:, 1].max()) if len(first) else 0
    for dy in range(high):
        tall = (size[:, 1] > dy).nonzero().flatten()
        for dx in range(int(size[tall, 0].max())):
            t = tall[size[tall, 0] > dx]
            yield tested(at, t, first[t, 0] + dx, first[t, 1] + dy, S)


def candidates(at: Tensor, S: int, at_once: int = 1 << 21) -> Iterator[Piece]:
    """Exactly the texels of every box, some two million at a time."""
    first, size = boxes(at, S)
    if len(first) == 0:
        return
    count = size.prod(-1)
    ends = count.cumsum(0)
    group = torch.div(ends, at_once, rounding_mode="floor")
    starts = torch.cat([group.new_zeros(1), (group.diff() > 0).nonzero().flatten() + 1])
    limits = [*starts.tolist(), len(first)]
    for low, high in zip(limits[:-1], limits[1:], strict=True):
        t = torch.arange(low, high, device=at.device).repeat_interleave(count[low:high])
        within = torch.arange(len(t), device=at.device) - (ends - count)[t] + (ends - count)[low]
        x, y = first[t, 0] + within % size[t, 0], first[t, 1] + within // size[t, 0]
        yield tested(at, t, x, y, S)


def raster(
    pieces: Pieces, image: Tensor, part: Tensor, uv: Tensor, S: int
) -> tuple[Tensor, Tensor]:
    """Mean over triangles, where there are any; uv_splat's formula for the lonely pixels."""
    N, C = image.shape[:2]
    vertex, tile, at, lonely = triangles(part, uv, S)
    color = image.movedim(1, -1).reshape(-1, C).to(uv.dtype)
    total, count = color.new_zeros(N * P * S * S, C), color.new_zeros(N * P * S * S)
    for t, texel, weights in pieces(at, S):
        q = tile[t] * S * S + texel
        value = torch.einsum("kn,knc->nc", weights.to(color.dtype), color[vertex[:, t]])
        total = total.index_add_(0, q, value)  # no copy of the atlas, nor of its gradient
        count.index_add_(0, q, torch.ones_like(weights[0], dtype=count.dtype))
    pixel, at_tile, (texel, weight) = surface.foreground(part.where(lonely, 0), uv, S)
    q = (at_tile * S * S + texel).where(count[at_tile * S * S + texel] == 0, -1)
    free = (q >= 0).flatten()
    D = torch.zeros_like(count).index_add_(0, q.flatten()[free], weight.flatten()[free])
    more = (weight[..., None] * color[pixel]).reshape(-1, C)[free]
    total = total.index_add(0, q.flatten()[free], more)
    D = D.where(D != D.floor(), D.nextafter(torch.full_like(D, torch.inf)))
    count = count.where(count > 0, D.where(D > 1e-3, 0))
    seen = count > 0
    atlas = torch.where(seen[:, None], total / count.where(seen, 1)[:, None], 0).to(image.dtype)
    return atlas.view(N, P, S, S, C).movedim(-1, 2), count.view(N, P, S, S)


def providers(case: SurfaceCase, device: str) -> list[Provider]:
    S = case.S

    def pose_kernels(image: Tensor, part: Tensor, uv: Tensor) -> tuple[Tensor, Tensor]:
        return pk.uv_raster(image, part, uv, size=S, max_edge=MAX_EDGE)

    return [
        *ours("uv_raster", pose_kernels, device),
        Provider("window by window", "eager", lambda *t: raster(windows, *t, S), synchronizes=True),
        Provider("box by box", "smart", lambda *t: raster(candidates, *t, S), synchronizes=True),
    ]


def coordinate_range(case: SurfaceCase) -> int:
    return case.S


def longest_sum(case: SurfaceCase) -> int:
    return touched(case).most


def bytes_moved(case: SurfaceCase) -> int:
    """Forward: part everywhere, image and uv of the foreground; atlas and weight written once.

    Backward: a texel of the atlas' gradient and of the weight for each one with a pixel beside it,
    the least that any map makes it read; the image's gradient written once.
    """
    pixels, texels, _ = touched(case)
    e = element_size(case)
    maps = case.N * case.H * case.W + pixels * 8
    forward = maps + pixels * case.C * e + case.N * P * case.S**2 * (case.C * e + 4)
    backward = maps + texels * (case.C * e + 4) + case.N * case.H * case.W * case.C * e
    return {"forward": forward, "backward": backward, "both": forward + backward}[case.direction]


def flops(case: SurfaceCase) -> int:
    """About 40 per foreground pixel for its two triangles, and per channel six at each of its
    texels; of these at least as many as touched ones."""
    pixels, texels, _ = touched(case)
    forward = pixels * 40 + texels * (20 + 6 * case.C)
    return {"forward": forward, "backward": forward, "both": 2 * forward}[case.direction]
