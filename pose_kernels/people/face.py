# SPDX-License-Identifier: Apache-2.0
"""The head's two tiles: skin, features, hair, and what is worn on the head.

A face is painted as one half, from its middle to the back of the head, and mirrored; a parting, the
only thing that is not the same on both sides, comes last.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .body import chart_surface
from .cloth import Fabric, swatch
from .looks import Identity
from .tailoring import Array, Color, rise

# Hairline height in meters over the angle from the middle of the face (degrees), per cut.
HAIRLINES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "short": (
        (0, 30, 52, 62, 84, 95, 112, 180),
        (0.222, 0.226, 0.205, 0.150, 0.130, 0.175, 0.060, 0.030),
    ),
    "parted": (
        (0, 25, 48, 66, 84, 95, 112, 180),
        (0.214, 0.230, 0.195, 0.150, 0.110, 0.165, 0.045, 0.020),
    ),
    "long": (
        (0, 18, 40, 52, 60, 68, 180),
        (0.228, 0.216, 0.185, 0.125, 0.030, -0.080, -0.080),
    ),
    "buzz": (
        (0, 30, 50, 64, 84, 95, 112, 180),
        (0.220, 0.224, 0.206, 0.160, 0.135, 0.175, 0.070, 0.045),
    ),
    "bob": ((0, 22, 44, 56, 70, 180), (0.226, 0.214, 0.180, 0.110, 0.062, 0.030)),
    "fringe": ((0, 34, 46, 54, 64, 180), (0.182, 0.184, 0.150, 0.080, -0.080, -0.080)),
    "bowl": ((0, 36, 60, 84, 98, 112, 180), (0.186, 0.188, 0.160, 0.120, 0.150, 0.080, 0.060)),
    "curls": (
        (0, 30, 50, 62, 84, 95, 112, 180),
        (0.216, 0.214, 0.190, 0.135, 0.110, 0.150, 0.035, 0.010),
    ),
    "receding": (
        (0, 16, 34, 52, 66, 84, 95, 112, 180),
        (0.236, 0.250, 0.262, 0.225, 0.155, 0.130, 0.170, 0.060, 0.030),
    ),
    "fringed": (
        (0, 60, 72, 90, 112, 180),
        (0.400, 0.400, 0.180, 0.172, 0.168, 0.175),
    ),  # a bald top
    "bald": ((0, 180), (0.400, 0.400)),
    "tail": (
        (0, 20, 44, 60, 84, 96, 112, 180),
        (0.226, 0.220, 0.200, 0.150, 0.120, 0.140, 0.060, -0.010),
    ),
    "bun": (
        (0, 20, 44, 60, 84, 96, 112, 180),
        (0.226, 0.220, 0.200, 0.150, 0.120, 0.140, 0.075, 0.050),
    ),
    "mohawk": (
        (0, 14, 26, 180),
        (0.218, 0.222, 0.400, 0.400),
    ),
    "rows": (  # braided close to the head
        (0, 30, 50, 62, 84, 95, 112, 180),
        (0.220, 0.220, 0.200, 0.150, 0.130, 0.165, 0.050, 0.010),
    ),
}


class _Frame(NamedTuple):
    y: Array  # (S, 1) meters above the base of the skull
    angle: Array  # (1, S) degrees from the middle of the face, 180 behind
    x: Array  # (1, S) meters from the middle
    ear: NDArray[np.bool_]  # (S,) columns of the ear's own rectangle
    fine: float  # half-width of the sharpest edge


@lru_cache(maxsize=8)
def _frame(size: int) -> _Frame:
    unit = np.linspace(0, 1, size)
    y, _ = chart_surface(24, 1 - unit)
    angle = np.clip(unit / 0.84, 0, 1) * 180
    arrays = [np.ascontiguousarray(a, np.float32) for a in (y[:, None], angle[None])]
    x = np.radians(arrays[1]) * np.float32(0.085)
    # Texels are 0.3 m over the columns and 0.43 m over the rows of a tile.
    return _Frame(arrays[0], arrays[1], x, unit > 0.855, 0.2 / max(size, 2))


class _Half:
    def __init__(self, size: int, skin: Color) -> None:
        self.frame = _frame(size)
        self.color = np.empty((3, size, size), np.float32)
        self.color[:] = np.reshape(skin, (3, 1, 1))

    def rows(self, low: float, high: float) -> slice:
        y = self.frame.y[:, 0]
        first = int(np.searchsorted(-y, -high)) - 1
        return slice(max(first, 0), int(np.searchsorted(-y, -low)) + 1)

    def columns(self, low: float, high: float) -> slice:
        x = self.frame.x[0]
        return slice(max(int(np.searchsorted(x, low)) - 1, 0), int(np.searchsorted(x, high)) + 1)

    def box(self, x: float, y: float, width: float, height: float) -> tuple[slice, slice]:
        return self.rows(y - height, y + height), self.columns(x - width, x + width)

    def paint(self, color: Color, mask: Array, place: tuple[slice, slice]) -> None:
        target = self.color[:, place[0], place[1]]
        target += (np.array(color, np.float32).reshape(3, 1, 1) - target) * mask

    def shade(self, factor: float, mask: Array, place: tuple[slice, slice]) -> None:
        self.color[:, place[0], place[1]] *= 1 + np.float32(factor - 1) * mask

    def spot(
        self, x: float, y: float, width: float, height: float, soft: float = 0.003
    ) -> tuple[Array, tuple[slice, slice]]:
        soft = max(soft, self.frame.fine)
        place = self.box(x, y, width + 2 * soft, height + 2 * soft)
        away = np.hypot(
            (self.frame.x[:, place[1]] - x) / width, (self.frame.y[place[0]] - y) / height
        )
        return 1 - rise(away, 1.0, soft / min(width, height)), place

    def bar(
        self, x: tuple[float, float], y: tuple[float, float], soft: tuple[float, float]
    ) -> tuple[Array, tuple[slice, slice]]:
        sx, sy = max(soft[0], self.frame.fine), max(soft[1], self.frame.fine)
        place = self.rows(y[0] - sy, y[1] + sy), self.columns(x[0] - sx, x[1] + sx)
        px, py = self.frame.x[:, place[1]], self.frame.y[place[0]]
        across = rise(px, x[0], sx) - rise(px, x[1], sx)
        return (rise(py, y[0], sy) - rise(py, y[1], sy)) * across, place


def _mix(a: Color, b: Color, share: float) -> Color:
    return tuple(float(p + (q - p) * share) for p, q in zip(a, b))  # type: ignore[return-value]


def _features(person: Identity, half: _Half) -> None:
    face = person.face
    skin, age = face.skin, face.age
    r, g, b = skin
    y = half.frame.y
    whole = (slice(None), slice(None))
    half.shade(0.90, 1 - rise(y, 0.044, 0.012), whole)  # under the jaw
    blush = (min(1.0, r * 1.02), g * 0.82, b * 0.80)
    mask, place = half.spot(0.047, 0.108, 0.020, 0.015, 0.012)
    half.paint(blush, (0.45 + 0.35 * face.makeup) * mask, place)
    if age > 0.3:  # folds beside the mouth, under the eyes, on the forehead
        deep = 1 - 0.16 * age
        half.shade(deep, *half.bar((0.030, 0.036), (0.066, 0.096), (0.005, 0.012)))
        half.shade(deep, *half.spot(0.036, 0.127, 0.020, 0.004, 0.005))
        for line in (0.190, 0.202):
            half.shade(1 - 0.10 * age, *half.bar((-1, 0.05), (line, line + 0.003), (0.02, 0.003)))
    if face.freckles:
        places = np.random.default_rng(person.folds).uniform(
            (0.012, 0.098), (0.060, 0.128), (14, 2)
        )
        for px, py in places:
            half.shade(0.90, *half.spot(float(px), float(py), 0.0022, 0.0022, 0.002))
    wide, tall = face.mouth
    half.paint(face.lips, *half.spot(0, 0.074, wide, tall, 0.004))
    half.shade(0.55, *half.spot(0, 0.0745, 0.9 * wide, 0.0022, 0.003))
    # Nose: a lit ridge, a shaded flank, a dark underside.
    n = face.nose
    half.shade(1.06, *half.spot(0, 0.118, 0.007 * n, 0.026, 0.006))
    half.shade(0.86, *half.bar((0.008 * n, 0.015 * n), (0.098, 0.135), (0.003, 0.008)))
    half.shade(0.66, *half.spot(0, 0.096, 0.014 * n, 0.0045, 0.004))
    # Eye, then brow.
    w, h = face.eye
    half.shade(0.86, *half.spot(0.035, 0.146, w + 0.0055, h + 0.0065, 0.008))
    if face.makeup > 0:
        lid = _mix(skin, face.lips, 0.5)
        mask, place = half.spot(0.036, 0.151, w + 0.004, h + 0.001, 0.005)
        half.paint(lid, 0.7 * face.makeup * mask, place)
    half.paint((0.97, 0.96, 0.95), *half.spot(0.035, 0.143, w, h))
    half.paint(face.iris, *half.spot(0.035, 0.143, 0.0095, min(h, 0.0105)))
    half.paint((0.05, 0.04, 0.05), *half.spot(0.035, 0.143, 0.0045, 0.005))
    lash = 0.143 + 0.76 * h
    half.shade(
        0.35 - 0.2 * face.makeup,
        *half.bar((0.035 - w, 0.036 + w), (lash, lash + 0.005), (0.004, 0.003)),
    )
    thick, arch, tilt = face.brow
    place = half.rows(0.150, 0.195), half.columns(0.005, 0.068)
    across = half.frame.x[:, place[1]]
    center = 0.171 - arch * (across - 0.036) ** 2 + tilt * (across - 0.036)
    fine = max(0.003, half.frame.fine)
    stroke = rise(y[place[0]], center - thick, fine) - rise(y[place[0]], center + thick, fine)
    ends = rise(across, 0.014, 0.005) - rise(across, 0.058, 0.005)
    dark = _mix(face.hair, (0.1, 0.08, 0.07), 0.35)
    half.paint(dark, stroke * ends, place)


def _beard(person: Identity, half: _Half) -> None:
    face = person.face
    if not face.beard:
        return
    angle, y = half.frame.angle, half.frame.y
    strength = 0.35 if face.beard == "stubble" else 0.85
    if face.beard in ("full", "stubble"):
        rows = half.rows(0.025, 0.155)
        upper = np.interp(angle, (0, 16, 24, 62, 80, 95), (0.060, 0.058, 0.088, 0.105, 0.14, 0.14))
        mask = rise(y[rows], 0.038, 0.006) * (1 - rise(y[rows], upper.astype(np.float32), 0.006))
        half.paint(face.hair, strength * mask * (1 - rise(angle, 84, 5.0)), (rows, slice(None)))
    if face.beard == "goatee":
        half.paint(face.hair, *half.spot(0, 0.050, 0.020, 0.012, 0.005))
        half.paint(face.hair, *half.bar((0.026, 0.032), (0.052, 0.088), (0.003, 0.006)))
    lip, place = half.spot(0, 0.089, 0.029, 0.006, 0.006)
    half.paint(face.hair, strength * lip, place)


def _glasses(person: Identity, half: _Half) -> None:
    face = person.face
    if not face.glasses:
        return
    soft = max(0.002, half.frame.fine)
    place = half.box(0.036, 0.142, 0.040, 0.040)
    x, y = half.frame.x[:, place[1]] - 0.036, half.frame.y[place[0]] - 0.142
    if face.glasses == "square":
        away = np.maximum(np.abs(x) - 0.026, np.abs(y) - 0.019)
    else:
        size = (0.026, 0.024) if face.glasses == "round" else (0.030, 0.024)
        away = (np.hypot(x / size[0], y / size[1]) - 1) * size[1]
    inside = 1 - rise(away, 0.0, soft)
    if face.glasses == "sun":
        half.paint((0.07, 0.07, 0.09), inside * np.float32(0.93), place)
        shine = inside * (1 - rise(np.abs(y - x - 0.012), 0.003, 0.003))
        half.shade(2.6, shine, place)
    else:
        half.paint((0.92, 0.95, 0.97), 0.10 * inside, place)
    rim = 1 - rise(np.abs(away), 0.0026, soft)
    half.paint(face.frame, rim, place)
    half.paint(face.frame, *half.bar((-1, 0.012), (0.146, 0.151), (0.003, 0.002)))
    half.paint(face.frame, *half.bar((0.064, 0.150), (0.146, 0.151), (0.003, 0.002)))


def _hair(person: Identity, half: _Half) -> None:
    face = person.face
    angle, y = half.frame.angle, half.frame.y
    angles, heights = HAIRLINES[face.cut]
    line = np.interp(angle, angles, heights).astype(np.float32)
    soft = max(0.005, half.frame.fine)
    whole = (slice(None), slice(None))
    if face.cut == "curls":
        line = line + 0.004 * np.sin(angle * 0.55)
    hair = rise(y, line, soft)
    if face.cut in ("buzz", "mohawk"):
        shaved = np.interp(angle, *HAIRLINES["buzz"]).astype(np.float32)
        half.paint(_mix(face.skin, face.hair, 0.45), rise(y, shaved, soft), whole)
    half.shade(0.84, rise(y, line - 0.012, 0.010) * (1 - hair), whole)
    if face.cut == "curls":
        strands = 1 + 0.16 * np.sin(angle * 0.55 + 2 * np.sin(y * 130)) * np.sin(
            y * 210 + angle * 0.2
        )
    elif face.cut == "rows":
        strands = 1 + 0.22 * np.sin(angle * 0.62) + 0.06 * np.sin(y * 500)
    elif face.cut in ("buzz", "fringed"):
        strands = 1 + 0.05 * np.sin(angle * 1.9 + 5 * np.sin(y * 90))
    elif face.cut in ("bob", "fringe", "long", "bowl"):
        strands = 1 + 0.09 * np.sin(angle * 0.8 + 1.2 * np.sin(y * 22)) + 0.05 * np.sin(angle * 2.1)
    elif face.cut in ("tail", "bun"):
        strands = 1 + 0.09 * np.sin(y * 300 - 1.1 * angle) + 0.04 * np.sin(y * 130 - angle)
    else:
        strands = 1 + 0.10 * np.sin(angle * 0.9 + 3 * np.sin(y * 40)) + 0.06 * np.sin(angle * 2.3)
    half.paint(face.hair, hair, whole)
    if face.age > 0.5 and face.cut != "bald":  # gray at the temples
        gray = hair * (1 - rise(np.abs(angle - 80), 22.0, 14.0)) * (1 - rise(y, 0.20, 0.03))
        half.paint(_mix(face.hair, (0.75, 0.74, 0.73), 0.7), gray * np.float32(0.8), whole)
    # A soft gleam around the crown.
    gleam = 0.14 * (1 - rise(np.abs(y - 0.243 - 0.008 * np.sin(angle * 0.3)), 0.004, 0.010))
    half.color *= 1 + (strands * (1 + gleam) - 1) * hair
    if face.cut == "bun":
        mask, place = half.spot(np.radians(180) * 0.085, 0.215, 0.042, 0.040, 0.005)
        ring, _ = half.spot(np.radians(180) * 0.085, 0.215, 0.052, 0.050, 0.006)
        half.paint(face.hair, mask, place)
        half.shade(0.72, *half.spot(np.radians(180) * 0.085, 0.262, 0.040, 0.006, 0.005))
        half.shade(0.72, *half.spot(np.radians(180) * 0.085, 0.168, 0.040, 0.006, 0.005))
        half.shade(1.12, mask, place)
    elif face.cut == "tail":
        band = half.bar((0.235, 1), (0.170, 0.184), (0.006, 0.004))
        half.paint((0.75, 0.20, 0.28), *band)
        half.shade(1.08, *half.bar((0.232, 1), (-0.1, 0.168), (0.010, 0.01)))


def _cloth(fabric: Fabric, half: _Half, rows: slice) -> Array:
    """(3, rows, S or 1); heights go on from the torso's, whose neck lies at 0.595."""
    if fabric.pattern in ("plain", "gradient", "blocks"):
        return np.array(fabric.color(0), np.float32).reshape(3, 1, 1)
    drawn = swatch(fabric, round(max(0.004, half.frame.fine) / fabric.period, 4))
    side = drawn.shape[1]
    row = ((half.frame.y[rows, 0] + 0.595) / fabric.period % 1 * side).astype(np.intp) % side
    column = (half.frame.x[0] / fabric.period % 1 * side).astype(np.intp) % side
    return drawn[:, row[:, None], column]


