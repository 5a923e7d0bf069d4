# SPDX-License-Identifier: Apache-2.0
"""What stands behind people: studio walls, and cluttered rooms, streets and parks.

A scene is a few dozen boxes and smooth random fields, which are products of small matrices: a
background costs little beside the person in front of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .scenery import Scene, color_of, planks, plant, ramp, shelf, window

KINDS = ("plain", "cluttered")


def _studio(scene: Scene) -> None:
    rng = scene.rng
    light = scene.uniform(0.45, 0.95) if rng.random() < 0.85 else scene.uniform(0.12, 0.4)
    strength = 0.02 if rng.random() < 0.5 else 0.08
    wall = color_of(rng, (light, light), strength)
    scene.fill(np.clip(wall * scene.uniform(0.9, 1.05), 0, 1), wall)
    look = rng.random()
    if look < 0.6:  # a floor, sharp or bent into the wall
        horizon = scene.uniform(0.76, 0.92)
        soft = scene.uniform(0.002, 0.12)
        floor = wall * np.float32(scene.uniform(0.8, 1.12))
        scene.blend(np.clip(floor, 0, 1), ramp(scene.y, horizon, horizon + soft))
        if soft < 0.02 and rng.random() < 0.5:
            scene.box(0, horizon - 0.03, scene.wide, 0.028, np.clip(wall * 1.1, 0, 1))
    if look > 0.85:  # paper that hangs from the ceiling
        left = scene.uniform(0.0, 0.2) * scene.wide
        paper = color_of(rng, (0.5, 0.95), 0.10)
        scene.box(left, 0, scene.wide - 2 * left, 1, paper)
    # One lamp: brightest somewhere in the middle, darker toward the corners.
    x, y = scene.uniform(0.2, 0.8) * scene.wide, scene.uniform(0.2, 0.6)
    away = (scene.x - np.float32(x)) ** 2 + (scene.y - np.float32(y)) ** 2
    scene.image *= np.float32(1.04) - np.float32(scene.uniform(0.05, 0.45)) * np.minimum(away, 1)


def _room(scene: Scene) -> None:
    rng = scene.rng
    wall = color_of(rng, (0.45, 0.92), 0.09)
    scene.fill(wall, wall * np.float32(0.92))
    if rng.random() < 0.35:  # wallpaper
        period = scene.uniform(0.03, 0.12)
        stripes = ramp(np.abs((scene.x / period) % 1 - 0.5), 0.22, 0.28)
        scene.blend(color_of(rng, (0.4, 0.9), 0.15), stripes * np.float32(0.5))
    floor = scene.uniform(0.74, 0.88)
    things = [rng.random() for _ in range(5)]
    if things[0] < 0.65:
        window(
            scene,
            scene.uniform(0.0, 0.7) * scene.wide,
            scene.uniform(0.05, 0.2),
            scene.uniform(0.18, 0.32),
            scene.uniform(0.25, 0.42),
        )
    if things[1] < 0.7:
        width = scene.uniform(0.22, 0.5)
        shelf(
            scene,
            scene.uniform(-0.1, 1.0) * scene.wide - width / 2,
            scene.uniform(0.1, 0.4),
            width,
            floor - 0.4 + scene.uniform(0, 0.35),
            2 + int(rng.integers(3)),
        )
    for _ in range(3):  # pictures
        x, y = scene.uniform(0, 0.95) * scene.wide, scene.uniform(0.05, 0.35)
        width, height = scene.uniform(0.07, 0.18), scene.uniform(0.07, 0.18)
        scene.box(x, y, width, height, color_of(rng, (0.05, 0.9), 0.05))
        scene.box(
            x + 0.012, y + 0.012, width - 0.024, height - 0.024, color_of(rng, (0.2, 0.9), 0.3)
        )
        scene.box(
            x + 0.03, y + height / 2, width - 0.06, height / 3, color_of(rng, (0.2, 0.9), 0.3)
        )
    scene.box(0, floor - 0.03, scene.wide, 0.03, color_of(rng, (0.7, 0.95), 0.03))
    planks(scene, floor, color_of(rng, (0.3, 0.7), 0.12))
    if things[2] < 0.55:  # a sofa or a chest of drawers
        x, width = scene.uniform(-0.2, 0.8) * scene.wide, scene.uniform(0.25, 0.55)
        color = color_of(rng, (0.15, 0.8), 0.25)
        top = floor - scene.uniform(0.14, 0.24)
        scene.shade(x - 0.01, floor + 0.03, width + 0.05, 0.03, 0.7)
        scene.box(x, top, width, floor + 0.04 - top, color)
        for k in range(1, 3):
            scene.shade(x + k * width / 3 - 0.004, top, 0.008, floor + 0.04 - top, 0.75)
        scene.shade(x, floor - 0.04, width, 0.08, 0.82)
    if things[3] < 0.5:
        x = scene.uniform(0.02, 0.95) * scene.wide
        scene.box(x - 0.045, floor - 0.05, 0.09, 0.10, color_of(rng, (0.3, 0.8), 0.2))
        plant(scene, x, floor - scene.uniform(0.14, 0.2), scene.uniform(0.10, 0.17))
    if things[4] < 0.4:  # a lamp
        x, y = scene.uniform(0.05, 0.9) * scene.wide, scene.uniform(0.15, 0.4)
        scene.box(x - 0.006, y, 0.012, floor - y, color_of(rng, (0.1, 0.5), 0.05))
        scene.box(x - 0.06, y - 0.05, 0.12, 0.09, color_of(rng, (0.75, 0.97), 0.08))
        glow = (scene.x - np.float32(x)) ** 2 + (scene.y - np.float32(y)) ** 2
        scene.image *= 1 + np.float32(0.18) * np.exp(-18 * glow)


def _street(scene: Scene) -> None:
    rng = scene.rng
    blue = np.array([0.52, 0.68, 0.88], np.float32) * np.float32(scene.uniform(0.8, 1.1))
    scene.fill(np.clip(blue, 0, 1), np.clip(blue + 0.2, 0, 1))
    clouds = ramp(scene.field(0.3, 0.4), 0.5, 0.85)
    scene.blend(np.full(3, 0.95, np.float32), clouds * np.float32(0.8))
    ground = scene.uniform(0.74, 0.86)
    x = -scene.uniform(0, 0.2)
    while x < scene.wide:
        width, top = scene.uniform(0.18, 0.42), scene.uniform(-0.2, 0.45)
        wall = color_of(rng, (0.25, 0.85), 0.10)
        scene.box(x, top, width, ground - top, wall)
        rows, tall = scene.span(top + 0.03, ground - 0.20, scene.rows)
        columns, broad = scene.span(x + 0.02, x + width - 0.02, scene.columns)
        if rows.start < rows.stop and columns.start < columns.stop:
            a, b = scene.uniform(0.06, 0.11), scene.uniform(0.08, 0.14)
            soft = 1.0 / (min(a, b) * scene.scale)
            across = np.abs(((scene.x[:, columns] - x) / a) % 1 - 0.5)
            along = np.abs(((scene.y[rows] - top) / b) % 1 - 0.5)
            panes = ramp(across, 0.30 + soft / 2, 0.30 - soft / 2) * ramp(
                along, 0.32 + soft / 2, 0.32 - soft / 2
            )
            target = scene.image[:, rows, columns]
            glass = color_of(rng, (0.12, 0.6), 0.08)
            target += (glass[:, None, None] - target) * (panes * tall[:, None] * broad)
        if rng.random() < 0.6:  # a shop: window, door, awning
            scene.box(x + 0.02, ground - 0.15, width - 0.04, 0.13, color_of(rng, (0.1, 0.7), 0.15))
            scene.box(
                x + 0.02 + 0.6 * width, ground - 0.15, 0.07, 0.15, color_of(rng, (0.1, 0.6), 0.2)
            )
            rows, _ = scene.span(ground - 0.19, ground - 0.14, scene.rows)
            columns, _ = scene.span(x + 0.01, x + width - 0.01, scene.columns)
            stripe = ramp(np.abs((scene.x[:, columns] / np.float32(0.05)) % 1 - 0.5), 0.2, 0.3)
            awning = color_of(rng, (0.3, 0.7), 0.3)[:, None, None]
            scene.image[:, rows, columns] = awning + (np.float32(0.94) - awning) * stripe
        x += width + (scene.uniform(0.0, 0.12) if rng.random() < 0.4 else 0.0)
    pavement = color_of(rng, (0.45, 0.75), 0.03)
    scene.box(0, ground, scene.wide, 1 - ground, pavement)
    scene.box(0, ground, scene.wide, 0.012, pavement * np.float32(0.7))
    if rng.random() < 0.5:
        scene.box(0, ground + 0.07, scene.wide, 1, color_of(rng, (0.25, 0.42), 0.02))
    for _ in range(int(rng.integers(0, 3))):
        x = scene.uniform(0, 1) * scene.wide
        scene.box(x - 0.012, ground - 0.3, 0.024, 0.31, np.array([0.30, 0.22, 0.16], np.float32))
        plant(scene, x, ground - 0.36, scene.uniform(0.14, 0.24))
    if rng.random() < 0.4:  # a car
        x, color = scene.uniform(-0.2, 0.9) * scene.wide, color_of(rng, (0.1, 0.9), 0.3)
        scene.box(x + 0.08, ground - 0.11, 0.22, 0.07, color * np.float32(0.9))
        scene.box(x + 0.10, ground - 0.10, 0.18, 0.05, np.array([0.25, 0.32, 0.38], np.float32))
        scene.box(x, ground - 0.05, 0.40, 0.07, color)
        for wheel in (0.06, 0.28):
            scene.box(x + wheel, ground, 0.06, 0.045, np.full(3, 0.1, np.float32))


def _park(scene: Scene) -> None:
    rng = scene.rng
    blue = np.array([0.55, 0.72, 0.90], np.float32) * np.float32(scene.uniform(0.8, 1.1))
    scene.fill(np.clip(blue, 0, 1), np.clip(blue + 0.15, 0, 1))
    scene.blend(np.full(3, 0.96, np.float32), ramp(scene.field(0.35, 0.4), 0.5, 0.9))
    horizon = scene.uniform(0.5, 0.72)
    for k in range(2):  # hills, then a hedge
        crest = horizon - (0.16, 0.06)[k] + 0.05 * (scene.field(0.3 / (k + 1))[:1] - 0.5)
        hill = color_of(rng, (0.28, 0.5), 0.06)
        hill[1] += np.float32(0.08)
        scene.blend(hill, np.clip((scene.y - crest) * np.float32(scene.scale), 0, 1))
    grass = color_of(rng, (0.30, 0.50), 0.06)
    grass[1] += np.float32(0.14)
    scene.box(0, horizon, scene.wide, 1 - horizon, grass)
    rows = slice(int(horizon * scene.scale), None)
    scene.image[:, rows] *= 1 + np.float32(0.5) * (scene.field(0.05, 0.5)[rows] - 0.5)
    if rng.random() < 0.6:  # a path
        bend = np.float32(scene.uniform(0.2, 0.8) * scene.wide)
        half = np.float32(0.03) + np.float32(0.5) * np.clip(scene.y - horizon, 0, 1)
        path = np.clip((half - np.abs(scene.x - bend)) * np.float32(scene.scale), 0, 1)
        scene.blend(color_of(rng, (0.6, 0.8), 0.05), (path * (scene.y > horizon))[rows], rows)
    for _ in range(int(rng.integers(2, 5))):
        x, size = scene.uniform(0, 1) * scene.wide, scene.uniform(0.12, 0.28)
        scene.box(x - 0.014, horizon - 0.2, 0.028, 0.26, np.array([0.28, 0.21, 0.15], np.float32))
        plant(scene, x, horizon - 0.22 - size / 3, size)


def _brickwork(scene: Scene) -> None:
    """A wall of bricks or tiles, with posters on it."""
    rng = scene.rng
    wall = color_of(rng, (0.35, 0.8), 0.09)
    if rng.random() < 0.5:  # red brick
        wall *= np.array([1.12, 0.85, 0.74], np.float32)
    scene.fill(wall, wall * np.float32(0.9))
    high = scene.uniform(0.03, 0.09)
    broad = high * scene.uniform(1.0, 2.8)
    row = np.floor(scene.y / np.float32(high))
    shifted = scene.x / np.float32(broad) + np.float32(0.5) * (row % 2) * (broad > 1.3 * high)
    soft = 1.2 / (high * scene.scale)
    joint = np.maximum(
        ramp(np.abs(shifted % 1 - 0.5), 0.5 - 0.05 - soft / 2, 0.5),
        ramp(np.abs((scene.y / np.float32(high)) % 1 - 0.5), 0.5 - 0.08 - soft / 2, 0.5),
    )
    tone = np.sin(np.floor(shifted) * np.float32(12.99) + row * np.float32(78.23)) * np.float32(
        0.09
    )
    scene.image *= 1 + tone
    scene.blend(color_of(rng, (0.5, 0.9), 0.03), joint * np.float32(0.7))
    scene.image *= np.float32(0.8) + np.float32(0.35) * scene.field(0.4)
    for _ in range(int(rng.integers(0, 5))):
        x, y = scene.uniform(-0.1, 0.9) * scene.wide, scene.uniform(0.0, 0.5)
        width, height = scene.uniform(0.1, 0.3), scene.uniform(0.1, 0.35)
        scene.box(x, y, width, height, color_of(rng, (0.1, 0.95), 0.3))
        for _ in range(4):
            scene.box(
                x + width * scene.uniform(0.05, 0.6),
                y + height * scene.uniform(0.05, 0.8),
                width * scene.uniform(0.1, 0.35),
                height * scene.uniform(0.04, 0.2),
                color_of(rng, (0.05, 0.95), 0.35),
            )
    floor = scene.uniform(0.78, 0.95)
    scene.box(0, floor, scene.wide, 1 - floor, color_of(rng, (0.3, 0.7), 0.06))
    scene.shade(0, floor, scene.wide, 0.02, 0.6)


def _lights(scene: Scene) -> None:
    """Out of focus: smooth color and discs of light."""
    rng = scene.rng
    scene.fill(color_of(rng, (0.1, 0.6), 0.12), color_of(rng, (0.1, 0.7), 0.12))
    for _ in range(3):
        scene.blend(color_of(rng, (0.1, 0.9), 0.15), ramp(scene.field(0.3), 0.4, 0.8))
    for _ in range(12):
        x, y, size = scene.uniform(0, scene.wide), scene.uniform(0, 1), scene.uniform(0.02, 0.09)
        rows, _ = scene.span(y - size, y + size, scene.rows)
        columns, _ = scene.span(x - size, x + size, scene.columns)
        away = np.sqrt((scene.x[:, columns] - x) ** 2 + (scene.y[rows] - y) ** 2)
        disc = np.clip((np.float32(size) - away) * np.float32(scene.scale / 2), 0, 1)
        color = color_of(rng, (0.6, 0.97), 0.25)[:, None, None]
        target = scene.image[:, rows, columns]
        target += (color - target) * (disc * np.float32(scene.uniform(0.2, 0.8)))


_CLUTTER = (_room, _room, _street, _street, _park, _brickwork, _lights)


def paint_backdrop(
    rng: np.random.Generator, height: int, width: int, kind: str
) -> NDArray[np.float32]:
    """A background (3, height, width) float32 in [0, 1].

    rng: what it is drawn from; the same state gives the same picture.
    kind: "plain", a studio wall of any tint with a lamp's gradient and often a floor; "cluttered",
    a room, a street, a park, a wall with posters, or lights out of focus.

    Raises ValueError for another kind, and for sides that are not positive.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be at least 1, got {height} and {width}")
    scene = Scene(rng, height, width)
    if kind == "plain":
        _studio(scene)
        scene.grain(0.012)
    else:
        _CLUTTER[int(rng.integers(len(_CLUTTER)))](scene)
        scene.image *= np.float32(scene.uniform(0.75, 1.1))
        scene.grain(0.03)
    return np.clip(scene.image, 0.0, 1.0, out=scene.image)
