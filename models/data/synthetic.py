# SPDX-License-Identifier: Apache-2.0
"""Endless pairs of pictures of synthetic people, with everything about them exactly known."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pose_kernels.people import wardrobe
from pose_kernels.people.backdrop import KINDS, paint_backdrop
from pose_kernels.people.body import Array
from pose_kernels.people.camera import Camera
from pose_kernels.people.motion import random_motion
from pose_kernels.people.person import body_of
from pose_kernels.people.pose import Pose, joints
from pose_kernels.people.render import Views, flow, render
from pose_kernels.people.scene import random_camera, random_light, random_yaw, shadows, studio
from pose_kernels.skeleton_tables import SKELETONS

BACKGROUNDS = ("studio", *KINDS, "mixed")
SPLITS = ("train", "validation", "test")
_LENGTHS = {"train": 20_000, "validation": 500, "test": 1_000}
_CACHE = 256 << 20  # bytes of atlases that a process keeps
# OpenPose's 18, by their names among the 19 joints; its 14 and 16 are on the right.
_OPENPOSE = (
    "nose neck rsho relb rwri lsho lelb lwri rhip rkne rank lhip lkne lank reye leye rear lear"
).split()
_ORDER = [SKELETONS["reposing19"].joints.index(name) for name in _OPENPOSE]
_ANKLES = [SKELETONS["reposing19"].joints.index(name) for name in ("lank", "rank")]
_IS_FACE = np.isin(np.arange(18), (0, 14, 15, 16, 17))
_HIDDEN = 0.03  # meters behind the surface from which on a joint of the face does not show


class SyntheticPairs(Dataset[dict[str, Tensor]]):
    """Pairs of pictures of one person each, drawn when they are asked for.

    An item has the keys of `models.batch` without the leading N, among them `identity`. All of it
    is a pure function of (seed, split, epoch, index), whatever the process and the order. Source
    and target show the same clothes in the same light before the same backdrop, in two poses and
    views.

    Exact and consistent with each other: part and uv are those of the surface at the pixels'
    centers; pictures are the mean of nine samples per pixel, so pixels at an outline mix person
    and backdrop; the mask is 1 where part > 0. joints18 are missing where they lie outside of the
    picture, and those of the face where it does not show, as a detector has it; joints19 are all
    there.

    Args:
        split: "train", "validation" or "test": no person is in two of them.
        size: (H, W) of the pictures, at least 16 each.
        seed: another one gives other pairs of the same people.
        length: items of an epoch (20,000, 500 and 1,000).
        views: K pictures of the person for supervision of the texture, the source first; 0 for
            none.
        flow: whether `flow` and `visibility` are there.
        background: "studio", the near-white wall of a catalog; "plain", walls of any tint;
            "cluttered"; or "mixed", plain as often as cluttered.
        people: how many there are in the split. A process keeps the looks of some hundreds; more
            are drawn anew.

    Raises:
        ValueError: an argument is not one of these.
    """

    name = "synthetic"

    def __init__(
        self,
        split: str,
        size: tuple[int, int] = (64, 64),
        *,
        seed: int = 0,
        length: int | None = None,
        views: int = 0,
        flow: bool = True,
        background: str = "studio",
        people: int = 1000,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if len(size) != 2 or not all(isinstance(side, int) and side >= 16 for side in size):
            raise ValueError(f"size must be (H, W), integers of at least 16, got {size}")
        if background not in BACKGROUNDS:
            raise ValueError(
                f"background must be one of {', '.join(BACKGROUNDS)}, got {background!r}"
            )
        length = _LENGTHS[split] if length is None else length
        for argument, value, least in (
            ("seed", seed, 0),
            ("length", length, 0),
            ("views", views, 0),
            ("people", people, 1),
        ):
            if not isinstance(value, int) or value < least:
                raise ValueError(
                    f"{argument} must be an integer of at least {least}, got {value!r}"
                )
        self.split = split
        self.size = (size[0], size[1])
        self.seed, self.length, self.views, self.people = seed, length, views, people
        self.flow, self.background = flow, background
        names = ("image", "part", "uv", "joints18", "joints19", "mask")
        keys = {f"{who}_{name}" for who in ("source", "target") for name in names}
        keys |= {"flow", "visibility"} if flow else set()
        keys |= {"view_image", "view_part", "view_uv"} if views else set()
        self.keys = frozenset(keys | {"identity"})
        # In shared memory, so that workers that outlive an epoch see the next one begin.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._atlases: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Items of another epoch are other pairs."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -self.length <= index < self.length:
            raise IndexError(f"index {index} of {self.length} pairs")
        index %= self.length
        code = SPLITS.index(self.split)
        rng = np.random.default_rng([self.seed, code, int(self._epoch), index])
        identity = int(rng.integers(self.people)) * len(SPLITS) + code
        views = self._draw(rng, identity)
        item = {"identity": torch.tensor(identity)}
        for n, who in enumerate(("source", "target")):
            item[f"{who}_image"] = views.image[n] * 2 - 1
            item[f"{who}_part"], item[f"{who}_uv"] = views.part[n], views.uv[n]
            item[f"{who}_mask"] = (views.part[n, None] > 0).float()
            placed = views.joints[n]
            item[f"{who}_joints18"] = torch.from_numpy(_joints18(views, n).astype(np.float32))
            item[f"{who}_joints19"] = torch.from_numpy(placed.astype(np.float32))
        if self.flow:
            item["flow"], item["visibility"] = flow(views.drawn, 1, 0)
        if self.views:
            rows = [0, *range(2, self.views + 1)]
            item["view_image"] = views.image[rows] * 2 - 1
            item["view_part"], item["view_uv"] = views.part[rows], views.uv[rows]
        return item

    def atlas(self, identity: int) -> Tensor:
        """The true texture (24, 3, S, S) float32 in [0, 1] of a person, S as fits the pictures."""
        known = self._atlases.pop(identity, None)
        if known is None:
            known = _paint(identity, atlas_side(self.size[0]))
            while self._atlases and (len(self._atlases) + 1) * known.nbytes > _CACHE:
                self._atlases.popitem(last=False)
        self._atlases[identity] = known
        return torch.from_numpy(known).float() / 255

    def _draw(self, rng: np.random.Generator, identity: int) -> Views:
        """Source, target and the further views of one item."""
        H, W = self.size
        body = body_of(identity)
        poses: list[Pose] = []
        cameras: list[Camera] = []
        places: list[Array] = []
        motion = random_motion(rng)
        for n in range(max(self.views, 1) + 1):
            if n and rng.random() < 0.6:  # else another moment of the same motion
                motion = random_motion(rng)
            pose = motion.at(rng.uniform(0, 5))
            yaw = random_yaw(rng, 0.7 if n == 0 else 0.35)
            poses.append(pose)
            places.append(joints(pose, body.shape))
            cameras.append(random_camera(rng, places[-1], H, W, yaw=yaw))
        light = random_light(rng)
        kind = KINDS[int(rng.integers(2))] if self.background == "mixed" else self.background
        wall = studio(H, W) if kind == "studio" else paint_backdrop(rng, H, W, kind)
        backdrop = np.stack([wall * dim for dim in map(self._shadows, cameras, places)])
        return render(
            body,
            poses,
            cameras,
            [light] * len(poses),
            self.atlas(identity),
            torch.from_numpy(backdrop),
        )

    def _shadows(self, camera: Camera, joints: Array) -> NDArray[np.float32]:
        ankles = camera.project(joints[_ANKLES], *self.size)[:, :2]
        return shadows(ankles, *self.size, camera.zoom)


def atlas_side(height: int) -> int:
    """Texels along a tile that a picture of so many rows can show: a torso is a quarter of it."""
    return next((side for side in (32, 64, 128) if 2 * side >= height), 256)


def _paint(identity: int, side: int) -> NDArray[np.uint8]:
    """Painted at twice the resolution where texels are coarser than what is painted, averaged."""
    looks = wardrobe.identity(identity)
    if side > 64:
        atlas: NDArray[np.floating] = wardrobe.paint(looks, side)
    else:
        # Texel i of the coarse tile lies on texel 2 i of the fine one: both ends stay.
        fine = np.pad(wardrobe.paint(looks, 2 * side - 1), ((0, 0), (0, 0), (1, 1), (1, 1)), "edge")
        rows = (fine[:, :, :-2] + 2 * fine[:, :, 1:-1] + fine[:, :, 2:])[:, :, ::2] / 4
        atlas = (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:])[..., ::2] / 4
    return np.round(np.clip(atlas, 0, 1) * 255).astype(np.uint8)


def _joints18(views: Views, n: int) -> Array:
    """(18, 2), missing ones (-1, -1)."""
    H, W = views.part.shape[1:]
    found = views.joints[n][_ORDER, :2].copy()
    x, y = found.T
    missing = (x < -0.5) | (x > W - 0.5) | (y < -0.5) | (y > H - 0.5)
    missing |= _IS_FACE & (views.behind[n][_ORDER] > _HIDDEN)
    found[missing] = -1.0
    return found
