# SPDX-License-Identifier: Apache-2.0
"""uv_raster: lift a photo onto the DensePose atlas without gaps."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..autograd import Operator
from ..checks import geometry_dtype, kernel_part, non_negative_float, positive_int
from ..reference.layout import empty_in_format_of
from ..reference.uv_raster import uv_raster as reference_raster
from ..reference.uv_raster import uv_raster_backward as reference_raster_backward
from .uv_splat import check_surface_image


def uv_raster(
    image: Tensor,
    part: Tensor,
    uv: Tensor,
    *,
    num_parts: int = 24,
    size: int = 256,
    max_edge: float = 0.12,
) -> tuple[Tensor, Tensor]:
    r"""Interpolate the pixels of an image linearly on the tiles of a body-part atlas.

    The pixel grid is the triangulation. Every cell of 2 x 2 pixels, n e over s d, is the two
    triangles (n, e, s) and (e, d, s). One counts when its three pixels have the same part i, its
    three edges are shorter than ``max_edge`` in (u, v), and it has an area of at least 1e-10
    texels squared on tile i-1, where pixel p lies at :math:`t_p = (u_p (S-1),\ (1-v_p)(S-1))`
    (column, row; texel centers at integers). A texel q whose barycentric coordinates
    :math:`\lambda` in it are all at least -1e-6 gets :math:`\sum_p \lambda_p(q)\, c_p`, and the
    mean over all such triangles where there are several.

    A pixel that is in no such triangle is splatted, as :func:`uv_splat` does, onto the texels that
    no triangle covers: :math:`A_q / D_q` over those pixels, where :math:`D_q` is above 1e-3.

    Args:
        image: features (N, C, H, W); float32, float64, float16 or bfloat16, either memory format.
        part: body parts (N, H, W), any integer dtype; 0 is background, 1..P are parts. Other
            values are background too.
        uv: surface coordinates (N, 2, H, W) in [0, 1], order (u, v); values outside are clamped,
            non-finite ones make the pixel background. Used in float32 (float64 beside float64
            features); positions and barycentric coordinates are float64 in any case.
        num_parts: P, tiles of the atlas.
        size: S, side of a tile in texels.
        max_edge: triangles with an edge of this length or more, in units of (u, v), span a tear of
            the surface and do not count. 0 is a splat.

    Returns:
        ``atlas`` (N, P, C, S, S) in the image's dtype and memory format, 0 where nothing is known,
        and ``weight`` (N, P, S, S) in float32 (float64 for float64 images): the number of
        triangles, or :math:`D_q` where the splat fell back to it, or 0. It is an integer where
        triangles cover a texel and only there: a :math:`D_q` that is an integer is replaced by
        the next larger number.

    Gradient:
        image, to any order: the op is linear in it. ``part`` and ``uv`` get none, ``weight`` has
        none: which triangles cover a texel is a discrete choice. The result is deterministic on
        the CPU and with the compiled CUDA kernels.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: a rank, size, dtype, device or value does not fit; the message says which.

    Source: scattered interpolation on the surface of Neverova, Güler, Kokkinos, "Dense Pose
    Transfer", ECCV 2018, sec. 3.2, with the image grid as triangulation.

    >>> image = torch.tensor([[[[0.0, 4.0], [8.0, 12.0]]]])
    >>> part = torch.ones(1, 2, 2, dtype=torch.uint8)
    >>> u, v = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    >>> uv = torch.stack([u.expand(2, 2), v[:, None].expand(2, 2)])[None]  # all of the tile
    >>> atlas, weight = uv_raster(image, part, uv, num_parts=1, size=3, max_edge=2)
    >>> atlas[0, 0, 0]
    tensor([[ 0.,  2.,  4.],
            [ 4.,  6.,  8.],
            [ 8., 10., 12.]])
    >>> weight[0, 0]  # two triangles meet on the diagonal
    tensor([[1., 1., 2.],
            [1., 2., 1.],
            [2., 1., 1.]])
    """
    check_surface_image(image, part, uv)
    positive_int("num_parts", num_parts, 2**31 - 1)
    positive_int("size", size, 46340)  # its square is below 2^31
    max_edge = non_negative_float("max_edge", max_edge)
    uv = uv.detach().to(geometry_dtype(image.dtype))
    return raster(image, kernel_part(part), uv, num_parts, size, max_edge)


def _reference(
    image: Tensor, part: Tensor, uv: Tensor, num_parts: int, size: int, max_edge: float
) -> tuple[Tensor, Tensor]:
    return reference_raster(image, part, uv, num_parts=num_parts, size=size, max_edge=max_edge)


def _fake(
    image: Tensor, part: Tensor, uv: Tensor, num_parts: int, size: int, max_edge: float
) -> tuple[Tensor, Tensor]:
    check_surface_image(image, part, uv)
    N, C = image.shape[:2]
    atlas = empty_in_format_of(image, (N, num_parts, C, size, size))
    return atlas, uv.new_empty((N, num_parts, size, size))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, part, uv, _, _, max_edge = inputs
    _, weight = output
    ctx.set_materialize_grads(False)  # a zero gradient of weight would be 50 MB for nothing
    ctx.mark_non_differentiable(weight)
    ctx.max_edge = max_edge
    ctx.save_for_backward(part, uv, weight)


def _backward(ctx: Any, grad_atlas: Tensor | None, _: Tensor | None) -> dict[str, Tensor | None]:
    if grad_atlas is None or not ctx.needs_input_grad[0]:
        return {}
    part, uv, weight = ctx.saved_tensors
    return {"image": raster_backward(grad_atlas, part, uv, weight, ctx.max_edge)}


def _tangent(
    inputs: tuple[Any, ...], outputs: tuple[Tensor, Tensor], tangents: dict[str, Tensor]
) -> tuple[Tensor | None, None]:
    if "image" not in tangents:
        return None, None
    return raster(tangents["image"], *inputs[1:])[0], None


raster = Operator(
    "uv_raster(Tensor image, Tensor part, Tensor uv, SymInt num_parts, SymInt size, "
    "float max_edge) -> (Tensor atlas, Tensor weight)",
    reference=_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    tangent=_tangent,
    linear=True,
    fixed=(1,),
)


# The backward as an operator of its own: linear in grad_atlas, its adjoint is uv_raster again.


def _backward_fake(
    grad_atlas: Tensor, part: Tensor, uv: Tensor, weight: Tensor, max_edge: float
) -> Tensor:
    N, _, C = grad_atlas.shape[:3]
    return empty_in_format_of(grad_atlas, (N, C, *part.shape[1:]))


def _backward_setup_context(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    grad_atlas, part, uv, _, max_edge = inputs
    ctx.shape, ctx.max_edge = grad_atlas.shape, max_edge
    ctx.save_for_backward(part, uv)


def _backward_backward(ctx: Any, grad_grad_image: Tensor) -> dict[str, Tensor | None]:
    part, uv = ctx.saved_tensors
    _, P, _, S, _ = ctx.shape
    atlas, _ = raster(grad_grad_image, part, uv, P, S, ctx.max_edge)
    return {"grad_atlas": atlas}


def _backward_tangent(
    inputs: tuple[Any, ...], outputs: object, tangents: dict[str, Tensor]
) -> Tensor | None:
    if "grad_atlas" not in tangents:
        return None
    return raster_backward(tangents["grad_atlas"], *inputs[1:])


raster_backward = Operator(
    "uv_raster_backward(Tensor grad_atlas, Tensor part, Tensor uv, Tensor weight, float max_edge) "
    "-> Tensor",
    reference=reference_raster_backward,
    fake=_backward_fake,
    setup_context=_backward_setup_context,
    backward=_backward_backward,
    tangent=_backward_tangent,
    linear=True,
)