def _lay(fabric: Fabric, half: _Half, mask: Array, rows: slice) -> None:
    target = half.color[:, rows]
    target += (_cloth(fabric, half, rows) - target) * mask


def _worn(person: Identity, half: _Half) -> None:
    """Hats, head scarves, and the collars that reach the neck."""
    face, y, angle = person.face, half.frame.y, half.frame.angle
    soft = max(0.004, half.frame.fine)
    fabric = face.hat_fabric
    top = person.top
    if top.neck == "turtle" or person.extras.scarf is not None:
        rows = half.rows(-0.2, 0.05)
        collar = person.extras.scarf or top.fabric
        edge = 0.012 if person.extras.scarf is None else 0.028
        _lay(collar, half, 1 - rise(y[rows], edge, soft), rows)
        half.shade(
            0.84,
            rise(y[rows], edge - 0.008, 0.004) - rise(y[rows], edge, 0.004),
            (rows, slice(None)),
        )
    if fabric is None:
        return
    if face.hat == "beanie":
        rows = half.rows(0.165, 0.4)
        rim = np.interp(angle, (0, 60, 90, 180), (0.205, 0.198, 0.186, 0.172)).astype(np.float32)
        above = y[rows] - rim
        half.shade(0.82, rise(above, -0.012, 0.008), (rows, slice(None)))
        _lay(fabric, half, rise(above, 0.0, soft), rows)
        ribs = 0.85 + 0.15 * np.sin(angle * 1.2)
        cuff = rise(above, 0.0, soft) * (1 - rise(above, 0.032, soft))
        target = half.color[:, rows]
        target *= 1 + (ribs - 1) * cuff
        half.shade(0.78, rise(above, 0.030, 0.003) - rise(above, 0.036, 0.003), (rows, slice(None)))
    elif face.hat == "cap":
        rows = half.rows(0.150, 0.4)
        rim = np.interp(angle, (0, 55, 80, 180), (0.206, 0.196, 0.196, 0.188)).astype(np.float32)
        above = y[rows] - rim
        half.shade(0.70, rise(above, -0.020, 0.012) * (1 - rise(angle, 58, 6)), (rows, slice(None)))
        _lay(fabric, half, rise(above, 0.0, soft), rows)
        brim = rise(above, 0.0, soft) * (1 - rise(above, 0.016, soft)) * (1 - rise(angle, 62, 4))
        half.paint(fabric.color(1), brim, (rows, slice(None)))
        half.shade(
            0.85,
            rise(above, 0.0, soft) * (1 - rise(np.abs((angle + 30) % 60 - 30), 1.5, 1.5)),
            (rows, slice(None)),
        )
    elif face.hat == "band":
        rows = half.rows(0.18, 0.24)
        _lay(fabric, half, rise(y[rows], 0.196, soft) - rise(y[rows], 0.220, soft), rows)
    elif face.hat == "scarf":
        whole = slice(None)
        oval = np.interp(y[:, 0], (0.035, 0.05, 0.10, 0.16, 0.20, 0.222), (0, 34, 56, 58, 46, 0))
        beyond = angle - oval[:, None].astype(np.float32)
        mask = rise(beyond, 0.0, 3.0 + 90 * soft)
        half.shade(0.80, rise(beyond, -6.0, 5.0), (whole, whole))
        _lay(fabric, half, mask, whole)
        ripple = 1 + 0.06 * np.sin(y * 95 + angle * 0.05)
        half.color *= 1 + (ripple - 1) * mask


