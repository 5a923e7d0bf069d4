# SPDX-License-Identifier: Apache-2.0
"""The warp in the picture's plane, for comparison: affine maps of the parts, nearest sampling.

Source: Knoche, Sárándi, Leibe, "Reposing Humans by Warping 3D Features", CVPR Workshops 2020,
sec. 4.3, and its published code.
"""

from __future__ import annotations

import torch
from torch import Tensor

_NAMES = (
    "neck nose lsho lelb lwri lhip lkne lank rsho relb rwri rhip rkne rank leye lear reye rear pelv"
).split()
_AT = {name: index for index, name in enumerate(_NAMES)}
_TORSO = [_AT[name] for name in ("rhip", "lhip", "lsho", "rsho")]
_HEAD = [_AT[n] for n in ("neck", "leye", "reye", "nose", "lear", "rear", "lsho", "rsho")]
_UPPER, _LOWER = 0.1, 0.3  # how far a limb's rectangle goes on past its end
_BEFORE = 0.1  # and before its start
_HALF_WIDTH = 0.2  # in heights of the torso
_POINTS = 8
_FLAT = 1e-6  # square of thickness to length: points on one line determine no affine map


def planar_transforms(source: Tensor, target: Tensor, voxel: float) -> Tensor:
    """Affine maps of the ten parts from the target's to the source's plane, z as it is.

    Torso and head by least squares over four and eight joints, limbs by the corners of a rectangle
    about the bone, which is as wide as 0.4 heights of its own pose's torso.

    Args:
        source, target: (N, 19, 3) pixels, NaN where missing; z is not used.
        voxel: pixels from voxel to voxel along x and y.

    Returns:
        (N, 10, 3, 4) voxels, float32; NaN where a part has too few points or all on one line.
    """
    (x, x_known), (y, y_known) = _point_sets(target.double()), _point_sets(source.double())
    weight = (x_known & y_known).double()[..., None]
    count = weight.sum(2, keepdim=True).clamp(min=1)
    x_mean = (weight * x).sum(2, keepdim=True) / count
    y_mean = (weight * y).sum(2, keepdim=True) / count
    x, y = x - x_mean, y - y_mean
    spread = (weight * x).mT @ x
    mixed = (weight * y).mT @ x
    (a, b), (_, d) = ((spread[..., i, 0], spread[..., i, 1]) for i in (0, 1))
    determinant = a * d - b * b
    sound = (weight.sum((2, 3)) >= 3) & (determinant > _FLAT * (a + d).square())
    adjugate = torch.stack([d, -b, -b, a], -1).unflatten(-1, (2, 2))
    linear = mixed @ adjugate / torch.where(sound, determinant, 1)[..., None, None]
    shift = (y_mean[:, :, 0] - (linear @ x_mean.mT)[..., 0]) / voxel
    result = torch.zeros(*linear.shape[:2], 3, 4, dtype=torch.float64, device=linear.device)
    result[..., :2, :2] = linear
    result[..., :2, 3] = shift
    result[..., 2, 2] = 1
    return torch.where(sound[..., None, None], result, torch.nan).float()


def _point_sets(joints: Tensor) -> tuple[Tensor, Tensor]:
    """Points (N, 10, 8, 2) of the parts, 0 where there is none, and whether there is one."""
    known = joints.isfinite().all(-1)
    plane = torch.where(known[..., None], joints[..., :2], 0)
    points = [_filled(plane[:, joint]) for joint in (_TORSO, _HEAD)]
    there = [_filled(known[:, joint]) for joint in (_TORSO, _HEAD)]
    width, sized = _torso_height(plane, known)
    for limbs in (("sho", "elb", "wri"), ("hip", "kne", "ank")):
        for side in "lr":
            joint = [_AT[side + name] for name in limbs]
            for start, end, beyond in ((joint[0], joint[1], _UPPER), (joint[1], joint[2], _LOWER)):
                corners = _rectangle(plane[:, start], plane[:, end], beyond, _HALF_WIDTH * width)
                found = (known[:, start] & known[:, end] & sized)[:, None].expand(-1, 4)
                points.append(_filled(corners))
                there.append(_filled(found))
    return torch.stack(points, 1), torch.stack(there, 1)


def _filled(rows: Tensor) -> Tensor:
    """(N, k, ...) with zeros up to eight rows."""
    missing = rows.new_zeros(rows.shape[0], _POINTS - rows.shape[1], *rows.shape[2:])
    return torch.cat([rows, missing], 1)


def _torso_height(plane: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Root of the mean square of both sides from shoulder to hip, and whether one is known."""
    total = count = plane.new_zeros(plane.shape[0])
    for side in "lr":
        shoulder, hip = _AT[side + "sho"], _AT[side + "hip"]
        both = known[:, shoulder] & known[:, hip]
        square = (plane[:, shoulder] - plane[:, hip]).square().sum(-1)
        total, count = total + torch.where(both, square, 0), count + both
    return (total / count.clamp(min=1)).sqrt(), count > 0


def _rectangle(start: Tensor, end: Tensor, beyond: float, half_width: Tensor) -> Tensor:
    """Corners (N, 4, 2) about a bone; all on a line, or one point, where it has no length."""
    first = start + _BEFORE * (start - end)
    last = end + beyond * (end - first)
    along = last - first
    length = torch.linalg.vector_norm(along, dim=-1, keepdim=True)
    across = torch.stack([-along[:, 1], along[:, 0]], -1) / length.clamp(min=1e-9)
    across = across * half_width[:, None]
    return torch.stack([first + across, first - across, last + across, last - across], 1)


def nearest_warp(volume: Tensor, mask: Tensor, transform: Tensor) -> Tensor:
    """What `pose_kernels.helmert_warp` does with one mask of all depths and maps that keep z, but
    with the nearest voxel in place of interpolation; halves are rounded up.

    Args:
        volume: (N, C, D, H, W). mask: (N, H, W) int32, bit p for part p.
        transform: (N, P, 3, 4) voxels, target to source; a part of NaN is absent.

    Returns:
        (N, C, D, H, W). Gradient flows to the volume.
    """
    H, W = volume.shape[3:]
    planes, bits = volume.flatten(1, 2).flatten(2), mask.flatten(1)
    rows, columns = torch.meshgrid(
        *(torch.arange(n, device=volume.device, dtype=transform.dtype) for n in (H, W)),
        indexing="ij",
    )
    grid = torch.stack([columns, rows, torch.ones_like(rows)]).flatten(1)
    best: Tensor | None = None
    for part in range(transform.shape[1]):
        place = transform[:, part, :2][..., [0, 1, 3]] @ grid
        x, y = torch.floor(place + 0.5).unbind(1)
        inside = (x >= 0) & (x < W) & (y >= 0) & (y < H)  # NaN is not
        index = torch.where(inside, y * W + x, 0).long()
        shown = inside & ((bits.gather(1, index) >> part) & 1 > 0)
        moved = planes.gather(2, index[:, None].expand(-1, planes.shape[1], -1))
        moved = torch.where(shown[:, None], moved, 0)
        best = moved if best is None else torch.maximum(best, moved)
    assert best is not None
    return best.view_as(volume)
