# SPDX-License-Identifier: Apache-2.0
"""Metrics of generated pictures: uint8 (N, 3, H, W) in, one value per picture out."""

from .learned import Learned, Unavailable, learned
from .local import local_ssim, mask_ssim, pose_mask
from .pixels import l1, psnr
from .pose import GROUPS, pckh, pose_auc
from .report import Report
from .ssim import PRESETS, joint_range, masked_ssim, ms_ssim, ssim, ssim_map

__all__ = [
    "GROUPS",
    "PRESETS",
    "Learned",
    "Report",
    "Unavailable",
    "joint_range",
    "l1",
    "learned",
    "local_ssim",
    "mask_ssim",
    "masked_ssim",
    "ms_ssim",
    "pckh",
    "pose_auc",
    "pose_mask",
    "psnr",
    "ssim",
    "ssim_map",
]
