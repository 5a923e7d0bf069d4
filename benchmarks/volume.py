# SPDX-License-Identifier: Apache-2.0
"""Cases of the volume ops: people in 3D poses, their ten parts, how much of a volume they cover.

Two poses make a problem: the masks are the parts of the one, the transforms take each part of the
other back to it. The poses are built in, three people drawn by hand, unless the environment
variable POSE_KERNELS_DATA names a folder with ``mocap/01_01_joints.npz`` (arrays ``joints``
(T, J, 3), y up, and ``names``, those of the CMU Graphics Lab); the titles say which.
"""

from __future__ import annotations

import dataclasses
import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import pose_kernels as pk

P = 10
DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
FRAME = 256.0  # pixels: side of the cube that the poses stand in
SOFTNESS = 0.5  # of soft masks, in radii: the farthest mask value is no denormal number

JOINTS = tuple(
    "neck nose lsho lelb lwri lhip lkne lank rsho relb rwri rhip rkne rank "
    "leye lear reye rear pelv".split()
)
# Pixels (x right, y down, z away from the viewer), in the order of JOINTS.
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
    source, target = (joints[:N] for joints in _poses(N, poses))
    voxel = FRAME / (torch.tensor([W, H, D]) - 1).double()  # pixels from voxel to voxel
    distance = _distance(source, voxel, (D, H, W))
    inside = (distance <= 1).to(torch.int32)
    bits = sum(inside[:, i] << i for i in range(P))
    assert isinstance(bits, Tensor)
    fit = _similarity(_point_sets(target), _point_sets(source))
    linear, shift = fit[..., :3] * (voxel / voxel[:, None]), fit[..., 3:] / voxel[:, None]
    return Person(bits, torch.sigmoid((1 - distance) / SOFTNESS), torch.cat([linear, shift], -1))


def _poses(N: int, poses: str) -> tuple[Tensor, Tensor]:
    """Source and target joints (N, 19, 3), pixels."""
    if poses == "clip":
        joints = _clip()
        pairs = [[joints[frame] for frame in pair] for pair in CLIP_FRAMES]
    else:
        pairs = [[torch.tensor(pose).double() for pose in pair] for pair in BUILT_IN]
    source, target = (torch.stack([pairs[n % 2][k] for n in range(N)]) for k in (0, 1))
    return source, target


def _clip() -> Tensor:
    """(T, 19, 3) pixels; one scale for the clip, every pose centered in the cube."""
    with np.load(CLIP) as clip:
        index = {str(name): i for i, name in enumerate(clip["names"])}
        metric = torch.from_numpy(clip["joints"]).double()
    limbs = {
        "sho": "Arm",
        "elb": "ForeArm",
        "wri": "Hand",
        "hip": "UpLeg",
        "kne": "Leg",
        "ank": "Foot",
    }
    at = {
        side[0].lower() + joint: metric[:, index[side + name]]
        for side in ("Left", "Right")
        for joint, name in limbs.items()
    }
    at["neck"], at["pelv"] = (at["lsho"] + at["rsho"]) / 2, metric[:, index["Hips"]]
    # The face, in proportion to the height of the head's middle above the neck.
    low, high = metric[:, index["Head"]], metric[:, index["Head_End"]]
    center, up = (low + high) / 2, F.normalize(high - low, dim=-1)
    left = at["lsho"] - at["rsho"]
    left = F.normalize(left - (left * up).sum(-1, keepdim=True) * up, dim=-1)
    front = torch.linalg.cross(left, up)
    h = (center - at["neck"]).norm(dim=-1, keepdim=True)
    for side, sign in (("l", 1), ("r", -1)):
        at[side + "ear"] = center + 0.42 * sign * h * left
        at[side + "eye"] = center + h * (0.18 * sign * left + 0.1 * up + 0.45 * front)
    at["nose"] = center + h * (0.6 * front - 0.12 * up)
    joints = torch.stack([at[name] for name in JOINTS], 1)
    low, high = joints.amin(1, keepdim=True), joints.amax(1, keepdim=True)
    scale = 0.92 * FRAME / (high - low).amax()
    return (joints - (low + high) / 2) * scale * joints.new_tensor([1, -1, -1]) + FRAME / 2


