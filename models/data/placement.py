# SPDX-License-Identifier: Apache-2.0
"""Where a picture goes in the picture that a network sees, and everything on it with it.

A placement scales and shifts each axis. In pixel coordinates with centers at integers

    x' = (x + 0.5) * scale - 0.5 + offset

which is what resizing a picture does; a crop is an offset below 0, a border one above 0. Pictures
are averaged over a new pixel, labels and surface coordinates take the nearest pixel whole, joints
move exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WHITE = 1.0


@dataclass(frozen=True)
class Placement:
    """scale, offset: of x and of y; size: (H, W) of the result."""

    scale: tuple[float, float]
    offset: tuple[float, float]
    size: tuple[int, int]

    def then(self, after: Placement) -> Placement:
        """Both in one: nothing is rounded or cut off in between."""
        return Placement(
            (self.scale[0] * after.scale[0], self.scale[1] * after.scale[1]),
            (
                self.offset[0] * after.scale[0] + after.offset[0],
                self.offset[1] * after.scale[1] + after.offset[1],
            ),
            after.size,
        )

    def image(self, image: Tensor, fill: float = WHITE) -> Tensor:
        """(C, h, w) float32 to (C, H, W): bilinear, with a filter as wide as a new pixel.

        fill: the value beside the picture. A pixel that the picture covers in part is mixed.
        """
        cover = torch.ones(())
        for axis in (1, 2):
            new, scale, offset = self._axis(axis)
            weights, covered = _filter(image.shape[axis], new, scale, offset)
            if weights is None:
                image = _shift(image, axis, new, int(offset))
            else:
                image = weights @ image if axis == 1 else image @ weights.T
            cover = cover * (covered[:, None] if axis == 1 else covered)
        return image if bool((cover == 1).all()) else image * cover + fill * (1 - cover)

    def nearest(self, values: Tensor, fill: float = 0) -> Tensor:
        """(C, h, w) to (C, H, W): every new pixel takes the old one its center lies in."""
        for axis in (1, 2):
            new, scale, offset = self._axis(axis)
            index, inside = _nearest(values.shape[axis], new, scale, offset)
            values = values.index_select(axis, index)
            if not inside.all():
                values = values.masked_fill(~(inside[:, None] if axis == 1 else inside), fill)
        return values

    def points(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """(J, 2) positions (x, y) in pixels; NaN stays NaN."""
        moved = (points + 0.5) * np.array(self.scale) - 0.5 + np.array(self.offset)
        return moved.astype(np.float32)

    def window(self, old: tuple[int, int]) -> tuple[tuple[float, float], tuple[float, float]]:
        """Where a picture (H, W) lies: least and largest (x, y), at the rims of its pixels."""
        low = self.offset[0] - 0.5, self.offset[1] - 0.5
        return low, (low[0] + self.scale[0] * old[1], low[1] + self.scale[1] * old[0])

    def _axis(self, axis: int) -> tuple[int, float, float]:
        """New length, scale and offset of axis 1 (rows) or 2 (columns)."""
        return self.size[axis - 1], self.scale[2 - axis], self.offset[2 - axis]


def stretch(old: tuple[int, int], new: tuple[int, int]) -> Placement:
    """All of a picture (H, W) in another size, whatever the aspect."""
    return Placement((new[1] / old[1], new[0] / old[0]), (0.0, 0.0), new)


def letterbox(old: tuple[int, int], new: tuple[int, int]) -> Placement:
    """All of a picture (H, W), as large as it fits and in the middle, aspect kept."""
    scale = min(new[0] / old[0], new[1] / old[1])
    offset = ((new[1] - old[1] * scale) / 2, (new[0] - old[0] * scale) / 2)
    return Placement((scale, scale), offset, new)


def shift(columns: float, new: tuple[int, int]) -> Placement:
    """Moved to the right by so many pixels: a crop when negative, a border when positive."""
    return Placement((1.0, 1.0), (float(columns), 0.0), new)


def _shift(image: Tensor, axis: int, new: int, offset: int) -> Tensor:
    old = image.shape[axis]
    if offset == 0 and new == old:
        return image
    shape = list(image.shape)
    shape[axis] = new
    out = image.new_zeros(shape)
    first, last = max(0, offset), min(new, old + offset)
    if last > first:
        out.narrow(axis, first, last - first).copy_(
            image.narrow(axis, first - offset, last - first)
        )
    return out


@lru_cache(maxsize=64)
def _filter(old: int, new: int, scale: float, offset: float) -> tuple[Tensor | None, Tensor]:
    """Weights (new, old), None for a shift by whole pixels; and how much of every new pixel the old
    picture covers, (new,)."""
    edges = np.arange(new + 1)
    covered = np.clip(edges, offset, offset + scale * old)
    # away from the borders 1 exactly, so that nothing is mixed there
    cover = torch.from_numpy(np.round(np.diff(covered), 9)).float()
    if scale == 1 and offset == int(offset):
        return None, cover
    reach = max(1.0, 1 / scale)
    center = (np.arange(new) + 0.5 - offset) / scale
    away = np.abs(np.arange(old) + 0.5 - center[:, None]) / reach
    weights = np.clip(1 - away, 0, None)
    weights /= np.maximum(weights.sum(1, keepdims=True), 1e-12)
    return torch.from_numpy(weights).float(), cover


@lru_cache(maxsize=64)
def _nearest(old: int, new: int, scale: float, offset: float) -> tuple[Tensor, Tensor]:
    """Index of the old pixel (new,) int64, and whether there is one (new,) bool."""
    index = np.floor((np.arange(new) + 0.5 - offset) / scale).astype(np.int64)
    inside = (index >= 0) & (index < old)
    return torch.from_numpy(index.clip(0, old - 1)), torch.from_numpy(inside)
