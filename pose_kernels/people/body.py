# SPDX-License-Identifier: Apache-2.0
"""The surface of the built-in people: tubes, and the charts drawn on them.

Every limb is a *tube*: an axis with a half-width, a half-depth and an offset that vary smoothly
along it. A tube is star-shaped around its axis, so (angle around the axis, arc length along it)
names each point of its surface exactly once: that pair is the chart coordinate (u, v), and charts
are injective by construction. They are drawn on the reference body; other bodies (`shape.py`)
stretch the surface and its charts together.

Frame of the body and of each bone: x to the person's left, y up, z out of the chest, meters. In a
tile, v = 1 is the end of the limb nearer to the trunk (top of head, shoulder, hip, heel) and u
grows to the right as seen from outside, so a tile shows its chart upright and unmirrored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SPINE, SKULL = 0.10, 0.595  # where the chest bends over the pelvis, and the head over the chest
HIP = -0.025  # height of the hip joints over the pelvis
UPPER_ARM, LOWER_ARM, UPPER_LEG, LOWER_LEG = 0.285, 0.25, 0.43, 0.405  # from joint to joint
_SAMPLES = 400  # of the arc length of a tube


@dataclass(frozen=True)
class Chart:
    """The angles of a tube, in degrees from +z toward +x, that one tile or a strip of it holds."""

    part: int
    center: float
    span: float
    u: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Section:
    """A piece of a tube with charts of its own, down to `bottom` (y on the tube). `origin`: y of
    the joint of the bone that carries it. `rings`: of the mesh."""

    bottom: float
    origin: float
    charts: tuple[Chart, ...]
    rings: int


@dataclass(frozen=True)
class Tube:
    """Knots are (y, half-width along x, half-depth along z, offset along z), from the top down."""

    name: str
    knots: tuple[tuple[float, float, float, float], ...]
    caps: tuple[float, float]  # length of the rounding at the upper and at the lower end
    sections: tuple[Section, ...]
    around: int  # vertices of a ring; the borders of the charts fall on some
    power: float = 2.0  # 2 is an ellipse, more is boxier

    @property
    def top(self) -> float:
        return self.knots[0][0]

    def profile(self, y: Array) -> Array:
        """(..., 3): half-width, half-depth and offset at heights y, rounded at both ends."""
        knots = np.array(self.knots)[::-1]
        at, values = knots[:, 0], knots[:, 1:]
        slope = np.gradient(values, at, axis=0)  # Hermite tangents: smooth curves, smooth shading
        cell = np.clip(np.searchsorted(at, y, side="right") - 1, 0, len(at) - 2)
        step = (at[cell + 1] - at[cell])[..., None]
        t = (y - at[cell])[..., None] / step
        curve: Array = (
            values[cell] * (2 * t**3 - 3 * t**2 + 1)
            + slope[cell] * step * (t**3 - 2 * t**2 + t)
            + values[cell + 1] * (3 * t**2 - 2 * t**3)
            + slope[cell + 1] * step * (t**3 - t**2)
        )
        for end, length in ((y - at[0], self.caps[1]), (at[-1] - y, self.caps[0])):
            near = np.clip(end / length, 0, 1)
            curve[..., :2] *= np.sqrt(1 - (1 - near) ** 2)[..., None]
        return curve


def smooth(value: Array, low: float, high: float) -> Array:
    """0 below `low`, 1 above `high` (or the other way round), without a kink."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _halves(back: int, front: int) -> tuple[Chart, ...]:
    return (Chart(front, 0.0, 180.0), Chart(back, 180.0, 180.0))


