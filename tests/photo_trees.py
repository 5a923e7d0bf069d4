# SPDX-License-Identifier: Apache-2.0
"""Small trees of data as the readers of `models.data` expect them, for their tests."""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from models.data.lists import clothes_key
from pose_kernels import io
from pose_kernels.people.person import render_person

CLOTHES = ("fashionWOMENBlouses_Shirtsid0000069302", "fashionMENDenimid0000070301")
VIEWS = ("1front", "2side", "3back")
NAMES = [f"{key}_{view}.jpg" for key in CLOTHES for view in VIEWS]


@lru_cache
def person(pose: str, size=256):
    return render_person(pose, identity=3, size=size)


def png(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def annotation(path: Path, joints: dict[str, list[tuple[int, int]]]) -> Path:
    """joints: name -> (x, y) of the first joints, the rest missing."""
    rows = ["name:keypoints_y:keypoints_x"]
    for name, points in joints.items():
        xy = [*points, *[(-1, -1)] * (18 - len(points))]
        rows.append(f"{name}:{json.dumps([y for _, y in xy])}:{json.dumps([x for x, _ in xy])}")
    path.write_text("\n".join(rows) + "\n")
    return path


def pair_list(path: Path, pairs) -> Path:
    path.write_text("\n".join(["from,to", *(",".join(pair) for pair in pairs)]) + "\n")
    return path


def fashion(root: Path, *, spelling="fasion-resize-{}", size=(64, 64), phases=("train", "test")):
    """A tree of six pictures of two clothes a phase: gray levels 0, 20, ... by NAMES."""
    for phase in phases:
        for i, name in enumerate(NAMES):
            pixels = np.full((*size, 3), 20 * i, np.uint8)
            png(root / phase / name.replace(".jpg", ".png"), pixels)
        (root / f"{phase}.lst").write_text("\n".join(NAMES))
        pairs = [
            (a, b) for a in NAMES for b in NAMES if a != b and clothes_key(a) == clothes_key(b)
        ]
        pair_list(root / f"{spelling.format('pairs')}-{phase}.csv", pairs)
        joints = {name: [(80 + i, 60)] for i, name in enumerate(NAMES)}
        annotation(root / f"{spelling.format('annotation')}-{phase}.csv", joints)
    return root


def iuv_tree(root: Path, order: str = "cv2") -> Path:
    fashion(root, size=(256, 256), phases=("test",))
    for name, pose in zip(NAMES, ("stand", "walk", "back") * 2):
        _, part, uv = person(pose)
        (root / "test_iuv").mkdir(exist_ok=True)
        io.write_iuv(root / "test_iuv" / name.replace(".jpg", "_IUV.png"), part, uv, order)
    return root
