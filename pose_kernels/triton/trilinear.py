# SPDX-License-Identifier: Apache-2.0
"""helmert_warp at one block of output voxels: mirrors csrc/math/trilinear.h.

A program owns BLOCK consecutive voxels; feature tiles are [BLOCK, CHANNELS]. Corners are numbered
x + 2 y + 4 z. Voxels are int32, offsets int64.

Positions: a product a x of float32 is taken apart into two exact ones, a = high + low with 12 bits
each, so that fractions are exact to their own rounding in volumes of up to 4,096 voxels a side.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _add_product(whole, fraction, a, index):
    """whole + fraction + a * index, the fraction apart."""
    if a.dtype == tl.float32:
        high = (a.to(tl.int32, bitcast=True) & -4096).to(tl.float32, bitcast=True)
        product = high * index
        floor = tl.floor(product)
        fraction += (product - floor) + (a - high) * index
    else:
        product = a * index
        floor = tl.floor(product)
        fraction += product - floor
    return whole + floor, fraction


@triton.jit
def _axis(row, x, y, z, size):
    """One axis of where a map sends voxels: inside; cell's lower corner; two weights, two slopes.

    The cell lies in the volume. A corner that does not exist has weight and slope 0.
    """
    constant = tl.load(row + 3)
    whole = tl.floor(constant)
    fraction = constant - whole
    whole, fraction = _add_product(whole, fraction, tl.load(row + 1), y)
    whole, fraction = _add_product(whole, fraction, tl.load(row + 2), z)
    whole, fraction = _add_product(whole, fraction, tl.load(row), x)
    carry = tl.floor(fraction)
    corner = whole + carry
    f = fraction - carry
    # False for NaN.
    inside = (corner <= size - 1) & ((corner >= 0) | ((corner == -1) & (f > 0)))
    at = tl.where(inside, corner, 0).to(tl.int32)
    base = tl.minimum(tl.maximum(at, 0), tl.maximum(size - 2, 0))
    f = tl.where(inside, f, 0)
    pair = (at == base) & (size > 1)
    w0 = tl.where(at == base, 1 - f, tl.where(at < base, f, 0))
    w1 = tl.where(at > base, 1 - f, tl.where(pair, f, 0))
    d0 = tl.where(at == base, -1.0, tl.where(at < base, 1.0, 0.0)).to(f.dtype)
    d1 = tl.where(at > base, -1.0, tl.where(pair, 1.0, 0.0)).to(f.dtype)
    return inside, base, (w0, w1), (d0, d1)


@triton.jit
def _mask_at(bits, mask, n, i, P, V, voxel, exists, like):
    if bits is not None:
        word = tl.load(bits + n * V + voxel, mask=exists, other=0)
        return ((word >> i) & 1).to(like.dtype)
    else:
        return tl.load(mask + (n * P + i) * V + voxel, mask=exists, other=0)


@triton.jit
def place(transform, bits, mask, n, i, x, y, z, within, P, D, H, W):
    """Part i at the program's voxels.

    covered; the corners' voxels and masks, 0 where there is none; weights and slopes by axis.
    Corners are numbered x + 2 y + 4 z.
    """
    row = transform + (n * P + i) * 12
    in_x, base_x, wx, dx = _axis(row, x, y, z, W)
    in_y, base_y, wy, dy = _axis(row + 4, x, y, z, H)
    in_z, base_z, wz, dz = _axis(row + 8, x, y, z, D)
    inside = within & in_x & in_y & in_z
    V = D * H * W
    q0 = (base_z * H + base_y) * W + base_x
    right = tl.minimum(W - 1, 1)
    q2 = q0 + tl.minimum(H - 1, 1) * W
    q4 = q0 + tl.minimum(D - 1, 1) * H * W
    q6 = q4 + tl.minimum(H - 1, 1) * W
    q = (q0, q0 + right, q2, q2 + right, q4, q4 + right, q6, q6 + right)
    x0, x1 = inside & (dx[0] != 0), inside & (dx[1] != 0)
    y0, y1, z0, z1 = dy[0] != 0, dy[1] != 0, dz[0] != 0, dz[1] != 0
    m0 = _mask_at(bits, mask, n, i, P, V, q[0], x0 & y0 & z0, x)
    m1 = _mask_at(bits, mask, n, i, P, V, q[1], x1 & y0 & z0, x)
    m2 = _mask_at(bits, mask, n, i, P, V, q[2], x0 & y1 & z0, x)
    m3 = _mask_at(bits, mask, n, i, P, V, q[3], x1 & y1 & z0, x)
    m4 = _mask_at(bits, mask, n, i, P, V, q[4], x0 & y0 & z1, x)
    m5 = _mask_at(bits, mask, n, i, P, V, q[5], x1 & y0 & z1, x)
    m6 = _mask_at(bits, mask, n, i, P, V, q[6], x0 & y1 & z1, x)
    m7 = _mask_at(bits, mask, n, i, P, V, q[7], x1 & y1 & z1, x)
    low = (m0 != 0) | (m1 != 0) | (m2 != 0) | (m3 != 0)
    covered = low | (m4 != 0) | (m5 != 0) | (m6 != 0) | (m7 != 0)
    return covered, q, (m0, m1, m2, m3, m4, m5, m6, m7), (wx, wy, wz), (dx, dy, dz)


@triton.jit
def corner_weight(w, k: tl.constexpr):
    return w[0][k % 2] * w[1][k // 2 % 2] * w[2][k // 4]


@triton.jit
def voxels(V, H, W, like, BLOCK: tl.constexpr):
    """n (scalar) and, of this program's voxels: flat index, whether they exist, x, y, z."""
    blocks = tl.cdiv(V, BLOCK)
    n = tl.cast(tl.program_id(0) // blocks, tl.int64)
    voxel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    kind = like.dtype.element_ty
    x, y, z = voxel % W, voxel // W % H, voxel // W // H
    return n, voxel, voxel < V, x.to(kind), y.to(kind), z.to(kind)


@triton.jit
def offset(n, voxel, c, C: tl.constexpr, V, LAST: tl.constexpr):
    """Of channels c at voxels, in either memory format: [BLOCK, CHANNELS]."""
    if LAST:
        return ((n * V + voxel) * C)[:, None] + c[None, :]
    else:
        return (n * C * V + voxel)[:, None] + c.to(tl.int64)[None, :] * V
