# SPDX-License-Identifier: Apache-2.0
"""The surface ops at one block of pixels: mirrors csrc/math/bilinear.h and layout.h.

A program owns BLOCK consecutive pixels of one image; feature tiles are [BLOCK, CHANNELS]. Corners
are numbered 0: (x0, y0), 1: (x0+1, y0), 2: (x0, y0+1), 3: (x0+1, y0+1). Offsets are int64.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference.layout import is_channels_last

# Pixels of a program, one per thread. With fewer pixels than threads, triton 3.6 and 3.7 fail to
# compile some of these kernels (TritonGPURemoveLayoutConversions, triton-lang/triton#5435).
BLOCK = 128


@triton.jit
def locate(
    part,  # [N, HW]
    uv,  # [N, 2, HW]
    HW,
    P,
    S,
    BLOCK: tl.constexpr,
):
    """Where this program's pixels lie, computed in uv's dtype.

    n: image (scalar); pixel: flat index in it, beyond HW where not within; inside: a part in 1..P
    and finite coordinates; tile: flat index into (N, P); q: flat index of corners 0..3 on that
    tile; ax, ay: fractions towards the right and lower ones; live_u, live_v: not clamped, 0 and 1
    count as clamped. A pixel outside lies somewhere on the first tile: what it would read or write
    is masked by the caller, and a sum over masked reads is 0.
    """
    blocks = tl.cdiv(HW, BLOCK)
    n = tl.cast(tl.program_id(0) // blocks, tl.int64)
    pixel = tl.cast(tl.program_id(0) % blocks, tl.int64) * BLOCK + tl.arange(0, BLOCK)
    within = pixel < HW
    i = tl.load(part + n * HW + pixel, mask=within, other=0).to(tl.int64)
    inside = (i >= 1) & (i <= P)
    # Background reads no coordinates: it is most of a photo.
    u = tl.load(uv + n * 2 * HW + pixel, mask=inside, other=0)
    v = tl.load(uv + (n * 2 + 1) * HW + pixel, mask=inside, other=0)
    inside &= (tl.abs(u) < float("inf")) & (tl.abs(v) < float("inf"))  # false for NaN
    tile = n * P + tl.where(inside, i - 1, 0)

    live_u = (u > 0) & (u < 1)  # false for NaN, which goes on as 0
    live_v = (v > 0) & (v < 1)
    tx = tl.where(live_u, u, tl.where(u > 0, 1.0, 0.0).to(u.dtype)) * (S - 1)
    ty = (1 - tl.where(live_v, v, tl.where(v > 0, 1.0, 0.0).to(v.dtype))) * (S - 1)
    last = tl.maximum(S - 2, 0)
    x0 = tl.minimum(tx.to(tl.int32), last)
    y0 = tl.minimum(ty.to(tl.int32), last)
    step = tl.minimum(S - 1, 1)  # 0 on a tile of one texel
    q0 = y0.to(tl.int64) * S + x0
    q2 = q0 + tl.cast(step, tl.int64) * S
    q = (q0, q0 + step, q2, q2 + step)
    return n, pixel, within, inside, tile, q, tx - x0, ty - y0, live_u, live_v


@triton.jit
def corner_weights(ax, ay):
    """k(t_x - q_x) k(t_y - q_y) of corners 0..3."""
    bx, by = 1 - ax, 1 - ay
    return bx * by, ax * by, bx * ay, ax * ay


@triton.jit
def corner_slopes(ax, ay):
    """d weight / d ax of corners 0..3, and d weight / d ay."""
    bx, by = 1 - ax, 1 - ay
    return (-by, by, -ay, ay), (-bx, -ax, bx, ax)


# Features are stacks of images or tiles, [items, C, pixels], or stored channels last (LAST),
# [items, pixels, C]. C is a compile-time constant so that the compiler sees the alignment of such
# rows and moves 16 bytes per instruction where it may.


@triton.jit
def row(item, pixel, pixels, C: tl.constexpr, LAST: tl.constexpr):
    """Offset of channel 0 of each pixel, as a column [BLOCK, 1]."""
    if LAST:
        return ((item * pixels + pixel) * C)[:, None]
    else:
        return (item * C * pixels + pixel)[:, None]


@triton.jit
def rows(tile, q, texels, C: tl.constexpr, LAST: tl.constexpr):
    """The same for the texels at corners 0..3."""
    return (
        row(tile, q[0], texels, C, LAST),
        row(tile, q[1], texels, C, LAST),
        row(tile, q[2], texels, C, LAST),
        row(tile, q[3], texels, C, LAST),
    )


@triton.jit
def columns(c, pixels, LAST: tl.constexpr):
    """Offset of each channel from channel 0, as a row [1, CHANNELS]."""
    if LAST:
        return c.to(tl.int64)[None, :]
    else:
        return (c.to(tl.int64) * pixels)[None, :]


def dense(x: Tensor) -> tuple[Tensor, bool]:
    """x in a format the kernels read, and whether that is channels last."""
    last = is_channels_last(x)
    return (x if last else x.contiguous()), last


def chunk(channels: int, last: bool, most: int = 8) -> int:
    """CHANNELS of a tile. Planes go one by one, a thread per pixel, each thread on its own.

    Rows of a multiple of 4 channels go in runs of 32 bytes of float32, a sector, 16 bytes per
    thread. Other rows have no such alignment: threads side by side share 4 channels of a pixel.
    """
    if not last:
        return 1
    return min(triton.next_power_of_2(max(channels, 1)), most if channels % 4 == 0 else 4)


def launch(kernel: Any, part: Tensor, *args: Any, **constants: Any) -> None:
    """Run ``kernel(part, *args)``, one program per BLOCK pixels of part (N, H, W).

    Without fused multiply-add, corner weights are bit for bit those of the reference: never
    negative, and the same in every kernel whatever the compiler fuses elsewhere.
    """
    N, H, W = part.shape
    grid = (N * triton.cdiv(H * W, BLOCK),)
    options = {"num_warps": BLOCK // 32, "enable_fp_fusion": False}
    with torch.cuda.device_of(part):
        kernel[grid](part, *args, BLOCK=BLOCK, **constants, **options)
