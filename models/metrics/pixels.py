# SPDX-License-Identifier: Apache-2.0
"""Distances of pictures pixel by pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from .ssim import check_pictures


def psnr(generated: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (N,) float64 in dB: 10 log10(255^2 / mean squared error).

    generated, truth: (N, 3, H, W) uint8. inf for equal pictures.

    Raises ValueError for other shapes or types.
    """
    check_pictures(generated, truth)
    error = (generated.double() - truth.double()).square().mean((1, 2, 3))
    return 10 * torch.log10(255.0**2 / error)


def l1(generated: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute difference (N,) float64 of values in 0..1.

    generated, truth: (N, 3, H, W) uint8.

    Raises ValueError for other shapes or types.
    """
    check_pictures(generated, truth)
    return (generated.double() - truth.double()).abs().mean((1, 2, 3)) / 255
