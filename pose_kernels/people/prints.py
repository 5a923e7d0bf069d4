# SPDX-License-Identifier: Apache-2.0
"""Prints on cloth: words and numbers drawn as strokes, and geometric emblems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .tailoring import Array, Canvas, Color, rise

# Each sign is one or more polylines on a grid 4 wide and 6 high, y up: pairs of digits x y.
SIGNS = {
    "A": "002640/1232",
    "B": "00063645443303/3342413000",
    "C": "4536160501103041",
    "D": "00062645412000",
    "E": "46060040/0333",
    "F": "460600/0333",
    "G": "45361605011030414323",
    "H": "0006/4046/0343",
    "I": "2026",
    "J": "4641301001",
    "K": "0006/4602/1340",
    "L": "060040",
    "M": "0006234640",
    "N": "00064046",
    "O": "103041453616050110",
    "P": "00063645443303",
    "R": "00063645443303/2340",
    "S": "453616050413334241301001",
    "T": "0646/2620",
    "U": "060110304146",
    "V": "062046",
    "W": "0610243046",
    "X": "0046/0640",
    "Y": "0623/4623/2320",
    "Z": "06460040",
    "0": "103041453616050110",
    "1": "152620/1030",
    "2": "05163645440040",
    "3": "0516364544334241301001/2333",
    "4": "30360242",
    "5": "460603334241301001",
    "6": "36160501103041423303",
    "7": "064610",
    "8": "13040516364544334241301001021333",
    "9": "10304145361605041343",
}


@dataclass(frozen=True)
class Print:
    """motif: a key of `EMBLEMS`, or "text"; (x, t): its middle on the torso, meters, x to the
    person's left; height: meters; weight: half-width of a text's strokes over its height."""

    motif: str
    colors: tuple[Color, ...]
    x: float = 0.0
    t: float = 0.35
    height: float = 0.14
    text: str = ""
    weight: float = 0.09
    back: bool = False

    def color(self, index: int) -> Color:
        return self.colors[min(index, len(self.colors) - 1)]


@lru_cache(maxsize=128)
def _segments(text: str) -> tuple[Array, float]:
    """(K, 4) starts and ends in units of the letters' height, the middle at 0; and the width."""
    found = []
    for place, sign in enumerate(text):
        for line in SIGNS[sign].split("/"):
            points = [
                ((int(line[k]) + 5.6 * place) / 6, int(line[k + 1]) / 6 - 0.5)
                for k in range(0, len(line), 2)
            ]
            found += [a + b for a, b in zip(points[:-1], points[1:], strict=True)]
    width = (5.6 * len(text) - 1.6) / 6
    segments = np.array(found, np.float32)
    segments[:, ::2] -= np.float32(width / 2)
    return segments, width


def fitting(text: str, height: float) -> float:
    """This height of letters, or less so that they stay on the flat of the chest."""
    return min(height, 0.25 / _segments(text)[1])


def _lettering(text: str, x: Array, y: Array, half: float, soft: float) -> Array:
    segments, _ = _segments(text)
    start, way = segments[:, :2, None, None], (segments[:, 2:] - segments[:, :2])[..., None, None]
    px, py = x - start[:, 0], y - start[:, 1]
    length = way[:, 0] ** 2 + way[:, 1] ** 2
    share = np.clip((px * way[:, 0] + py * way[:, 1]) / length, 0, 1)
    px, py = px - share * way[:, 0], py - share * way[:, 1]
    return 1 - rise(np.sqrt((px * px + py * py).min(axis=0)), half, soft)


# An emblem gives (index of color, mask) in the order of painting. x, y: (1, W), (H, 1), in units
# of half its height; soft in the same units.
Layers = list[tuple[int, Array]]


def _inside(value: Array, edge: float, soft: float) -> Array:
    return 1 - rise(value, edge, soft)


def _target(x: Array, y: Array, soft: float) -> Layers:
    r = np.hypot(x, y)
    return [(0, _inside(r, 1, soft)), (1, _inside(r, 0.68, soft)), (0, _inside(r, 0.36, soft))]


def _ring(x: Array, y: Array, soft: float) -> Layers:
    r = np.hypot(x, y)
    return [(0, _inside(np.abs(r - 0.82), 0.16, soft)), (1, _inside(r, 0.40, soft))]


def _star(x: Array, y: Array, soft: float) -> Layers:
    sector = np.float32(2 * np.pi / 5)
    turn = np.arctan2(x, y + 0 * x)
    away = np.abs((turn + sector / 2) % sector - sector / 2)
    r = np.hypot(x, y)
    # The edge from a point at radius 1 to a notch at 0.42.
    edge = r * (np.cos(away) + 1.55 * np.sin(away))
    return [(0, _inside(edge, 0.98, soft))]


def _heart(x: Array, y: Array, soft: float) -> Layers:
    lifted = y + 0.12 - 0.62 * np.sqrt(np.abs(x) + np.float32(1e-4))
    return [(0, _inside(np.hypot(0.98 * x, 1.1 * lifted), 0.9, soft))]


def _diamond(x: Array, y: Array, soft: float) -> Layers:
    away = np.abs(x) * 1.25 + np.abs(y)
    return [(0, _inside(away, 1, soft)), (1, _inside(away, 0.62, soft))]


def _mountain(x: Array, y: Array, soft: float) -> Layers:
    peaks = np.minimum(np.abs(x + 0.3) * 1.5 - 0.75, np.abs(x - 0.42) * 1.5 - 0.30)
    sun = np.hypot(x - 0.62, y - 0.62)
    body = np.maximum(y + peaks, -y - 0.7)
    return [(1, _inside(sun, 0.27, soft)), (0, _inside(body, 0.0, soft))]


