# SPDX-License-Identifier: Apache-2.0
"""Who somebody is, from a seed, and the atlas painted with it.

Everything is painted in meters along the body (`body.chart_surface`) with edges about a centimeter
soft, so patterns meet at the seams and a picture of 256 pixels, 8 mm each, does not alias them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from . import fabrics, limbs, outfits, prints, torso
from . import face as heads
from .cloth import Fabric
from .fabrics import plain
from .looks import Bottom, Extras, Face, Identity, Shoes, Top
from .palette import (
    DYED_HAIRS,
    HAIRS,
    IRISES,
    LEATHERS,
    METALS,
    SKINS,
    Dice,
    brightness,
    darker,
    mix,
)
from .prints import Print
from .tailoring import Canvas, Color

__all__ = ["STYLES", "Identity", "identity", "paint"]

# style -> weight
STYLES = {
    "tee": 4.0,
    "shirt": 2.5,
    "polo": 1.0,
    "sweater": 1.8,
    "hoodie": 1.4,
    "tank": 1.0,
    "camisole": 0.9,
    "dress": 2.4,
    "tunic": 0.7,
    "layers": 2.6,
    "suit": 1.2,
    "sport": 1.0,
    "dungarees": 0.7,
    "jumpsuit": 0.5,
}

_TOPS: dict[str, Callable[[Dice], Top]] = {
    "tee": outfits.tee,
    "shirt": outfits.shirt,
    "polo": outfits.polo,
    "sweater": outfits.sweater,
    "hoodie": outfits.hoodie,
    "tank": outfits.tank,
    "camisole": outfits.camisole,
}

# The person of the demonstrations: a striped shirt, light against dark, so that it reads small.
_FIRST = Identity(
    style="tee",
    face=Face(
        skin=(0.76, 0.55, 0.41),
        hair=(0.36, 0.22, 0.13),
        iris=(0.16, 0.32, 0.48),
        lips=(0.616, 0.298, 0.268),
        cut="short",
        brow=(0.004, 14.0, 0.0),
        eye=(0.0185, 0.0105),
        mouth=(0.026, 0.0085),
        beard="full",
    ),
    top=Top(
        Fabric("stripes", ((0.96, 0.96, 0.94), (0.30, 0.52, 0.76)), 0.066),
        sleeve=0.155,
        neck="v",
        trim=(0.96, 0.96, 0.94),
    ),
    bottom=Bottom("trousers", plain((0.37, 0.40, 0.29)), -0.86, belt=(0.22, 0.16, 0.12)),
    shoes=Shoes("sneakers", (0.47, 0.30, 0.19), (0.94, 0.93, 0.90), (0.93, 0.92, 0.90)),
    extras=Extras(watch=(0.16, 0.15, 0.17)),
)


def _face(dice: Dice, feminine: bool, folds: int) -> Face:
    shade = dice.between(0, len(SKINS) - 1)
    skin = mix(SKINS[int(shade)], SKINS[min(int(shade) + 1, len(SKINS) - 1)], shade % 1)
    skin = dice.avoided = dice.varied(skin, 0.015)
    age = max(0.0, dice.between(-0.8, 1.0))
    hair = dice.one(HAIRS[:5] if brightness(skin) < 0.5 else HAIRS[:9])
    if dice.chance(0.04):
        hair = dice.one(DYED_HAIRS)
    if age > 0.6 and dice.chance(0.7):
        hair = dice.one(HAIRS[9:])
    hair = dice.varied(hair, 0.03)
    curly = brightness(skin) < 0.42
    if feminine:
        cut = dice.weighted(
            {
                "long": 3.0,
                "fringe": 1.8,
                "bob": 1.6,
                "tail": 1.6,
                "bun": 1.3,
                "parted": 0.4,
                "curls": 2.0 if curly else 0.7,
                "rows": 1.2 * curly,
                "buzz": 0.1,
            }
        )
    else:
        cut = dice.weighted(
            {
                "short": 3.0,
                "parted": 2.0,
                "buzz": 1.2,
                "curls": 1.0,
                "bowl": 0.5,
                "receding": 0.3 + 2.0 * age,
                "fringed": 1.0 * (age > 0.4),
                "bald": 0.5 + 0.5 * age,
                "long": 0.3,
                "bun": 0.2,
                "mohawk": 0.12,
                "rows": 0.8 * curly,
            }
        )
    length = {
        "long": dice.between(0.36, 0.52),
        "fringe": dice.between(0.40, 0.53),
        "tail": dice.between(0.40, 0.50),
    }.get(cut, 9.0)
    r, g, b = skin
    lips: Color = (0.35 + 0.40 * r, 0.10 + 0.36 * g, 0.12 + 0.36 * b)
    makeup = dice.between(0.2, 1.0) if feminine and dice.chance(0.6) else 0.0
    if makeup > 0:
        lips = mix(
            lips, dice.one(((0.72, 0.12, 0.18), (0.80, 0.30, 0.40), (0.55, 0.15, 0.25))), makeup
        )
    beard = ""
    if not feminine:
        beard = dice.weighted(
            {"": 2.2, "stubble": 1.0, "full": 1.0, "goatee": 0.5, "mustache": 0.4}
        )
    hat = dice.weighted(
        {"": 8.0, "cap": 0.8, "beanie": 0.6, "band": 0.4 * feminine, "scarf": 0.45 * feminine}
    )
    if hat == "scarf":  # covers the hair
        cut, length = "bald", 9.0
    cloth = None
    if hat:
        color = dice.cloth()
        cloth = Fabric(
            "plain", (color, darker(color, 0.7) if dice.chance(0.5) else dice.against(color))
        )
        if hat != "cap" and dice.chance(0.35):
            cloth = fabrics.fabric(dice, color, ("stripes", "dots", "flowers", "zigzag", "checks"))
    frames: tuple[Color, ...] = ((0.10, 0.10, 0.11), (0.35, 0.20, 0.12), (0.70, 0.58, 0.32))
    return Face(
        skin=skin,
        hair=hair,
        iris=dice.one(IRISES[:2] if brightness(skin) < 0.45 else IRISES),
        lips=lips,
        cut=cut,
        brow=(
            dice.between(0.0022, 0.0036) if feminine else dice.between(0.003, 0.0056),
            dice.between(6.0, 24.0),
            dice.between(-0.12, 0.12),
        ),
        eye=(dice.between(0.0165, 0.0205), dice.between(0.0085, 0.0120)),
        mouth=(dice.between(0.021, 0.029), dice.between(0.006, 0.011)),
        nose=dice.between(0.8, 1.3),
        beard=beard,
        glasses=dice.weighted({"": 6.0, "round": 0.9, "square": 0.9, "sun": 0.7}),
        frame=dice.one(frames),
        makeup=makeup,
        age=age,
        freckles=brightness(skin) > 0.6 and dice.chance(0.12),
        earrings=dice.one(METALS) if feminine and dice.chance(0.5) else None,
        hat=hat,
        hat_fabric=cloth,
        hair_length=length,
    )


def _dressed(dice: Dice, style: str, person: Identity, feminine: bool) -> Identity:
    if style == "dress":
        top = outfits.dress(dice)
        legs = person.face.skin if dice.chance(0.65) else dice.varied((0.14, 0.14, 0.16))
        belt = None
        if dice.chance(0.4):
            belt = dice.one(LEATHERS) if dice.chance(0.5) else dice.against(top.fabric.color(0))
        return replace(person, top=top, bottom=Bottom("leggings", plain(legs), -0.86, belt=belt))
    if style == "tunic":
        top = replace(outfits.dress(dice), hem=round(dice.between(-0.30, -0.18), 3), flared=False)
        legs = dice.against(top.fabric.color(0), apart=0.15)
        return replace(person, top=top, bottom=Bottom("leggings", plain(legs), -0.85))
    if style == "layers":
        inner = dice.weighted(
            {"tee": 2.0, "shirt": 1.2, "sweater": 0.8, "camisole": 0.6 * feminine}
        )
        top = _TOPS[inner](dice)
        top = replace(top, hem=max(top.hem, -0.02))
        coat = outfits.jacket(dice, top.fabric.color(0))
        below = outfits.bottom(dice, coat.fabric.color(0), feminine)
        return replace(person, top=top, jacket=coat, bottom=below)
    if style == "suit":
        top = outfits.shirt(dice, plain_share=0.7, tucked=True)
        top = replace(top, sleeve=0.515, pocket="")
        color = dice.varied(
            dice.one(
                (
                    (0.15, 0.16, 0.20),
                    (0.16, 0.20, 0.34),
                    (0.40, 0.41, 0.44),
                    (0.45, 0.34, 0.25),
                    (0.72, 0.66, 0.56),
                    (0.30, 0.14, 0.18),
                    (0.17, 0.28, 0.24),
                )
            )
        )
        cloth = plain(color)
        if dice.chance(0.35):
            cloth = fabrics.fabric(dice, color, ("pinstripes", "windowpane", "houndstooth"))
            fine = (color, mix(color, (0.9, 0.9, 0.9), 0.3))
            cloth = replace(cloth, colors=fine)
        coat = replace(
            outfits.jacket(dice, top.fabric.color(0)),
            fabric=cloth,
            hem=-0.075,
            lapel=darker(color, 0.88),
            opening=(0.045, 0.010, 0.080),
            sleeve=0.505,
        )
        tie = None
        if dice.chance(0.75):
            tie = fabrics.fabric(dice, None, ("diagonal", "dots", "stripes", "checks"))
            tie = replace(tie, period=0.05) if dice.chance(0.6) else plain(tie.color(0))
            top = replace(top, depth=0.015)
        below = Bottom("trousers", cloth, -0.86, belt=dice.one(LEATHERS[:3]))
        return replace(
            person,
            top=top,
            jacket=coat if dice.chance(0.8) else None,
            bottom=below,
            extras=replace(person.extras, tie=tie, bow_tie=dice.chance(0.2)),
        )
    if style == "sport":
        color = dice.cloth()
        accent = dice.against(color, apart=0.3)
        names = ("blocks", "columns", "stripes", "diagonal", "gradient", "triple")
        cloth = fabrics.fabric(dice, color, names) if dice.chance(0.5) else plain(color)
        number = (
            fabrics.chest_print(Dice(dice.below(2**31)), cloth.color(0)) if dice.chance(0.3) else ()
        )
        digits = str(dice.below(98) + 1)
        if not number:
            number = (
                Print("text", (accent,), 0.0, 0.36, prints.fitting(digits, 0.14), digits, 0.10),
                Print(
                    "text",
                    (accent,),
                    0.0,
                    0.34,
                    prints.fitting(digits, 0.20),
                    digits,
                    0.10,
                    back=True,
                ),
            )
        top = Top(
            cloth,
            dice.one((0.0, 0.155, 0.18, 0.51)),
            dice.one(("crew", "v")),
            0.05,
            -0.05,
            trim=accent,
            prints=number,
        )
        base = color if dice.chance(0.4) else dice.against(color)
        kind, hem = dice.one((("sweatpants", -0.85), ("shorts", -0.30), ("shorts", -0.38)))
        stripe = accent if dice.chance(0.6) else None
        return replace(person, top=top, bottom=Bottom(kind, plain(base), hem, stripe=stripe))
    if style == "dungarees":
        top = replace(outfits.tee(dice), hem=0.035, prints=())
        cloth = plain(fabrics.denim(dice) if dice.chance(0.7) else dice.cloth())
        hem = dice.weighted({-0.86: 2.0, -0.32: 1.0})
        return replace(person, top=top, bottom=Bottom("bib", cloth, hem, seam=(0.82, 0.66, 0.38)))
    if style == "jumpsuit":
        top = outfits.shirt(dice) if dice.chance(0.5) else outfits.camisole(dice)
        top = replace(top, hem=0.035)
        below = Bottom(
            "trousers", top.fabric, dice.one((-0.86, -0.78, -0.32)), belt=dice.one(LEATHERS)
        )
        return replace(person, top=top, bottom=below)
    top = _TOPS[style](dice)
    return replace(person, top=top, bottom=outfits.bottom(dice, top.fabric.color(0), feminine))


def identity(seed: int) -> Identity:
    """The same seed gives the same person on every machine.

    seed: an integer of at least 0; 0 is the person of the demonstrations, in a striped shirt.

    Raises ValueError for a negative seed.
    """
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    if seed == 0:
        return _FIRST
    dice = Dice(seed)
    feminine = dice.chance(0.5)
    folds = dice.below(2**31)
    face = _face(dice, feminine, folds)
    extras = Extras(
        scarf=(fabrics.fabric(dice) if dice.chance(0.6) else plain(dice.cloth()))
        if dice.chance(0.07)
        else None,
        watch=dice.one(LEATHERS) if dice.chance(0.3) else None,
        bracelet=dice.one(METALS) if dice.chance(0.1 + 0.2 * feminine) else None,
        necklace=dice.one(METALS) if dice.chance(0.05 + 0.2 * feminine) else None,
        gloves=dice.one(LEATHERS) if dice.chance(0.03) else None,
        nails=dice.one(((0.75, 0.15, 0.20), (0.85, 0.45, 0.55), (0.30, 0.12, 0.20)))
        if feminine and dice.chance(0.4)
        else None,
    )
    weights = {
        k: w for k, w in STYLES.items() if feminine or k not in ("dress", "tunic", "camisole")
    }
    style = dice.weighted(weights)
    person = replace(_FIRST, style=style, face=face, extras=extras, folds=folds)
    person = _dressed(dice, style, person, feminine)
    if person.top.neck in ("turtle", "hood", "collar") or extras.scarf is not None:
        person = replace(person, extras=replace(person.extras, necklace=None))
    bare = person.bottom.hem > -0.7 and person.bottom.kind != "leggings"
    return replace(person, shoes=outfits.shoes(dice, style == "suit", feminine, bare))


def paint(person: Identity, size: int) -> NDArray[np.float32]:
    """The whole atlas, (24, 3, size, size) float32 in [0, 1]; tile i - 1 is part i's, row 0 is
    v = 1.

    Raises ValueError for fewer than two texels along a tile.
    """
    if size < 2:
        raise ValueError(f"size must be at least 2 texels, got {size}")
    atlas = np.empty((24, 3, size, size), np.float32)
    torso.paint(person, Canvas(atlas, "torso"))
    limbs.hands(person, Canvas(atlas, "hands"))
    limbs.feet(person, Canvas(atlas, "feet"))
    limbs.legs(person, Canvas(atlas, "upper_legs"), Canvas(atlas, "lower_legs"))
    limbs.arms(person, Canvas(atlas, "upper_arms"), Canvas(atlas, "lower_arms"))
    heads.paint(person, atlas[22:24])
    return np.clip(atlas, 0.0, 1.0, out=atlas)
