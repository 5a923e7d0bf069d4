# SPDX-License-Identifier: Apache-2.0
"""What tests and benchmarks of the ops share: synthetic DensePose maps and derived tolerances."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# Limbs from the farthest to the nearest: joint a, joint b, half-width, and the parts seen left and
# right of the seam that runs along the limb (once for hands and feet, which are one part each).
_LIMBS = (
    ("knee_l", "ankle_l", 0.050, 12, 14),
    ("knee_r", "ankle_r", 0.050, 11, 13),
    ("hip_l", "knee_l", 0.070, 8, 10),
    ("hip_r", "knee_r", 0.070, 7, 9),
    ("ankle_l", "toe_l", 0.040, 5, 5),
    ("ankle_r", "toe_r", 0.040, 6, 6),
    ("neck", "pelvis", 0.125, 1, 2),
    ("top", "chin", 0.070, 23, 24),
    ("shoulder_l", "elbow_l", 0.045, 15, 17),
    ("shoulder_r", "elbow_r", 0.045, 16, 18),
    ("elbow_l", "wrist_l", 0.038, 19, 21),
    ("elbow_r", "wrist_r", 0.038, 20, 22),
    ("wrist_l", "finger_l", 0.032, 4, 4),
    ("wrist_r", "finger_r", 0.032, 3, 3),
)


def synthetic_iuv(
    N: int,
    H: int,
    W: int,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """DensePose maps of stick people, with the statistics that decide how fast a surface op runs.

    One person in a random pose per image, 14 limbs, on 28 % of the pixels on average (a person
    that fills the frame) and on about 20 of the 24 parts; every limb is one or two smooth patches,
    so neighboring pixels are near each other on a tile, a few texels apart at S = H, and crowd
    where a limb turns away. The person is stretched with the image: any H and W will do.

    Args:
        N, H, W: number and size of the maps; the same N, H, W and seed give the same maps.
        dtype: of uv.

    Returns:
        ``part`` (N, H, W) uint8, 0 = background, 1..24; ``uv`` (N, 2, H, W) in [0, 1], 0 on the
        background.
    """
    random = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(N, 1, 1, generator=random, dtype=torch.float64)

    # Picture coordinates: x right and y down, both -0.5..0.5 over the image.
    x = ((torch.arange(W, dtype=torch.float64) + 0.5) / W - 0.5).expand(N, H, W)
    y = ((torch.arange(H, dtype=torch.float64) + 0.5) / H - 0.5)[:, None].expand(N, H, W)
    joints = _pose(draw)
    part = torch.zeros(N, H, W, dtype=torch.uint8)
    u, v = torch.zeros_like(x), torch.zeros_like(x)
    for a, b, half_width, left, right in _LIMBS:
        (ax, ay), (bx, by) = joints[a], joints[b]
        dx, dy = bx - ax, by - ay
        length = (dx**2 + dy**2).sqrt()
        along = ((x - ax) * dx + (y - ay) * dy) / length
        across = ((x - ax) * dy - (y - ay) * dx) / length / half_width
        beyond = (along - along.clamp(min=0).minimum(length)) / half_width
        inside = across**2 + beyond**2 < 1
        # Around the limb: foreshortened toward the silhouette, and turned at random.
        angle = across.clamp(-1, 1).asin() + (draw(-1.2, 1.2) if left != right else math.pi / 2)
        part = torch.where(inside, torch.where(angle < 0, left, right).to(torch.uint8), part)
        u = torch.where(inside, angle.remainder(math.pi) / math.pi, u)
        v = torch.where(inside, 1 - (along + half_width) / (length + 2 * half_width), v)
    uv = torch.stack([u, v], 1).to(dtype)
    return part.to(device), uv.to(device)


Draw = Callable[[float, float], Tensor]  # (low, high) -> a random number per person
Joints = dict[str, tuple[Tensor, Tensor]]


def _pose(draw: Draw) -> Joints:
    """Joints (x, y) of one person per image, in picture coordinates."""
    center = draw(-0.05, 0.05)
    joints: Joints = {
        "top": (center + draw(-0.02, 0.02), draw(-0.43, -0.40)),
        "chin": (center, draw(-0.33, -0.30)),
        "neck": (center, draw(-0.18, -0.16)),
        "pelvis": (center + draw(-0.03, 0.03), draw(0.02, 0.06)),
    }
    for side, s in (("l", 1.0), ("r", -1.0)):
        x, y = center + s * 0.15, joints["neck"][1] - 0.03
        chains = (
            ("shoulder", 0.0, 0.0, 0.0),
            ("elbow", 0.20, -0.2, 1.2),
            ("wrist", 0.18, -0.6, 2.2),
            ("finger", 0.07, 0.0, 1.0),
        )
        joints |= _chain(draw, side, s, x, y, chains)
        x, y = joints["pelvis"][0] + s * 0.075, joints["pelvis"][1] + 0.06
        chains = (
            ("hip", 0.0, 0.0, 0.0),
            ("knee", 0.22, -0.15, 0.5),
            ("ankle", 0.20, -0.3, 0.4),
            ("toe", 0.07, 0.2, 1.4),
        )
        joints |= _chain(draw, side, s, x, y, chains)
    return joints


def _chain(
    draw: Draw,
    side: str,
    s: float,
    x: Tensor,
    y: Tensor,
    chain: tuple[tuple[str, float, float, float], ...],
) -> Joints:
    """Joints one after another: (name, length of the bone, its least and greatest angle)."""
    joints: Joints = {}
    for name, length, low, high in chain:
        angle = draw(low, high)  # from straight down, outward
        x, y = x + s * length * angle.sin(), y + length * angle.cos()
        joints[f"{name}_{side}"] = (x, y)
    return joints


def tolerance(dtype: torch.dtype, terms: int, scale: float = 1.0) -> dict[str, float]:
    """How far two correct implementations of one formula may lie apart: ``{"rtol", "atol"}``.

    Both round every addition of a sum of ``terms`` products, in float32 (float64 for float64)
    whatever the dtype of the features; by the standard bound they differ by at most ``terms * eps``
    of the sum of magnitudes, ``scale``. Storing in a narrower dtype adds one rounding of its own.
    Made for ``torch.testing.assert_close(actual, expected, **tolerance(dtype, terms))``.

    Args:
        dtype: of the compared tensors.
        terms: roundings on the longest path to one element: the number of summed terms, plus the
            roundings of the factors in a term. A texel coordinate of a tile of side S counts as S,
            because a rounding of the coordinate moves a bilinear weight by up to S eps / 2.
        scale: largest sum of magnitudes of the terms of one element.
    """
    accumulator = torch.float64 if dtype == torch.float64 else torch.float32
    rounding = terms * torch.finfo(accumulator).eps
    if dtype != accumulator:
        rounding += torch.finfo(dtype).eps
    return {"rtol": rounding, "atol": rounding * scale}
