# SPDX-License-Identifier: Apache-2.0
"""Colors of skin, hair and cloth, and the dice that choose among them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from .tailoring import Color

T = TypeVar("T")

SKINS: tuple[Color, ...] = (
    (0.96, 0.81, 0.72),
    (0.93, 0.75, 0.62),
    (0.88, 0.67, 0.53),
    (0.82, 0.61, 0.45),
    (0.76, 0.55, 0.41),
    (0.66, 0.46, 0.33),
    (0.58, 0.40, 0.29),
    (0.43, 0.29, 0.21),
    (0.34, 0.23, 0.18),
)
HAIRS: tuple[Color, ...] = (
    (0.11, 0.10, 0.11),
    (0.17, 0.12, 0.10),
    (0.25, 0.16, 0.11),
    (0.36, 0.22, 0.13),
    (0.47, 0.31, 0.18),
    (0.72, 0.52, 0.27),
    (0.86, 0.72, 0.46),
    (0.55, 0.25, 0.13),
    (0.68, 0.34, 0.16),
    (0.62, 0.60, 0.58),
    (0.86, 0.85, 0.83),
)
DYED_HAIRS: tuple[Color, ...] = (
    (0.80, 0.36, 0.52),
    (0.28, 0.45, 0.66),
    (0.42, 0.26, 0.52),
    (0.25, 0.50, 0.42),
)
IRISES: tuple[Color, ...] = (
    (0.22, 0.14, 0.09),
    (0.34, 0.22, 0.12),
    (0.16, 0.32, 0.48),
    (0.22, 0.36, 0.22),
    (0.35, 0.40, 0.44),
)
CLOTHS: tuple[Color, ...] = (
    (0.95, 0.94, 0.92),
    (0.93, 0.89, 0.80),
    (0.83, 0.76, 0.64),
    (0.66, 0.64, 0.62),
    (0.42, 0.43, 0.45),
    (0.15, 0.15, 0.17),
    (0.14, 0.18, 0.32),
    (0.16, 0.29, 0.56),
    (0.30, 0.52, 0.76),
    (0.62, 0.77, 0.90),
    (0.13, 0.46, 0.45),
    (0.40, 0.70, 0.66),
    (0.16, 0.33, 0.22),
    (0.36, 0.49, 0.31),
    (0.62, 0.70, 0.42),
    (0.44, 0.42, 0.24),
    (0.95, 0.80, 0.32),
    (0.90, 0.62, 0.18),
    (0.88, 0.44, 0.18),
    (0.90, 0.50, 0.42),
    (0.80, 0.20, 0.19),
    (0.50, 0.13, 0.18),
    (0.93, 0.68, 0.70),
    (0.82, 0.32, 0.50),
    (0.56, 0.28, 0.52),
    (0.37, 0.33, 0.60),
    (0.74, 0.68, 0.86),
    (0.46, 0.30, 0.20),
    (0.64, 0.44, 0.28),
)
TROUSERS: tuple[Color, ...] = (
    (0.23, 0.33, 0.51),
    (0.71, 0.61, 0.46),
    (0.27, 0.28, 0.32),
    (0.14, 0.14, 0.16),
    (0.15, 0.19, 0.31),
    (0.37, 0.40, 0.29),
    (0.44, 0.22, 0.25),
    (0.86, 0.83, 0.76),
    (0.52, 0.52, 0.53),
    (0.42, 0.31, 0.22),
    (0.60, 0.35, 0.22),
)
DENIMS: tuple[Color, ...] = (
    (0.22, 0.33, 0.52),
    (0.15, 0.21, 0.36),
    (0.42, 0.55, 0.72),
    (0.62, 0.72, 0.82),
    (0.17, 0.17, 0.20),
    (0.50, 0.51, 0.54),
)
LEATHERS: tuple[Color, ...] = (
    (0.12, 0.11, 0.12),
    (0.22, 0.16, 0.12),
    (0.34, 0.20, 0.13),
    (0.47, 0.30, 0.19),
    (0.66, 0.48, 0.30),
)
METALS: tuple[Color, ...] = ((0.86, 0.74, 0.42), (0.82, 0.82, 0.84), (0.72, 0.50, 0.40))


def brightness(color: Color) -> float:
    return 0.30 * color[0] + 0.59 * color[1] + 0.11 * color[2]


def mix(a: Color, b: Color, share: float) -> Color:
    return tuple(p + (q - p) * share for p, q in zip(a, b, strict=True))  # type: ignore[return-value]


def darker(color: Color, factor: float = 0.8) -> Color:
    return tuple(factor * c for c in color)  # type: ignore[return-value]


class Dice:
    """Random choices. Only `random.Random.random` is used, whose numbers Python promises never to
    change: one seed is one person on every machine."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random
        self.avoided: Color | None = None  # a skin: cloth of its color looks like none

    def chance(self, share: float) -> bool:
        return self._random() < share

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()

    def below(self, count: int) -> int:
        return int(self._random() * count)

    def one(self, things: Sequence[T]) -> T:
        return things[int(self._random() * len(things))]

    def weighted(self, things: dict[T, float]) -> T:
        left = self._random() * sum(things.values())
        for thing, weight in things.items():
            left -= weight
            if left < 0:
                return thing
        return thing

    def varied(self, color: Color, by: float = 0.04) -> Color:
        """The color, a little lighter or darker and off in hue."""
        light = self.between(-by, by)
        channels = (min(max(c + light + self.between(-by, by) / 2, 0.06), 0.97) for c in color)
        return tuple(channels)  # type: ignore[return-value]

    def _seen(self, color: Color) -> bool:
        skin = self.avoided
        return skin is None or sum(abs(p - q) for p, q in zip(color, skin, strict=True)) > 0.45

    def cloth(self) -> Color:
        for _ in range(8):
            color = self.varied(self.one(CLOTHS))
            if self._seen(color):
                break
        return color

    def against(self, *others: Color, apart: float = 0.25) -> Color:
        """A color of cloth that stands out from the first of the others, and is none of them."""
        best, widest = others[0], -1.0
        for _ in range(12):
            color = self.one(CLOTHS)
            if not self._seen(color):
                continue
            gap = abs(brightness(color) - brightness(others[0]))
            rest = min(sum(abs(p - q) for p, q in zip(color, o, strict=True)) for o in others)
            if gap >= apart and rest > 0.3:
                return self.varied(color)
            if min(gap, rest) > widest:
                best, widest = color, min(gap, rest)
        return self.varied(best)
