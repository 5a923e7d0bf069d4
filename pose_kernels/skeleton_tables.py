# SPDX-License-Identifier: Apache-2.0
"""Named skeletons: which of their joints, or which formula, give the 18 canonical joints.

===========  ==  ================================================================================
name          J  joints
===========  ==  ================================================================================
reposing19   19  those of "Reposing Humans by Warping 3D Features"; its pelvis is not needed
h36m17       17  Human3.6M as commonly reduced: 0 pelvis, 1..3 right leg, 4..6 left leg, 7 spine,
                 8 thorax, 9 neck/nose, 10 head, 11..13 left arm, 14..16 right arm
coco18       18  OpenPose's COCO order, lifted to 3D
mediapipe33  33  MediaPipe Pose (BlazePose) landmarks
cmu38        38  the CMU Graphics Lab motion capture skeleton, with its end sites
===========  ==  ================================================================================

Neck: mediapipe33 and cmu38 have the point between the shoulders, as OpenPose defines it (the
"Neck" of CMU lies at the top of the spine, below the shoulders); h36m17 has the thorax.

Face: h36m17 and cmu38 have none. It is placed in proportion to h, the distance from the neck to
the point c between two joints of the head (h36m17: neck/nose and head; cmu38: Head and Head_End),
about where the ears are. `up` is along the head (from thorax to head; from Head to Head_End),
`left` along the shoulders and normal to `up`, `front = left x up`:

    ears = c +- 0.42 h left      eyes = c +- 0.18 h left + 0.10 h up + 0.45 h front
    nose = c - 0.12 h up + 0.60 h front

So such a head nods and tilts with its own joints and turns with the shoulders. The cross product
needs a right-handed frame, which both x right, y down, z away and y up, z toward the viewer are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

# The canonical joints, in this order: the first 18 of Reposing's 19.
JOINTS = tuple(
    (
        "neck nose lsho lelb lwri lhip lkne lank rsho relb rwri rhip rkne rank leye lear reye rear"
    ).split()
)
# left, up, front in units of the distance from the neck to the point between the ears
_FACE = {
    "lear": (0.42, 0.0, 0.0),
    "rear": (-0.42, 0.0, 0.0),
    "leye": (0.18, 0.10, 0.45),
    "reye": (-0.18, 0.10, 0.45),
    "nose": (0.0, -0.12, 0.60),
}


class Head(NamedTuple):
    """Joints by which a face is placed where a skeleton has none."""

    center: tuple[str, ...]  # the point between the ears is their mean
    up: tuple[str, str]  # from, to


@dataclass(frozen=True)
class Skeleton:
    """What :func:`skeleton.body_parts` must know of a list of joints.

    joints: names in the order of the tensor. canonical: for each of ``JOINTS`` the joints whose
    mean it is; without an entry, the joint of its own name. head: places nose, eyes and ears from
    other joints; None where they are among the joints.
    """

    name: str
    joints: tuple[str, ...]
    canonical: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    head: Head | None = None

    def __post_init__(self) -> None:
        derived = _FACE if self.head else {}
        used = [n for j in JOINTS if j not in derived for n in self.canonical.get(j, (j,))]
        used += [*self.head.center, *self.head.up] if self.head else []
        for name in used:
            if name not in self.joints:
                raise ValueError(f"skeleton {self.name!r} has no joint {name!r}")

    def canonical_joints(self, joints: Tensor) -> tuple[Tensor, Tensor]:
        """(..., J, 3) -> canonical joints (..., 18, 3), 0 where missing, and known (..., 18) bool.

        A joint is missing that is not finite or needs one that is not.
        """
        present = joints.isfinite().all(-1)
        clean = torch.where(present[..., None], joints, 0)

        def mean(names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
            index = [self.joints.index(name) for name in names]
            return clean[..., index, :].mean(-2), present[..., index].all(-1)

        found = {
            name: mean(self.canonical.get(name, (name,)))
            for name in JOINTS
            if not (self.head and name in _FACE)
        }
        if self.head is not None:
            (low, has_low), (high, has_high) = (mean((name,)) for name in self.head.up)
            center, has_center = mean(self.head.center)
            (neck, has_neck), (lsho, has_l), (rsho, has_r) = (
                found[name] for name in ("neck", "lsho", "rsho")
            )
            known = has_low & has_high & has_center & has_neck & has_l & has_r
            up = _unit(high - low)
            across = lsho - rsho
            left = _unit(across - (across * up).sum(-1, keepdim=True) * up)
            front = torch.linalg.cross(left, up, dim=-1)
            h = torch.linalg.vector_norm(center - neck, dim=-1, keepdim=True)
            for name, (x, y, z) in _FACE.items():
                found[name] = (center + h * (x * left + y * up + z * front), known)
        where = torch.stack([found[name][0] for name in JOINTS], -2)
        known = torch.stack([found[name][1] for name in JOINTS], -1)
        return torch.where(known[..., None], where, 0), known


def _unit(vector: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    return vector / torch.where(length > 0, length, 1)


def _sides(**names: str) -> dict[str, tuple[str, ...]]:
    """{"lsho": ("LeftArm",), "rsho": ("RightArm",), ...} from sho="{}Arm"."""
    return {
        side + joint: (name.format(word),)
        for joint, name in names.items()
        for side, word in (("l", "Left"), ("r", "Right"))
    }


_SHOULDERS = ("lsho", "rsho")
_CMU = _sides(
    sho="{}Arm",
    elb="{}ForeArm",
    wri="{}Hand",
    hip="{}UpLeg",
    kne="{}Leg",
    ank="{}Foot",
)

SKELETONS = {
    skeleton.name: skeleton
    for skeleton in (
        Skeleton("reposing19", (*JOINTS, "pelv")),
        Skeleton(
            "h36m17",
            tuple(
                "pelv rhip rkne rank lhip lkne lank spine thorax jaw head "
                "lsho lelb lwri rsho relb rwri".split()
            ),
            {"neck": ("thorax",)},
            Head(("jaw", "head"), ("thorax", "head")),
        ),
        Skeleton(
            "coco18",
            tuple(
                "nose neck rsho relb rwri lsho lelb lwri rhip rkne rank lhip lkne lank "
                "reye leye rear lear".split()
            ),
        ),
        Skeleton(
            "mediapipe33",
            tuple(
                "nose leye_inner leye leye_outer reye_inner reye reye_outer lear rear "
                "lmouth rmouth lsho rsho lelb relb lwri rwri lpinky rpinky lindex rindex "
                "lthumb rthumb lhip rhip lkne rkne lank rank lheel rheel ltoe rtoe".split()
            ),
            {"neck": _SHOULDERS},
        ),
        Skeleton(
            "cmu38",
            tuple(
                "Hips LHipJoint LeftUpLeg LeftLeg LeftFoot LeftToeBase LeftToeBase_End "
                "RHipJoint RightUpLeg RightLeg RightFoot RightToeBase RightToeBase_End "
                "LowerBack Spine Spine1 Neck Neck1 Head Head_End "
                "LeftShoulder LeftArm LeftForeArm LeftHand LeftFingerBase LFingers LFingers_End "
                "LThumb LThumb_End "
                "RightShoulder RightArm RightForeArm RightHand RightFingerBase RFingers "
                "RFingers_End RThumb RThumb_End".split()
            ),
            {"neck": ("LeftArm", "RightArm"), **_CMU},
            Head(("Head", "Head_End"), ("Head", "Head_End")),
        ),
    )
}


def skeleton_named(name: str) -> Skeleton:
    """The skeleton of that name; ValueError that lists the names otherwise."""
    if name not in SKELETONS:
        raise ValueError(f"skeleton must be one of {', '.join(SKELETONS)}, got {name!r}")
    return SKELETONS[name]
