# SPDX-License-Identifier: Apache-2.0
"""The text files of pose transfer data: lists of pairs, of joints, of names; and the rules on them.

Every reader either raises at the first bad line, with the file and the line number, or, given a
list `problems`, appends one line to it for each and goes on.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

JOINTS = 18
TORSO = (2, 5, 8, 11)  # shoulders and hips: the joints that the lists of later work require
_ANNOTATION_HEADER = ["name", "keypoints_y", "keypoints_x"]


class PairRow(NamedTuple):
    """A line of a pair list; split is None where the list has no such column."""

    source: str
    target: str
    split: str | None


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    Raises FileNotFoundError, OSError, or ValueError for another encoding.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror or error}") from None
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no UTF-8 text: byte {error.start} is {data[error.start]:#04x}; save it as "
            "UTF-8"
        ) from None


def read_pairs(path: Path, problems: list[str] | None = None) -> list[PairRow]:
    """A list of pairs: comma separated, header `from,to` or `from,to,split`, one pair a line."""
    rows: list[PairRow] = []
    lines = _rows(path, ",")
    _, header = next(lines, (1, []))
    header = [word.lower() for word in header]
    if header not in (["from", "to"], ["from", "to", "split"]):
        raise ValueError(f"{path}, line 1: must be from,to or from,to,split, got {_shown(header)}")
    for number, row in lines:
        if len(row) != len(header) or not row[0] or not row[1]:
            text = f"{path}, line {number}: must have {len(header)} names, got {_shown(row)}"
            _complain(problems, text)
        else:
            rows.append(PairRow(row[0], row[1], row[2] if len(row) == 3 else None))
    return rows


def read_annotation(
    path: Path, problems: list[str] | None = None
) -> dict[str, NDArray[np.float32]]:
    """Joints by picture: colon separated, header `name:keypoints_y:keypoints_x`, lists of JSON.

    Returns name -> (18, 2) float32 of (x, y); a missing joint, y = -1 in the file, is NaN. An x
    below 0 is a joint beside a picture that was cropped.
    """
    joints: dict[str, NDArray[np.float32]] = {}
    lines = _rows(path, ":")
    _, header = next(lines, (1, []))
    if header != _ANNOTATION_HEADER:
        raise ValueError(
            f"{path}, line 1: must be {':'.join(_ANNOTATION_HEADER)}, got {_shown(header, ':')}"
        )
    for number, row in lines:
        points = _points(row)
        if isinstance(points, str):
            _complain(problems, f"{path}, line {number}: {points}")
        elif row[0] in joints and not np.array_equal(joints[row[0]], points, equal_nan=True):
            _complain(
                problems, f"{path}, line {number}: {row[0]} is there twice, with other joints"
            )
        else:
            joints[row[0]] = points
    return joints


def read_names(path: Path) -> list[str]:
    """A list of names, one a line; empty lines and spaces around a name do not count."""
    return [name for line in read_text(path).splitlines() if (name := line.strip())]


def clothes_key(name: str) -> str:
    """The file name up to its last underscore: the same person in the same clothes.

    >>> clothes_key("fashionWOMENBlouses_Shirtsid0000069302_3back.jpg")
    'fashionWOMENBlouses_Shirtsid0000069302'
    """
    stem = PurePosixPath(name).stem
    return stem.rpartition("_")[0] or stem


def same_clothes_pairs(names: Iterable[str], most: int | None = None) -> list[tuple[str, str]]:
    """All ordered pairs of two pictures of the same clothes, clothes and pictures in their order.

    most: keep so many, drawn without replacement from a fixed seed (the rule of Deformable GANs,
    Siarohin et al., CVPR 2018, which keeps 12,000 test pairs).
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(clothes_key(name), []).append(name)
    pairs = [pair for group in groups.values() for pair in permutations(group, 2)]
    if most is not None and len(pairs) > most:
        drawn = np.random.RandomState(0).choice(len(pairs), most, replace=False)
        pairs = [pairs[i] for i in drawn]
    return pairs


def carve(keys: Iterable[str], share: float) -> set[str]:
    """A share of the keys, at least one where it is above 0; by a hash, so in no order of theirs.

    The same keys give the same part, whatever the seed of a run.
    """
    ranked = sorted(set(keys), key=key_number)
    return set(ranked[: max(1, round(share * len(ranked)))] if share > 0 else [])


def side_of_validation(
    pairs: list[tuple[str, str]], split: str, share: float
) -> list[tuple[str, str]]:
    """Of the training pairs those of a split: a share of the clothes is held out for validation."""
    held_out = carve((clothes_key(source) for source, _ in pairs), share)
    keep = split == "validation"
    return [pair for pair in pairs if (clothes_key(pair[0]) in held_out) == keep]


def key_number(key: str) -> int:
    """A number of 63 bits for a key, the same in every run."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and stripped cells of every line that is not empty."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None


def _points(row: Sequence[str]) -> NDArray[np.float32] | str:
    """(18, 2) of a line of an annotation, or what is wrong with it."""
    if len(row) != 3:
        return f"must be {':'.join(_ANNOTATION_HEADER)}, got {_shown(row, ':')}"
    try:
        y, x = json.loads(row[1]), json.loads(row[2])
    except json.JSONDecodeError as error:
        return f"the joints of {row[0]} are no JSON list: {error}"
    for values in (y, x):
        if not isinstance(values, list) or len(values) != JOINTS:
            count = f"{len(values)} values" if isinstance(values, list) else "no list"
            return f"{row[0]} must have {JOINTS} joints, got {count}"
        if not all(type(v) in (int, float) and math.isfinite(v) for v in values):
            return f"the joints of {row[0]} must be finite numbers"
    points = np.array([x, y], np.float32).T
    points[points[:, 1] == -1] = np.nan
    return np.ascontiguousarray(points)


def _complain(problems: list[str] | None, text: str) -> None:
    if problems is None:
        raise ValueError(text)
    problems.append(text)


def _shown(cells: Sequence[str], delimiter: str = ",") -> str:
    text = delimiter.join(cells)
    return repr(text if len(text) <= 80 else text[:77] + "...")
