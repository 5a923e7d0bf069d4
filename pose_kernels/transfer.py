# SPDX-License-Identifier: Apache-2.0
"""Texture transfer: lift a photo onto the body atlas, complete it, paint it into another pose.

`transfer_texture` is the whole job on tensors; `commands/transfer.py` the same on files.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from . import backends, io, silhouette
from .io import IUV, NUM_PARTS
from .ops.push_pull import push_pull
from .ops.uv_gather import uv_gather
from .ops.uv_raster import uv_raster
from .ops.uv_splat import uv_splat

BACKGROUND = 0.5  # gray of what is not painted
_SEEN = 1e-3  # weight above which a texel counts as hit: the ops' min_weight
LIFTS = ("raster", "splat")  # ways from the photo onto the atlas, the default first

T = TypeVar("T")


class Stage(NamedTuple):
    """One step: its name, wall-clock seconds, and the backend that ran it ("" outside the ops)."""

    name: str
    seconds: float
    backend: str


@dataclass(frozen=True)
class Transfer:
    """What :func:`transfer_texture` returns. S is the tile side, H x W the target's size."""

    image: Tensor  # (3, H, W) painted target; gray 0.5 where the target map is background
    foreground: Tensor  # (H, W) bool: the target map's body
    partial: Tensor | None  # (24, 3, S, S) what the photo shows, 0 elsewhere; None without a photo
    weight: Tensor | None  # (24, S, S) of `partial`, as the op that lifted it returned it
    atlas: Tensor  # (24, 3, S, S) completed
    hit: Tensor  # (24, S, S) bool: texels that the source shows
    target: IUV
    radius: int
    stages: list[Stage]
    lift: str  # one of LIFTS

    def covered(self, radius: int | None = None) -> Tensor:
        """Foreground pixels (H, W) bool that read only texels within ``radius`` of a shown one.

        radius: texels, Chebyshev; None is the one of the transfer.
        """
        reach = min(self.radius if radius is None else radius, self.hit.shape[-1])
        near = silhouette.grow(self.hit, reach).float()[None, :, None]
        read = uv_gather(near, self.target.part[None], self.target.uv[None])[0, 0]
        return self.foreground & (read > 1 - _SEEN)


def default_radius(size: int) -> int:
    """Texels that evidence reaches when not told otherwise: 12 of 256, under 5 % of a tile."""
    return round(size * 12 / 256)


@torch.no_grad()
def transfer_texture(
    image: Tensor | None,
    source: IUV | None,
    target: IUV,
    size: int = 256,
    *,
    atlas: Tensor | None = None,
    radius: int | None = None,
    samples: int = 2,
    background: Tensor | None = None,
    lift: str = LIFTS[0],
    on_stage: Callable[[Stage], None] | None = None,
) -> Transfer:
    """Move texture from a photo, an atlas or both into a target pose: lift, fill, gather.

    *Lift*: ``uv_splat``, or ``uv_raster``, of the photo's body pixels, except those known to show
    something else: the given ``background`` and the pixels next to it, whose color is mixed, and
    tears of the map (:func:`silhouette.torn`). *Fill*: ``push_pull`` of every tile; where an
    ``atlas`` is given, it fills what is farther than ``radius`` from the photo's texels. *Gather*:
    ``uv_gather``, the mean of ``samples`` x ``samples`` points per target pixel, since texels are
    often finer than pixels.

    A target pixel is *covered* when the texels around its position lie within ``radius`` (Chebyshev
    distance in its tile) of a texel that the source hits: that a source pixel lies within one texel
    of, or that lies between three (``lift="raster"``). Mixed pixels at the background's edge count
    as hits here. So coverage says what the photo shows, not how the rest was filled. With an
    ``atlas`` every body pixel is covered.

    Args:
        image: source photo (3, H, W), floating point in [0, 1]; None to paint ``atlas`` only.
        source: its map, of the same size; several people are one map. None without ``image``.
        target: map of the wanted pose, of any size.
        size: S, side of an atlas tile in texels.
        atlas: (24, 3, S', S') in [0, 1], resized to S tile by tile.
        radius: texels; None is :func:`default_radius`.
        samples: per axis and target pixel; 1 is exactly ``uv_gather`` of the target map.
        background: (H, W) bool, source pixels that show no body whatever the map says
            (:func:`silhouette.plain_background` finds a studio's).
        lift: "raster" interpolates between the photo's pixels, which is sharper, and better where
            texels are finer than the pixels and the map fits the photo; "splat" leaves what lies
            between them to the fill, which is more forgiving of maps that do not.
        on_stage: called after each stage, with its time.

    Returns:
        :class:`Transfer`, on the device of the inputs. No gradient is recorded: the ops are there
        for that.

    Raises:
        ValueError: neither photo nor atlas, or shapes that do not fit; the message says which.
    """
    if (image is None) != (source is None):
        raise ValueError("image and source must be given together")
    if image is None and atlas is None:
        raise ValueError("an image with its map, or an atlas, must be given")
    if atlas is not None and (atlas.dim() != 4 or tuple(atlas.shape[:2]) != (NUM_PARTS, 3)):
        raise ValueError(f"atlas must be (24, 3, S, S), got {tuple(atlas.shape)}")
    if lift not in LIFTS:
        raise ValueError(f"lift must be one of {', '.join(map(repr, LIFTS))}, got {lift!r}")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    reach = default_radius(size) if radius is None else radius
    clock = Clock(target.part.device, on_stage)
    partial = weight = None
    if atlas is not None:
        filled = io.resize_atlas(atlas.float(), size)
        hit = torch.ones_like(filled[:, 0], dtype=torch.bool)
    if image is not None and source is not None:
        same_size("image", image.shape[1:], "its IUV map", source.part.shape)
        shown, sound = _trusted(source, background)
        uv = source.uv[None]
        op = uv_splat if lift == "splat" else uv_raster
        tiles = clock(lift, f"uv_{lift}", lambda: op(image[None], sound[None], uv, size=size))
        partial, weight = tiles[0][0], tiles[1][0]
        limit = None if atlas is None else reach
        completed = clock("fill", "push_pull", lambda: push_pull(partial, weight, radius=limit))
        if atlas is None:
            filled = completed
            blank = image[None, :0]  # no channels: only the weights are wanted
            hit = uv_splat(blank, shown[None], uv, size=size)[1][0] > _SEEN
            if lift == "raster":
                hit |= uv_raster(blank, shown[None], uv, size=size)[1][0] > _SEEN
        else:
            near = silhouette.grow(weight > _SEEN, reach)
            filled = torch.where(near[:, None], completed, filled)
    painted = clock("gather", "uv_gather", lambda: paint(filled, target, samples))
    foreground = (target.part >= 1) & (target.part <= NUM_PARTS) & target.uv.isfinite().all(0)
    out = torch.where(foreground, painted, torch.tensor(BACKGROUND).to(painted))
    return Transfer(
        out, foreground, partial, weight, filled, hit, target, reach, clock.stages, lift
    )


