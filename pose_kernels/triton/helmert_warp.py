# SPDX-License-Identifier: Apache-2.0
"""helmert_warp and its backward in Triton.

A program owns BLOCK consecutive output voxels. Two launches forward:
  1. _find  places every part at every voxel and notes, a bit each, which parts cover any voxel of
            the program: few do, and most programs see none;
  2. _warp  places those parts once more and keeps a running maximum, some channels at a time.
No atomics. Backward, _warp_backward instead of _warp: the winners are found again, then the
gradients of volume and mask are scattered with relaxed atomics and the twelve sums of each map are
added up in float64. The order of atomics is open: where torch.use_deterministic_algorithms asks
for one order, the reference runs instead. float16 and bfloat16 are summed in a float32 volume.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import geometry_dtype
from ..reference.helmert_warp import helmert_warp_backward as reference_backward
from ..reference.layout import empty_in_format_of, in_format_of, is_channels_last
from .trilinear import corner_weight, offset, place, voxels

BLOCK = 128  # output voxels of a program, one per thread
PER_WORD = 16  # parts noted in one int32


@triton.jit
def _find(
    transform,  # [N, P, 3, 4]
    bits,  # [N, V], or None
    mask,  # [N, P, V], or None
    active,  # [programs, WORDS]      out: PER_WORD parts each
    D,
    H,
    W,
    P: tl.constexpr,
    WORDS: tl.constexpr,
    PER_WORD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n, _voxel, within, x, y, z = voxels(D * H * W, H, W, transform, BLOCK)
    for word in range(0, WORDS):
        found = tl.full((), 0, tl.int32)
        for j in range(0, PER_WORD):
            i = word * PER_WORD + j
            if i < P:
                covered, _q, _m, _w, _d = place(
                    transform, bits, mask, n, i, x, y, z, within, P, D, H, W
                )
                found |= tl.max(covered.to(tl.int32), axis=0) << j
        tl.store(active + tl.program_id(0) * WORDS + word, found)


@triton.jit
def _sample(volume, n, c, q, m, w, C: tl.constexpr, V, LAST: tl.constexpr):
    """Sum over the corners of weight, mask and features; what the mask leaves out is not read."""
    value = tl.zeros((q[0].shape[0], c.shape[0]), w[0][0].dtype)
    for k in tl.static_range(8):
        factor = tl.where(m[k] != 0, corner_weight(w, k) * m[k], 0)
        read = (factor != 0)[:, None] & (c < C)[None, :]
        feature = tl.load(volume + offset(n, q[k], c, C, V, LAST), mask=read, other=0)
        value += factor[:, None] * feature.to(value.dtype)
    return value


@triton.jit
def _warp(
    transform,  # [N, P, 3, 4]
    bits,  # [N, V], or None
    mask,  # [N, P, V], or None
    active,  # [programs, WORDS]
    volume,  # [N, C, V]
    out,  # [N, C, V]                 out
    D,
    H,
    W,
    P: tl.constexpr,
    WORDS: tl.constexpr,
    C: tl.constexpr,
    LAST: tl.constexpr,
    PER_WORD: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    V = D * H * W
    n, voxel, within, x, y, z = voxels(V, H, W, transform, BLOCK)
    for first in range(0, C, CHANNELS):
        c = first + tl.arange(0, CHANNELS)
        best = tl.zeros((BLOCK, CHANNELS), x.dtype)
        seen = tl.zeros((BLOCK,), tl.int32)  # parts that cover a voxel
        for word in range(0, WORDS):
            found = tl.load(active + tl.program_id(0) * WORDS + word)
            for j in range(0, PER_WORD):
                if ((found >> j) & 1) != 0:
                    i = word * PER_WORD + j
                    covered, q, m, w, _d = place(
                        transform, bits, mask, n, i, x, y, z, within, P, D, H, W
                    )
                    value = _sample(volume, n, c, q, m, w, C, V, LAST)
                    stays = (seen > 0)[:, None] & ((best >= value) | (best != best))
                    best = tl.where(stays | ~covered[:, None], best, value)
                    seen += covered.to(tl.int32)
        # Parts that are not there take part with 0.
        stays = (seen > 0)[:, None] & ((best >= 0) | (best != best))
        best = tl.where(stays | (seen == P)[:, None], best, 0)
        write = within[:, None] & (c < C)[None, :]
        tl.store(out + offset(n, voxel, c, C, V, LAST), best, mask=write)


@triton.jit
def _warp_backward(
    transform,  # [N, P, 3, 4]
    bits,  # [N, V], or None
    mask,  # [N, P, V], or None
    active,  # [programs, WORDS]
    volume,  # [N, C, V]
    grad,  # [N, C, V]
    grad_volume,  # [N, C, V]         +=, or None
    grad_mask,  # [N, P, V]           +=, or None
    grad_transform,  # [N, P, 3, 4]   +=, float64, or None
    D,
    H,
    W,
    P: tl.constexpr,
    WORDS: tl.constexpr,
    C: tl.constexpr,
    LAST: tl.constexpr,
    PER_WORD: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    V = D * H * W
    n, voxel, within, x, y, z = voxels(V, H, W, transform, BLOCK)
    some = tl.full((), 0, tl.int32)
    for word in range(0, WORDS):
        some |= tl.load(active + tl.program_id(0) * WORDS + word)
    if some == 0:
        return
    for first in range(0, C, CHANNELS):
        c = first + tl.arange(0, CHANNELS)
        best = tl.zeros((BLOCK, CHANNELS), x.dtype)
        winner = tl.full((BLOCK, CHANNELS), -1, tl.int32)
        seen = tl.zeros((BLOCK,), tl.int32)
        gap = tl.zeros((BLOCK,), tl.int32)  # 1: a part was not there, and took part with 0
        for word in range(0, WORDS):
            found = tl.load(active + tl.program_id(0) * WORDS + word)
            for j in range(0, PER_WORD):
                if ((found >> j) & 1) != 0:
                    i = word * PER_WORD + j
                    covered, q, m, w, _d = place(
                        transform, bits, mask, n, i, x, y, z, within, P, D, H, W
                    )
                    value = _sample(volume, n, c, q, m, w, C, V, LAST)
                    miss = covered & (gap == 0) & (seen != i)
                    above = (seen > 0)[:, None] & ((best >= 0) | (best != best))
                    falls = miss[:, None] & ~above
                    best, winner = tl.where(falls, 0, best), tl.where(falls, -1, winner)
                    gap = tl.where(miss, 1, gap)
                    started = (seen > 0) | (gap != 0)
                    stays = started[:, None] & ((best >= value) | (best != best))
                    stays |= ~covered[:, None]
                    best, winner = tl.where(stays, best, value), tl.where(stays, winner, i)
                    seen += covered.to(tl.int32)
        above = (best >= 0) | (best != best)
        winner = tl.where(above | (seen == P)[:, None], winner, -1)

        exists = within[:, None] & (c < C)[None, :]
        g = tl.load(grad + offset(n, voxel, c, C, V, LAST), mask=exists, other=0).to(x.dtype)
        for word in range(0, WORDS):
            found = tl.load(active + tl.program_id(0) * WORDS + word)
            for j in range(0, PER_WORD):
                if ((found >> j) & 1) != 0:
                    i = word * PER_WORD + j
                    covered, q, m, w, d = place(
                        transform, bits, mask, n, i, x, y, z, within, P, D, H, W
                    )
                    won = (winner == i) & covered[:, None]
                    passed = tl.where(won, g, 0)
                    change_x = tl.zeros((BLOCK,), x.dtype)
                    change_y = tl.zeros((BLOCK,), x.dtype)
                    change_z = tl.zeros((BLOCK,), x.dtype)
                    for k in tl.static_range(8):
                        weight = corner_weight(w, k)
                        there = (d[0][k % 2] != 0) & (d[1][k // 2 % 2] != 0) & (d[2][k // 4] != 0)
                        at = offset(n, q[k], c, C, V, LAST)
                        if grad_volume is not None:
                            factor = tl.where(m[k] != 0, weight * m[k], 0)
                            add = won & (factor != 0)[:, None] & (c < C)[None, :]
                            moved = passed * factor[:, None]
                            tl.atomic_add(grad_volume + at, moved, mask=add, sem="relaxed")
                        if grad_mask is not None or grad_transform is not None:
                            read = won & there[:, None] & (c < C)[None, :]
                            feature = tl.load(volume + at, mask=read, other=0).to(x.dtype)
                            dot = tl.sum(passed * feature, axis=1)
                            if grad_mask is not None:
                                add = covered & there & (weight != 0)
                                into = grad_mask + (n * P + i) * V + q[k]
                                tl.atomic_add(into, weight * dot, mask=add, sem="relaxed")
                            scaled = tl.where(m[k] != 0, m[k] * dot, 0)
                            wx, wy, wz = w[0][k % 2], w[1][k // 2 % 2], w[2][k // 4]
                            change_x += d[0][k % 2] * wy * wz * scaled
                            change_y += wx * d[1][k // 2 % 2] * wz * scaled
                            change_z += wx * wy * d[2][k // 4] * scaled
                    if grad_transform is not None:
                        into = grad_transform + (n * P + i) * 12
                        _add_row(into, change_x, x, y, z)
                        _add_row(into + 4, change_y, x, y, z)
                        _add_row(into + 8, change_z, x, y, z)


@triton.jit
def _add_row(into, change, x, y, z):
    """One row of the gradient of a map, from all voxels of a program."""
    tl.atomic_add(into, tl.sum(change * x, axis=0).to(tl.float64), sem="relaxed")
    tl.atomic_add(into + 1, tl.sum(change * y, axis=0).to(tl.float64), sem="relaxed")
    tl.atomic_add(into + 2, tl.sum(change * z, axis=0).to(tl.float64), sem="relaxed")
    tl.atomic_add(into + 3, tl.sum(change, axis=0).to(tl.float64), sem="relaxed")


class _Scene:
    """What all kernels get of one call, contiguous; and how they are launched."""

    def __init__(self, volume: Tensor, mask: Tensor, transform: Tensor) -> None:
        self.N, self.C, D, H, W = volume.shape
        self.P = transform.shape[1]
        accumulator = geometry_dtype(volume.dtype)
        mask = mask.contiguous()
        bits = not mask.is_floating_point()
        self.programs = self.N * triton.cdiv(D * H * W, BLOCK)
        words = triton.cdiv(self.P, PER_WORD)
        self.maps = (
            transform.to(accumulator).contiguous(),
            mask if bits else None,
            None if bits else mask.to(accumulator),
            mask.new_empty((self.programs, words), dtype=torch.int32),
        )
        self.sizes = (D, H, W)
        self.constants = {"P": self.P, "WORDS": words, "PER_WORD": PER_WORD, "BLOCK": BLOCK}
        self.launch(_find)

    def launch(self, kernel: Any, *args: Any, **constants: Any) -> None:
        # Products of positions must stay apart from their sums: no fused multiply-add.
        options = {"num_warps": max(1, BLOCK // 32), "enable_fp_fusion": False}
        with torch.cuda.device_of(self.maps[0]):
            kernel[(self.programs,)](
                *self.maps, *args, *self.sizes, **self.constants, **constants, **options
            )


def _channels(C: int, last: bool, most: int) -> int:
    """Of a tile. Each tile places the parts again, so not too few; a maximum for each, so not too
    many."""
    return min(triton.next_power_of_2(C), most if last else 4)


def helmert_warp(volume: Tensor, mask: Tensor, transform: Tensor) -> Tensor:
    """``pose_kernels::helmert_warp``."""
    out = empty_in_format_of(volume, tuple(volume.shape), spatial=3)
    if out.numel() == 0:
        return out
    last = is_channels_last(volume, 3)
    scene = _Scene(volume, mask, transform)
    channels = _channels(scene.C, last, 16)
    read = volume if last else volume.contiguous()
    scene.launch(_warp, read, out, C=scene.C, LAST=last, CHANNELS=channels)
    return out


def helmert_warp_backward(
    grad: Tensor,
    volume: Tensor,
    mask: Tensor,
    transform: Tensor,
    need_volume: bool,
    need_mask: bool,
    need_transform: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """``pose_kernels::helmert_warp_backward``."""
    if torch.are_deterministic_algorithms_enabled():
        return reference_backward(
            grad, volume, mask, transform, need_volume, need_mask, need_transform
        )
    accumulator = geometry_dtype(volume.dtype)
    last = is_channels_last(grad, 3)
    grad_volume = volume.new_empty(0)
    if need_volume:
        shape = tuple(volume.shape)
        grad_volume = empty_in_format_of(grad, shape, accumulator, spatial=3).zero_()
    grad_mask = mask.new_zeros(mask.shape if need_mask else 0)
    sums = transform.new_zeros(transform.shape if need_transform else 0, dtype=torch.float64)
    if volume.numel() > 0 and (need_volume or need_mask or need_transform):
        scene = _Scene(volume, mask, transform)
        channels = _channels(scene.C, last, 8)
        scene.launch(
            _warp_backward,
            in_format_of(volume, grad, spatial=3),
            grad if last else grad.contiguous(),
            grad_volume if need_volume else None,
            grad_mask if need_mask else None,
            sums if need_transform else None,
            C=scene.C,
            LAST=last,
            CHANNELS=channels,
        )
    return grad_volume.to(volume.dtype), grad_mask, sums.to(transform.dtype)
