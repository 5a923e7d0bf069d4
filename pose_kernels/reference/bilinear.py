# SPDX-License-Identifier: Apache-2.0
"""The surface ops at every pixel, in PyTorch: mirrors csrc/math/bilinear.h line by line."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class TilePoints(NamedTuple):
    """Where each pixel lies on its tile; corners 0..3 are (x0,y0), (x1,y0), (x0,y1), (x1,y1)."""

    inside: Tensor  # (N, H W) bool: a part in 1..P and finite coordinates
    texel: Tensor  # (4, N, H W) int64: flat index into (N, P, S, S); 0 where not inside
    weight: Tensor  # (4, N, H W): k(t_x - q_x) k(t_y - q_y); 0 where not inside
    tangent: Tensor  # (2, 4, N, H W): d weight / d u, d weight / d v

    def along(self, uv_tangent: Tensor) -> Tensor:
        """Change of the weights (4, N, H W) when uv moves along uv_tangent (N, 2, H, W)."""
        du, dv = uv_tangent.reshape(uv_tangent.shape[0], 2, self.inside.shape[1]).unbind(1)
        du, dv = du.where(self.inside, 0), dv.where(self.inside, 0)
        return self.tangent[0] * du + self.tangent[1] * dv


def tile_points(part: Tensor, uv: Tensor, num_parts: int, size: int) -> TilePoints:
    """part (N,H,W) integer, uv (N,2,H,W) floating; weights are differentiable in uv."""
    N, H, W = part.shape
    part = part.reshape(N, H * W).to(torch.int64)
    u, v = uv.reshape(N, 2, H * W).unbind(1)
    inside = (part >= 1) & (part <= num_parts) & u.isfinite() & v.isfinite()
    u, v = u.where(inside, 0.5), v.where(inside, 0.5)

    # Zero gradient where an axis is clamped; 0 and 1 themselves count as clamped.
    live_u, live_v = (u > 0) & (u < 1), (v > 0) & (v < 1)
    u = u.where(live_u, u.detach().clamp(0, 1))
    v = v.where(live_v, v.detach().clamp(0, 1))
    tx, ty = u * (size - 1), (1 - v) * (size - 1)

    last = max(size - 2, 0)
    x0, y0 = tx.detach().floor().clamp(max=last), ty.detach().floor().clamp(max=last)
    ax, ay = tx - x0, ty - y0
    bx, by = 1 - ax, 1 - ay
    step = 1 if size > 1 else 0
    batch = torch.arange(N, device=part.device)[:, None] * num_parts
    corner = (batch + part - 1) * size * size + y0.to(torch.int64) * size + x0.to(torch.int64)
    texel = torch.stack(
        [corner, corner + step, corner + step * size, corner + step * (size + 1)]
    ).where(inside, 0)
    weight = torch.stack([bx * by, ax * by, bx * ay, ax * ay]).where(inside, 0)
    du = torch.stack([-by, by, -ay, ay]) * ((size - 1) * live_u)
    dv = torch.stack([-bx, -ax, bx, ax]) * (-(size - 1) * live_v)
    tangent = torch.stack([du, dv]).where(inside, 0)
    return TilePoints(inside, texel, weight, tangent)
