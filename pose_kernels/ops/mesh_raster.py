# SPDX-License-Identifier: Apache-2.0
"""mesh_raster: which triangle of a mesh each pixel shows, and where in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..autograd import Operator, _functorch_active
from ..checks import Axes, geometry_dtype
from ..reference.mesh_raster import raster as reference_raster


def mesh_raster(vertices: Tensor, faces: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    r"""Draw projected triangles into a depth buffer; return the face and the place in it.

    Pixel centers lie at integers. A triangle covers a center that is inside of it or on an edge,
    whichever way round its vertices run (nothing is culled). With :math:`q_i = v_i - p` and
    :math:`a \times b = a_x b_y - a_y b_x`, its barycentrics there are

    .. math:: b_0 : b_1 : b_2 = q_1 \times q_2 \,:\, q_2 \times q_0 \,:\, q_0 \times q_1,
        \qquad b_0 + b_1 + b_2 = 1,

    and its depth is that of its plane, :math:`\sum_i b_i z_i`, rounded to float32. The least depth
    wins; of equal depths, the face of lowest index. Positions are computed with in float64.

    Args:
        vertices: (N, V, 3): x to the right and y down in pixels, and a depth of which less is
            nearer; float32, float64, or half types, which are used in float32.
        faces: corners of the triangles (F, 3), any integer dtype, shared by the batch. A face
            with a number that is not finite (or beyond float32), or without area, is left out.
        size: (H, W) of the image, fewer than 2^31 pixels.

    Returns:
        face (N, H, W) int32, -1 where there is none, and bary (N, 3, H, W), the barycentrics in
        the order of the face's corners; float32 (float64 for float64 vertices), at least 0, all 0
        where there is no face. The same bits in every run, and the same face on every backend.

    Gradient:
        none: ``requires_grad`` is allowed and gets None.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: a rank, size, dtype or device does not fit, or faces holds an index that is no
            vertex; the message says which. On a GPU, where looking at values would cost a
            synchronization, such a face is left out, unless POSE_KERNELS_DEBUG=1.

    Source: the face maps from which Li, Huang, Loy, "Dense Intrinsic Appearance Flow for Human Pose
    Transfer", CVPR 2019, sec. 3.1, derive the flow of a body mesh.

    >>> vertices = torch.tensor([[[0.0, 0, 1], [2, 0, 1], [0, 2, 1]]])
    >>> face, bary = mesh_raster(vertices, torch.tensor([[0, 1, 2]]), (3, 4))
    >>> face
    tensor([[[ 0,  0,  0, -1],
             [ 0,  0, -1, -1],
             [ 0, -1, -1, -1]]], dtype=torch.int32)
    >>> bary[0, :, 1, 1]  # the middle of the edge between vertices 1 and 2
    tensor([0.0000, 0.5000, 0.5000])
    """
    check_mesh(vertices, faces, ("vertices",))
    H, W = checked_size(size)
    vertices = vertices.detach().to(geometry_dtype(vertices.dtype))
    faces = _kernel_faces(faces)
    return draw(vertices, faces.expand(vertices.shape[0], *faces.shape), [H, W])


def check_mesh(vertices: object, faces: object, names: tuple[str, ...], *more: object) -> None:
    """Vertex sets of one mesh under their names, and its faces: shapes, dtypes, devices, values."""
    axes = Axes()
    for name, points in zip(names, (vertices, *more), strict=True):
        axes.bind(name, points, "N V 3", "geometry")
    axes.bind("faces", faces, "F 3", "integer")
    assert isinstance(faces, Tensor)
    F, V = axes.size["F"], axes.size["V"]
    if F >= 2**31 or V >= 2**31:
        raise ValueError(f"faces and vertices must be fewer than 2^31, got F = {F}, V = {V}")
    if not _has_values(faces) or not faces.numel():
        return
    low, high = (int(value) for value in faces.aminmax())
    if low < 0 or high >= V:
        raise ValueError(
            f"faces must hold indices of the V = {V} vertices, from 0, got {low}..{high}"
        )


def _has_values(faces: Tensor) -> bool:
    """Whether they can be looked at, and without waiting for a GPU, unless in debug mode."""
    if torch.compiler.is_compiling() or _functorch_active() or type(faces) is not Tensor:
        return False
    if faces.device.type == "cpu":
        return True
    return os.environ.get("POSE_KERNELS_DEBUG") == "1" and not faces.is_meta


def checked_size(size: object) -> tuple[int, int]:
    fits = isinstance(size, (tuple, list)) and len(size) == 2
    for side in size if fits else ():  # type: ignore[attr-defined]  # a sequence by now
        is_int = isinstance(side, (int, torch.SymInt)) and not isinstance(side, bool)
        fits = fits and is_int and side >= 1
    if not fits:
        raise ValueError(f"size must be (H, W), two ints of at least 1, got {size!r}")
    H, W = (side for side in size)  # type: ignore[attr-defined]
    if H * W >= 2**31:
        raise ValueError(f"size must have fewer than 2^31 pixels, got {size!r}")
    return H, W


def _kernel_faces(faces: Tensor) -> Tensor:
    if faces.dtype in (torch.int32, torch.int64):
        return faces
    return faces.to(torch.int32 if faces.dtype.itemsize <= 2 else torch.int64)


def _fake(vertices: Tensor, faces: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    axes = Axes()
    axes.bind("vertices", vertices, "N V 3", "geometry")
    axes.bind("faces", faces, "N F 3", "integer")
    N = vertices.shape[0]
    return vertices.new_empty((N, *size), dtype=torch.int32), vertices.new_empty((N, 3, *size))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output)


def _backward(ctx: Any, *grads: Tensor) -> dict[str, Tensor | None]:
    return {}


def _tangent(
    inputs: tuple[Any, ...], outputs: tuple[Tensor, Tensor], tangents: dict[str, Tensor]
) -> tuple[None, None]:
    return None, None


draw = Operator(
    "mesh_raster(Tensor vertices, Tensor faces, SymInt[] size) -> (Tensor face, Tensor bary)",
    reference=reference_raster,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    tangent=_tangent,
)
