# SPDX-License-Identifier: Apache-2.0
"""Move a feature volume from one 3D pose to another: ten masked parts, ten similarity transforms.

`repose_volume` is the whole job on tensors; `commands/repose_volume.py` the same on a clip of
joints, with pictures. The volume's colors are drawn here, a pattern that is fixed to each
part, so that one sees where every part went and how it turned.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .ops.capsule_mask import capsule_mask
from .ops.helmert_warp import helmert_warp
from .skeleton import FRAME, PARTS, BodyParts, body_parts, part_transforms
from .skeleton_tables import Skeleton
from .transfer import Clock, Stage

SIDES = (16, 128)  # of --size; at 128 a volume of four channels is 17 MB
_BAND = 13.0  # pixels along the bone of one color
_SECTORS = 6  # around the bone
# Torso, head, then left and right arms and legs: hues far apart where parts touch.
COLORS = (
    (0.30, 0.48, 0.78),
    (0.90, 0.66, 0.22),
    (0.84, 0.36, 0.26),
    (0.95, 0.58, 0.42),
    (0.20, 0.60, 0.46),
    (0.48, 0.78, 0.56),
    (0.72, 0.28, 0.52),
    (0.88, 0.52, 0.72),
    (0.46, 0.38, 0.72),
    (0.66, 0.62, 0.90),
)


@dataclass(frozen=True)
class Repose:
    """What :func:`repose_volume` returns. A volume is (D, H, W) nodes, packed masks int32."""

    source: BodyParts  # one pose: no batch axis
    target: BodyParts
    source_mask: Tensor  # (D, H, W), bit p is part p
    target_mask: Tensor  # (D, H, W)
    transform: Tensor  # (10, 3, 4), target voxel -> source voxel
    volume: Tensor  # (4, D, H, W) red, green, blue, occupancy, in [0, 1]
    warped: Tensor  # (4, D, H, W)
    parts: list[dict[str, Any]]  # per part: its name, coverage, ...; see `coverage`
    stages: list[Stage]


@torch.no_grad()
def repose_volume(
    source: Tensor,
    target: Tensor,
    skeleton: str | Skeleton,
    side: int = 64,
    *,
    on_stage: Callable[[Stage], None] | None = None,
) -> Repose:
    """Masks and transforms of two poses, a patterned volume of the first, and it in the second.

    Args:
        source, target: (J, 3) joints in pixels of the 256-pixel cube.
        skeleton: as for :func:`skeleton.body_parts`.
        side: voxels along x and y; the grid has ``side + 1`` nodes along x and y and
            ``side / 2 + 1`` along z, at ``256 / side`` and ``512 / side`` pixels.
        on_stage: called after each stage, with its time.

    Raises:
        ValueError: joints that do not fit the skeleton, an odd side, a pose without a known torso
            diagonal, or no part that both poses determine.
    """
    if side % 2 or side < 2:
        raise ValueError(f"side must be even and at least 2, got {side}")
    voxel = (FRAME / side, FRAME / side, 2 * FRAME / side)
    size = (side // 2 + 1, side + 1, side + 1)
    clock = Clock(source.device, on_stage)

    def fit() -> tuple[BodyParts, BodyParts, Tensor]:
        a, b = (body_parts(joints, skeleton, voxel=voxel) for joints in (source, target))
        return a, b, part_transforms(a, b, voxel=voxel)

    a, b, transform = clock("parts and fits", "helmert_fit", fit)
    for pose, parts in (("source", a), ("target", b)):
        if not parts.scale.isfinite():
            raise ValueError(
                f"the {pose} pose has neither a left shoulder and right hip nor a right shoulder "
                "and left hip: its size is not known"
            )
    if not transform.isfinite().all((1, 2)).any():
        raise ValueError("no part of the body has enough joints in both poses")
    start, end, radius = (torch.stack(both) for both in zip(a.capsules[:3], b.capsules[:3]))
    masks = clock(
        "masks",
        "capsule_mask",
        lambda: capsule_mask(start, end, radius, a.part, size=size, num_parts=len(PARTS)),
    )
    volume = clock("draw", "", lambda: patterned_volume(a, masks[0], voxel))
    warped = clock(
        "warp", "helmert_warp", lambda: helmert_warp(volume[None], masks[:1], transform[None])[0]
    )
    found = clock("measure", "", lambda: coverage(masks[0], masks[1], transform))
    return Repose(a, b, masks[0], masks[1], transform, volume, warped, found, clock.stages)


def patterned_volume(parts: BodyParts, mask: Tensor, voxel: tuple[float, ...]) -> Tensor:
    """Red, green, blue and occupancy (4, D, H, W): inside the masks, a checker fixed to each part.

    Every part has a hue. Bands cross its bone, sectors divide its circumference and one half of it
    is lighter. Where parts overlap, a voxel shows the one whose capsule it is deepest in.

    parts: of one pose. mask: (D, H, W) packed. voxel: pixels along x, y, z.
    """
    start, end, radius = (x[None] for x in parts.capsules[:3])
    soft = capsule_mask(
        start,
        end,
        radius,
        parts.part,
        size=tuple(mask.shape),
        num_parts=len(PARTS),
        packed=False,
        softness=1.0,
    )[0]
    index = mask.nonzero()  # the voxels of the body, a few percent of all
    z, y, x = index.unbind(1)
    owner = soft[:, z, y, x].argmax(0)
    pitch = parts.start.new_tensor(voxel)
    origin, axis, across = (
        torch.stack(rows)[owner]
        for rows in zip(*(_part_axes(parts, p, pitch) for p in range(len(PARTS))), strict=True)
    )
    offset = index.flip(1) * pitch - origin  # pixels (x, y, z)
    along = (offset * axis).sum(1)
    beside = (offset * torch.linalg.cross(axis, across)).sum(1)
    angle = torch.atan2(beside, (offset * across).sum(1))
    odd = torch.floor(along / _BAND) + torch.floor(angle / (2 * math.pi / _SECTORS))
    shade = (0.56 + 0.34 * (odd % 2) + 0.20 * (angle > 0))[:, None]
    color = (shade * pitch.new_tensor(COLORS)[owner] + 0.16 * (shade - 0.5)).clamp(0, 1)
    volume = torch.zeros(4, *mask.shape, dtype=pitch.dtype, device=mask.device)
    volume[:3, z, y, x] = color.T
    volume[3, z, y, x] = 1
    return volume


def _part_axes(parts: BodyParts, p: int, pitch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Origin in pixels, unit vector along the bone, unit vector across it; all fixed to part p."""
    points = parts.points[p]
    if p == 0:  # right hip, left hip, left shoulder, right shoulder
        rhip, lhip, lsho, rsho = points[:4]
        origin, along, across = (rhip + lhip) / 2, lsho + rsho - lhip - rhip, lhip - rhip
    elif p == 1:
        top, bottom = (x[parts.part == 1][0] * pitch for x in (parts.start, parts.end))
        origin, along, across = (top + bottom) / 2, top - bottom, points[4] - points[5]
    else:
        origin, along = points[0], points[1] - points[0]
        across = points[2] - points[1]
        if parts.weight[p, 2] == 0:  # a straight limb bends in no plane: any direction will do
            across = torch.eye(3, dtype=along.dtype, device=along.device)[along.abs().argmin()]
    axis = torch.nn.functional.normalize(along, dim=0)
    across = across - (across @ axis) * axis
    return origin, axis, torch.nn.functional.normalize(across, dim=0)


