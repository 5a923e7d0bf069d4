# SPDX-License-Identifier: Apache-2.0
"""`python -m pose_kernels mesh-flow`: two views of a mesh in a file, with pictures."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch

from ..files import open_folder, write_files
from ..obj import read_obj
from ..people.person import POSES, person_mesh
from ..turned_mesh import SIDES, turned_flow
from . import mesh_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options on its parser."""
    add = parser.add_argument
    add("--mesh", type=Path, metavar="OBJ", help="Wavefront OBJ, y up (the built-in person)")
    add("--group", metavar="NAME", help="only the faces of this group")
    add("--turn", type=float, default=30.0, metavar="DEGREES", help="target view (%(default)g)")
    add("--size", type=int, default=256, help="side of the pictures in pixels (%(default)s)")
    add(
        "--visibility",
        choices=("face", "zbuffer"),
        default="face",
        help="of a point in the source: by its face, or by its depth (%(default)s)",
    )
    add("--out", type=Path, default=Path("mesh_flow_out"), help="folder (%(default)s)")
    add("--device", choices=("cpu", "cuda"), default="cpu")


def run(args: argparse.Namespace) -> int:
    """The command: 0, or ValueError or OSError with one clear line, before anything is written."""
    if not SIDES[0] <= args.size <= SIDES[1]:
        raise ValueError(f"--size must be {SIDES[0]}..{SIDES[1]}, got {args.size}")
    if not math.isfinite(args.turn):
        raise ValueError(f"--turn must be a finite number of degrees, got {args.turn:g}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device cuda: torch {torch.__version__} sees no CUDA device")
    if args.mesh is None and args.group is not None:
        raise ValueError("--group needs a --mesh")
    if args.mesh is None:
        vertices, faces = person_mesh(POSES["stand"])
    else:
        mesh = read_obj(args.mesh, args.group)
        vertices, faces = mesh.vertices, mesh.faces
    outputs = {name: args.out / name for name in mesh_report.FILES}
    for path in outputs.values():
        if args.mesh is not None and path.resolve() == args.mesh.resolve():
            raise ValueError(f"--out {args.out}: {path} is an input, it would be overwritten")
    open_folder(args.out)
    print(
        f"{len(faces)} triangles, {len(vertices)} vertices, turned by {args.turn:g} "
        f"degrees, {args.size} x {args.size} pixels, on {args.device}"
    )
    vertices, faces = vertices.to(args.device), faces.to(args.device)
    result = turned_flow(vertices, faces, args.turn, args.size, visibility=args.visibility)
    facts = {
        "mesh": None if args.mesh is None else str(args.mesh),
        "group": args.group,
        "turn": args.turn,
        "size": args.size,
        "visibility": args.visibility,
    }
    contents = mesh_report.files(result, facts)
    write_files({outputs[name]: data for name, data in contents.items()})
    print(mesh_report.summary(result))
    for path in outputs.values():
        print(f"  {path}")
    return 0
