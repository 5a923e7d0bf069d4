# SPDX-License-Identifier: Apache-2.0
"""mesh_raster: a closed mesh of the size of a body model -> face and barycentrics of every pixel.

The mesh is a ball with bumps, 40 % of the image, half of its faces turned away: nothing is read
from files.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

import pose_kernels as pk

from .registry import Provider, ours

BODY = (83, 84)  # rings and segments: 13,776 faces, as many as a SMPL body
FINE = (123, 123)  # 30,012


@dataclasses.dataclass(frozen=True)
class MeshCase:
    """N meshes of rings x segments on images of side S."""

    N: int
    S: int
    rings: int
    segments: int
    dtype: torch.dtype = torch.float32
    direction: str = "forward"
    main: bool = False
    channels_last: bool = False  # there is one memory format

    @property
    def faces(self) -> int:
        return 2 * (self.rings - 1) * self.segments

    @property
    def title(self) -> str:
        return f"B{self.N} {self.S}x{self.S}, {self.faces} faces"

    def small(self) -> MeshCase:
        return dataclasses.replace(
            self, N=min(self.N, 2), S=24, rings=7, segments=9, dtype=torch.float64
        )


CASES = [
    MeshCase(1, 256, *BODY, main=True),
    MeshCase(8, 256, *BODY, main=True),
    MeshCase(1, 1024, *BODY, main=True),
    MeshCase(1, 1024, *FINE),
]
DIFFERENTIABLE = ()


def inputs(case: MeshCase, device: str, seed: int = 0) -> dict[str, Tensor]:
    polar = torch.arange(1, case.rings, dtype=torch.float64) * (math.pi / case.rings)
    angle = torch.arange(case.segments, dtype=torch.float64) * (2 * math.pi / case.segments)
    across, up = polar.sin()[:, None], polar.cos()[:, None]
    body = torch.stack(
        [across * angle.cos(), -up.expand(-1, case.segments), across * angle.sin()], -1
    )
    poles = torch.tensor([[0.0, -1, 0], [0, 1, 0]], dtype=torch.float64)
    points = torch.cat([poles[:1], body.flatten(0, 1), poles[1:]])
    random = torch.Generator().manual_seed(seed)
    phase = torch.rand((case.N, 3), generator=random, dtype=torch.float64) * 6
    middle = (case.S - 1) / 2
    bumps = 1 + 0.04 * torch.sin(9 * points + phase[:, None]).sum(-1, keepdim=True)  # (N, V, 1)
    vertices = 0.69 * middle * points * bumps
    vertices[..., :2] += middle

    ring = torch.arange(case.segments)
    right = (ring + 1) % case.segments
    first = 1 + torch.arange(case.rings - 2)[:, None] * case.segments
    a, b = (first + ring).flatten(), (first + right).flatten()
    c, d = a + case.segments, b + case.segments
    last = len(points) - 1
    end = last - case.segments
    faces = torch.cat(
        [
            torch.stack([torch.zeros_like(ring), 1 + right, 1 + ring], 1),
            torch.stack([a, b, c], 1),
            torch.stack([b, d, c], 1),
            torch.stack([torch.full_like(ring, last), end + ring, end + right], 1),
        ]
    )
    return {"vertices": vertices.to(device, case.dtype), "faces": faces.to(device)}


def reference(case: MeshCase, vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    return pk.reference.mesh_raster(vertices, faces, (case.S, case.S))


def _edges(corner: Tensor, x: Tensor, y: Tensor) -> list[Tensor]:
    """Of corners (..., 3, 3) at pixels that broadcast against (...)."""
    px, py = corner[..., 0] - x[..., None], corner[..., 1] - y[..., None]
    pairs = ((1, 2), (2, 0), (0, 1))
    return [px[..., i] * py[..., j] - py[..., i] * px[..., j] for i, j in pairs]


def _finish(
    case: MeshCase, corner: Tensor, face: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Barycentrics of a face map (N, S S) from corners (N, F, 3, 3)."""
    line = torch.arange(case.S, dtype=corner.dtype, device=corner.device)
    x, y = line.repeat(case.S), line.repeat_interleave(case.S)
    own = corner.gather(1, face.clamp(min=0)[..., None, None].expand(-1, -1, 3, 3))
    e = torch.stack(_edges(own, x, y), 1)
    bary = (e / e.sum(1, keepdim=True)).where((face >= 0)[:, None], 0)
    size = (case.S, case.S)
    return face.to(torch.int32).unflatten(1, size), bary.to(dtype).unflatten(2, size)


