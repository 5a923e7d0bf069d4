# SPDX-License-Identifier: Apache-2.0
"""uv_gather in Triton: every pixel reads the four texels around its point.

One program per BLOCK pixels of an image computes their points once and then walks the channels.
Every pixel of the image is written, background as 0; background reads its part and nothing else.
No atomics. Channels last, a corner is one run of C values; contiguous, it is C scattered reads.
The gradient of the atlas is uv_splat, that of uv is uv_splat_backward.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..checks import geometry_dtype
from ..reference.layout import empty_in_format_of
from .bilinear import chunk, columns, corner_weights, dense, launch, locate, row, rows


@triton.jit
def _gather(
    part,  # [N, HW]
    uv,  # [N, 2, HW]
    atlas,  # [N P, C, S S]
    image,  # [N, C, HW]      out
    HW,
    P,
    S,
    C: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    n, pixel, within, inside, tile, q, ax, ay, _, _ = locate(part, uv, HW, P, S, BLOCK)
    SS = tl.cast(S, tl.int64) * S
    w = corner_weights(ax, ay)
    texel = rows(tile, q, SS, C, LAST)
    out = row(n, pixel, HW, C, LAST)
    for first in range(0, C, CHANNELS):
        c = first + tl.arange(0, CHANNELS)
        channel = columns(c, SS, LAST)
        read = inside[:, None] & (c < C)[None, :]
        total = tl.zeros((BLOCK, CHANNELS), ax.dtype)
        for k in tl.static_range(4):
            color = tl.load(atlas + texel[k] + channel, mask=read, other=0).to(ax.dtype)
            total += color * w[k][:, None]
        write = within[:, None] & (c < C)[None, :]
        tl.store(image + out + columns(c, HW, LAST), total, mask=write)


def uv_gather(atlas: Tensor, part: Tensor, uv: Tensor) -> Tensor:
    """``pose_kernels::uv_gather``."""
    _, P, C, S, _ = atlas.shape
    N, H, W = part.shape
    image = empty_in_format_of(atlas, (N, C, H, W))
    if image.numel() == 0:
        return image
    atlas, last = dense(atlas)
    uv = uv.to(geometry_dtype(atlas.dtype)).contiguous()
    args = (part.contiguous(), uv, atlas, image, H * W, P, S)
    launch(_gather, *args, C=C, LAST=last, CHANNELS=chunk(C, last))
    return image
