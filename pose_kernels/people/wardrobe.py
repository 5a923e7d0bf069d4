# SPDX-License-Identifier: Apache-2.0
"""Clothes, skin and face of the built-in person, painted straight into the 24 tiles of the atlas.

Everything is painted in meters along the body (`body.chart_surface`) with edges about a centimeter
soft, so patterns meet at the seams and a picture of 256 pixels, 8 mm each, does not alias them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .body import chart_surface

Array = NDArray[np.float64]
Color = tuple[float, float, float]

_SKINS: tuple[Color, ...] = (
    (0.95, 0.78, 0.67),
    (0.88, 0.67, 0.53),
    (0.76, 0.55, 0.41),
    (0.58, 0.40, 0.29),
    (0.43, 0.29, 0.21),
)
_HAIRS: tuple[Color, ...] = (
    (0.17, 0.12, 0.10),
    (0.36, 0.22, 0.13),
    (0.72, 0.52, 0.27),
    (0.55, 0.25, 0.13),
    (0.11, 0.11, 0.13),
    (0.62, 0.60, 0.58),
)
_IRISES: tuple[Color, ...] = ((0.22, 0.14, 0.09), (0.16, 0.32, 0.48), (0.22, 0.36, 0.22))
# (cloth, accent): light against dark, so that the pattern reads at 8 mm a pixel
_SHIRTS: tuple[tuple[Color, Color], ...] = (
    ((0.94, 0.93, 0.89), (0.16, 0.25, 0.49)),
    ((0.80, 0.23, 0.21), (0.97, 0.91, 0.80)),
    ((0.13, 0.46, 0.45), (0.95, 0.86, 0.62)),
    ((0.95, 0.72, 0.24), (0.33, 0.24, 0.36)),
    ((0.37, 0.33, 0.60), (0.93, 0.78, 0.50)),
    ((0.90, 0.50, 0.42), (0.99, 0.93, 0.86)),
    ((0.30, 0.52, 0.76), (0.96, 0.96, 0.94)),
    ((0.36, 0.49, 0.31), (0.93, 0.90, 0.78)),
)
_TROUSERS: tuple[Color, ...] = (
    (0.23, 0.33, 0.51),
    (0.71, 0.61, 0.46),
    (0.27, 0.28, 0.32),
    (0.37, 0.40, 0.29),
    (0.44, 0.22, 0.25),
)
_SHOES: tuple[Color, ...] = (
    (0.90, 0.89, 0.87),
    (0.20, 0.20, 0.23),
    (0.76, 0.22, 0.20),
    (0.47, 0.30, 0.19),
)
_PATTERNS = ("stripes", "checks", "emblem", "band", "buttons")
_CUTS = ("short", "parted", "long")
# Hairline height in meters over the angle from the middle of the face (degrees), per cut.
_HAIRLINES = {
    "short": (
        (0, 30, 52, 62, 84, 95, 112, 180),
        (0.222, 0.226, 0.205, 0.150, 0.130, 0.175, 0.060, 0.030),
    ),
    "parted": (
        (0, 25, 48, 66, 84, 95, 112, 180),
        (0.214, 0.230, 0.195, 0.150, 0.110, 0.165, 0.045, 0.020),
    ),
    "long": ((0, 18, 40, 55, 66, 80, 180), (0.228, 0.216, 0.185, 0.125, 0.040, -0.020, -0.080)),
}


@dataclass(frozen=True)
class Identity:
    """What one person looks like; drawn from a seed by `identity`."""

    skin: Color
    hair: Color
    iris: Color
    cut: str
    beard: bool
    cloth: Color
    accent: Color
    pattern: str
    long_sleeves: bool
    trousers: Color
    shorts: bool
    shoes: Color
    folds: int  # seed of the cloth's folds


def identity(seed: int) -> Identity:
    """The same seed gives the same person on every machine."""
    rng = np.random.default_rng(seed)
    cloth, accent = _SHIRTS[rng.integers(len(_SHIRTS))]
    cut = _CUTS[rng.integers(len(_CUTS))]
    return Identity(
        skin=_SKINS[rng.integers(len(_SKINS))],
        hair=_HAIRS[rng.integers(len(_HAIRS))],
        iris=_IRISES[rng.integers(len(_IRISES))],
        cut=cut,
        beard=bool(cut != "long" and rng.random() < 0.35),
        cloth=cloth,
        accent=accent,
        pattern=_PATTERNS[rng.integers(len(_PATTERNS))],
        long_sleeves=bool(rng.random() < 0.45),
        trousers=_TROUSERS[rng.integers(len(_TROUSERS))],
        shorts=bool(rng.random() < 0.25),
        shoes=_SHOES[rng.integers(len(_SHOES))],
        folds=int(rng.integers(2**31)),
    )


def _above(value: Array, edge: Array | float, soft: float = 0.005) -> Array:
    """0 below the edge, 1 above it, smooth across 2 * soft."""
    t = np.clip((value - edge) / (2 * soft) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _within(value: Array, low: Array | float, high: Array | float, soft: float = 0.005) -> Array:
    return _above(value, low, soft) * (1 - _above(value, high, soft))


class _Tile:
    """One tile while it is painted. `x`: meters from the middle of the chart, to the right; `y`:
    meters along the limb's axis, up; `angle`: degrees from the middle of the chart."""

    def __init__(
        self, part: int, size: int, base: Color, u: tuple[float, float], span: float
    ) -> None:
        grid = np.linspace(0, 1, size)
        self.angle = np.broadcast_to(
            ((grid - (u[0] + u[1]) / 2) / (u[1] - u[0]) * span), (size, size)
        )
        y, radius = chart_surface(part, 1 - grid)
        self.y = np.broadcast_to(y[:, None], (size, size))
        # Near a cap the radius vanishes; a floor keeps patterns from bunching up there.
        self.x = np.radians(self.angle) * np.maximum(radius, 0.6 * radius.max())[:, None]
        self.color = np.empty((3, size, size))
        self.color[:] = np.reshape(base, (3, 1, 1))

    def paint(self, color: Color, mask: Array) -> None:
        self.color += (np.reshape(color, (3, 1, 1)) - self.color) * mask

    def shade(self, factor: float, mask: Array) -> None:
        self.color *= 1 + (factor - 1) * mask

    def spot(self, x: float, y: float, width: float, height: float, soft: float = 0.003) -> Array:
        """Mask of an ellipse with these half-axes, in meters."""
        away = np.hypot((self.x - x) / width, (self.y - y) / height)
        return 1 - _above(away, 1.0, soft / min(width, height))

    def folds(self, seed: int, strength: float = 0.05) -> None:
        """Wide, soft waves of light and dark, as cloth has."""
        rng = np.random.default_rng(seed)
        waves = np.zeros_like(self.y)
        for _ in range(4):
            kx, ky, phase = rng.uniform(-14, 14), rng.uniform(10, 32), rng.uniform(0, 2 * np.pi)
            waves = waves + np.sin(kx * self.x + ky * self.y + phase) / 4
        self.color *= 1 + strength * waves


