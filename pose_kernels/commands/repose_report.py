# SPDX-License-Identifier: Apache-2.0
"""What a reposed volume leaves behind: masks.png, repose.png and repose.json.

Pictures are orthographic, one voxel a square block, in two views. Front: along z, nearest nodes in
front, x to the right. Side: along x from x = 0, the side of the person's right hand when the person
faces the viewer; nearer to the front viewer is to the right.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import __version__, io, panel
from ..ops.capsule_mask import capsule_mask
from ..repose_volume import COLORS, Repose
from ..skeleton import PARTS, VOXEL, BodyParts

FILES = ("masks.png", "repose.png", "repose.json")
VIEWS = ("front", "side")
_BLOCK = 6  # picture pixels per voxel of the 65-node grid, in x and y
_SMALL = 4  # the same in the pictures of single parts
_BACKDROP = 0.955
_SHADOW = 218  # gray of what is there but not meant
_DIM = 0.45  # how much darker the far end of the cube is


def files(result: Repose, titles: tuple[str, str], facts: dict[str, Any]) -> dict[str, bytes]:
    """The contents of every file by name, in the order of ``FILES``.

    titles: what to call the source and the target pose. facts: opening entries of repose.json.
    """
    pictures = {
        "masks.png": masks_picture(result, titles[0]),
        "repose.png": repose_picture(result, titles),
    }
    contents = {name: io.encode_picture(name, picture) for name, picture in pictures.items()}
    D, H, W = result.source_mask.shape
    report = {
        "pose_kernels": __version__,
        "torch": torch.__version__,
        "device": str(result.volume.device),
        **facts,
        "grid": {"depth": D, "height": H, "width": W},
        "torso_diagonal": {
            "source": float(result.source.scale),
            "target": float(result.target.scale),
        },
        "stages": [stage._asdict() for stage in result.stages],
        "parts": [
            # a transform of NaN (a part that is not moved) has no place in JSON
            {**part, "transform": row.tolist() if row.isfinite().all() else None}
            for part, row in zip(result.parts, result.transform, strict=True)
        ],
    }
    contents["repose.json"] = (json.dumps(report, indent=2) + "\n").encode()
    return contents


def summary(result: Repose) -> str:
    """Lines for the terminal: where the parts landed, and which did not move."""
    shares = {part["part"]: part["inside"] for part in result.parts if part["inside"] is not None}
    lines = []
    if shares:
        worst = min(shares, key=lambda name: shares[name])
        lines.append(
            f"{len(shares)} parts moved; within one voxel of the target's masks: "
            f"{100 * sum(shares.values()) / len(shares):.1f} % of a part on average, "
            f"{100 * shares[worst]:.1f} % of the {worst} at least"
        )
    lost = [part["part"] for part in result.parts if part["inside"] is None]
    if lost:
        lines.append(f"nothing of: {', '.join(lost)}")
    return "\n".join(lines)


def masks_picture(result: Repose, title: str) -> panel.Pixels:
    """The masks of the source, cut to the body: all in their colors, then each part alone in front
    of the shadow of the others; front and side view in a pair."""
    mask = _body(result.source_mask)
    block = _blocks(result.source_mask, _SMALL)
    everything = [_view(_flat(mask, range(len(PARTS))), view, block) for view in VIEWS]
    cards = [panel.Card(_pair(everything), f"ten parts, {title}", "front and side")]
    paper = round(_BACKDROP * 255)
    shadows = [
        np.where((picture == paper).all(2, keepdims=True), paper, _SHADOW) for picture in everything
    ]
    for p, name in enumerate(PARTS):
        alone = _flat(mask, [p])
        pictures = []
        for shadow, view in zip(shadows, VIEWS, strict=True):
            part = _view(alone, view, block)
            blank = (part == paper).all(2, keepdims=True)
            pictures.append(np.where(blank, shadow, part).astype(np.uint8))
        cards.append(panel.Card(_pair(pictures), name, f"{int(alone[3].sum())} voxels"))
    return panel.grid([cards[i : i + 4] for i in range(0, len(cards), 4)])


def repose_picture(result: Repose, titles: tuple[str, str]) -> panel.Pixels:
    """Front and side: the source, the warped volume, and it under the target's outlines."""
    block = _blocks(result.source_mask, _BLOCK)
    rows = []
    for view in VIEWS:
        before, after = (_view(v, view, block) for v in (result.volume, result.warped))
        given, wanted = (
            _outlines(parts, view, result.source_mask.shape, block)
            for parts in (result.source, result.target)
        )
        rows.append(
            [
                panel.Card(
                    _drawn(before, given), f"source, {titles[0]}: {view}", "its capsules outlined"
                ),
                panel.Card(after, f"warped to {titles[1]}", "front to back, one voxel a block"),
                panel.Card(
                    _drawn(after, wanted), "on the target", "the target's capsules outlined"
                ),
            ]
        )
    return panel.grid(rows, summary(result).replace("\n", "; "))


