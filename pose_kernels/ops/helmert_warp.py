# SPDX-License-Identifier: Apache-2.0
"""helmert_warp: move the parts of a feature volume, each by its own transform."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..autograd import Operator, no_second_order
from ..checks import Axes, describe, geometry_dtype
from ..reference.helmert_warp import helmert_warp as reference_warp
from ..reference.helmert_warp import helmert_warp_backward as reference_backward
from ..reference.helmert_warp import helmert_warp_tangent
from ..reference.layout import empty_in_format_of

_MOST_BITS = 31  # the sign bit of an int32 stays free
_MOST_PARTS = 255


def helmert_warp(volume: Tensor, mask: Tensor, transform: Tensor) -> Tensor:
    r"""Warp every body part of a volume by its own affine map and merge them by maximum.

    .. math:: out(x, c) = \max_i \sum_q w_q(A_i x)\, M_i(q)\, V(q, c), \qquad
              w_q(s) = k(s_x - q_x)\, k(s_y - q_y)\, k(s_z - q_z),\quad k(t) = \max(0, 1 - |t|)

    The mask multiplies before the trilinear interpolation, so that parts end softly; voxels
    outside the volume count 0; parts that give 0 take part in the maximum, so that what no part
    covers is 0 and negative features survive only where all parts overlap. Equal to P masked
    copies, P x ``grid_sample`` and ``amax``, in one pass and without any of the copies.

    Args:
        volume: features (N, C, D, H, W); float32, float64, float16 or bfloat16, contiguous or
            ``torch.channels_last_3d``.
        mask: which voxels belong to which part. int32 (N, D, H, W) with bit p for part p, as
            ``capsule_mask`` makes it (at most 31 parts), or floating (N, P, D, H, W), or bool
            (N, P, D, H, W). A floating mask is used in float32 (float64 beside a float64 volume).
        transform: (N, P, 3, 4), one map a part from an *output* voxel (x, y, z, 1) to a *source*
            position (x, y, z), in voxel units, voxel centers at integers
            (``align_corners=True``). Any affine map; a part whose map is not finite is absent.
            Used in float32 (float64 beside a float64 volume); positions are exact to the
            rounding of their fraction.

    Returns:
        volume (N, C, D, H, W) in the dtype and memory format of the input.

    Gradient:
        volume and a floating mask, through the part that won (the lowest index among equals; a
        part with an all-zero mask around the position passes nothing), and transform (the
        derivative towards larger coordinates where a position is an integer). Second order
        through the volume only.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: a rank, size, dtype or device does not fit; the message says which.

    Source: Knoche, Sarandi, Leibe, "Reposing Humans by Warping 3D Features", CVPR Workshops 2020,
    sec. 3.3.

    >>> volume = torch.arange(4.0).reshape(1, 1, 1, 1, 4)
    >>> mask = torch.tensor([[[[0, 1, 1, 0]]]], dtype=torch.int32)  # voxels 1 and 2: part 0
    >>> shift = torch.eye(3, 4)[None, None].clone()
    >>> shift[..., 0, 3] = -1.5  # output x reads source x - 1.5
    >>> helmert_warp(volume, mask, shift)
    tensor([[[[[0.0000, 0.0000, 0.5000, 1.5000]]]]])
    """
    check_warp(volume, mask, transform)
    dtype = geometry_dtype(volume.dtype)
    if mask.dtype == torch.bool:
        mask = _pack(mask) if mask.shape[1] <= _MOST_BITS else mask.to(dtype)
    elif mask.is_floating_point():
        mask = mask.to(dtype)
    return warp(volume, mask, transform.to(dtype))


def _pack(mask: Tensor) -> Tensor:
    """bool (N, P, D, H, W) as bits (N, D, H, W)."""
    bits = torch.zeros_like(mask[:, 0], dtype=torch.int32)
    for i, part in enumerate(mask.unbind(1)):
        bits = bits | (part.to(torch.int32) << i)
    return bits


def check_warp(volume: object, mask: object, transform: object) -> None:
    axes = Axes()
    axes.bind("volume", volume, "N C D H W", "features")
    assert isinstance(volume, Tensor)
    if min(volume.shape[2:]) < 1 or max(volume.shape[2:]) >= 2**24:
        raise ValueError(f"volume must have 1 to 2^24 - 1 voxels a side, got {describe(volume)}")
    axes.bind("transform", transform, "N P 3 4", "geometry")
    parts = axes.size["P"]
    if not 1 <= parts <= _MOST_PARTS:
        raise ValueError(f"transform must have 1 to {_MOST_PARTS} parts, got {parts}")
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask must be a torch.Tensor, got {describe(mask)}")
    if mask.dtype == torch.int32:
        axes.bind("mask", mask, "N D H W", "integer")
        if parts > _MOST_BITS:
            raise ValueError(
                f"mask must be floating, (N, P, D, H, W), for more than {_MOST_BITS} parts: "
                f"int32 has a bit for each of {_MOST_BITS}, transform has {parts}"
            )
    elif mask.dtype == torch.bool or mask.is_floating_point():
        axes.bind("mask", mask, "N P D H W", "boolean" if mask.dtype == torch.bool else "geometry")
    else:
        raise ValueError(
            "mask must be int32 bits (N, D, H, W), or floating or bool (N, P, D, H, W), "
            f"got {describe(mask)}"
        )


def _fake(volume: Tensor, mask: Tensor, transform: Tensor) -> Tensor:
    check_warp(volume, mask, transform)
    return empty_in_format_of(volume, volume.shape, spatial=3)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> dict[str, Tensor | None]:
    volume, mask, transform = ctx.saved_tensors
    need = ctx.needs_input_grad
    grads = warp_backward(grad, volume, mask, transform, *need)
    names = ("volume", "mask", "transform")
    return {name: g if n else None for name, g, n in zip(names, grads, need, strict=True)}


def _tangent(inputs: tuple[Any, ...], output: Tensor, tangents: dict[str, Tensor]) -> Tensor:
    return helmert_warp_tangent(
        *inputs, *(tangents.get(name) for name in ("volume", "mask", "transform"))
    )


warp = Operator(
    "helmert_warp(Tensor volume, Tensor mask, Tensor transform) -> Tensor",
    reference=reference_warp,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    tangent=_tangent,
)


# The backward as an operator of its own. The gradient of the volume is linear in what arrives, and
# its adjoint there is the warp of a volume with the winners kept: the forward tangent.


def _backward_fake(
    grad: Tensor,
    volume: Tensor,
    mask: Tensor,
    transform: Tensor,
    need_volume: bool,
    need_mask: bool,
    need_transform: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = tuple(volume.shape)
    return (
        empty_in_format_of(grad, shape, spatial=3) if need_volume else volume.new_empty(0),
        mask.new_empty(mask.shape if need_mask else 0),
        transform.new_empty(transform.shape if need_transform else 0),
    )


def _backward_setup_context(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    _, volume, mask, transform, ctx.need_volume, ctx.need_mask, ctx.need_transform = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(volume, mask, transform)


def _backward_backward(
    ctx: Any,
    grad_grad_volume: Tensor | None,
    grad_grad_mask: Tensor | None,
    grad_grad_transform: Tensor | None,
) -> dict[str, Tensor | None]:
    _refuse(ctx.need_mask or ctx.needs_input_grad[2], ctx.need_transform or ctx.needs_input_grad[3])
    if grad_grad_volume is None:
        return {}
    volume, mask, transform = ctx.saved_tensors
    # The winners do not move with the volume: nothing more comes through it.
    return {"grad": helmert_warp_tangent(volume, mask, transform, grad_grad_volume, None, None)}


def _backward_tangent(
    inputs: tuple[Any, ...], outputs: object, tangents: dict[str, Tensor]
) -> tuple[Tensor | None, None, None]:
    _refuse(inputs[5] or "mask" in tangents, inputs[6] or "transform" in tangents)
    if "grad" not in tangents:
        return None, None, None
    grad_volume, _, _ = warp_backward(tangents["grad"], *inputs[1:])
    return grad_volume, None, None


def _refuse(mask: bool, transform: bool) -> None:
    if mask or transform:
        raise no_second_order("helmert_warp", "mask" if mask else "transform")


warp_backward = Operator(
    "helmert_warp_backward(Tensor grad, Tensor volume, Tensor mask, Tensor transform, "
    "bool need_volume, bool need_mask, bool need_transform) -> "
    "(Tensor grad_volume, Tensor grad_mask, Tensor grad_transform)",
    reference=reference_backward,
    fake=_backward_fake,
    setup_context=_backward_setup_context,
    backward=_backward_backward,
    tangent=_backward_tangent,
)
