# SPDX-License-Identifier: Apache-2.0
"""Moves, turns, scales and mirrors the pictures of a pair, with everything that lies on them.

    data = Augmented(data, rotate=10, scale=0.1, shift=0.05, flip=0.5)

An affine map p' = A p + t moves the pixels of one picture: pictures are sampled bilinearly with
their border carried on, labels and surface coordinates take the nearest pixel, joints move exactly
and are missing where they leave the picture. With F the flow from target to source,

    target moved:  F'(p') = p + F(p) - p'  at  p = A^-1 (p' - t)
    source moved:  F'(p) = A (p + F(p)) + t - p

A mirrored pair has left and right exchanged in joints and part labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

import pose_kernels as pk

from . import PairData
from .lists import key_number

FLIP18 = (0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16)
FLIP19 = (0, 1, 8, 9, 10, 11, 12, 13, 2, 3, 4, 5, 6, 7, 16, 17, 14, 15, 18)
# DensePose's part of the mirrored body.
MIRROR = (0, 1, 2, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15, 18, 17, 20, 19, 22, 21, 24, 23)
_BACKGROUND, _OCCLUDED = 2, 1  # of the visibility
_TORSO, _HANDS_AND_HEAD = (1, 2), (3, 4, 23, 24)

Charts = Literal["refuse", "approximate"]


class Affine(NamedTuple):
    """p' = matrix p + shift in pixels, (2, 2) and (2,) float64."""

    matrix: NDArray[np.float64]
    shift: NDArray[np.float64]

    def positions(self, height: int, width: int) -> NDArray[np.float64]:
        """Where every pixel of the result comes from: (H, W, 2) of (x, y)."""
        x, y = np.meshgrid(np.arange(width), np.arange(height))
        back = np.linalg.inv(self.matrix)
        return (np.stack((x, y), -1) - self.shift) @ back.T


def about_center(
    size: tuple[int, int], *, turn: float = 0, scale: float = 1, move: tuple[float, float] = (0, 0)
) -> Affine:
    """Turned by degrees from x to y and scaled about the picture's center, then moved (x, y)."""
    angle = math.radians(turn)
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    matrix = np.array([[c, -s], [s, c]])
    center = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    return Affine(matrix, center - matrix @ center + np.array(move))


def move_source(item: dict[str, Tensor], affine: Affine) -> dict[str, Tensor]:
    """The item with its source picture moved, and what lies on it: the source's view too.

    Visible pixels of the target whose source leaves the picture become occluded.
    """
    out = _move_side(item, "source", affine)
    if "view_image" in item:
        first = {f"source_{key}": item[f"view_{key}"][0] for key in ("image", "part", "uv")}
        for key, value in _move_side(first, "source", affine).items():
            view = key.replace("source", "view")
            out[view] = torch.cat((value[None], item[view][1:]))
    if "flow" in item:
        height, width = item["flow"].shape[-2:]
        grid = _grid(height, width)
        found = grid + item["flow"].double().numpy().transpose(1, 2, 0)
        moved = found @ affine.matrix.T + affine.shift
        lost = torch.from_numpy(~_inside(moved, height, width)) & (item["visibility"] == 0)
        out["visibility"] = item["visibility"].masked_fill(lost, _OCCLUDED)
        out["flow"] = _flow(moved - grid) * (item["visibility"] != _BACKGROUND)
    return out


def move_target(item: dict[str, Tensor], affine: Affine) -> dict[str, Tensor]:
    """The item with its target picture moved, and what lies on it: flow and visibility too.

    A new pixel takes flow and visibility of the nearest old one.
    """
    out = _move_side(item, "target", affine)
    if "flow" in item:
        height, width = item["flow"].shape[-2:]
        positions = affine.positions(height, width)
        visibility = _nearest(item["visibility"][None], positions, _BACKGROUND)[0]
        moved = _nearest(item["flow"], positions, 0) + _flow(positions - _grid(height, width))
        out["visibility"] = visibility
        out["flow"] = moved * (visibility != _BACKGROUND)
    return out


def mirror(item: dict[str, Tensor], charts: Charts = "refuse") -> dict[str, Tensor]:
    """The item seen in a mirror: x becomes W - 1 - x, left and right are exchanged.

    charts: where surface coordinates go. The exact mirror image of a DensePose chart is in tables
    of its own that are not part of this package, so items with uv are refused; "approximate" turns
    u of hands and head, and v of the torso, around and leaves the other charts as they are.

    Raises ValueError for items with uv and charts="refuse".
    """
    uv_keys = _charts(item, charts)
    out: dict[str, Tensor] = {}
    for key, value in item.items():
        side, _, what = key.partition("_")
        if what == "joints18":
            points = value[list(FLIP18)]
            there = (points != -1).any(-1)
            points[there, 0] = item[f"{side}_image"].shape[-1] - 1 - points[there, 0]
            out[key] = points
        elif what == "joints19":
            points = value[list(FLIP19)]
            points[:, 0] = item[f"{side}_image"].shape[-1] - 1 - points[:, 0]
            out[key] = points
        elif what == "part":
            table = torch.tensor(MIRROR, dtype=value.dtype)
            out[key] = table[value.flip(-1).long()]
        elif key == "flow":
            out[key] = value.flip(-1) * value.new_tensor([-1, 1])[:, None, None]
        elif value.dim() >= 2:
            out[key] = value.flip(-1)
        else:
            out[key] = value
    for key in uv_keys:
        out[key] = _mirrored_uv(out[key], out[key.replace("_uv", "_part")])
    return out


