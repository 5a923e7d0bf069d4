# SPDX-License-Identifier: Apache-2.0
"""The torso's two tiles: top, jacket, what is worn at the neck, and the waist of what is below."""

from __future__ import annotations

import numpy as np

from . import prints
from .cloth import Fabric, dye
from .looks import Bottom, Identity, Jacket, Top
from .tailoring import Array, Canvas, Color, Strip, rise

BACK, FRONT = slice(0, 1), slice(1, 2)
SHOULDER = 0.560  # height of a round neckline


def lay(canvas: Canvas, fabric: Fabric, strip: Strip, fullness: float = 1.0) -> None:
    """fullness: as of `dye`."""
    canvas.paint(dye(fabric, canvas, strip.rows, fullness), strip)


def _away(canvas: Canvas, rows: slice) -> Array:
    """|x| (n, rows, S), following the body where it narrows toward the neck."""
    return np.abs(canvas.x) * canvas.grid.girth[rows]


def _bareness(top: Top, canvas: Canvas) -> tuple[slice, Array]:
    """Rows, and how far beyond the edge of the cloth (2, rows, S), in meters: positive on skin."""
    rows = canvas.rows(0.34, 9.0)
    t, away = canvas.t[rows], _away(canvas, rows)
    depth = np.array([min(top.depth, 0.012), top.depth], np.float32).reshape(2, 1, 1)
    if top.neck == "turtle":
        return rows, t - 9.0 + 0 * away
    if top.neck == "tube":
        return rows, t - 0.455 - 0.3 * np.clip(0.06 - away, 0, 1) * (depth > 0.02) + 0 * away
    if top.neck == "straps":
        edge = np.array([0.40, 0.47 - top.depth], np.float32).reshape(2, 1, 1) + 0.35 * np.clip(
            away - 0.04, 0, 0.06
        )
        below = np.maximum(t - edge, away - 0.125 - 0.3 * np.clip(0.46 - t, 0, 1))
        return rows, np.minimum(below, np.abs(away - 0.085) - 0.012)
    if top.neck in ("v", "collar"):
        drop = depth * np.clip(1 - away / 0.075, 0, 1)
    elif top.neck == "square":
        drop = depth * (1 - rise(away, 0.085, 0.006))
    elif top.neck == "boat":
        drop = 0.014 + 0.10 * np.clip(0.10 - away, -0.1, 0)
    else:  # round
        reach = 0.062 + 0.3 * depth
        drop = depth * np.sqrt(np.clip(1 - (away / reach) ** 2, 0, 1))
    beyond = t - SHOULDER + drop
    if top.sleeve <= 0:  # armholes
        hole = away - 0.108 - 0.35 * np.clip(0.48 - t, 0, 0.3) ** 1.2
        beyond = np.maximum(beyond, np.minimum(hole, t - 0.375))
    return rows, beyond


def _bare(person: Identity, canvas: Canvas) -> None:
    """Skin where the cloth leaves it free, and the edge of the cloth."""
    top = person.top
    rows, beyond = _bareness(top, canvas)
    soft = max(0.003, 0.5 * canvas.grid.pitch[0])
    bare = rise(beyond, 0.0, soft)
    band = rise(beyond, -0.014, soft) - bare
    if top.trim is not None and top.neck != "straps":
        canvas.paint(top.trim, Strip(rows, band))
    else:
        canvas.shade(0.86, Strip(rows, band))
    canvas.paint(person.face.skin, Strip(rows, bare))
    front = canvas.only(FRONT)
    t = canvas.t[rows]
    if top.depth > 0.03 and top.neck != "turtle":
        free = bare[1:]
        for sign in (-1.0, 1.0):  # collar bones
            slope = np.abs(t - 0.533 - 0.10 * (front.x * sign - 0.02))
            reach = front.right_of(0.018, 0.01, front.x * sign) - front.right_of(
                0.10, 0.01, front.x * sign
            )
            bone = (1 - rise(slope, 0.004, 0.006)) * reach
            front.shade(0.91, Strip(rows, free * bone))
        low = (1 - rise(t, 0.49, 0.03)) * front.columns(-1, 0.004, 0.012)
        front.shade(0.88, Strip(rows, free * low))


