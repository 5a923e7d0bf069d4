# SPDX-License-Identifier: Apache-2.0
"""`python -m pose_kernels demo`: what the ops are for, on the built-in person, without downloads.

One picture of a person is lifted onto the body atlas, the atlas is completed, and painted into
another pose, whose true picture is known. Then a feature volume is moved, part by part, between
the same two poses in 3D. Writes the pictures and says how good and how fast.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from .. import __version__, io, panel
from ..clip import place_in_frame
from ..files import open_folder, write_files
from ..io import IUV
from ..people.person import POSES, Rendering, render_person
from ..people.pose import joints
from ..repose_volume import Repose, repose_volume
from ..transfer import LIFTS, Stage, Transfer, transfer_texture
from . import comparison, repose_report, transfer_report

SOURCE, TARGET = "stand", "walk"
_SIZES = (16, 1024)  # of --size; at 1024 the atlas alone is 300 MB
_PAPER = 0.93  # gray behind the transferred person
T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options on its parser."""
    add = parser.add_argument
    add("--out", type=Path, default=Path("demo_out"), help="folder (%(default)s)")
    add(
        "--size",
        type=int,
        help="side of an atlas tile; the pictures are twice that (256; with --quick 64)",
    )
    add(
        "--lift",
        choices=LIFTS,
        default=LIFTS[0],
        help="from the photo onto the atlas (%(default)s)",
    )
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--identity", type=int, default=0, help="seed of the person's looks (%(default)s)")
    add("--quick", action="store_true", help="a small run to see that everything works")


def run(args: argparse.Namespace) -> int:
    """The command: 0, or ValueError or OSError with one clear line."""
    size = args.size if args.size is not None else 64 if args.quick else 256
    if not _SIZES[0] <= size <= _SIZES[1]:
        raise ValueError(f"--size must be {_SIZES[0]}..{_SIZES[1]}, got {size}")
    if args.identity < 0:
        raise ValueError(f"--identity must be at least 0, got {args.identity}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device cuda: torch {torch.__version__} sees no CUDA device")
    open_folder(args.out)  # a bad folder is found before the work
    device = torch.device(args.device)
    print(f"pose_kernels {__version__}, torch {torch.__version__}, {_place(device)}")

    print(
        "\ntexture transfer on the built-in person; "
        f"{args.lift}, fill, gather timed at a second call"
    )
    note = f"{2 * size} x {2 * size} pixels"
    source = _timed(f'draw "{SOURCE}"', note, lambda: _draw(SOURCE, args.identity, size, device))
    target = _timed(f'draw "{TARGET}"', note, lambda: _draw(TARGET, args.identity, size, device))
    result = _transfer(source, target, size, args.lift)
    scores = transfer_report.score(
        result, target.image, None, source.image, IUV(source.part, source.uv)
    )
    files = _timed(
        "write", f"to {args.out}", lambda: _write(args.out, source, target, result, scores)
    )
    print(transfer_report.summary(result, scores))

    print(f'\nvolume of 65 x 65 x 33 voxels from "{SOURCE}" to "{TARGET}", timed at a second call')
    reposed = _repose(device)
    files += _write_repose(args.out, reposed)
    print(repose_report.summary(reposed))

    batch, side = (1, 64) if args.quick else (4, min(size, 256))
    print("\nours against the same ops in pure PyTorch, measured now ...", flush=True)
    rows = comparison.race(device, batch=batch, side=side, runs=3 if args.quick else 9)
    channels = 4 if args.quick else 32
    rows.append(comparison.race_of_volumes(device, channels=channels, runs=3))
    print(comparison.table(rows))
    print(
        f"float32, N = {batch}, C = 3, pictures {side} x {side}, tiles {side} x {side}; part warp "
        f"N = 1, C = {channels},\n65 x 65 x 33 voxels; both in this process, in turns, median of "
        f"{min(row.runs for row in rows)} runs or more after\na first one; {_place(device)}; "
        f"allocator: {comparison.allocator(device)}.\n"
        "PyTorch is pose_kernels.reference, written to be exact and plain, and for the part warp "
        "the maximum of\nten masked grid_samples; tuned PyTorch is in benchmarks/"
    )

    print("\npictures")
    for path in files:
        print(f"  {path}")
    source_png, iuv_png, _, map_png, *_ = files
    print(
        "the same from files, as you would with yours:\n"
        f"  python -m pose_kernels transfer --image {source_png} --iuv {iuv_png} "
        f"--target-iuv {map_png}"
    )
    return 0


