# SPDX-License-Identifier: Apache-2.0
"""Garments that the dice put together."""

from __future__ import annotations

from dataclasses import replace

from .fabrics import chest_print, denim, fabric, plain, surface
from .looks import Bottom, Jacket, Shoes, Top
from .palette import LEATHERS, METALS, TROUSERS, Dice, brightness, darker, mix
from .prints import EMBLEMS, Print
from .tailoring import Color


def tee(dice: Dice, sleeve: float | None = None) -> Top:
    """T-shirts and everything cut like one."""
    color = dice.cloth()
    kind = dice.weighted({"print": 4.0, "pattern": 3.0, "plain": 1.0, "raglan": 1.0, "half": 0.6})
    cloth = fabric(dice, color) if kind == "pattern" else plain(color)
    accent = dice.against(color) if len(cloth.colors) < 2 else cloth.color(1)
    if sleeve is None:
        sleeve = dice.weighted({0.155: 5.0, 0.12: 1.0, 0.24: 1.0, 0.40: 1.0, 0.51: 3.0})
    trimmed = kind == "raglan" or dice.chance(0.35)
    top = Top(
        cloth,
        sleeve,
        dice.weighted({"crew": 5.0, "v": 2.0, "scoop": 1.0, "boat": 0.6}),
        round(dice.between(0.025, 0.07), 3),
        dice.weighted({0.035: 1.0, -0.02: 2.0, -0.06: 2.0}),
        trim=accent if trimmed else None,
    )
    if kind in ("print", "raglan") and (kind == "print" or dice.chance(0.6)):
        top = replace(top, prints=chest_print(dice, color))
    if kind == "raglan":
        top = replace(top, sleeve_fabric=plain(accent))
    if kind == "half" and sleeve > 0.3:
        top = replace(top, sleeve_fabric=fabric(dice, accent, ("stripes", "checks", "breton")))
    return top


def shirt(dice: Dice, plain_share: float = 0.35, tucked: bool = False) -> Top:
    light = dice.varied(dice.one(((0.95, 0.95, 0.94), (0.70, 0.80, 0.91), (0.92, 0.80, 0.80))))
    if dice.chance(plain_share):
        cloth = plain(light if dice.chance(0.6) else dice.cloth())
    else:
        names = (
            "checks",
            "tartan",
            "columns",
            "pinstripes",
            "windowpane",
            "flowers",
            "dots",
            "leaves",
            "stripes",
            "blanket",
        )
        cloth = fabric(dice, light if dice.chance(0.4) else None, names)
    ground = cloth.color(0)
    return Top(
        cloth,
        dice.weighted({0.51: 3.0, 0.17: 1.5, 0.36: 0.8}),
        "collar",
        round(dice.between(0.03, 0.08), 3),
        0.035 if tucked or dice.chance(0.5) else dice.one((-0.04, -0.08)),
        trim=dice.against(ground) if dice.chance(0.15) else darker(ground, 0.95),
        fastening="buttons",
        fittings=darker(ground, 0.6) if brightness(ground) > 0.5 else (0.88, 0.86, 0.82),
        pocket=dice.weighted({"": 1.0, "chest": 1.0, "flaps": 0.5}),
    )


def polo(dice: Dice) -> Top:
    color = dice.cloth()
    patterned = dice.chance(0.45)
    cloth = fabric(dice, color, ("stripes", "triple", "blocks")) if patterned else plain(color)
    accent = cloth.color(1) if len(cloth.colors) > 1 else dice.against(color)
    logo = Print(dice.one(tuple(EMBLEMS)), (accent, color), 0.075, 0.41, 0.04)
    return Top(
        cloth,
        0.165,
        "collar",
        0.06,
        dice.one((0.035, -0.04)),
        trim=accent,
        fastening="half",
        fittings=accent,
        prints=() if patterned else (logo,),
    )


def sweater(dice: Dice) -> Top:
    color = dice.cloth()
    structure = dice.weighted({"knit": 1.5, "ribs": 1.0, "pattern": 2.0, "plain": 1.0})
    if structure == "pattern":
        names = ("stripes", "triple", "diamonds", "zigzag", "blocks", "gradient", "triangles")
        cloth = fabric(dice, color, names)
    else:
        cloth = plain(color) if structure == "plain" else surface(dice, color, structure)
    neck = dice.weighted({"crew": 2.0, "turtle": 1.5, "v": 1.0, "boat": 0.5})
    return Top(
        cloth,
        0.515,
        neck,
        0.03 if neck == "crew" else 0.08,
        dice.one((-0.02, -0.05)),
        trim=darker(color, 0.82),
    )