def _limbs(side: str) -> list[Tube]:
    left = side == "left"
    sign = 1.0 if left else -1.0
    upper_arm, lower_arm = ((15, 17), (19, 21)) if left else ((16, 18), (20, 22))
    upper_leg, lower_leg = ((8, 10), (12, 14)) if left else ((7, 9), (11, 13))
    hand, foot = (4, 5) if left else (3, 6)
    return [
        Tube(
            f"{side}_arm",
            (
                (0.058, 0.046, 0.052, 0.0),
                (0.0, 0.054, 0.060, 0.0),
                (-0.08, 0.051, 0.056, 0.0),
                (-0.19, 0.044, 0.048, 0.0),
                (-0.285, 0.0385, 0.0405, 0.0),
                (-0.335, 0.041, 0.043, 0.0),
                (-0.435, 0.035, 0.036, 0.0),
                (-0.550, 0.024, 0.028, 0.0),
            ),
            (0.062, 0.02),
            (
                Section(-UPPER_ARM, 0.0, _halves(*upper_arm), 16),
                Section(-0.55, -UPPER_ARM, _halves(*lower_arm), 12),
            ),
            16,
        ),
        Tube(
            f"{side}_hand",
            (
                (0.015, 0.020, 0.026, 0.0),
                (-0.04, 0.020, 0.038, 0.003),
                (-0.09, 0.019, 0.042, 0.002),
                (-0.14, 0.016, 0.036, 0.0),
                (-0.185, 0.012, 0.028, 0.0),
            ),
            (0.012, 0.03),
            # The seam is on the little finger's side; the thumb has the rest of the tile.
            (Section(-0.185, 0.0, (Chart(hand, 0.0, 360.0, (0.0, 0.8)),), 12),),
            12,
        ),
        Tube(
            f"{side}_thumb",
            ((0.012, 0.012, 0.014, 0.0), (-0.04, 0.013, 0.014, 0.0), (-0.082, 0.010, 0.010, 0.0)),
            (0.012, 0.014),
            (Section(-0.082, 0.0, (Chart(hand, 0.0, 360.0, (0.84, 1.0)),), 7),),
            8,
        ),
        Tube(
            f"{side}_leg",
            (
                (0.085, 0.070, 0.080, -0.01),
                (0.0, 0.088, 0.098, -0.008),
                (-0.12, 0.086, 0.094, -0.003),
                (-0.28, 0.070, 0.076, 0.0),
                (-0.39, 0.059, 0.063, 0.004),
                (-0.43, 0.0565, 0.060, 0.003),
                (-0.49, 0.055, 0.061, -0.004),
                (-0.57, 0.055, 0.064, -0.012),
                (-0.69, 0.047, 0.053, -0.008),
                (-0.79, 0.043, 0.048, -0.002),
                (-0.845, 0.043, 0.050, 0.004),
            ),
            (0.07, 0.012),
            (
                Section(-UPPER_LEG, 0.0, _halves(*upper_leg), 18),
                Section(-0.845, -UPPER_LEG, _halves(*lower_leg), 15),
            ),
            20,
        ),
        Tube(
            f"{side}_foot",
            (
                (0.075, 0.034, 0.040, -0.042),
                (0.02, 0.039, 0.054, -0.033),
                (-0.05, 0.043, 0.046, -0.042),
                (-0.12, 0.049, 0.033, -0.055),
                (-0.20, 0.044, 0.026, -0.061),
            ),
            (0.03, 0.045),
            (Section(-0.20, 0.0, (Chart(foot, 0.0, 360.0),), 14),),
            16,
            power=2.3,
        ),
        Tube(
            f"{side}_ear",
            ((0.036, 0.006, 0.013, 0.0), (0.0, 0.008, 0.016, 0.0), (-0.032, 0.005, 0.009, 0.0)),
            (0.014, 0.012),
            (
                Section(
                    -0.032,
                    0.0,
                    (
                        Chart(
                            24 if left else 23,
                            -20.0 * sign,
                            360.0,
                            (0.87, 1.0) if left else (0.0, 0.13),
                        ),
                    ),
                    7,
                ),
            ),
            8,
        ),
    ]


@lru_cache(maxsize=1)
def tubes() -> tuple[Tube, ...]:
    """Every tube of the reference body, in a fixed order."""
    torso = Tube(
        "torso",
        (
            (0.605, 0.052, 0.054, -0.014),
            (0.570, 0.072, 0.064, -0.014),
            (0.545, 0.112, 0.076, -0.012),
            (0.515, 0.160, 0.092, -0.008),
            (0.470, 0.180, 0.108, -0.002),
            (0.380, 0.176, 0.119, 0.004),
            (0.270, 0.158, 0.112, 0.004),
            (0.150, 0.144, 0.100, 0.002),
            (0.070, 0.154, 0.106, -0.006),
            (0.000, 0.168, 0.116, -0.012),
            (-0.060, 0.166, 0.112, -0.012),
            (-0.130, 0.120, 0.090, -0.006),
        ),
        (0.006, 0.05),
        (Section(-0.130, 0.0, _halves(1, 2), 30),),
        28,
        power=2.4,
    )
    head = Tube(
        "head",
        (
            (0.278, 0.070, 0.090, -0.014),
            (0.235, 0.078, 0.100, -0.010),
            (0.180, 0.082, 0.104, -0.004),
            (0.130, 0.078, 0.098, 0.002),
            (0.085, 0.069, 0.086, 0.007),
            (0.055, 0.059, 0.074, 0.010),
            (0.036, 0.051, 0.062, 0.006),
            (0.020, 0.050, 0.053, -0.008),
            (-0.010, 0.050, 0.052, -0.014),
            (-0.060, 0.054, 0.056, -0.016),
        ),
        (0.085, 0.01),
        (
            Section(
                -0.060,
                0.0,
                (Chart(23, -90.0, 180.0, (0.16, 1.0)), Chart(24, 90.0, 180.0, (0.0, 0.84))),
                24,
            ),
        ),
        24,
        power=2.1,
    )
    return (torso, head, *_limbs("left"), *_limbs("right"))


@lru_cache(maxsize=128)
def heights(tube: Tube, index: int) -> tuple[Array, Array]:
    """(y rising on the tube, v) of one section of a tube, finely sampled; v is 0 at its lower end
    and 1 at its upper one, by the arc length of the mean radius."""
    section = tube.sections[index]
    upper = tube.sections[index - 1].bottom if index else tube.top
    turn = np.linspace(0, np.pi, _SAMPLES)  # cosine spacing puts the samples where the caps bend
    y = section.bottom + (upper - section.bottom) * (1 - np.cos(turn)) / 2
    radius = tube.profile(y)[:, :2].mean(axis=1)
    arc = np.concatenate(([0.0], np.cumsum(np.hypot(np.diff(y), np.diff(radius)))))
    return y, arc / arc[-1]


def chart_surface(part: int, v: Array) -> tuple[Array, Array]:
    """(position along the limb, from its joint, up; mean radius there), in meters, of a tile's
    rows v, on the reference body: the scale to paint to."""
    for tube in tubes():
        for index, section in enumerate(tube.sections):
            if any(chart.part == part for chart in section.charts):
                y, at = heights(tube, index)
                place = np.interp(v, at, y)
                return place - section.origin, tube.profile(place)[..., :2].mean(axis=-1)
    raise ValueError(f"part: expected 1..24, got {part}")
