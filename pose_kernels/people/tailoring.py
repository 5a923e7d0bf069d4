# SPDX-License-Identifier: Apache-2.0
"""The tiles of the atlas as surfaces to paint on, measured in meters on the standing body.

The coordinates of a tile are separable: `t`, the height, belongs to its rows, and `angle`, the way
around the limb, to its columns. Most of what is painted is a product of a column of masks and a
row of masks, and touches only the rows where it is not zero.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .body import chart_surface

Array = NDArray[np.floating[Any]]
Color = tuple[float, float, float]

# Regions of the atlas: parts that lie one after the other and share one limb's profile. `height`
# is where y = 0 of the limb lies on a body that stands with its arms down, above the pelvis, so
# that a stripe has one height on torso, sleeves and legs. `width` is half the limb's width at its
# typical place: x runs from -width to width as seen from the front. `cut` is the radius to which
# cloth is cut, one for a whole arm or leg, so that a pattern goes on over elbow and knee.
_REGIONS: dict[str, tuple[slice, float, float, float, float]] = {
    # parts - 1, height, radius, cut, width
    "torso": (slice(0, 2), 0.0, 0.150, 0.150, 0.176),
    "hands": (slice(2, 4), 0.0, 0.030, 0.030, 0.020),
    "feet": (slice(4, 6), 0.0, 0.045, 0.045, 0.045),
    "upper_legs": (slice(6, 10), -0.025, 0.082, 0.072, 0.080),
    "lower_legs": (slice(10, 14), -0.455, 0.053, 0.072, 0.052),
    "upper_arms": (slice(14, 18), 0.466, 0.052, 0.047, 0.050),
    "lower_arms": (slice(18, 22), 0.181, 0.038, 0.047, 0.038),
}
_POWER = 2.4  # of the superellipse that a torso's section is


def rise(value: Array, edge: Array | float, soft: float) -> Array:
    """0 below the edge, 1 above it, smooth across 2 * soft."""
    ramp = np.subtract(value, np.float32(edge) if isinstance(edge, float) else edge)
    ramp *= np.float32(0.5 / soft)
    ramp += np.float32(0.5)
    np.minimum(np.maximum(ramp, 0, out=ramp), 1, out=ramp)
    return ramp * ramp * (np.float32(3) - 2 * ramp)


class Strip(NamedTuple):
    """A mask that is zero outside some rows; mask broadcasts to (n, rows, S)."""

    rows: slice
    mask: Array

    def where(self, other: Array | float) -> Strip:
        """The part of it where the other mask is, given on these rows or on every one alike."""
        return Strip(self.rows, self.mask * other)


@dataclass(frozen=True, eq=False)
class Grid:
    """Coordinates of a region's n tiles, cached per size: nothing may write to them."""

    name: str
    t: Array  # (S, 1) meters above the pelvis on the standing body, falling with the row
    angle: Array  # (n, 1, S) radians from the front toward the person's left
    x: Array  # (n, 1, S) meters from the middle as seen from the front
    girth: Array  # (S, 1) radius there in units of the region's usual one
    radius: float
    cut: float
    pitch: tuple[float, float]  # of texels, along and around, meters
    falling: list[float]  # -t of the rows, rising


