# SPDX-License-Identifier: Apache-2.0
"""Point pairs for the fits: random similarities, and every degenerate configuration by name."""

from __future__ import annotations

import torch
from torch import Tensor

NAN, INF = float("nan"), float("inf")


def rotations(N: int, generator: torch.Generator) -> Tensor:
    """(N, 3, 3) proper, uniformly distributed."""
    q, r = torch.linalg.qr(torch.randn(N, 3, 3, generator=generator, dtype=torch.float64))
    q = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]
    return q * torch.linalg.det(q)[:, None, None]


def random_pairs(
    N: int, K: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy similarities with weights of which some are 0 or negative."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    source = normal(N, K, 3) + 2 * normal(N, 1, 3)
    target = 1.7 * source @ rotations(N, generator).mT + normal(N, 1, 3) + 0.3 * normal(N, K, 3)
    weight = torch.rand((N, K), generator=generator, dtype=torch.float64) + 0.1
    if K > 4:
        weight[:, 4::5] = torch.tensor([0.0, -1.0], dtype=torch.float64).repeat(N)[:N, None]
    return source.to(dtype), target.to(dtype), weight.to(dtype)


def exact(N: int, K: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """source, the transform (N, 3, 4), and the target that it gives."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn((N, K, 3), generator=generator, dtype=torch.float64)
    s = torch.rand((N, 1, 1), generator=generator, dtype=torch.float64) * 3 + 0.2
    shift = torch.randn((N, 3, 1), generator=generator, dtype=torch.float64) * 5
    transform = torch.cat([s * rotations(N, generator), shift], -1)
    return source, transform, apply(transform, source)


def apply(transform: Tensor, points: Tensor) -> Tensor:
    return points @ transform[..., :3].mT + transform[..., None, :, 3]


_LINE = torch.tensor([-1.0, 0.5, 2.0, 3.0], dtype=torch.float64)[:, None]
_AXES = torch.cat([torch.eye(3), -torch.eye(3)]).double()
_CLOUD = torch.tensor(
    [[1.0, 0.0, 2.0], [-1.0, 3.0, 0.5], [0.25, -2.0, 1.0], [2.0, 1.0, -1.0]], dtype=torch.float64
)


def _line(*direction: float) -> Tensor:
    return _LINE * torch.tensor(direction, dtype=torch.float64)


# name: source, target, weight or None. K differs from case to case.
DEGENERATE: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {
    "no weight": (_CLOUD, _CLOUD.flip(0) * 2, torch.zeros(4)),
    "negative weights": (_CLOUD, _CLOUD.flip(0) * 2, -torch.ones(4)),
    "one point": (_CLOUD[:1], _CLOUD[1:2], None),
    "one weight": (_CLOUD, _CLOUD.flip(0), torch.tensor([0.0, 2, 0, 0])),
    "two points": (_CLOUD[:2], _CLOUD[2:], None),
    "equal sources": (_CLOUD[:1].expand(4, 3), _CLOUD, None),
    "sources at 0": (0 * _CLOUD, _CLOUD, None),
    "equal targets": (_CLOUD, _CLOUD[:1].expand(4, 3), None),
    "targets at 0": (_CLOUD, 0 * _CLOUD, None),
    "all equal": (_CLOUD[:1].expand(4, 3), _CLOUD[2:3].expand(4, 3), None),
    "lines": (_line(1, 2, 3) + 5, _line(-2, 0.5, 1) - 3, None),
    "parallel lines": (_line(1, 2, 3), _line(2, 4, 6), None),
    "opposite lines": (_line(1, 2, 3), _line(-2, -4, -6), None),
    "opposite along x": (_line(1, 0, 0), _line(-1, 0, 0), None),
    "opposite along z": (_line(0, 0, 1), _line(0, 0, -3), None),
    "line to cloud": (_line(1, 2, 3), _CLOUD, None),
    "cloud to line": (_CLOUD, _line(1, -2, 3), None),
    "mirrored": (_CLOUD, _CLOUD * torch.tensor([1.0, 1, -1]), None),
    "mirrored octahedron": (_AXES, _AXES * torch.tensor([1.0, 1, -1]), None),
    "inverted octahedron": (_AXES, -_AXES, None),
    "mirrored plane": (
        _CLOUD * torch.tensor([1.0, 1, 0]),
        _CLOUD * torch.tensor([1.0, -1, 0]),
        None,
    ),
    "half turn": (_CLOUD, _CLOUD * torch.tensor([-1.0, -1, 1]), None),
    "uncorrelated": (_AXES[[0, 3, 1, 4]], _AXES[[1, 1, 0, 0]], None),
    "tiny": (1e-30 * _CLOUD, 1e-30 * _CLOUD.flip(0), None),
    "huge": (1e30 * _CLOUD, 1e30 * _CLOUD.flip(0), None),
    "far away": (_CLOUD + 1e4, _CLOUD.flip(0) - 1e4, None),
    "tiny weights": (_CLOUD, _CLOUD.flip(0), torch.full((4,), 1e-38)),
    "dead points": (
        torch.cat([_CLOUD, torch.tensor([[NAN, INF, 1.0]])]),
        torch.cat([_CLOUD.flip(0), torch.tensor([[NAN, -INF, 1.0]])]),
        torch.tensor([1.0, 2, 1, 2, 0]),
    ),
}
# Each makes its fit NaN.
NOT_FINITE: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {
    "NaN source": (_CLOUD.where(_CLOUD != 3, NAN), _CLOUD, None),
    "infinite source": (_CLOUD.where(_CLOUD != 3, INF), _CLOUD, None),
    "NaN target": (_CLOUD, _CLOUD.where(_CLOUD != 3, NAN), None),
    "infinite target": (_CLOUD, _CLOUD.where(_CLOUD != 3, -INF), None),
    "NaN weight": (_CLOUD, _CLOUD, torch.tensor([1.0, NAN, 1, 1])),
    "infinite weight": (_CLOUD, _CLOUD, torch.tensor([1.0, INF, 1, 1])),
}


def batch(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """One case as a batch of one."""
    source, target, weight = {**DEGENERATE, **NOT_FINITE}[name]
    weight = torch.ones(len(source)) if weight is None else weight
    return source[None].to(dtype), target[None].to(dtype), weight[None].to(dtype)


def similar(
    actual: Tensor, expected: Tensor, tolerance: float, terms: Tensor | None = None
) -> bool:
    """Equal shapes, NaN in the same places, and per fit an error relative to its largest number.

    terms: numbers that add up to the expected ones, where their sum may be smaller than each.
    """
    if actual.shape != expected.shape or not torch.equal(actual.isnan(), expected.isnan()):
        return False
    if expected.numel() == 0:
        return True
    actual, expected = actual.double().nan_to_num(), expected.double().nan_to_num()
    largest = expected.abs().flatten(1).amax(1)
    if terms is not None:
        largest = torch.maximum(largest, terms.double().nan_to_num().abs().flatten(1).amax(1))
    error = (actual - expected).abs().flatten(1).amax(1)
    return bool((error <= tolerance * largest).all())


def similar_gradients(
    actual: tuple[Tensor, ...],
    expected: tuple[Tensor, ...],
    inputs: tuple[Tensor, ...],
    tolerance: float,
) -> bool:
    """The gradients to source, target and weight; that to a weight is a difference of terms."""
    source, target, weight = (x.double() for x in inputs)
    alive = weight > 0
    terms = expected[0].double() * source.nan_to_num(), expected[1].double() * target.nan_to_num()
    terms = torch.where(alive, (terms[0].abs() + terms[1].abs()).sum(-1) / weight, 0)
    return (
        similar(actual[0], expected[0], tolerance)
        and similar(actual[1], expected[1], tolerance)
        and similar(actual[2], expected[2], tolerance, terms)
    )