@torch.no_grad()
def paint(atlas: Tensor, target: IUV, samples: int = 1) -> Tensor:
    """Mean of ``uv_gather`` at ``samples`` x ``samples`` points in each pixel: (3, H, W).

    atlas: (24, 3, S, S). Between pixels, uv follows the neighbor on that side, if it is of the same
    part and not across a tear.
    """
    total = None
    offsets = [(i + 0.5) / samples - 0.5 for i in range(samples)]
    for dy in offsets:
        for dx in offsets:
            uv = _shifted(target, dy, dx) if dy or dx else target.uv
            points = uv_gather(atlas[None], target.part[None], uv[None])[0]
            total = points if total is None else total + points
    assert total is not None
    return total / samples**2


class Clock:
    """Runs stages and times them to the end of the device's work; op "" is work outside the ops."""

    def __init__(self, device: torch.device, on_stage: Callable[[Stage], None] | None) -> None:
        self.device, self.on_stage = device, on_stage
        self.stages: list[Stage] = []

    def __call__(self, name: str, op: str, work: Callable[[], T]) -> T:
        self._wait()
        start = time.perf_counter()
        result = work()
        self._wait()
        backend = backends.chosen(op, self.device) if op else ""
        stage = Stage(name, time.perf_counter() - start, backend)
        self.stages.append(stage)
        if self.on_stage is not None:
            self.on_stage(stage)
        return result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def same_size(a: str, size_a: torch.Size, b: str, size_b: torch.Size) -> None:
    """ValueError with both sizes in words."""
    if size_a != size_b:
        raise ValueError(
            f"{a} is {size_a[1]} x {size_a[0]} but {b} is {size_b[1]} x {size_b[0]} pixels "
            "(width x height); they must be of the same size"
        )


def _trusted(source: IUV, background: Tensor | None) -> tuple[Tensor, Tensor]:
    """Part maps: of pixels that show the surface, and of those whose color is also unmixed."""
    shown = torch.where(silhouette.torn(source.part, source.uv), 0, source.part)
    if background is None:
        return shown, shown
    rim = silhouette.grow(background, 1)
    return torch.where(background, 0, shown), torch.where(rim, 0, shown)


def _shifted(target: IUV, dy: float, dx: float) -> Tensor:
    """uv (2, H, W) at (x + dx, y + dy), |dx|, |dy| < 1, along each pixel's own side of a seam."""
    part, uv = target
    moved = uv.clone()
    for axis, step in ((0, dy), (1, dx)):
        length = part.shape[axis] - 1
        if step == 0 or length < 1:
            continue
        here, there = (0, 1) if step > 0 else (1, 0)
        near, far = part.narrow(axis, here, length), part.narrow(axis, there, length)
        change = uv.narrow(axis + 1, there, length) - uv.narrow(axis + 1, here, length)
        smooth = (near == far) & (change.abs().amax(0) <= silhouette.TEAR)
        change = torch.where(smooth, change * abs(step), 0)
        moved.narrow(axis + 1, here, length).add_(change)
    return moved
