# SPDX-License-Identifier: Apache-2.0
"""Texture transfer: lift a photo onto the body atlas, complete it, paint it into another pose.

`transfer_texture` is the whole job on tensors; `python -m pose_kernels transfer` the same on files.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from . import backends, io, silhouette
from .files import open_folder, write_files
from .io import IUV, NUM_PARTS
from .ops.push_pull import push_pull
from .ops.uv_gather import uv_gather
from .ops.uv_raster import uv_raster
from .ops.uv_splat import uv_splat

BACKGROUND = 0.5  # gray of what is not painted
_SEEN = 1e-3  # weight above which a texel counts as hit: the ops' min_weight
LIFTS = ("splat", "raster")  # ways from the photo onto the atlas, the default first
_LARGEST_SIZE = 2048  # 24 x 3 x 2048 x 2048 floats are 1.2 GB, and several are held

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

    *Lift*: ``uv_raster``, or ``uv_splat``, of the photo's body pixels, except those known to show
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
        lift: "splat" leaves what lies between the photo's pixels to the fill; "raster" interpolates
            there, which is sharper, and better where texels are finer than the photo's pixels and
            the map fits it.
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
        _same_size("image", image.shape[1:], "its IUV map", source.part.shape)
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


def _same_size(a: str, size_a: torch.Size, b: str, size_b: torch.Size) -> None:
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options on its parser."""
    add = parser.add_argument
    add("--image", type=Path, metavar="A", help="photo to take the texture from")
    add("--iuv", type=Path, metavar="A_IUV", help="its DensePose map: .png, .npy or .npz")
    add("--target-iuv", type=Path, required=True, metavar="B_IUV", help="map of the wanted pose")
    add("--target-image", type=Path, metavar="B", help="true photo of that pose, for the scores")
    add(
        "--atlas-in",
        type=Path,
        metavar="T",
        help="atlas mosaic of 4 x 6 tiles: painted alone, or where the photo shows nothing",
    )
    add("--size", type=int, help="side of an atlas tile (256; the atlas's own without a photo)")
    add("--out", type=Path, default=Path("transfer_out"), help="folder (%(default)s)")
    add("--iuv-order", choices=io.ORDERS, default="auto", help="channels of IUV pictures")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add(
        "--radius",
        type=int,
        help="texels from a seen texel that count as covered (12 at size 256)",
    )
    add(
        "--lift",
        choices=LIFTS,
        default=LIFTS[0],
        help="splat: fill what lies between the photo's pixels; raster: interpolate there",
    )
    add("--samples", type=int, default=2, help="points per pixel and axis (%(default)s)")
    add(
        "--background",
        choices=("auto", "keep"),
        default="auto",
        help="auto: body pixels that show a plain studio background are neither used nor scored",
    )


def run(args: argparse.Namespace) -> int:
    """The command: 0, or ValueError or OSError with one clear line, before anything is written."""
    from . import report  # pictures and scores: not needed by users of transfer_texture

    if (args.image is None) != (args.iuv is None):
        raise ValueError("--image and --iuv must be given together")
    if args.image is None and args.atlas_in is None:
        raise ValueError("nothing to paint: give --image with --iuv, or --atlas-in, or both")
    for name, low, high in (
        ("size", 1, _LARGEST_SIZE),
        ("radius", 0, _LARGEST_SIZE),
        ("samples", 1, 8),
    ):
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise ValueError(f"--{name} must be {low}..{high}, got {value}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device cuda: torch {torch.__version__} sees no CUDA device")

    device = torch.device(args.device)
    start = time.perf_counter()
    target = _read_map(args.target_iuv, args, device)
    image = source = atlas = truth = None
    if args.image is not None:
        image = io.read_image(args.image).to(device)
        source = _read_map(args.iuv, args, device)
        _same_size(f"--image {args.image}", image.shape[1:], f"--iuv {args.iuv}", source.part.shape)
    if args.target_image is not None:
        truth = io.read_image(args.target_image).to(device)
        _same_size(
            f"--target-image {args.target_image}",
            truth.shape[1:],
            f"--target-iuv {args.target_iuv}",
            target.part.shape,
        )
    if args.atlas_in is not None:
        atlas = io.read_atlas(args.atlas_in).to(device)
    size = args.size or (256 if image is not None or atlas is None else atlas.shape[-1])
    inputs = (args.image, args.iuv, args.target_iuv, args.target_image, args.atlas_in)
    outputs = {name: args.out / name for name in report.FILES}
    for path in outputs.values():
        if path.resolve() in [given.resolve() for given in inputs if given is not None]:
            raise ValueError(f"--out {args.out}: {path} is an input, it would be overwritten")
    open_folder(args.out)
    H, W = target.part.shape
    print(f"texture transfer onto {W} x {H} pixels, tiles of {size} x {size}, on {device}")
    _progress(Stage("read", time.perf_counter() - start, ""))

    blank = _studio("source", image, source, args.background)
    blank_target = _studio("target", truth, target, args.background)
    result = transfer_texture(
        image,
        source,
        target,
        size,
        atlas=atlas,
        radius=args.radius,
        samples=args.samples,
        background=blank,
        lift=args.lift,
        on_stage=_progress,
    )
    start = time.perf_counter()
    scores = None if truth is None else report.score(result, truth, blank_target, image, source)
    contents = report.files(result, scores, image, source, truth)
    write_files({outputs[name]: data for name, data in contents.items()})
    _progress(Stage("score and write", time.perf_counter() - start, ""))
    print(report.summary(result, scores))
    for name in contents:
        print(f"  {outputs[name]}")
    return 0


def _read_map(path: Path, args: argparse.Namespace, device: torch.device) -> IUV:
    part, uv = io.read_iuv(path, args.iuv_order)
    return IUV(part.to(device), uv.to(device))


def _studio(what: str, image: Tensor | None, iuv: IUV | None, mode: str) -> Tensor | None:
    """The photo's plain background, and a line that says so."""
    if image is None or iuv is None or mode == "keep":
        return None
    found = silhouette.plain_background(image, iuv.part)
    if found is not None:
        lost, body = int((found & (iuv.part > 0)).sum()), int((iuv.part > 0).sum())
        print(f"  {what} photo: plain background, seen at {lost} of {body} body pixels: left out")
    return found


def _progress(stage: Stage) -> None:
    print(f"  {stage.name:<16}{stage.seconds * 1e3:9.1f} ms  {stage.backend}", flush=True)
