# SPDX-License-Identifier: Apache-2.0
"""The built-in person as a triangle mesh: the lofts of `body`, posed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .body import Array, Pose, lofts, profile, skeleton

_RINGS, _AROUND = 22, 20  # per loft: 15,800 triangles in all


def body_mesh(pose: Pose) -> tuple[Tensor, Tensor]:
    """Vertices (V, 3) in meters, x right, y up, z towards the viewer, and faces (F, 3),
    counterclockwise from outside.

    Every limb is a closed surface of its own; where they meet, they run into each other.
    """
    bones = skeleton(pose)
    angle = np.linspace(0, 2 * np.pi, _AROUND, endpoint=False)
    ring, step = np.arange(_RINGS - 1)[:, None] * _AROUND, np.arange(_AROUND)
    a, b = ring + step, ring + (step + 1) % _AROUND  # of the lower ring
    sides = [np.stack((a, b, b + _AROUND), -1), np.stack((a, b + _AROUND, a + _AROUND), -1)]
    inner = np.stack((np.full(_AROUND - 2, 0), step[2:], step[1:-1]), -1)  # the lower lid
    top = (_RINGS - 1) * _AROUND
    strip = np.concatenate(
        [*(side.reshape(-1, 3) for side in sides), inner, top + inner[:, [0, 2, 1]]]
    )
    vertices: list[Array] = []
    faces: list[NDArray[np.int64]] = []
    for loft in lofts():
        grid, curve = profile(loft)
        rows = np.linspace(0, len(grid) - 1, _RINGS).round().astype(int)
        y, (width, depth, offset) = grid[rows], curve[rows, :3].T
        across, ahead = (
            np.sign(f) * np.abs(f) ** (2 / loft.power) for f in (np.sin(angle), np.cos(angle))
        )
        surface = np.stack(
            (
                width[:, None] * across,
                np.broadcast_to(y[:, None], (_RINGS, _AROUND)),
                depth[:, None] * ahead + offset[:, None],
            ),
            -1,
        )
        turn, origin = bones[loft.bone]
        vertices.append(surface.reshape(-1, 3) @ turn.T + origin)
        faces.append(strip + len(faces) * _RINGS * _AROUND)
    return torch.from_numpy(np.concatenate(vertices)), torch.from_numpy(np.concatenate(faces))
