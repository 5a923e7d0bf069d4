# SPDX-License-Identifier: Apache-2.0
"""region_crop and its adjoint in Triton: mirrors csrc/math/window.h.

Images and crops are planes of pixels: contiguous, a plane is a channel; channels last, all of them
are one plane whose pixels have ``across`` elements. Forward, a program owns BLOCK consecutive
elements of one crop. Backward, it owns BLOCK consecutive elements of one image's gradient and adds
up the crops that hold them, in the order of K: no atomics. Nothing but the sum of half types is
computed, so crops and gradients are bit for bit those of the reference.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import geometry_dtype
from ..reference.layout import empty_in_format_of
from .bilinear import dense

BLOCK = 1024


@triton.jit
def _start(center, extent, size):
    """clamp(round(center) - size // 2, 0, extent - size), half to even."""
    below = tl.floor(center)
    rest = center - below
    odd = below - 2 * tl.floor(below * 0.5)
    up = (rest > 0.5) | ((rest == 0.5) & (odd == 1))
    node = tl.where(up, below + 1, below)
    node = tl.minimum(tl.maximum(node, -1099511627776.0), 1099511627776.0)  # 2^40
    start = node.to(tl.int64) - size // 2
    return tl.minimum(tl.maximum(start, 0), extent - size)


@triton.jit
def _window(center, crop, H, W, size):
    """x0, y0 and the window's side: size, or 0 where the center is not finite. All scalars."""
    x, y = tl.load(center + 2 * crop), tl.load(center + 2 * crop + 1)
    valid = (tl.abs(x) < float("inf")) & (tl.abs(y) < float("inf"))  # false for NaN
    x0 = _start(tl.where(valid, x, 0.0), W, size)
    y0 = _start(tl.where(valid, y, 0.0), H, size)
    return x0, y0, tl.where(valid, size, 0)


@triton.jit
def _region_crop(
    center,  # [N, K, 2]
    image,  # [N, planes, H, W, across]
    crops,  # [N, K, planes, size, size, across]      out
    valid,  # [N, K]                                   out
    K,
    planes,
    H,
    W,
    across,
    size,
    programs,  # of a crop
    INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    crop = tl.cast(tl.program_id(0) // programs, tl.int64)
    part = tl.program_id(0) % programs
    x0, y0, side = _window(center, crop, H, W, size)
    if part == 0:
        tl.store(valid + crop, (side > 0).to(tl.int8))
    run = tl.cast(size, INDEX) * across
    length = run * size * planes
    i = tl.cast(part, INDEX) * BLOCK + tl.arange(0, BLOCK)
    row, element = i // run, i % run
    plane, y = row // size, row % size
    line = (crop // K * planes + plane) * H + y0 + y
    source = (line * W + x0) * across + element
    within = i < length
    color = tl.load(image + source, mask=within & (y < side), other=0)
    tl.store(crops + crop * length + i, color, mask=within)


@triton.jit
def _region_crop_backward(
    center,  # [N, K, 2]
    grad,  # [N, K, planes, size, size, across]
    grad_image,  # [N, planes, H, W, across]           out
    K,
    planes,
    H,
    W,
    across,
    size,
    programs,  # of an image
    SUM: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n = tl.cast(tl.program_id(0) // programs, tl.int64)
    width = tl.cast(W, INDEX) * across
    length = width * H * planes
    i = tl.cast(tl.program_id(0) % programs, INDEX) * BLOCK + tl.arange(0, BLOCK)
    row, element = i // width, i % width
    plane, y = row // H, row % H
    within = i < length
    run = tl.cast(size, tl.int64) * across
    total = tl.zeros((BLOCK,), SUM)
    crop = n * K
    while crop < (n + 1) * K:  # the interpreter has no range() of a number that came as argument
        x0, y0, side = _window(center, crop, H, W, size)
        column, line = element - x0 * across, y - y0
        inside = (column >= 0) & (column < run) & (line >= 0) & (line < side)
        at = ((crop * planes + plane) * size + line) * run + column
        total += tl.load(grad + at, mask=inside & within, other=0).to(SUM)
        crop += 1
    tl.store(grad_image + n * length + i, total, mask=within)


def region_crop(image: Tensor, center: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """``pose_kernels::region_crop``."""
    (N, K, _), C = center.shape, image.shape[1]
    crops = empty_in_format_of(image, (N, K, C, size, size))
    valid = image.new_empty((N, K), dtype=torch.bool)
    if valid.numel() == 0:
        return crops, valid
    image, last = dense(image)
    sizes = (*_planes(C, last), *image.shape[2:], size)
    outputs = (crops, valid.view(torch.uint8))
    _launch(_region_crop, N * K, C * size * size, center, (image, *outputs), K, *sizes)
    return crops, valid


def region_crop_backward(grad: Tensor, center: Tensor, height: int, width: int) -> Tensor:
    """``pose_kernels::region_crop_backward``."""
    N, K, C, size, _ = grad.shape
    grad_image = empty_in_format_of(grad, (N, C, height, width))
    if grad_image.numel() == 0:
        return grad_image
    grad, last = dense(grad)
    sizes = (*_planes(C, last), height, width, size)
    double = geometry_dtype(grad.dtype) == torch.float64
    tensors, constants = (grad, grad_image), {"SUM": tl.float64 if double else tl.float32}
    length = C * height * width
    _launch(_region_crop_backward, N, length, center, tensors, K, *sizes, **constants)
    return grad_image


def _planes(C: int, last: bool) -> tuple[int, int]:
    """Planes, and elements of a pixel."""
    return (1, C) if last else (C, 1)


def _launch(
    kernel: Any,
    items: int,
    length: int,
    center: Tensor,
    tensors: tuple[Tensor, ...],
    K: int,
    planes: int,
    across: int,
    H: int,
    W: int,
    size: int,
    **constants: Any,
) -> None:
    """Programs of BLOCK elements for each of ``items`` crops or images of ``length`` elements."""
    programs = max(triton.cdiv(length, BLOCK), 1)
    index = tl.int32 if length + BLOCK < 2**31 else tl.int64
    arguments = (center.contiguous(), *tensors, K, planes, H, W, across, size, programs)
    with torch.cuda.device_of(center):
        kernel[(items * programs,)](*arguments, INDEX=index, BLOCK=BLOCK, **constants)
