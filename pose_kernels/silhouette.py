# SPDX-License-Identifier: Apache-2.0
"""Which pixels of a photo really show the body surface that its IUV map claims for them.

An IUV map never fits a photo to the pixel: around the silhouette it also claims background, and
where the surface folds over itself a pixel or two of the wrong side. Lifted onto the atlas, such
pixels would bleed into the texture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_TOLERANCE = 8 / 255  # of a plain background's color, per channel: JPEG noise is within it
_LEAST_BORDER = 0.5  # of the picture's border must have the plain color
_MOST_OF_BODY = 0.3  # more than this claimed as background means that the guess is wrong

TEAR = 0.2  # a step of u or v between neighbors of one part that no smooth surface makes ...
TEAR_RATIO = 8  # ... if the part's usual step is smaller than the tear by this factor
TEAR_REACH = 2  # pixels on either side that are not trusted


def grow(mask: Tensor, reach: int) -> Tensor:
    """Dilate a bool mask (..., H, W) by a Chebyshev distance in pixels."""
    if reach == 0 or mask.numel() == 0:
        return mask
    for axis in (-2, -1):  # a running count, so that the cost does not grow with the reach
        length = mask.shape[axis]
        index = torch.arange(length, device=mask.device)
        count = mask.cumsum(axis, dtype=torch.int32)
        upto = count.index_select(axis, (index + reach).clamp(max=length - 1))
        before = count.index_select(axis, (index - reach - 1).clamp(min=0))
        edge = index <= reach  # nothing lies before these
        before = before.masked_fill(edge[:, None] if axis == -2 else edge, 0)
        mask = upto > before
    return mask


def body_box(body: Tensor, margin: int) -> tuple[slice, slice]:
    """Rows and columns of the smallest box around the True pixels of (H, W), grown by a margin.

    The whole picture when nothing is True.
    """
    box = []
    for axis in (1, 0):
        hits = body.any(axis).nonzero()
        first, last = (int(hits[0]), int(hits[-1])) if len(hits) else (0, body.shape[1 - axis])
        box.append(slice(max(first - margin, 0), last + 1 + margin))
    return box[0], box[1]


def plain_background(image: Tensor, part: Tensor) -> Tensor | None:
    """Pixels (H, W) bool that show a studio's plain background, or None where there is none.

    image: (3, H, W) in [0, 1]; part: (H, W), 0 = background. The background is plain when half the
    border of the picture has one color; it reaches into the body's labels as far as pixels of it
    connect to unlabeled ones (a white shirt before a white wall stays, unless its outline
    vanishes). None, too, when that would take more than 30 % of the body: a wrong guess.
    """
    rim = torch.zeros_like(part, dtype=torch.bool)
    rim[0] = rim[-1] = rim[:, 0] = rim[:, -1] = True
    rim &= part == 0
    if not rim.any():
        return None
    color = image[:, rim].median(1).values[:, None, None]
    alike = ((image - color).abs() <= _TOLERANCE).all(0)
    if alike[rim].float().mean() < _LEAST_BORDER:
        return None
    body = part > 0
    box = body_box(body, 1)  # every unlabeled pixel is a seed, so none farther away matters
    background = alike & ~body
    background[box] = _connected(background[box], alike[box])
    return None if (background & body).sum() > _MOST_OF_BODY * body.sum() else background


def _connected(seed: Tensor, free: Tensor) -> Tensor:
    """The pixels of ``free`` that a path of 4-neighbors in ``free`` joins to ``seed``."""
    reached, before = seed & free, -1
    while (now := int(reached.sum())) != before:
        before = now
        for _ in range(2):  # whole runs of a row at once, then of a column
            # a run of free pixels has one id: the number of walls before it
            walls = F.pad(~free, (1, 0), value=True)  # a wall starts every row
            run = walls.flatten().cumsum(0).view(walls.shape)[:, 1:]
            hit = torch.zeros(int(run.max()) + 1, dtype=torch.bool, device=free.device)
            hit[run[reached]] = True
            reached, free = (hit[run] & free).T, free.T
    return reached


def torn(part: Tensor, uv: Tensor) -> Tensor:
    """Pixels (H, W) bool next to a tear: a jump of u or v inside a part, where it hides itself.

    A jump counts above 0.2 and eight times the part's median step, so a small figure, whose every
    step is large, has no tears. Two pixels on either side are included.
    """
    tears = torch.zeros_like(part, dtype=torch.bool)
    box = body_box(part > 0, 0)
    inside, part, uv = tears[box], part[box], uv[:, box[0], box[1]]
    sides = []
    for axis in (0, 1):
        length = max(part.shape[axis] - 1, 0)
        low, high = part.narrow(axis, 0, length), part.narrow(axis, 1, length)
        step = uv.narrow(axis + 1, 1, length) - uv.narrow(axis + 1, 0, length)
        step = step.abs().amax(0)
        sides.append((axis, length, step, torch.where(low == high, low, 0)))
    suspects = torch.cat([same[step > TEAR] for _, _, step, same in sides]).unique()
    for label in suspects[suspects > 0].tolist():
        steps = torch.cat([step[same == label] for _, _, step, same in sides])
        limit = max(TEAR, TEAR_RATIO * float(steps.nanmedian()))
        for axis, length, step, same in sides:
            jump = (same == label) & (step > limit)
            inside.narrow(axis, 0, length).logical_or_(jump)
            inside.narrow(axis, 1, length).logical_or_(jump)
    return grow(tears, TEAR_REACH)
