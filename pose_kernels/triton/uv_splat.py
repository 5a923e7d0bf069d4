# SPDX-License-Identifier: Apache-2.0
"""uv_splat and its backward in Triton: pixels scatter with atomics, and gather back without.

Forward, one program per BLOCK pixels of an image, in two or three launches:
  1. _weigh       D += w at the four corners;
  2. _accumulate  A += w c, or w c / D where D > min_weight: D is complete by then, so the atlas
                  needs no pass of its own to be normalized;
  3. _convert     float16 and bfloat16 only: sums -> atlas.
Only texels that a pixel hits are touched after the outputs were zeroed, a few percent of an atlas:
traffic is one write of the outputs plus, by estimate, 100 bytes per foreground pixel and channel.
Adding color and weight first and dividing later would read and write the whole atlas once more
(three times the bytes). float32 and float64 are summed in the atlas itself. Halves are summed in
float32 texel rows; _weigh zeroes those that will be hit, and the rest of that buffer is never
touched. Rows whose length is a multiple of 4 (sums are padded to one) take one 16-byte atomic per
corner and 4 channels on sm_90 and later. All atomics are relaxed and unordered: where
torch.use_deterministic_algorithms asks for one order, the reference runs instead.

Backward: a pure gather, deterministic, in one launch. Every pixel reads the corners it hit.
  q_k = grad_atlas_k [/ D_k where D_k > min_weight, else 0]     grad_image = sum_k w_k q_k
  grad_uv = sum_k (sum_c (image_c - atlas_kc) q_kc [+ grad_weight_k]) d w_k / d uv
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import geometry_dtype
from ..reference.layout import empty_in_format_of
from ..reference.uv_splat import uv_splat as reference_splat
from .bilinear import (
    chunk,
    columns,
    corner_slopes,
    corner_weights,
    dense,
    launch,
    locate,
    row,
    rows,
)


@triton.jit
def _weigh(
    part,  # [N, HW]
    uv,  # [N, 2, HW]
    weight,  # [N P, S S]             += w, or None
    sums,  # [N P, S S, SUM_C]        = 0 where a pixel hits, or None
    HW,
    P,
    S,
    SUM_C: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    _, _, _, inside, tile, q, ax, ay, _, _ = locate(part, uv, HW, P, S, BLOCK)
    SS = tl.cast(S, tl.int64) * S
    if weight is not None:
        w = corner_weights(ax, ay)
        for k in tl.static_range(4):
            tl.atomic_add(weight + tile * SS + q[k], w[k], mask=inside, sem="relaxed")
    if sums is not None:
        texel = rows(tile, q, SS, SUM_C, True)
        for first in range(0, SUM_C, CHANNELS):
            c = first + tl.arange(0, CHANNELS)
            write = inside[:, None] & (c < SUM_C)[None, :]
            zero = tl.zeros((BLOCK, CHANNELS), tl.float32)
            for k in tl.static_range(4):
                tl.store(sums + texel[k] + columns(c, SS, True), zero, mask=write)


@triton.jit
def _divisor(weight, texel, inside, min_weight, like):
    """D at one corner of every pixel, and where it counts: inside, and D > min_weight.

    1 everywhere inside where no D is given.
    """
    if weight is None:
        return tl.full(like.shape, 1, like.dtype), inside
    else:
        D = tl.load(weight + texel, mask=inside, other=0)
        visible = inside & (D > tl.full((1,), min_weight, D.dtype))
        return tl.where(visible, D, 1), visible


@triton.jit
def _divisors(weight, first, q, inside, min_weight, like):
    """_divisor of corners 0..3; first: flat index into (N, P, S, S) of the tile."""
    D0, v0 = _divisor(weight, first + q[0], inside, min_weight, like)
    D1, v1 = _divisor(weight, first + q[1], inside, min_weight, like)
    D2, v2 = _divisor(weight, first + q[2], inside, min_weight, like)
    D3, v3 = _divisor(weight, first + q[3], inside, min_weight, like)
    return (D0, D1, D2, D3), (v0, v1, v2, v3)


@triton.jit
def _over(a, D):
    """a / D, correctly rounded: a texel that one pixel hits gets w / w = 1 times its color."""
    if a.dtype == tl.float32:
        return tl.div_rn(a, D)  # `/` of float32 is an approximation
    else:
        return a / D


@triton.jit
def _all_over(a, D):
    """The same for each of corners 0..3."""
    return _over(a[0], D[0]), _over(a[1], D[1]), _over(a[2], D[2]), _over(a[3], D[3])


@triton.jit
def _accumulate(
    part,  # [N, HW]
    uv,  # [N, 2, HW]
    image,  # [N, C, HW]
    weight,  # [N P, S S]             D, complete, or None: do not normalize
    sums,  # [N P, SUM_C, S S]        +=
    HW,
    P,
    S,
    min_weight: tl.float64,
    C: tl.constexpr,
    SUM_C: tl.constexpr,  # C, or C rounded up
    IMAGE_LAST: tl.constexpr,
    SUMS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    n, pixel, _, inside, tile, q, ax, ay, _, _ = locate(part, uv, HW, P, S, BLOCK)
    SS = tl.cast(S, tl.int64) * S
    D, visible = _divisors(weight, tile * SS, q, inside, min_weight, ax)
    w = _all_over(corner_weights(ax, ay), D)
    source = row(n, pixel, HW, C, IMAGE_LAST)
    texel = rows(tile, q, SS, SUM_C, SUMS_LAST)
    for first in range(0, SUM_C, CHANNELS):
        c = first + tl.arange(0, CHANNELS)
        read = inside[:, None] & (c < C)[None, :]
        color = tl.load(image + source + columns(c, HW, IMAGE_LAST), mask=read, other=0)
        color = color.to(ax.dtype)
        channel = columns(c, SS, SUMS_LAST)
        for k in tl.static_range(4):
            add = visible[k][:, None] & (c < SUM_C)[None, :]
            tl.atomic_add(sums + texel[k] + channel, color * w[k][:, None], add, sem="relaxed")


@triton.jit
def _convert(
    part,  # [N, HW]
    uv,  # [N, 2, HW]
    sums,  # [N P, S S, SUM_C]
    atlas,  # [N P, C, S S]           out, where a pixel hits
    HW,
    P,
    S,
    C: tl.constexpr,
    SUM_C: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    # Pixels that share a texel all write the same value.
    _, _, _, inside, tile, q, _, _, _, _ = locate(part, uv, HW, P, S, BLOCK)
    SS = tl.cast(S, tl.int64) * S
    source = rows(tile, q, SS, SUM_C, True)
    texel = rows(tile, q, SS, C, LAST)
    for first in range(0, C, CHANNELS):
        c = first + tl.arange(0, CHANNELS)
        read = inside[:, None] & (c < SUM_C)[None, :]
        write = inside[:, None] & (c < C)[None, :]
        for k in tl.static_range(4):
            value = tl.load(sums + source[k] + columns(c, SS, True), mask=read, other=0)
            tl.store(atlas + texel[k] + columns(c, SS, LAST), value, mask=write)


def uv_splat(
    image: Tensor,
    part: Tensor,
    uv: Tensor,
    num_parts: int,
    size: int,
    normalize: bool,
    min_weight: float,
    with_weight: bool,
) -> tuple[Tensor, Tensor]:
    """``pose_kernels::uv_splat``."""
    if torch.are_deterministic_algorithms_enabled():
        atlas, weight = reference_splat(
            image,
            part,
            uv,
            num_parts=num_parts,
            size=size,
            normalize=normalize,
            min_weight=min_weight,
        )
        return atlas, weight if with_weight else weight.new_empty(0)

    N, C, H, W = image.shape
    accumulator = geometry_dtype(image.dtype)
    atlas = empty_in_format_of(image, (N, num_parts, C, size, size)).zero_()
    keep_weight = with_weight or normalize
    weight = image.new_zeros((N, num_parts, size, size) if keep_weight else 0, dtype=accumulator)
    image, last = dense(image)
    part, uv = part.contiguous(), uv.to(accumulator).contiguous()
    sizes = (H * W, num_parts, size)
    half = image.dtype != accumulator and C > 0
    sums, sums_last, SUM_C = atlas, last, C
    if half:
        SUM_C = C if C < 3 else triton.cdiv(C, 4) * 4
        sums = image.new_empty((N, num_parts, size, size, SUM_C), dtype=accumulator)
        sums_last = True
    chunks = {"SUM_C": SUM_C, "CHANNELS": chunk(SUM_C, sums_last)}
    if part.numel() > 0 and (keep_weight or half):
        add, zero = weight if keep_weight else None, sums if half else None
        launch(_weigh, part, uv, add, zero, *sizes, **chunks)
    if part.numel() > 0 and C > 0:
        args = (image, weight if normalize else None, sums, *sizes, min_weight)
        launch(_accumulate, part, uv, *args, C=C, IMAGE_LAST=last, SUMS_LAST=sums_last, **chunks)
    if part.numel() > 0 and half:
        launch(_convert, part, uv, sums, atlas, *sizes, C=C, LAST=last, **chunks)
    return atlas, weight if with_weight else weight.new_empty(0)


@triton.jit
def _splat_backward(
    part,  # [N, HW]
    uv,  # [N, 2, HW]
    grad_atlas,  # [N P, C, S S]
    grad_weight,  # [N P, S S]        or None: zero
    image,  # [N, C, HW]              read for grad_uv
    atlas,  # [N P, C, S S]           read for grad_uv when normalized
    weight,  # [N P, S S]             D when normalized, else None
    grad_image,  # [N, C, HW]         out, or None: not wanted
    grad_uv,  # [N, 2, HW]            out, or None: not wanted
    HW,
    P,
    S,
    min_weight: tl.float64,
    C: tl.constexpr,
    GRAD_LAST: tl.constexpr,
    IMAGE_LAST: tl.constexpr,
    ATLAS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    n, pixel, within, inside, tile, q, ax, ay, live_u, live_v = locate(part, uv, HW, P, S, BLOCK)
    SS = tl.cast(S, tl.int64) * S
    D, visible = _divisors(weight, tile * SS, q, inside, min_weight, ax)
    one = tl.full(ax.shape, 1, ax.dtype)
    over = _all_over((one, one, one, one), D)
    w = corner_weights(ax, ay)
    slope_x, slope_y = corner_slopes(ax, ay)
    texel = rows(tile, q, SS, C, GRAD_LAST)
    texel_of_atlas = rows(tile, q, SS, C, ATLAS_LAST)
    sum_x = tl.zeros((BLOCK, CHANNELS), ax.dtype)  # d loss / d ax, by channel
    sum_y = tl.zeros((BLOCK, CHANNELS), ax.dtype)
    for first in range(0, C, CHANNELS):
        c = first + tl.arange(0, CHANNELS)
        channel = columns(c, SS, GRAD_LAST)
        total = tl.zeros((BLOCK, CHANNELS), ax.dtype)
        if grad_uv is not None:
            read = inside[:, None] & (c < C)[None, :]
            source = row(n, pixel, HW, C, IMAGE_LAST) + columns(c, HW, IMAGE_LAST)
            color = tl.load(image + source, mask=read, other=0).to(ax.dtype)
        for k in tl.static_range(4):
            read = visible[k][:, None] & (c < C)[None, :]
            g = tl.load(grad_atlas + texel[k] + channel, mask=read, other=0).to(ax.dtype)
            if grad_image is not None:
                total += g * (w[k] * over[k])[:, None]
            if grad_uv is not None:
                difference = color
                if weight is not None:
                    mean = atlas + texel_of_atlas[k] + columns(c, SS, ATLAS_LAST)
                    difference -= tl.load(mean, mask=read, other=0).to(ax.dtype)
                sum_x += difference * g * (slope_x[k] * over[k])[:, None]
                sum_y += difference * g * (slope_y[k] * over[k])[:, None]
        if grad_image is not None:
            out = row(n, pixel, HW, C, GRAD_LAST) + columns(c, HW, GRAD_LAST)
            write = within[:, None] & (c < C)[None, :]
            tl.store(grad_image + out, total, mask=write)
    if grad_uv is not None:
        gx = tl.sum(sum_x, axis=1)
        gy = tl.sum(sum_y, axis=1)
        if grad_weight is not None:
            for k in tl.static_range(4):
                g = tl.load(grad_weight + tile * SS + q[k], mask=inside, other=0)
                gx += g * slope_x[k]
                gy += g * slope_y[k]
        # t = (u (S-1), (1-v) (S-1)), and 0 where an axis is clamped or the pixel background.
        gu = tl.where(live_u, gx * (S - 1), 0)
        gv = tl.where(live_v, gy * (1 - S), 0)
        tl.store(grad_uv + n * 2 * HW + pixel, gu, mask=within)
        tl.store(grad_uv + (n * 2 + 1) * HW + pixel, gv, mask=within)


def uv_splat_backward(
    grad_atlas: Tensor,
    grad_weight: Tensor | None,
    image: Tensor | None,
    part: Tensor,
    uv: Tensor,
    atlas: Tensor | None,
    weight: Tensor | None,
    min_weight: float,
    need_image: bool,
    need_uv: bool,
) -> tuple[Tensor, Tensor]:
    """``pose_kernels::uv_splat_backward``."""
    N, P, C, S, _ = grad_atlas.shape
    H, W = part.shape[1:]
    grad_image = grad_atlas.new_empty(0)
    if need_image:
        grad_image = empty_in_format_of(grad_atlas, (N, C, H, W))
    grad_uv = uv.new_empty(uv.shape if need_uv else (0,))
    if grad_image.numel() == 0 and grad_uv.numel() == 0:
        return grad_image, grad_uv

    uv = uv.to(geometry_dtype(grad_atlas.dtype)).contiguous()
    grad_atlas, grad_last = dense(grad_atlas)
    image_last = atlas_last = False
    if need_uv:
        assert image is not None
        image, image_last = dense(image)
        if weight is not None:
            assert atlas is not None
            atlas, atlas_last = dense(atlas)
    launch(
        _splat_backward,
        part.contiguous(),
        uv,
        grad_atlas,
        grad_weight.contiguous() if need_uv and grad_weight is not None else None,
        image if need_uv else None,
        atlas if need_uv and weight is not None else None,
        weight.contiguous() if weight is not None else None,
        grad_image if need_image else None,
        grad_uv if need_uv else None,
        *(H * W, P, S),
        min_weight,
        C=C,
        GRAD_LAST=grad_last,
        IMAGE_LAST=image_last,
        ATLAS_LAST=atlas_last,
        CHANNELS=chunk(C, grad_last, most=4),  # three accumulators for each
    )
    return grad_image, grad_uv