def paint(person: Identity, tiles: Array) -> None:
    """Both head tiles (2, 3, S, S): the right half, then the left one."""
    size = tiles.shape[-1]
    half = _Half(size, person.face.skin)
    _features(person, half)
    _beard(person, half)
    _hair(person, half)
    _glasses(person, half)
    _worn(person, half)
    ear = half.frame.ear
    covered = person.face.hat == "scarf" and person.face.hat_fabric is not None
    flesh: Color = person.face.hat_fabric.color(0) if covered else person.face.skin  # type: ignore[union-attr]
    half.color[:, :, ear] = np.reshape(flesh, (3, 1, 1)) * np.float32(0.93)
    if person.face.earrings is not None and not covered:
        lobe = slice(int(0.82 * size), None)  # of the ear's own length
        half.color[:, lobe, ear] = np.reshape(person.face.earrings, (3, 1, 1))
    tiles[1] = half.color
    tiles[0] = half.color[:, :, ::-1]
    if person.face.cut == "parted" and person.face.hat in ("", "band"):
        y, angle = half.frame.y, half.frame.angle
        lit = rise(angle, 22, 4.0) * (1 - rise(angle, 34, 4.0)) * rise(y, 0.225, 0.010)
        tiles[1] *= 1 + np.float32(0.25) * lit
