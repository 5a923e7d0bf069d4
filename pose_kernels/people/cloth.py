# SPDX-License-Identifier: Apache-2.0
"""Fabrics: patterns of a metric scale that go on from tile to tile.

A repeating pattern is a swatch, one period drawn once, looked up by height on the body and by angle
around the limb. A whole number of periods goes around each limb, so the pattern closes at the
seams between front and back; heights are those of the standing body, so stripes, checks and motifs
lie equally high on torso, sleeves and legs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .tailoring import Array, Canvas, Color, harmonics, rise

SIDE = 96  # of a swatch, in samples


@dataclass(frozen=True)
class Fabric:
    """pattern: a key of `PATTERNS`; colors: its colors, the ground first (every pattern takes one
    to four, and repeats the last); period: meters; seed: of the motif's places."""

    pattern: str
    colors: tuple[Color, ...]
    period: float = 0.08
    seed: int = 0

    def color(self, index: int) -> Color:
        return self.colors[min(index, len(self.colors) - 1)]


class _Swatch:
    """One period while it is drawn: x to the right and y upward in [0, 1), both periodic."""

    def __init__(self, fabric: Fabric, soft: float) -> None:
        centers = ((np.arange(SIDE) + 0.5) / SIDE).astype(np.float32)
        self.x, self.y = centers[None, :], centers[:, None]
        self.fabric = fabric
        self.soft = soft  # half-width of an edge, in periods
        self.image = np.empty((3, SIDE, SIDE), np.float32)
        self.image[:] = np.reshape(fabric.color(0), (3, 1, 1))
        self.rng = np.random.default_rng(fabric.seed)

    def paint(self, index: int, mask: Array, strength: float = 1.0) -> None:
        color = np.array(self.fabric.color(index), np.float32).reshape(3, 1, 1)
        self.image += (color - self.image) * (mask * np.float32(strength))

    def band(self, value: Array, center: float, width: float) -> Array:
        """Periodic: 1 where value is within width / 2 of the center."""
        away = np.abs((value - np.float32(center) + 0.5) % 1 - np.float32(0.5))
        # A difference of two ramps keeps the mean right where the line is thinner than the edge.
        return rise(away, -width / 2, self.soft) - rise(away, width / 2, self.soft)

    def level(self, value: Array, edge: float, slope: float = 1.0) -> Array:
        """1 where value < edge; slope: how fast value grows per period."""
        return 1 - rise(value, edge, self.soft * slope)

    def near(self, x: float, y: float, turn: float = 0.0) -> tuple[Array, Array]:
        """Offsets (SIDE, SIDE) from a place to each sample, the shorter way around, turned."""
        dx = (self.x - np.float32(x) + 0.5) % 1 - np.float32(0.5)
        dy = (self.y - np.float32(y) + 0.5) % 1 - np.float32(0.5)
        c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        return c * dx + s * dy, c * dy - s * dx

    def scatter(self, count: int) -> list[tuple[float, float, float]]:
        """Places in the period, far from each other, each with a turn."""
        places: list[tuple[float, float, float]] = []
        for x, y, turn in self.rng.random((40 * count, 3)):
            gaps = [
                np.hypot((x - a + 0.5) % 1 - 0.5, (y - b + 0.5) % 1 - 0.5) for a, b, _ in places
            ]
            if not gaps or min(gaps) > 0.72 / np.sqrt(count):
                places.append((float(x), float(y), float(turn) * 2 * np.pi))
            if len(places) == count:
                break
        return places


def _stripes(w: _Swatch) -> None:
    w.paint(1, w.band(w.y, 0.5, 0.48))


def _breton(w: _Swatch) -> None:
    w.paint(1, w.band(w.y, 0.5, 0.28))


def _triple(w: _Swatch) -> None:
    for index, (center, width) in enumerate(((0.2, 0.22), (0.5, 0.12), (0.78, 0.22)), 1):
        w.paint(index, w.band(w.y, center, width))