def _details(top: Top, canvas: Canvas) -> None:
    """Pockets, buttons, zips."""
    front = canvas.only(FRONT)
    if top.pocket in ("chest", "flaps"):
        for x in (0.085,) if top.pocket == "chest" else (-0.085, 0.085):
            box = front.column(x - 0.042, x + 0.042)
            front.shade(0.90, front.strip(0.325, 0.405).where(box))
            front.shade(0.82, front.strip(0.392, 0.404, 0.003).where(box))
    elif top.pocket == "pouch":
        low = max(top.hem, 0.02) + 0.035
        strip = front.strip(low, low + 0.14)
        slope = 0.130 - 0.5 * np.clip(front.t[strip.rows] - low - 0.05, 0, 1)
        inside = rise(slope - np.abs(front.x), 0.0, max(0.004, 0.5 * front.grid.pitch[1]))
        front.shade(0.87, strip.where(inside))
    if top.fastening == "zip":
        line = front.strip(top.hem, SHOULDER)
        front.shade(0.72, line.where(front.columns(-1, 0.011)))
        front.paint(top.fittings, line.where(front.columns(-1, 0.005)))
    elif top.fastening:
        low = max(top.hem, 0.05) if top.fastening == "buttons" else 0.43
        front.shade(0.80, front.strip(low, SHOULDER).where(front.columns(0.016, 0.022, 0.003)))
        if top.fastening == "half":
            front.shade(0.80, front.strip(0.424, 0.431).where(front.columns(-1, 0.020)))
        for height in np.arange(low + 0.035, 0.53, 0.075 if top.fastening == "buttons" else 0.038):
            front.paint(top.fittings, front.spot(0, float(height), 0.008, 0.008))


def _collar(color: Color, depth: float, canvas: Canvas) -> None:
    """A band around the neck whose two points fall in front."""
    front, back = canvas.only(FRONT), canvas.only(BACK)
    back.shade(0.85, back.strip(0.534, 0.546, 0.004))
    back.paint(color, back.over(0.545))
    rows = front.rows(0.44, 9.0)
    t, away = front.t[rows], _away(front, rows)
    soft = max(0.004, 0.5 * max(front.grid.pitch))
    gap = 0.075 * np.clip(1 - (SHOULDER - t) / max(depth, 0.01), 0, 1)
    side = away - 0.048
    lower = 0.478 + np.where(side > 0, 1.15 * side, -0.8 * side)
    inside = np.minimum(np.minimum(t - lower, away - gap), 0.118 - away)
    front.shade(0.80, Strip(rows, rise(inside, -0.007, soft)))
    front.paint(color, Strip(rows, rise(inside, 0.0, soft)))


def _top(person: Identity, canvas: Canvas) -> None:
    top = person.top
    canvas.color[:] = dye(top.fabric, canvas)
    _details(top, canvas)
    for print_ in top.prints:
        prints.apply(print_, canvas)
    if top.neck == "hood":
        back = canvas.only(BACK)
        back.shade(0.86, back.spot(0, 0.50, 0.11, 0.085, 0.03))
        back.shade(0.78, back.spot(0, 0.545, 0.085, 0.035, 0.012))
        front = canvas.only(FRONT)
        for x in (-0.028, 0.028):  # cords
            front.paint(
                top.fittings, front.strip(0.42, 0.53).where(front.column(x - 0.003, x + 0.003))
            )
    if person.bottom.kind == "bib":
        _bib(person.bottom, canvas)
    canvas.folds(person.folds, 0.05)
    if top.hem < -0.2 and person.bottom.belt is not None:  # a dress with a belt
        canvas.shade(0.80, canvas.strip(0.088, 0.128))
        canvas.paint(person.bottom.belt, canvas.strip(0.094, 0.124))
    _bare(person, canvas)
    if top.neck == "collar":
        _collar(top.trim or top.fabric.color(0), top.depth, canvas)


