# SPDX-License-Identifier: Apache-2.0
"""Goes through the files of a data set and counts: python -m models.data --check-data NAME.

Of pictures and maps the headers are read, thousands in a second, and the last bytes, which a file
that was cut short has not; thorough=True decodes everything.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from pose_kernels import io

from . import SPLITS, options_of, tree_of
from .tree import Found, Listing, Tree, find

SHOWN = 10  # of each kind of problem
_THREADS = 2  # one waits for the disk; more only get in each other's way
_BLOCK = 2048
_TAILS = {".png": b"IEND\xaeB`\x82", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}
_SIZE = (64, 64)  # any: only whether a placement exists is asked
_ROTATED = (5, 6, 7, 8)  # values of the EXIF orientation that swap the sides
_ORIENTATION = 0x0112

KINDS = {
    "split": "splits that cannot be opened",
    "lines": "bad lines in the lists",
    "images": "missing pictures",
    "iuv": "missing IUV maps",
    "masks": "missing masks",
    "joints": "pictures without a line of joints",
    "unreadable": "unreadable files",
    "size": "files of a wrong size",
    "range": "pictures with joints out of range",
    "shared": "people in two splits",
}


@dataclass
class SplitReport:
    """Counts of one split; usable: pairs whose files are all there."""

    split: str
    pairs: int
    usable: int
    images: int
    people: int
    duplicates: int
    has: tuple[str, ...]


@dataclass
class Report:
    """What `check` found. problems: kind (a key of KINDS) -> the first ten; counts: how many."""

    name: str
    root: str
    splits: list[SplitReport] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    problems: dict[str, list[str]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Nothing is wrong; pairs that are listed twice are only counted."""
        return not self.counts

    def add(self, kind: str, text: str) -> None:
        self.counts[kind] += 1
        shown = self.problems.setdefault(kind, [])
        if len(shown) < SHOWN:
            shown.append(text)

    def __str__(self) -> str:
        lines = [f"{self.name} in {self.root}"]
        for s in self.splits:
            twice = f", {s.duplicates:,} of them listed again" if s.duplicates else ""
            lines.append(
                f"  {s.split}: {s.pairs:,} pairs{twice}, {s.usable:,} with all files; "
                f"{s.images:,} pictures of {s.people:,} people in their clothes; "
                f"with {', '.join(s.has) or 'pictures only'}"
            )
        for kind, title in KINDS.items():
            if self.counts[kind]:
                lines.append(f"{title}: {self.counts[kind]:,}")
                lines += [f"  {text}" for text in self.problems[kind]]
                if self.counts[kind] > SHOWN:
                    lines.append(f"  and {self.counts[kind] - SHOWN:,} more")
        lines.append("nothing is wrong" if self.ok else "not all is well: see above")
        return "\n".join(lines)


def check(
    name: str,
    root: str | os.PathLike[str],
    *,
    splits: Sequence[str] = SPLITS,
    thorough: bool = False,
    progress: bool = False,
    **options: Any,
) -> Report:
    """Go through all files of a data set.

    options: those of the data set (`models.data.options_of`). thorough: decode every file instead
    of reading headers. progress: a bar on the terminal.

    Raises ValueError for a data set without files or an unknown option, FileNotFoundError when the
    folder is not there; everything else goes into the report.
    """
    opener = tree_of(name)
    if opener is None:
        raise ValueError(f"data {name!r} has no files that could be checked")
    known = options_of(name)
    if known is not None and (unknown := sorted(set(options) - set(known))):
        raise ValueError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    options.pop("missing", None)
    if options.get("validation") == 0:
        splits = [split for split in splits if split != "validation"]
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    report = Report(name, os.fspath(root))
    listing = Listing()
    owner: dict[str, str] = {}
    lines: list[str] = []
    for split in splits:
        try:
            tree: Tree = opener(root, split, problems=lines, **options)
        except (ValueError, OSError) as error:
            report.add("split", f"{split}: {error}")
            continue
        _check_split(report, tree, listing, owner, thorough, progress)
    for text in dict.fromkeys(lines):  # train and validation read the same lists
        report.add("lines", text)
    return report


