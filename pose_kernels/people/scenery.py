# SPDX-License-Identifier: Apache-2.0
"""A background while it is painted, and the things that stand in one.

Places are in heights of the picture from its upper left corner, so that a scene looks the same at
every size; edges are covered by area.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Color = NDArray[np.floating[Any]]  # (3,)


def color_of(rng: np.random.Generator, light: tuple[float, float], strength: float) -> Color:
    """A color of this range of brightness; strength: how far its channels may part."""
    value, *parts = rng.random(4).tolist()
    value = light[0] + (light[1] - light[0]) * value - strength
    return np.array([min(max(value + 2 * strength * p, 0.0), 1.0) for p in parts], np.float32)


def ramp(value: Array, low: float, high: float) -> Array:
    """0 at low, 1 at high and beyond, smooth between."""
    t = (value - np.float32(low)) * np.float32(1 / (high - low))
    np.minimum(np.maximum(t, 0, out=t), 1, out=t)
    return t * t * (np.float32(3) - 2 * t)


class Scene:
    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng = rng
        self.scale = float(height)
        self.wide = width / height  # the picture's width in heights
        self.rows = np.arange(height, dtype=np.float32) + np.float32(0.5)
        self.columns = np.arange(width, dtype=np.float32) + np.float32(0.5)
        self.y = (self.rows / np.float32(height))[:, None]
        self.x = (self.columns / np.float32(height))[None, :]
        self.image = np.empty((3, height, width), np.float32)

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def fill(self, top: Color, bottom: Color) -> None:
        share = np.linspace(0, 1, len(self.rows), dtype=np.float32)
        column = top[:, None] + (bottom - top)[:, None] * share
        self.image[:] = column[:, :, None]

    def span(self, low: float, high: float, centers: Array) -> tuple[slice, Array]:
        """The pixels between two places, and how much of each is covered."""
        low, high = max(low * self.scale, 0.0), min(high * self.scale, float(len(centers)))
        first, last = int(low), math.ceil(high)
        cover = np.ones(max(last - first, 0), np.float32)
        if last > first:
            cover[0] -= low - first
            cover[-1] -= last - high
        return slice(first, max(last, first)), cover

    def box(self, x: float, y: float, width: float, height: float, color: Color) -> None:
        rows, tall = self.span(y, y + height, self.rows)
        columns, broad = self.span(x, x + width, self.columns)
        target = self.image[:, rows, columns]
        target += (color[:, None, None] - target) * (tall[:, None] * broad)

    def shade(self, x: float, y: float, width: float, height: float, factor: float) -> None:
        rows, tall = self.span(y, y + height, self.rows)
        columns, broad = self.span(x, x + width, self.columns)
        self.image[:, rows, columns] *= 1 + np.float32(factor - 1) * (tall[:, None] * broad)

    def blend(self, color: Color, mask: Array | np.float32, rows: slice = slice(None)) -> None:
        for channel in range(3):  # one at a time: what is in between stays in the cache
            target = self.image[channel, rows]
            target += (color[channel] - target) * mask

    def field(
        self,
        cell: float,
        squash: float = 1.0,
        rows: slice = slice(None),
        columns: slice = slice(None),
    ) -> Array:
        """Smooth random values (rows, columns) in [0, 1], of lumps about `cell` wide, `squash`
        times as high."""
        across = max(int(np.ceil(self.wide / cell)) + 2, 2)
        along = max(int(np.ceil(1 / (cell * squash))) + 2, 2)
        lattice = self.rng.random((along, across)).astype(np.float32)
        return _between(self.y[rows, 0] / np.float32(cell * squash), along) @ (
            lattice @ _between(self.x[0, columns] / np.float32(cell), across).T
        )

    def grain(self, strength: float) -> None:
        noise = self.rng.random(self.image.shape[1:], np.float32)
        noise -= np.float32(0.5)
        noise *= np.float32(strength)
        self.image += noise


def _between(place: Array, count: int) -> Array:
    """Weights (len(place), count) of smooth interpolation between lattice points."""
    nodes = np.arange(count, dtype=np.float32)
    near = np.clip(1 - np.abs(place[:, None] - nodes), 0, 1)
    return near * near * (3 - 2 * near)


def planks(scene: Scene, top: float, color: Color) -> None:
    """A wooden or tiled floor seen at an angle."""
    rows = slice(int(top * scene.scale), None)
    y = scene.y[rows]
    if not len(y):
        return
    depth = np.float32(1) / (y - np.float32(top - 0.12))  # lines run to a point above the edge
    lanes = (scene.x - np.float32(0.5 * scene.wide)) * depth
    line = np.abs((lanes * np.float32(0.9)) % 1 - np.float32(0.5)) > 0.46
    shade = np.float32(1.08) - np.float32(0.45) * (np.float32(1) - (y - top))
    if scene.rng.random() < 0.5:
        line = line | (np.abs((depth * np.float32(1.3)) % 1 - 0.5) > 0.46)
    scene.blend(color, np.float32(1), rows)
    scene.image[:, rows] *= (shade + 0.35) * (1 - np.float32(0.18) * line)


def window(scene: Scene, x: float, y: float, width: float, height: float) -> None:
    frame = color_of(scene.rng, (0.8, 0.97), 0.03)
    scene.box(x - 0.015, y - 0.015, width + 0.03, height + 0.03, frame)
    scene.box(x, y, width, height, color_of(scene.rng, (0.65, 0.95), 0.10))
    scene.box(x, y + 0.6 * height, width, 0.4 * height, color_of(scene.rng, (0.35, 0.65), 0.12))
    scene.box(x + width / 2 - 0.006, y, 0.012, height, frame)
    scene.box(x, y + height / 2 - 0.006, width, 0.012, frame)
    if scene.rng.random() < 0.6:
        cloth = color_of(scene.rng, (0.3, 0.9), 0.25)
        for left in (x - 0.05, x + width - 0.02):
            scene.box(left, y - 0.03, 0.07, height + 0.12, cloth)
            scene.shade(left + 0.02, y - 0.03, 0.012, height + 0.12, 0.8)
            scene.shade(left + 0.05, y - 0.03, 0.010, height + 0.12, 0.85)


def shelf(scene: Scene, x: float, y: float, width: float, height: float, rows: int) -> None:
    """Boards full of books: per board, one height and one color for each column of pixels."""
    rng = scene.rng
    scene.box(x, y, width, height, color_of(rng, (0.15, 0.5), 0.08))
    board = color_of(rng, (0.4, 0.8), 0.10)
    step = height / rows
    for k in range(rows):
        low = y + (k + 1) * step
        edges = np.cumsum(rng.uniform(0.012, 0.034, 64)) + x
        colors = (rng.uniform(0.12, 0.88, (65, 1)) + rng.uniform(-0.22, 0.22, (65, 3))).astype(
            np.float32
        )
        tops = (low - step * rng.uniform(0.45, 0.88, 65) * (rng.random(65) < 0.88)).astype(
            np.float32
        )
        columns, _ = scene.span(x + 0.01, x + width - 0.01, scene.columns)
        band, _ = scene.span(low - step, low, scene.rows)
        if columns.start < columns.stop and band.start < band.stop:
            book = np.searchsorted(edges, scene.x[0, columns])
            mask = np.clip((scene.y[band] - tops[book]) * np.float32(scene.scale), 0, 1)
            target = scene.image[:, band, columns]
            target += (colors[book].T[:, None] - target) * mask
        scene.box(x, low - 0.008, width, 0.016, board)


def plant(scene: Scene, x: float, y: float, size: float) -> None:
    """Leaves in a disc of this radius: what exceeds a random field."""
    rows, _ = scene.span(y - 1.25 * size, y + 1.25 * size, scene.rows)
    columns, _ = scene.span(x - 1.25 * size, x + 1.25 * size, scene.columns)
    leaves = scene.field(0.035, 1.0, rows, columns)
    green = color_of(scene.rng, (0.18, 0.42), 0.05)
    green[1] += np.float32(0.14)
    if not leaves.size:
        return
    near = np.float32(1 / size)
    away = ((scene.x[:, columns] - np.float32(x)) * near) ** 2 + (
        (scene.y[rows] - np.float32(y)) * near
    ) ** 2
    mask = ramp(leaves * np.float32(1.1) - away, -0.45, -0.30)
    light = 1 + mask * (ramp(leaves, 0.35, 0.75) - np.float32(0.5)) * np.float32(0.7)
    for channel in range(3):
        target = scene.image[channel, rows, columns]
        target += (green[channel] - target) * mask
        target *= light
