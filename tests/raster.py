# SPDX-License-Identifier: Apache-2.0
"""Maps for uv_raster: smooth patches with tears and faults; and how far two correct results differ.

As in ``surface.py``, with u the unit of the accumulator. Positions and barycentric coordinates are
float64 in every implementation, so both take the same texels as covered; a coordinate of a triangle
of doubled area 1 / inverse is off by at most LAMBDA = 16 * 2^-52 S^2 inverse.
"""

from __future__ import annotations

import torch
from cases import INF, NAN, Inputs, features, geometry
from surface import Surface, corners
from torch import Tensor

from pose_kernels.reference.uv_raster import Triangles, find_triangles


def patches(N: int, H: int, W: int, P: int, dtype: torch.dtype, seed: int = 3) -> Tensor:
    """Blocks of some 4 x 4 pixels, of background and every part, and some that are no part."""
    random = torch.Generator().manual_seed(seed)
    rows = (torch.rand(H, generator=random) < 0.25).cumsum(0)
    columns = (torch.rand(W, generator=random) < 0.25).cumsum(0)
    labels = torch.randint(0, P + 1, (N, H + 1, W + 1), generator=random)
    part = labels[:, rows][:, :, columns]
    info = torch.iinfo(dtype)
    odd = torch.tensor([min(P + 1, info.max), max(info.min, -1)])
    pick = torch.randint(0, 60, part.shape, generator=random)
    return part.where(pick > 1, odd[pick % 2]).to(dtype)


def smooth_uv(
    N: int, H: int, W: int, dtype: torch.dtype, seed: int = 2, *, noise: float = 0.3, wild: int = 40
) -> Tensor:
    """Turned lattices that reach beyond [0, 1], with noise; one pixel in ``wild`` is anything."""
    random = torch.Generator().manual_seed(seed)
    y = torch.linspace(-0.6, 0.6, max(H, 2), dtype=torch.float64)[:H, None]
    x = torch.linspace(-0.6, 0.6, max(W, 2), dtype=torch.float64)[:W]
    angle = torch.rand((N, 1, 1), generator=random, dtype=torch.float64) * 6
    u, v = angle.cos() * x + angle.sin() * y, angle.cos() * y - angle.sin() * x
    uv = torch.stack([u, v], 1) + 0.5
    step = 1.2 / max(H, W, 1)
    uv = uv + noise * step * torch.rand(uv.shape, generator=random, dtype=torch.float64)
    special = torch.tensor([0.0, 1.0, NAN, INF, -INF, 1e30, 0.5], dtype=torch.float64)
    pick = torch.randint(0, wild * len(special), uv.shape, generator=random)
    return uv.where(pick >= len(special), special[pick % len(special)]).to(dtype)


def raster_inputs(
    shape: tuple[int, int, int, int],
    P: int,
    S: int,
    part_dtype: torch.dtype,
    dtype: torch.dtype,
    *,
    max_edge: float = 0.4,
    noise: float = 0.3,
    wild: int = 40,
    seed: int = 0,
) -> Inputs:
    N, C, H, W = shape
    return {
        "image": features(shape, dtype, seed),
        "part": patches(N, H, W, P, part_dtype, seed + 1),
        "uv": smooth_uv(N, H, W, geometry(dtype), seed + 2, noise=noise, wild=wild),
        "num_parts": P,
        "size": S,
        "max_edge": max_edge,
    }


class Cover:
    """The triangles of one input, texel by texel, and the splat of the pixels without one."""

    def __init__(self, inputs: Inputs) -> None:
        image, part, uv = (inputs[k].detach().cpu() for k in ("image", "part", "uv"))
        self.P, self.S = inputs["num_parts"], inputs["size"]
        uv = uv.to(geometry(image.dtype))
        self.triangles: Triangles = find_triangles(
            part, uv, self.P, self.S, inputs.get("max_edge", 0.12)
        )
        self.surface = Surface(
            image, part.where(self.triangles.lonely(part), 0), uv, self.P, self.S
        )
        pieces = list(self.triangles.covered(self.S))
        empty = (torch.zeros(3, 0).long(), torch.zeros(0).long(), torch.zeros(3, 0).double())
        self.vertex, self.texel, self.weights = (
            torch.cat(x, -1) for x in zip(empty, *pieces, strict=True)
        )
        x, y = self.triangles.x, self.triangles.y
        doubled = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
        error = 16 * 2**-52 * self.S**2 / doubled.abs()
        of = {v: e for v, e in zip(map(tuple, self.triangles.vertex.T.tolist()), error.tolist())}
        self.error = torch.tensor(
            [of[v] for v in map(tuple, self.vertex.T.tolist())], dtype=torch.float64
        )
        self.shape = (part.shape[0], self.P, self.S, self.S)
        self.count = self.per_texel(torch.ones_like(self.error))

    def per_texel(self, values: Tensor) -> Tensor:
        zeros = torch.zeros(self.surface.D.numel(), dtype=torch.float64)
        return zeros.index_add(0, self.texel, values).view(self.shape)

    def ambiguous(self) -> Tensor:
        """Texels that may be visible in one implementation and not in another."""
        return self.surface.ambiguous(1e-3) & (self.count == 0)


def raster_bounds(inputs: Inputs, outputs: list[Tensor], grads: list[Tensor]) -> dict[str, Tensor]:
    """Bounds of atlas, weight and the gradient to image."""
    cover = Cover(inputs)
    s, count = cover.surface, cover.count
    image = inputs["image"].detach().cpu().double()
    largest = float(image.nan_to_num(0, 0, 0).abs().max()) if image.numel() else 0.0
    atlas, weight = (x.detach().cpu().double() for x in outputs)
    seen = (weight > 0) & (count == 0)
    relative = (s.D_error / s.D.where(seen, 1)).where(seen, 0)
    by_triangles = (cover.per_texel(3 * cover.error) / count.clamp(min=1)) + (count + 12) * s.u
    error = by_triangles.where(count > 0, 2 * relative)[:, :, None] * largest
    bounds = {
        "atlas": 2 * error + 2 * (4 * s.u + s.store) * atlas.abs() + s.tiny,
        "weight": (2 * s.D_error + 4 * s.u * s.D).where(count == 0, 0),
    }
    if not grads:
        return bounds
    g = grads[0].detach().cpu().double().abs() / weight.where(weight > 0, INF)[:, :, None]
    share = g.movedim(2, -1).reshape(s.D.numel(), s.C)
    pixels = s.N * s.HW[0] * s.HW[1]
    size, wrong = torch.zeros(2, pixels, s.C, dtype=torch.float64)
    texels = torch.zeros(pixels, 1, dtype=torch.float64)
    for p, w in zip(cover.vertex, cover.weights, strict=True):
        size.index_add_(0, p, w.abs()[:, None] * share[cover.texel])
        wrong.index_add_(0, p, cover.error[:, None] * share[cover.texel])
        texels.index_add_(0, p, torch.ones(len(p), 1, dtype=torch.float64))
    drawn = wrong + ((texels + 12) * s.u + s.store) * size
    q = corners(g.where((count == 0)[:, :, None], 0), s.points)
    w = s.points.weight[:, :, None]
    near = corners(relative[:, :, None], s.points)
    splatted = (s.delta * q + w * q * (2 * near + 8 * s.u + s.store)).sum(0)
    drawn = drawn.view(s.N, s.HW[0] * s.HW[1], s.C).transpose(1, 2)
    bounds["image"] = 2 * s.image(drawn + splatted) + s.tiny
    return bounds
