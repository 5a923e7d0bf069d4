# SPDX-License-Identifier: Apache-2.0
"""A flow and its visibility at several scales, in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from ..checks import Axes, describe, geometry_dtype, positive_int


def flow_pyramid(
    flow: Tensor, visibility: Tensor, levels: int, *, masked: bool = False
) -> list[tuple[Tensor, Tensor]]:
    r"""Flow and visibility for feature maps of half, a quarter, ... of the size.

    Level l has blocks of :math:`2^l \times 2^l` pixels of level 0: its flow is the block's mean,
    in pixels of level l, :math:`F_l = \mathrm{mean}(F) / 2^l`; its visibility is the block's
    smallest, so that one visible pixel makes a visible block, and one of the body a block of the
    body.

    Args:
        flow: (N, 2, H, W), order (x, y), in pixels; H and W multiples of ``2^(levels - 1)``.
        visibility: (N, H, W) integer: 0 visible, 1 occluded, 2 background.
        levels: how many, level 0 included.
        masked: the mean is over pixels with visibility below 2 only, at level 0 too, and 0 where
            a block has none.

    Returns:
        ``[(flow, visibility), ...]``, level 0 first: (N, 2, H / 2^l, W / 2^l) float32 (float64 for
        float64 flow) and (N, H / 2^l, W / 2^l) in the dtype of ``visibility``.

    Gradient:
        flow, by autograd, of any order.

    Raises:
        TypeError: flow or visibility is not a tensor.
        ValueError: a rank, size, dtype or device does not fit; the message says which.

    Source: the flow and visibility pyramids of Li, Huang, Loy, "Dense Intrinsic Appearance Flow
    for Human Pose Transfer", CVPR 2019, by which features of every scale are warped.

    >>> flow = torch.full((1, 2, 4, 4), 8.0)
    >>> visibility = torch.full((1, 4, 4), 2)
    >>> visibility[0, 0, 0] = 1
    >>> for f, v in flow_pyramid(flow, visibility, 3):
    ...     print(tuple(f.shape), f[0, 0, 0, 0].item(), v[0, 0].tolist())
    (1, 2, 4, 4) 8.0 [1, 2, 2, 2]
    (1, 2, 2, 2) 4.0 [1, 2]
    (1, 2, 1, 1) 2.0 [1]
    """
    axes = Axes()
    axes.bind("flow", flow, "N 2 H W", "geometry")
    axes.bind("visibility", visibility, "N H W", "integer")
    positive_int("levels", levels, 31)
    block = 2 ** (levels - 1)
    if flow.shape[2] % block or flow.shape[3] % block:
        raise ValueError(
            f"flow must have sides that are multiples of {block} for {levels} levels, "
            f"got {describe(flow)}"
        )
    total = flow.to(geometry_dtype(flow.dtype))
    count = None
    if masked:
        inside = (visibility < 2)[:, None]
        total, count = total.where(inside, 0), inside.to(total.dtype)
    found = []
    for level in range(levels):
        if level > 0:
            visibility = _blocks(visibility).amin((-3, -1))
            total = _blocks(total).mean((-3, -1))
            count = None if count is None else _blocks(count).mean((-3, -1))
        mean = total if count is None else (total / count.where(count > 0, 1))
        found.append((mean / 2**level, visibility))
    return found


def _blocks(x: Tensor) -> Tensor:
    """(..., H, W) as (..., H/2, 2, W/2, 2)."""
    return x.reshape(*x.shape[:-2], x.shape[-2] // 2, 2, x.shape[-1] // 2, 2)
