# SPDX-License-Identifier: Apache-2.0
"""helmert_fit: the similarity transform that fits point pairs best."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..autograd import Operator, no_second_order
from ..checks import Axes, describe, geometry_dtype
from ..reference.helmert_fit import fit as reference_fit
from ..reference.helmert_fit import fit_backward as reference_fit_backward
from ..reference.helmert_fit import fit_tangent


def helmert_fit(
    source: Tensor, target: Tensor, weight: Tensor | None = None, *, scale: bool = True
) -> Tensor:
    r"""Fit a 7-parameter similarity ``target = s R source + t`` by weighted least squares.

    Minimizes :math:`\sum_k w_k |s R x_k + t - y_k|^2`. ``R`` is always a proper rotation
    (det = +1), never a reflection; ``s`` is at least 0. In closed form, in float64 inside,
    without a synchronization with the device.

    Args:
        source: points (..., K, 3), order (x, y, z), any unit; float32, float64, float16 or
            bfloat16, K of at least 1, any leading axes.
        target: points (..., K, 3) in the same leading axes, any unit.
        weight: (..., K); None weighs all points equally. A weight of 0 or below takes its point
            out: whatever the point is, it neither counts nor receives a gradient.
        scale: False fits a rigid motion, s = 1.

    Returns:
        transform (..., 3, 4), the matrix ``[s R | t]`` from source to target coordinates:
        float64 for float64 points, else float32.

    Degenerate inputs:
        no weight: the identity. All source points equal: the translation, s = 1, R the identity.
        All target points equal: R the identity, s = 0 (1 without ``scale``). Where several
        rotations are equally good (collinear points, two points, mirrored isotropic ones), the
        smallest: for a line the one that aligns the lines. A non-finite point of positive weight,
        or a non-finite weight, makes its own fit NaN and no other. What counts as equal or
        collinear is measured against the rounding of the inputs, 1e-6 of their size in float32
        and 1e-13 in float64; see docs/ops/helmert_fit.md.

    Gradient:
        source, target and weight, finite everywhere, by implicit differentiation; along turns
        that the points do not determine it is 0, as for a fit that is NaN. Second order is an
        error.

    Raises:
        TypeError: an argument is not a tensor, or scale is not a bool.
        ValueError: a rank, size, dtype or device does not fit, or K is 0; the message says which.

    Source: Horn, "Closed-form solution of absolute orientation using unit quaternions", JOSA A
    4(4), 1987, eq. 25-31; the weighted scale after Umeyama, PAMI 13(4), 1991, eq. 42.

    >>> source = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> target = torch.tensor([[5.0, 0.0, 0.0], [5.0, 2.0, 0.0], [3.0, 0.0, 0.0]])
    >>> helmert_fit(source, target).round(decimals=4) + 0  # a quarter turn about z, twice as large
    tensor([[ 0., -2.,  0.,  5.],
            [ 2.,  0.,  0.,  0.],
            [ 0.,  0.,  2.,  0.]])
    """
    if not isinstance(scale, bool):
        raise TypeError(f"scale must be a bool, got {describe(scale)}")
    lead = check_pairs(source, target, weight)
    dtype = geometry_dtype(source.dtype)
    points = source if source.dtype == dtype else source.to(dtype)
    others = target if target.dtype == dtype else target.to(dtype)
    if weight is None:
        weight = points.new_ones(points.shape[:-1])
    elif weight.dtype != dtype:
        weight = weight.to(dtype)
    if lead == 1:
        return fit(points, others, weight, scale)
    shape, (K, _) = points.shape[:-2], points.shape[-2:]
    fits = shape.numel()
    flat = (points.reshape(fits, K, 3), others.reshape(fits, K, 3), weight.reshape(fits, K))
    return fit(*flat, scale).reshape(*shape, 3, 4)


def check_pairs(source: object, target: object, weight: object) -> int:
    """The number of leading axes."""
    if not isinstance(source, Tensor) or source.dim() < 2:
        Axes().bind("source", source, "... K 3", "geometry")
    assert isinstance(source, Tensor)
    lead = "".join(f"L{i} " for i in range(source.dim() - 2))
    axes = Axes()
    axes.bind("source", source, f"{lead}K 3", "geometry")
    axes.bind("target", target, f"{lead}K 3", "geometry")
    if weight is not None:
        axes.bind("weight", weight, f"{lead}K", "geometry")
    if axes.size["K"] < 1:
        raise ValueError(f"source must have at least one point, got {describe(source)}")
    return source.dim() - 2


def _fake(source: Tensor, target: Tensor, weight: Tensor, scale: bool) -> Tensor:
    check_pairs(source, target, weight)
    return source.new_empty((source.shape[0], 3, 4))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> dict[str, Tensor | None]:
    grads = fit_backward(grad, *ctx.saved_tensors, ctx.scale)
    named = zip(("source", "target", "weight"), grads, ctx.needs_input_grad, strict=False)
    return {name: g if needed else None for name, g, needed in named}


def _tangent(inputs: tuple[Any, ...], output: Tensor, tangents: dict[str, Tensor]) -> Tensor:
    return fit_tangent(*inputs, *(tangents.get(name) for name in ("source", "target", "weight")))


fit = Operator(
    "helmert_fit(Tensor source, Tensor target, Tensor weight, bool scale) -> Tensor",
    reference=reference_fit,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    tangent=_tangent,
)


# The backward as an operator of its own. It has no gradient: there would be no way to tell a
# second derivative that is 0 from one that is missing.


def _backward_fake(
    grad: Tensor, source: Tensor, target: Tensor, weight: Tensor, scale: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(x.new_empty(x.shape) for x in (source, target, weight))  # type: ignore[return-value]


def _backward_setup_context(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    ctx.set_materialize_grads(False)


def _no_second_order(*_: Any) -> Any:
    raise no_second_order("helmert_fit", "the points and weights")


def _backward_backward(ctx: Any, *grads: Tensor | None) -> dict[str, Tensor | None]:
    return {} if all(grad is None for grad in grads) else _no_second_order()


fit_backward = Operator(
    "helmert_fit_backward(Tensor grad, Tensor source, Tensor target, Tensor weight, bool scale) "
    "-> (Tensor grad_source, Tensor grad_target, Tensor grad_weight)",
    reference=reference_fit_backward,
    fake=_backward_fake,
    setup_context=_backward_setup_context,
    backward=_backward_backward,
    tangent=_no_second_order,
)
