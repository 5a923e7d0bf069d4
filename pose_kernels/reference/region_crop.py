# SPDX-License-Identifier: Apache-2.0
"""region_crop in pure PyTorch: the specification in code. Any device, any floating dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import geometry_dtype
from .layout import in_format_of

_FAR = 2.0**40  # beyond every image, and within an integer


def region_crop(image: Tensor, center: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """See :func:`pose_kernels.region_crop`. Differentiable through plain autograd."""
    columns, rows, valid = windows(center, image.shape[2], image.shape[3], size)
    n = torch.arange(image.shape[0], device=image.device)[:, None, None, None]
    # Wide, so that the gradients of crops that overlap are summed in float32.
    pixels = image.to(geometry_dtype(image.dtype)).movedim(1, -1)
    crops = pixels[n, rows[..., :, None], columns[..., None, :]]  # (N, K, s, s, C)
    crops = crops.where(valid[:, :, None, None, None], 0).movedim(-1, 2)
    return in_format_of(crops.to(image.dtype), image), valid


def windows(center: Tensor, height: int, width: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Columns and rows (N, K, size) of the windows, and valid (N, K); not valid: those at 0."""
    center = center.detach().to(geometry_dtype(center.dtype))
    valid = center.isfinite().all(-1)
    node = center.where(valid[..., None], 0).round()  # half to even
    start = node.clamp(-_FAR, _FAR).to(torch.int64) - size // 2
    x0, y0 = start[..., 0].clamp(0, width - size), start[..., 1].clamp(0, height - size)
    step = torch.arange(size, device=center.device)
    return x0[..., None] + step, y0[..., None] + step, valid


def region_crop_backward(grad: Tensor, center: Tensor, height: int, width: int) -> Tensor:
    """The adjoint: crops (N, K, C, s, s) added, in the order of K, into (N, C, height, width)."""
    N, K, C, size, _ = grad.shape
    columns, rows, valid = windows(center, height, width, size)
    n = torch.arange(N, device=grad.device)[:, None, None]
    total = grad.new_zeros((N, height, width, C), dtype=geometry_dtype(grad.dtype))
    for k in range(K):  # one crop never has a pixel twice: no atomics, and one order of the sums
        g = grad[:, k].to(total.dtype).movedim(1, -1).where(valid[:, k, None, None, None], 0)
        place = (n, rows[:, k, :, None], columns[:, k, None, :])
        total[place] = total[place] + g
    return in_format_of(total.movedim(-1, 1).to(grad.dtype), grad)
