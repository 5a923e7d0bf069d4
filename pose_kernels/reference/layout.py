# SPDX-License-Identifier: Apache-2.0
"""Memory formats: contiguous (..., C, <spatial>) or channels last (..., <spatial>, C).

``spatial`` is the number of axes after the channels: 2 for images (N, C, H, W) and atlases
(N, P, C, S, S), 3 for volumes (N, C, D, H, W).
"""

from __future__ import annotations

import torch
from torch import Tensor


def is_channels_last(x: Tensor, spatial: int = 2) -> bool:
    """Channels innermost and not also contiguous."""
    if x.is_contiguous():
        return False
    return x.movedim(-1 - spatial, -1).is_contiguous()


def in_format_of(x: Tensor, like: Tensor, spatial: int = 2) -> Tensor:
    """x, stored channels last exactly when ``like`` is, else contiguous. Values are unchanged."""
    if is_channels_last(like, spatial):
        return _canonical(x.movedim(-1 - spatial, -1)).movedim(-1, -1 - spatial)
    return _canonical(x)


def _canonical(x: Tensor) -> Tensor:
    """Contiguous, and with the strides of a fresh tensor on axes of size 1 too."""
    return x.contiguous().view(-1).view(x.shape)


def empty_in_format_of(
    like: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None, spatial: int = 2
) -> Tensor:
    """Uninitialized tensor of this shape, stored channels last exactly when ``like`` is."""
    if not is_channels_last(like, spatial):
        return like.new_empty(shape, dtype=dtype)
    strides: list[int] = []
    step = shape[-1 - spatial]
    for size in reversed(shape[-spatial:]):
        strides.insert(0, step)
        step = step * size
    strides.insert(0, 1)
    for size in reversed(shape[: -1 - spatial]):
        strides.insert(0, step)
        step = step * size
    return like.new_empty_strided(shape, strides, dtype=dtype)