def coverage(source_mask: Tensor, target_mask: Tensor, transform: Tensor) -> list[dict[str, Any]]:
    """How each part, warped alone, lies on the target's mask of the same part.

    Returns per part: "part", its name; "moved", whether both poses determine it; "energy", the sum
    of its warped occupancy in voxels; "inside", the share of that within the target's mask grown by
    one voxel; "filled", the share of the target's mask that the warped part covers; null for both
    where there is nothing.
    """
    bit = torch.arange(len(PARTS), device=source_mask.device).view(-1, 1, 1, 1)
    alone, wanted = (((mask >> bit) & 1).to(torch.int32) for mask in (source_mask, target_mask))
    wanted = wanted[:, None].to(transform.dtype)
    # Ten samples of one part each: bit 0 of the mask is the part.
    energy = helmert_warp(alone[:, None].to(transform.dtype), alone, transform[:, None])[:, 0]
    near = torch.nn.functional.max_pool3d(wanted, 3, 1, 1)[:, 0]
    totals = energy.sum((1, 2, 3)).tolist()
    inside = (energy * near).sum((1, 2, 3)).tolist()
    filled = (energy * wanted[:, 0]).sum((1, 2, 3)).tolist()
    sizes = wanted.sum((1, 2, 3, 4)).tolist()
    moved = transform.isfinite().all(2).all(1).tolist()
    return [
        {
            "part": name,
            "moved": moved[p],
            "energy": totals[p],
            "inside": inside[p] / totals[p] if totals[p] else None,
            "filled": filled[p] / sizes[p] if sizes[p] else None,
        }
        for p, name in enumerate(PARTS)
    ]