def _place(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def _line(name: str, seconds: float, note: str) -> None:
    print(f"  {name:<16}{seconds * 1e3:9.1f} ms  {note}", flush=True)


def _timed(name: str, note: str, work: Callable[[], T]) -> T:
    start = time.perf_counter()
    result = work()
    _line(name, time.perf_counter() - start, note)
    return result


def _draw(pose: str, identity: int, size: int, device: torch.device) -> Rendering:
    return Rendering(*(x.to(device) for x in render_person(pose, identity, 2 * size)))


def _transfer(source: Rendering, target: Rendering, size: int, lift: str) -> Transfer:
    """The job, twice: the first call pays for loading libraries and touching fresh memory."""

    def job(on_stage: Callable[[Stage], None] | None) -> Transfer:
        given = IUV(source.part, source.uv)
        wanted = IUV(target.part, target.uv)
        return transfer_texture(source.image, given, wanted, size, lift=lift, on_stage=on_stage)

    notes = {
        lift: "photo -> 24 tiles",
        "fill": "what the photo does not show",
        "gather": "tiles -> the new pose",
    }
    job(None)
    return job(lambda s: _line(s.name, s.seconds, f"{s.backend:<10} {notes.get(s.name, '')}"))


def _write(
    folder: Path, source: Rendering, target: Rendering, result: Transfer, scores: dict[str, Any]
) -> list[Path]:
    """Write every picture; the paths, source, its map, target, its map first."""
    assert result.partial is not None and result.weight is not None
    # A tile without a single seen texel has no color at all: such a pixel stays paper.
    known = result.hit.flatten(1).any(1)
    shown = result.foreground & known[(result.target.part.long() - 1).clamp(min=0)]
    transferred = torch.where(shown, result.image, _PAPER)
    pictures: dict[str, Tensor | panel.Pixels] = {
        "source.png": source.image,
        "target_true.png": target.image,
        "partial_atlas.png": io.atlas_mosaic(result.partial),
        "filled_atlas.png": io.atlas_mosaic(result.atlas),
        "transferred.png": transferred,
        "panel.png": _panel(source, target, result, transferred, scores),
    }
    write_files({folder / n: io.encode_picture(n, picture) for n, picture in pictures.items()})
    maps = {"source_iuv.png": source, "target_iuv.png": target}
    for name, person in maps.items():
        io.write_iuv(folder / name, person.part, person.uv)
    names = ["source.png", "source_iuv.png", "target_true.png", "target_iuv.png"]
    names += [name for name in pictures if name not in names]
    return [folder / name for name in names]


def _repose(device: torch.device) -> Repose:
    """The same two poses in 3D, twice: the first call pays for fresh memory."""
    poses = torch.stack([torch.from_numpy(joints(POSES[pose])) for pose in (SOURCE, TARGET)])
    source, target = place_in_frame(poses.float()).to(device)
    repose_volume(source, target, "reposing19")
    return repose_volume(
        source,
        target,
        "reposing19",
        on_stage=lambda stage: _line(stage.name, stage.seconds, stage.backend),
    )


def _write_repose(folder: Path, reposed: Repose) -> list[Path]:
    """The pictures of `repose-volume`, under names of their own."""
    pictures = {
        "part_masks.png": repose_report.masks_picture(reposed, f'"{SOURCE}"'),
        "reposed_volume.png": repose_report.repose_picture(reposed, (f'"{SOURCE}"', f'"{TARGET}"')),
    }
    write_files({folder / n: io.encode_picture(n, picture) for n, picture in pictures.items()})
    return [folder / name for name in pictures]


def _panel(
    source: Rendering,
    target: Rendering,
    result: Transfer,
    transferred: Tensor,
    scores: dict[str, Any],
) -> panel.Pixels:
    assert result.partial is not None and result.weight is not None
    seen = result.weight > 1e-3
    filled = seen.flatten(1).any(1)[:, None, None].expand_as(seen)
    cards = [
        panel.Card(panel.to_pixels(source.image), "photo", "what is given"),
        panel.Card(panel.iuv_picture(source.part, source.uv), "its body map", "24 parts, u, v"),
        panel.Card(
            panel.atlas_picture(result.partial, result.weight),
            "partial atlas",
            f"{100 * float(seen.float().mean()):.0f} % of the texels",
            result.lift,
        ),
        panel.Card(
            panel.atlas_picture(result.atlas, filled.float()),
            "filled atlas",
            "completed tile by tile",
            "fill",
        ),
        panel.Card(panel.iuv_picture(target.part, target.uv), "new pose", "its body map"),
        panel.Card(
            panel.to_pixels(transferred),
            "transferred",
            f"{scores['psnr']:.1f} dB, {100 * scores['coverage']:.0f} % covered",
            "gather",
        ),
        panel.Card(panel.to_pixels(target.image), "true picture", "for comparison only"),
    ]
    return panel.compose(cards)