def _columns(w: _Swatch) -> None:
    w.paint(1, w.band(w.x, 0.0, 0.5))


def _pinstripes(w: _Swatch) -> None:
    w.paint(1, w.band(w.x, 0.0, 0.10))
    w.paint(1, w.band(w.x, 0.5, 0.10))


def _diagonal(w: _Swatch) -> None:
    w.paint(1, w.band(w.x + w.y, 0.5, 0.45))


def _zigzag(w: _Swatch) -> None:
    w.paint(1, w.band(w.y + np.abs(w.x - 0.5) * 0.9, 0.5, 0.42))


def _checks(w: _Swatch) -> None:
    across, along = w.band(w.x, 0.0, 0.5), w.band(w.y, 0.5, 0.5)
    w.paint(1, (across + along) / 2)


def _blanket(w: _Swatch) -> None:
    across, along = w.band(w.x, 0.0, 0.5), w.band(w.y, 0.5, 0.5)
    w.paint(1, across + along - 2 * across * along)


def _windowpane(w: _Swatch) -> None:
    across, along = w.band(w.x, 0.5, 0.10), w.band(w.y, 0.5, 0.10)
    w.paint(1, np.maximum(across, along))


def _tartan(w: _Swatch) -> None:
    for value in (w.x, w.y):
        w.paint(1, w.band(value, 0.5, 0.42) + 0 * w.x * w.y, 0.55)
        w.paint(2, w.band(value, 0.0, 0.12) + 0 * w.x * w.y, 0.6)
        for center in (0.36, 0.64):
            w.paint(3, w.band(value, center, 0.05) + 0 * w.x * w.y, 0.7)


def _houndstooth(w: _Swatch) -> None:
    # Four by four threads: a twill of two dark and two light ones, with points along the diagonal.
    cell = 4 * np.stack(np.broadcast_arrays(w.x, w.y))
    across, along = (cell[0] % 4) < 2, (cell[1] % 4) < 2
    twill = ((cell[0] + cell[1]) % 4) < 2
    mask = np.where(across == along, across, twill).astype(np.float32)
    for axis in (0, 1):  # no sharper than the other patterns
        reach = max(int(w.soft * SIDE), 1)
        mask = sum(np.roll(mask, k, axis) for k in range(-reach, reach + 1)) / (2 * reach + 1)
    w.paint(1, mask)


def _dots(w: _Swatch) -> None:
    for x, y in ((0.5, 0.25), (0.0, 0.75)):
        dx, dy = w.near(x, y)
        w.paint(1, w.level(np.hypot(dx, dy), 0.19))


