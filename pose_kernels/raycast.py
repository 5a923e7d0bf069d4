# SPDX-License-Identifier: Apache-2.0
"""Camera of the built-in person: which limb each pixel sees first, and where on its chart.

The camera is orthographic and looks along -z, tilted down a little. Inside a limb's box a ray is
sampled from the near side, and the first change from outside to inside is bisected.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .body import Array, Loft, Pose, lofts, profile, rotation_about, skeleton

FIELD_OF_VIEW = 2.06  # meters from the lower to the upper edge of the picture
CAMERA_TILT = 7.0  # degrees downward: shows the top of the shoes
GROUND_MARGIN = 0.12  # meters between the soles and the lower edge
_STEPS = 40  # samples of a ray inside a limb's box
_BISECTIONS = 16  # halvings of a step: below a micrometer


@dataclass(frozen=True)
class Trace:
    """First hit per pixel: part (H, W) uint8, 0 = background; uv (2, H, W); unit normal in camera
    axes (3, H, W); depth (H, W) in meters toward the camera, -inf on the background. And where the
    ankles are: feet (2, 2), (column, row)."""

    part: NDArray[np.uint8]
    uv: Array
    normal: Array
    depth: Array
    feet: Array


def _level(local: Array, loft: Loft) -> Array:
    """Implicit function of a loft at points (..., 3): below 1 inside, 1 on the surface."""
    grid, curve = profile(loft)
    y = local[..., 1]
    width, depth, offset = (np.interp(y, grid, curve[:, k]) for k in range(3))
    level = np.abs(local[..., 0] / width) ** loft.power
    level += np.abs((local[..., 2] - offset) / depth) ** loft.power
    return np.where((y < grid[0]) | (y > grid[-1]), np.inf, level)


def _coordinates(local: Array, loft: Loft) -> tuple[NDArray[np.uint8], Array]:
    """Part and (u, v) of surface points (K, 3)."""
    grid, curve = profile(loft)
    width, depth, offset, v = (np.interp(local[:, 1], grid, curve[:, k]) for k in range(4))
    angle = np.degrees(np.arctan2(local[:, 0] / width, (local[:, 2] - offset) / depth))
    part = np.zeros(len(local), np.uint8)
    u = np.zeros(len(local))
    for chart in loft.charts:
        away = (angle - chart.center + 180.0) % 360.0 - 180.0
        inside = (np.abs(away) <= chart.span / 2) & (part == 0)
        share = chart.u[0] + (chart.u[1] - chart.u[0]) * (away / chart.span + 0.5)
        part[inside], u[inside] = chart.part, share[inside]
    return part, np.clip(np.stack((u, v)), 0.0, 1.0)


def trace(pose: Pose, height: int, width: int) -> Trace:
    """Follow one ray per pixel center to the first limb; pixel side: FIELD_OF_VIEW / height."""
    scale = height / FIELD_OF_VIEW
    camera = rotation_about(0, CAMERA_TILT)
    center = np.array([(width - 1) / 2, (height - 1) - GROUND_MARGIN * scale])
    part = np.zeros((height, width), np.uint8)
    uv = np.zeros((2, height, width))
    normal = np.zeros((3, height, width))
    depth = np.full((height, width), -np.inf)
    bones = skeleton(pose)
    for loft in lofts():
        rotation, origin = bones[loft.bone]
        to_camera, shift = camera @ rotation, camera @ origin
        _, curve = profile(loft)
        reach = np.abs(curve[:, :2]).max(axis=0)
        low = np.array([-reach[0], loft.knots[-1][0], (curve[:, 2] - curve[:, 1]).min()])
        high = np.array([reach[0], loft.knots[0][0], (curve[:, 2] + curve[:, 1]).max()])
        corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), -1).reshape(
            -1, 3
        )
        placed = corners @ to_camera.T + shift
        columns = center[0] + placed[:, 0] * scale
        rows = center[1] - placed[:, 1] * scale
        x0, x1 = max(int(columns.min()), 0), min(int(columns.max()) + 2, width)
        y0, y1 = max(int(rows.min()), 0), min(int(rows.max()) + 2, height)
        if x0 >= x1 or y0 >= y1:
            continue
        row, column = (g.ravel() for g in np.mgrid[y0:y1, x0:x1])
        start = np.column_stack(
            ((column - center[0]) / scale, (center[1] - row) / scale, np.zeros(len(row)))
        )
        start = (start - shift) @ to_camera  # the ray in the limb's frame: start + z * direction
        direction = to_camera[2]
        safe = np.where(np.abs(direction) < 1e-9, 1e-9, direction)
        first, second = (low - start) / safe, (high - start) / safe
        far = np.minimum(first, second).max(axis=1)
        near = np.maximum(first, second).min(axis=1)
        keep = near > far
        row, column, start, near, far = (a[keep] for a in (row, column, start, near, far))
        if not len(row):
            continue
        z = near[:, None] + (far - near)[:, None] * np.linspace(0, 1, _STEPS)
        inside = _level(start[:, None] + z[..., None] * direction, loft) <= 1
        hit = inside.any(axis=1)
        row, column, start, z, inside = (a[hit] for a in (row, column, start, z, inside))
        index = np.maximum(inside.argmax(axis=1), 1)
        pick = np.arange(len(row))
        outer, inner = z[pick, index - 1], z[pick, index]
        for _ in range(_BISECTIONS):
            middle = (outer + inner) / 2
            within = _level(start + middle[:, None] * direction, loft) <= 1
            outer, inner = np.where(within, outer, middle), np.where(within, middle, inner)
        wins = inner > depth[row, column]
        row, column, start, inner = (a[wins] for a in (row, column, start, inner))
        local = start + inner[:, None] * direction
        step = 5e-4 * np.eye(3)
        bounded = local.copy()  # differences must not leave the loft at its ends
        bounded[:, 1] = np.clip(local[:, 1], low[1] + 1e-3, high[1] - 1e-3)
        slope = np.stack([_level(bounded + e, loft) - _level(bounded - e, loft) for e in step], -1)
        slope = slope @ to_camera.T
        slope /= np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-12)
        depth[row, column] = inner
        part[row, column], uv[:, row, column] = _coordinates(local, loft)
        normal[:, row, column] = slope.T
    feet = np.array([camera @ bones[f"{side}_foot"][1] for side in ("left", "right")])
    feet = np.column_stack((center[0] + feet[:, 0] * scale, center[1] - feet[:, 1] * scale))
    return Trace(part, uv, normal, depth, feet)