def _pattern(tile: _Tile, person: Identity, cloth: Array | float) -> None:
    if person.pattern == "stripes":
        tile.paint(person.accent, cloth * _within((tile.y + 0.012) % 0.066, 0.017, 0.049, 0.006))
    elif person.pattern == "checks":
        across = _within((tile.x + 0.024) % 0.08, 0.022, 0.058, 0.006)
        along = _within((tile.y + 0.010) % 0.08, 0.022, 0.058, 0.006)
        tile.paint(person.accent, cloth * (across + along) * 0.45)


def _torso(person: Identity, part: int, size: int) -> _Tile:
    front = part == 2
    tile = _Tile(part, size, person.cloth, (0.0, 1.0), 180.0)
    _pattern(tile, person, 1.0)
    if person.pattern == "band":
        tile.paint(person.accent, _within(tile.y, 0.30, 0.395))
    if person.pattern == "emblem":
        if front:
            tile.paint(person.accent, tile.spot(0, 0.345, 0.085, 0.085))
            tile.paint(person.cloth, tile.spot(0, 0.345, 0.058, 0.058))
            tile.paint(person.accent, tile.spot(0, 0.345, 0.030, 0.030))
        else:
            tile.paint(
                person.accent, _within(np.abs(tile.x), -1.0, 0.10) * _within(tile.y, 0.36, 0.40)
            )
    if person.pattern == "buttons" and front:
        tile.shade(0.80, _within(np.abs(tile.x), 0.016, 0.022, 0.003))
        for height in np.arange(0.09, 0.55, 0.075):
            tile.paint(person.accent, tile.spot(0, float(height), 0.008, 0.008))
        tile.shade(
            0.86, _within(np.abs(tile.x - 0.085), -1, 0.045) * _within(tile.y, 0.330, 0.400) * 0.6
        )
        tile.shade(
            0.85, _within(np.abs(tile.x - 0.085), -1, 0.047) * _within(tile.y, 0.394, 0.404, 0.003)
        )
    neckline = 0.560 - (0.050 * np.clip(1 - np.abs(tile.x) / 0.075, 0, 1) if front else 0.0)
    tile.paint(person.accent, _above(tile.y, neckline - 0.014, 0.003))
    tile.paint(person.skin, _above(tile.y, neckline, 0.003))
    waist = 0.035
    tile.folds(person.folds + part)
    tile.shade(0.82, _within(tile.y, waist, waist + 0.018, 0.006))  # the shirt hangs over the belt
    tile.paint(person.trousers, 1 - _above(tile.y, waist, 0.003))
    tile.paint((0.22, 0.16, 0.12), _within(tile.y, waist - 0.034, waist - 0.004, 0.003))
    below = 1 - _above(tile.y, waist - 0.034, 0.003)
    if front:
        tile.paint((0.82, 0.74, 0.50), tile.spot(0, waist - 0.019, 0.020, 0.015))
        tile.shade(0.78, below * _within(np.abs(tile.x - 0.006), -1, 0.004, 0.004))
    else:
        for side in (-1, 1):
            pocket = _within(np.abs(tile.x - 0.085 * side), -1, 0.052) * _within(
                tile.y, -0.085, -0.015
            )
            inner = _within(np.abs(tile.x - 0.085 * side), -1, 0.044) * _within(
                tile.y, -0.077, -0.023
            )
            tile.shade(0.80, below * np.clip(pocket - inner, 0, 1))
    return tile


