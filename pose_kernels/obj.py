# SPDX-License-Identifier: Apache-2.0
"""Triangle meshes from Wavefront OBJ files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .files import PathLike

# What a file may also say, of which a mesh of triangles needs nothing.
_IGNORED = frozenset(
    """vt vn vp s o usemtl mtllib usemap maplib l p cstype deg bmat step curv curv2 surf parm trim
    hole scrv sp end con mg bevel c_interp d_interp lod shadow_obj trace_obj ctech stech call csh
    """.split()
)


@dataclass(frozen=True)
class Mesh:
    """Triangles of a file, and the vertices they use."""

    vertices: Tensor  # (V, 3) float64, in the file's own frame
    faces: Tensor  # (F, 3) int64
    groups: tuple[str, ...]  # of the file, in the order of their first faces


def read_obj(path: PathLike, group: str | None = None) -> Mesh:
    """The faces of an OBJ file, of one of its groups if named, as triangles.

    Polygons become fans about their first corner. Corners may be ``v``, ``v/vt``, ``v//vn`` or
    ``v/vt/vn``, counted from 1 or, if negative, back from the last vertex. Everything else that OBJ
    knows is passed over.

    Raises OSError (no such file) or ValueError with one clear line, and its number in the file.
    """
    file = Path(path)
    points: list[tuple[float, ...]] = []
    corners: list[tuple[int, ...]] = []
    lines: list[int] = []  # of each triangle
    faces_of: dict[str, list[int]] = {}
    current = ["default"]
    for number, words in _statements(file):
        try:
            if words[0] == "v":
                points.append(_point(words[1:]))
            elif words[0] == "f":
                polygon = [_corner(word, len(points)) for word in words[1:]]
                if len(polygon) < 3:
                    raise ValueError(f"a face needs at least 3 corners, got {len(polygon)}")
                for name in current:
                    triangles = range(len(corners), len(corners) + len(polygon) - 2)
                    faces_of.setdefault(name, []).extend(triangles)
                for second, third in zip(polygon[1:], polygon[2:]):
                    corners.append((polygon[0], second, third))
                    lines.append(number)
            elif words[0] == "g":
                current = words[1:] or ["default"]
            elif words[0] not in _IGNORED:
                raise ValueError(f"{_shown(words)} is no statement of Wavefront OBJ")
        except ValueError as error:
            raise ValueError(f"mesh {file}, line {number}: {error}") from None
    if not corners:
        raise ValueError(f"mesh {file} has no faces")
    for triangle, number in zip(corners, lines):
        if max(triangle) >= len(points):
            raise ValueError(
                f"mesh {file}, line {number}: a face names vertex {max(triangle) + 1} "
                f"of {len(points)}"
            )
    if group is not None and group not in faces_of:
        raise ValueError(f"mesh {file} has no group {group!r}, only {', '.join(faces_of)}")
    faces = torch.tensor(corners)
    if group is not None:
        faces = faces[faces_of[group]]
    used, faces = faces.unique(return_inverse=True)
    vertices = torch.tensor(points, dtype=torch.float64)[used]
    return Mesh(vertices, faces, tuple(faces_of))


def _statements(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and words of every statement; a backslash continues a line."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise OSError(f"mesh {file}: no such file") from None
    except OSError as error:
        raise OSError(f"mesh {file} cannot be read: {error.strerror or error}") from None
    begun: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.split("#", 1)[0].rstrip()
        if line.endswith("\\"):
            begun += line[:-1].split()
            continue
        words = begun + line.split()
        begun = []
        if words:
            yield number, words


def _point(words: list[str]) -> tuple[float, ...]:
    try:
        point = tuple(float(word) for word in words[:3])
    except ValueError:
        point = ()
    if len(point) < 3 or not all(map(math.isfinite, point)):
        raise ValueError(f"a vertex needs three finite numbers, got {_shown(words)}")
    return point


def _corner(word: str, points: int) -> int:
    """Index from 0 of the vertex."""
    try:
        index = int(word.split("/", 1)[0])
    except ValueError:
        index = 0
    if index == 0 or index < -points:
        raise ValueError(f"{_shown([word])} names no vertex; there are {points} so far")
    return index - 1 if index > 0 else points + index


def _shown(words: list[str]) -> str:
    return repr(" ".join(words)[:40])
