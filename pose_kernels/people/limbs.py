# SPDX-License-Identifier: Apache-2.0
"""Arms, hands, legs and feet: sleeves and cuffs, trousers and skirts, socks and shoes."""

from __future__ import annotations

import numpy as np

from .cloth import Fabric
from .looks import Bottom, Identity, Top
from .tailoring import Array, Canvas, Color, Strip, rise
from .torso import lay

SHOULDER = 0.466  # height of the shoulder joint, where a sleeve's length begins
BACK, FRONT = slice(0, 2), slice(2, 4)
# +1 where a tile's person's left is its limb's outside: tiles are right, left, right, left leg.
_OUTSIDE = np.array([-1, 1, -1, 1], np.float32).reshape(4, 1, 1)
_FULL = 2.0  # cloth of a skirt's half over what goes around a leg
_WRISTS = slice(0, 4, 2)  # of the lower arms' tiles: the left arm's


def _fold(canvas: Canvas, seed: int, strip: Strip, strength: float = 0.05) -> None:
    waves = canvas.waves(seed, 5, 3.0, (2.0, 6.0))[:, strip.rows]
    canvas.color[:, :, strip.rows] *= (1 + np.float32(strength) * waves * strip.mask)[:, None]


def _sleeve(canvas: Canvas, fabric: Fabric, hem: float, trim: Color | None, seed: int) -> None:
    cloth = canvas.over(hem, 0.003)
    if cloth.rows.start >= cloth.rows.stop:
        return
    canvas.shade(0.85, canvas.strip(hem - 0.016, hem, 0.006))
    lay(canvas, fabric, cloth)
    _fold(canvas, seed, cloth)
    if trim is not None:
        canvas.paint(trim, canvas.strip(hem, hem + 0.016, 0.003))
    else:
        canvas.shade(0.86, canvas.strip(hem + 0.012, hem + 0.017, 0.003))


def arms(person: Identity, upper: Canvas, lower: Canvas) -> None:
    skin = np.array(person.face.skin, np.float32).reshape(1, 3, 1, 1)
    top, jacket, extras = person.top, person.jacket, person.extras
    for canvas in (upper, lower):
        canvas.color[:] = skin
        # The inside of the elbow; at a joint both tiles are painted, or its seam would show.
        inside = canvas.only(FRONT)
        inside.shade(0.93, inside.strip(0.165, 0.182, 0.012))
        if top.sleeve > 0:
            fabric = top.sleeve_fabric or top.fabric
            _sleeve(canvas, fabric, SHOULDER - top.sleeve, top.trim, person.folds + 3)
        if jacket is not None and jacket.sleeve > 0:
            _sleeve(canvas, jacket.fabric, SHOULDER - jacket.sleeve, None, person.folds + 4)
    wrist = SHOULDER - 0.505
    sleeve = max(top.sleeve, jacket.sleeve if jacket else 0.0)
    if sleeve < 0.46:
        left, right = lower.only(_WRISTS), lower.only(slice(1, 4, 2))
        if extras.watch is not None:
            left.paint(extras.watch, left.strip(wrist, wrist + 0.020, 0.003))
            dial = left.only(slice(1, 2))
            dial.paint((0.88, 0.88, 0.85), dial.spot(0.024, wrist + 0.010, 0.014, 0.013))
        if extras.bracelet is not None:
            right.paint(extras.bracelet, right.strip(wrist + 0.004, wrist + 0.011, 0.003))
            right.paint(extras.bracelet, right.strip(wrist - 0.010, wrist - 0.004, 0.003))
    if extras.gloves is not None:
        lower.paint(extras.gloves, lower.below(SHOULDER - 0.495))


def hands(person: Identity, canvas: Canvas) -> None:
    gloves, nails = person.extras.gloves, person.extras.nails
    canvas.color[:] = np.array(gloves or person.face.skin, np.float32).reshape(1, 3, 1, 1)
    tip = canvas.below(-0.105, 0.010)
    away = np.abs(canvas.angle)
    soft = max(np.radians(4.0), 0.6 * canvas.grid.pitch[1] / canvas.grid.radius)
    finger = away < 2 * np.pi  # the thumb's own columns lie beyond the hand's whole turn
    finger &= canvas.angle < np.pi
    for gap in np.radians((62.0, 90.0, 118.0)):
        line = rise(away, gap - 0.09, soft) - rise(away, gap + 0.09, soft)
        canvas.shade(0.80, tip.where(line * finger))
    if nails is not None and gloves is None:
        canvas.paint(nails, canvas.below(-0.172, 0.004))
    elif gloves is None:
        canvas.shade(1.05, canvas.below(-0.165, 0.010))
    canvas.shade(0.95, canvas.strip(-0.062, -0.055, 0.008))  # knuckles