def _named(joints: Tensor) -> dict[str, Tensor]:
    return dict(zip(JOINTS, joints.unbind(1), strict=True))


def _distance(joints: Tensor, voxel: Tensor, size: tuple[int, int, int]) -> Tensor:
    """(N, P, D, H, W) of every voxel to the segments of every part, in their radii."""
    at = _named(joints)
    s = torch.maximum((at["lsho"] - at["rhip"]).norm(dim=1), (at["rsho"] - at["lhip"]).norm(dim=1))
    torso = ("rhip", "lhip", "lsho", "rsho")
    ears = (at["lear"] + at["rear"]) / 2
    chin = 0.7 * ears + 0.3 * at["neck"]
    parts = [[(at[a], at[b], 0.3) for a in torso for b in torso if a < b]]
    parts.append([(chin, 2 * ears - chin, 0.5)])
    for a, b, c, before in (("sho", "elb", "wri", 0.0), ("hip", "kne", "ank", 0.1)):
        for side in "lr":
            first, middle, last = (at[side + joint] for joint in (a, b, c))
            start = first + before * (first - at[side + "sho"])
            end = last + 0.2 * (last - middle)
            parts += [[(start, middle, 0.2)], [(middle, end, 0.2), (end, end, 0.4)]]
    axes = torch.meshgrid(*(torch.arange(n).double() for n in size), indexing="ij")
    grid = torch.stack(axes[::-1], -1)
    found = []
    for segments in parts:
        nearest = []
        for a, b, thickness in segments:
            radius = (s * thickness / 2)[:, None] / voxel + 1
            start, bone = (
                x[:, None, None, None] for x in (a / voxel / radius, (b - a) / voxel / radius)
            )
            offset = grid / radius[:, None, None, None] - start
            length = (bone * bone).sum(-1).clamp(min=1e-12)
            t = ((offset * bone).sum(-1) / length).clamp(0, 1)
            nearest.append((offset - t[..., None] * bone).norm(dim=-1))
        found.append(torch.stack(nearest).amin(0))
    return torch.stack(found, 1)


def _point_sets(joints: Tensor) -> list[Tensor]:
    """Per part (N, K, 3) pixels, what its transform is fitted to."""
    at = _named(joints)
    sets = [("rhip", "lhip", "lsho", "rsho")]
    sets.append(("neck", "leye", "reye", "nose", "lear", "rear", "lsho", "rsho"))
    found = [torch.stack([at[name] for name in names], 1) for names in sets]
    for triples in (
        (("sho", "elb", "wri"), ("wri", "elb", "sho")),
        (("hip", "kne", "ank"), ("ank", "kne", "hip")),
    ):
        for side in "lr":
            for triple in triples:
                a, b, anchor = (at[side + joint] for joint in triple)
                r = anchor - b
                normal = F.normalize(torch.linalg.cross(b - a, r), dim=1)
                third = b + r.norm(dim=1, keepdim=True) * normal
                found.append(torch.stack([a, b, third], 1))
    return found


def _similarity(source: list[Tensor], target: list[Tensor]) -> Tensor:
    """(N, P, 3, 4): rotation, one scale and shift, least squares from source to target points."""
    found = []
    for a, b in zip(source, target, strict=True):
        mean_a, mean_b = a.mean(1, keepdim=True), b.mean(1, keepdim=True)
        x, y = a - mean_a, b - mean_b
        u, values, v = torch.linalg.svd(y.transpose(1, 2) @ x)
        sign = torch.ones_like(values)
        sign[:, 2] = torch.det(u @ v)  # never a reflection
        scale = (values * sign).sum(1) / (x * x).sum((1, 2))
        linear = scale[:, None, None] * (u * sign[:, None]) @ v
        shift = mean_b.transpose(1, 2) - linear @ mean_a.transpose(1, 2)
        found.append(torch.cat([linear, shift], -1))
    return torch.stack(found, 1)


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
