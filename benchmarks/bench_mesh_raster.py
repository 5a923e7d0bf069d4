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
    """Face by face, each in its own box, against a depth buffer."""
    corner = vertices.double()[:, faces]  # (N, F, 3, 3)
    N, S = len(corner), case.S
    depth = torch.full((N, S, S), math.inf, device=vertices.device)
    face = torch.full((N, S, S), -1, device=vertices.device)
    low = corner[..., :2].amin(2).ceil().clamp(min=0).int().tolist()
    high = corner[..., :2].amax(2).floor().clamp(max=S - 1).int().tolist()
    line = torch.arange(S, dtype=torch.float64, device=vertices.device)
    for n in range(N):
        for f, ((x0, y0), (x1, y1)) in enumerate(zip(low[n], high[n], strict=True)):
            if x0 > x1 or y0 > y1:
                continue
            own = corner[n, f]
            area = _edges(own, own[0, 0], own[0, 1])[0]
            e = _edges(own, line[x0 : x1 + 1], line[y0 : y1 + 1, None])
            least, most = torch.minimum(e[0], e[1]), torch.maximum(e[0], e[1])
            inside = (torch.minimum(least, e[2]) >= 0) | (torch.maximum(most, e[2]) <= 0)
            w1, w2 = (own[1:, 2] - own[0, 2]) / area
            z = (own[0, 2] + (e[1] * w1 + e[2] * w2)).float()
            box = n, slice(y0, y1 + 1), slice(x0, x1 + 1)
            closer = inside & (area != 0) & (z < depth[box])
            depth[box] = z.where(closer, depth[box])
            face[box] = torch.where(closer, f, face[box])
    return _finish(case, corner, face.flatten(1), vertices.dtype)


def boxes(case: MeshCase, vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels of the faces' boxes only: one offset within them at a time, of all boxes that reach
    it; minima of 64-bit keys."""
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
    wide, tall = (high - low).int().add(1).where(area[:, None] != 0, 0).unbind(1)
    for dy in range(int(tall.max()) if len(tall) else 0):
        row = (tall > dy).nonzero()[:, 0]
        for dx in range(int(wide[row].max())):
            k = row[wide[row] > dx]
            x, y = low[k, 0] + dx, low[k, 1] + dy
            e = _edges(corner_of[k], x, y)
            least = torch.minimum(torch.minimum(e[0], e[1]), e[2])
            most = torch.maximum(torch.maximum(e[0], e[1]), e[2])
            i = ((least >= 0) | (most <= 0)).nonzero()[:, 0]
            k, x, y = k[i], x[i].long(), y[i].long()
            depth = (z[k, 0] + (e[1][i] * slopes[k, 0] + e[2][i] * slopes[k, 1])).float()
            bits = depth.view(torch.int32)
            bits = bits.where(bits >= 0, bits ^ 0x7FFFFFFF).long()
            keys.scatter_reduce_(0, (n[k] * case.S + y) * case.S + x, bits * 2**32 + f[k], "amin")
    face = (keys & 0x7FFFFFFF).where(keys != 2**63 - 1, -1).view(N, -1)
    return _finish(case, corner, face, vertices.dtype)


def providers(case: MeshCase, device: str) -> list[Provider]:
    def pose_kernels(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
        return pk.mesh_raster(vertices, faces, (case.S, case.S))

    calls = {"face by face": obvious, "boxes": boxes, "the reference": reference}
    if case.N > 2:  # 5 s a mesh
        del calls["face by face"]
    return [
        *ours("mesh_raster", pose_kernels, device),
        *(
            Provider(
                name,
                "eager" if name == "face by face" else "smart",
                lambda *t, call=call: call(case, *t),
                synchronizes=True,
                specification=call is reference,
            )
            for name, call in calls.items()
        ),
    ]


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
