# SPDX-License-Identifier: Apache-2.0
"""Poses that the tests of the skeletons and of the part transforms share."""

from __future__ import annotations

import math

import numpy as np
import torch

from pose_kernels.clip import place_in_frame
from pose_kernels.people.person import POSES
from pose_kernels.people.pose import joints as person
from pose_kernels.skeleton_tables import SKELETONS

# A T pose in pixels, x right, y down, z away; the person faces the viewer. Torso diagonal 50.
T_POSE = {
    "neck": (128, 60, 128),
    "nose": (128, 44, 114),
    "lsho": (148, 60, 128),
    "lelb": (168, 60, 128),
    "lwri": (188, 60, 128),
    "lhip": (138, 100, 128),
    "lkne": (138, 140, 128),
    "lank": (138, 180, 128),
    "rsho": (108, 60, 128),
    "relb": (88, 60, 128),
    "rwri": (68, 60, 128),
    "rhip": (118, 100, 128),
    "rkne": (118, 140, 128),
    "rank": (118, 180, 128),
    "leye": (132, 38, 116),
    "lear": (136, 40, 128),
    "reye": (124, 38, 116),
    "rear": (120, 40, 128),
    "pelv": (128, 100, 128),
}
TORSO, HEAD, LUA, LLA, RUA, RLA, LUL, LLL, RUL, RLL = range(10)
NAMES = SKELETONS["reposing19"].joints


def t_pose(dtype: torch.dtype = torch.float64, **changes: object) -> torch.Tensor:
    """The T pose with some joints elsewhere; None is missing."""
    where = {**T_POSE, **changes}
    rows = [(math.nan,) * 3 if where[name] is None else where[name] for name in NAMES]
    return torch.tensor(rows, dtype=dtype)


def bent_pose(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """A pose in which no limb is straight and every point has a weight."""
    return place_in_frame(torch.from_numpy(person(POSES["lunge"]))).to(dtype)


def rotation(*degrees: float) -> torch.Tensor:
    out = torch.eye(3, dtype=torch.float64)
    for axis, angle in enumerate(degrees):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = torch.eye(3, dtype=torch.float64)
        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
        out = turn @ out
    return out


FRAMES = ("stand", "walk", "wave", "turned", "back", "lunge")


def metric() -> np.ndarray:
    """(6, 19, 3) meters, y up: the built-in person, walking away from the origin."""
    poses = np.stack([person(POSES[name]) for name in FRAMES]).astype(np.float32)
    return poses + np.arange(6, dtype=np.float32)[:, None, None] * np.float32([0.5, 0.1, -2.0])


def placed_poses(*names: str) -> torch.Tensor:
    return place_in_frame(torch.stack([torch.from_numpy(person(POSES[n])) for n in names]).float())
