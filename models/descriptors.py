# SPDX-License-Identifier: Apache-2.0
"""Points of a 2D pose at which details are compared: joints, and points between them."""

from __future__ import annotations

import torch
from torch import Tensor

# The skeleton of the 18 OpenPose joints without the face: neck to shoulders, arms, neck to hips,
# legs, neck to nose.
LIMBS = (
    (1, 2),
    (1, 5),
    (2, 3),
    (3, 4),
    (5, 6),
    (6, 7),
    (1, 8),
    (8, 9),
    (9, 10),
    (1, 11),
    (11, 12),
    (12, 13),
    (1, 0),
)

# How many points each limb gives, by the number of points in all.
_BETWEEN = {0: (), 18: (), 31: (1 / 2,), 44: (1 / 3, 2 / 3)}


def known_joints(joints: Tensor) -> Tensor:
    """Which of the joints (N, J, 2) there are, (N, J) bool; missing are (-1, -1) and non-finite."""
    return joints.isfinite().all(-1) & ~(joints == -1).all(-1)


def local_descriptors(joints: Tensor, count: int = 44) -> Tensor:
    """Positions (N, count, 2), (x, y) in pixels, of the local descriptors; NaN where missing.

    joints: (N, 18, 2) in OpenPose's order; missing are (-1, -1). count: 0, 18 (the joints), 31
    (and the middle of each of the 13 limbs) or 44 (the joints and two points that divide each limb
    in three). A point of a limb is there if both its ends are.

    Source: "Pose-Guided High-Resolution Appearance Transfer via Progressive Training", 2020, gives
    the counts; which points they are is our reading.

    Raises ValueError for another count or shape.
    """
    if count not in _BETWEEN:
        raise ValueError(f"count must be one of {', '.join(map(str, _BETWEEN))}, got {count}")
    if joints.dim() != 3 or joints.shape[1:] != (18, 2):
        raise ValueError(f"joints must be (N, 18, 2), got {tuple(joints.shape)}")
    if count == 0:
        return joints[:, :0]
    joints = joints.masked_fill(~known_joints(joints)[..., None], torch.nan)
    start, end = (joints[:, [limb[side] for limb in LIMBS]] for side in (0, 1))
    between = [start + share * (end - start) for share in _BETWEEN[count]]
    return torch.cat([joints, *between], 1)