def _confetti(w: _Swatch) -> None:
    for k, (x, y, _) in enumerate(w.scatter(11)):
        dx, dy = w.near(x, y)
        w.paint(1 + k % 3, w.level(np.hypot(dx, dy), (0.055, 0.085, 0.105)[k // 4]))


def _leaf(w: _Swatch, index: int, x: float, y: float, turn: float, size: float) -> None:
    dx, dy = w.near(x, y, turn)
    along = np.clip(dx / np.float32(size), -1, 1)
    w.paint(index, w.level(np.abs(dy) - 0.42 * size * (1 - along * along), 0.0))


def _fivefold(dx: Array, dy: Array) -> tuple[Array, Array]:
    """Radius and cos(5 angle), a polynomial of the cosine: no arctangent."""
    radius = np.hypot(dx, dy) + np.float32(1e-4)
    c = dx / radius
    square = c * c
    return radius, c * (5 - 20 * square + 16 * square * square)


def _flowers(w: _Swatch) -> None:
    places = w.scatter(5)
    for x, y, turn in places:
        for side in (0.6, 2.9):
            reach = 0.15
            _leaf(
                w,
                3,
                x + reach * np.cos(turn + side),
                y + reach * np.sin(turn + side),
                turn + side,
                0.11,
            )
    for k, (x, y, turn) in enumerate(places):
        dx, dy = w.near(x, y, turn)
        radius, petals = _fivefold(dx, dy)
        size = 0.15 if k < 3 else 0.11
        w.paint(1 + k % 2, w.level(radius - size * 0.28 * petals, size))
        w.paint(2 - k % 2 if len(w.fabric.colors) > 2 else 0, w.level(radius, size * 0.34))


def _leaves(w: _Swatch) -> None:
    for k, (x, y, turn) in enumerate(w.scatter(7)):
        _leaf(w, 1 + k % 3, x, y, turn, 0.20)


def _hearts(w: _Swatch) -> None:
    for x, y in ((0.5, 0.25), (0.0, 0.75)):
        dx, dy = w.near(x, y)
        w.paint(1, w.level(np.hypot(dx, 1.1 * dy - 0.75 * np.sqrt(np.abs(dx) * 0.22)), 0.17))


def _stars(w: _Swatch) -> None:
    for k, (x, y) in enumerate(((0.5, 0.25), (0.0, 0.75))):
        dx, dy = w.near(x, y, 0.0)
        radius, points = _fivefold(dy, dx)
        w.paint(1 + k, w.level(radius * (1 - 0.42 * points), 0.135))


def _diamonds(w: _Swatch) -> None:
    """Argyle."""
    for k, x in enumerate((0.25, 0.75)):
        dx, dy = w.near(x, 0.5)
        w.paint(1 + k, w.level(2 * np.abs(dx) + np.abs(dy), 0.46, 2.0))
    for sign in (1, -1):
        w.paint(3, w.band(2 * w.x + sign * w.y, 0.0, 0.05) + 0 * w.x * w.y)


def _triangles(w: _Swatch) -> None:
    for k, x in enumerate((0.25, 0.75)):
        dx, dy = w.near(x, 0.5 * k + 0.25)
        inside = np.maximum(np.abs(dx) * 2 + dy * 0.9, -dy * 1.6)
        w.paint(1 + k, w.level(inside, 0.22, 2.0))


def _leopard(w: _Swatch) -> None:
    for x, y, turn in w.scatter(13):
        dx, dy = w.near(x, y, turn)
        radius = np.hypot(dx, 1.35 * dy)
        w.paint(1, w.level(radius, 0.060))
        ring = w.level(np.abs(radius - 0.078), 0.026)
        w.paint(2, ring * rise(dx, -0.055, 0.02))


def _waves_of(w: _Swatch, count: int, most: float) -> Array:
    """A random periodic field of about unit spread."""
    angle = (2 * np.pi * w.x).astype(np.float32)
    waves = np.rint(w.rng.uniform(-most, most, (2, count))).astype(np.float32)
    phase = w.rng.uniform(0, 2 * np.pi, count).astype(np.float32)
    return harmonics(angle, 2 * np.pi * w.y[:, 0], waves[0], waves[1], phase)[0] * np.sqrt(
        np.float32(count)
    )


def _camouflage(w: _Swatch) -> None:
    for index in (1, 2, 3):
        field = _waves_of(w, 14, 5.0)
        w.paint(index, 1 - rise(field, -0.35, max(5.0 * w.soft, 0.06)))


def _marble(w: _Swatch) -> None:
    """Tie-dye: soft clouds of every color."""
    for index in (1, 2, 3):
        w.paint(index, 1 - rise(_waves_of(w, 7, 3.0), -0.1, 0.5))


def _knit(w: _Swatch) -> None:
    """Cables: braids of light and dark between plain columns."""
    braid = np.abs(w.x - 0.5)
    twist = np.sin(2 * np.pi * (2 * w.y + 2.0 * braid))
    w.paint(1, (0.5 + 0.5 * twist) * rise(0.26 - braid, 0.0, 0.03))
    w.paint(1, w.band(w.x, 0.21, 0.05) + w.band(w.x, 0.79, 0.05) + 0 * w.y)


def _ribs(w: _Swatch) -> None:
    w.paint(1, 0.5 + 0.5 * np.cos(2 * np.pi * w.x) + 0 * w.y)


def _quilt(w: _Swatch) -> None:
    """Down jacket: each row bulges, and is dark at its seam."""
    w.paint(1, np.abs(2 * w.y - 1) ** 3 + 0 * w.x)


# pattern -> (how one period is drawn, its width over its height)
PATTERNS: dict[str, tuple[Callable[[_Swatch], None], float]] = {
    "stripes": (_stripes, 1.0),
    "breton": (_breton, 1.0),
    "triple": (_triple, 1.0),
    "columns": (_columns, 1.0),
    "pinstripes": (_pinstripes, 1.0),
    "diagonal": (_diagonal, 1.0),
    "zigzag": (_zigzag, 1.0),
    "checks": (_checks, 1.0),
    "blanket": (_blanket, 1.0),
    "windowpane": (_windowpane, 1.0),
    "tartan": (_tartan, 1.0),
    "houndstooth": (_houndstooth, 1.0),
    "dots": (_dots, 1.0),
    "confetti": (_confetti, 1.0),
    "flowers": (_flowers, 1.0),
    "leaves": (_leaves, 1.0),
    "hearts": (_hearts, 1.0),
    "stars": (_stars, 1.0),
    "diamonds": (_diamonds, 1.0),
    "triangles": (_triangles, 1.0),
    "leopard": (_leopard, 1.0),
    "camouflage": (_camouflage, 1.0),
    "marble": (_marble, 1.0),
    "knit": (_knit, 1.0),
    "ribs": (_ribs, 1.0),
    "quilt": (_quilt, 1.0),
}
# Patterns of the whole garment, which repeat nowhere.
WHOLE = ("plain", "gradient", "blocks")


@lru_cache(maxsize=32)
def swatch(fabric: Fabric, soft: float) -> Array:
    """One period (3, SIDE, SIDE), row 0 at the bottom; soft: half-width of edges in periods."""
    drawn = _Swatch(fabric, soft)
    PATTERNS[fabric.pattern][0](drawn)
    drawn.image.setflags(write=False)
    return drawn.image


def dye(fabric: Fabric, canvas: Canvas, rows: slice = slice(None), fullness: float = 1.0) -> Array:
    """The fabric's color on some rows of the canvas, (n or 1, 3, rows or 1, S or 1). fullness: how
    much more cloth goes around than the limb is thick, as in a skirt."""
    ground = np.array(fabric.color(0), np.float32).reshape(1, 3, 1, 1)
    if fabric.pattern == "plain":
        return ground
    t = canvas.t[rows]
    if fabric.pattern in WHOLE:
        image = np.broadcast_to(ground, (1, 3, len(t), 1)).copy()
        for index in range(1, len(fabric.colors)):
            # `period` is the height of one color; the first begins at the shoulders.
            if fabric.pattern == "blocks":
                edge = rise(-t, -(0.47 - index * fabric.period), max(0.004, canvas.grid.pitch[0]))
            else:
                edge = rise(-t, -(0.50 - (index - 0.5) * fabric.period), fabric.period / 2)
            color = np.array(fabric.color(index), np.float32).reshape(1, 3, 1, 1)
            image += (color - image) * edge
        return image
    # One softness for every limb, about half a texel of the torso: edges go on over the joints.
    soft = max(0.004, 0.4 / canvas.color.shape[-1])
    drawn = swatch(fabric, round(soft / fabric.period, 4))
    around = 2 * np.pi * canvas.grid.cut * fullness
    periods = max(round(around / fabric.period), 1)
    turn = canvas.angle[:, 0] * np.float32(periods / (2 * np.pi)) + np.float32(0.5)
    # The last row or column of a tile is the first of the next: a hair of rounding must not take
    # them to different samples.
    row = np.floor(np.round(t[:, 0] * np.float32(SIDE / fabric.period), 2)).astype(np.intp) % SIDE
    column = np.floor(np.round(turn * SIDE, 2)).astype(np.intp) % SIDE
    return drawn[:, row[:, None], column[:, None, :]].swapaxes(0, 1)
