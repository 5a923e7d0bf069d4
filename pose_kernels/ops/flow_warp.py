# SPDX-License-Identifier: Apache-2.0
"""flow_warp: fetch every pixel of an image along a flow, with visibility."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..autograd import Operator, no_second_order
from ..checks import Axes, describe, geometry_dtype, one_of
from ..reference.flow_warp import EXPAND, MODES, PADDINGS, PLAIN, flow_warp_tangent
from ..reference.flow_warp import flow_warp_backward as reference_backward
from ..reference.flow_warp import warp as reference_warp
from ..reference.layout import empty_in_format_of


def flow_warp(
    image: Tensor,
    flow: Tensor,
    visibility: Tensor | None = None,
    *,
    mode: str = "plain",
    padding: str = "zeros",
) -> Tensor:
    r"""Read the image bilinearly at :math:`p + F(p)` for every pixel p of the flow.

    ``out[:, p] = image(p + flow_p)``, positions in pixels, centers at integers. A tap of weight 0
    is never read: a flow of integers moves pixels bit for bit, whatever lies beside them, and zero
    flow is the identity.

    Args:
        image: (N, C, H, W); float32, float64, float16 or bfloat16, contiguous or channels last;
            1 to 2^24 - 1 pixels a side.
        flow: (N, 2, H', W'), order (x, y), in pixels of the image, from the output pixel to where
            it comes from. A flow that is not finite gives 0. Used in float32 (float64 beside a
            float64 image). H', W' may differ from H, W.
        visibility: (N, H', W') uint8: 0 visible in the image, 1 occluded there, 2 background; any
            other value counts as background.
        mode: "plain" ignores visibility; "gate": 0 on the background; "expand": 2 C channels, the
            warped visible pixels, then the warped occluded ones, both 0 elsewhere.
        padding: "zeros": each of the four taps outside the image counts 0; "border": the position
            is clamped into the image first.

    Returns:
        (N, C, H', W'), or (N, 2 C, H', W') for "expand", in the image's dtype and memory format.

    Gradient:
        image and flow. Zero to the flow where it is not finite, on the background (unless
        "plain"), and under "border" on an axis that was clamped. At whole positions it is the
        derivative towards larger coordinates. Second order through the image only.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: a rank, size, dtype, device, mode or padding does not fit, or "gate" or
            "expand" has no visibility; the message says which.

    Source: the warping of images and features by a flow with a visibility map of Li, Huang, Loy,
    "Dense Intrinsic Appearance Flow for Human Pose Transfer", CVPR 2019; "gate" and "expand" are
    the two ways to use the map in its published code.

    >>> image = torch.tensor([[[[0.0, 1.0, 2.0, 3.0]]]])
    >>> flow = torch.tensor([[[[0.0, 0.5, 1.0, 1.0]], [[0.0, 0.0, 0.0, 0.0]]]])
    >>> flow_warp(image, flow)  # the last one comes from outside
    tensor([[[[0.0000, 1.5000, 3.0000, 0.0000]]]])
    >>> visibility = torch.tensor([[[0, 1, 2, 1]]], dtype=torch.uint8)
    >>> flow_warp(image, flow, visibility, mode="expand", padding="border")[0, :, 0]
    tensor([[0.0000, 0.0000, 0.0000, 0.0000],
            [0.0000, 1.5000, 0.0000, 3.0000]])
    """
    one_of("mode", mode, MODES)
    one_of("padding", padding, PADDINGS)
    check_flow_warp(image, flow, visibility, MODES.index(mode))
    if mode == "plain":
        visibility = None
    flow = flow.to(geometry_dtype(image.dtype))
    return warp(image, flow, visibility, MODES.index(mode), PADDINGS.index(padding))


def check_flow_warp(image: object, flow: object, visibility: object, mode: int) -> None:
    axes = Axes()
    axes.bind("image", image, "N C H W", "features")
    assert isinstance(image, Tensor)
    if min(image.shape[2:]) < 1 or max(image.shape[2:]) >= 2**24:
        raise ValueError(f"image must have 1 to 2^24 - 1 pixels a side, got {describe(image)}")
    axes.bind("flow", flow, "N 2 H' W'", "geometry")
    assert isinstance(flow, Tensor)
    if max(flow.shape[2:]) >= 2**24:
        raise ValueError(f"flow must have at most 2^24 - 1 pixels a side, got {describe(flow)}")
    if visibility is None:
        if mode != PLAIN:
            raise ValueError(f"visibility must be given for mode {MODES[mode]!r}, got None")
        return
    axes.bind("visibility", visibility, "N H' W'", "integer")
    assert isinstance(visibility, Tensor)
    if visibility.dtype != torch.uint8:
        raise ValueError(f"visibility must be uint8, got {describe(visibility)}")


def _fake(
    image: Tensor, flow: Tensor, visibility: Tensor | None, mode: int, padding: int
) -> Tensor:
    check_flow_warp(image, flow, visibility, mode)
    channels = image.shape[1] * (2 if mode == EXPAND else 1)
    return empty_in_format_of(image, (image.shape[0], channels, *flow.shape[2:]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    image, flow, visibility, ctx.mode, ctx.padding = inputs
    ctx.save_for_backward(image, flow, visibility)


def _backward(ctx: Any, grad: Tensor) -> dict[str, Tensor | None]:
    image, flow, visibility = ctx.saved_tensors
    need = ctx.needs_input_grad[:2]
    args = (grad, image, flow, visibility, ctx.mode, ctx.padding)
    grads = warp_backward(*args, *need)
    return {
        name: g if wanted else None
        for name, g, wanted in zip(("image", "flow"), grads, need, strict=True)
    }


def _tangent(inputs: tuple[Any, ...], output: Tensor, tangents: dict[str, Tensor]) -> Tensor:
    return flow_warp_tangent(*inputs, *(tangents.get(name) for name in ("image", "flow")))


warp = Operator(
    "flow_warp(Tensor image, Tensor flow, Tensor? visibility, int mode, int padding) -> Tensor",
    reference=reference_warp,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    tangent=_tangent,
)


# The backward as an operator of its own. The gradient of the image is linear in what arrives, and
# its adjoint there is the warp.


def _backward_fake(
    grad: Tensor,
    image: Tensor,
    flow: Tensor,
    visibility: Tensor | None,
    mode: int,
    padding: int,
    need_image: bool,
    need_flow: bool,
) -> tuple[Tensor, Tensor]:
    shape = tuple(image.shape)
    return (
        empty_in_format_of(grad, shape) if need_image else image.new_empty(0),
        flow.new_empty(flow.shape if need_flow else 0),
    )


def _backward_setup_context(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    _, _, flow, visibility, ctx.mode, ctx.padding, _, ctx.need_flow = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(flow, visibility)


def _backward_backward(
    ctx: Any, grad_grad_image: Tensor | None, grad_grad_flow: Tensor | None
) -> dict[str, Tensor | None]:
    if ctx.need_flow or ctx.needs_input_grad[2]:
        raise no_second_order("flow_warp", "flow")
    if grad_grad_image is None:
        return {}
    flow, visibility = ctx.saved_tensors
    return {"grad": warp(grad_grad_image, flow, visibility, ctx.mode, ctx.padding)}


def _backward_tangent(
    inputs: tuple[Any, ...], outputs: object, tangents: dict[str, Tensor]
) -> tuple[Tensor | None, None]:
    if inputs[7] or "flow" in tangents:
        raise no_second_order("flow_warp", "flow")
    if "grad" not in tangents:
        return None, None
    return warp_backward(tangents["grad"], *inputs[1:])[0], None


warp_backward = Operator(
    "flow_warp_backward(Tensor grad, Tensor image, Tensor flow, Tensor? visibility, int mode, "
    "int padding, bool need_image, bool need_flow) -> (Tensor grad_image, Tensor grad_flow)",
    reference=reference_backward,
    fake=_backward_fake,
    setup_context=_backward_setup_context,
    backward=_backward_backward,
    tangent=_backward_tangent,
)