def _pleats(canvas: Canvas, strip: Strip, count: int, depth: float) -> None:
    wave = 0.5 + 0.5 * np.sin(count * canvas.angle)
    canvas.shade(1 - depth, strip.where(wave * wave))
    # Between the legs a skirt hangs free, in its own shade.
    canvas.shade(0.88, strip.where(1 - rise(canvas.x * _OUTSIDE, -0.5 * canvas.grid.radius, 0.020)))


def _trousers(person: Identity, bottom: Bottom, canvas: Canvas, upper: bool) -> None:
    front, back = canvas.only(FRONT), canvas.only(BACK)
    cloth = canvas.over(bottom.hem, 0.003)
    if cloth.rows.start >= cloth.rows.stop:
        return
    canvas.shade(0.85, canvas.strip(bottom.hem - 0.018, bottom.hem, 0.006))
    lay(canvas, bottom.fabric, cloth, _FULL if bottom.kind == "skirt" else 1.0)
    _fold(canvas, person.folds + 5, cloth, 0.06)
    side = canvas.x * _OUTSIDE
    edge = canvas.right_of(canvas.grid.radius * 0.90, 0.004, side)
    if bottom.kind == "skirt":
        _pleats(canvas, cloth, 9, 0.14)
    elif bottom.kind != "leggings":
        canvas.shade(0.82, cloth.where(edge))
    if bottom.stripe is not None:
        wide = canvas.right_of(canvas.grid.radius * 0.80, 0.004, side)
        canvas.paint(bottom.stripe, cloth.where(wide))
    if bottom.kind in ("jeans", "bib"):
        for t, height in ((-0.225, 0.16), (-0.46, 0.07)):  # worn thighs and knees
            worn = front.spot(0, t, 0.045, height, 0.04)
            front.shade(1.18, Strip(worn.rows, worn.mask * cloth_mask(cloth, worn.rows, front)))
        if bottom.seam is not None:
            near = canvas.right_of(canvas.grid.radius * 0.78, 0.003, side) - canvas.right_of(
                canvas.grid.radius * 0.85, 0.003, side
            )
            canvas.paint(bottom.seam, cloth.where(0.55 * near))
    elif bottom.kind == "trousers" and upper:
        front.shade(1.10, front.spot(0, -0.22, 0.045, 0.16, 0.04))
    if upper and bottom.kind in ("trousers", "jeans", "shorts"):
        pocket = front.strip(-0.10, 0.02)
        outer = front.x * _OUTSIDE[FRONT]
        slope = np.abs(front.t[pocket.rows] + 0.045 - 0.9 * (outer - 0.045))
        line = 1 - rise(slope, 0.004, max(0.004, 0.5 * canvas.grid.pitch[0]))
        inside = rise(outer, 0.035, 0.004)
        front.shade(0.72, pocket.where(line * inside))
    if bottom.kind in ("trousers", "jeans"):
        front.shade(1.08, front.spot(0, -0.485, 0.04, 0.06, 0.03))
        back.shade(0.92, back.strip(-0.463, -0.448, 0.012))
    if bottom.turn_up is not None:
        canvas.paint(bottom.turn_up, canvas.strip(bottom.hem, bottom.hem + 0.035, 0.003))
        canvas.shade(0.80, canvas.strip(bottom.hem + 0.035, bottom.hem + 0.041, 0.003))
    else:
        canvas.shade(0.84, canvas.strip(bottom.hem + 0.018, bottom.hem + 0.023, 0.003))


def cloth_mask(cloth: Strip, rows: slice, canvas: Canvas) -> Array:
    """The part of a (rows, 1) mask that belongs to other rows."""
    whole = np.zeros((len(canvas.t), 1), np.float32)
    whole[cloth.rows] = cloth.mask
    return whole[rows]


def _skirts_of(top: Top, person: Identity, canvas: Canvas, upper: bool) -> None:
    """What hangs below the torso of a dress, a tunic or a coat."""
    cloth = canvas.over(top.hem, 0.003)
    if cloth.rows.start >= cloth.rows.stop:
        return
    canvas.shade(0.80, canvas.strip(top.hem - 0.022, top.hem, 0.008))
    lay(canvas, top.fabric, cloth, _FULL if top.hem < -0.13 else 1.0)
    _fold(canvas, person.folds + 7, cloth, 0.05)
    if top.hem < -0.2:
        _pleats(canvas, cloth, 7, 0.16 if top.flared else 0.04)
    if top.trim is not None:
        canvas.paint(top.trim, canvas.strip(top.hem, top.hem + 0.022, 0.003))
    else:
        canvas.shade(0.84, canvas.strip(top.hem + 0.018, top.hem + 0.023, 0.003))
    if top.fastening in ("buttons", "zip") and upper:
        inner = canvas.only(FRONT)
        side = inner.x * _OUTSIDE[FRONT]
        inner.shade(0.82, inner.over(top.hem).where(1 - inner.right_of(-0.070, 0.004, side)))


