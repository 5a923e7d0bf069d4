# SPDX-License-Identifier: Apache-2.0
"""capsule_mask in Triton, hard and soft, and the backward of the soft one.

A program owns BLOCK consecutive voxels of one sample, or of one part of it, and walks over the
capsules; mirrors csrc/math/capsule.h line by line. The backward has a program per capsule and block
of voxels, which finds the nearest capsule of the part again, and writes nine sums; those are added
up in the order of the blocks. No atomics: the same bits every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 512


@triton.jit
def _usable(x):
    return tl.abs(x) <= 1e18  # false for NaN


@triton.jit
def _capsule(points, part, n, k, K, P):
    """Capsule k of sample n: ends, 1 / half-axes, e / |e|^2, largest t, its part or -1: empty."""
    at = points + (n * K + k) * 9  # [N, K, 9]: start, end, half-axes
    ax, ay, az = tl.load(at), tl.load(at + 1), tl.load(at + 2)
    bx, by, bz = tl.load(at + 3), tl.load(at + 4), tl.load(at + 5)
    rx, ry, rz = tl.load(at + 6), tl.load(at + 7), tl.load(at + 8)
    ix, iy, iz = 1 / rx, 1 / ry, 1 / rz
    ex, ey, ez = (bx - ax) * ix, (by - ay) * iy, (bz - az) * iz
    length2 = ex * ex + ey * ey + ez * ez
    full = _usable(ax) & _usable(ay) & _usable(az) & _usable(bx) & _usable(by) & _usable(bz)
    full = full & _usable(rx) & _usable(ry) & _usable(rz) & (rx > 0) & (ry > 0) & (rz > 0)
    full = full & _usable(ix) & _usable(iy) & _usable(iz) & (length2 < float("inf"))
    which = tl.load(part + n * K + k)
    full = full & (which >= 0) & (which < P)
    last = tl.where(length2 >= 1.1754943508222875e-38, 1.0, 0.0).to(ax.dtype)
    scale = last / tl.where(last > 0, length2, 1.0)
    along = (ex * scale, ey * scale, ez * scale)
    return (ax, ay, az), (bx, by, bz), (ix, iy, iz), along, last, tl.where(full, which, -1)


@triton.jit
def _point(a, b, inv, along, last, x, y, z):
    """t, q and |q|^2 of the nearest point."""
    xa, xb = (x - a[0]) * inv[0], (x - b[0]) * inv[0]
    ya, yb = (y - a[1]) * inv[1], (y - b[1]) * inv[1]
    za, zb = (z - a[2]) * inv[2], (z - b[2]) * inv[2]
    t = along[0] * xa + (ya * along[1] + za * along[2])
    t = tl.where(t > 0, t, 0.0)  # NaN goes to 0
    t = tl.where(t < last, t, last)
    u = 1 - t
    qx, qy, qz = u * xa + t * xb, u * ya + t * yb, u * za + t * zb
    return t, qx, qy, qz, qx * qx + qy * qy + qz * qz


@triton.jit
def _voxels(block, D, H, W, like, BLOCK: tl.constexpr):
    """Flat index, whether it exists, and x, y, z of this program's voxels."""
    voxel = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = voxel < tl.cast(D, tl.int64) * H * W
    x = (voxel % W).to(like.dtype)
    y = (voxel // W % H).to(like.dtype)
    z = (voxel // W // H).to(like.dtype)
    return voxel, exists, x, y, z


@triton.jit
def _mask(
    points,  # [N, K, 9]
    part,  # [N, K]
    mask,  # [N, D H W] int32, or [N, P, D H W] bytes      out
    K: tl.constexpr,
    P,
    D,
    H,
    W,
    blocks,
    PACKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    volume = tl.program_id(0) // blocks
    n = volume.to(tl.int64) if PACKED else (volume // P).to(tl.int64)
    like = tl.load(points)
    voxel, exists, x, y, z = _voxels(tl.program_id(0) % blocks, D, H, W, like, BLOCK)
    found = tl.zeros((BLOCK,), tl.int32)
    for k in range(K):
        a, b, inv, along, last, which = _capsule(points, part, n, k, K, P)
        if PACKED:
            bit = tl.where(which >= 0, 1 << tl.where(which >= 0, which, 0), 0)
        else:
            bit = tl.where(which == volume % P, 1, 0)
        _, _, _, _, d2 = _point(a, b, inv, along, last, x, y, z)
        found |= tl.where(d2 <= 1, bit, 0)
    out = mask + volume.to(tl.int64) * D * H * W + voxel
    tl.store(out, found.to(mask.dtype.element_ty), mask=exists)


@triton.jit
def _nearest(points, part, n, p, K: tl.constexpr, P, x, y, z, BLOCK: tl.constexpr):
    """Squared distance to the nearest capsule of part p, cut at 1e30; its index; is there one."""
    nearest = tl.zeros((BLOCK,), x.dtype) + 1e30
    winner = tl.zeros((BLOCK,), tl.int32) - 1
    any = 0
    for k in range(K):
        a, b, inv, along, last, which = _capsule(points, part, n, k, K, P)
        own = which == p
        any += tl.where(own, 1, 0)
        _, _, _, _, d2 = _point(a, b, inv, along, last, x, y, z)
        less = (d2 < nearest) & own  # false for NaN
        nearest = tl.where(less, d2, nearest)
        winner = tl.where(less, k, winner)
    return nearest, winner, any


@triton.jit
def _sigmas(d, softness):
    """sigma((1 - d) / s) and 1 - it; exponentials of what is not positive only."""
    z = (d - 1) / softness
    small = tl.exp(-tl.abs(z))
    less, more = small / (1 + small), 1 / (1 + small)
    return tl.where(z > 0, less, more), tl.where(z > 0, more, less)


@triton.jit
def _soft_mask(
    points,  # [N, K, 9]
    part,  # [N, K]
    softness,  # [1]
    mask,  # [N, P, D H W]      out
    K: tl.constexpr,
    P,
    D,
    H,
    W,
    blocks,
    BLOCK: tl.constexpr,
):
    volume = (tl.program_id(0) // blocks).to(tl.int64)
    n, p = volume // P, volume % P
    s = tl.load(softness)
    voxel, exists, x, y, z = _voxels(tl.program_id(0) % blocks, D, H, W, s, BLOCK)
    d2, _, any = _nearest(points, part, n, p, K, P, x, y, z, BLOCK)
    sigma, _ = _sigmas(tl.sqrt(d2), s)
    out = mask + volume * D * H * W + voxel
    tl.store(out, tl.where(any > 0, sigma, 0.0), mask=exists)


@triton.jit
def _soft_mask_backward(
    grad,  # [N, P, D H W]
    points,  # [N, K, 9]
    part,  # [N, K]
    softness,  # [1]
    sums,  # [N, K, blocks, 9]      out
    K: tl.constexpr,
    P,
    D,
    H,
    W,
    blocks,
    BLOCK: tl.constexpr,
):
    capsule = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    n, k = capsule // K, capsule % K
    s = tl.load(softness)
    a, b, inv, along, last, p = _capsule(points, part, n, k, K, P)
    out = sums + (capsule * blocks + block) * 9
    voxel, exists, x, y, z = _voxels(block, D, H, W, s, BLOCK)
    d2, winner, _ = _nearest(points, part, n, p, K, P, x, y, z, BLOCK)
    own = exists & (winner == k) & (p >= 0) & (d2 > 0)
    g = tl.load(grad + (n * P + p) * D * H * W + voxel, mask=own, other=0)
    d = tl.sqrt(tl.where(own, d2, 1.0))
    sigma, rest = _sigmas(d, s)
    slope = g * sigma * rest / (d * s)
    t, qx, qy, qz, _ = _point(a, b, inv, along, last, x, y, z)
    # What an empty capsule makes of its numbers is not looked at.
    qx, qy, qz = tl.where(own, qx, 0.0), tl.where(own, qy, 0.0), tl.where(own, qz, 0.0)
    hx = tl.where(own, slope * qx * inv[0], 0.0)
    hy = tl.where(own, slope * qy * inv[1], 0.0)
    hz = tl.where(own, slope * qz * inv[2], 0.0)
    tl.store(out, tl.sum((1 - t) * hx))
    tl.store(out + 1, tl.sum((1 - t) * hy))
    tl.store(out + 2, tl.sum((1 - t) * hz))
    tl.store(out + 3, tl.sum(t * hx))
    tl.store(out + 4, tl.sum(t * hy))
    tl.store(out + 5, tl.sum(t * hz))
    tl.store(out + 6, tl.sum(hx * qx))
    tl.store(out + 7, tl.sum(hy * qy))
    tl.store(out + 8, tl.sum(hz * qz))


def _together(start: Tensor, end: Tensor, radius: Tensor) -> Tensor:
    return torch.cat([start, end, radius], -1)


def _launch(
    kernel: Any, programs: int, volume: Sequence[int], *args: Any, **constants: Any
) -> None:
    """``programs`` rows of blocks of the volume; K, P, D, H, W and blocks come last."""
    D, H, W = volume
    blocks = triton.cdiv(D * H * W, BLOCK)
    if programs == 0:
        return
    tensor = args[0]
    with torch.cuda.device_of(tensor):
        kernel[(programs * blocks,)](*args, D, H, W, blocks, BLOCK=BLOCK, **constants)


def capsule_mask(
    start: Tensor,
    end: Tensor,
    radius: Tensor,
    part: Tensor,
    size: Sequence[int],
    num_parts: int,
    packed: bool,
) -> Tensor:
    """``pose_kernels::capsule_mask``."""
    N, K, _ = start.shape
    if packed:
        mask = start.new_empty((N, *size), dtype=torch.int32)
    else:
        mask = start.new_empty((N, num_parts, *size), dtype=torch.bool)
    points, volumes = _together(start, end, radius), N if packed else N * num_parts
    stored = mask if packed else mask.view(torch.uint8)
    _launch(_mask, volumes, size, points, part.contiguous(), stored, K, num_parts, PACKED=packed)
    return mask


def capsule_soft_mask(
    start: Tensor,
    end: Tensor,
    radius: Tensor,
    part: Tensor,
    size: Sequence[int],
    num_parts: int,
    softness: float,
) -> Tensor:
    """``pose_kernels::capsule_soft_mask``."""
    N, K, _ = start.shape
    mask = start.new_empty((N, num_parts, *size))
    points = _together(start, end, radius)
    s = start.new_full((1,), softness)  # a Python float would be float32 in the kernel
    args = (points, part.contiguous(), s, mask, K, num_parts)
    _launch(_soft_mask, N * num_parts, size, *args)
    return mask


def capsule_soft_mask_backward(
    grad: Tensor, start: Tensor, end: Tensor, radius: Tensor, part: Tensor, softness: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``pose_kernels::capsule_soft_mask_backward``."""
    N, K, _ = start.shape
    num_parts, *size = grad.shape[1:]
    D, H, W = size
    sums = start.new_empty((N, K, triton.cdiv(D * H * W, BLOCK), 9))
    points = _together(start, end, radius)
    s = start.new_full((1,), softness)
    args = (grad.contiguous(), points, part.contiguous(), s, sums, K, num_parts)
    _launch(_soft_mask_backward, N * K, size, *args)
    total = sums.sum(2)
    return total[..., :3].contiguous(), total[..., 3:6].contiguous(), total[..., 6:].contiguous()
