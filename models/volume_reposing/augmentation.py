# SPDX-License-Identifier: Apache-2.0
"""A pair's pictures with their joints, colored, moved and mirrored at random, on any device.

Source and target get the same draw, so that what is one person in one place stays so:

* brightness +-0.125 of pixels in [0, 1], contrast and saturation x (1 +- 0.5), hue +-72 degrees,
  in random order (one order for the batch);
* about the picture's middle a turn of +-0.1 radians, a scale of 1 +- 0.1 of x, y and z, and a shift
  of +-20 of 256 pixels in x and y; the border of the picture is carried on;
* every other pair in a mirror, left and right joints exchanged.

Random numbers are those of the device's global generator.

Source: the published code of "Reposing Humans by Warping 3D Features", 2020. Hue and saturation
turn and stretch colors about the gray axis here, not in HSV; its shift of the target's z by half a
pixel is left out, since the origin of z is not used.
"""

from __future__ import annotations

import torch
from torch import Tensor

import pose_kernels as pk

from ..batch import Batch

MIRRORED = (0, 1, 8, 9, 10, 11, 12, 13, 2, 3, 4, 5, 6, 7, 16, 17, 14, 15, 18)  # of the 19 joints
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = 0.125, 0.5, 0.5, 72 / 360
_TURN, _SCALE, _SHIFT = 0.1, 0.1, 20 / 256
_LUMA = (0.299, 0.587, 0.114)


def augmented(batch: Batch) -> Batch:
    """Pictures and 19 joints of both sides anew; other keys are left out, as they would not fit."""
    first = batch["source_image"]
    N, device = first.shape[0], first.device
    draw = torch.rand(9, N, device=device) * 2 - 1
    order = torch.randperm(4).tolist()
    mirror = draw[8] > 0
    matrix, shift = _move(draw[4:8], first.shape[-1])
    result: Batch = {}
    for which in ("source", "target"):
        image, joints = batch[f"{which}_image"], batch[f"{which}_joints19"]
        image = recolored(image, draw[:4], order)
        image = torch.where(mirror[:, None, None, None], image.flip(3), image)
        joints = torch.where(mirror[:, None, None], mirrored(joints, image.shape[-1]), joints)
        result[f"{which}_image"], result[f"{which}_joints19"] = moved(image, joints, matrix, shift)
    return result


def mirrored(joints: Tensor, width: int) -> Tensor:
    """Joints (N, 19, 3) of the mirror image."""
    joints = joints[:, list(MIRRORED)]
    return torch.cat([width - 1 - joints[..., :1], joints[..., 1:]], -1)


def moved(image: Tensor, joints: Tensor, matrix: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Picture and joints after p' = matrix p + shift, (N, 2, 2) and (N, 2) pixels."""
    H, W = image.shape[2:]
    y, x = torch.meshgrid(
        torch.arange(H, device=image.device, dtype=torch.float32),
        torch.arange(W, device=image.device, dtype=torch.float32),
        indexing="ij",
    )
    grid = torch.stack([x, y]).flatten(1)
    origin = _inverse(matrix) @ (grid - shift[..., None])
    flow = (origin - grid).unflatten(2, (H, W))
    plane = joints[..., :2] @ matrix.mT + shift[:, None]
    depth = joints[..., 2:] * _determinant(matrix).sqrt()[:, None, None]
    return pk.flow_warp(image, flow, padding="border"), torch.cat([plane, depth], -1)


def recolored(image: Tensor, draw: Tensor, order: list[int]) -> Tensor:
    """Pictures (N, 3, H, W) in [-1, 1] with their colors changed; draw: (4, N) in [-1, 1]."""
    x = (image + 1) / 2
    brightness, contrast, saturation, hue = draw[:, :, None, None, None]
    for step in order:
        if step == 0:
            x = x + _BRIGHTNESS * brightness
        elif step == 1:
            middle = x.mean((2, 3), keepdim=True)
            x = middle + (1 + _CONTRAST * contrast) * (x - middle)
        elif step == 2:
            gray = (x * x.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
            x = gray + (1 + _SATURATION * saturation) * (x - gray)
        else:
            x = _turned_hue(x, 2 * torch.pi * _HUE * hue)
    return x.clamp(0, 1) * 2 - 1


def _turned_hue(x: Tensor, angle: Tensor) -> Tensor:
    """Colors turned about the gray axis; angle: (N, 1, 1, 1) radians."""
    gray = x.mean(1, keepdim=True)
    color = x - gray
    across = (color.roll(1, 1) - color.roll(-1, 1)) / 3**0.5  # the cross product with that axis
    return gray + torch.cos(angle) * color + torch.sin(angle) * across


def _move(draw: Tensor, side: int) -> tuple[Tensor, Tensor]:
    turn, scale = _TURN * draw[0], 1 + _SCALE * draw[1]
    c, s = scale * torch.cos(turn), scale * torch.sin(turn)
    matrix = torch.stack([c, -s, s, c], -1).unflatten(-1, (2, 2))
    middle = matrix.new_full((2,), (side - 1) / 2)
    return matrix, middle - matrix @ middle + _SHIFT * side * draw[2:].T


def _determinant(matrix: Tensor) -> Tensor:
    return matrix[:, 0, 0] * matrix[:, 1, 1] - matrix[:, 0, 1] * matrix[:, 1, 0]


def _inverse(matrix: Tensor) -> Tensor:
    (a, b), (c, d) = ((matrix[:, i, 0], matrix[:, i, 1]) for i in (0, 1))
    adjugate = torch.stack([d, -b, -c, a], -1).unflatten(-1, (2, 2))
    return adjugate / _determinant(matrix)[:, None, None]
