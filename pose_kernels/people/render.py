# SPDX-License-Identifier: Apache-2.0
"""Pictures of one person in several poses at once, through `mesh_raster`, and what is exactly
known about them: parts, uv, and which pixel of one shows what pixel of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..ops.mesh_raster import mesh_raster
from ..ops.uv_gather import uv_gather
from .body import Array
from .camera import Camera, Light
from .mesh import Body, topology
from .pose import Pose

TOLERANCE = 0.012  # meters behind the front surface that count as still on it


class Views(NamedTuple):
    """N pictures. image (N, 3, H, W) float32 in [0, 1], part (N, H, W) uint8, uv (N, 2, H, W)
    float32, both 0 off the person; joints (N, 19, 3) float64, pixels as `Camera.skeleton`; behind
    (N, 19): meters from what the picture shows at a joint's pixel to the joint, away from the
    viewer, -inf where it shows none of the person; drawn: what `flow` needs."""

    image: Tensor
    part: Tensor
    uv: Tensor
    joints: Array
    behind: Array
    drawn: Drawn


@dataclass(frozen=True)
class Drawn:
    """vertices (N, V, 3) float32, pixels and depth; face (N, sH, sW) and bary (N, 3, sH, sW) on a
    grid `samples` (odd) times as fine as the pixels, whose centers are on it."""

    vertices: Tensor
    face: Tensor
    bary: Tensor
    samples: int

    @property
    def center(self) -> slice:
        return slice(self.samples // 2, None, self.samples)


@lru_cache(maxsize=1)
def _faces() -> Tensor:
    return torch.from_numpy(topology().faces)


def render(
    body: Body,
    poses: Sequence[Pose],
    cameras: Sequence[Camera],
    lights: Sequence[Light],
    atlas: Tensor,
    backdrop: Tensor,
    *,
    samples: int = 3,
) -> Views:
    """Draw a person once per pose, camera and light.

    Args:
        body: whose surface.
        poses, cameras, lights: N each.
        atlas: (24, 3, S, S) float32 in [0, 1].
        backdrop: (N or 1, 3, H, W) float32, what is seen beside the person.
        samples: per side of a pixel, odd. The image is the mean of the samples' colors; part and
            uv are those of the sample in the middle, which is the pixel's center.

    A pixel's color, at samples 1, is `uv_gather` of the atlas at its own part and uv, times the
    light.

    Raises:
        ValueError: samples is not odd and positive, or the numbers of poses, cameras and lights
            differ.
    """
    if samples < 1 or samples % 2 == 0:
        raise ValueError(f"samples must be an odd number of at least 1, got {samples}")
    N = len(poses)
    if not N == len(cameras) == len(lights):
        raise ValueError(
            f"poses, cameras and lights must be as many, got {N}, {len(cameras)}, {len(lights)}"
        )
    H, W = backdrop.shape[-2:]
    points, normals, joints = body.posed(poses)
    placed = np.stack([c.project(p, H, W) for c, p in zip(cameras, points)])
    vertices = torch.from_numpy(placed.astype(np.float32))
    faces = _faces()
    fine = vertices * vertices.new_tensor([samples, samples, 1.0])
    fine += fine.new_tensor([samples // 2, samples // 2, 0.0])
    face, bary = mesh_raster(fine, faces, (samples * H, samples * W))
    drawn = Drawn(vertices, face, bary, samples)

    image = np.empty((N, 3, H, W), np.float32)
    part = np.zeros((N, H * W), np.uint8)
    uv = np.zeros((N, 2, H * W), np.float32)
    backdrop = backdrop.expand(N, -1, -1, -1)
    for n, (camera, light) in enumerate(zip(cameras, lights)):
        toward = np.array(light.direction) / np.linalg.norm(light.direction) @ camera.axes()
        lit = np.maximum(normals[n] @ toward, 0).astype(np.float32)
        seen = _seen(face[n], bary[n], atlas, light, lit)
        pixel, central = (table[seen.at] for table in _pixels(H, W, samples))
        part[n, pixel[central]] = seen.part[central]
        uv[n][:, pixel[central]] = seen.uv[:, central]
        cover = np.bincount(pixel, minlength=H * W).reshape(H, W) / samples**2
        for channel in range(3):
            sums = np.bincount(pixel, seen.color[channel], H * W).reshape(H, W) / samples**2
            image[n, channel] = sums + (1 - cover) * backdrop[n, channel].numpy()
    behind = [
        _behind(drawn, n, camera.project(own, H, W))
        for n, (camera, own) in enumerate(zip(cameras, joints))
    ]
    return Views(
        torch.from_numpy(image.clip(0, 1)),
        torch.from_numpy(part).view(N, H, W),
        torch.from_numpy(uv).view(N, 2, H, W),
        np.stack([c.skeleton(j, H, W) for c, j in zip(cameras, joints)]),
        np.stack(behind),
        drawn,
    )


class _Seen(NamedTuple):
    """The K samples of a picture that show the person: at (K,), part (K,), uv (2, K), color
    (3, K)."""

    at: NDArray[np.intp]
    part: NDArray[np.uint8]
    uv: NDArray[np.float32]
    color: NDArray[np.float32]


def _seen(
    face: Tensor, bary: Tensor, atlas: Tensor, light: Light, lit: NDArray[np.float32]
) -> _Seen:
    """What the raster of one picture shows; lit (V,) is the cosine of the light at the vertices."""
    mesh = topology()
    faces = face.numpy().ravel()
    at = np.flatnonzero(faces >= 0)
    hit = faces[at]
    weight = [plane[at] for plane in bary.numpy().reshape(3, -1)]

    def interpolated(corners: NDArray[np.float32]) -> NDArray[np.float32]:
        """(K,) of values (F, 3) at the corners of the faces."""
        total = weight[0] * np.ascontiguousarray(corners[:, 0])[hit]
        for i in (1, 2):
            total += weight[i] * np.ascontiguousarray(corners[:, i])[hit]
        return total

    uv = np.stack((interpolated(mesh.uv[..., 0]), interpolated(mesh.uv[..., 1]))).clip(0, 1)
    part = mesh.part[hit]
    place = torch.from_numpy(part)[None, None], torch.from_numpy(uv)[None, :, None]
    color = uv_gather(atlas[None], *place)[0, :, 0].numpy()
    shade = interpolated(lit[mesh.faces])
    for channel in range(3):
        color[channel] *= light.ambient[channel] + light.diffuse[channel] * shade
    return _Seen(at, part, uv, color)


@lru_cache(maxsize=8)
def _pixels(height: int, width: int, samples: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Of every sample, row by row: the pixel it belongs to, and whether it is its center."""
    row, column = np.arange(height * samples)[:, None], np.arange(width * samples)
    pixel = row // samples * width + column // samples
    middle = samples // 2
    central = (row % samples == middle) & (column % samples == middle)
    return pixel.astype(np.int32).ravel(), central.ravel()


