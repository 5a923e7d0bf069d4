# SPDX-License-Identifier: Apache-2.0
"""push_pull: fill the holes of an atlas."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..autograd import Operator
from ..checks import Axes, describe, geometry_dtype, non_negative_float
from ..reference.layout import empty_in_format_of
from ..reference.push_pull import fill as reference_fill
from ..reference.push_pull import fill_adjoint as reference_fill_adjoint


def push_pull(
    atlas: Tensor, weight: Tensor, *, radius: int | None = None, min_weight: float = 1e-3
) -> Tensor:
    """Fill the unknown texels of every tile smoothly from the known ones.

    A texel is known where ``weight > min_weight``; known texels come back bit for bit, the values
    of unknown ones are never read. Push-pull: a pyramid of means of known nodes is built up to
    one node (pull), then each unknown node takes the bilinearly upsampled value of the level
    above (push). Tiles never mix; a tile with nothing known is 0.

    Args:
        atlas: tiles (..., C, H, W) of any sides; float32, float64, float16 or bfloat16,
            contiguous or with the channels innermost in memory.
        weight: (..., H, W) with the same leading axes, any floating dtype: what
            :func:`uv_splat` returns, or a 0/1 mask.
        radius: texels farther than this many texels (Chebyshev distance) from every known one
            stay 0; None fills the whole tile.
        min_weight: a texel counts as known above it.

    Returns:
        the filled atlas, with the atlas's shape, dtype and memory format.

    Gradient:
        atlas (linear for a fixed weight, so every order is exact); ``weight`` gets none.

    Raises:
        TypeError: an argument is not a tensor, or radius is not an int.
        ValueError: a rank, size, dtype, device or value does not fit; the message says which.

    Source: Gortler et al., "The Lumigraph", SIGGRAPH 1996, sec. 3.4; normalization after Kraus,
    "The Pull-Push Algorithm Revisited", GRAPP 2009, with a binary mask.

    >>> atlas = torch.tensor([[[4.0, 0.0, 0.0, 8.0]]])
    >>> known = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    >>> push_pull(atlas, known)
    tensor([[[4., 5., 7., 8.]]])
    """
    tiles, known = _flatten(atlas, weight)
    min_weight = non_negative_float("min_weight", min_weight)
    if radius is None:
        radius = -1
    elif isinstance(radius, bool) or not isinstance(radius, (int, torch.SymInt)):
        raise TypeError(f"radius must be None or an int, got {describe(radius)}")
    elif radius < 0:
        raise ValueError(f"radius must be None or an int of at least 0, got {radius}")
    elif isinstance(radius, int):
        radius = min(radius, 2**31 - 1)  # as good as any larger one: a tile's side is below
    known = known.to(geometry_dtype(tiles.dtype))
    return fill(tiles, known, radius, min_weight, False).reshape(atlas.shape)


def _flatten(atlas: object, weight: object) -> tuple[Tensor, Tensor]:
    """Check both and merge the leading axes: (M, C, H, W) and (M, H, W)."""
    if not isinstance(atlas, Tensor) or atlas.dim() < 3:
        Axes().bind("atlas", atlas, "... C H W", "features")
    assert isinstance(atlas, Tensor)
    lead = [f"L{i}" for i in range(atlas.dim() - 3)]
    axes = Axes()
    axes.bind("atlas", atlas, " ".join([*lead, "C", "H", "W"]), "features")
    axes.bind("weight", weight, " ".join([*lead, "H", "W"]), "geometry")
    assert isinstance(weight, Tensor)
    tiles = 1
    for axis in lead:
        tiles *= axes.size[axis]
    C, H, W = atlas.shape[-3:]
    return atlas.reshape(tiles, C, H, W), weight.reshape(tiles, H, W)


def _reference(
    atlas: Tensor, weight: Tensor, radius: int, min_weight: float, adjoint: bool
) -> Tensor:
    apply = reference_fill_adjoint if adjoint else reference_fill
    filled = apply(atlas, weight, radius, min_weight)
    return empty_in_format_of(atlas, filled.shape).copy_(filled)


def _fake(atlas: Tensor, weight: Tensor, radius: int, min_weight: float, adjoint: bool) -> Tensor:
    return empty_in_format_of(atlas, atlas.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, weight, ctx.radius, ctx.min_weight, ctx.adjoint = inputs
    ctx.save_for_backward(weight)


def _backward(ctx: Any, grad: Tensor) -> dict[str, Tensor | None]:
    (weight,) = ctx.saved_tensors
    return {"atlas": fill(grad, weight, ctx.radius, ctx.min_weight, not ctx.adjoint)}


def _tangent(inputs: tuple[Any, ...], output: Tensor, tangents: dict[str, Tensor]) -> Tensor:
    tangent = tangents.get("atlas")  # a tangent of weight moves nothing
    return torch.zeros_like(output) if tangent is None else fill(tangent, *inputs[1:])


fill = Operator(
    "push_pull(Tensor atlas, Tensor weight, SymInt radius, float min_weight, bool adjoint) "
    "-> Tensor",
    reference=_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    tangent=_tangent,
    linear=True,
)
