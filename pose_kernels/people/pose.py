# SPDX-License-Identifier: Apache-2.0
"""Joint angles, and where they put the bones and joints of a body."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..skeleton_tables import SKELETONS
from .body import HIP, LOWER_ARM, LOWER_LEG, SKULL, SPINE, UPPER_ARM, UPPER_LEG, Array
from .shape import Shape

_SIDES = (("left", 1.0), ("right", -1.0))
_OF_SIDE = "clavicle shoulder upper_arm lower_arm hand thumb upper_leg lower_leg foot ear"
BONES = (
    *("pelvis", "chest", "head"),
    *(f"{side}_{bone}" for side, _ in _SIDES for bone in _OF_SIDE.split()),
)
HIP_WIDTH = 0.092  # of a hip joint from the middle
_SOLE = 0.087  # below the ankle


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
    lean: forward; tilt: toward the person's left; bend: of the chest about the vertical, like
    turn; head_turn, head_nod relative to the chest."""

    turn: float = 0.0
    lean: float = 0.0
    tilt: float = 0.0
    bend: float = 0.0
    head_turn: float = 0.0
    head_nod: float = 0.0
    left_arm: Arm = Arm()
    right_arm: Arm = Arm()
    left_leg: Leg = Leg()
    right_leg: Leg = Leg()


def rotation_about(axis: int, degrees: float) -> Array:
    """(3, 3), counterclockwise about x, y or z (0, 1, 2) seen from its tip."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    if axis == 0:
        return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])
    if axis == 1:
        return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def shoulder(shape: Shape, sign: float) -> Array:
    """In the chest's frame."""
    return np.array([0.183 * sign * shape.shoulders, 0.466 * shape.torso - SPINE, -0.006])


@lru_cache(maxsize=64)
def bones(pose: Pose, shape: Shape | None = None) -> dict[str, tuple[Array, Array]]:
    """Bone name -> (rotation (3, 3) bone to world, origin (3,)), for all of `BONES`.

    Meters, but of a body of reference height: `Shape.height` scales it all afterwards. The lowest
    sole is on y = 0, the pelvis at x = z = 0. The arrays are shared by all callers.
    """
    shape = shape or Shape()
    root = rotation_about(1, pose.turn)
    pelvis = root @ rotation_about(2, -0.3 * pose.tilt) @ rotation_about(0, 0.35 * pose.lean)
    chest = root @ rotation_about(1, pose.bend)
    chest = chest @ rotation_about(2, -pose.tilt) @ rotation_about(0, pose.lean)
    spine = pelvis @ np.array([0.0, SPINE, 0.0])
    head = chest @ rotation_about(1, pose.head_turn) @ rotation_about(0, pose.head_nod)
    skull = spine + chest @ np.array([0.0, SKULL * shape.torso - SPINE, -0.004])
    found = {"pelvis": (pelvis, np.zeros(3)), "chest": (chest, spine), "head": (head, skull)}
    soles = []
    for side, sign in _SIDES:
        arm, leg = getattr(pose, f"{side}_arm"), getattr(pose, f"{side}_leg")
        ear = head @ rotation_about(1, 20.0 * sign)
        at = shape.head * np.array([0.083 * sign, 0.125, -0.012])
        found[f"{side}_ear"] = (ear, skull + head @ at)

        turned = rotation_about(0, -arm.swing) @ rotation_about(2, sign * arm.raise_)
        # An arm that rises takes its shoulder along: the collarbone turns by a quarter.
        height = np.degrees(np.arccos(np.clip(turned[1, 1], -1, 1)))
        collar = chest @ rotation_about(2, sign * 0.28 * max(height - 35.0, 0.0))
        inner = np.array([0.03 * sign, 0.47 * shape.torso - SPINE, 0.0])
        found[f"{side}_clavicle"] = (collar, spine + chest @ inner)
        joint = spine + chest @ inner + collar @ (shoulder(shape, sign) - inner)
        upper = chest @ turned @ rotation_about(1, sign * arm.twist)
        found[f"{side}_upper_arm"] = (upper, joint)
        # The flesh over the joint follows half of the way.
        half = rotation_about(0, -arm.swing / 2) @ rotation_about(2, sign * arm.raise_ / 2)
        half = chest @ half @ rotation_about(1, sign * arm.twist / 2)
        found[f"{side}_shoulder"] = (half, joint)
        elbow = joint + upper @ np.array([0.0, -UPPER_ARM * shape.arms, 0.0])
        lower = upper @ rotation_about(0, -arm.elbow)
        found[f"{side}_lower_arm"] = (lower, elbow)
        wrist = elbow + lower @ np.array([0.0, -LOWER_ARM * shape.arms, 0.0])
        hand = lower @ rotation_about(2, -sign * arm.wrist)
        found[f"{side}_hand"] = (hand, wrist)
        thumb = wrist + hand @ np.array([-0.006 * sign, -0.035, 0.028])
        found[f"{side}_thumb"] = (hand @ rotation_about(0, -32.0), thumb)

        hip = pelvis @ np.array([HIP_WIDTH * sign * shape.hips, HIP, 0.0])
        upper = root @ rotation_about(0, -leg.swing) @ rotation_about(2, sign * leg.spread)
        upper = upper @ rotation_about(1, sign * leg.twist)
        found[f"{side}_upper_leg"] = (upper, hip)
        knee = hip + upper @ np.array([0.0, -UPPER_LEG * shape.legs, 0.0])
        lower = upper @ rotation_about(0, leg.knee)
        found[f"{side}_lower_leg"] = (lower, knee)
        ankle = knee + lower @ np.array([0.0, -LOWER_LEG * shape.legs, 0.0])
        # A foot's axis runs from heel to toes: its tube's frame is (x, -z, y) of the bone's.
        bone = lower @ rotation_about(2, -sign * leg.spread) @ rotation_about(0, -leg.ankle)
        foot = bone @ np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
        found[f"{side}_foot"] = (foot, ankle)
        soles += [ankle + foot @ np.array([0.0, y, -_SOLE]) for y in (0.06, -0.18)]
    lift = np.array([0.0, -min(point[1] for point in soles), 0.0])
    return {name: (rotation, origin + lift) for name, (rotation, origin) in found.items()}


def joints(pose: Pose, shape: Shape | None = None) -> Array:
    """The 19 joints (19, 3) of the skeleton "reposing19" in meters, in the frame of `bones`."""
    shape = shape or Shape()
    return joints_of(bones(pose, shape), shape)


def joints_of(placed: dict[str, tuple[Array, Array]], shape: Shape) -> Array:
    """`joints` of bones that are there already."""
    origin = {name: bone[1] for name, bone in placed.items()}
    turn, skull = placed["head"]
    found = {
        "neck": (origin["left_upper_arm"] + origin["right_upper_arm"]) / 2,
        "nose": skull + turn @ (shape.head * np.array([0.0, 0.095, 0.108])),
        "pelv": origin["pelvis"],
    }
    for side, sign in _SIDES:
        short = side[0]
        found[f"{short}eye"] = skull + turn @ (shape.head * np.array([0.031 * sign, 0.135, 0.088]))
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
    names = SKELETONS["reposing19"].joints
    return np.stack([found[name] for name in names]) * shape.height
