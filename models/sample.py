# SPDX-License-Identifier: Apache-2.0
"""Pictures of a trained system: a sheet of pairs of a split, or a photo of your own.

python -m models.sample run --split test --pairs 8 --out sheet.png
python -m models.sample run --source A.jpg --source-iuv A_IUV.png --target-iuv B_IUV.png --out B.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from pose_kernels import io

from .batch import Batch, missing, to, to_bytes
from .data.placement import letterbox
from .training import command, sheet
from .training.sampling import spread
from .training.trained import Trained, data_line, device_of, load_trained

PROG = "python -m models.sample"


def main(argv: list[str] | None = None) -> int:
    try:
        args = _parser().parse_args(argv)
        own = [args.source, args.source_iuv, args.target_iuv]
        if any(own) and not all(own):
            raise ValueError("--source, --source-iuv and --target-iuv belong together: give all")
        trained = load_trained(args.run, average=not args.no_ema, device=device_of(args.device))
        path = _own(trained, args) if args.source else _sheet(trained, args)
        print(f"written: {path}")
    except (ValueError, OSError) as error:
        return command.fail(PROG, error, 2)
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> command.Parser:
    parser = command.Parser(prog=PROG, description="Pictures of a trained system.")
    parser.add_argument("run", type=Path, help="folder of a run, or one of its checkpoints")
    parser.add_argument("--out", type=Path, help="picture to write (RUN/sample-SPLIT.png)")
    parser.add_argument("--pairs", type=int, default=8, help="rows of the sheet (%(default)s)")
    command.add_run_arguments(parser)
    own = parser.add_argument_group("a photo of your own", "Instead of pairs of a data set.")
    own.add_argument("--source", type=Path, metavar="A", help="the photo")
    own.add_argument("--source-iuv", type=Path, metavar="A_IUV", help="its DensePose map")
    own.add_argument("--target-iuv", type=Path, metavar="B_IUV", help="map of the wanted pose")
    own.add_argument("--iuv-order", choices=io.ORDERS, default="auto", help="of their channels")
    return parser


@torch.no_grad()
def _sheet(trained: Trained, args: argparse.Namespace) -> Path:
    settings = command.data_settings(trained.settings, args)
    if args.pairs < 1:
        raise ValueError(f"--pairs must be at least 1, got {args.pairs}")
    pairs = command.open_split(settings, args.split)
    batch = sheet.collect(pairs, spread(pairs, args.pairs))
    _check(trained, batch)
    columns = trained.system.pictures(to(batch, trained.device))
    footer = f"{trained.line()}; {data_line(settings, args.split, len(pairs))}"
    path: Path = args.out or args.run / f"sample-{args.split}.png"
    sheet.save(sheet.draw(columns, footer), path)
    return path


@torch.no_grad()
def _own(trained: Trained, args: argparse.Namespace) -> Path:
    size = (trained.settings.size[0], trained.settings.size[1])
    image = io.read_image(args.source)
    part, uv = io.read_iuv(args.source_iuv, args.iuv_order)
    wanted = io.read_iuv(args.target_iuv, args.iuv_order)
    if part.shape != image.shape[1:]:
        raise ValueError(
            f"{args.source_iuv} is {part.shape[1]} x {part.shape[0]} (width x height), but "
            f"{args.source} is {image.shape[2]} x {image.shape[1]}: make the map from that photo"
        )
    placed = letterbox((image.shape[1], image.shape[2]), size).image(image) * 2 - 1
    batch = {"source_image": placed[None]}
    batch |= _placed("source", part, uv, size) | _placed("target", *wanted, size)
    _check(trained, batch)
    out = to_bytes(trained.system.generate(to(batch, trained.device))["out"])[0].cpu()
    # Without the border that the map's shape has got.
    shape = (wanted.part.shape[0], wanted.part.shape[1])
    (left, top), (right, bottom) = letterbox(shape, size).window(shape)
    out = out[:, round(top + 0.5) : round(bottom + 0.5), round(left + 0.5) : round(right + 0.5)]
    path: Path = args.out or Path("sample.png")
    io.write_image(path, out.permute(1, 2, 0).numpy())
    return path


def _placed(which: str, part: Tensor, uv: Tensor, size: tuple[int, int]) -> Batch:
    """A DensePose map in the size of the run, as a batch of one."""
    place = letterbox((part.shape[0], part.shape[1]), size)
    part, uv = place.nearest(part[None])[0], place.nearest(uv)
    body = (part > 0) & uv.isfinite().all(0)
    uv = torch.where(body, uv, 0.0)
    return {f"{which}_part": (part * body)[None], f"{which}_uv": uv[None]}


def _check(trained: Trained, batch: Batch) -> None:
    if lack := missing(batch, trained.system.needs - {"target_image"}):
        raise ValueError(f"{trained.name} cannot make pictures: {lack}")


if __name__ == "__main__":
    sys.exit(main())
