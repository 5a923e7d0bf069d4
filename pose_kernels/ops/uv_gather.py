# SPDX-License-Identifier: Apache-2.0
"""uv_gather: paint an atlas into an image."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..autograd import Operator
from ..checks import Axes, geometry_dtype, kernel_part
from ..reference.layout import empty_in_format_of
from ..reference.uv_gather import uv_gather as reference_gather
from ..reference.uv_gather import uv_gather_tangent
from .uv_splat import splat, splat_backward


def uv_gather(atlas: Tensor, part: Tensor, uv: Tensor) -> Tensor:
    r"""Sample the tile of each pixel's body part bilinearly.

    ``image[:, p]`` is tile ``part_p - 1`` at texel position :math:`(u_p (S-1),\ (1-v_p)(S-1))`
    (column, row; texel centers at integers), clamped into the tile: neighboring tiles never mix.
    Background pixels are 0. The exact adjoint of ``uv_splat(normalize=False)``.

    Args:
        atlas: tiles (N, P, C, S, S); float32, float64, float16 or bfloat16, contiguous or with
            the channels innermost in memory.
        part: body parts (N, H, W), any integer dtype; 0 and values outside 1..P are background.
        uv: surface coordinates (N, 2, H, W) in [0, 1], order (u, v); values outside are clamped,
            non-finite ones make the pixel background. Used in float32 (float64 beside a float64
            atlas).

    Returns:
        image (N, C, H, W) in the atlas's dtype and memory format.

    Gradient:
        atlas and uv; zero to uv on an axis that was clamped, 0 and 1 included. ``part`` gets
        none. Second order through the atlas only.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: a rank, size, dtype or device does not fit; the message says which.

    Source: the bilinear texture lookup of Neverova, Güler, Kokkinos, "Dense Pose Transfer",
    ECCV 2018, sec. 3.2.

    >>> atlas = torch.tensor([[[[[0.0, 1.0], [2.0, 3.0]]]]])
    >>> part = torch.tensor([[[1, 0, 1]]])
    >>> uv = torch.tensor([[[[0.0, 0.5, 0.5]], [[0.0, 0.5, 0.5]]]])
    >>> uv_gather(atlas, part, uv)  # bottom left texel, background, tile center
    tensor([[[[2.0000, 0.0000, 1.5000]]]])
    """
    check_surface_atlas(atlas, part, uv)
    return gather(atlas, kernel_part(part), uv.to(geometry_dtype(atlas.dtype)))


def check_surface_atlas(atlas: object, part: object, uv: object) -> None:
    axes = Axes()
    axes.bind("atlas", atlas, "N P C S S", "features")
    if axes.size["P"] < 1 or axes.size["S"] < 1:
        raise ValueError(
            "atlas must have at least one tile of at least one texel, "
            f"got P = {axes.size['P']}, S = {axes.size['S']}"
        )
    axes.bind("part", part, "N H W", "integer")
    axes.bind("uv", uv, "N 2 H W", "geometry")


def _fake(atlas: Tensor, part: Tensor, uv: Tensor) -> Tensor:
    check_surface_atlas(atlas, part, uv)
    return empty_in_format_of(atlas, (atlas.shape[0], atlas.shape[2], *part.shape[1:]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    atlas, part, uv = inputs
    need_uv = ctx.needs_input_grad[2]
    ctx.tiles, ctx.side = atlas.shape[1], atlas.shape[-1]
    ctx.save_for_backward(part, uv, atlas if need_uv else None)


def _backward(ctx: Any, grad: Tensor) -> dict[str, Tensor | None]:
    part, uv, atlas = ctx.saved_tensors
    grads: dict[str, Tensor | None] = {}
    if ctx.needs_input_grad[0]:
        grads["atlas"], _ = splat(grad, part, uv, ctx.tiles, ctx.side, False, 0.0, False)
    if ctx.needs_input_grad[2]:  # the same bilinear form as the splat's, with the roles swapped
        _, grads["uv"] = splat_backward(atlas, None, grad, part, uv, None, None, 0.0, False, True)
    return grads


def _tangent(inputs: tuple[Any, ...], output: Tensor, tangents: dict[str, Tensor]) -> Tensor:
    atlas, part, uv = inputs
    return uv_gather_tangent(atlas, part, uv, tangents.get("atlas"), tangents.get("uv"))


gather = Operator(
    "uv_gather(Tensor atlas, Tensor part, Tensor uv) -> Tensor",
    reference=reference_gather,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    tangent=_tangent,
)