def _head(person: Identity, part: int, size: int) -> _Tile:
    left = part == 24
    tile = _Tile(part, size, person.skin, (0.0, 0.84) if left else (0.16, 1.0), 180.0)
    sign = 1.0 if left else -1.0
    angle = np.clip(tile.angle * sign + 90.0, 0.0, 180.0)  # 0 in the middle of the face, 180 behind
    tile.x = np.radians(angle) * 0.085
    if person.beard:
        lower = np.interp(
            angle, (0, 16, 24, 62, 80, 95), (0.060, 0.058, 0.088, 0.105, 0.140, 0.140)
        )
        beard = _within(tile.y, 0.038, lower, 0.006) * (1 - _above(angle, 84, 5.0))
        tile.paint(person.hair, 0.85 * beard)
        tile.paint(person.hair, 0.8 * tile.spot(0, 0.089, 0.026, 0.006, 0.006))
    tile.shade(0.90, 1 - _above(tile.y, 0.044, 0.012))  # under the jaw
    r, g, b = person.skin
    tile.paint(
        (min(1.0, r * 1.02), g * 0.82, b * 0.80),
        0.45 * tile.spot(0.047, 0.108, 0.020, 0.015, 0.012),
    )
    lips = (0.35 + 0.40 * r, 0.10 + 0.36 * g, 0.12 + 0.36 * b)
    tile.paint(lips, tile.spot(0, 0.074, 0.026, 0.0085, 0.004))
    tile.shade(0.55, tile.spot(0, 0.0745, 0.023, 0.0022, 0.003))
    # Nose: a lit ridge, a shaded flank, a dark underside.
    tile.shade(1.06, tile.spot(0, 0.118, 0.007, 0.026, 0.006))
    tile.shade(0.86, _within(tile.x, 0.008, 0.015, 0.003) * _within(tile.y, 0.098, 0.135, 0.008))
    tile.shade(0.66, tile.spot(0, 0.096, 0.014, 0.0045, 0.004))
    # Eye, then brow.
    tile.shade(0.86, tile.spot(0.035, 0.146, 0.024, 0.017, 0.008))
    tile.paint((0.97, 0.96, 0.95), tile.spot(0.035, 0.143, 0.0185, 0.0105))
    tile.paint(person.iris, tile.spot(0.035, 0.143, 0.0095, 0.0105))
    tile.paint((0.05, 0.04, 0.05), tile.spot(0.035, 0.143, 0.0045, 0.005))
    tile.shade(0.35, _within(tile.y, 0.151, 0.156, 0.003) * _within(tile.x, 0.017, 0.054, 0.004))
    brow = 0.171 - 14.0 * (tile.x - 0.036) ** 2
    tile.paint(
        tuple(0.75 * c for c in person.hair),  # type: ignore[arg-type]
        _within(tile.y, brow - 0.004, brow + 0.004, 0.003) * _within(tile.x, 0.014, 0.058, 0.005),
    )
    angles, heights = _HAIRLINES[person.cut]
    hair = _above(tile.y, np.interp(angle, angles, heights), 0.005)
    strands = 1 + 0.10 * np.sin(angle * 0.9 + 3 * np.sin(tile.y * 40)) + 0.06 * np.sin(angle * 2.3)
    tile.shade(0.84, _above(tile.y, np.interp(angle, angles, heights) - 0.012, 0.010) * (1 - hair))
    tile.paint(person.hair, hair)
    tile.color *= 1 + (strands - 1) * hair
    if person.cut == "parted" and left:
        tile.shade(1.25, hair * _within(angle, 22, 34, 4.0) * _above(tile.y, 0.225, 0.01))
    # The ear's own rectangle of the tile.
    column = np.linspace(0, 1, size)
    ear = column > 0.855 if left else column < 0.145
    tile.color[:, :, ear] = np.reshape(person.skin, (3, 1, 1)) * 0.93
    return tile


