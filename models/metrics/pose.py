# SPDX-License-Identifier: Apache-2.0
"""Is the generated person in the wanted pose? Joints that an estimator found, against the truth.

The estimators are the caller's: a 2D detector for PCKh, a 3D estimator for the AUC.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..descriptors import known_joints

_HEAD_BOX = (0, 1, 14, 15, 16, 17)

# Of the 18 OpenPose joints.
GROUPS = {
    "all": tuple(range(18)),
    "head": (0, 1, 14, 15, 16, 17),
    "shoulders": (2, 5),
    "elbows": (3, 6),
    "wrists": (4, 7),
    "hips": (8, 11),
    "knees": (9, 12),
    "ankles": (10, 13),
}

AUC_THRESHOLDS = tuple(range(0, 151, 5))  # mm


def pckh(predicted: Tensor, truth: Tensor, group: str = "all") -> tuple[Tensor, Tensor]:
    """Share of joints that are found at their place, and how many there are; of each picture.

    A joint is right if it is off by less than half the head's width in x and half its height in y.
    The head is the tight box of nose, neck, eyes and ears of the truth; a picture with fewer than
    two of them has no joints to count. A joint that the prediction lacks is wrong. The score of a
    set is the mean of the shares weighted by the counts.

    Args:
        predicted, truth: (N, 18, 2), (x, y) in pixels, OpenPose's order, missing (-1, -1).
        group: a name of `GROUPS`.

    Returns:
        share (N,) float64, NaN where there is nothing to count; count (N,) float64.

    Source: Zhu et al., "Progressive Pose Attention Transfer for Person Image Generation", 2019.

    Raises ValueError for other shapes or groups.
    """
    if group not in GROUPS:
        raise ValueError(f"group must be one of {', '.join(GROUPS)}, got {group!r}")
    for name, joints in (("predicted", predicted), ("truth", truth)):
        if joints.dim() != 3 or joints.shape[1:] != (18, 2):
            raise ValueError(f"{name} must be (N, 18, 2), got {tuple(joints.shape)}")
    if predicted.shape != truth.shape:
        raise ValueError(f"predicted and truth must be as many, got {len(predicted)}, {len(truth)}")
    predicted, truth = predicted.double(), truth.double()
    known = known_joints(truth)
    head, in_head = truth[:, _HEAD_BOX], known[:, _HEAD_BOX, None]
    low = head.masked_fill(~in_head, torch.inf).amin(1)
    high = head.masked_fill(~in_head, -torch.inf).amax(1)
    counted = known & (in_head.sum(1) >= 2)
    near = ((predicted - truth).abs() < 0.5 * (high - low)[:, None]).all(-1)
    right = near & known_joints(predicted) & counted
    count = counted[:, GROUPS[group]].sum(1).double()
    return right[:, GROUPS[group]].sum(1) / count, count


def pose_auc(predicted: Tensor, truth: Tensor, root: int = 18) -> Tensor:
    """Area (N,) float64 under the curve of joints right to within 0, 5, ... 150 mm.

    The mean over the 31 thresholds t of the share of joints that are off by less than t; a joint
    without any error is right at 0 as well, so that the truth scores 1. Both poses are moved so
    that their roots coincide, and the root is not counted.

    Args:
        predicted, truth: (N, J, 3) in mm. NaN: a joint missing in the truth is not counted, one
            missing in the prediction is wrong.
        root: index of the root joint, the pelvis of "reposing19". Where it is missing in the truth
            the result is NaN, where in the prediction, 0.

    Source: "Reposing Humans by Warping 3D Features", 2020, by the thresholds of MPI-INF-3DHP
    (Mehta et al. 2017).

    Raises ValueError for other shapes.
    """
    if truth.dim() != 3 or truth.shape[2] != 3 or not 0 <= root < truth.shape[1]:
        raise ValueError(f"truth must be (N, J, 3) with J above {root}, got {tuple(truth.shape)}")
    if predicted.shape != truth.shape:
        raise ValueError(
            f"predicted must be as truth, {tuple(truth.shape)}, got {tuple(predicted.shape)}"
        )
    predicted, truth = predicted.double(), truth.double()
    others = [joint for joint in range(truth.shape[1]) if joint != root]
    away = [pose[:, others] - pose[:, root, None] for pose in (predicted, truth)]
    counted = away[1].isfinite().all(-1)
    error = torch.linalg.vector_norm(away[0] - away[1], dim=-1)  # NaN is below no threshold
    limits = torch.tensor(AUC_THRESHOLDS, dtype=error.dtype, device=error.device)
    right = ((error[..., None] < limits) | (error[..., None] == 0)).double().mean(-1)
    return (right * counted).sum(1) / counted.sum(1)
