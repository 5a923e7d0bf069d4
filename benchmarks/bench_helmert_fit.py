# SPDX-License-Identifier: Apache-2.0
"""helmert_fit: point pairs -> similarity transforms."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

import pose_kernels as pk

from .registry import Provider, ours


@dataclasses.dataclass(frozen=True)
class FitCase:
    """B fits of K noisy point pairs each: 20 x 4 are the parts of two people."""

    B: int
    K: int
    dtype: torch.dtype = torch.float32
    direction: str = "forward"
    main: bool = True
    channels_last: bool = False  # there are no channels

    @property
    def title(self) -> str:
        return f"{self.B} x {self.K} points, {str(self.dtype).removeprefix('torch.')}"

    def small(self) -> FitCase:
        return dataclasses.replace(self, B=min(self.B, 50), dtype=torch.float64)


CASES = [
    FitCase(B, K, direction=direction)
    for direction in ("forward", "both")
    for B, K in ((20, 4), (1024, 16), (65536, 8))
] + [FitCase(65536, 8, torch.float64, main=False)]
DIFFERENTIABLE = ("source", "target", "weight")


def inputs(case: FitCase, device: str, seed: int = 0) -> dict[str, Tensor]:
    """Boxes of sides 1 : 2 : 4, turned, scaled and moved, with 5 % of noise."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand((case.B, *shape), generator=random, dtype=torch.float64)

    source = (draw(case.K, 3) - 0.5) * torch.tensor([1.0, 2.0, 4.0])
    turn, _ = torch.linalg.qr(draw(3, 3) - 0.5)
    turn = turn * torch.linalg.det(turn)[:, None, None]
    target = (1 + draw(1, 1)) * source @ turn.mT + draw(1, 3) + 0.05 * draw(case.K, 3)
    tensors = {"source": source, "target": target, "weight": draw(case.K) + 0.5}
    return {name: x.to(case.dtype).to(device) for name, x in tensors.items()}


def reference(case: FitCase, source: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor]:
    return (pk.reference.helmert_fit(source, target, weight),)


def moments(source: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    share = (weight / weight.sum(-1, keepdim=True))[..., None]
    x_mean, y_mean = (share * source).sum(-2), (share * target).sum(-2)
    x, y = source - x_mean[:, None], target - y_mean[:, None]
    return x_mean, y_mean, (share * y).mT @ x, (share * x.square()).sum((-2, -1))


def assemble(R: Tensor, s: Tensor, x_mean: Tensor, y_mean: Tensor) -> tuple[Tensor]:
    linear = s[:, None, None] * R
    return (torch.cat([linear, (y_mean - (linear @ x_mean[..., None])[..., 0])[..., None]], -1),)


def umeyama(source: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor]:
    """What everybody writes: a singular value decomposition with a sign patch."""
    x_mean, y_mean, M, spread = moments(source, target, weight)
    U, S, Vt = torch.linalg.svd(M)
    last = torch.linalg.det(U @ Vt).sign()
    sign = torch.stack([torch.ones_like(last), torch.ones_like(last), last], -1)
    return assemble((U * sign[:, None]) @ Vt, (S * sign).sum(-1) / spread, x_mean, y_mean)


def foam(source: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor]:
    """Elementwise, no decomposition: Newton on the quartic, then R in closed form, in float64.

    Markley, "Attitude determination using vector observations: a fast optimal matrix algorithm",
    J. Astronautical Sciences 41(2), 1993.
    """
    dtype = source.dtype
    x_mean, y_mean, M, spread = moments(source.double(), target.double(), weight.double())
    size = M.square().sum((-2, -1), keepdim=True)
    a, b, c = M.unbind(-1)
    cofactors = torch.stack(
        [torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -1
    )
    det = (a * cofactors[..., 0]).sum(-1)[:, None, None]
    minors = cofactors.square().sum((-2, -1), keepdim=True)

    def newton(top: Tensor) -> Tensor:
        rest = top.square() - size
        return top - (rest.square() - 8 * top * det - 4 * minors) / (4 * top * rest - 8 * det)

    with torch.no_grad():
        top = (3 * size).sqrt()  # at least the sum of the singular values
        for _ in range(12):
            top = newton(top)
    top = newton(top)  # carries the derivative
    kappa = (top.square() - size) / 2
    R = (kappa + size) * M + top * cofactors - M @ M.mT @ M
    R = R / (kappa * top - det)
    return (assemble(R, top[:, 0, 0] / spread, x_mean, y_mean)[0].to(dtype),)


def roma_fit(source: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor]:
    import roma

    R, t, s = roma.rigid_points_registration(source, target, weight, compute_scaling=True)
    return (torch.cat([s[:, None, None] * R, t[..., None]], -1),)


def providers(case: FitCase, device: str) -> list[Provider]:
    def pose_kernels(source: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor]:
        return (pk.helmert_fit(source, target, weight),)

    return [
        *ours("helmert_fit", pose_kernels, device),
        Provider("Umeyama, linalg.svd", "eager", umeyama),
        Provider(
            "FOAM, elementwise",
            "smart",
            foam,
            float64=False,
            note="fails where points are collinear; loses digits, so it is checked in float32",
        ),
        Provider(
            "roma",
            "peer",
            roma_fit,
            float64=False,
            note="its gradients are 1e-9 off in float64, so they are checked in float32",
            available="roma",
        ),
    ]


def coordinate_range(case: FitCase) -> int:
    """Stands for the condition of a fit: the spread over the sum of the lesser singular values."""
    return 1024


def longest_sum(case: FitCase) -> int:
    return case.K


def bytes_moved(case: FitCase) -> int:
    """Seven numbers per pair in and twelve per fit out; backward twelve more in, seven out."""
    points, matrix = 7 * case.K, 12
    forward = points + matrix
    backward = points + matrix + points
    numbers = {"forward": forward, "backward": backward, "both": forward + backward}
    return numbers[case.direction] * case.B * torch.empty((), dtype=case.dtype).element_size()


def flops(case: FitCase) -> int:
    """Forward 60 a pair, 6 x 6 Jacobi rotations of 70, and 200 for the rest.

    The backward repeats that and takes 80 a pair and 200 more.
    """
    forward = 60 * case.K + 36 * 70 + 200
    backward = forward + 80 * case.K + 200
    per_fit = {"forward": forward, "backward": backward, "both": forward + backward}
    return per_fit[case.direction] * case.B
