# SPDX-License-Identifier: Apache-2.0
"""Inputs of heatmap, and how far a correct implementation of it may be from the formula."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

NAN, INF = float("nan"), float("inf")


class Problem(NamedTuple):
    N: int
    J: int
    size: tuple[int, ...]
    sigma: float
    stride: tuple[float, ...]
    seed: int = 0

    def points(self, dtype: torch.dtype) -> Tensor:
        """In and around the grid; some not finite, some far away."""
        random = torch.Generator().manual_seed(self.seed)
        span = torch.tensor(self.size[::-1]) * torch.tensor(self.stride)
        shape = (self.N, self.J, len(self.size))
        points = (torch.rand(shape, generator=random) * 1.6 - 0.3) * span
        special = torch.tensor([NAN, INF, -INF, 1e30, -3e38, 1e-40, 0.0])
        pick = torch.randint(0, 8 * len(special), shape, generator=random)
        return points.where(pick >= len(special), special[pick % len(special)]).to(dtype)

    def incoming(self, dtype: torch.dtype) -> Tensor:
        random = torch.Generator().manual_seed(self.seed + 100)
        shape = (self.N, self.J, *self.size)
        return (torch.rand(shape, generator=random, dtype=torch.float64) * 4 - 2).to(dtype)


PROBLEMS = {
    "plane": Problem(2, 5, (24, 17), 3.2, (1.0, 1.0)),
    "whole vectors": Problem(1, 4, (16, 32), 2.0, (1.0, 1.0), 1),
    "strides": Problem(2, 3, (9, 31), 6.0, (4.0, 0.7), 2),
    "space": Problem(2, 4, (7, 12, 9), 2.5, (1.0, 1.0, 1.0), 3),
    "space, strides": Problem(1, 6, (8, 10, 20), 6.0, (4.0, 4.0, 8.0), 4),
    "narrow": Problem(1, 3, (40, 40), 0.3, (1.0, 1.0), 5),
    "wide": Problem(1, 3, (30, 50), 500.0, (1.0, 1.0), 6),
    "one node": Problem(2, 3, (1, 1), 1.5, (1.0, 1.0), 7),
    "one node in space": Problem(1, 2, (1, 1, 1), 1.5, (2.0, 1.0, 1.0), 8),
    "one column": Problem(1, 2, (300, 1), 20.0, (1.0, 1.0), 9),
    "several bands": Problem(1, 2, (130, 1030), 90.0, (1.0, 1.0), 10),
    "no images": Problem(0, 3, (4, 5), 1.0, (1.0, 1.0)),
    "no joints": Problem(2, 0, (3, 4, 5), 1.0, (1.0, 1.0, 1.0)),
}


def geometry(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class Exact:
    """The Gaussian in float64, and how far a correct implementation in ``dtype`` may be off.

    An offset d is off by eps times what it is the difference of, `extent`. exp(-z^2 / 2), with
    z = d / sigma, has a slope of at most 0.61 / sigma; its argument has six more roundings, which
    weigh z^2 / 2 exp(-z^2 / 2) <= 0.37; then exp itself and the products: ten roundings at most.
    Values below the smallest normal number may be 0. The slope of z exp(-z^2 / 2) / sigma, a term
    of the gradient, is (1 - z^2) exp(-z^2 / 2) / sigma^2; a sum adds a rounding per addition, and
    leaves out terms below 2^-100 (float64: 2^-900) of the incoming gradient times z / sigma.
    """

    def __init__(self, problem: Problem, points: Tensor, dtype: torch.dtype) -> None:
        size, sigma, stride = problem.size, problem.sigma, problem.stride
        axes = len(size)
        points = points.detach().cpu().double()
        self.sigma, self.eps = sigma, torch.finfo(dtype).eps
        self.tiny, self.negligible = torch.finfo(dtype).tiny, 1e-30
        self.known = points.isfinite().all(-1)[(...,) + (None,) * axes]
        self.z, self.extent = [], []
        for a in range(axes):
            nodes = torch.arange(size[axes - 1 - a], dtype=torch.float64) * stride[a]
            point = points[..., a].nan_to_num(0, 0, 0)[(...,) + (None,) * axes]
            shape = [1] * axes
            shape[axes - 1 - a] = -1
            self.z.append((nodes.view(shape) - point) / sigma)
            # A point 40 sigma from every node has an empty map, whatever its offsets are.
            self.extent.append(2 * (point.abs().clamp(max=nodes[-1] + 40 * sigma) + nodes[-1]))
        self.value = torch.exp(-0.5 * sum(z * z for z in self.z)).where(self.known, 0)
        offsets = sum(0.61 * extent / sigma for extent in self.extent)
        self.bound = self.eps * (10 + offsets) + self.tiny
        self.additions = size[-1] + math.prod(size[:-1])

    def gradient(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient to points and its bound."""
        nodes = tuple(range(2, g.dim()))
        g = g.detach().cpu().double().where(self.known, 0)
        values, bounds = [], []
        squares = sum(z * z for z in self.z)
        moved = sum(extent / self.sigma for extent in self.extent)
        for z in self.z:
            near = z.abs().clamp(max=1e6)
            values.append((g * self.value * z.clamp(-1e6, 1e6)).sum(nodes) / self.sigma)
            slope = self.value * (1 + squares.clamp(max=1e6))
            size = moved * slope + (12 + self.additions) * self.value * near
            size = self.eps * size + self.negligible * near.clamp(max=20)
            bounds.append((g.abs() * size).sum(nodes) / self.sigma)
        return torch.stack(values, -1), torch.stack(bounds, -1)
