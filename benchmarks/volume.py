# SPDX-License-Identifier: Apache-2.0
"""Cases of the volume ops: people in 3D poses, their ten parts, how much of a volume they cover.

Two poses make a problem: the masks are the parts of the one, the transforms take each part of the
other back to it. The poses are built in, three people drawn by hand, unless the environment
variable POSE_KERNELS_DATA names a folder with ``mocap/01_01_joints.npz``, a clip of the CMU
Graphics Lab (joints (T, 38, 3)); the titles say which.
"""

from __future__ import annotations

import dataclasses
import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import pose_kernels as pk
from pose_kernels.clip import load_clip, place_in_frame
from pose_kernels.skeleton import FRAME
from pose_kernels.skeleton_tables import Skeleton

P = 10
DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
SOFTNESS = 0.5  # of soft masks, in radii: the farthest mask value is no denormal number

# Joints of the skeleton "reposing19" in pixels: x right, y down, z away from the viewer.
STANDING = (
    *((128, 61, 128), (128, 37, 112)),
    *((151, 63, 128), (162, 102, 127), (168, 136, 120)),
    *((141, 130, 128), (144, 187, 126), (147, 241, 129)),
    *((105, 63, 128), (94, 102, 127), (88, 136, 120)),
    *((115, 130, 128), (112, 187, 126), (109, 241, 129)),
    *((133, 32, 115), (139, 34, 128), (123, 32, 115), (117, 34, 128)),
    (128, 128, 128),
)
WALKING = (  # to the right, 50 degrees off the viewer
    *((132, 63, 124), (145, 39, 114)),
    *((146, 66, 142), (135, 100, 159), (135, 136, 164)),
    *((136, 133, 138), (157, 183, 123), (164, 237, 121)),
    *((117, 66, 108), (126, 102, 93), (147, 122, 72)),
    *((120, 133, 118), (112, 189, 122), (84, 229, 144)),
    *((146, 34, 118), (140, 37, 132), (140, 34, 111), (126, 37, 116)),
    (128, 130, 128),
)
REACHING = (  # to the front with the left hand, on a wide stance
    *((121, 66, 118), (110, 42, 103)),
    *((140, 68, 105), (141, 79, 68), (145, 74, 32)),
    *((139, 134, 121), (148, 189, 120), (165, 240, 130)),
    *((103, 68, 132), (90, 102, 148), (75, 134, 140)),
    *((117, 134, 135), (97, 183, 115), (91, 236, 115)),
    *((115, 37, 100), (128, 39, 109), (106, 37, 106), (110, 39, 121)),
    (128, 132, 128),
)
BUILT_IN = ((STANDING, WALKING), (WALKING, REACHING))  # (source, target) of every second sample
CLIP = Path(os.environ.get("POSE_KERNELS_DATA", "")) / "mocap" / "01_01_joints.npz"
CLIP_FRAMES = ((0, 300), (120, 420))
POSES = "clip" if os.environ.get("POSE_KERNELS_DATA") and CLIP.is_file() else "built-in"


@dataclasses.dataclass(frozen=True)
class VolumeCase:
    """N volumes of C channels and D x H x W voxels, a person in each, ten parts.

    mask: "bits" (int32, a bit a part) or "soft" (float, positive everywhere: nothing to skip).
    """

    N: int
    C: int
    D: int
    H: int
    W: int
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    mask: str = "bits"
    poses: str = POSES
    direction: str = "forward"
    main: bool = False

    @property
    def title(self) -> str:
        words = [f"B{self.N} C{self.C} {self.D}x{self.H}x{self.W} P{P}"]
        words.append(DTYPES.get(self.dtype, str(self.dtype).removeprefix("torch.")))
        words.append("channels last" if self.channels_last else "contiguous")
        if self.mask != "bits":
            words.append("dense soft masks")
        if self.poses == "clip":
            frames = CLIP_FRAMES[: self.N]
            words.append(f"{CLIP.stem} {' '.join(f'{a}-{b}' for a, b in frames)}")
        return ", ".join(words)

    @property
    def voxels(self) -> int:
        return self.N * self.D * self.H * self.W

    def small(self) -> VolumeCase:
        # Sides that are all different: an axis in another's place is noticed.
        return dataclasses.replace(
            self,
            **{"N": min(self.N, 2), "C": min(self.C, 8), "D": 9, "H": 15, "W": 13},
            dtype=torch.float64,
        )


class Person(NamedTuple):
    """What a case warps: float64, on the CPU."""

    bits: Tensor  # (N, D, H, W) int32, of the source poses
    soft: Tensor  # (N, P, D, H, W) in [0, 1], likewise
    transform: Tensor  # (N, P, 3, 4) target voxel -> source voxel


@lru_cache(maxsize=4)
def person(N: int, D: int, H: int, W: int, poses: str) -> Person:
    voxel = tuple(FRAME / (n - 1) for n in (W, H, D))  # the outer voxels lie on the cube's sides
    skeleton, pairs = _poses(poses)
    source, target = (
        pk.body_parts(torch.stack([pairs[n % 2][k] for n in range(N)]), skeleton, voxel=voxel)
        for k in (0, 1)
    )
    shape = {"size": (D, H, W), "num_parts": P}
    return Person(
        pk.capsule_mask(*source.capsules, **shape),
        pk.capsule_mask(*source.capsules, **shape, packed=False, softness=SOFTNESS),
        pk.part_transforms(source, target, voxel=voxel),
    )


def _poses(poses: str) -> tuple[str | Skeleton, list[list[Tensor]]]:
    """The skeleton, and two pairs of source and target joints (J, 3), pixels, float64."""
    if poses == "built-in":
        return "reposing19", [[torch.tensor(pose).double() for pose in two] for two in BUILT_IN]
    clip = load_clip(CLIP)
    joints = place_in_frame(clip.joints.double(), margin=0.04)
    return clip.skeleton, [[joints[frame] for frame in two] for two in CLIP_FRAMES]


class Reached(NamedTuple):
    """What the masks and transforms of a case reach, over the batch."""

    masked: int  # source voxels in any part
    covered: int  # output voxels that any part reaches
    pairs: int  # (output voxel, part) pairs where the part is reached


@lru_cache(maxsize=16)
def _reached(N: int, D: int, H: int, W: int, poses: str, mask: str) -> Reached:
    bits, soft, transform = person(N, D, H, W, poses)
    inside = torch.stack([bits >> i & 1 for i in range(P)], 1) if mask == "bits" else soft > 0
    once = torch.ones(N, 1, D, H, W)  # of ones, something comes wherever a part is reached
    found = []
    for i in range(P):
        alone = inside[:, i : i + 1].float()
        found.append(pk.helmert_warp(once, alone, transform[:, i : i + 1].float()) > 0)
    reached = torch.cat(found, 1)
    return Reached(int(inside.any(1).sum()), int(reached.any(1).sum()), int(reached.sum()))


def reached(case: VolumeCase) -> Reached:
    return _reached(case.N, case.D, case.H, case.W, case.poses, case.mask)


def features(case: VolumeCase, seed: int) -> Tensor:
    """Random (N, C, D, H, W) in the case's dtype and memory format, on the CPU."""
    random = torch.Generator().manual_seed(seed)
    shape = (case.N, case.D, case.H, case.W, case.C)
    if case.channels_last:
        return torch.randn(shape, generator=random).to(case.dtype).movedim(-1, 1)
    return torch.randn(case.N, case.C, *shape[1:4], generator=random).to(case.dtype)
