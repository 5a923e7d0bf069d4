# SPDX-License-Identifier: Apache-2.0
"""heatmap in pure PyTorch: the specification in code. Any device, any floating dtype."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import geometry_dtype

KINDS = ("gaussian", "disc", "impulse")
# Where |d| / sigma reaches this, exp underflows to 0 in float64 too: an offset that overflows in
# float32 is stopped here, before 0 * infinity.
_FAR = 64.0


def heatmap(
    points: Tensor,
    size: Sequence[int],
    sigma: float,
    *,
    stride: float | Sequence[float] = 1,
    kind: str = "gaussian",
    valid: Tensor | None = None,
) -> Tensor:
    """See :func:`pose_kernels.heatmap`. Differentiable through plain autograd."""
    points = points.to(geometry_dtype(points.dtype))
    if valid is not None:
        points = points.where((valid > 0)[..., None], float("nan"))
    strides = [float(stride)] * len(size) if isinstance(stride, (int, float)) else list(stride)
    return maps(points, size, float(sigma), strides, KINDS.index(kind))


def maps(
    points: Tensor, size: Sequence[int], sigma: float, stride: Sequence[float], kind: int
) -> Tensor:
    """(N, J, *size) of every kind; the map of a point that is not finite is 0."""
    known = _known(points, len(size))
    if kind == 0:
        values = _gaussian(_distances(points, size, sigma, stride))
    elif kind == 1:
        squares = sum(d * d for d in _offsets(points, size, stride))
        values = torch.as_tensor(squares <= sigma * sigma).to(points.dtype)
    else:
        nearest = (points / points.new_tensor(list(stride)) + 0.5).floor()
        hits = [
            _nodes(points, size, a) == _grid(q, len(size)) for a, q in enumerate(nearest.unbind(-1))
        ]
        values = torch.stack(torch.broadcast_tensors(*hits)).all(0).to(points.dtype)
    return values.where(known, 0).contiguous()


def maps_backward(grad: Tensor, points: Tensor, sigma: float, stride: Sequence[float]) -> Tensor:
    """Gradient of the Gaussian maps to points (N, J, A): sum of grad * map * offset / sigma^2."""
    z = _distances(points, grad.shape[2:], sigma, stride)
    values = _gaussian(z)
    known = _known(points, len(z))
    weighted = grad.where(known & (values > 0), 0) * values
    return torch.stack([_total(weighted * d) for d in z], -1) / sigma


def maps_tangent(
    points: Tensor, size: Sequence[int], sigma: float, stride: Sequence[float], tangent: Tensor
) -> Tensor:
    """Directional derivative of the Gaussian maps along the tangent of points."""
    z = _distances(points, size, sigma, stride)
    along = sum(_grid(v, len(z)) * d for v, d in zip(tangent.unbind(-1), z, strict=True))
    return (_gaussian(z) * along / sigma).where(_known(points, len(z)), 0).contiguous()


def maps_curvature(
    grad: Tensor, points: Tensor, sigma: float, stride: Sequence[float], tangent: Tensor
) -> Tensor:
    """Directional derivative of maps_backward along a tangent of points; the Hessian of the sum of
    grad * map is symmetric, so this is also the gradient of its product with that tangent."""
    z = _distances(points, grad.shape[2:], sigma, stride)
    values = _gaussian(z)
    weighted = grad.where(_known(points, len(z)) & (values > 0), 0) * values
    along = weighted * sum(_grid(v, len(z)) * d for v, d in zip(tangent.unbind(-1), z, strict=True))
    rows = [
        _total(along * d) - v * _total(weighted) for v, d in zip(tangent.unbind(-1), z, strict=True)
    ]
    return torch.stack(rows, -1) / sigma**2


def _known(points: Tensor, axes: int) -> Tensor:
    return _grid(points.isfinite().all(-1), axes)


def _grid(per_map: Tensor, axes: int) -> Tensor:
    """(N, J) -> (N, J, 1, 1[, 1])."""
    return per_map.reshape(*per_map.shape, *[1] * axes)


def _offsets(points: Tensor, size: Sequence[int], stride: Sequence[float]) -> list[Tensor]:
    """stride * node - point per axis x, y(, z), each of a shape that broadcasts to (N, J, *size).

    A point that is not finite lies at the origin: the caller masks its map.
    """
    points = points.where(points.isfinite().all(-1, keepdim=True), 0)
    return [
        _nodes(points, size, a) * stride[a] - _grid(point, len(size))
        for a, point in enumerate(points.unbind(-1))
    ]


def _nodes(points: Tensor, size: Sequence[int], a: int) -> Tensor:
    """Indices of the nodes along axis a, the a-th from the right."""
    nodes = torch.arange(size[len(size) - 1 - a], dtype=points.dtype, device=points.device)
    return nodes.reshape(-1, *[1] * a)


def _distances(
    points: Tensor, size: Sequence[int], sigma: float, stride: Sequence[float]
) -> list[Tensor]:
    """Offsets in units of sigma."""
    return [(d / sigma).clamp(-_FAR, _FAR) for d in _offsets(points, size, stride)]


def _gaussian(z: list[Tensor]) -> Tensor:
    squares = z[0] * z[0]
    for d in z[1:]:
        squares = squares + d * d
    return torch.exp(-0.5 * squares)


def _total(x: Tensor) -> Tensor:
    """Sum over the nodes, (N, J)."""
    return x.sum(tuple(range(2, x.dim())))
