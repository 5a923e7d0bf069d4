# SPDX-License-Identifier: Apache-2.0
"""A procedurally drawn person with exact DensePose-style part and uv maps, in any pose.

    image, part, uv = render_person("wave", identity=3, size=256)

Each pixel of the body is the bilinear sample of one true atlas at its own (part, u, v), times a
gray Lambert shade: the true picture of any other pose is known exactly, which makes the person a
test bed for texture transfer. Part labels are DensePose's 24: 1 back of the torso, 2 front; 3, 4
right, left hand; 5, 6 left, right foot; 7, 9 right upper leg, back and front; 8, 10 left; 11, 13
and 12, 14 lower legs; 15, 17 left upper arm, back and front; 16, 18 right; 19, 21 and 20, 22 lower
arms; 23, 24 right and left half of the head. u runs around the limb inside its part's chart, v
along the limb (see `body.py`); the charts are not SMPL's.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import wardrobe
from .camera import Camera, Light
from .mesh import Body, body, topology
from .pose import Arm, Leg, Pose, joints
from .render import render
from .scene import shadows, studio
from .shape import Shape
from .volume import Volume

ATLAS_SIDE = 256  # texels along a tile of the true atlas
# Shade of a surface that faces away from the light, and of one that faces it.
SHADE_RANGE = (0.64, 1.0)
_LIGHT = Light((-0.38, 0.50, 0.78), (0.64,) * 3, (0.36,) * 3)

POSES: dict[str, Pose] = {
    "stand": Pose(
        turn=16,
        left_arm=Arm(raise_=17, elbow=14),
        right_arm=Arm(raise_=17, twist=-15, elbow=14),
        left_leg=Leg(spread=5, twist=22),
        right_leg=Leg(spread=5, twist=30),
    ),
    "walk": Pose(
        turn=38,
        lean=4,
        head_turn=-12,
        left_arm=Arm(swing=-28, raise_=9, elbow=18),
        right_arm=Arm(swing=30, raise_=9, elbow=34),
        left_leg=Leg(swing=25, spread=2, twist=8, knee=6, ankle=14),
        right_leg=Leg(swing=-18, spread=2, twist=8, knee=26, ankle=-10),
    ),
    "wave": Pose(
        turn=12,
        tilt=-3,
        head_turn=-6,
        left_arm=Arm(raise_=20, elbow=30),
        right_arm=Arm(raise_=104, twist=92, elbow=58),
        left_leg=Leg(spread=8, twist=24),
        right_leg=Leg(spread=3, twist=20),
    ),
    "turned": Pose(
        turn=62,
        head_turn=-22,
        left_arm=Arm(swing=14, raise_=10, elbow=35),
        right_arm=Arm(swing=-14, raise_=12, elbow=12),
        left_leg=Leg(swing=5, spread=4, twist=10, knee=2),
        right_leg=Leg(swing=-7, spread=4, twist=10, knee=5),
    ),
    "back": Pose(
        turn=172,
        left_arm=Arm(raise_=16, elbow=14),
        right_arm=Arm(raise_=16, elbow=14),
        left_leg=Leg(spread=5, twist=18),
        right_leg=Leg(spread=5, twist=18),
    ),
    "lunge": Pose(
        turn=24,
        lean=8,
        left_arm=Arm(swing=20, raise_=78, elbow=18),
        right_arm=Arm(swing=-10, raise_=62, elbow=22),
        left_leg=Leg(swing=48, spread=10, twist=10, knee=52, ankle=-2),
        right_leg=Leg(swing=-24, spread=14, twist=20, knee=18, ankle=-14),
    ),
}


class Rendering(NamedTuple):
    """image (3, H, W) float32 in [0, 1]; part (H, W) uint8, 0 background; uv (2, H, W) float32."""

    image: Tensor
    part: Tensor
    uv: Tensor


@lru_cache(maxsize=8)
def _painted(identity: int) -> NDArray[np.float32]:
    return wardrobe.paint(wardrobe.identity(identity), ATLAS_SIDE)


@lru_cache(maxsize=512)  # 0.2 MB each
def body_of(identity: int) -> Body:
    """The body of an identity, in its hair and clothes."""
    return body(Shape.of(identity), Volume.of(wardrobe.identity(identity)))


def true_atlas(identity: int = 0) -> Tensor:
    """The person's whole texture, (24, 3, 256, 256) float32 in [0, 1]; tile i - 1 is part i's."""
    return torch.from_numpy(_painted(identity).copy())


def person_mesh(pose: Pose, identity: int = 0) -> tuple[Tensor, Tensor]:
    """Vertices (V, 3) float64 in meters, x right, y up, z towards the viewer, and faces (F, 3),
    counterclockwise from outside.

    Every tube (trunk, head, arm, leg, hand, ...) is a closed surface of its own; where they meet,
    they run into each other.
    """
    vertices, _, _ = body_of(identity).posed([pose])
    return torch.from_numpy(vertices[0]), torch.from_numpy(topology().faces)


def render_person(
    pose: str | Pose = "stand", identity: int = 0, size: int | tuple[int, int] = 256
) -> Rendering:
    """Draw one person.

    pose: a key of `POSES`, or a `Pose` of joint angles in degrees.
    identity: seed of body and looks (skin, hair, clothes); the same seed is the same person.
    size: side of a square picture, or (H, W); the body is scaled by H. Pixel centers at integers.

    Returns image (3, H, W) float32 in [0, 1], part (H, W) uint8 and uv (2, H, W) float32, all on
    the CPU; no gradient. Outside the body part and uv are 0. Pixels are point samples: the outline
    is not smoothed, so every body pixel has exactly one (part, u, v).

    Raises ValueError for an unknown pose name, a size that is not positive, a negative identity.
    """
    if isinstance(pose, str):
        if pose not in POSES:
            raise ValueError(f"pose must be one of {', '.join(POSES)} or a Pose, got {pose!r}")
        pose = POSES[pose]
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ValueError(f"size must be one or two positive integers (H, W), got {size}")
    if not isinstance(identity, int) or identity < 0:
        raise ValueError(f"identity must be an integer of at least 0, got {identity}")
    height, width = sides
    camera = Camera()
    person = body_of(identity)
    ankles = camera.project(joints(pose, person.shape)[[7, 13]], height, width)[:, :2]
    wall = studio(height, width) * shadows(ankles, height, width, 1.0)
    atlas = torch.from_numpy(_painted(identity))
    backdrop = torch.from_numpy(wall)[None]
    views = render(person, [pose], [camera], [_LIGHT], atlas, backdrop, samples=1)
    return Rendering(views.image[0], views.part[0], views.uv[0])
