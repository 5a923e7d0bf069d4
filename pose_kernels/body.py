# SPDX-License-Identifier: Apache-2.0
"""Shape of the built-in person: a posed skeleton dressed in lofted limbs.

Every limb is a *loft*: an axis with a half-width, a half-depth and an offset that vary smoothly
along it. A limb is star-shaped around its axis, so (angle around the axis, arc length along it)
names each point of its surface exactly once: that pair is the chart coordinate (u, v), and charts
are injective by construction.

Frame of the body and of each bone: x to the person's left, y up, z out of the chest, meters. In a
tile, v = 1 is the end of the limb nearer to the trunk (top of head, shoulder, hip, heel) and u
grows to the right as seen from outside, so a tile shows its chart upright and unmirrored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .skeleton_tables import SKELETONS

Array = NDArray[np.float64]

SAMPLES = 192  # of a loft's profile; 3 mm apart on the longest limb


@dataclass(frozen=True)
class Chart:
    """The angles of a loft, in degrees from +z toward +x, that one tile or a strip of it holds."""

    part: int
    center: float
    span: float
    u: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Loft:
    """Knots are (y, half-width along x, half-depth along z, offset along z), from the top down."""

    bone: str
    knots: tuple[tuple[float, float, float, float], ...]
    caps: tuple[float, float]  # length of the rounding at the upper and at the lower end
    charts: tuple[Chart, ...]
    power: float = 2.0  # 2 is an ellipse, more is boxier


@dataclass(frozen=True)
class Arm:
    """Degrees. swing: forward; raise_: sideways, away from the body; twist: outward, about the
    upper arm; elbow: flexion; wrist: bend toward the palm."""

    swing: float = 0.0
    raise_: float = 12.0
    twist: float = 0.0
    elbow: float = 10.0
    wrist: float = 0.0


@dataclass(frozen=True)
class Leg:
    """Degrees. swing: forward; spread: sideways; twist: toes outward; knee: flexion; ankle: toes
    up."""

    swing: float = 0.0
    spread: float = 4.0
    twist: float = 12.0
    knee: float = 0.0
    ankle: float = 0.0


@dataclass(frozen=True)
class Pose:
    """Degrees. turn: about the vertical, positive turns the chest toward the picture's right;
    lean: forward; tilt: toward the person's left; head_turn, head_nod relative to the torso."""

    turn: float = 0.0
    lean: float = 0.0
    tilt: float = 0.0
    head_turn: float = 0.0
    head_nod: float = 0.0
    left_arm: Arm = Arm()
    right_arm: Arm = Arm()
    left_leg: Leg = Leg()
    right_leg: Leg = Leg()


def _halves(back: int, front: int) -> tuple[Chart, ...]:
    return (Chart(front, 0.0, 180.0), Chart(back, 180.0, 180.0))


