# SPDX-License-Identifier: Apache-2.0
"""Poses as planes of a picture's size: the representations of Table 2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import pose_kernels as pk

from ..batch import Batch
from .config import PoseRepr

PARTS = 24  # of DensePose
_JOINTS = 18
_PLANES: dict[str, int] = {
    "iuv": 3,
    "onehot_iuv": PARTS + 2,
    "segm": PARTS,
    "keypoints": _JOINTS,
    "mask": 1,
}


def planes(kind: PoseRepr) -> int:
    """How many planes one pose has."""
    return _PLANES[kind]


def keys(kind: PoseRepr, which: str) -> frozenset[str]:
    """Keys of the batch that `pose_planes` reads; which: "source" or "target"."""
    if kind == "keypoints":
        return frozenset({f"{which}_joints18"})
    if kind in ("segm", "mask"):
        return frozenset({f"{which}_part"})
    return frozenset({f"{which}_part", f"{which}_uv"})


def pose_planes(batch: Batch, which: str, kind: PoseRepr, sigma: float = 6.0) -> Tensor:
    """The pose of the batch's "source" or "target": (N, planes, H, W) float32.

    * iuv: (I/24, U, V), each mapped to [-1, 1]; background is (-1, -1, -1);
    * onehot_iuv: 24 planes of 0 and 1, then U and V as above;
    * segm: the 24 planes; mask: one plane, 1 where there is any part;
    * keypoints: a Gaussian per joint of `joints18`, sigma pixels at a height of 256; the map of a
      missing joint, (-1, -1) or NaN, is 0.

    Source: Neverova, Güler, Kokkinos, "Dense Pose Transfer", ECCV 2018, sec. 4.4, Table 2.
    """
    if kind == "keypoints":
        joints = batch[f"{which}_joints18"]
        height, width = batch["source_image"].shape[2:]
        there = (joints >= 0).all(-1)  # NaN is not
        return pk.heatmap(joints, (height, width), sigma * height / 256, valid=there)
    part = batch[f"{which}_part"].long()
    part = torch.where((part >= 1) & (part <= PARTS), part, 0)
    body = (part > 0)[:, None]
    if kind == "mask":
        return body.float()
    one_hot = F.one_hot(part, PARTS + 1)[..., 1:].movedim(-1, 1).float()
    if kind == "segm":
        return one_hot
    uv = torch.where(body, batch[f"{which}_uv"].float(), 0) * 2 - 1
    if kind == "onehot_iuv":
        return torch.cat([one_hot, uv], 1)
    return torch.cat([part[:, None].float() / (PARTS / 2) - 1, uv], 1)