def hoodie(dice: Dice) -> Top:
    color = dice.cloth()
    zip_ = dice.chance(0.35)
    cloth = plain(color)
    if dice.chance(0.25):
        cloth = fabric(dice, color, ("blocks", "camouflage", "marble", "gradient"))
    return Top(
        cloth,
        0.515,
        "hood",
        0.03,
        dice.one((-0.03, -0.06)),
        trim=darker(color, 0.85),
        fastening="zip" if zip_ else "",
        fittings=(0.90, 0.90, 0.88),
        pocket="pouch",
        sleeve_fabric=plain(dice.against(color)) if dice.chance(0.15) else None,
        prints=() if zip_ else chest_print(dice, cloth.color(0)),
    )


def tank(dice: Dice) -> Top:
    top = tee(dice, 0.0)
    return replace(
        top,
        neck=dice.one(("crew", "scoop", "v")),
        depth=round(dice.between(0.05, 0.10), 3),
        sleeve_fabric=None,
    )


def camisole(dice: Dice) -> Top:
    color = dice.cloth()
    cloth = plain(color) if dice.chance(0.5) else fabric(dice, color)
    neck = dice.weighted({"straps": 2.0, "tube": 0.7, "square": 0.8})
    depth = 0.07 if neck == "square" else 0.02
    return Top(cloth, 0.0, neck, depth, dice.weighted({0.035: 1.5, -0.04: 1.0, 0.13: 1.2}))


def dress(dice: Dice) -> Top:
    color = dice.cloth()
    names = (
        "flowers",
        "dots",
        "leaves",
        "stripes",
        "tartan",
        "gradient",
        "blocks",
        "hearts",
        "zigzag",
        "columns",
        "marble",
        "breton",
        "triangles",
        "leopard",
        "checks",
    )
    cloth = fabric(dice, color, names) if dice.chance(0.7) else plain(color)
    neck = dice.weighted(
        {
            "crew": 1.0,
            "scoop": 1.5,
            "v": 1.5,
            "square": 1.0,
            "boat": 0.6,
            "straps": 1.4,
            "tube": 0.5,
            "collar": 0.8,
            "turtle": 0.4,
        }
    )
    bare = neck in ("straps", "tube")
    sleeve = 0.0 if bare else dice.weighted({0.0: 2.0, 0.12: 1.5, 0.17: 1.5, 0.38: 1.0, 0.51: 1.0})
    return Top(
        cloth,
        sleeve if neck not in ("turtle", "collar") else max(sleeve, 0.12),
        neck,
        0.02 if bare else round(dice.between(0.05, 0.11), 3),
        round(dice.one((-0.28, -0.36, -0.42, -0.55, -0.70)), 3),
        trim=dice.against(color) if dice.chance(0.2) else None,
        fastening="buttons" if neck == "collar" else "",
        flared=dice.chance(0.7),
    )


def jacket(dice: Dice, inner: Color) -> Jacket:
    kind = dice.weighted(
        {
            "blazer": 1.5,
            "denim": 1.2,
            "leather": 1.0,
            "cardigan": 1.2,
            "bomber": 1.0,
            "coat": 1.0,
            "vest": 0.5,
        }
    )
    color = dice.against(inner, apart=0.18)
    cloth, lapel = plain(color), darker(color, 0.90)
    metal = dice.one(METALS)
    if kind == "denim":
        color = denim(dice)
        return Jacket(
            plain(color), (0.05, 0.06, 0.09), darker(color, 0.88), 0.02, 0.50, fittings=metal
        )
    if kind == "leather":
        color = dice.one(LEATHERS)
        return Jacket(plain(color), (0.05, 0.05, 0.10), mix(color, (1, 1, 1), 0.12), -0.01, 0.51)
    if kind == "cardigan":
        cloth = surface(dice, color, dice.one(("knit", "ribs"))) if dice.chance(0.6) else cloth
        return Jacket(cloth, (0.045, 0.04, 0.08), darker(color, 0.78), -0.06, 0.51)
    if kind == "bomber":
        cloth = surface(dice, color, "quilt") if dice.chance(0.5) else cloth
        return Jacket(cloth, (0.04, 0.04, 0.06), darker(color, 0.75), -0.02, 0.52)
    if kind == "coat":
        if dice.chance(0.4):
            cloth = fabric(dice, color, ("windowpane", "houndstooth", "tartan"))
            lapel = darker(cloth.color(0), 0.9)
        return Jacket(cloth, (0.07, 0.03, 0.09), lapel, dice.one((-0.30, -0.50)), 0.515)
    if kind == "vest":
        return Jacket(surface(dice, color, "quilt"), (0.05, 0.05, 0.08), lapel, -0.02, 0.0)
    if dice.chance(0.35):
        cloth = fabric(dice, color, ("pinstripes", "windowpane", "houndstooth", "checks"))
    return Jacket(cloth, (0.05, 0.012, 0.085), lapel, -0.075, 0.51)


