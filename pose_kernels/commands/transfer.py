# SPDX-License-Identifier: Apache-2.0
"""`python -m pose_kernels transfer`: texture transfer on files, with pictures and scores."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from .. import io, silhouette
from ..files import open_folder, write_files
from ..io import IUV
from ..transfer import LIFTS, Stage, same_size, transfer_texture
from . import transfer_report as report

_LARGEST_SIZE = 2048  # 24 x 3 x 2048 x 2048 floats are 1.2 GB, and several are held


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
        help="between the photo's pixels: interpolate (raster, the default) or fill (splat)",
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
        same_size(f"--image {args.image}", image.shape[1:], f"--iuv {args.iuv}", source.part.shape)
    if args.target_image is not None:
        truth = io.read_image(args.target_image).to(device)
        same_size(
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
