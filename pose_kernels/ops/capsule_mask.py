# SPDX-License-Identifier: Apache-2.0
"""capsule_mask: the voxels of body parts that are unions of thick segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..autograd import Operator, no_second_order
from ..checks import Axes, geometry_dtype, positive_int
from ..reference.capsule_mask import hard as reference_hard
from ..reference.capsule_mask import soft as reference_soft
from ..reference.capsule_mask import soft_backward as reference_soft_backward
from ..reference.capsule_mask import soft_tangent as reference_soft_tangent

_LEAST_SOFTNESS = 1e-6


def capsule_mask(
    start: Tensor,
    end: Tensor,
    radius: Tensor,
    part: Tensor,
    *,
    size: Sequence[int],
    num_parts: int,
    packed: bool = True,
    softness: float | None = None,
) -> Tensor:
    r"""Mark the voxels inside each body part, a part being the union of its capsules.

    A capsule is a segment swept by an axis-aligned ellipsoid. A voxel v, at its index (x, y, z),
    is inside when

    .. math:: d^2(v) = \min_{t \in [0, 1]} \sum_i
        \left(\frac{v_i - (start_i + t\,(end_i - start_i))}{radius_i}\right)^2 \le 1.

    A segment of length zero is an ellipsoid. A capsule is empty when one of its numbers is not
    finite (or beyond 1e18) or one of its half-axes is not positive (or below 1e-18). Capsules may
    lie partly or wholly outside the volume.

    Args:
        start, end: ends of the segments (N, K, 3) in voxels, order (x, y, z), K >= 1; float32,
            float64, or half types, which are used in float32.
        radius: half-axes in voxels, (N, K) for balls or (N, K, 3) for x, y, z.
        part: part of each capsule (K,), any integer dtype, 0..P-1; a capsule whose part lies
            outside is ignored.
        size: (D, H, W) of the volume, fewer than 2^31 voxels.
        num_parts: P.
        packed: return one int32 per voxel in which bit p is part p; P is at most 31.
        softness: None for a hard mask; s > 0, with ``packed=False``, for a soft one,
            :math:`\sigma((1 - d) / s)`, of the nearest capsule of the part.

    Returns:
        packed: (N, D, H, W) int32. Else (N, P, D, H, W): bool, or with ``softness`` float32
        (float64 where start is float64), 0 in a part without capsules. A packed mask of several
        depths is projected by bitwise or; the union of all parts is ``mask != 0``.

    Gradient:
        of the soft mask, first order, to start, end and radius of the nearest capsule, the one
        of lowest index where several are; 0 where d = 0. Where a segment has length zero, all of
        it goes to start. ``part`` and hard masks pass none.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: a rank, size, dtype, device or value does not fit; the message says which.

    Source: the body-part masks of Knoche, Sárándi, Leibe, "Reposing Humans by Warping 3D Features",
    CVPR Workshops 2020, as an exact distance; the soft form is our own.

    >>> start, end = torch.tensor([[[1.0, 0, 0]]]), torch.tensor([[[3.0, 0, 0]]])
    >>> radius, part = torch.tensor([[0.5]]), torch.tensor([2])
    >>> capsule_mask(start, end, radius, part, size=(1, 1, 6), num_parts=3)  # bit 2 is 4
    tensor([[[[0, 4, 4, 4, 0, 0]]]], dtype=torch.int32)
    """
    axes = Axes()
    axes.bind("start", start, "N K 3", "geometry")
    axes.bind("end", end, "N K 3", "geometry")
    per_axis = isinstance(radius, Tensor) and radius.dim() == 3
    axes.bind("radius", radius, "N K 3" if per_axis else "N K", "geometry")
    axes.bind("part", part, "K", "integer")
    if axes.size["K"] < 1:
        raise ValueError("start must have at least one capsule, got K = 0")
    D, H, W = _checked_size(size)
    positive_int("num_parts", num_parts, 2**31 - 1)
    if packed and softness is not None:
        raise ValueError(
            f"softness must be None for a packed mask, which holds one bit a part, got {softness!r}"
        )
    if packed and num_parts > 31:
        raise ValueError(
            "num_parts must be at most 31 in a packed mask, one bit each of an int32, "
            f"got {num_parts}; packed=False has no limit"
        )

    dtype = geometry_dtype(start.dtype)
    start, end, radius = start.to(dtype), end.to(dtype), radius.to(dtype)
    if not per_axis:
        radius = radius[..., None].expand(start.shape)
    part = _int32(part).expand(start.shape[:2])
    if softness is None:
        return mask(
            start.detach(), end.detach(), radius.detach(), part, [D, H, W], num_parts, bool(packed)
        )
    return soft_mask(start, end, radius, part, [D, H, W], num_parts, _checked_softness(softness))


def _checked_size(size: object) -> tuple[int, int, int]:
    fits = isinstance(size, (tuple, list)) and len(size) == 3
    for side in size if fits else ():  # type: ignore[attr-defined]  # a sequence by now
        is_int = isinstance(side, (int, torch.SymInt)) and not isinstance(side, bool)
        fits = fits and is_int and side >= 1
    if not fits:
        raise ValueError(f"size must be (D, H, W), three ints of at least 1, got {size!r}")
    D, H, W = (side for side in size)  # type: ignore[attr-defined]
    if D * H * W >= 2**31:
        raise ValueError(f"size must have fewer than 2^31 voxels, got {size!r}")
    return D, H, W


def _checked_softness(softness: object) -> float:
    fits = isinstance(softness, (int, float)) and not isinstance(softness, bool)
    if not fits or not _LEAST_SOFTNESS <= softness < float("inf"):  # type: ignore[operator]
        raise ValueError(
            f"softness must be None or a finite number of at least {_LEAST_SOFTNESS:g}, "
            f"got {softness!r}"
        )
    return float(softness)  # type: ignore[arg-type]


def _int32(part: Tensor) -> Tensor:
    """part in int32; a value that does not fit stays outside of every 0..P-1."""
    if part.dtype == torch.int32:
        return part
    if part.dtype.itemsize <= 2:
        return part.to(torch.int32)
    return part.to(torch.int64).clamp(-1, 2**31 - 1).to(torch.int32)


def _check(start: Tensor, end: Tensor, radius: Tensor, part: Tensor) -> None:
    """What the fakes check; the wrapper has seen more."""
    axes = Axes()
    axes.bind("start", start, "N K 3", "geometry")
    axes.bind("end", end, "N K 3", "geometry")
    axes.bind("radius", radius, "N K 3", "geometry")
    axes.bind("part", part, "N K", "integer")


# ---- hard masks: no gradient


def _reference(
    start: Tensor,
    end: Tensor,
    radius: Tensor,
    part: Tensor,
    size: Sequence[int],
    num_parts: int,
    packed: bool,
) -> Tensor:
    return reference_hard(start, end, radius, part, size, num_parts, packed)


def _fake(
    start: Tensor,
    end: Tensor,
    radius: Tensor,
    part: Tensor,
    size: Sequence[int],
    num_parts: int,
    packed: bool,
) -> Tensor:
    _check(start, end, radius, part)
    N = start.shape[0]
    if packed:
        return start.new_empty((N, *size), dtype=torch.int32)
    return start.new_empty((N, num_parts, *size), dtype=torch.bool)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.mark_non_differentiable(output)


def _backward(ctx: Any, grad: Tensor) -> dict[str, Tensor | None]:
    return {}


def _tangent(inputs: tuple[Any, ...], output: Tensor, tangents: dict[str, Tensor]) -> None:
    return None


mask = Operator(
    "capsule_mask(Tensor start, Tensor end, Tensor radius, Tensor part, SymInt[] size, "
    "SymInt num_parts, bool packed) -> Tensor",
    reference=_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    tangent=_tangent,
)


# ---- soft masks


def _soft_fake(
    start: Tensor,
    end: Tensor,
    radius: Tensor,
    part: Tensor,
    size: Sequence[int],
    num_parts: int,
    softness: float,
) -> Tensor:
    _check(start, end, radius, part)
    return start.new_empty((start.shape[0], num_parts, *size))


def _soft_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    start, end, radius, part, _, _, ctx.softness = inputs
    ctx.save_for_backward(start, end, radius, part)


def _soft_backward(ctx: Any, grad: Tensor) -> dict[str, Tensor | None]:
    start, end, radius, part = ctx.saved_tensors
    grads = soft_mask_backward(grad, start, end, radius, part, ctx.softness)
    return dict(zip(("start", "end", "radius"), grads, strict=True))


def _soft_tangent(inputs: tuple[Any, ...], output: Tensor, tangents: dict[str, Tensor]) -> Tensor:
    start, end, radius, part, size, num_parts, softness = inputs
    return reference_soft_tangent(start, end, radius, part, size, num_parts, softness, tangents)


soft_mask = Operator(
    "capsule_soft_mask(Tensor start, Tensor end, Tensor radius, Tensor part, SymInt[] size, "
    "SymInt num_parts, float softness) -> Tensor",
    reference=reference_soft,
    fake=_soft_fake,
    setup_context=_soft_setup_context,
    backward=_soft_backward,
    tangent=_soft_tangent,
)


def _backward_fake(
    grad: Tensor, start: Tensor, end: Tensor, radius: Tensor, part: Tensor, softness: float
) -> tuple[Tensor, Tensor, Tensor]:
    _check(start, end, radius, part)
    return tuple(start.new_empty(start.shape) for _ in range(3))  # type: ignore[return-value]


def _backward_setup_context(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    return None


def _backward_backward(ctx: Any, *grads: Tensor) -> dict[str, Tensor | None]:
    raise no_second_order("capsule_mask", "start, end and radius")


def _backward_tangent(
    inputs: tuple[Any, ...], outputs: object, tangents: dict[str, Tensor]
) -> tuple[Tensor, ...]:
    if set(tangents) != {"grad"}:
        raise no_second_order("capsule_mask", "start, end and radius")
    return soft_mask_backward(tangents["grad"], *inputs[1:])


soft_mask_backward = Operator(
    "capsule_soft_mask_backward(Tensor grad, Tensor start, Tensor end, Tensor radius, "
    "Tensor part, float softness) -> (Tensor grad_start, Tensor grad_end, Tensor grad_radius)",
    reference=reference_soft_backward,
    fake=_backward_fake,
    setup_context=_backward_setup_context,
    backward=_backward_backward,
    tangent=_backward_tangent,
)