def _arm(person: Identity, part: int, size: int, upper: bool) -> _Tile:
    tile = _Tile(part, size, person.cloth, (0.0, 1.0), 180.0)
    _pattern(tile, person, 1.0)
    tile.folds(person.folds + part)
    if upper and not person.long_sleeves:
        hem = -0.155
        tile.paint(person.accent, 1 - _above(tile.y, hem + 0.014, 0.003))
        tile.paint(person.skin, 1 - _above(tile.y, hem, 0.003))
        tile.shade(0.85, _within(tile.y, hem - 0.016, hem, 0.006))
    if not upper:
        cuff = -0.222 if person.long_sleeves else 1.0
        tile.paint(person.accent, 1 - _above(tile.y, cuff + 0.018, 0.003))
        tile.paint(person.skin, 1 - _above(tile.y, cuff, 0.003))
        if not person.long_sleeves and part in (19, 21):  # a watch, on the left wrist only
            tile.paint((0.16, 0.15, 0.17), _within(tile.y, -0.222, -0.202, 0.003))
            if part == 21:
                tile.paint((0.85, 0.85, 0.82), tile.spot(0.030, -0.212, 0.014, 0.013))
    return tile


def _leg(person: Identity, part: int, size: int, upper: bool) -> _Tile:
    tile = _Tile(part, size, person.trousers, (0.0, 1.0), 180.0)
    front = part in (9, 10, 13, 14)
    outside = -1.0 if (part in (7, 9, 11, 13)) == front else 1.0  # where the tile's outer seam lies
    edge = np.radians(90.0 - np.abs(tile.angle)) * 0.07
    tile.shade(0.80, (1 - _above(edge, 0.008, 0.004)) * (tile.x * outside > 0))
    if upper and front:
        tile.shade(1.14, 0.8 * tile.spot(0, -0.20, 0.045, 0.16, 0.04))
        pocket = np.abs(tile.y - (-0.02 + 0.9 * (tile.x * outside - 0.045)))
        tile.shade(0.72, _within(pocket, -1, 0.004, 0.004) * _within(tile.x * outside, 0.035, 0.11))
    if not upper and front:
        tile.shade(1.10, 0.8 * tile.spot(0, -0.03, 0.04, 0.06, 0.03))
    tile.folds(person.folds + part, 0.06)
    if person.shorts:
        hem = -0.33 if upper else 1.0
        tile.shade(0.82, _within(tile.y, hem, hem + 0.020, 0.004))
        tile.paint(person.skin, 1 - _above(tile.y, hem, 0.003))
        tile.shade(0.85, _within(tile.y, hem - 0.018, hem, 0.006))
        if not upper:
            if front:
                tile.shade(0.92, tile.spot(0, 0.0, 0.03, 0.03, 0.02))
            tile.paint((0.93, 0.93, 0.92), 1 - _above(tile.y, -0.31, 0.003))
    elif not upper:
        tile.shade(0.82, _within(tile.y, -0.385, -0.365, 0.004))
    return tile