def _check_split(
    report: Report,
    tree: Tree,
    listing: Listing,
    owner: dict[str, str],
    thorough: bool,
    progress: bool,
) -> None:
    names = tree.images()
    people = {tree.person(name) for name in names}
    for person in people:
        if (other := owner.setdefault(person, tree.split)) != tree.split:
            report.add("shared", f"{person} in {other} and {tree.split}")
    complete: set[str] = set()
    for name, problems, whole in _inspect_all(tree, names, listing, thorough, progress):
        for kind, text in problems:
            report.add(kind, text)
        if whole:
            complete.add(name)
    has = {"IUV maps": tree.iuv_folder, "masks": tree.mask_folder, "joints": tree.joints}
    report.splits.append(
        SplitReport(
            tree.split,
            len(tree.pairs),
            sum(a in complete and b in complete for a, b in tree.pairs),
            len(names),
            len(people),
            len(tree.pairs) - len(set(tree.pairs)),
            tuple(word for word, there in has.items() if there is not None),
        )
    )


Problem = tuple[str, str]


def _inspect_all(
    tree: Tree, names: list[str], listing: Listing, thorough: bool, progress: bool
) -> Iterator[tuple[str, list[Problem], bool]]:
    def inspect(job: tuple[str, Found]) -> list[Problem]:
        return _inspect(tree, *job, thorough)

    bar = tqdm(total=len(names), desc=tree.split, unit="picture", disable=not progress)
    with bar, ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(names), _BLOCK):
            jobs: list[tuple[str, Found]] = []
            for name in names[start : start + _BLOCK]:
                found = find(tree, name, listing)
                if isinstance(found, Found):
                    jobs.append((name, found))
                else:
                    kind, path = found
                    yield name, [(kind, str(path))], False
            for (name, _), problems in zip(jobs, pool.map(inspect, jobs)):
                yield name, problems, all(kind == "range" for kind, _ in problems)
            bar.update(min(_BLOCK, len(names) - start))


def _inspect(tree: Tree, name: str, files: Found, thorough: bool) -> list[Problem]:
    problems: list[Problem] = []
    try:
        shape = _shape(files.image, thorough)
    except (ValueError, OSError) as error:
        return [("unreadable", str(error))]
    problems += _misplaced(tree, files.image, shape, shape)
    for path, is_map in ((files.iuv, True), (files.mask, False)):
        if path is None:
            continue
        try:
            own = _map_shape(path, tree.iuv_order, thorough) if is_map else _shape(path, thorough)
        except (ValueError, OSError) as error:
            problems.append(("unreadable", str(error)))
            continue
        problems += _misplaced(tree, path, own, shape)
    if tree.joints is not None:
        left, top, right, bottom = tree.joint_range(shape)
        points = tree.joints[name]
        points = points[~np.isnan(points[:, 1])]
        out = (points < (left, top)) | (points > (right, bottom))
        if out.any():
            x, y = points[out.any(1)][0]
            problems.append(("range", f"{name}: {out.any(1).sum()}, the first at ({x:g}, {y:g})"))
    return problems


def _misplaced(
    tree: Tree, path: Path, own: tuple[int, int], picture: tuple[int, int]
) -> list[Problem]:
    try:
        tree.place(own, _SIZE)
    except ValueError as error:
        return [("size", f"{path}: {error}")]
    if not tree.agree(picture, own):
        sizes = f"{own[1]} x {own[0]}, its picture {picture[1]} x {picture[0]} (width x height)"
        return [("size", f"{path}: {sizes}")]
    return []


def _shape(path: Path, thorough: bool) -> tuple[int, int]:
    """(H, W) of a picture from its header, upright; decoded where that is not enough."""
    if not thorough:
        header = _header(path)
        if header is not None:
            return header[0]
    image = io.read_image(path)
    return image.shape[1], image.shape[2]


def _map_shape(path: Path, order: str, thorough: bool) -> tuple[int, int]:
    if not thorough and path.suffix.lower() == ".png":
        header = _header(path)
        if header is not None and header[1] == "RGB":
            return header[0]
    part = io.read_iuv(path, order).part
    return part.shape[0], part.shape[1]


def _header(path: Path) -> tuple[tuple[int, int], str] | None:
    """(H, W) and mode, or None when the header alone cannot be trusted."""
    tail = _TAILS.get(path.suffix.lower())
    try:
        with open(path, "rb") as file, Image.open(file) as image:
            width, height = image.size
            # asked of a PNG without the tag, Pillow decodes all of it
            tagged = image.format != "PNG" or "exif" in image.info
            turned = tagged and image.getexif().get(_ORIENTATION) in _ROTATED
            file.seek(0, os.SEEK_END)
            file.seek(-min(64, file.tell()), os.SEEK_CUR)
            if tail is None or tail not in file.read():
                return None
            return ((width, height) if turned else (height, width)), image.mode
    except Exception:  # the full reader that comes next says in words what is wrong
        return None
