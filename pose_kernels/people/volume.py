# SPDX-License-Identifier: Apache-2.0
"""How far hair and clothes stand off the body, for what the wardrobe paints on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .body import HIP, Array, smooth
from .face import HAIRLINES
from .looks import Identity

# Thickness of the hair over the skull in meters, by cut.
_HAIR = {
    **{"short": 0.010, "parted": 0.014, "long": 0.015, "buzz": 0.002, "bob": 0.022},
    **{"fringe": 0.016, "bowl": 0.018, "curls": 0.026, "receding": 0.006, "fringed": 0.008},
    **{"bald": 0.0, "tail": 0.007, "bun": 0.007, "mohawk": 0.028, "rows": 0.005},
}
# Of garments over the skin: trousers by their kind, tops by the style.
_LEGS = {
    **{"trousers": 0.010, "jeans": 0.007, "leggings": 0.001, "shorts": 0.014},
    **{"sweatpants": 0.014, "bib": 0.012},
}
_TOPS = {
    **{"sweater": 0.010, "hoodie": 0.015, "shirt": 0.007, "tank": 0.003, "camisole": 0.003},
    **{"suit": 0.004},
}


@dataclass(frozen=True)
class Volume:
    """Lengths in meters. Heights of hems are those of `looks`: above the pelvis of the standing
    body, sleeves from the shoulder.

    cut: of the hair (a key of `face.HAIRLINES`), hair_length: height down to which it hangs on the
    back; hat: whether one is worn; top: how far the top stands off, down to `top_hem` and
    `sleeve`; legs: the trousers, down to `leg_hem`; skirt_hem: of a skirt or dress, 0 for none,
    `flare`: by how much it widens per meter.
    """

    cut: str = "bald"
    hair_length: float = 9.0
    hat: bool = False
    top: float = 0.0
    top_hem: float = 0.035
    sleeve: float = 0.0
    legs: float = 0.0
    leg_hem: float = -0.9
    skirt_hem: float = 0.0
    flare: float = 0.0

    @classmethod
    def of(cls, looks: Identity) -> Volume:
        """What the garments and the hair of these looks take up."""
        top, bottom, jacket = looks.top, looks.bottom, looks.jacket
        hems = [top.hem] + ([jacket.hem] if jacket else [])
        falling = [hem for hem in hems if hem < -0.13]
        if bottom.kind == "skirt":
            falling.append(bottom.hem)
        wide = bottom.kind == "skirt" or top.flared
        sleeves = [top.sleeve] + ([jacket.sleeve] if jacket else [])
        return cls(
            cut=looks.face.cut,
            hair_length=looks.face.hair_length,
            hat=looks.face.hat in ("cap", "beanie", "scarf"),
            top=_TOPS.get(looks.style, 0.006) + (0.007 if jacket else 0.0),
            top_hem=max(min(hems), -0.13),
            sleeve=max(sleeves),
            legs=0.0 if bottom.kind == "skirt" else _LEGS.get(bottom.kind, 0.008),
            leg_hem=bottom.hem,
            skirt_hem=min(falling, default=0.0),
            flare=0.22 if wide else 0.08,
        )

    def on_torso(self, y: Array, angle: Array) -> Array:
        """(R, A): outward, at heights y (R,) and angles (A,) of the torso's tube."""
        covered = _above(y, self.top_hem)
        # Below the waist a top that hangs over the trousers covers the thighs at its sides.
        away = self.top * (1 - smooth(y, 0.50, 0.56)) + 0.016 * smooth(y, 0.05, -0.02)
        out = np.broadcast_to((covered * away)[:, None], (len(y), len(angle))).copy()
        if self.hair_length < 1:
            behind = smooth(np.abs((angle + 360.0) % 360.0 - 180.0), 80.0, 45.0)
            hangs = smooth(y, self.hair_length - 0.02, self.hair_length + 0.03)
            out += 0.014 * hangs[:, None] * behind * (1 - smooth(y, 0.57, 0.60))[:, None]
        return out

    def on_arm(self, y: Array) -> Array:
        """(R,): outward, on the tube of the arm; the sleeve widens toward its end."""
        if self.sleeve <= 0:
            return np.zeros_like(y)
        loose = self.top * (0.6 + 0.5 * smooth(y, -0.02, -0.25))
        return loose * _above(y, -self.sleeve)

    def on_leg(self, y: Array) -> Array:
        """(R,): outward, on the tube of the leg, without a skirt."""
        loose = self.legs * (0.35 + 0.65 * smooth(y, -0.10, -0.55))
        return loose * _above(y, self.leg_hem - HIP)

    def skirt(self, y: Array) -> Array:
        """(R,) share of the skirt in the tube of the leg: 1 from below the hip to the hem."""
        if self.skirt_hem == 0:
            return np.zeros_like(y)
        return smooth(y, 0.06, -0.05) * _above(y, self.skirt_hem - HIP)

    def on_head(self, y: Array, angle: Array) -> Array:
        """(R, A): outward, on the tube of the head."""
        away = np.abs((angle + 180.0) % 360.0 - 180.0)  # 0 in the middle of the face
        line = np.interp(away, *HAIRLINES[self.cut])
        y = y[:, None]
        thick = _HAIR[self.cut] * np.ones_like(away)
        if self.cut in ("curls", "bob"):
            thick = thick * (0.75 + 0.25 * smooth(away, 40.0, 90.0))
        out: Array = thick * smooth(y - line, -0.004, 0.022)
        if self.hat:  # flattens the hair below it
            out = out * (1 - 0.6 * smooth(y, 0.17, 0.20)) + 0.010 * smooth(y, 0.185, 0.205)
        if self.cut == "bun" and not self.hat:
            out += 0.045 * np.exp(-(((away - 180) / 24) ** 2) - ((y - 0.215) / 0.030) ** 2)
        if self.cut == "tail":
            out += 0.030 * np.exp(-(((away - 180) / 20) ** 2)) * smooth(y, 0.21, 0.17)
        return out * smooth(y, -0.07, -0.02)

    @property
    def crown(self) -> float:
        """How far the top of the head is raised."""
        return 0.012 if self.hat else 0.9 * _HAIR[self.cut] * (HAIRLINES[self.cut][1][0] < 0.3)


def _above(y: Array, hem: float) -> Array:
    """1 on rings at or above the hem: a step from one ring to the next."""
    return (y >= hem - 0.004).astype(float)