class Augmented(Dataset[dict[str, Tensor]]):
    """A data set whose pictures are moved anew every epoch, source and target each on its own.

    rotate: up to so many degrees either way; scale: by up to this share, either way; shift: by up
    to this share of each side; flip: how often a pair is mirrored; charts: see `mirror`. What
    happens to an item is a function of (seed, split, epoch, index).

    Raises ValueError for values out of range, or when `flip` cannot be done with the data's keys.
    """

    def __init__(
        self,
        data: PairData,
        *,
        rotate: float = 0.0,
        scale: float = 0.0,
        shift: float = 0.0,
        flip: float = 0.0,
        charts: Charts = "refuse",
        seed: int = 0,
    ) -> None:
        for name, value, most in (
            ("rotate", rotate, 180),
            ("scale", scale, 0.99),
            ("shift", shift, 1),
            ("flip", flip, 1),
        ):
            if not 0 <= value <= most:
                raise ValueError(f"{name} must be in 0..{most}, got {value}")
        if flip:
            _charts(data.keys, charts)
        if "source_joints19" in data.keys and data.size[0] != data.size[1]:
            raise ValueError(f"3D joints are moved in square pictures only, got {data.size}")
        self.data, self.charts, self.seed, self.epoch = data, charts, seed, 0
        self.rotate, self.scale, self.shift, self.flip = rotate, scale, shift, flip
        self.name, self.split, self.size, self.keys = data.name, data.split, data.size, data.keys

    def __len__(self) -> int:
        return len(self.data)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.data.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if index < 0:
            index += len(self)
        item = self.data[index]
        key = (self.seed, key_number(self.split), self.epoch, index)
        random = np.random.default_rng(key)
        flipped = random.random() < self.flip
        if self.rotate or self.scale or self.shift:
            item = move_source(item, self._draw(random))
            item = move_target(item, self._draw(random))
        return mirror(item, self.charts) if flipped else item

    def _draw(self, random: np.random.Generator) -> Affine:
        turn, scale, x, y = random.uniform(-1, 1, 4)
        move = (x * self.shift * self.size[1], y * self.shift * self.size[0])
        return about_center(
            self.size, turn=turn * self.rotate, scale=1 + scale * self.scale, move=move
        )


def _move_side(item: dict[str, Tensor], side: str, affine: Affine) -> dict[str, Tensor]:
    out = dict(item)
    height, width = item[f"{side}_image"].shape[-2:]
    positions = affine.positions(height, width)
    out[f"{side}_image"] = _bilinear(item[f"{side}_image"], positions)
    for what in ("part", "uv", "mask"):
        if (value := item.get(f"{side}_{what}")) is not None:
            planes = value.reshape(-1, height, width)
            out[f"{side}_{what}"] = _nearest(planes, positions, 0).reshape(value.shape)
    if (joints := item.get(f"{side}_joints18")) is not None:
        out[f"{side}_joints18"] = _move_joints(joints, affine, height, width)
    if (joints := item.get(f"{side}_joints19")) is not None:
        points = joints.double().numpy()
        plane = points[:, :2] @ affine.matrix.T + affine.shift
        depth = points[:, 2:] * math.sqrt(abs(np.linalg.det(affine.matrix)))
        out[f"{side}_joints19"] = torch.from_numpy(np.hstack((plane, depth))).float()
    return out


def _move_joints(joints: Tensor, affine: Affine, height: int, width: int) -> Tensor:
    points = joints.double().numpy()
    moved = points @ affine.matrix.T + affine.shift
    there = (points != -1).any(1) & _inside(moved, height, width)
    return torch.from_numpy(np.where(there[:, None], moved, -1)).float()


def _bilinear(image: Tensor, positions: NDArray[np.float64]) -> Tensor:
    height, width = positions.shape[:2]
    flow = _flow(positions - _grid(height, width))
    return pk.flow_warp(image[None], flow[None], padding="border")[0]


def _inside(points: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    within = (points > -0.5) & (points < (width - 0.5, height - 0.5))
    return np.asarray(within.all(-1))


def _nearest(planes: Tensor, positions: NDArray[np.float64], fill: float) -> Tensor:
    """(C, H, W) at the pixel nearest to each position, `fill` outside."""
    height, width = planes.shape[-2:]
    x, y = np.floor(positions + 0.5).astype(np.int64).transpose(2, 0, 1)
    inside = torch.from_numpy((x >= 0) & (x < width) & (y >= 0) & (y < height))
    index = torch.from_numpy(y.clip(0, height - 1) * width + x.clip(0, width - 1))
    return planes.flatten(1)[:, index].masked_fill(~inside, fill)


def _grid(height: int, width: int) -> NDArray[np.float64]:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack((x, y), -1).astype(np.float64)


def _flow(vectors: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(vectors.transpose(2, 0, 1))).float()


def _charts(keys: Iterable[str], charts: Charts) -> list[str]:
    """The keys of surface coordinates, if they may be mirrored."""
    if charts not in ("refuse", "approximate"):
        raise ValueError(f"charts must be refuse or approximate, got {charts!r}")
    uv_keys = sorted(key for key in keys if key.endswith("_uv"))
    if uv_keys and charts == "refuse":
        raise ValueError(
            f"flip: {', '.join(uv_keys)} cannot be mirrored exactly; charts='approximate' accepts "
            "an error in the texture, flip=0 does without"
        )
    return uv_keys


def _mirrored_uv(uv: Tensor, part: Tensor) -> Tensor:
    """uv (..., 2, H, W) of a mirrored part map (..., H, W), as others approximate it."""
    u, v = uv.unbind(-3)
    u = torch.where(torch.isin(part, part.new_tensor(_HANDS_AND_HEAD)), 1 - u, u)
    v = torch.where(torch.isin(part, part.new_tensor(_TORSO)), 1 - v, v)
    return torch.stack((u, v), -3)
