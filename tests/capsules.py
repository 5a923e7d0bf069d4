# SPDX-License-Identifier: Apache-2.0
"""Inputs of capsule_mask, its values in float64, and how far a correct float32 one may be off.

First-order rounding analysis with eps of the kernel's dtype. With w_a and w_b the voxel seen from
both ends in half-axes, q = (1 - t) w_a + t w_b takes a difference, a reciprocal, a product, and
two products and a sum: each component is off by at most 3 eps (|w_a| + |w_b|). t enters d only to
second order where it is a minimizer, and by at most 5 eps |w_a| where d is near 0. So

    |d - d_exact| <= OFF = 8 eps (1 + |w_a| + |w_b|)

and everything else follows: a hard voxel may differ where |d - 1| <= OFF, sigma by sigma' OFF / s
and the roundings of one exponential, a gradient by the sum over voxels of what each of its factors
may be off, and by the whole term of a voxel that two capsules are equally near to.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NAN, INF = float("nan"), float("inf")
Inputs = dict[str, Any]
CHAIN = 160  # additions, one after another, before a kernel goes over to float64


def capsules(
    N: int,
    K: int,
    size: tuple[int, int, int],
    P: int,
    dtype: torch.dtype = torch.float64,
    *,
    wild: bool = False,
    seed: int = 0,
) -> Inputs:
    """start, end, radius and part of segments in and around the volume.

    The first is a ball, the second starts where the third ends. wild: some of them (a ninth each)
    have a number that is NaN or infinite, a half-axis of 0 or less, lie far outside, or are of a
    part that is not there.
    """
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random, dtype=torch.float64)

    sides = torch.tensor(size[::-1], dtype=torch.float64)
    start = draw(N, K, 3) * (sides + 2) - 1.5
    end = start + (draw(N, K, 3) - 0.5) * sides
    radius = 0.6 + draw(N, K, 3) * (0.15 * sides + 0.5)
    part = torch.randint(0, P, (K,), generator=random)
    end[:, 0] = start[:, 0]
    if K > 2:
        end[:, 2], radius[:, 2], part[2] = start[:, 1], radius[:, 1], part[1]
    if wild:
        for n in range(N):
            for k in range(K):
                kind = (n + k) % 9
                if kind == 1:
                    start[n, k, k % 3] = (NAN, INF, -INF)[n % 3]
                elif kind == 3:
                    end[n, k, k % 3] = (INF, NAN, -INF)[n % 3]
                elif kind == 5:
                    radius[n, k, k % 3] = (0.0, -1.0, NAN, INF)[(n + k) % 4]
                elif kind == 7:
                    start[n, k] += 1000.0
                    end[n, k] += 1000.0
        part[K // 2] = P
        part[K // 3] = -1
    points = {"start": start.to(dtype), "end": end.to(dtype), "radius": radius.to(dtype)}
    return {**points, "part": part, "size": size, "num_parts": P}


class Exact:
    """What capsule_mask is about, in float64, from other formulas than the package's.

    All (N, K, D, H, W); counts (N, K).
    """

    def __init__(self, inputs: Inputs) -> None:
        start, end, radius = (inputs[name].double() for name in ("start", "end", "radius"))
        if radius.dim() == 2:
            radius = radius[..., None].expand(start.shape)
        part, P = inputs["part"], inputs["num_parts"]
        everything = torch.cat([start, end, radius], -1)
        self.counts = everything.isfinite().all(-1) & (radius > 0).all(-1)
        self.counts &= (part >= 0) & (part < P)
        self.own = self.counts[:, None] & (part == torch.arange(P)[:, None])  # (N, P, K)
        usable = self.counts[..., None]
        start, end = start.where(usable, 0), end.where(usable, 0)
        self.radius = radius.where(usable, 1)
        axes = (torch.arange(n, dtype=torch.float64) for n in inputs["size"])
        z, y, x = torch.meshgrid(*axes, indexing="ij")
        voxel = torch.stack([x, y, z], -1)

        def seen(points: Tensor) -> Tensor:
            return (voxel - points[:, :, None, None, None]) / self.radius[:, :, None, None, None]

        to_start, to_end = seen(start), seen(end)
        along = to_start - to_end
        self.length = along.norm(dim=-1)
        share = (to_start * along).sum(-1) / along.square().sum(-1)
        self.t = share.nan_to_num(0.0, 0.0, 0.0).clamp(0, 1)
        # From the end itself where that is nearest: capsules that share it tie exactly.
        inner = to_start - self.t[..., None] * along
        self.q = torch.where(self.t[..., None] < 1, inner, to_end)
        self.d = self.q.norm(dim=-1)
        self.reach = to_start.norm(dim=-1) + to_end.norm(dim=-1)

    def off(self, dtype: torch.dtype) -> Tensor:
        return 8 * torch.finfo(dtype).eps * (1 + self.reach)

    def of_parts(self, of_capsules: Tensor) -> Tensor:
        """Least value over the capsules of each part: (N, P, D, H, W), infinite without any."""
        own = self.own[..., None, None, None]
        return of_capsules[:, None].where(own, INF).amin(2)

    def inside(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(N, P, D, H, W) bool: in the part, and so near its surface that dtype may differ."""
        off, near = self.off(dtype), self.d - 1
        unsure = self.of_parts(near - off) <= 0
        return self.of_parts(near) <= 0, unsure & (self.of_parts(near + off) >= 0)

    def soft(self, softness: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Values (N, P, D, H, W), and how far those of dtype may be off."""
        off, d = self.off(dtype), self.of_parts(self.d)
        found = self.own.any(-1)[..., None, None, None]
        d = d.where(found, 1e6)
        spread = torch.maximum(
            self.of_parts(self.d + off).where(found, 0) - d,
            d - self.of_parts(self.d - off).where(found, 1e6),
        ).where(found, 0)
        z = (1 - d) / softness
        sigma = z.sigmoid().where(found, 0)
        slope = sigma * (1 - sigma) / softness * torch.exp(spread / softness)
        eps = torch.finfo(dtype).eps
        return sigma, slope * spread + sigma * eps * (8 + 2 * z.abs()) + 1e-37

    def gradients(
        self, softness: float, grad: Tensor, dtype: torch.dtype
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Of sum(grad * mask) to start, end and radius (N, K, 3); and how far those may be off."""
        off, eps = self.off(dtype), torch.finfo(dtype).eps
        own = self.own.any(1)[..., None, None, None]
        # The nearest of each part, lowest index first, and all that are as near up to rounding.
        least = self.of_parts(self.d)
        part_of = self.own.double().argmax(1)  # (N, K)
        index = part_of[..., None, None, None].expand(self.d.shape)
        mine = least.gather(1, index)
        tied = own & (self.d <= mine)
        earlier = torch.zeros_like(tied)
        for k in range(1, tied.shape[1]):
            same = part_of[:, :k] == part_of[:, k : k + 1]
            earlier[:, k] = (tied[:, :k] & same[..., None, None, None]).any(1)
        won = tied & ~earlier
        may_win = own & (self.d - off <= self.of_parts(self.d + off).gather(1, index))
        rival = may_win & (self.d > mine)  # exact ties go to the first, in every arithmetic
        contested = (rival[:, None] & self.own[..., None, None, None]).any(2)
        contested = contested.gather(1, index) & may_win

        g = grad.double().gather(1, index)
        sigma = ((1 - self.d) / softness).sigmoid()
        size = self.d.where(self.d > 0, INF)
        slope = g * sigma * (1 - sigma) / (softness * size)
        relative = off * (1 / softness + 1 / size) + 16 * eps
        step = (off / self.length.where(self.length > 0, INF)).clamp(max=1)
        values, bounds = {}, {}
        for name in ("start", "end", "radius"):
            for i in range(3):
                q = self.q[..., i]
                factor = {"start": 1 - self.t, "end": self.t, "radius": q}[name]
                scale = slope / self.radius[..., i, None, None, None]
                term = scale * q * factor
                most = (q.abs() + off) * (factor.abs() + (off if name == "radius" else step))
                wrong = scale.abs() * (most * (1 + relative) - (q * factor).abs())
                wrong = wrong + scale.abs() * (q * factor).abs() * eps * (8 + CHAIN)
                bound = wrong.where(won, 0) + (scale.abs() * most).where(contested, 0)
                values.setdefault(name, []).append(term.where(won, 0).sum((2, 3, 4)))
                bounds.setdefault(name, []).append(bound.sum((2, 3, 4)) + 1e-37)
        stack = {name: torch.stack(rows, -1) for name, rows in values.items()}
        return stack, {name: torch.stack(rows, -1) for name, rows in bounds.items()}


def bits_of(parts: Tensor) -> Tensor:
    """(N, P, D, H, W) bool to (N, D, H, W) int32."""
    shifts = torch.arange(parts.shape[1]).view(-1, 1, 1, 1)
    return (parts.long() << shifts).sum(1).to(torch.int32)


def assert_within(actual: Tensor, expected: Tensor, bound: Tensor) -> None:
    """|actual - expected| <= bound everywhere, and nothing of it NaN."""
    assert actual.shape == expected.shape
    error = (actual.detach().cpu().double() - expected).abs()
    assert (error <= bound).all(), f"off by {(error / bound).max():.3g} times the bound"