def bottom(dice: Dice, against: Color, skirts: bool) -> Bottom:
    kind = dice.weighted(
        {
            "jeans": 3.0,
            "trousers": 3.0,
            "shorts": 1.6,
            "leggings": 1.0 * skirts + 0.3,
            "skirt": 2.2 * skirts,
            "sweatpants": 1.0,
        }
    )
    color = dice.varied(dice.one(TROUSERS))
    for _ in range(6):  # not the color of the top
        if abs(brightness(color) - brightness(against)) > 0.12:
            break
        color = dice.varied(dice.one(TROUSERS))
    belt = dice.one(LEATHERS) if dice.chance(0.6) else None
    metal = dice.one(METALS)
    if kind == "jeans":
        color = denim(dice)
        turn = mix(color, (0.95, 0.95, 0.95), 0.5) if dice.chance(0.25) else None
        return Bottom(
            "jeans",
            plain(color),
            dice.weighted({-0.86: 4.0, -0.80: 1.0}),
            seam=(0.80, 0.62, 0.36),
            belt=belt,
            buckle=metal,
            turn_up=turn,
        )
    if kind == "leggings":
        cloth = plain(color)
        if dice.chance(0.45):
            cloth = fabric(
                dice,
                color,
                ("marble", "flowers", "camouflage", "leopard", "triangles", "zigzag", "stars"),
            )
        return Bottom(
            "leggings",
            cloth,
            dice.weighted({-0.84: 2.0, -0.62: 1.0}),
            stripe=dice.against(color) if dice.chance(0.25) else None,
        )
    if kind == "skirt":
        color = dice.against(against, apart=0.12)
        names = ("tartan", "flowers", "dots", "columns", "stripes", "checks", "leaves", "zigzag")
        cloth = fabric(dice, color, names) if dice.chance(0.5) else plain(color)
        return Bottom(
            "skirt", cloth, dice.one((-0.27, -0.34, -0.42, -0.58, -0.70)), belt=belt, buckle=metal
        )
    if kind == "sweatpants":
        color = dice.varied(dice.one(TROUSERS))
        stripe = dice.against(color) if dice.chance(0.7) else None
        return Bottom("sweatpants", plain(color), -0.85, stripe=stripe)
    if kind == "shorts":
        cloth = (
            plain(color)
            if dice.chance(0.65)
            else fabric(
                dice,
                None,
                ("checks", "leaves", "flowers", "camouflage", "stripes", "tartan", "dots"),
            )
        )
        return Bottom(
            "shorts",
            cloth,
            dice.one((-0.24, -0.31, -0.37, -0.42)),
            belt=belt,
            buckle=metal,
            stripe=dice.against(color) if belt is None and dice.chance(0.4) else None,
        )
    cloth = plain(color)
    if dice.chance(0.2):
        cloth = fabric(dice, color, ("pinstripes", "windowpane", "tartan", "camouflage", "columns"))
    return Bottom(
        "trousers",
        cloth,
        dice.weighted({-0.86: 4.0, -0.78: 1.0}),
        belt=belt,
        buckle=metal,
        turn_up=darker(color, 1.15) if dice.chance(0.15) else None,
    )


def shoes(dice: Dice, formal: bool, feminine: bool, bare_legs: bool) -> Shoes:
    kind = dice.weighted(
        {
            "sneakers": 0.3 if formal else 4.0,
            "loafers": 3.0 if formal else 0.8,
            "boots": 1.0,
            "sandals": 0.0 if formal else 0.9,
            "pumps": 2.0 * feminine,
        }
    )
    sock = dice.one(((0.93, 0.93, 0.92), (0.16, 0.16, 0.18))) if dice.chance(0.7) else dice.cloth()
    sock_top = dice.weighted({-0.80: 2.0, -0.74: 1.0, -0.53: 0.7 if bare_legs else 0.0})
    leather = dice.varied(dice.one(LEATHERS)) if dice.chance(0.75) else dice.cloth()
    dark: Color = (0.16, 0.14, 0.13)
    if kind == "sneakers":
        color = (
            dice.one(((0.93, 0.92, 0.91), (0.16, 0.16, 0.18))) if dice.chance(0.5) else dice.cloth()
        )
        return Shoes(
            kind, color, dice.against(color), (0.93, 0.92, 0.90), sock=sock, sock_top=sock_top
        )
    if kind == "boots":
        shaft = dice.weighted({-0.76: 2.0, -0.66: 1.0, -0.52: 1.2 * feminine})
        laced = shaft < -0.6 and dice.chance(0.6)
        trim = mix(leather, (0.9, 0.8, 0.6), 0.6) if laced else leather
        return Shoes(kind, leather, trim, dark, shaft=shaft, sock=leather, sock_top=shaft)
    if kind == "loafers":
        return Shoes(
            kind,
            leather,
            darker(leather, 0.7),
            dark,
            sock=sock if dice.chance(0.6) else None,
            sock_top=-0.78,
        )
    if kind == "pumps":
        return Shoes(kind, leather, leather, dark)
    return Shoes(kind, leather, leather, darker(leather, 0.6))
