# SPDX-License-Identifier: Apache-2.0
"""Appearance flow: from the poses of a mesh, and at several scales.

Plain PyTorch around mesh_raster and flow_warp: no kernels of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import Axes, describe, geometry_dtype, non_negative_float, one_of, positive_int
from .ops.mesh_raster import check_mesh, checked_size, mesh_raster

VISIBLE, OCCLUDED, BACKGROUND = 0, 1, 2


def mesh_flow(
    vertices_target: Tensor,
    vertices_source: Tensor,
    faces: Tensor,
    size: Sequence[int],
    *,
    visibility: str = "face",
    tolerance: float = 0.01,
) -> tuple[Tensor, Tensor]:
    r"""Appearance flow between two poses of a mesh, on the pixels of the target.

    A target pixel p shows the face t at barycentrics b. The same point of the surface lies, in the
    source, at :math:`u = \sum_i b_i\, s_{t_i}`, s being the source's projected vertices, and

    .. math:: \text{flow}(p) = u - p = \sum_i b_i\,(s_{t_i} - v_{t_i}),

    so that ``source(p + flow(p))`` is the source's color of that point: a gather.

    Args:
        vertices_target, vertices_source: (N, V, 3) as for :func:`pose_kernels.mesh_raster`: x and
            y in pixels, and a depth of which less is nearer.
        faces: (F, 3), any integer dtype, shared by both and by the batch.
        size: (H, W) of both images.
        visibility: when a point counts as visible in the source. "face": when its face owns at
            least one pixel of the source's face map, which suits faces of more than a pixel.
            "zbuffer": when its depth in the source, interpolated, is within ``tolerance`` of what
            the source shows at the pixel nearest to u, or nothing is there.
        tolerance: of "zbuffer", as a share of the range of the source's depths; at least 0.

    Returns:
        flow (N, 2, H, W) in pixels, order (x, y), float32 (float64 for float64 vertices), and
        visibility (N, H, W) uint8: 0 visible in the source, 1 on the mesh but not visible there,
        2 background. The flow is that of the surface for 0 and 1 alike, and 0 for 2. A point that
        lies outside of the source image counts as 1; one whose source position is not finite too,
        with flow 0.

    Gradient:
        none.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: as ``mesh_raster``, or an unknown ``visibility`` or negative ``tolerance``.

    Source: Li, Huang, Loy, "Dense Intrinsic Appearance Flow for Human Pose Transfer", CVPR 2019,
    sec. 3.1 and its released code: visibility "face"; the bounds of the image, which that does not
    check, and "zbuffer" are ours.

    >>> target = torch.tensor([[[0.0, 0, 1], [2, 0, 1], [0, 2, 1]]])
    >>> source = target + torch.tensor([1.0, 0, 0])  # one pixel to the right
    >>> flow, visibility = mesh_flow(target, source, torch.tensor([[0, 1, 2]]), (3, 3))
    >>> flow[0, 0], visibility[0]  # the point at x = 2 has left the image
    (tensor([[1., 1., 1.],
            [1., 1., 0.],
            [1., 0., 0.]]), tensor([[0, 0, 1],
            [0, 0, 2],
            [0, 2, 2]], dtype=torch.uint8))
    """
    names = ("vertices_target", "vertices_source")
    check_mesh(vertices_target, faces, names, vertices_source)
    H, W = checked_size(size)
    one_of("visibility", visibility, ("face", "zbuffer"))
    tolerance = non_negative_float("tolerance", tolerance)
    dtype = geometry_dtype(vertices_target.dtype)
    if vertices_source.dtype == torch.float64:
        dtype = torch.float64
    target, source = (x.detach().to(dtype) for x in (vertices_target, vertices_source))
    N = target.shape[0]

    face, bary = mesh_raster(target, faces, (H, W))
    face_source, bary_source = mesh_raster(source, faces, (H, W))
    shown = face >= 0
    moved = _interpolate(source - target, faces, face, bary)  # (N, 3, H, W); 0 in the background
    known = moved.isfinite().all(1)
    flow = moved[:, :2].where(known[:, None], 0)
    rows = torch.arange(H, device=flow.device, dtype=dtype)[:, None]
    x = torch.arange(W, device=flow.device, dtype=dtype) + flow[:, 0]
    y = rows + flow[:, 1]
    inside = known & (x >= 0) & (x <= W - 1) & (y >= 0) & (y <= H - 1)

    if visibility == "face":
        # Place 0 takes the pixels without a face.
        owns = torch.zeros((N, faces.shape[0] + 1), dtype=torch.bool, device=flow.device)
        owns = owns.scatter(1, face_source.flatten(1).long() + 1, True)
        seen = owns.gather(1, face.flatten(1).long() + 1).view(N, H, W)
    else:
        depth = _interpolate(source, faces, face, bary)[:, 2]
        front = _interpolate(source, faces, face_source, bary_source)[:, 2]
        front = front.where(face_source >= 0, float("inf"))
        nearest = y.round().clamp(0, H - 1).long() * W + x.round().clamp(0, W - 1).long()
        front = front.flatten(1).gather(1, nearest.flatten(1)).view(N, H, W)
        seen = depth <= front + (tolerance * _depth_range(source))[:, None, None]
    found = (seen & inside).logical_not().to(torch.uint8)
    return flow, found.where(shown, BACKGROUND)


def _interpolate(values: Tensor, faces: Tensor, face: Tensor, bary: Tensor) -> Tensor:
    """(N, C, H, W) of values (N, V, C) at the corners; 0 where there is no face."""
    N, _, C = values.shape
    H, W = face.shape[1:]
    shown = (face >= 0).flatten(1)[..., None]
    # One face and one vertex more, so that a mesh without any can be indexed as well.
    corners = torch.nn.functional.pad(faces.long(), (0, 0, 0, 1))[face.flatten(1).long()]
    values = torch.nn.functional.pad(values, (0, 0, 0, 1))
    total = values.new_zeros((N, H * W, C))
    for i in range(3):
        at = corners[..., i, None].expand(-1, -1, C)
        total = total + values.gather(1, at).where(shown, 0) * bary[:, i].flatten(1)[..., None]
    return total.transpose(1, 2).reshape(N, C, H, W)


def _depth_range(vertices: Tensor) -> Tensor:
    """(N,) of what is finite."""
    depth = torch.nn.functional.pad(vertices[..., 2], (0, 1))
    finite = depth.isfinite()
    finite = torch.cat((finite[:, :-1], ~finite[:, :-1].any(1, keepdim=True)), 1)
    high = depth.where(finite, -float("inf")).amax(1)
    return high - depth.where(finite, float("inf")).amin(1)


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
