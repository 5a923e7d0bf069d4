# SPDX-License-Identifier: Apache-2.0
"""flow_warp and its backward in Triton.

A program owns BLOCK consecutive output pixels of one image: it places their taps once (mirrors
csrc/math/flow.h) and walks the channels. Forward: no atomics, nothing but the output is written.
Backward, one launch: the gradient of the flow is a gather; that of the image is scattered with
relaxed atomics into a zeroed image (of float32 for half types). Their order is open: where
torch.use_deterministic_algorithms asks for one order, the reference runs instead.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import geometry_dtype
from ..reference.flow_warp import BORDER, EXPAND
from ..reference.flow_warp import flow_warp_backward as reference_backward
from ..reference.layout import empty_in_format_of, in_format_of
from .bilinear import chunk, columns, dense, row, rows

BLOCK = 128  # output pixels of a program, one per thread


@triton.jit
def _axis(flow, index, size, BORDER: tl.constexpr):
    """Near tap, which exists, and along one axis (near, far): weights, slopes; 0: no tap."""
    flow = tl.minimum(tl.maximum(flow, -33554432.0), 33554432.0)
    lower = tl.floor(flow)
    fraction = flow - lower
    near = index + lower.to(tl.int32)
    slope = tl.full(flow.shape, 1, flow.dtype)
    if BORDER:
        live = (near >= 0) & (near < size - 1)
        fraction = tl.where(live, fraction, 0)
        slope = tl.where(live, slope, 0)
        near = tl.minimum(tl.maximum(near, 0), size - 1)
    has_near = (near >= 0) & (near < size)
    has_far = (near >= -1) & (near < size - 1)
    weight = (tl.where(has_near, 1 - fraction, 0), tl.where(has_far, fraction, 0))
    slopes = (tl.where(has_near, -slope, 0), tl.where(has_far, slope, 0))
    first = tl.minimum(tl.maximum(near, 0), size - 1).to(tl.int64)
    second = tl.minimum(tl.maximum(near + 1, 0), size - 1).to(tl.int64)
    return (first, second), weight, slopes


@triton.jit
def _place(
    flow, visibility, H, W, h, w, MODE: tl.constexpr, BORDER: tl.constexpr, BLOCK: tl.constexpr
):
    """n: image (scalar); pixel: flat index in its output, beyond h w where not within; side: half
    of the output channels, -1 where nothing is read; q: flat index in the image of the taps (0, 0),
    (1, 0), (0, 1), (1, 1); their weights; slopes of the weights along x, and along y."""
    hw = tl.cast(h, tl.int64) * w
    blocks = tl.cdiv(hw, BLOCK)
    n = tl.cast(tl.program_id(0) // blocks, tl.int64)
    pixel = tl.cast(tl.program_id(0) % blocks, tl.int64) * BLOCK + tl.arange(0, BLOCK)
    within = pixel < hw
    side = tl.where(within, 0, -1)
    if MODE != 0:
        seen = tl.load(visibility + n * hw + pixel, mask=within, other=2).to(tl.int32)
        side = tl.where(seen >= 2, -1, seen if MODE == 2 else 0)
    fx = tl.load(flow + n * 2 * hw + pixel, mask=side >= 0, other=0)
    fy = tl.load(flow + (n * 2 + 1) * hw + pixel, mask=side >= 0, other=0)
    finite = (tl.abs(fx) < float("inf")) & (tl.abs(fy) < float("inf"))  # false for NaN
    side = tl.where(finite, side, -1)
    x = (pixel % w).to(tl.int32)
    y = (pixel // w).to(tl.int32)
    column, wx, sx = _axis(tl.where(side >= 0, fx, 0), x, W, BORDER)
    line, wy, sy = _axis(tl.where(side >= 0, fy, 0), y, H, BORDER)
    one = tl.where(side >= 0, 1, 0).to(fx.dtype)
    top, bottom = wy[0] * one, wy[1] * one
    up, down = sy[0] * one, sy[1] * one
    q = (
        line[0] * W + column[0],
        line[0] * W + column[1],
        line[1] * W + column[0],
        line[1] * W + column[1],
    )
    weight = (wx[0] * top, wx[1] * top, wx[0] * bottom, wx[1] * bottom)
    along_x = (sx[0] * top, sx[1] * top, sx[0] * bottom, sx[1] * bottom)
    along_y = (wx[0] * up, wx[1] * up, wx[0] * down, wx[1] * down)
    return n, pixel, within, side, q, weight, along_x, along_y


@triton.jit
def _warp(
    flow,  # [N, 2, h w]
    visibility,  # [N, h w], or None
    image,  # [N, C, H W]
    out,  # [N, OUT_C, h w]           out
    H,
    W,
    h,
    w,
    C: tl.constexpr,
    OUT_C: tl.constexpr,
    MODE: tl.constexpr,
    BORDER: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    n, pixel, within, side, q, weight, _x, _y = _place(
        flow, visibility, H, W, h, w, MODE, BORDER, BLOCK
    )
    HW, hw = tl.cast(H, tl.int64) * W, tl.cast(h, tl.int64) * w
    taps = rows(n, q, HW, C, LAST)
    to = row(n, pixel, hw, OUT_C, LAST)
    for first in range(0, C, CHANNELS):
        c = first + tl.arange(0, CHANNELS)
        total = tl.zeros((BLOCK, CHANNELS), weight[0].dtype)
        begun = weight[0] != weight[0]  # false: the first product is not added to 0, it may be -0
        for k in tl.static_range(4):
            has = weight[k] != 0
            read = has[:, None] & (c < C)[None, :]
            tap = tl.load(image + taps[k] + columns(c, HW, LAST), mask=read, other=0)
            product = tap.to(total.dtype) * weight[k][:, None]
            added = tl.where(begun[:, None], total + product, product)
            total = tl.where(has[:, None], added, total)
            begun |= has
        write = within[:, None] & (c < C)[None, :]
        if MODE == 2:
            visible = tl.where((side == 0)[:, None], total, 0)
            occluded = tl.where((side == 1)[:, None], total, 0)
            tl.store(out + to + columns(c, hw, LAST), visible, mask=write)
            tl.store(out + to + columns(c + C, hw, LAST), occluded, mask=write)
        else:
            tl.store(out + to + columns(c, hw, LAST), total, mask=write)


@triton.jit
def _warp_backward(
    flow,  # [N, 2, h w]
    visibility,  # [N, h w], or None
    grad,  # [N, OUT_C, h w]
    image,  # [N, C, H W]             read for grad_flow
    grad_image,  # [N, C, H W]        +=, or None: not wanted
    grad_flow,  # [N, 2, h w]         out, or None: not wanted
    H,
    W,
    h,
    w,
    C: tl.constexpr,
    OUT_C: tl.constexpr,
    MODE: tl.constexpr,
    BORDER: tl.constexpr,
    LAST: tl.constexpr,
    IMAGE_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    n, pixel, within, side, q, weight, along_x, along_y = _place(
        flow, visibility, H, W, h, w, MODE, BORDER, BLOCK
    )
    HW, hw = tl.cast(H, tl.int64) * W, tl.cast(h, tl.int64) * w
    into = rows(n, q, HW, C, LAST)
    taps = rows(n, q, HW, C, IMAGE_LAST)
    source = row(n, pixel, hw, OUT_C, LAST)
    half = tl.where(side == 1, C, 0)
    dot_x = tl.zeros((BLOCK, CHANNELS), weight[0].dtype)
    dot_y = tl.zeros((BLOCK, CHANNELS), weight[0].dtype)
    for first in range(0, C, CHANNELS):
        c = first + tl.arange(0, CHANNELS)
        live = (side >= 0)[:, None] & (c < C)[None, :]
        offset = c.to(tl.int64)[None, :] + half[:, None]
        if not LAST:
            offset *= hw
        g = tl.load(grad + source + offset, mask=live, other=0).to(dot_x.dtype)
        for k in tl.static_range(4):
            if grad_image is not None:
                add = (weight[k] != 0)[:, None] & (c < C)[None, :]
                moved = g * weight[k][:, None]
                tl.atomic_add(
                    grad_image + into[k] + columns(c, HW, LAST), moved, mask=add, sem="relaxed"
                )
            if grad_flow is not None:
                by_x, by_y = (along_x[k] != 0)[:, None], (along_y[k] != 0)[:, None]
                read = (by_x | by_y) & live
                tap = tl.load(image + taps[k] + columns(c, HW, IMAGE_LAST), mask=read, other=0)
                product = g * tap.to(dot_x.dtype)
                dot_x += tl.where(by_x, product * along_x[k][:, None], 0)
                dot_y += tl.where(by_y, product * along_y[k][:, None], 0)
    if grad_flow is not None:
        tl.store(grad_flow + n * 2 * hw + pixel, tl.sum(dot_x, axis=1), mask=within)
        tl.store(grad_flow + (n * 2 + 1) * hw + pixel, tl.sum(dot_y, axis=1), mask=within)


def _launch(kernel: Any, flow: Tensor, *args: Any, **constants: Any) -> None:
    N, _, h, w = flow.shape
    grid = (N * triton.cdiv(h * w, BLOCK),)
    options = {"num_warps": max(1, BLOCK // 32), "enable_fp_fusion": False}
    with torch.cuda.device_of(flow):
        kernel[grid](flow, *args, h, w, BLOCK=BLOCK, **constants, **options)


def flow_warp(
    image: Tensor, flow: Tensor, visibility: Tensor | None, mode: int, padding: int
) -> Tensor:
    """``pose_kernels::flow_warp``."""
    N, C, H, W = image.shape
    channels = 2 * C if mode == EXPAND else C
    out = empty_in_format_of(image, (N, channels, *flow.shape[2:]))
    if out.numel() == 0:
        return out
    image, last = dense(image)
    flow = flow.to(geometry_dtype(image.dtype)).contiguous()
    seen = None if visibility is None else visibility.contiguous()
    constants = {"C": C, "OUT_C": channels, "MODE": mode, "BORDER": padding == BORDER}
    _launch(_warp, flow, seen, image, out, H, W, LAST=last, CHANNELS=chunk(C, last), **constants)
    return out


def flow_warp_backward(
    grad: Tensor,
    image: Tensor,
    flow: Tensor,
    visibility: Tensor | None,
    mode: int,
    padding: int,
    need_image: bool,
    need_flow: bool,
) -> tuple[Tensor, Tensor]:
    """``pose_kernels::flow_warp_backward``."""
    if need_image and torch.are_deterministic_algorithms_enabled():
        grad_image, grad_flow = reference_backward(
            grad, image, flow, visibility, mode, padding, need_image, need_flow
        )
        return in_format_of(grad_image, grad), grad_flow
    N, C, H, W = image.shape
    accumulator = geometry_dtype(image.dtype)
    grad_image, grad_flow = image.new_empty(0), flow.new_empty(flow.shape if need_flow else 0)
    if need_image:
        grad_image = empty_in_format_of(grad, (N, C, H, W), dtype=accumulator).zero_()
    if grad.numel() > 0 and (need_image or need_flow):
        grad, last = dense(grad)
        image, image_last = dense(image)
        seen = None if visibility is None else visibility.contiguous()
        constants = {"C": C, "OUT_C": grad.shape[1], "MODE": mode, "BORDER": padding == BORDER}
        _launch(
            _warp_backward,
            flow.to(accumulator).contiguous(),
            seen,
            grad,
            image if need_flow else None,
            grad_image if need_image else None,
            grad_flow if need_flow else None,
            *(H, W),
            LAST=last,
            IMAGE_LAST=image_last,
            CHANNELS=chunk(C, last, most=4),
            **constants,
        )
    elif need_flow:
        grad_flow.zero_()
    return grad_image.to(image.dtype), grad_flow
