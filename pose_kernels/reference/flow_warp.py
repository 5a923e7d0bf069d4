# SPDX-License-Identifier: Apache-2.0
"""flow_warp in pure PyTorch: the specification in code. Any device, any floating dtype.

The taps mirror csrc/math/flow.h.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import geometry_dtype
from .layout import in_format_of

PLAIN, GATE, EXPAND = range(3)
ZEROS, BORDER = range(2)
MODES = ("plain", "gate", "expand")
PADDINGS = ("zeros", "border")
FAR = 2.0**25  # beyond any image: flow is clamped to this before it becomes an index


def flow_warp(
    image: Tensor,
    flow: Tensor,
    visibility: Tensor | None = None,
    *,
    mode: str = "plain",
    padding: str = "zeros",
) -> Tensor:
    """See :func:`pose_kernels.flow_warp`. Differentiable through plain autograd."""
    flow = flow.to(geometry_dtype(image.dtype))
    return warp(image, flow, visibility, MODES.index(mode), PADDINGS.index(padding))


def warp(image: Tensor, flow: Tensor, visibility: Tensor | None, mode: int, padding: int) -> Tensor:
    """The dispatcher op: mode and padding are indices into MODES and PADDINGS."""
    taps = flow_taps(image, flow, visibility, mode, padding)
    rows = _rows(image, taps.weight.dtype)
    total = None
    for q, w in zip(taps.pixel, taps.weight[..., None], strict=True):
        read = rows[q]
        # A tap of weight 0 is not read, be it NaN, but the slope of its weight is: the second
        # form is -0, the number that changes no sum, with the derivative of the first.
        term = read.where((w != 0) | read.isfinite(), 0) * w
        term = torch.where(w != 0, term, -(term.detach() - term))
        total = term if total is None else total + term
    assert total is not None
    total = total.where((taps.weight != 0).any(0)[..., None], total + 0.0)
    return _as_image(total, image, flow, visibility, mode)


def flow_warp_tangent(
    image: Tensor,
    flow: Tensor,
    visibility: Tensor | None,
    mode: int,
    padding: int,
    image_tangent: Tensor | None,
    flow_tangent: Tensor | None,
) -> Tensor:
    """Directional derivative of the result along (image_tangent, flow_tangent)."""
    taps = flow_taps(image, flow, visibility, mode, padding)
    N, C = image.shape[:2]
    tangent = taps.weight.new_zeros(N, taps.pixel.shape[-1], C)
    if image_tangent is not None:
        tangent = tangent + _weighted(_rows(image_tangent, tangent.dtype), taps.pixel, taps.weight)
    if flow_tangent is not None:
        step = flow_tangent.to(tangent.dtype).reshape(N, 2, tangent.shape[1]).movedim(1, 0)
        change = (taps.slope * step[:, None].where((taps.slope != 0).any(1)[:, None], 0)).sum(0)
        tangent = tangent + _weighted(_rows(image, tangent.dtype), taps.pixel, change)
    return _as_image(tangent, image, flow, visibility, mode)


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
    """Gradients of image and flow; one that is not needed is empty."""
    taps = flow_taps(image, flow, visibility, mode, padding)
    N, C, H, W = image.shape
    arriving = grad
    if mode == EXPAND:
        assert visibility is not None
        arriving = torch.where(visibility[:, None] == 0, grad[:, :C], grad[:, C:])
    g = _rows(arriving, taps.weight.dtype).view(N, taps.pixel.shape[-1], C)
    grad_image, grad_flow = image.new_empty(0), flow.new_empty(0)
    if need_image:
        rows = g.new_zeros(N * H * W, C)
        for q, w in zip(taps.pixel, taps.weight[..., None], strict=True):
            rows.index_add_(0, q.flatten(), (g * w).where(w != 0, 0).flatten(0, 1))
        grad_image = in_format_of(rows.view(N, H, W, C).movedim(-1, 1).to(image.dtype), grad)
    if need_flow:
        rows = _rows(image, g.dtype)
        moved = g.new_zeros(2, N, taps.pixel.shape[-1])
        for q, slope in zip(taps.pixel, taps.slope.movedim(1, 0), strict=True):
            moved = moved + (slope * (g * rows[q]).sum(-1)).where(slope != 0, 0)
        grad_flow = moved.movedim(0, 1).reshape(flow.shape).contiguous()
    return grad_image, grad_flow


class FlowTaps(NamedTuple):
    """The four taps of each of the M = H' W' output pixels: (0, 0), (1, 0), (0, 1), (1, 1)."""

    pixel: Tensor  # (4, N, M) int64: flat index into (N, H, W); 0 where there is no such tap
    weight: Tensor  # (4, N, M): differentiable in flow; 0 where outside, gated or not finite
    slope: Tensor  # (2, 4, N, M): d weight / d flow_x and d flow_y, differentiable too


def flow_taps(
    image: Tensor, flow: Tensor, visibility: Tensor | None, mode: int, padding: int
) -> FlowTaps:
    N, _, H, W = image.shape
    h, w = flow.shape[2:]
    taken = flow.isfinite().all(1)
    if mode != PLAIN:
        assert visibility is not None
        taken = taken & (visibility < 2)
    flow = flow.where(taken[:, None], 0).clamp(-FAR, FAR)
    x = torch.arange(w, device=flow.device)
    y = torch.arange(h, device=flow.device)[:, None]
    column, wx, sx = _axis(flow[:, 0], x, W, padding)
    row, wy, sy = _axis(flow[:, 1], y, H, padding)
    batch = torch.arange(N, device=flow.device)[:, None, None] * (H * W)
    pixels, weights, slopes = [], [], []
    for j, i in ((0, 0), (0, 1), (1, 0), (1, 1)):
        exists = taken & (column[i] >= 0) & (column[i] < W) & (row[j] >= 0) & (row[j] < H)
        pixels.append((batch + row[j] * W + column[i]).where(exists, 0))
        weights.append((wx[i] * wy[j]).where(exists, 0))
        slopes.append(torch.stack([sx[i] * wy[j], wx[i] * sy[j]]).where(exists, 0))
    return FlowTaps(
        torch.stack(pixels).flatten(2),
        torch.stack(weights).flatten(2),
        torch.stack(slopes, 1).flatten(3),
    )


def _axis(
    flow: Tensor, index: Tensor, size: int, padding: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Near and far tap along one axis: index (maybe outside), weight, slope of the weight.

    The fraction is that of the flow alone: as exact at the far end of a large image as at 0.
    """
    lower = flow.detach().floor()
    near = index + lower.long()
    fraction = flow - lower
    slope = torch.ones_like(lower)
    if padding == BORDER:
        live = (near >= 0) & (near < size - 1)  # a clamped position does not move
        near = near.clamp(0, size - 1)
        fraction, slope = fraction.where(live, 0), slope.where(live, 0)
    return (near, near + 1), (1 - fraction, fraction), (-slope, slope)


def _weighted(rows: Tensor, pixel: Tensor, weight: Tensor) -> Tensor:
    """Sum over the taps whose weight is not 0: (N, M, C)."""
    total = weight.new_zeros(*weight.shape[1:], rows.shape[-1])
    for q, w in zip(pixel, weight[..., None], strict=True):
        total = total + rows[q].where(w != 0, 0) * w
    return total


def _rows(image: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, C, H, W) as (N H W, C)."""
    N, C, H, W = image.shape
    return image.movedim(1, -1).reshape(N * H * W, C).to(dtype)


def _as_image(
    total: Tensor, image: Tensor, flow: Tensor, visibility: Tensor | None, mode: int
) -> Tensor:
    N, C = image.shape[:2]
    out = total.transpose(1, 2).reshape(N, C, *flow.shape[2:])
    if mode == EXPAND:
        assert visibility is not None
        parts = [out.where(visibility[:, None] == value, 0) for value in (0, 1)]
        out = torch.cat(parts, 1)
    return in_format_of(out.to(image.dtype), image)