def _hand(person: Identity, part: int, size: int) -> _Tile:
    tile = _Tile(part, size, person.skin, (0.0, 0.8), 360.0)
    tip = 1 - _above(tile.y, -0.105, 0.01)
    for gap in (62.0, 90.0, 118.0):
        tile.shade(0.80, tip * _within(np.abs(np.abs(tile.angle) - gap), -1, 5.0, 4.0))
    tile.shade(1.05, 1 - _above(tile.y, -0.165, 0.01))
    tile.color[:, :, np.linspace(0, 1, size) > 0.82] = np.reshape(person.skin, (3, 1, 1))
    return tile


def _foot(person: Identity, part: int, size: int) -> _Tile:
    tile = _Tile(part, size, person.shoes, (0.0, 1.0), 360.0)
    away = np.abs(tile.angle)
    light = sum(person.shoes) > 2.2
    trim: Color = (0.30, 0.34, 0.42) if light else (0.94, 0.93, 0.90)
    tile.shade(1.08 if not light else 0.93, 1 - _above(tile.y, -0.150, 0.004))  # toe cap
    tile.paint(trim, _within(tile.y, -0.045, -0.025) * _within(away, 40, 105, 5.0))
    for lace in (-0.030, -0.056, -0.082, -0.108):
        tile.paint(
            trim, _within(tile.y, lace - 0.006, lace + 0.006, 0.003) * (1 - _above(away, 34, 5.0))
        )
    tile.paint((0.93, 0.92, 0.90), _above(away, 118, 5.0))
    tile.paint((0.35, 0.33, 0.32), _above(away, 150, 5.0))
    return tile


def paint(person: Identity, size: int) -> NDArray[np.float32]:
    """The whole atlas, (24, 3, size, size) in [0, 1]; tile i - 1 is part i's, row 0 is v = 1."""
    tiles = []
    for part in range(1, 25):
        if part <= 2:
            tile = _torso(person, part, size)
        elif part <= 4:
            tile = _hand(person, part, size)
        elif part <= 6:
            tile = _foot(person, part, size)
        elif part <= 14:
            tile = _leg(person, part, size, upper=part <= 10)
        elif part <= 22:
            tile = _arm(person, part, size, upper=part <= 18)
        else:
            tile = _head(person, part, size)
        tiles.append(tile.color)
    return np.clip(np.stack(tiles), 0.0, 1.0).astype(np.float32)