def _bib(bottom: Bottom, canvas: Canvas) -> None:
    front, back = canvas.only(FRONT), canvas.only(BACK)
    lay(front, bottom.fabric, front.strip(0.0, 0.37).where(front.columns(-1, 0.105)))
    seam = bottom.seam or (0.8, 0.7, 0.5)
    front.shade(0.85, front.strip(0.23, 0.32).where(front.columns(-1, 0.05)))
    front.paint(seam, front.strip(0.355, 0.361, 0.003).where(0.6 * front.columns(-1, 0.10)))
    lay(front, bottom.fabric, front.strip(0.36, 0.60).where(front.columns(0.068, 0.102)))
    lay(back, bottom.fabric, back.strip(0.0, 0.60).where(back.columns(0.040, 0.075)))
    for x in (-0.085, 0.085):
        front.paint((0.85, 0.78, 0.55), front.spot(x, 0.352, 0.012, 0.012))


def _waist(person: Identity, canvas: Canvas) -> None:
    top, bottom = person.top, person.bottom
    hem = max(top.hem, -0.2)
    waist = bottom.waist
    if hem > waist + 0.02:  # a crop top
        canvas.paint(person.face.skin, canvas.strip(waist, hem))
        canvas.shade(0.86, canvas.strip(hem - 0.016, hem, 0.006))
        canvas.only(FRONT).shade(0.75, canvas.only(FRONT).spot(0, 0.085, 0.005, 0.008))
    edge = min(hem, waist)
    canvas.shade(0.82, canvas.strip(edge, edge + 0.018, 0.006))  # what hangs over is in shade
    if edge < -0.12:
        return
    below = canvas.below(edge, 0.003)
    lay(canvas, bottom.fabric, below)
    waves = canvas.waves(person.folds + 1, 4, 2.0, (1.5, 4.0))[:, below.rows]
    canvas.color[:, :, below.rows] *= 1 + 0.05 * (waves * below.mask)[:, None]
    front, back = canvas.only(FRONT), canvas.only(BACK)
    if edge == waist:
        band = canvas.strip(waist - 0.036, waist - 0.002, 0.003)
        if bottom.belt is not None:
            canvas.paint(bottom.belt, band)
            front.paint(bottom.buckle, front.spot(0, waist - 0.019, 0.020, 0.015))
            front.paint(bottom.belt, front.spot(0, waist - 0.019, 0.011, 0.008))
        else:
            canvas.shade(0.90, band)
            canvas.shade(0.80, canvas.strip(waist - 0.040, waist - 0.034, 0.003))
    low = min(edge, waist - 0.034)
    if bottom.kind in ("trousers", "jeans", "shorts"):
        line = front.below(low, 0.003)
        front.shade(0.78, line.where(front.column(0.002, 0.010)))
        for side in (-1, 1):
            pocket = back.strip(-0.085, min(-0.015, low)).where(
                back.column(0.085 * side - 0.052, 0.085 * side + 0.052)
            )
            inner = back.strip(-0.077, min(-0.023, low - 0.008)).mask
            rows = back.strip(-0.077, min(-0.023, low - 0.008)).rows
            back.shade(0.80, pocket)
            back.shade(
                1.25, Strip(rows, inner * back.column(0.085 * side - 0.044, 0.085 * side + 0.044))
            )
    if bottom.kind == "jeans" and bottom.seam is not None:
        front.paint(bottom.seam, front.below(low).where(0.6 * front.column(0.018, 0.024)))
    if bottom.stripe is not None:
        canvas.paint(bottom.stripe, canvas.below(low).where(canvas.columns(0.160, 1.0)))


