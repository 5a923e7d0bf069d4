# SPDX-License-Identifier: Apache-2.0
"""The warp module: the source's features to the target's pose, part by part."""

from __future__ import annotations

from torch import Tensor

import pose_kernels as pk

from .body import Body, flattened, transforms
from .config import Config
from .planar import nearest_warp


def warped(volume: Tensor, source: Body, target: Body, config: Config) -> Tensor:
    """(N, C, D, H, W) of the source's pose in the target's; what no part covers is 0.

    warp "3d": every part by the similarity of its 3D joints. "2d": by an affine map of the plane,
    with its mask at all depths. "none": the volume as it is.

    Source: Knoche, Sárándi, Leibe, "Reposing Humans by Warping 3D Features", CVPR Workshops 2020,
    sec. 3.2 and 3.3.
    """
    if config.warp == "none":
        return volume
    masks, moves = source.masks, transforms(source, target, config)
    if config.warp == "2d":
        flat = flattened(masks)
        if config.warp2d_interp == "nearest":
            return nearest_warp(volume, flat, moves)
        masks = flat[:, None].expand_as(masks).contiguous()
    return pk.helmert_warp(volume, masks, moves)
