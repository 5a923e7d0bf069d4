# SPDX-License-Identifier: Apache-2.0
"""heatmap and its gradient: mirrors csrc/math/gaussian.h and csrc/cuda/heatmap.cu.

A program owns ROWS rows (y and z together) and COLUMNS columns of one map: factors of its rows and
of its columns, then their outer product. The backward sums a program's nodes; the sums of a map's
programs are added afterwards, in a fixed order.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

NODES = 4096  # of a program
# Arguments whose values change from call to call: no reason to compile again.
_PLAIN = ["sx", "sy", "sz", "sigma"]


@triton.jit
def _finite(x):
    return tl.abs(x) < float("inf")  # false for NaN


@triton.jit
def _number(bits, points):
    """A float64 that came as its bits (Triton passes floats in float32), in the dtype of points."""
    return tl.cast(bits, tl.float64, bitcast=True).to(points.dtype.element_ty)


@triton.jit
def _gaussian(d, sigma, TINY: tl.constexpr):
    z = d / sigma
    e = tl.exp(-0.5 * z * z)
    return tl.where(e < TINY, 0.0, e)


@triton.jit
def _value(node, point, stride, sigma, KIND: tl.constexpr, TINY: tl.constexpr):
    """What one axis contributes: a factor, or with discs (KIND 1) a squared distance."""
    d = stride * node - point
    if KIND == 0:
        return _gaussian(d, sigma, TINY)
    elif KIND == 1:
        return d * d
    else:
        q = tl.div_rn(point, stride) if point.dtype == tl.float32 else point / stride
        return tl.where(node == tl.floor(q + 0.5), 1.0, 0.0).to(point.dtype)


@triton.jit
def _place(D, H, W, AXES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The map, rows and columns of this program, and which of its nodes exist."""
    across = tl.cdiv(W, COLUMNS)
    programs = tl.cdiv(D * H, ROWS) * across
    m = tl.cast(tl.program_id(0) // programs, tl.int64)
    tile = tl.program_id(0) % programs
    row = tile // across * ROWS + tl.arange(0, ROWS)
    x = tile % across * COLUMNS + tl.arange(0, COLUMNS)
    within = (row < D * H)[:, None] & (x < W)[None, :]
    at = (m * D * H + row)[:, None] * W + x[None, :]
    return m, row, x, within, at


@triton.jit
def _point(points, m, AXES: tl.constexpr):
    """Coordinates of map m; a plane has one node along z, on the point."""
    px = tl.load(points + m * AXES)
    py = tl.load(points + m * AXES + 1)
    if AXES == 3:
        pz = tl.load(points + m * AXES + 2)
    else:
        pz = tl.zeros_like(px)
    return px, py, pz, _finite(px) & _finite(py) & _finite(pz)


@triton.jit(do_not_specialize=[*_PLAIN, "square"])
def _heatmap(
    points,  # [maps, AXES]
    maps,  # [maps, D, H, W]      out
    sx,  # strides, sigma and its square: see _number
    sy,
    sz,
    sigma,
    square,
    D,
    H,
    W,
    AXES: tl.constexpr,
    KIND: tl.constexpr,
    TINY: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    m, row, x, within, at = _place(D, H, W, AXES, ROWS, COLUMNS)
    px, py, pz, finite = _point(points, m, AXES)
    sx, sy, sz = _number(sx, points), _number(sy, points), _number(sz, points)
    sigma, square = _number(sigma, points), _number(square, points)
    ex = _value(x.to(px.dtype), px, sx, sigma, KIND, TINY)
    ey = _value((row % H).to(px.dtype), py, sy, sigma, KIND, TINY)
    ez = _value((row // H).to(px.dtype), pz, sz, sigma, KIND, TINY)
    if KIND == 1:
        value = tl.where((ey + ez)[:, None] + ex[None, :] <= square, 1.0, 0.0)
    else:
        value = (ey * ez)[:, None] * ex[None, :]
        value = tl.where(value < TINY, 0.0, value)
    tl.store(maps + at, tl.where(finite, value, 0.0).to(px.dtype), mask=within)


@triton.jit(do_not_specialize=_PLAIN)
def _heatmap_backward(
    grad,  # [maps, D, H, W]
    points,  # [maps, AXES]
    partial,  # [maps, programs of a map, 3]      out
    sx,
    sy,
    sz,
    sigma,
    D,
    H,
    W,
    AXES: tl.constexpr,
    TINY: tl.constexpr,
    NEGLIGIBLE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    m, row, x, within, at = _place(D, H, W, AXES, ROWS, COLUMNS)
    px, py, pz, finite = _point(points, m, AXES)
    sx, sy, sz = _number(sx, points), _number(sy, points), _number(sz, points)
    sigma = _number(sigma, points)
    px, py, pz = tl.where(finite, px, 0.0), tl.where(finite, py, 0.0), tl.where(finite, pz, 0.0)
    dx = sx * x.to(px.dtype) - px
    dy = sy * (row % H).to(px.dtype) - py
    dz = sz * (row // H).to(px.dtype) - pz
    ex = _gaussian(dx, sigma, TINY)
    ey, ez = _gaussian(dy, sigma, TINY), _gaussian(dz, sigma, TINY)
    rows = tl.where(finite, ey * ez, 0.0)  # without a map: near nothing
    near = (rows >= NEGLIGIBLE)[:, None] & (ex >= NEGLIGIBLE)[None, :]
    g = tl.load(grad + at, mask=within & near, other=0)
    # An offset that is not finite belongs to a factor that counts as 0.
    fx = tl.where(ex >= NEGLIGIBLE, ex * (dx / sigma / sigma), 0.0)
    fy = tl.where(ey >= NEGLIGIBLE, ey * (dy / sigma / sigma), 0.0)
    fz = tl.where(ez >= NEGLIGIBLE, ez * (dz / sigma / sigma), 0.0)
    plain = tl.sum(g * ex[None, :], 1)
    sloped = tl.sum(g * fx[None, :], 1)
    to = partial + tl.cast(tl.program_id(0), tl.int64) * 3
    tl.store(to, tl.sum(rows * sloped, 0))
    tl.store(to + 1, tl.sum(fy * ez * plain, 0))
    tl.store(to + 2, tl.sum(ey * fz * plain, 0))


def _bits(*numbers: float) -> tuple[int, ...]:
    # Not 0, which would come as an int32: sigma is at least 1e-18, and 0 only as a radius.
    return tuple(int.from_bytes(struct.pack("<d", max(x, 1e-300)), "little") for x in numbers)


def _plan(points: Tensor, size: Sequence[int]) -> tuple[tuple[int, int, int], dict[str, Any], int]:
    """(D, H, W), constants, and the programs of a map."""
    D, H, W = (1, *size) if len(size) == 2 else size
    columns = min(triton.next_power_of_2(W), 256)
    rows = min(triton.next_power_of_2(D * H), NODES // columns)
    constants = {"AXES": len(size), "ROWS": rows, "COLUMNS": columns, "num_warps": 4}
    constants["TINY"] = torch.finfo(points.dtype).tiny
    return (D, H, W), constants, triton.cdiv(D * H, rows) * triton.cdiv(W, columns)


def heatmap(
    points: Tensor, size: Sequence[int], sigma: float, stride: Sequence[float], kind: int
) -> Tensor:
    """``pose_kernels::heatmap``."""
    maps = points.new_empty((*points.shape[:2], *size))
    if maps.numel() == 0:
        return maps
    sides, constants, programs = _plan(points, size)
    numbers = _bits(*stride, *[1.0] * (3 - len(stride)), sigma, sigma * sigma)
    grid = (points.shape[0] * points.shape[1] * programs,)
    with torch.cuda.device_of(points):
        _heatmap[grid](points.contiguous(), maps, *numbers, *sides, KIND=kind, **constants)
    return maps


def heatmap_backward(grad: Tensor, points: Tensor, sigma: float, stride: Sequence[float]) -> Tensor:
    """``pose_kernels::heatmap_backward``."""
    N, J, axes = points.shape
    if N * J == 0:
        return torch.zeros_like(points)
    sides, constants, programs = _plan(points, grad.shape[2:])
    constants["NEGLIGIBLE"] = 2.0**-100 if points.dtype == torch.float32 else 2.0**-900
    numbers = _bits(*stride, *[1.0] * (3 - len(stride)), sigma)
    partial = points.new_empty((N, J, programs, 3))
    with torch.cuda.device_of(points):
        _heatmap_backward[(N * J * programs,)](
            grad.contiguous(), points.contiguous(), partial, *numbers, *sides, **constants
        )
    return partial.sum(2)[..., :axes].clone(memory_format=torch.contiguous_format)