def _bolt(x: Array, y: Array, soft: float) -> Layers:
    middle = np.where(y > 0, 0.28 - 0.55 * (1 - y), -0.28 + 0.55 * (1 + y)) + 0 * x
    width = np.where(y > 0, 0.20 + 0.10 * (1 - y), 0.32 * (1 + y)) + 0 * x
    away = np.maximum(np.abs(x - middle) - width, np.abs(y) - 1)
    return [(0, _inside(away, 0.0, soft))]


def _moon(x: Array, y: Array, soft: float) -> Layers:
    disc = _inside(np.hypot(x, y), 1, soft)
    return [(0, disc * (1 - _inside(np.hypot(x - 0.42, y - 0.12), 0.80, soft)))]


def _sun(x: Array, y: Array, soft: float) -> Layers:
    r = np.hypot(x, y)
    rays = np.cos(10 * np.arctan2(x, y + 0 * x))
    return [(1, _inside(r - 0.16 * rays, 0.84, soft)), (0, _inside(r, 0.52, soft))]


def _bars(x: Array, y: Array, soft: float) -> Layers:
    return [
        (k, _inside(np.abs(x - 0.62 * (k - 1)), 0.22, soft) * _inside(np.abs(y), 1 - 0.2 * k, soft))
        for k in range(3)
    ]


def _waves(x: Array, y: Array, soft: float) -> Layers:
    disc = _inside(np.hypot(x, y), 1, soft)
    crest = (y + 0.16 * np.sin(6 * x)) * 2.4
    line = _inside(np.abs((crest + 0.5) % 1 - 0.5), 0.22, soft * 2.4)
    return [(0, disc), (1, disc * line * _inside(y + 0 * x, 0.25, soft))]


def _face(x: Array, y: Array, soft: float) -> Layers:
    r = np.hypot(x, y)
    eyes = _inside(np.hypot(np.abs(x) - 0.36, 0.7 * (y - 0.28)), 0.14, soft)
    smile = _inside(np.abs(r - 0.60), 0.08, soft) * _inside(y + 0 * x, -0.12, soft)
    return [(0, _inside(r, 1, soft)), (1, np.maximum(eyes, smile))]


def _paw(x: Array, y: Array, soft: float) -> Layers:
    mask = _inside(np.hypot(x, 1.25 * (y + 0.40)), 0.56, soft)
    for a, b in ((0.22, 0.62), (0.68, 0.24)):
        mask = np.maximum(mask, _inside(np.hypot(1.3 * (np.abs(x) - a), y - b), 0.27, soft))
    return [(0, mask)]


def _shield(x: Array, y: Array, soft: float) -> Layers:
    away = np.maximum(np.abs(x) - 0.8 * np.sqrt(np.clip(1 - np.clip(-y, 0, 1) ** 2, 0, 1)), y - 0.9)
    mask = _inside(away, 0.0, soft) * _inside(-y, 0.98, soft)
    return [(0, mask), (1, mask * _inside(np.abs(x - 0.7 * y), 0.22, soft))]


def _square(x: Array, y: Array, soft: float) -> Layers:
    """A photograph: sky, ground, a sun, in a frame."""
    box = np.maximum(np.abs(x), np.abs(y))
    inner = _inside(box, 0.86, soft)
    hill = _inside(y + 0.15 * np.cos(3 * x + 1), 0.0, soft)
    return [
        (0, _inside(box, 0.98, soft)),
        (1, inner),
        (2, inner * hill),
        (0, inner * (1 - hill) * _inside(np.hypot(x - 0.35, y - 0.45), 0.22, soft)),
    ]


EMBLEMS: dict[str, Callable[[Array, Array, float], Layers]] = {
    "target": _target,
    "ring": _ring,
    "star": _star,
    "heart": _heart,
    "diamond": _diamond,
    "mountain": _mountain,
    "bolt": _bolt,
    "moon": _moon,
    "sun": _sun,
    "bars": _bars,
    "waves": _waves,
    "face": _face,
    "paw": _paw,
    "shield": _shield,
    "square": _square,
}


def apply(print_: Print, torso: Canvas) -> None:
    """Paint it on the front or the back of the torso."""
    side = torso.only(slice(0, 1) if print_.back else slice(1, 2))
    across = (side.x[0, 0] - np.float32(print_.x)) * np.float32(-1 if print_.back else 1)
    soft = max(0.003, 0.5 * max(side.grid.pitch))
    height = print_.height
    width = _segments(print_.text)[1] * height if print_.motif == "text" else 2.2 * height / 2 * 1.1
    rows = side.rows(print_.t - 0.62 * height - soft, print_.t + 0.62 * height + soft)
    reach = np.flatnonzero(np.abs(across) < width / 2 + 0.12 * height + soft)
    if not len(reach):
        return
    columns = slice(int(reach[0]), int(reach[-1]) + 1)
    unit = height if print_.motif == "text" else height / 2
    x = across[None, columns] / np.float32(unit)
    y = (side.t[rows] - np.float32(print_.t)) / np.float32(unit)
    if print_.motif == "text":
        layers = [(0, _lettering(print_.text, x, y, print_.weight, soft / unit))]
    else:
        layers = EMBLEMS[print_.motif](x, y, soft / unit)
    target = side.color[0][:, rows, columns]
    for index, mask in layers:
        color = np.array(print_.color(index), np.float32).reshape(3, 1, 1)
        target += (color - target) * mask
