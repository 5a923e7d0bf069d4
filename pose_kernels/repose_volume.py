# SPDX-License-Identifier: Apache-2.0
"""Move a feature volume from one 3D pose to another: ten masked parts, ten similarity transforms.

`repose_volume` is the whole job on tensors; `python -m pose_kernels repose-volume` the same on a
clip of joints, with pictures. The volume's colors are drawn here, a pattern that is fixed to each
part, so that one sees where every part went and how it turned.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .clip import Clip, load_clip, place_in_frame
from .files import open_folder, write_files
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options on its parser."""
    add = parser.add_argument
    add(
        "--joints",
        type=Path,
        required=True,
        metavar="CLIP",
        help=".npz with joints (T, J, 3) and, better, their names (J,)",
    )
    add("--from", dest="source", type=int, required=True, metavar="FRAME", help="source pose")
    add("--to", dest="target", type=int, required=True, metavar="FRAME", help="target pose")
    add("--skeleton", default="auto", help="its name (%(default)s: by the names, or the number)")
    add(
        "--placed",
        action="store_true",
        help="joints are pixels of the 256-pixel cube (x right, y down, z away), not y-up lengths",
    )
    add("--size", type=int, default=64, help="voxels along x and y (%(default)s); half along z")
    add("--out", type=Path, default=Path("repose_out"), help="folder (%(default)s)")
    add("--device", choices=("cpu", "cuda"), default="cpu")


def run(args: argparse.Namespace) -> int:
    """The command: 0, or ValueError or OSError with one clear line, before anything is written."""
    from . import repose_report  # pictures: not needed by users of repose_volume

    if not SIDES[0] <= args.size <= SIDES[1] or args.size % 2:
        raise ValueError(f"--size must be even, {SIDES[0]}..{SIDES[1]}, got {args.size}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device cuda: torch {torch.__version__} sees no CUDA device")
    clip = load_clip(args.joints, args.skeleton)
    T = len(clip.joints)
    frames = (args.source, args.target)
    for option, frame in zip(("--from", "--to"), frames, strict=True):
        if not 0 <= frame < T:
            raise ValueError(f"{option} must be 0..{T - 1}, the frames of the clip, got {frame}")
    outputs = {name: args.out / name for name in repose_report.FILES}
    for path in outputs.values():
        if path.resolve() == args.joints.resolve():
            raise ValueError(f"--out {args.out}: {path} is an input, it would be overwritten")
    pair = clip.joints[list(frames)]
    missing = _missing(clip, frames)
    for line in missing:
        print(f"  {line}")
    try:
        placed = (pair if args.placed else place_in_frame(pair)).to(args.device)
        open_folder(args.out)
        nodes = args.size + 1
        print(
            f"volume of {nodes} x {nodes} x {args.size // 2 + 1} voxels, skeleton "
            f"{clip.skeleton.name}, frame {frames[0]} to {frames[1]}, on {args.device}"
        )
        result = repose_volume(placed[0], placed[1], clip.skeleton, args.size, on_stage=_progress)
    except ValueError as error:
        raise ValueError("; ".join([str(error), *missing])) from None
    titles = (f"frame {frames[0]}", f"frame {frames[1]}")
    facts = {"joints": str(args.joints), "skeleton": clip.skeleton.name, "frames": frames}
    contents = repose_report.files(result, titles, {**facts, "missing": missing})
    write_files({outputs[name]: data for name, data in contents.items()})
    print(repose_report.summary(result))
    for path in outputs.values():
        print(f"  {path}")
    return 0


def _missing(clip: Clip, frames: tuple[int, int]) -> list[str]:
    """Per frame, a line that names the joints that are not numbers."""
    lines = []
    for frame in dict.fromkeys(frames):
        lost = (~clip.joints[frame].isfinite().all(-1)).nonzero().flatten().tolist()
        if lost:
            names = ", ".join(clip.skeleton.joints[i] for i in lost)
            lines.append(f"frame {frame} lacks {names} (not finite)")
    return lines


def _progress(stage: Stage) -> None:
    print(f"  {stage.name:<16}{stage.seconds * 1e3:9.1f} ms  {stage.backend}", flush=True)
