# SPDX-License-Identifier: Apache-2.0
"""What one person looks like: skin and face, and every garment. Drawn by `wardrobe.identity`.

Heights are meters above the pelvis on the standing body (neck 0.60, waist 0.04, knee -0.455, ankle
-0.86); lengths of sleeves are meters from the shoulder (elbow 0.285, wrist 0.535).
"""

from __future__ import annotations

from dataclasses import dataclass

from .cloth import Fabric
from .prints import Print
from .tailoring import Color


@dataclass(frozen=True)
class Face:
    skin: Color
    hair: Color
    iris: Color
    lips: Color
    cut: str  # a key of face.HAIRLINES
    brow: tuple[float, float, float]  # half-thickness, arch, tilt; meters, meters, slope
    eye: tuple[float, float]  # half-width and half-height, meters
    mouth: tuple[float, float]  # half-width and half-height, meters
    nose: float = 1.0  # width over the usual one
    beard: str = ""  # "", stubble, full, goatee, mustache
    glasses: str = ""  # "", round, square, sun
    frame: Color = (0.1, 0.1, 0.1)
    makeup: float = 0.0  # of lids and cheeks
    age: float = 0.0  # 0 smooth, 1 old
    freckles: bool = False
    earrings: Color | None = None
    hat: str = ""  # "", cap, beanie, band, scarf (around head and neck)
    hat_fabric: Fabric | None = None
    hair_length: float = 9.0  # height on the back down to which long hair hangs


@dataclass(frozen=True)
class Top:
    fabric: Fabric
    sleeve: float  # length, 0 for none
    neck: str = "crew"  # crew, v, scoop, boat, square, collar, turtle, straps, tube, hood
    depth: float = 0.05  # of the neckline below 0.560, in front
    hem: float = 0.035
    sleeve_fabric: Fabric | None = None  # where it differs
    trim: Color | None = None  # at neck, hems and cuffs
    fastening: str = ""  # "", buttons, zip, half (buttons of a polo shirt)
    fittings: Color = (0.9, 0.9, 0.9)  # buttons, zip
    pocket: str = ""  # "", chest, pouch, flaps
    prints: tuple[Print, ...] = ()
    flared: bool = False  # falls in pleats below the waist


@dataclass(frozen=True)
class Jacket:
    """Worn open over the top."""

    fabric: Fabric
    opening: tuple[float, float, float]  # half-width at the hem, at 0.14 and at the neck
    lapel: Color
    hem: float
    sleeve: float
    pockets: bool = True
    fittings: Color = (0.9, 0.9, 0.9)


@dataclass(frozen=True)
class Bottom:
    kind: str  # trousers, jeans, leggings, shorts, skirt, bib
    fabric: Fabric
    hem: float
    seam: Color | None = None  # stitches of jeans
    stripe: Color | None = None  # along the outside, as on sports wear
    belt: Color | None = None
    buckle: Color = (0.82, 0.74, 0.50)
    turn_up: Color | None = None
    waist: float = 0.035


@dataclass(frozen=True)
class Shoes:
    kind: str  # sneakers, boots, sandals, loafers, pumps
    color: Color
    trim: Color
    sole: Color
    shaft: float = -0.9  # height up to which a boot reaches
    sock: Color | None = None
    sock_top: float = -0.9


@dataclass(frozen=True)
class Extras:
    tie: Fabric | None = None
    bow_tie: bool = False
    scarf: Fabric | None = None
    watch: Color | None = None
    bracelet: Color | None = None
    necklace: Color | None = None
    gloves: Color | None = None
    nails: Color | None = None


@dataclass(frozen=True)
class Identity:
    """What one person looks like; drawn from a seed by `wardrobe.identity`."""

    style: str
    face: Face
    top: Top
    bottom: Bottom
    shoes: Shoes
    jacket: Jacket | None = None
    extras: Extras = Extras()
    folds: int = 0  # seed of the cloth's folds