def _jacket(person: Identity, jacket: Jacket, canvas: Canvas) -> None:
    front, back = canvas.only(FRONT), canvas.only(BACK)
    fold = (1 + 0.05 * canvas.waves(person.folds + 2, 5, 2.4, (1.6, 5.0)))[:, None]
    dyed = dye(jacket.fabric, canvas) * fold
    over = back.strip(jacket.hem, SHOULDER)
    back.paint(dyed[:1, :, over.rows], over)
    hem, middle, neck = jacket.opening
    knots = (jacket.hem, 0.14, 0.56)
    edge = np.interp(front.t, knots, (hem, middle, neck)).astype(np.float32)
    strip = front.strip(jacket.hem, 0.575)
    rows = strip.rows
    beyond = np.abs(front.x) * np.where(front.t[rows] > 0.5, front.grid.girth[rows] / 0.93, 1)
    beyond = np.minimum(beyond, np.abs(front.x)) - edge[rows]
    soft = max(0.004, 0.5 * front.grid.pitch[1])
    front.shade(0.72, strip.where(rise(beyond, -0.012, 0.010)))
    front.paint(dyed[1:, :, rows], strip.where(rise(beyond, 0.0, soft)))
    high = strip.where(rise(front.t[rows], 0.20, 0.02))
    wide = 0.012 + 0.10 * np.clip(front.t[rows] - 0.20, 0, 0.3)
    leaf = rise(beyond, 0.0, soft)
    front.shade(0.78, high.where(leaf * (1 - rise(beyond - wide, 0.008, soft))))
    front.paint(jacket.lapel, high.where(leaf * (1 - rise(beyond - wide, 0.0, soft))))
    back.paint(jacket.lapel, back.strip(0.535, 0.575))
    if jacket.pockets:
        for x in (-0.115, 0.115):
            box = front.column(x - 0.038, x + 0.038)
            front.shade(0.76, front.strip(0.112, 0.120, 0.003).where(box))
            front.shade(0.92, front.strip(0.085, 0.116).where(box))
    back.shade(0.85, back.strip(jacket.hem, 0.10).where(back.columns(-1, 0.004)))
    canvas.shade(0.80, canvas.strip(jacket.hem, jacket.hem + 0.014).where(_both(front, edge, hem)))


def _both(front: Canvas, edge: Array, hem: float) -> Array:
    """The hem's shade, on both tiles, outside of the opening."""
    outside = front.right_of(hem, value=np.abs(front.x))
    return np.concatenate((np.ones_like(outside), outside))