def _arm_and_leg(side: str) -> list[Loft]:
    left = side == "left"
    sign = 1.0 if left else -1.0
    upper_arm, lower_arm = ((15, 17), (19, 21)) if left else ((16, 18), (20, 22))
    upper_leg, lower_leg = ((8, 10), (12, 14)) if left else ((7, 9), (11, 13))
    hand, foot = (4, 5) if left else (3, 6)
    return [
        Loft(
            f"{side}_upper_arm",
            (
                (0.058, 0.046, 0.052, 0.0),
                (0.0, 0.054, 0.060, 0.0),
                (-0.08, 0.051, 0.056, 0.0),
                (-0.19, 0.045, 0.049, 0.0),
                (-0.325, 0.038, 0.040, 0.0),
            ),
            (0.062, 0.04),
            _halves(*upper_arm),
        ),
        Loft(
            f"{side}_lower_arm",
            (
                (0.035, 0.038, 0.040, 0.0),
                (-0.05, 0.042, 0.043, 0.0),
                (-0.15, 0.035, 0.036, 0.0),
                (-0.265, 0.024, 0.028, 0.0),
            ),
            (0.04, 0.02),
            _halves(*lower_arm),
        ),
        Loft(
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
            (Chart(hand, 0.0, 360.0, (0.0, 0.8)),),
        ),
        Loft(
            f"{side}_thumb",
            ((0.012, 0.012, 0.014, 0.0), (-0.04, 0.013, 0.014, 0.0), (-0.082, 0.010, 0.010, 0.0)),
            (0.012, 0.014),
            (Chart(hand, 0.0, 360.0, (0.84, 1.0)),),
        ),
        Loft(
            f"{side}_upper_leg",
            (
                (0.085, 0.070, 0.080, -0.01),
                (0.0, 0.088, 0.098, -0.008),
                (-0.12, 0.086, 0.094, -0.003),
                (-0.28, 0.070, 0.076, 0.0),
                (-0.40, 0.060, 0.063, 0.004),
                (-0.48, 0.056, 0.058, 0.002),
            ),
            (0.07, 0.05),
            _halves(*upper_leg),
        ),
        Loft(
            f"{side}_lower_leg",
            (
                (0.05, 0.056, 0.058, 0.002),
                (-0.06, 0.055, 0.061, -0.004),
                (-0.14, 0.055, 0.064, -0.012),
                (-0.26, 0.047, 0.053, -0.008),
                (-0.36, 0.043, 0.048, -0.002),
                (-0.415, 0.043, 0.050, 0.004),
            ),
            (0.05, 0.012),
            _halves(*lower_leg),
        ),
        Loft(
            f"{side}_foot",
            (
                (0.075, 0.034, 0.040, -0.042),
                (0.02, 0.039, 0.054, -0.033),
                (-0.05, 0.043, 0.046, -0.042),
                (-0.12, 0.049, 0.033, -0.055),
                (-0.20, 0.044, 0.026, -0.061),
            ),
            (0.03, 0.045),
            (Chart(foot, 0.0, 360.0),),
            power=2.3,
        ),
        Loft(
            f"{side}_ear",
            ((0.036, 0.006, 0.013, 0.0), (0.0, 0.008, 0.016, 0.0), (-0.032, 0.005, 0.009, 0.0)),
            (0.014, 0.012),
            (Chart(24 if left else 23, -20.0 * sign, 360.0, (0.87, 1.0) if left else (0.0, 0.13)),),
        ),
    ]


@lru_cache(maxsize=1)
def lofts() -> tuple[Loft, ...]:
    """Every limb of the body, in a fixed order."""
    torso = Loft(
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
        _halves(1, 2),
        power=2.4,
    )
    head = Loft(
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
        (Chart(23, -90.0, 180.0, (0.16, 1.0)), Chart(24, 90.0, 180.0, (0.0, 0.84))),
        power=2.1,
    )
    return (torso, head, *_arm_and_leg("left"), *_arm_and_leg("right"))


@lru_cache(maxsize=64)
def profile(loft: Loft) -> tuple[Array, Array]:
    """(y grid rising, columns half-width, half-depth, offset, v), smooth, rounded at both ends."""
    knots = np.array(loft.knots)[::-1]
    y, values = knots[:, 0], knots[:, 1:]
    slope = np.gradient(values, y, axis=0)  # Hermite tangents: a smooth curve has smooth shading
    # Cosine spacing puts the samples where the caps bend.
    grid = y[0] + (y[-1] - y[0]) * (1 - np.cos(np.linspace(0, np.pi, SAMPLES))) / 2
    cell = np.clip(np.searchsorted(y, grid, side="right") - 1, 0, len(y) - 2)
    step = (y[cell + 1] - y[cell])[:, None]
    t = ((grid - y[cell])[:, None]) / step
    curve = (
        values[cell] * (2 * t**3 - 3 * t**2 + 1)
        + slope[cell] * step * (t**3 - 2 * t**2 + t)
        + values[cell + 1] * (3 * t**2 - 2 * t**3)
        + slope[cell + 1] * step * (t**3 - t**2)
    )
    for end, length in ((grid - y[0], loft.caps[1]), (y[-1] - grid, loft.caps[0])):
        round_ = np.sqrt(np.clip(1 - (1 - np.minimum(end / length, 1)) ** 2, 0, None))
        curve[:, :2] *= np.maximum(round_, 1e-3)[:, None]
    mean_radius = curve[:, :2].mean(axis=1)
    arc = np.concatenate(([0.0], np.cumsum(np.hypot(np.diff(grid), np.diff(mean_radius)))))
    return grid, np.column_stack((curve, arc / arc[-1]))


def chart_surface(part: int, v: Array) -> tuple[Array, Array]:
    """(position on the limb's axis, mean radius there), in meters, of a tile's rows v: the scale
    to paint to."""
    for loft in lofts():
        if any(chart.part == part for chart in loft.charts):
            grid, curve = profile(loft)
            return np.interp(v, curve[:, 3], grid), np.interp(
                v, curve[:, 3], curve[:, :2].mean(axis=1)
            )
    raise ValueError(f"part: expected 1..24, got {part}")


