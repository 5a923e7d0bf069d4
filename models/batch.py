# SPDX-License-Identifier: Apache-2.0
"""What a data set yields and a system takes: one dictionary of tensors per batch of pairs.

Every key but the two pictures is there only if the data set has it; a system names the keys it
needs, and `missing` says what lacks. Without the leading N: what a data set yields for one pair.

=================== ====================== ======================================================
key                 shape, dtype           what
=================== ====================== ======================================================
source_image        (N, 3, H, W) float32   the person as photographed, RGB in [-1, 1]
target_image        (N, 3, H, W) float32   the same person in the wanted pose
*_part              (N, H, W) uint8        DensePose part 0..24, 0 = background
*_uv                (N, 2, H, W) float32   its (u, v) in [0, 1], 0 on background
*_joints18          (N, 18, 2) float32     OpenPose order, (x, y) pixels; missing = (-1, -1)
*_joints19          (N, 19, 3) float32     "reposing19", (x, y, z) in pixels, z away from the viewer
                                           and H / 2 at the middle of the person; missing = NaN
*_mask              (N, 1, H, W) float32   1 on the person, 0 elsewhere
flow                (N, 2, H, W) float32   (x, y) pixels from target to source, 0 off the person
visibility          (N, H, W) uint8        of the target's pixels in the source: 0 visible,
                                           1 occluded, 2 background
view_image          (N, K, 3, H, W)        further views of the same person in the same clothes,
view_part, view_uv  (N, K, ...)            the source first; part 0 everywhere where there are fewer
identity            (N,) int64             equal for equal people in equal clothes
=================== ====================== ======================================================

`*` is `source` or `target`. Pixel centers are at integers, as everywhere in pose_kernels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

Batch = dict[str, Tensor]

# What a message tells the user to do about a key that is not there.
_WHERE_FROM = {
    "part": "DensePose maps: run DensePose on the images and name its output folder",
    "uv": "DensePose maps: run DensePose on the images and name its output folder",
    "joints18": "2D joints: the annotation CSV of the data set",
    "joints19": "3D joints: poses.pkl, or any 3D pose estimator",
    "mask": "foreground masks; DensePose maps or a segmentation give them",
    "flow": "appearance flow: only a fitted mesh, or the synthetic people, have it",
    "visibility": "appearance flow: only a fitted mesh, or the synthetic people, have it",
}


def missing(have: Iterable[str], needed: Iterable[str]) -> str | None:
    """None when all needed keys are there, else one line that says what lacks and whence it comes.

    >>> missing(["source_image"], ["source_image"]) is None
    True
    """
    lacking = sorted(set(needed) - set(have))
    if not lacking:
        return None
    sources = {_WHERE_FROM.get(key.split("_", 1)[-1], "another data set") for key in lacking}
    return f"the data has no {', '.join(lacking)} ({'; '.join(sorted(sources))})"


def to(batch: Mapping[str, Tensor], device: torch.device | str) -> Batch:
    """The batch on a device; entries that are no tensors stay as they are."""
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for key, value in batch.items()
    }


def to_bytes(image: Tensor) -> Tensor:
    """Pictures in [-1, 1] as uint8, rounded and clipped; NaN is black."""
    return ((image.float().nan_to_num(-1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_bytes(image: Tensor) -> Tensor:
    """Pictures of uint8 in [-1, 1]."""
    return image.float() / 127.5 - 1
