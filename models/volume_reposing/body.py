# SPDX-License-Identifier: Apache-2.0
"""Where a pose's parts are in the volume, and which way each goes from the source to the target.

All of it is made from `*_joints19` of the batch and has no gradient. Frame: the cube of 256 pixels
that is as high as the picture, x right, y down, z away from the viewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

import pose_kernels as pk
from pose_kernels.skeleton import BodyParts

from .config import Config, GridKind
from .planar import planar_transforms

PARTS = 10
_SKELETON = "reposing19"
_CUBE = 256.0  # sides in pixels
_STRIDE = 4  # pixels of the picture from voxel to voxel along x and y


@dataclass(frozen=True)
class Grid:
    """The voxels of pictures of side x side pixels. Raises ValueError for a side that is not a
    multiple of 4."""

    kind: GridKind
    side: int
    depth: int

    def __post_init__(self) -> None:
        if self.side % _STRIDE:
            raise ValueError(
                f"source_image must have a side that is a multiple of {_STRIDE}, got {self.side}"
            )

    @property
    def nodes(self) -> bool:
        return self.kind == "node65"

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels (D, H, W)."""
        plane = self.side // _STRIDE + self.nodes
        return self.depth + self.nodes, plane, plane

    @property
    def pixel(self) -> float:
        """A pixel of the picture, in pixels of the cube."""
        return _CUBE / self.side

    @property
    def voxel(self) -> tuple[float, float, float]:
        """From voxel to voxel along x, y, z, in pixels of the cube."""
        return _STRIDE * self.pixel, _STRIDE * self.pixel, _CUBE / self.depth

    @property
    def first(self) -> tuple[float, float, float]:
        """The first voxel's place (x, y, z): its node, or the middle of its cell."""
        if self.nodes:
            return 0.0, 0.0, 0.0
        plane = (_STRIDE - 1) / 2 * self.pixel
        return plane, plane, self.voxel[2] / 2

    def enlarged(self, planes: Tensor) -> Tensor:
        """(N, C, h, w) of voxels to pixels (N, C, side, side): each takes its nearest voxel."""
        pixels = torch.arange(self.side, device=planes.device)
        index = (pixels + _STRIDE // 2 if self.nodes else pixels) // _STRIDE
        return planes[:, :, index][..., index]


def in_cube(joints: Tensor, side: int) -> Tensor:
    """Joints (N, 19, 3) of a picture of that side, in pixels of the cube, float32.

    Only differences of z count, as an estimator's origin is its own: the middle of the joints goes
    to z = 128. Missing joints are NaN in all coordinates.
    """
    points = joints.detach().float() * (_CUBE / side)
    known = points.isfinite().all(-1, keepdim=True)
    z = points[..., 2:]
    near = torch.where(known, z, torch.inf).amin(1, keepdim=True)
    far = torch.where(known, z, -torch.inf).amax(1, keepdim=True)
    points = torch.cat([points[..., :2], z - (near + far) / 2 + _CUBE / 2], -1)
    return torch.where(known, points, torch.nan)


@dataclass(frozen=True)
class Body:
    """Poses (N, 19, 3) in the cube, on a grid."""

    joints: Tensor
    grid: Grid

    @classmethod
    def of(cls, joints: Tensor, grid: Grid) -> Body:
        """joints: (N, 19, 3) as in the batch."""
        return cls(in_cube(joints, grid.side), grid)

    @property
    def placed(self) -> Tensor:
        """Joints from the first voxel on."""
        return self.joints - self.joints.new_tensor(self.grid.first)

    @cached_property
    def parts(self) -> BodyParts:
        """Capsules and points of the ten parts, in voxels."""
        return pk.body_parts(self.placed, _SKELETON, voxel=self.grid.voxel)

    @cached_property
    def masks(self) -> Tensor:
        """Voxels of the ten parts, packed: (N, D, H, W) int32."""
        return pk.capsule_mask(*self.parts.capsules, size=self.grid.size, num_parts=PARTS)

    def outline(self) -> Tensor:
        """The ten parts in the picture's plane (N, 10, side, side) bool, wherever along z."""
        flat = flattened(self.masks)
        bits = torch.arange(PARTS, device=flat.device).view(-1, 1, 1)
        return self.grid.enlarged((flat[:, None] >> bits) & 1 > 0)

    def heat(self, sigma: float) -> Tensor:
        """A Gaussian per joint (N, 19, D, H, W); sigma in pixels of the cube."""
        return pk.heatmap(self.placed, self.grid.size, sigma, stride=self.grid.voxel)

    def heat_on_pixels(self, sigma: float, bins: int) -> Tensor:
        """(N, 19 bins, side, side): at every pixel, and at so many steps along z."""
        side, pixel = self.grid.side, self.grid.pixel
        maps = pk.heatmap(
            self.joints, (bins, side, side), sigma, stride=(pixel, pixel, _CUBE / bins)
        )
        return maps.flatten(1, 2)


def flattened(masks: Tensor) -> Tensor:
    """Packed masks (N, D, H, W) of all depths in one: (N, H, W)."""
    flat = masks[:, 0]
    for depth in range(1, masks.shape[1]):
        flat = flat | masks[:, depth]
    return flat


def transforms(source: Body, target: Body, config: Config) -> Tensor:
    """Where the target's voxels come from, by part: (N, 10, 3, 4) voxels, NaN for a part that the
    joints of both do not determine."""
    grid = source.grid
    if config.warp == "2d":
        return planar_transforms(source.placed, target.placed, grid.voxel[0])
    return pk.part_transforms(source.parts, target.parts, voxel=grid.voxel)


def colored(outline: Tensor) -> Tensor:
    """The parts of `Body.outline` as a picture (N, 3, H, W) in [-1, 1]."""
    hue = torch.arange(PARTS, device=outline.device) / PARTS
    palette = 0.5 + 0.5 * torch.cos(
        2 * torch.pi * (hue[:, None] + hue.new_tensor([0, 1 / 3, 2 / 3]))
    )
    shown = outline.float()
    mixed = torch.einsum("nphw,pc->nchw", shown, palette) / shown.sum(1, keepdim=True).clamp(min=1)
    return mixed * 2 - 1


def without_depth(heat: Tensor) -> Tensor:
    """Heatmaps without their depth: the maximum along z, at every z."""
    return heat.amax(2, keepdim=True).expand_as(heat).contiguous()


def padded(image: Tensor, value: float = 0.0) -> Tensor:
    """One more row and column at the end, so that nodes lie on both."""
    return F.pad(image, (0, 1, 0, 1), value=value)
