# SPDX-License-Identifier: Apache-2.0
"""heatmap: joints as maps, in two or three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..autograd import Operator
from ..checks import Axes, describe, geometry_dtype, number_within, one_of, positive_int
from ..reference.heatmap import KINDS, maps, maps_backward, maps_curvature, maps_tangent

_MOST_NODES = 2**24  # along an axis: the index of a node is exact in float32
_SMALL, _LARGE = 1e-18, 1e18  # of sigma and stride: their squares are float32 numbers


def heatmap(
    points: Tensor,
    size: Sequence[int],
    sigma: float,
    *,
    stride: float | Sequence[float] = 1,
    kind: str = "gaussian",
    valid: Tensor | None = None,
) -> Tensor:
    r"""Draw every joint into a map of its own.

    With node p = (x, y) or (x, y, z) of the map and :math:`d = \text{stride} \cdot p -
    \text{point}` (per axis), ``kind`` is one of

    * "gaussian": :math:`\exp(-|d|^2 / (2\sigma^2))`, not truncated; 0 where that is below the
      smallest normal number of the dtype;
    * "disc": 1 where :math:`|d| \le \sigma`, else 0;
    * "impulse": 1 at the node nearest to point / stride, ``floor(point / stride + 0.5)``, else 0;
      a point whose nearest node is outside of the grid has an empty map. Sigma is not used.

    Args:
        points: joints (N, J, 2) in order (x, y), or (N, J, 3) in order (x, y, z), in units of
            pixels with centers at integers; floating point, used in float32 (float64 if it is
            that). A point with a coordinate that is not finite has an empty map.
        size: nodes of a map, (H, W) for points in the plane, (D, H, W) for points in space.
        sigma: standard deviation of the Gaussian or radius of the disc, in the units of
            ``points``; 1e-18 to 1e18, for discs and impulses also 0.
        stride: distance of neighboring nodes in the units of ``points``: one number, or one per
            axis in the order of the coordinates, (x, y) or (x, y, z); 1e-18 to 1e18.
        kind: "gaussian", "disc" or "impulse".
        valid: (N, J), bool or numbers; the map of a joint where it is not above 0 is empty.

    Returns:
        maps (N, J, H, W) or (N, J, D, H, W), contiguous, float32 (float64 for float64 points).

    Gradient:
        points, of the Gaussian only, to any order; 0 to joints that are not valid or not finite.
        The first is computed by a kernel, higher ones in plain PyTorch. ``valid`` gets none.

    Raises:
        TypeError: points or valid is not a tensor.
        ValueError: a rank, size, dtype, device or value does not fit; the message says which.

    Source: the joint heatmaps of Tompson et al., "Joint Training of a Convolutional Network and a
    Graphical Model for Human Pose Estimation", NeurIPS 2014; in space, the heat volumes of Knoche,
    Sárándi, Leibe, "Reposing Humans by Warping 3D Features", CVPR Workshops 2020.

    >>> heatmap(torch.tensor([[[1.0, 0.0]]]), (2, 3), 1.0)
    tensor([[[[0.6065, 1.0000, 0.6065],
              [0.3679, 0.6065, 0.3679]]]])
    >>> heatmap(torch.tensor([[[6.0, 4.0]]]), (2, 3), 4.0, stride=4, kind="disc")
    tensor([[[[0., 0., 0.],
              [0., 1., 1.]]]])
    """
    axes = Axes()
    axes.bind("points", points, "N J A", "geometry")
    _check_size(points, size)
    if valid is not None:
        axes.bind("valid", valid, "N J", "numbers")
    one_of("kind", kind, KINDS)
    sigma = number_within("sigma", sigma, _SMALL if kind == "gaussian" else 0.0, _LARGE)
    strides = _strides(stride, len(size))
    points = points.to(geometry_dtype(points.dtype))
    if kind != "gaussian":
        points = points.detach()
    if valid is not None:
        points = points.where((valid > 0)[..., None], float("nan"))
    return draw(points, tuple(size), sigma, strides, KINDS.index(kind))


def _check_size(points: Tensor, size: object) -> None:
    if not isinstance(size, (tuple, list)) or len(size) not in (2, 3):
        raise ValueError(f"size must be (H, W) or (D, H, W), got {size!r}")
    for axis, nodes in zip("DHW"[-len(size) :], size, strict=True):
        positive_int(f"{axis} of size", nodes, _MOST_NODES)
    if points.shape[2] != len(size):
        raise ValueError(
            "points must be (N, J, 2) for size (H, W) and (N, J, 3) for size (D, H, W), "
            f"got {describe(points)} and size {tuple(size)!r}"
        )


def _strides(stride: object, axes: int) -> tuple[float, ...]:
    if not isinstance(stride, (tuple, list)):
        return (number_within("stride", stride, _SMALL, _LARGE),) * axes
    if len(stride) != axes:
        raise ValueError(
            f"stride must be a number or {axes} numbers in the order "
            f"({', '.join('xyz'[:axes])}), got {stride!r}"
        )
    return tuple(number_within("stride", step, _SMALL, _LARGE) for step in stride)


def _fake(
    points: Tensor, size: Sequence[int], sigma: float, stride: Sequence[float], kind: int
) -> Tensor:
    _check_size(points, list(size))
    return points.new_empty((*points.shape[:2], *size))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    points, _, ctx.sigma, ctx.stride, ctx.kind = inputs
    ctx.save_for_backward(points)


def _backward(ctx: Any, grad: Tensor) -> dict[str, Tensor | None]:
    (points,) = ctx.saved_tensors
    if ctx.kind != 0:
        return {}
    return {"points": draw_backward(grad, points, ctx.sigma, ctx.stride)}


def _tangent(inputs: tuple[Any, ...], output: Tensor, tangents: dict[str, Tensor]) -> Tensor:
    points, size, sigma, stride, kind = inputs
    if kind != 0:
        return torch.zeros_like(output)
    return maps_tangent(points, size, sigma, stride, tangents["points"])


draw = Operator(
    "heatmap(Tensor points, SymInt[] size, float sigma, float[] stride, int kind) -> Tensor",
    reference=maps,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    tangent=_tangent,
)


# The backward as an operator of its own. What it needs for the second order is rarely asked for:
# plain PyTorch, and so differentiable again.


def _backward_fake(grad: Tensor, points: Tensor, sigma: float, stride: Sequence[float]) -> Tensor:
    return points.new_empty(points.shape)


def _backward_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, points, ctx.sigma, ctx.stride = inputs
    ctx.save_for_backward(grad, points)


def _backward_backward(ctx: Any, tangent: Tensor) -> dict[str, Tensor | None]:
    grad, points = ctx.saved_tensors
    grads: dict[str, Tensor | None] = {}
    if ctx.needs_input_grad[0]:
        grads["grad"] = maps_tangent(points, grad.shape[2:], ctx.sigma, ctx.stride, tangent)
    if ctx.needs_input_grad[1]:
        grads["points"] = maps_curvature(grad, points, ctx.sigma, ctx.stride, tangent)
    return grads


def _backward_tangent(
    inputs: tuple[Any, ...], output: Tensor, tangents: dict[str, Tensor]
) -> Tensor:
    grad, points, sigma, stride = inputs
    moved = torch.zeros_like(output)
    if "grad" in tangents:
        moved = moved + maps_backward(tangents["grad"], points, sigma, stride)
    if "points" in tangents:
        moved = moved + maps_curvature(grad, points, sigma, stride, tangents["points"])
    return moved


draw_backward = Operator(
    "heatmap_backward(Tensor grad, Tensor points, float sigma, float[] stride) -> Tensor",
    reference=maps_backward,
    fake=_backward_fake,
    setup_context=_backward_setup_context,
    backward=_backward_backward,
    tangent=_backward_tangent,
)