@lru_cache(maxsize=64)
def grid(name: str, size: int) -> Grid:
    parts, height, radius, cut, width = _REGIONS[name]
    unit = np.linspace(0, 1, size)
    y, radii = chart_surface(parts.start + 1, 1 - unit)
    if name in ("hands", "feet"):  # one tile holds the whole way around
        share = 0.8 if name == "hands" else 1.0
        angle = np.stack([(unit / share - 0.5) * 2 * np.pi] * 2)
    else:
        n = parts.stop - parts.start
        half = (unit - 0.5) * np.pi
        angle = np.stack([half + np.pi] * (n // 2) + [half] * (n // 2))
    sine, cosine = np.sin(angle), np.cos(angle)
    x = width * sine / (np.abs(sine) ** _POWER + np.abs(cosine) ** _POWER) ** (1 / _POWER)
    t, turn, across, girth = (
        np.ascontiguousarray(a, np.float32)
        for a in ((y + height)[:, None], angle[:, None], x[:, None], (radii / radius)[:, None])
    )
    for array in (t, turn, across, girth):
        array.setflags(write=False)
    around = float(np.ptp(angle[0])) * radius / max(size - 1, 1)
    along = float(np.hypot(np.ptp(y), 2 * radii.max() * 0.5)) / max(size - 1, 1)
    falling = (-t[:, 0]).tolist()
    return Grid(name, t, turn, across, girth, radius, cut, (along, around), falling)


@lru_cache(maxsize=4096)  # many edges, of belts, cuffs and toes, are everybody's
def _strip(measured: Grid, low: float, high: float, soft: float) -> Strip:
    soft = max(soft, 0.6 * measured.pitch[0])
    falling = measured.falling
    rows = slice(bisect_left(falling, -high - soft), bisect_right(falling, soft - low))
    t = measured.t[rows]
    mask = rise(t, low, soft) - rise(t, high, soft)
    mask.setflags(write=False)
    return Strip(rows, mask)


class Canvas:
    """The tiles of one region while they are painted: `color` (n, 3, S, S) is a view of the atlas.

    Edges are as soft as asked, but never sharper than the texels can show.
    """

    def __init__(self, atlas: Array, name: str) -> None:
        self.grid = grid(name, atlas.shape[-1])
        self.color = atlas[_REGIONS[name][0]]
        self.t, self.angle, self.x = self.grid.t, self.grid.angle, self.grid.x

    def only(self, tiles: slice) -> Canvas:
        """Some of its tiles: torso front 1:2, back 0:1; limbs front 2:4, back 0:2."""
        some = object.__new__(Canvas)
        some.grid, some.color = self.grid, self.color[tiles]
        some.t, some.angle, some.x = self.t, self.angle[tiles], self.x[tiles]
        return some

    # -- masks
    def above(self, edge: float, soft: float = 0.004) -> Array:
        return rise(self.t, edge, max(soft, 0.6 * self.grid.pitch[0]))

    def right_of(self, edge: float, soft: float = 0.004, value: Array | None = None) -> Array:
        value = self.x if value is None else value
        return rise(value, edge, max(soft, 0.6 * self.grid.pitch[1]))

    def column(self, low: float, high: float, soft: float = 0.004) -> Array:
        """(n, 1, S): low < x < high; a difference, so a line thinner than a texel fades instead
        of vanishing."""
        return self.right_of(low, soft) - self.right_of(high, soft)

    def columns(self, low: float, high: float, soft: float = 0.004) -> Array:
        """(n, 1, S): low < |x| < high."""
        away = np.abs(self.x)
        return self.right_of(low, soft, away) - self.right_of(high, soft, away)

    def rows(self, low: float, high: float) -> slice:
        """Rows whose heights lie within."""
        falling = self.grid.falling
        return slice(bisect_left(falling, -high), bisect_right(falling, -low))

    def strip(self, low: float, high: float, soft: float = 0.004) -> Strip:
        """low < t < high."""
        return _strip(self.grid, low, high, soft)

    def below(self, edge: float, soft: float = 0.004) -> Strip:
        return self.strip(-9.0, edge, soft)

    def over(self, edge: float, soft: float = 0.004) -> Strip:
        return self.strip(edge, 9.0, soft)

    def spot(self, x: float, t: float, width: float, height: float, soft: float = 0.004) -> Strip:
        """An ellipse with these half-axes, in meters as seen from the front."""
        soft = max(soft, 0.5 * max(self.grid.pitch))
        rows = self.rows(t - height - soft, t + height + soft)
        away = np.hypot((self.x - x) / width, (self.t[rows] - t) / height)
        return Strip(rows, 1 - rise(away, 1.0, soft / min(width, height)))

    # -- paint
    def paint(self, color: Color | Array, strip: Strip) -> None:
        """color: one, or (n or 1, 3, rows or 1, S or 1) for the strip's rows."""
        if strip.rows.start >= strip.rows.stop:
            return
        target = self.color[:, :, strip.rows]
        if isinstance(color, tuple):
            color = np.array(color, np.float32).reshape(1, 3, 1, 1)
        mask = strip.mask if strip.mask.ndim == 2 else strip.mask[:, None]
        target += (color - target) * mask

    def shade(self, factor: float, strip: Strip) -> None:
        if strip.rows.start >= strip.rows.stop:
            return
        mask = strip.mask if strip.mask.ndim == 2 else strip.mask[:, None]
        self.color[:, :, strip.rows] *= 1 + np.float32(factor - 1) * mask

    def waves(self, seed: int, count: int, around: float, along: tuple[float, float]) -> Array:
        """(n, S, S) within [-1, 1]: a sum of plane waves that closes around the limb. around:
        greatest wave number across, in waves per meter; along: range of those upward."""
        return wave_sum(
            self.angle[:, 0], self.t[:, 0], seed, count, 2 * np.pi * around * self.grid.cut, along
        )

    def folds(self, seed: int, strength: float = 0.05) -> None:
        """Wide, soft light and dark, as cloth has."""
        waves = self.waves(seed, 5, 2.4, (1.6, 5.0))
        self.color *= (1 + np.float32(strength) * waves)[:, None]


def wave_sum(
    angle: Array, t: Array, seed: int, count: int, around: float, along: tuple[float, float]
) -> Array:
    """sin(k angle + l t + phase) summed over random k, l: (n, T, A) of angles (n, A), heights (T).
    k is an integer, so the sum closes around the limb; as a product of matrices it is cheap."""
    rng = np.random.default_rng(seed)
    k = np.rint(rng.uniform(-around, around, count)).astype(np.float32)
    rate = (2 * np.pi * rng.uniform(*along, count)).astype(np.float32)
    phase = rng.uniform(0, 2 * np.pi, count).astype(np.float32)
    return harmonics(angle, t, k, rate, phase)


def harmonics(angle: Array, t: Array, k: Array, rate: Array, phase: Array) -> Array:
    """Mean of sin(k angle + rate t + phase) over the waves, (n, T, A)."""
    turn = angle[:, None, :] * k[:, None]  # (n, count, A)
    climb = t[:, None] * rate + phase  # (T, count)
    columns = np.concatenate((np.cos(turn), np.sin(turn)), axis=1)
    rows = np.concatenate((np.sin(climb), np.cos(climb)), axis=1) / np.float32(len(k))
    return np.matmul(rows.astype(np.float32), columns)