def _neckwear(person: Identity, canvas: Canvas) -> None:
    extras = person.extras
    front = canvas.only(FRONT)
    if extras.tie is not None and extras.bow_tie:
        rows = front.strip(0.47, 0.53).rows
        wing = 0.006 + 0.42 * np.clip(np.abs(front.x) - 0.004, 0, 0.05)
        mask = rise(wing - np.abs(front.t[rows] - 0.502), 0.0, 0.004) * front.columns(-1, 0.050)
        lay(front, extras.tie, Strip(rows, mask))
        front.shade(0.75, front.spot(0, 0.502, 0.010, 0.010))
    elif extras.tie is not None:
        strip = front.strip(0.09, 0.515)
        t = front.t[strip.rows]
        half = np.interp(t, (0.09, 0.125, 0.47, 0.48, 0.515), (0, 0.036, 0.015, 0.014, 0.024))
        soft = max(0.004, 0.5 * front.grid.pitch[1])
        inside = half.astype(np.float32) - np.abs(front.x)
        front.shade(0.8, strip.where(rise(inside, -0.006, soft)))
        lay(front, extras.tie, strip.where(rise(inside, 0.0, soft)))
        front.shade(0.78, front.strip(0.474, 0.482, 0.003).where(front.columns(-1, 0.016)))
    if extras.necklace is not None:
        rows = front.rows(0.43, 0.57)
        drop = 0.56 - 0.10 * np.sqrt(np.clip(1 - (np.abs(front.x) / 0.075) ** 2, 0, 1))
        line = 1 - rise(np.abs(front.t[rows] - drop), 0.003, max(0.004, 0.5 * front.grid.pitch[0]))
        front.paint(extras.necklace, Strip(rows, line * front.columns(-1, 0.075)))
        front.paint(extras.necklace, front.spot(0, 0.453, 0.010, 0.012))
    if extras.scarf is not None:
        rows = canvas.rows(0.46, 9.0)
        dip = np.array([0.545, 0.505], np.float32).reshape(2, 1, 1)
        wrap = rise(canvas.t[rows] - dip - 0.25 * np.abs(canvas.x), 0.0, 0.006)
        canvas.shade(
            0.78,
            Strip(rows, rise(canvas.t[rows] - dip + 0.014 - 0.25 * np.abs(canvas.x), 0.0, 0.01)),
        )
        lay(canvas, extras.scarf, Strip(rows, wrap))
        end = front.strip(0.20, 0.52)
        front.shade(0.8, end.where(front.column(0.012, 0.088)))
        lay(front, extras.scarf, end.where(front.column(0.018, 0.082)))
        ripple = 0.5 + 0.5 * np.sin(70 * canvas.t[rows] + 9 * canvas.x)
        canvas.shade(0.86, Strip(rows, wrap * ripple))


def _hair(person: Identity, canvas: Canvas) -> None:
    """Long hair on the back, and a lock over each shoulder where it is worn open."""
    face = person.face
    if face.hair_length > 1 or face.hat == "scarf":
        return
    hair = np.array(face.hair, np.float32).reshape(1, 3, 1, 1)
    back = canvas.only(BACK)
    reach = 0.034 if face.cut == "tail" else 0.122
    end = face.hair_length + 0.010 * np.sin(110 * back.x) + 0.05 * (back.x / reach) ** 2
    rows = back.rows(face.hair_length - 0.03, 9.0)
    mask = rise(back.t[rows] - end, 0.0, 0.010) * back.columns(-1, reach, 0.006)
    back.shade(0.82, Strip(rows, rise(back.t[rows] - end, -0.012, 0.010) * back.columns(-1, reach)))
    strands = 1 + 0.10 * np.sin(back.x * 420 + 2 * np.sin(back.t[rows] * 30))
    back.paint(hair * strands[:, None], Strip(rows, mask))
    if face.cut == "tail" or person.extras.scarf is not None or person.folds % 2:
        return
    front = canvas.only(FRONT)
    low = face.hair_length + 0.03
    rows = front.rows(low - 0.03, 9.0)
    away = np.abs(front.x) * (0.4 + 0.6 * front.grid.girth[rows])
    half = 0.021 * np.clip((front.t[rows] - low) / 0.06, 0, 1)
    soft = max(0.004, 0.5 * front.grid.pitch[1])
    lock = rise(half - np.abs(away - 0.075 - 0.004 * np.sin(60 * front.t[rows])), 0.0, soft)
    front.shade(0.85, Strip(rows, rise(half - np.abs(away - 0.077), -0.006, soft)))
    strands = 1 + 0.10 * np.sin(away * 700 + 2 * np.sin(front.t[rows] * 40))
    front.paint(hair * strands[:, None], Strip(rows, lock))


def paint(person: Identity, canvas: Canvas) -> None:
    _top(person, canvas)
    _waist(person, canvas)
    if person.jacket is None:
        _neckwear(person, canvas)
    else:
        if person.extras.tie is not None:
            _neckwear(person, canvas)
        _jacket(person, person.jacket, canvas)
        if person.extras.tie is None:
            _neckwear(person, canvas)
    _hair(person, canvas)
