# SPDX-License-Identifier: Apache-2.0
"""uv_splat: lift a photo onto the DensePose atlas."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..autograd import Operator, no_second_order
from ..checks import Axes, geometry_dtype, kernel_part, non_negative_float, positive_int
from ..reference.layout import empty_in_format_of
from ..reference.uv_splat import uv_splat as reference_splat
from ..reference.uv_splat import uv_splat_backward as reference_splat_backward
from ..reference.uv_splat import uv_splat_tangent as reference_splat_tangent


def uv_splat(
    image: Tensor,
    part: Tensor,
    uv: Tensor,
    *,
    num_parts: int = 24,
    size: int = 256,
    normalize: bool = True,
    min_weight: float = 1e-3,
) -> tuple[Tensor, Tensor]:
    r"""Scatter the pixels of an image onto the tiles of a body-part atlas, bilinearly.

    A pixel p of part i lands on tile i-1 at texel position
    :math:`t_p = (u_p (S-1),\ (1-v_p)(S-1))` (column, row; texel centers at integers) and adds
    :math:`w_{pq} = k(t_x-q_x)\,k(t_y-q_y)`, :math:`k(t) = \max(0, 1-|t|)`, to the four texels q
    around it: :math:`D_q = \sum_p w_{pq}`, :math:`A_q = \sum_p w_{pq}\, c_p`.

    Args:
        image: features (N, C, H, W); float32, float64, float16 or bfloat16, either memory format.
        part: body parts (N, H, W), any integer dtype; 0 is background, 1..P are parts. Other
            values are background too.
        uv: surface coordinates (N, 2, H, W) in [0, 1], order (u, v); values outside are clamped,
            non-finite ones make the pixel background. Used in float32 (float64 beside float64
            features).
        num_parts: P, tiles of the atlas.
        size: S, side of a tile in texels.
        normalize: True returns A / D where D > ``min_weight`` and 0 elsewhere; False returns A,
            the exact adjoint of :func:`uv_gather`.
        min_weight: a texel with D at or below it is invisible: no color, no gradient.

    Returns:
        ``atlas`` (N, P, C, S, S) in the image's dtype and memory format, and ``weight`` D
        (N, P, S, S) in float32 (float64 for float64 images).

    Gradient:
        image and uv (through A, D and ``weight``). Zero to uv on an axis that was clamped, 0 and
        1 included. ``part`` gets none. Second order through image only. The result is
        deterministic on the CPU and with the compiled CUDA kernels.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: a rank, size, dtype, device or value does not fit; the message says which.

    Source: DensePose-driven texture warping of Neverova, Güler, Kokkinos, "Dense Pose Transfer",
    ECCV 2018, sec. 3.2; normalized as in coordinate-based inpainting and softmax splatting.

    >>> image = torch.tensor([[[[8.0]]]])
    >>> part = torch.tensor([[[2]]])
    >>> uv = torch.tensor([[[[0.25]], [[0.0]]]])  # a quarter of the way along the bottom row
    >>> atlas, weight = uv_splat(image, part, uv, num_parts=2, size=2)
    >>> weight[0, 1]
    tensor([[0.0000, 0.0000],
            [0.7500, 0.2500]])
    >>> atlas[0, 1, 0]
    tensor([[0., 0.],
            [8., 8.]])
    """
    check_surface_image(image, part, uv)
    positive_int("num_parts", num_parts, 2**31 - 1)
    positive_int("size", size, 46340)  # its square is below 2^31
    min_weight = non_negative_float("min_weight", min_weight)
    uv = uv.to(geometry_dtype(image.dtype))
    return splat(image, kernel_part(part), uv, num_parts, size, bool(normalize), min_weight, True)


def check_surface_image(image: object, part: object, uv: object) -> None:
    axes = Axes()
    axes.bind("image", image, "N C H W", "features")
    axes.bind("part", part, "N H W", "integer")
    axes.bind("uv", uv, "N 2 H W", "geometry")


def _reference(
    image: Tensor,
    part: Tensor,
    uv: Tensor,
    num_parts: int,
    size: int,
    normalize: bool,
    min_weight: float,
    with_weight: bool,
) -> tuple[Tensor, Tensor]:
    if normalize and not with_weight:
        raise ValueError("uv_splat: a normalized splat needs with_weight=True")
    atlas, weight = reference_splat(
        image,
        part,
        uv,
        num_parts=num_parts,
        size=size,
        normalize=normalize,
        min_weight=min_weight,
    )
    return atlas, weight if with_weight else weight.new_empty(0)


def _fake(
    image: Tensor,
    part: Tensor,
    uv: Tensor,
    num_parts: int,
    size: int,
    normalize: bool,
    min_weight: float,
    with_weight: bool,
) -> tuple[Tensor, Tensor]:
    check_surface_image(image, part, uv)
    if normalize and not with_weight:
        raise ValueError("uv_splat: a normalized splat needs with_weight=True")
    N, C = image.shape[:2]
    atlas = empty_in_format_of(image, (N, num_parts, C, size, size))
    weight = uv.new_empty((N, num_parts, size, size) if with_weight else (0,))
    return atlas, weight


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    image, part, uv, num_parts, size, normalize, min_weight, _ = inputs
    atlas, weight = output
    need_uv = ctx.needs_input_grad[2]
    ctx.set_materialize_grads(False)  # a zero gradient of weight would be 50 MB for nothing
    ctx.num_parts, ctx.size, ctx.min_weight = num_parts, size, min_weight
    ctx.save_for_backward(
        part,
        uv,
        weight if normalize else None,
        image if need_uv else None,
        atlas if need_uv and normalize else None,
    )


def _backward(
    ctx: Any, grad_atlas: Tensor | None, grad_weight: Tensor | None
) -> dict[str, Tensor | None]:
    part, uv, weight, image, atlas = ctx.saved_tensors
    need_image, need_uv = ctx.needs_input_grad[0], ctx.needs_input_grad[2]
    if grad_atlas is None and (grad_weight is None or not need_uv):
        return {}
    if grad_atlas is None:
        shape = (part.shape[0], ctx.num_parts, image.shape[1], ctx.size, ctx.size)
        grad_atlas = image.new_zeros(()).expand(shape)
    grad_image, grad_uv = splat_backward(
        grad_atlas,
        grad_weight if need_uv else None,
        image if need_uv else None,
        part,
        uv,
        atlas,
        weight,
        ctx.min_weight,
        need_image,
        need_uv,
    )
    return {
        "image": grad_image if need_image else None,
        "uv": grad_uv if need_uv else None,
    }


def _tangent(
    inputs: tuple[Any, ...], outputs: tuple[Tensor, Tensor], tangents: dict[str, Tensor]
) -> tuple[Tensor, Tensor | None]:
    image, part, uv, _, _, normalize, min_weight, with_weight = inputs
    atlas, weight = outputs
    d_atlas, d_weight = reference_splat_tangent(
        image,
        part,
        uv,
        atlas,
        weight,
        tangents.get("image"),
        tangents.get("uv"),
        normalize=normalize,
        min_weight=min_weight,
    )
    return d_atlas, d_weight if with_weight else None


splat = Operator(
    "uv_splat(Tensor image, Tensor part, Tensor uv, SymInt num_parts, SymInt size, "
    "bool normalize, float min_weight, bool with_weight) -> (Tensor atlas, Tensor weight)",
    reference=_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    tangent=_tangent,
)


# The backward as an operator of its own. In grad_atlas it is linear, and its adjoint there is the
# splat again: that is the whole second order through the values.


def _backward_fake(
    grad_atlas: Tensor,
    grad_weight: Tensor | None,
    image: Tensor | None,
    part: Tensor,
    uv: Tensor,
    atlas: Tensor | None,
    weight: Tensor | None,
    min_weight: float,
    need_image: bool,
    need_uv: bool,
) -> tuple[Tensor, Tensor]:
    N, _, C = grad_atlas.shape[:3]
    grad_image = grad_uv = grad_atlas.new_empty(0)
    if need_image:
        grad_image = empty_in_format_of(grad_atlas, (N, C, *part.shape[1:]))
    if need_uv:
        grad_uv = uv.new_empty(uv.shape)
    return grad_image, grad_uv.to(uv.dtype)


def _backward_setup_context(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    grad_atlas, _, _, part, uv, _, weight, min_weight, _, need_uv = inputs
    ctx.set_materialize_grads(False)
    ctx.shape, ctx.min_weight, ctx.need_uv = grad_atlas.shape, min_weight, need_uv
    ctx.save_for_backward(part, uv, weight)


def _backward_backward(
    ctx: Any, grad_grad_image: Tensor | None, grad_grad_uv: Tensor | None
) -> dict[str, Tensor | None]:
    if grad_grad_image is None and grad_grad_uv is None:
        return {}
    if ctx.need_uv or ctx.needs_input_grad[4]:
        raise no_second_order("uv_splat and uv_gather", "uv")
    part, uv, weight = ctx.saved_tensors
    _, P, _, S, _ = ctx.shape
    atlas, _ = splat(grad_grad_image, part, uv, P, S, weight is not None, ctx.min_weight, True)
    return {"grad_atlas": atlas}


def _backward_tangent(
    inputs: tuple[Any, ...], outputs: object, tangents: dict[str, Tensor]
) -> tuple[Tensor | None, None]:
    need_uv = inputs[-1]
    if need_uv or "uv" in tangents:  # where uv does not move, weight does not either
        raise no_second_order("uv_splat and uv_gather", "uv")
    if "grad_atlas" not in tangents:
        return None, None
    grad_image, _ = splat_backward(tangents["grad_atlas"], *inputs[1:])
    return grad_image, None


splat_backward = Operator(
    "uv_splat_backward(Tensor grad_atlas, Tensor? grad_weight, Tensor? image, Tensor part, "
    "Tensor uv, Tensor? atlas, Tensor? weight, float min_weight, bool need_image, bool need_uv) "
    "-> (Tensor grad_image, Tensor grad_uv)",
    reference=reference_splat_backward,
    fake=_backward_fake,
    setup_context=_backward_setup_context,
    backward=_backward_backward,
    tangent=_backward_tangent,
)
