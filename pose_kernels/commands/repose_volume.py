# SPDX-License-Identifier: Apache-2.0
"""`python -m pose_kernels repose-volume`: two poses of a clip of joints, with pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..clip import Clip, load_clip, place_in_frame
from ..files import open_folder, write_files
from ..repose_volume import SIDES, repose_volume
from ..transfer import Stage
from . import repose_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options on its parser."""
    add = parser.add_argument
    add(
        "--joints",
        type=Path,
        required=True,
        metavar="CLIP",
        help=".npz with joints (T, J, 3) and, better, their names (J,)",
    )
    add("--from", dest="source", type=int, required=True, metavar="FRAME", help="source pose")
    add("--to", dest="target", type=int, required=True, metavar="FRAME", help="target pose")
    add("--skeleton", default="auto", help="its name (%(default)s: by the names, or the number)")
    add(
        "--placed",
        action="store_true",
        help="joints are pixels of the 256-pixel cube (x right, y down, z away), not y-up lengths",
    )
    add("--size", type=int, default=64, help="voxels along x and y (%(default)s); half along z")
    add("--out", type=Path, default=Path("repose_out"), help="folder (%(default)s)")
    add("--device", choices=("cpu", "cuda"), default="cpu")


def run(args: argparse.Namespace) -> int:
    """The command: 0, or ValueError or OSError with one clear line, before anything is written."""
    if not SIDES[0] <= args.size <= SIDES[1] or args.size % 2:
        raise ValueError(f"--size must be even, {SIDES[0]}..{SIDES[1]}, got {args.size}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device cuda: torch {torch.__version__} sees no CUDA device")
    clip = load_clip(args.joints, args.skeleton)
    T = len(clip.joints)
    frames = (args.source, args.target)
    for option, frame in zip(("--from", "--to"), frames, strict=True):
        if not 0 <= frame < T:
            raise ValueError(f"{option} must be 0..{T - 1}, the frames of the clip, got {frame}")
    outputs = {name: args.out / name for name in repose_report.FILES}
    for path in outputs.values():
        if path.resolve() == args.joints.resolve():
            raise ValueError(f"--out {args.out}: {path} is an input, it would be overwritten")
    pair = clip.joints[list(frames)]
    missing = _missing(clip, frames)
    for line in missing:
        print(f"  {line}")
    try:
        placed = (pair if args.placed else place_in_frame(pair)).to(args.device)
        open_folder(args.out)
        nodes = args.size + 1
        print(
            f"volume of {nodes} x {nodes} x {args.size // 2 + 1} voxels, skeleton "
            f"{clip.skeleton.name}, frame {frames[0]} to {frames[1]}, on {args.device}"
        )
        result = repose_volume(placed[0], placed[1], clip.skeleton, args.size, on_stage=_progress)
    except ValueError as error:
        raise ValueError("; ".join([str(error), *missing])) from None
    titles = (f"frame {frames[0]}", f"frame {frames[1]}")
    facts = {"joints": str(args.joints), "skeleton": clip.skeleton.name, "frames": frames}
    contents = repose_report.files(result, titles, {**facts, "missing": missing})
    write_files({outputs[name]: data for name, data in contents.items()})
    print(repose_report.summary(result))
    for path in outputs.values():
        print(f"  {path}")
    return 0


def _missing(clip: Clip, frames: tuple[int, int]) -> list[str]:
    """Per frame, a line that names the joints that are not numbers."""
    lines = []
    for frame in dict.fromkeys(frames):
        lost = (~clip.joints[frame].isfinite().all(-1)).nonzero().flatten().tolist()
        if lost:
            names = ", ".join(clip.skeleton.joints[i] for i in lost)
            lines.append(f"frame {frame} lacks {names} (not finite)")
    return lines


def _progress(stage: Stage) -> None:
    print(f"  {stage.name:<16}{stage.seconds * 1e3:9.1f} ms  {stage.backend}", flush=True)