def obvious(case: MeshCase, vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Every pixel against every face, some faces at a time, and the least depth."""
    corner = vertices.double()[:, faces]  # (N, F, 3, 3)
    N, F = corner.shape[:2]
    line = torch.arange(case.S, dtype=torch.float64, device=vertices.device)
    x, y = line.repeat(case.S), line.repeat_interleave(case.S)
    best = x.new_full((N, case.S**2), math.inf, dtype=torch.float32)
    face = torch.full_like(best, -1, dtype=torch.int64)
    step = max(1, 2**22 // (N * case.S**2))
    for f in range(0, F, step):
        some = corner[:, f : f + step, None]
        e = _edges(some, x, y)  # (N, step, S S)
        positive = (e[0] >= 0) & (e[1] >= 0) & (e[2] >= 0)
        negative = (e[0] <= 0) & (e[1] <= 0) & (e[2] <= 0)
        area = _edges(some[:, :, 0], some[:, :, 0, 0, 0], some[:, :, 0, 0, 1])[0][..., None]
        z = some[..., 2]
        slopes = (z[..., 1:] - z[..., :1]) / area[..., None]
        depth = z[..., 0] + (e[1] * slopes[..., 0] + e[2] * slopes[..., 1])
        depth = depth.float().where((positive | negative) & (area != 0), math.inf)
        nearest, which = depth.min(1)
        closer = nearest < best
        best = nearest.where(closer, best)
        face = (which + f).where(closer, face)
    return _finish(case, corner, face, vertices.dtype)


def boxes(case: MeshCase, vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels of the faces' boxes only: all boxes as high and wide as the largest, one offset of
    theirs at a time, minima of 64-bit keys."""
    corner = vertices.double()[:, faces]
    N, F = corner.shape[:2]
    low, high = corner[..., :2].amin(2).ceil(), corner[..., :2].amax(2).floor()
    low, high = low.clamp(min=0), high.clamp(max=case.S - 1)
    n, f = ((high >= low).all(-1)).nonzero().unbind(1)
    corner_of, low, high = corner[n, f], low[n, f], high[n, f]
    area = _edges(corner_of, corner_of[:, 0, 0], corner_of[:, 0, 1])[0]
    z = corner_of[..., 2]
    slopes = (z[:, 1:] - z[:, :1]) / area[:, None]
    keys = torch.full((N * case.S**2,), 2**63 - 1, device=vertices.device)
    wide, tall = ((high - low).amax(0).int() + 1).tolist()
    for dy in range(tall):
        for dx in range(wide):
            x, y = low[:, 0] + dx, low[:, 1] + dy
            e = _edges(corner_of, x, y)
            least = torch.minimum(torch.minimum(e[0], e[1]), e[2])
            most = torch.maximum(torch.maximum(e[0], e[1]), e[2])
            inside = (least >= 0) | (most <= 0)
            inside &= (x <= high[:, 0]) & (y <= high[:, 1]) & (area != 0)
            k = inside.nonzero()[:, 0]
            depth = (z[k, 0] + (e[1][k] * slopes[k, 0] + e[2][k] * slopes[k, 1])).float()
            bits = depth.view(torch.int32)
            bits = bits.where(bits >= 0, bits ^ 0x7FFFFFFF).long()
            pixel = (n[k] * case.S + y[k].long()) * case.S + x[k].long()
            keys.scatter_reduce_(0, pixel, bits * 2**32 + f[k], "amin")
    face = (keys & 0x7FFFFFFF).where(keys != 2**63 - 1, -1).view(N, -1)
    return _finish(case, corner, face, vertices.dtype)


def providers(case: MeshCase, device: str) -> list[Provider]:
    def pose_kernels(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
        return pk.mesh_raster(vertices, faces, (case.S, case.S))

    found = [*ours("mesh_raster", pose_kernels, device)]
    if case.S <= 256:  # beyond that it takes minutes
        found.append(Provider("all pairs", "eager", lambda *t: obvious(case, *t)))
    found.append(Provider("boxes", "smart", lambda *t: boxes(case, *t), synchronizes=True))
    found.append(
        Provider("the reference", "smart", lambda *t: reference(case, *t), synchronizes=True)
    )
    return found


def coordinate_range(case: MeshCase) -> int:
    return case.S


def longest_sum(case: MeshCase) -> int:
    """Depths that differ by a rounding may exchange the faces of a pixel or two."""
    return 16


def bytes_moved(case: MeshCase) -> int:
    """Vertices and faces read once, the face and three barycentrics of a pixel written once."""
    element = case.dtype.itemsize
    vertices = case.N * (2 + (case.rings - 1) * case.segments) * 3 * element
    return vertices + case.faces * 3 * 8 + case.N * case.S**2 * (4 + 3 * element)


def flops(case: MeshCase) -> int:
    """30 for each face, and 25 for each pixel in the box of a face: twice the pixels it covers."""
    covered = 2 * 0.4 * case.S**2  # front and back
    return int(case.N * (30 * case.faces + 25 * 2 * covered))