def _behind(drawn: Drawn, n: int, points: Array) -> Array:
    """How far points (J, 3) of `Camera.project` lie behind the surface of picture n."""
    faces = _faces()
    s, (rows, columns) = drawn.samples, drawn.face.shape[1:]
    column = np.clip(np.round(s * points[:, 0] + s // 2), 0, columns - 1).astype(int)
    row = np.clip(np.round(s * points[:, 1] + s // 2), 0, rows - 1).astype(int)
    face = drawn.face[n, row, column].long()
    depth = drawn.vertices[n, faces[face.clamp(min=0)], 2] * drawn.bary[n, :, row, column].T
    found: Array = points[:, 2] - depth.sum(1).double().numpy()
    found[(face < 0).numpy()] = -np.inf
    return found


def flow(drawn: Drawn, target: int, source: int) -> tuple[Tensor, Tensor]:
    """Appearance flow (2, H, W) in pixels from a target's pixels to a source, and their visibility
    (H, W) uint8 there: 0 visible, 1 occluded or outside of the picture, 2 background.

    The flow is that of `pose_kernels.mesh_flow`. A point is visible when its face is turned toward
    the viewer and it lies no more than `TOLERANCE` behind the face that the source shows at the
    nearest sample, continued as a plane to the very point: so a surface that is seen at a grazing
    angle does not hide itself.
    """
    faces = _faces()
    middle, s = drawn.center, drawn.samples
    face = drawn.face[target, middle, middle]
    H, W = face.shape
    at = (face.flatten() >= 0).nonzero()[:, 0]
    hit = face.flatten()[at].long()
    weight = drawn.bary[target, :, middle, middle].flatten(1)[:, at].T
    there, here = drawn.vertices[source], drawn.vertices[target]
    corner = there[faces[hit]]  # (K, 3, 3)
    step = ((corner - here[faces[hit]])[..., :2] * weight[..., None]).sum(1)
    depth = (corner[..., 2] * weight).sum(1)
    x, y = at % W + step[:, 0], at // W + step[:, 1]
    inside = (x >= 0) & (x <= W - 1) & (y >= 0) & (y <= H - 1)
    column = (s * x + s // 2).round().clamp(0, s * W - 1).long()
    row = (s * y + s // 2).round().clamp(0, s * H - 1).long()
    front = drawn.face[source, row, column].long()
    a, b, c = there[faces[front.clamp(min=0)]].double().unbind(1)
    # The plane z = a_z + p (x - a_x) + q (y - a_y) through the three corners.
    b, c = b - a, c - a
    area = b[:, 0] * c[:, 1] - b[:, 1] * c[:, 0]
    p = (b[:, 2] * c[:, 1] - b[:, 1] * c[:, 2]) / area
    q = (b[:, 0] * c[:, 2] - b[:, 2] * c[:, 0]) / area
    plane = a[:, 2] + p * (x - a[:, 0]) + q * (y - a[:, 1])
    # Of a closed surface, a face that is turned away shows nowhere.
    edges = corner[:, 1:, :2] - corner[:, :1, :2]
    turned = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0] >= 0
    seen = (front == hit) | ~turned & ((front < 0) | (depth <= plane + TOLERANCE))
    found = torch.zeros((2, H * W))
    found[:, at] = step.T
    visibility = torch.full((H * W,), 2, dtype=torch.uint8)
    visibility[at] = (~(inside & seen)).to(torch.uint8)
    return found.view(2, H, W), visibility.view(H, W)