def legs(person: Identity, upper: Canvas, lower: Canvas) -> None:
    skin = np.array(person.face.skin, np.float32).reshape(1, 3, 1, 1)
    shoes = person.shoes
    for canvas in (upper, lower):
        is_upper = canvas is upper
        canvas.color[:] = skin
        front, back = canvas.only(FRONT), canvas.only(BACK)
        front.shade(0.93, front.spot(0, -0.455, 0.032, 0.032, 0.02))  # kneecap
        back.shade(0.94, back.spot(0, -0.56, 0.006, 0.07, 0.01))
        if shoes.sock is not None:
            canvas.paint(shoes.sock, canvas.below(shoes.sock_top, 0.003))
            canvas.shade(0.90, canvas.strip(shoes.sock_top - 0.020, shoes.sock_top - 0.014, 0.003))
        _trousers(person, person.bottom, canvas, is_upper)
        if person.top.hem < 0.03:
            _skirts_of(person.top, person, canvas, is_upper)
        if person.jacket is not None:
            outer = canvas.x * _OUTSIDE
            over = canvas.over(person.jacket.hem)
            if over.rows.start < over.rows.stop:
                open_ = np.array([-1, -1, -0.02, -0.02], np.float32).reshape(4, 1, 1)
                full = _FULL if person.jacket.hem < -0.13 else 1.0
                front_open = rise(outer - open_, 0.0, 0.004)
                lay(canvas, person.jacket.fabric, over.where(front_open), full)
                hem = person.jacket.hem
                canvas.shade(0.82, canvas.strip(hem - 0.012, hem + 0.008))
        if not is_upper and shoes.shaft > -0.85:
            boot = canvas.below(shoes.shaft, 0.003)
            canvas.paint(shoes.color, boot)
            _fold(canvas, person.folds + 11, boot, 0.06)
            canvas.shade(0.78, canvas.strip(shoes.shaft - 0.014, shoes.shaft - 0.008, 0.003))
            if shoes.trim != shoes.color:
                front = canvas.only(FRONT)
                for k in range(3):
                    lace = shoes.shaft - 0.03 - 0.025 * k
                    front.paint(
                        shoes.trim,
                        front.strip(lace - 0.004, lace + 0.004).where(front.columns(-1, 0.018)),
                    )


def feet(person: Identity, canvas: Canvas) -> None:
    shoes = person.shoes
    skin = shoes.sock or person.face.skin
    away = np.abs(canvas.angle)
    pitch = canvas.grid.pitch[1] / canvas.grid.radius

    def beyond(degrees: float, soft: float = 5.0) -> Array:
        return rise(away, np.radians(degrees), max(np.radians(soft), 0.6 * pitch))

    color: Color = shoes.color
    canvas.color[:] = np.array(color, np.float32).reshape(1, 3, 1, 1)
    light = sum(color) > 2.2
    if shoes.kind == "sneakers":
        canvas.shade(0.93 if light else 1.10, canvas.below(-0.150))  # toe cap
        canvas.paint(shoes.trim, canvas.strip(-0.045, -0.025).where(beyond(40) - beyond(105)))
        canvas.paint(shoes.trim, canvas.over(0.045).where(beyond(70) - beyond(118)))
    if shoes.kind in ("sneakers", "boots") and shoes.trim != shoes.color:
        for lace in (-0.030, -0.056, -0.082, -0.108):
            canvas.paint(shoes.trim, canvas.strip(lace - 0.006, lace + 0.006).where(1 - beyond(34)))
    if shoes.kind in ("loafers", "pumps"):
        low = -0.065 if shoes.kind == "loafers" else -0.115
        rows = canvas.rows(low - 0.02, 0.09)
        t = canvas.t[rows]
        reach = np.radians(64.0) * np.sqrt(np.clip((t - low) / 0.05, 0, 1))
        canvas.paint(
            skin, Strip(rows, rise(reach - away, 0.0, max(0.06, 0.6 * pitch)) * rise(t, low, 0.004))
        )
        if shoes.kind == "loafers":
            canvas.paint(shoes.trim, canvas.strip(-0.098, -0.080).where(1 - beyond(70)))
    if shoes.kind == "sandals":
        canvas.paint(skin, canvas.strip(-0.060, 0.035).where(1 - beyond(105)))
        canvas.paint(skin, canvas.below(-0.125).where(1 - beyond(105)))
        canvas.paint(shoes.color, canvas.strip(-0.010, 0.006).where(1 - beyond(120)))
        canvas.paint(shoes.color, canvas.strip(-0.125, -0.040).where(1 - beyond(7)))
        for gap in (-45.0, -18.0, 12.0, 40.0):  # toes
            line = rise(canvas.angle, np.radians(gap) - 0.06, pitch + 0.03) - rise(
                canvas.angle, np.radians(gap) + 0.06, pitch + 0.03
            )
            canvas.shade(0.78, canvas.below(-0.155).where(line))
    canvas.paint(shoes.sole, canvas.strip(-9, 9).where(beyond(122)))
    canvas.shade(0.45, canvas.strip(-9, 9).where(beyond(152)))
