# SPDX-License-Identifier: Apache-2.0
"""Fabrics and prints that the dice put together."""

from __future__ import annotations

from dataclasses import replace

from .cloth import Fabric
from .palette import DENIMS, Dice, darker
from .prints import EMBLEMS, Print, fitting
from .tailoring import Color

# pattern -> (weight among patterned cloth, least and greatest period in meters, colors)
_PERIODS: dict[str, tuple[float, float, float, int]] = {
    "stripes": (3.0, 0.040, 0.110, 2),
    "breton": (1.5, 0.036, 0.070, 2),
    "triple": (1.5, 0.110, 0.240, 4),
    "columns": (1.2, 0.035, 0.090, 2),
    "pinstripes": (0.8, 0.045, 0.070, 2),
    "diagonal": (0.9, 0.060, 0.140, 2),
    "zigzag": (0.8, 0.070, 0.130, 2),
    "checks": (1.8, 0.040, 0.090, 2),
    "blanket": (0.7, 0.060, 0.150, 2),
    "windowpane": (0.8, 0.070, 0.120, 2),
    "tartan": (2.0, 0.110, 0.200, 4),
    "houndstooth": (0.7, 0.070, 0.110, 2),
    "dots": (1.5, 0.050, 0.110, 2),
    "confetti": (0.6, 0.120, 0.200, 4),
    "flowers": (2.0, 0.130, 0.240, 4),
    "leaves": (1.0, 0.130, 0.220, 4),
    "hearts": (0.5, 0.070, 0.120, 2),
    "stars": (0.5, 0.070, 0.120, 3),
    "diamonds": (0.8, 0.120, 0.200, 4),
    "triangles": (0.7, 0.090, 0.160, 3),
    "leopard": (0.8, 0.130, 0.190, 3),
    "camouflage": (1.0, 0.300, 0.420, 4),
    "marble": (0.8, 0.300, 0.500, 4),
    "gradient": (1.0, 0.280, 0.420, 2),
    "blocks": (1.6, 0.100, 0.220, 3),
}
_CAMOUFLAGES: tuple[tuple[Color, ...], ...] = (
    ((0.55, 0.53, 0.38), (0.33, 0.38, 0.22), (0.38, 0.28, 0.18), (0.14, 0.15, 0.12)),
    ((0.76, 0.68, 0.54), (0.60, 0.50, 0.36), (0.46, 0.37, 0.26), (0.86, 0.80, 0.68)),
    ((0.62, 0.65, 0.68), (0.40, 0.43, 0.47), (0.20, 0.22, 0.25), (0.85, 0.86, 0.87)),
)
_WORDS = (
    "LOVE NOVA WILD NYC SURF 1987 POP VIBE ZEN HELLO TEAM ROCK PARIS SUN WAVE RIO OK YES ART CITY "
    "MOON GO COOL LAB FUN K2 X JAZZ TOKYO COAST 2024 WOW"
).split()


def fabric(dice: Dice, ground: Color | None = None, only: tuple[str, ...] = ()) -> Fabric:
    """A patterned cloth, of one of the patterns named or of any."""
    weights = {k: v[0] for k, v in _PERIODS.items() if not only or k in only}
    pattern = dice.weighted(weights)
    _, low, high, count = _PERIODS[pattern]
    ground = ground or dice.cloth()
    colors = [ground]
    while len(colors) < count:
        colors.append(dice.against(*colors, apart=0.22 if len(colors) == 1 else 0.0))
    if pattern == "leopard":
        colors = [dice.one(((0.80, 0.62, 0.40), (0.86, 0.80, 0.72), (0.70, 0.70, 0.70)))]
        colors += [darker(colors[0], 0.66), (0.16, 0.12, 0.10)]
    elif pattern == "camouflage":
        colors = list(dice.one(_CAMOUFLAGES))
    elif pattern in ("flowers", "leaves") and dice.chance(0.7):
        colors[3] = dice.varied((0.30, 0.48, 0.28))
    seed = dice.below(2**31)
    return Fabric(pattern, tuple(colors), round(dice.between(low, high), 4), seed)


def plain(color: Color) -> Fabric:
    return Fabric("plain", (color,))


def surface(dice: Dice, color: Color, pattern: str) -> Fabric:
    """A structure of its own color: knit, ribs or quilt."""
    dark = darker(color, {"knit": 0.74, "ribs": 0.82, "quilt": 0.62}[pattern])
    period = {"knit": (0.09, 0.13), "ribs": (0.026, 0.040), "quilt": (0.06, 0.10)}[pattern]
    return Fabric(pattern, (color, dark), round(dice.between(*period), 4))


def denim(dice: Dice) -> Color:
    return dice.varied(dice.one(DENIMS), 0.03)


def chest_print(dice: Dice, cloth: Color) -> tuple[Print, ...]:
    colors = (dice.against(cloth, apart=0.3), dice.cloth(), dice.cloth())
    kind = dice.weighted({"emblem": 4.0, "word": 3.0, "both": 1.2, "logo": 1.2, "number": 1.2})
    names = tuple(EMBLEMS)
    if kind == "emblem":
        size = dice.between(0.13, 0.24)
        return (Print(dice.one(names), colors, 0.0, 0.36 - size / 10, size),)
    if kind == "logo":
        first = Print(dice.one(names), colors, dice.one((-0.075, 0.075)), 0.41, 0.055)
        return (first, Print(first.motif, colors, 0.0, 0.36, 0.20, back=True))
    if kind == "number":
        number = str(dice.below(98) + 1)
        weight = dice.between(0.07, 0.12)
        return (
            Print("text", colors, 0.0, 0.34, fitting(number, 0.15), number, weight),
            Print("text", colors, 0.0, 0.34, fitting(number, 0.20), number, weight, back=True),
        )
    word = dice.one(_WORDS)
    height = fitting(word, dice.between(0.08, 0.13))
    text = Print("text", colors, 0.0, 0.36, height, word, dice.between(0.08, 0.13))
    if kind == "word":
        return (text,)
    emblem = Print(dice.one(names), colors[::-1], 0.0, 0.27, 0.13)
    return (replace(text, t=0.41), emblem)
