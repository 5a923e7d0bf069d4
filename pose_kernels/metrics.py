# SPDX-License-Identifier: Apache-2.0
"""How near a picture is to the true one, on a mask: PSNR and SSIM of images in [0, 1]."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2  # the customary constants for values in [0, 1]


def psnr(image: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB, of the mean squared error over masked pixels and channels.

    image, truth: (C, H, W) in [0, 1]; they are not clamped. mask: (H, W) bool; None is everywhere.
    Returns inf for equal images and nan for an empty mask.

    Raises ValueError when the shapes do not fit.
    """
    mask = _checked(image, truth, mask)
    error = (image.double() - truth.double())[:, mask].square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(image: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """Mean structural similarity over the masked pixels and the channels.

    image, truth: (C, H, W) in [0, 1]. mask: (H, W) bool; None is everywhere. Windows are Gaussian,
    11 x 11, sigma 1.5, and hold masked pixels only, their weights scaled to sum to 1: what lies
    outside the mask or the image has no influence. Away from the mask's edge it is the SSIM of
    Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", 2004.
    Returns nan for an empty mask.

    Raises ValueError when the shapes do not fit.
    """
    mask = _checked(image, truth, mask)
    return ssim_map(image, truth, mask)[:, mask].mean().item()


def ssim_map(image: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Local SSIM (C, H, W) in float64, as in :func:`ssim`; 0 outside the mask."""
    inside = mask.double()
    weight = _blur(inside[None]).clamp(min=1e-12)

    def mean(values: Tensor) -> Tensor:
        return _blur(values * inside) / weight

    x, y = image.double(), truth.double()
    mean_x, mean_y = mean(x), mean(y)
    variance_x = mean(x * x) - mean_x**2
    variance_y = mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return luminance * structure * inside


def _blur(planes: Tensor) -> Tensor:
    """Gaussian sums over 11 x 11 windows of (C, H, W); pixels outside count 0."""
    steps = torch.arange(_WINDOW, dtype=planes.dtype, device=planes.device) - _WINDOW // 2
    kernel = torch.exp(-(steps**2) / (2 * _SIGMA**2))
    kernel = kernel / kernel.sum()
    planes = F.conv2d(planes[:, None], kernel.view(1, 1, -1, 1), padding=(_WINDOW // 2, 0))
    return F.conv2d(planes, kernel.view(1, 1, 1, -1), padding=(0, _WINDOW // 2))[:, 0]


def _checked(image: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
    if image.dim() != 3 or image.shape != truth.shape:
        raise ValueError(
            "image and truth must both be (C, H, W), "
            f"got {tuple(image.shape)} and {tuple(truth.shape)}"
        )
    if mask is None:
        return torch.ones(image.shape[1:], dtype=torch.bool, device=image.device)
    if mask.dtype != torch.bool or mask.shape != image.shape[1:]:
        raise ValueError(
            f"mask must be (H, W) = {tuple(image.shape[1:])} bool, "
            f"got {tuple(mask.shape)} {mask.dtype}"
        )
    return mask
