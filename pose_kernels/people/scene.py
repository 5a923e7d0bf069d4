# SPDX-License-Identifier: Apache-2.0
"""Random surroundings of a picture: where the camera stands, the light, what is behind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .body import Array
from .camera import FIELD_OF_VIEW, Camera, Light


def random_light(rng: np.random.Generator) -> Light:
    """From the front or a side, from above; warmer or colder."""
    side, height = np.radians(rng.uniform(-75, 75)), np.radians(rng.uniform(10, 60))
    across, ahead = np.sin(side) * np.cos(height), np.cos(side) * np.cos(height)
    ambient = rng.uniform(0.52, 0.70)
    diffuse = rng.uniform(0.96, 1.08) - ambient
    warmth = rng.uniform(-0.06, 0.06)
    tint = (1 + warmth, 1.0, 1 - warmth)
    red, green, blue = (float(diffuse * t) for t in tint)
    dim, same, cold = (float(ambient * (1 - 0.5 * (t - 1))) for t in tint)
    direction = (float(across), float(np.sin(height)), float(ahead))
    return Light(direction, (dim, same, cold), (red, green, blue))


def random_camera(
    rng: np.random.Generator, joints: Array, height: int, width: int, *, yaw: float
) -> Camera:
    """Frames a person whose 19 joints (19, 3) are given, in meters: mostly whole, sometimes so
    near that feet or legs are cut off."""
    camera = Camera(
        yaw=yaw,
        pitch=rng.uniform(0, 12),
        roll=float(np.clip(rng.normal(0, 2), -5, 5)),
        distance=float("inf") if rng.random() < 0.25 else rng.uniform(3.5, 8),
        at=(0.5, 0.5),
    )
    seen = camera.project(joints, height, width)[:, :2]
    low, high = seen.min(0), seen.max(0)
    # The joints end at eyes, wrists and ankles; the rest of the body reaches farther.
    pad = height / FIELD_OF_VIEW * np.array([0.16, 0.20])
    low, high = low - pad, high + pad * [1, 0.55]
    room = np.array([width, height]) / (high - low)
    if rng.random() < 0.28:  # down to the hips or the knees
        zoom = min(room[1] * rng.uniform(1.25, 1.8), 2.4)
        top = rng.uniform(0.0, 0.06) * height
    else:
        zoom = min(room.min() * rng.uniform(0.82, 1.02), 1.6)
        top = rng.uniform(0.2, 0.8) * max(height - zoom * (high[1] - low[1]), 0.0)
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    column = (width - 1) / 2 - zoom * ((low[0] + high[0]) / 2 - middle[0])
    column += rng.normal(0, 0.03) * width
    row = top - zoom * (low[1] - middle[1])
    at = (float(column / max(width - 1, 1)), float(row / max(height - 1, 1)))
    return replace(camera, zoom=float(zoom), at=at)


def random_yaw(rng: np.random.Generator, frontal: float) -> float:
    """Degrees; with probability `frontal` about from the front, else from anywhere."""
    return float(rng.normal(0, 22) if rng.random() < frontal else rng.uniform(-180, 180))


def studio(height: int, width: int) -> NDArray[np.float32]:
    """(3, H, W): a studio wall, lighter in the middle."""
    row, column = np.mgrid[0:height, 0:width].astype(float)
    away = np.hypot((column / (width - 1 or 1) - 0.5) * 0.9, row / (height - 1 or 1) - 0.42)
    wall: Array = np.array([0.925, 0.930, 0.940]).reshape(3, 1, 1) - 0.20 * away**1.7
    return wall.astype(np.float32)


def shadows(feet: Array, height: int, width: int, zoom: float) -> NDArray[np.float32]:
    """(H, W) in [0, 1]: soft dark spots under the feet (2, 2), pixels (x, y)."""
    row, column = np.arange(height), np.arange(width)
    light = np.ones((height, width))
    for x, y in feet:
        across = (column - x) / (0.085 * height * zoom)
        along = (row - y - 0.028 * height * zoom) / (0.022 * height * zoom)
        light *= 1 - 0.30 * np.exp(-(along**2))[:, None] * np.exp(-(across**2))
    return light.astype(np.float32)