def rotation_about(axis: int, degrees: float) -> Array:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def skeleton(pose: Pose) -> dict[str, tuple[Array, Array]]:
    """Bone name -> (rotation (3, 3) bone to world, origin (3,)).

    The soles are on y = 0, the pelvis at x = z = 0.
    """
    root = rotation_about(1, pose.turn)
    pelvis = np.zeros(3)
    torso = root @ rotation_about(2, -pose.tilt) @ rotation_about(0, pose.lean)
    head = torso @ rotation_about(1, pose.head_turn) @ rotation_about(0, pose.head_nod)
    bones = {"torso": (torso, pelvis)}
    skull = pelvis + torso @ np.array([0.0, 0.595, -0.004])
    bones["head"] = (head, skull)
    soles = []
    for side, sign, arm, leg in (
        ("left", 1.0, pose.left_arm, pose.left_leg),
        ("right", -1.0, pose.right_arm, pose.right_leg),
    ):
        ear = head @ rotation_about(1, 20.0 * sign)
        bones[f"{side}_ear"] = (ear, skull + head @ np.array([0.083 * sign, 0.125, -0.012]))
        shoulder = pelvis + torso @ np.array([0.183 * sign, 0.466, -0.006])
        upper = torso @ rotation_about(0, -arm.swing) @ rotation_about(2, sign * arm.raise_)
        upper = upper @ rotation_about(1, sign * arm.twist)
        bones[f"{side}_upper_arm"] = (upper, shoulder)
        elbow = shoulder + upper @ np.array([0.0, -0.285, 0.0])
        lower = upper @ rotation_about(0, -arm.elbow)
        bones[f"{side}_lower_arm"] = (lower, elbow)
        wrist = elbow + lower @ np.array([0.0, -0.25, 0.0])
        hand = lower @ rotation_about(2, -sign * arm.wrist)
        bones[f"{side}_hand"] = (hand, wrist)
        thumb = wrist + hand @ np.array([-0.006 * sign, -0.035, 0.028])
        bones[f"{side}_thumb"] = (hand @ rotation_about(0, -32.0), thumb)

        hip = pelvis + root @ np.array([0.092 * sign, -0.025, 0.0])
        upper = root @ rotation_about(0, -leg.swing) @ rotation_about(2, sign * leg.spread)
        upper = upper @ rotation_about(1, sign * leg.twist)
        bones[f"{side}_upper_leg"] = (upper, hip)
        knee = hip + upper @ np.array([0.0, -0.43, 0.0])
        lower = upper @ rotation_about(0, leg.knee)
        bones[f"{side}_lower_leg"] = (lower, knee)
        ankle = knee + lower @ np.array([0.0, -0.405, 0.0])
        # A foot's axis runs from heel to toes: its loft frame is (x, -z, y) of the bone's.
        bone = lower @ rotation_about(2, -sign * leg.spread) @ rotation_about(0, -leg.ankle)
        foot = bone @ np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
        bones[f"{side}_foot"] = (foot, ankle)
        soles += [ankle + foot @ np.array([0.0, y, -0.087]) for y in (0.06, -0.18)]
    lift = np.array([0.0, -min(point[1] for point in soles), 0.0])
    return {name: (rotation, origin + lift) for name, (rotation, origin) in bones.items()}


def joints(pose: Pose) -> Array:
    """The 19 joints (19, 3) of the skeleton "reposing19" in meters, in the frame of `skeleton`."""
    bones = skeleton(pose)
    origin = {name: bone[1] for name, bone in bones.items()}
    turn, skull = bones["head"]
    found = {
        "neck": (origin["left_upper_arm"] + origin["right_upper_arm"]) / 2,
        "nose": skull + turn @ np.array([0.0, 0.095, 0.108]),
        "pelv": bones["torso"][1],
    }
    for side, sign in (("left", 1.0), ("right", -1.0)):
        short = side[0]
        found[f"{short}eye"] = skull + turn @ np.array([0.031 * sign, 0.135, 0.088])
        found[f"{short}ear"] = origin[f"{side}_ear"]
        for joint, bone in (
            ("sho", "upper_arm"),
            ("elb", "lower_arm"),
            ("wri", "hand"),
            ("hip", "upper_leg"),
            ("kne", "lower_leg"),
            ("ank", "foot"),
        ):
            found[short + joint] = origin[f"{side}_{bone}"]
    return np.stack([found[name] for name in SKELETONS["reposing19"].joints])
