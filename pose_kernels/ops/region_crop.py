# SPDX-License-Identifier: Apache-2.0
"""region_crop: square windows of an image around given points."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..autograd import Operator
from ..checks import Axes, describe, geometry_dtype, positive_int
from ..reference.layout import empty_in_format_of
from ..reference.region_crop import region_crop as reference_crop
from ..reference.region_crop import region_crop_backward as reference_crop_backward

_MOST_PIXELS = 2**31 - 1  # of an image


def region_crop(image: Tensor, center: Tensor, size: int) -> tuple[Tensor, Tensor]:
    r"""Cut a square window of whole pixels around each center.

    Crop k of image n is ``image[n, :, y0 : y0 + s, x0 : x0 + s]`` with s = ``size`` and

    .. math::
        x_0 = \mathrm{clamp}(\mathrm{round}(x) - \lfloor s/2 \rfloor,\ 0,\ W - s), \quad
        y_0 = \mathrm{clamp}(\mathrm{round}(y) - \lfloor s/2 \rfloor,\ 0,\ H - s),

    rounding half to even, as ``torch.round``. A window that would stick out of the image is moved
    back into it, never padded. Values are copied bit for bit.

    Args:
        image: (N, C, H, W); float32, float64, float16 or bfloat16, contiguous or
            ``torch.channels_last``.
        center: (N, K, 2) in order (x, y), in pixels with centers at integers; K of at least 1,
            any floating dtype, half types are used in float32. A center far outside gives the
            window at that border; one with a coordinate that is not finite gives a crop of zeros.
        size: side s of the windows, 1 to the shorter side of the image.

    Returns:
        crops (N, K, C, s, s) in the image's dtype and memory format: of a channels-last image,
        ``crops.flatten(0, 1)`` is channels last.
        valid (N, K), bool: whether both coordinates of the center are finite.

    Gradient:
        image: crops that overlap add up, in the order of K, in float32 (float64 for float64).
        Linear, so every order is exact. ``center`` gets none, ``valid`` carries none.

    Raises:
        TypeError: image or center is not a tensor.
        ValueError: a rank, size, dtype or device does not fit, K is 0, or ``size`` exceeds a side
            of the image; the message says which.

    Source: the regions around local descriptors of "Pose-Guided High-Resolution Appearance
    Transfer via Progressive Training", arXiv 2008.11898, 2020, as windows of whole pixels.

    >>> image = torch.arange(12.0).reshape(1, 1, 3, 4)
    >>> center = torch.tensor([[[1.0, 1.0], [9.0, 0.0], [float("nan"), 0.0]]])
    >>> crops, valid = region_crop(image, center, 2)
    >>> crops.flatten(3)  # around (1, 1), moved back into the upper right corner, nothing
    tensor([[[[0., 1., 4., 5.]],
    <BLANKLINE>
             [[2., 3., 6., 7.]],
    <BLANKLINE>
             [[0., 0., 0., 0.]]]])
    >>> valid
    tensor([[ True,  True, False]])
    """
    check_crop(image, center, size)
    dtype = geometry_dtype(center.dtype)
    if center.dtype != dtype:
        center = center.to(dtype)
    return crop(image, center, size)


def check_crop(image: object, center: object, size: object) -> None:
    axes = Axes()
    axes.bind("image", image, "N C H W", "features")
    axes.bind("center", center, "N K 2", "geometry")
    if axes.size["K"] < 1:
        raise ValueError(f"center must have at least one point an image, got {describe(center)}")
    positive_int("size", size, _MOST_PIXELS)
    if size > axes.size["H"] or size > axes.size["W"]:  # type: ignore[operator]  # an int by now
        raise ValueError(f"size must be at most the sides of image, {describe(image)}, got {size}")


def _fake(image: Tensor, center: Tensor, size: int) -> tuple[Tensor, Tensor]:
    check_crop(image, center, size)
    (N, K, _), C = center.shape, image.shape[1]
    crops = empty_in_format_of(image, (N, K, C, size, size))
    return crops, image.new_empty((N, K), dtype=torch.bool)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    image, center, _ = inputs
    ctx.height, ctx.width = image.shape[2:]
    ctx.save_for_backward(center)


def _backward(ctx: Any, grad: Tensor, grad_valid: object) -> dict[str, Tensor | None]:
    if not ctx.needs_input_grad[0]:
        return {}
    (center,) = ctx.saved_tensors
    return {"image": crop_backward(grad, center, ctx.height, ctx.width)}


def _tangent(
    inputs: tuple[Any, ...], outputs: tuple[Tensor, Tensor], tangents: dict[str, Tensor]
) -> tuple[Tensor, None]:
    _, center, size = inputs
    tangent = tangents.get("image")  # a tangent of center moves nothing
    moved = torch.zeros_like(outputs[0]) if tangent is None else crop(tangent, center, size)[0]
    return moved, None


crop = Operator(
    "region_crop(Tensor image, Tensor center, SymInt size) -> (Tensor crops, Tensor valid)",
    reference=reference_crop,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    tangent=_tangent,
    linear=True,
)


# The adjoint as an operator of its own: each is the other's gradient.


def _backward_fake(grad: Tensor, center: Tensor, height: int, width: int) -> Tensor:
    return empty_in_format_of(grad, (grad.shape[0], grad.shape[2], height, width))


def _backward_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, center, ctx.height, ctx.width = inputs
    ctx.size = grad.shape[-1]
    ctx.save_for_backward(center)


def _backward_backward(ctx: Any, tangent: Tensor) -> dict[str, Tensor | None]:
    if not ctx.needs_input_grad[0]:
        return {}
    (center,) = ctx.saved_tensors
    return {"grad": crop(tangent, center, ctx.size)[0]}


def _backward_tangent(
    inputs: tuple[Any, ...], output: Tensor, tangents: dict[str, Tensor]
) -> Tensor:
    _, center, height, width = inputs
    tangent = tangents.get("grad")
    if tangent is None:
        return torch.zeros_like(output)
    return crop_backward(tangent, center, height, width)


crop_backward = Operator(
    "region_crop_backward(Tensor grad, Tensor center, SymInt height, SymInt width) -> Tensor",
    reference=reference_crop_backward,
    fake=_backward_fake,
    setup_context=_backward_setup_context,
    backward=_backward_backward,
    tangent=_backward_tangent,
    linear=True,
)
