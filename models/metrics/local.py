# SPDX-License-Identifier: Apache-2.0
"""SSIM of the regions of a pose: around its local descriptors, and on its limbs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import pose_kernels as pk

from ..descriptors import known_joints, local_descriptors
from .ssim import Preset, check_pictures, ssim

# Of the 18 OpenPose joints, those whose connections a pose mask fills (Ma et al. 2017).
_CONNECTIONS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11)),
    *((11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17), (1, 16), (1, 17)),
    *((8, 11), (11, 5), (8, 2), (16, 17)),
)


def local_ssim(generated: Tensor, truth: Tensor, joints: Tensor) -> Tensor:
    """Mean SSIM (N,) float64 of 44 square regions around the target pose's local descriptors.

    generated, truth: (N, 3, H, W) uint8, H of at least 56. joints: (N, 18, 2) of the target pose
    in pixels, missing (-1, -1). The regions have the side H / 8, are moved into the picture where
    they would stick out, and are compared by the preset `diaf`; those of missing descriptors do not
    count. NaN for a pose without any.

    Source: "Pose-Guided High-Resolution Appearance Transfer via Progressive Training", 2020.

    Raises ValueError for other shapes or types, and pictures that are too low.
    """
    check_pictures(generated, truth)
    _check_joints(generated, joints)
    side = generated.shape[2] // 8
    if side < 7 or generated.shape[3] < side:
        raise ValueError(
            "local_ssim needs pictures of at least 56 rows, of which an eighth fits into the "
            f"columns, got {tuple(generated.shape[2:])}"
        )
    where = local_descriptors(joints.to(generated.device).float())
    crops = []
    for one in (generated, truth):
        crop, valid = pk.region_crop(one.float(), where, side)
        crops.append(crop.flatten(0, 1).to(torch.uint8))
    values = ssim(crops[0], crops[1], "diaf").view(valid.shape)
    return (values * valid).sum(1) / valid.sum(1)


def pose_mask(joints: Tensor, height: int, width: int, radius: float = 4.0) -> Tensor:
    """Where the limbs of a 2D pose lie, (N, 1, H, W) bool.

    Within `radius` pixels of a joint, or of one of the 23 segments between two joints, and then
    closed by a square of 5 x 5 pixels. joints: (N, 18, 2) in pixels, missing (-1, -1).

    Source: Ma et al., "Pose Guided Person Image Generation", 2017; radius of 128 x 64 pictures.
    """
    known = known_joints(joints)
    joints = torch.where(known[..., None], joints, 0).float()
    rows = torch.arange(height, dtype=torch.float32, device=joints.device)
    columns = torch.arange(width, dtype=torch.float32, device=joints.device)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    pixel = torch.stack([x, y], -1)  # (H, W, 2)
    inside = joints.new_zeros(len(joints), height, width, dtype=torch.bool)
    for a, b in (*((one, one) for one in range(18)), *_CONNECTIONS):
        start, along = joints[:, a, None, None], (joints[:, b] - joints[:, a])[:, None, None]
        from_start = pixel - start
        share = (from_start * along).sum(-1) / along.square().sum(-1).clamp(min=1e-12)
        apart = from_start - share.clamp(0, 1)[..., None] * along
        near = apart.square().sum(-1) <= radius**2
        inside |= near & (known[:, a] & known[:, b])[:, None, None]
    grown = F.max_pool2d(inside[:, None].float(), 5, 1, 2)
    return -F.max_pool2d(-grown, 5, 1, 2) > 0


def mask_ssim(
    generated: Tensor, truth: Tensor, joints: Tensor, preset: Preset = "dsc", radius: float = 4.0
) -> Tensor:
    """SSIM (N,) of the pictures made black off the target pose's `pose_mask`.

    generated, truth: (N, 3, H, W) uint8. joints: (N, 18, 2) of the target pose in pixels.

    Raises ValueError as `ssim`, and for joints of another shape.
    """
    check_pictures(generated, truth)
    _check_joints(generated, joints)
    height, width = generated.shape[2:]
    mask = pose_mask(joints.to(generated.device), height, width, radius)
    return ssim(generated * mask, truth * mask, preset)


def _check_joints(pictures: Tensor, joints: Tensor) -> None:
    if joints.shape != (len(pictures), 18, 2):
        raise ValueError(
            f"joints must be (N, 18, 2) with N = {len(pictures)}, got {tuple(joints.shape)}"
        )
