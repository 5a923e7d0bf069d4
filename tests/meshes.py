# SPDX-License-Identifier: Apache-2.0
"""Meshes to draw, and the face of every pixel in plain Python, one pixel after another."""

from __future__ import annotations

import math
import struct

import torch
from torch import Tensor

NAN, INF = float("nan"), float("inf")


def soup(V: int, F: int, size: tuple[int, int], dtype=torch.float32, seed=0, N=1, wild=True):
    """Triangles that share corners: some on pixel centers, off screen, huge, thin, or broken."""
    random = torch.Generator().manual_seed(seed)
    H, W = size
    span = torch.tensor([W * 1.4, H * 1.4, 4.0], dtype=torch.float64)
    vertices = torch.rand((N, V, 3), generator=random, dtype=torch.float64) * span
    vertices -= torch.tensor([W * 0.2, H * 0.2, 2.0])
    kind = torch.randint(0, 12, (N, V), generator=random)
    vertices = torch.where((kind < 4)[..., None], vertices.round(), vertices)  # edges through them
    if wild:
        vertices = torch.where((kind == 4)[..., None], vertices * 300, vertices)
        vertices[..., :2][kind == 5] *= 1e-3
        vertices[..., 1][kind == 6] = 2 + vertices[..., 0][kind == 6] * 1e-7  # needles
        broken = torch.tensor([NAN, INF, -INF, 3e38, -0.0, 1e-40])
        pick = torch.randint(0, 120, vertices.shape, generator=random)
        vertices = vertices.where(pick >= len(broken), broken[pick % len(broken)].double())
    faces = torch.randint(0, V, (F, 3), generator=random)
    near = (faces[:, :1] + torch.tensor([0, 1, 2])) % V  # half of them share edges
    faces = torch.where(torch.rand((F, 1), generator=random) < 0.5, near, faces)
    return vertices.to(dtype), faces


def sphere(rings: int, segments: int, radius: float, middle: float) -> tuple[Tensor, Tensor]:
    """(V, 3) float32 and (F, 3), outward: 2 (rings - 1) segments triangles."""
    rows = [(0.0, -radius, 0.0)]
    for i in range(1, rings):
        polar = math.pi * i / rings
        for j in range(segments):
            angle = 2 * math.pi * j / segments
            across = radius * math.sin(polar)
            rows.append(
                (across * math.cos(angle), -radius * math.cos(polar), across * math.sin(angle))
            )
    rows.append((0.0, radius, 0.0))
    faces = []
    for j in range(segments):
        right = (j + 1) % segments
        faces.append((0, 1 + right, 1 + j))
        last = 1 + (rings - 2) * segments
        faces.append((len(rows) - 1, last + j, last + right))
        for i in range(rings - 2):
            a, b = 1 + i * segments + j, 1 + i * segments + right
            faces += [(a, b, a + segments), (b, b + segments, a + segments)]
    vertices = torch.tensor(rows)
    vertices[:, :2] += middle
    return vertices, torch.tensor(faces)


def turned(vertices: Tensor, degrees: float, middle: float) -> Tensor:
    """About the vertical axis through the middle."""
    angle = math.radians(degrees)
    x, z = vertices[:, 0] - middle, vertices[:, 2]
    across, depth = (
        x * math.cos(angle) + z * math.sin(angle),
        z * math.cos(angle) - x * math.sin(angle),
    )
    return torch.stack([across + middle, vertices[:, 1], depth], 1)


# ---- the face of every pixel, one after another


def single(value: float) -> float:
    """Rounded to float32."""
    return struct.unpack("f", struct.pack("f", value))[0]


def scalar_raster(vertices: list, faces: list, size: tuple[int, int]):
    """([H][W] faces, [H][W] barycentrics or None) of one mesh, without tensors.

    Python's floats are doubles and every operation is rounded by itself.
    """
    H, W = size
    best = [[(INF, -1)] * W for _ in range(H)]
    place = [[None] * W for _ in range(H)]
    for f, corners in enumerate(faces):
        (ax, ay, az), (bx, by, bz), (cx, cy, cz) = (vertices[i] for i in corners)
        numbers = (ax, ay, az, bx, by, bz, cx, cy, cz)
        if not all(abs(v) <= 3.4028234663852886e38 for v in numbers):
            continue
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-150:
            continue
        slope_b, slope_c = (bz - az) / area, (cz - az) / area
        for y in range(H):
            if not min(ay, by, cy) <= y <= max(ay, by, cy):
                continue
            for x in range(W):
                if not min(ax, bx, cx) <= x <= max(ax, bx, cx):
                    continue
                e0 = (bx - x) * (cy - y) - (by - y) * (cx - x)
                e1 = (cx - x) * (ay - y) - (cy - y) * (ax - x)
                e2 = (ax - x) * (by - y) - (ay - y) * (bx - x)
                if area > 0 and min(e0, e1, e2) < 0 or area < 0 and max(e0, e1, e2) > 0:
                    continue
                depth = az + (e1 * slope_b + e2 * slope_c)
                depth = single(min(max(depth, min(az, bz, cz)), max(az, bz, cz)))
                if depth < best[y][x][0]:  # an equal one is of an earlier face
                    best[y][x] = (depth, f)
                    total = e0 + e1 + e2
                    place[y][x] = (e0 / total, e1 / total, e2 / total) if total else (1.0, 0.0, 0.0)
    return [[f for _, f in row] for row in best], place