def _flat(mask: Tensor, parts: Iterable[int]) -> Tensor:
    """Masks as a volume (4, D, H, W) of plain color; where parts overlap, the last one's."""
    label = torch.zeros(mask.shape, dtype=torch.long, device=mask.device)
    for p in parts:
        label[(mask >> p) & 1 != 0] = p + 1
    palette = torch.tensor([(0.0, 0.0, 0.0, 0.0), *((*hue, 1.0) for hue in COLORS)]).T
    return palette.to(mask.device)[:, label]


def _blocks(mask: Tensor, most: int) -> tuple[int, int]:
    """Picture pixels per voxel along (x and y, z): a cube stays a cube, whatever the grid."""
    scale = max(1, round(most * 64 / (mask.shape[-1] - 1)))
    return scale, round(scale * VOXEL[2] / VOXEL[0])


def _view(volume: Tensor, view: str, block: tuple[int, int]) -> panel.Pixels:
    """Front-to-back blending of a volume (4, D, H, W) whose colors are already times occupancy.

    Nodes farther away are dimmer, so that limbs in front stand out.
    """
    depth, across = (1, 3) if view == "front" else (3, 1)
    nodes = volume.shape[depth]
    shade = torch.linspace(1, 1 - _DIM, nodes, device=volume.device).to(volume.dtype)
    shape = [1, 1, 1, 1]
    shape[depth] = nodes
    color, alpha = volume[:3] * shade.view(shape), volume[3:].clamp(0, 1)
    through = torch.cumprod(1 - alpha, depth)
    reaching = torch.cat((torch.ones_like(through.narrow(depth, 0, 1)), through), depth)
    seen = (color * reaching.narrow(depth, 0, nodes)).sum(depth)
    seen = seen + _BACKDROP * reaching.select(depth, nodes)
    if view == "side":
        seen = seen.permute(0, 2, 1).flip(2)
    pixels = panel.to_pixels(seen)
    return pixels.repeat(block[0], 0).repeat(block[0 if across == 3 else 1], 1)


def _outlines(
    parts: BodyParts, view: str, nodes: tuple[int, ...], block: tuple[int, int]
) -> NDArray[np.bool_]:
    """Outline of every part's capsules, projected, at the picture's own resolution: (10, H, W).

    The shadow of an ellipsoid that is swept along a segment is an ellipse swept along the shadow of
    the segment, so it is the mask of capsules whose depth is 0, in a volume one node deep.
    """
    axis = 0 if view == "front" else 2
    across, down = block[0 if view == "front" else 1], block[0]
    scale = parts.start.new_tensor([across, down])
    ends = [
        torch.nn.functional.pad((x[:, [axis, 1]] + 0.5) * scale - 0.5, (0, 1))
        for x in (parts.start, parts.end)
    ]
    radius = torch.nn.functional.pad(parts.radius[:, [axis, 1]] * scale, (0, 1), value=1.0)
    size = (1, nodes[1] * down, nodes[2 - axis] * across)
    start, end = (x[None] for x in ends)
    packed = capsule_mask(start, end, radius[None], parts.part, size=size, num_parts=len(PARTS))
    packed = packed[0, 0]
    bits = torch.arange(len(PARTS), device=packed.device).view(-1, 1, 1)
    inside = ((packed >> bits) & 1).float()
    # the outermost pixels of a silhouette: those that lose one of their neighbors
    core = -torch.nn.functional.max_pool2d(-inside, 3, 1, 1)
    edge = ((inside - core) > 0).cpu().numpy()
    return edge[:, :, ::-1] if view == "side" else edge


def _drawn(picture: panel.Pixels, outlines: NDArray[np.bool_]) -> panel.Pixels:
    """The picture with a dark line of each part's hue along its outline."""
    page = picture.copy()
    for edge, hue in zip(outlines, COLORS, strict=True):
        page[edge] = np.round(np.array(hue) * 110)
    return page


def _body(mask: Tensor) -> Tensor:
    """The box of the masks in a volume (D, H, W), with two voxels around it."""
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        hit = (mask != 0).any(others[1]).any(others[0]).nonzero().flatten().tolist() or [0]
        first = max(hit[0] - 2, 0)
        mask = mask.narrow(axis, first, min(hit[-1] + 3, mask.shape[axis]) - first)
    return mask


def _pair(pictures: list[panel.Pixels]) -> panel.Pixels:
    """Front and side next to each other, with a hairline between."""
    hairline = np.full((pictures[0].shape[0], 2, 3), _SHADOW, np.uint8)
    return np.concatenate((pictures[0], hairline, pictures[1]), 1)
