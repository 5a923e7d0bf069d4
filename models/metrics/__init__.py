# SPDX-License-Identifier: Apache-2.0
"""Metrics of generated pictures: uint8 (N, 3, H, W) in, one value per picture out."""

from .pixels import l1, psnr
from .ssim import joint_range, masked_ssim, ms_ssim, ssim, ssim_map

__all__ = ["joint_range", "l1", "masked_ssim", "ms_ssim", "psnr", "ssim", "ssim_map"]
