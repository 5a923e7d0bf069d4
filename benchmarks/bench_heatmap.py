# SPDX-License-Identifier: Apache-2.0
"""heatmap: joints -> Gaussian maps, in the plane and in space."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

import pose_kernels as pk

from .registry import Provider, ours


@dataclasses.dataclass(frozen=True)
class HeatmapCase:
    """N people of J joints, on a grid of (H, W) or (D, H, W) nodes that the joints lie in."""

    N: int
    J: int
    size: tuple[int, ...]
    sigma: float
    stride: float = 1.0
    dtype: torch.dtype = torch.float32
    direction: str = "forward"
    main: bool = False
    channels_last: bool = False  # there is one memory format

    @property
    def title(self) -> str:
        nodes = "x".join(map(str, self.size))
        kind = "fp32" if self.dtype == torch.float32 else str(self.dtype).removeprefix("torch.")
        return f"B{self.N} J{self.J} {nodes}, sigma {self.sigma / self.stride:g} nodes, {kind}"

    def small(self) -> HeatmapCase:
        size = (12, 20, 16)[-len(self.size) :]
        return dataclasses.replace(
            self, N=min(self.N, 2), J=4, size=size, sigma=2.5 * self.stride, dtype=torch.float64
        )


_PLANE = dict(N=8, J=18, size=(256, 256), sigma=6.0)
_SPACE = dict(N=2, J=19, size=(32, 64, 64), sigma=6.0, stride=4.0)
CASES = [
    *(
        HeatmapCase(**sizes, direction=direction, main=True)
        for sizes in (_PLANE, _SPACE)
        for direction in ("forward", "backward", "both")
    ),
    HeatmapCase(8, 18, (32, 32), 3.2),
    HeatmapCase(8, 18, (255, 255), 6.0),
    HeatmapCase(8, 18, (256, 256), 60.0, direction="backward"),
]
DIFFERENTIABLE = ("points",)


def inputs(case: HeatmapCase, device: str, seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    span = torch.tensor(case.size[::-1]) * case.stride
    points = torch.rand((case.N, case.J, len(case.size)), generator=random) * span
    return {"points": points.to(device, case.dtype)}


def reference(case: HeatmapCase, points: Tensor) -> tuple[Tensor]:
    return (pk.reference.heatmap(points, case.size, case.sigma, stride=case.stride),)


def naive(case: HeatmapCase, points: Tensor) -> tuple[Tensor]:
    """The formula as it stands: a grid of positions, a distance and an exp per node."""
    axes = [torch.arange(n, dtype=points.dtype, device=points.device) for n in case.size]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1) * case.stride
    centers = points[(slice(None), slice(None), *[None] * len(case.size))]
    return (torch.exp(-(grid - centers).pow(2).sum(-1) / (2 * case.sigma**2)),)


def factors(case: HeatmapCase, points: Tensor) -> list[Tensor]:
    found = []
    for a, n in enumerate(case.size[::-1]):
        nodes = torch.arange(n, dtype=points.dtype, device=points.device) * case.stride
        found.append(torch.exp(-(nodes - points[..., a, None]).pow(2) / (2 * case.sigma**2)))
    return found


def separable(case: HeatmapCase, points: Tensor) -> tuple[Tensor]:
    """An exp per row and column, then their outer product."""
    x, y, *z = factors(case, points)
    maps = y[..., :, None] * x[..., None, :]
    if z:
        maps = z[0][..., :, None, None] * maps[..., None, :, :]
    return (maps,)


def kornia(case: HeatmapCase, points: Tensor) -> tuple[Tensor, Tensor]:
    """kornia's render_gaussian2d, and the sum over the grid that it has divided each map by."""
    from kornia.geometry.subpix import render_gaussian2d

    std = torch.full_like(points.flatten(0, 1), case.sigma)
    maps = render_gaussian2d(points.flatten(0, 1), std, case.size, normalized_coordinates=False)
    x, y = (factor.sum(-1)[..., None, None] for factor in factors(case, points))
    return maps.view(*points.shape[:2], *case.size), x * y


def providers(case: HeatmapCase, device: str) -> list[Provider]:
    def pose_kernels(points: Tensor) -> tuple[Tensor]:
        return (pk.heatmap(points, case.size, case.sigma, stride=case.stride),)

    found = [
        *ours("heatmap", pose_kernels, device),
        Provider("exp on the grid", "eager", lambda points: naive(case, points)),
        Provider("outer product", "smart", lambda points: separable(case, points)),
    ]
    if len(case.size) == 2 and case.stride == 1:
        peer = Provider(
            "kornia",
            "peer",
            lambda points: kornia(case, points),
            finish=lambda outputs: (outputs[0] * outputs[1],),
            note="normalized over the grid, which is undone outside the clock",
            available="kornia",
        )
        found.append(peer)
    return found


def coordinate_range(case: HeatmapCase) -> int:
    """Roundings of an offset, in units that weigh as the others: extent / sigma."""
    return math.ceil(max(case.size) * case.stride / case.sigma)


def longest_sum(case: HeatmapCase) -> int:
    return 16 if case.direction == "forward" else math.prod(case.size)


def bytes_moved(case: HeatmapCase) -> int:
    """The maps written once; backward, their gradient read as far as it counts."""
    e = case.dtype.itemsize
    maps = case.N * case.J * math.prod(case.size) * e
    # Within 11.8 sigma of the point (2^-100 in float32), which lies anywhere on the grid.
    reach = 11.8 * case.sigma / case.stride
    seen = math.prod(_share(reach / n) for n in case.size)
    backward = int(maps * seen)
    return {"forward": maps, "backward": backward, "both": maps + backward}[case.direction]


def _share(r: float) -> float:
    """Expected share of [0, 1] within r of a uniform point of it."""
    return 1.0 if r >= 1 else 2 * r - r * r


def flops(case: HeatmapCase) -> int:
    """A multiplication per node forward; four operations of the two sums backward."""
    nodes = case.N * case.J * math.prod(case.size)
    forward, backward = nodes, 4 * nodes
    return {"forward": forward, "backward": backward, "both": forward + backward}[case.direction]
