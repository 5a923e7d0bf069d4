# SPDX-License-Identifier: Apache-2.0
"""A plain folder of your own: images/, iuv/, masks/, pairs.csv, joints.csv (docs/data.md).

Two pictures are of the same person in the same clothes when pairs lead from one to the other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from . import lists
from .pairs import PairFiles
from .tree import Missing, Tree, given, open_root

SHARE = 0.1  # of the people, held out for each of validation and test
GET = {
    "images": "the pictures that pairs.csv names lie in images/ (docs/data.md)",
    "iuv": "IUV maps: run DensePose on images/, and write iuv/NAME_IUV.png (docs/data.md)",
    "masks": "masks/NAME.png, white on the person, for every picture, or no folder masks/ at all",
    "joints": "joints.csv has a line name:keypoints_y:keypoints_x for every picture (docs/data.md)",
}


def tree(
    root: str | os.PathLike[str] | None,
    split: str,
    *,
    iuv_order: str = "auto",
    problems: list[str] | None = None,
) -> Tree:
    """Read pairs.csv and find the folders; see :func:`open_pairs`."""
    base = open_root(root, "folder", GET["images"])
    for name in ("images", "pairs.csv"):
        if not (base / name).exists():
            raise FileNotFoundError(
                f"{base / name}: no such file or folder; a folder of your own has images/ and "
                "pairs.csv (docs/data.md)"
            )
    rows = lists.read_pairs(base / "pairs.csv", problems)
    people = _people((row.source, row.target) for row in rows)
    if rows and rows[0].split is not None:
        pairs = _by_column(base, rows, split, people)
    else:
        pairs = _by_person(base, rows, split, people)
    joints = given("joints.csv", base, "joints") if (base / "joints.csv").exists() else None
    return Tree(
        "folder",
        split,
        base,
        pairs,
        None if joints is None else lists.read_annotation(joints, problems),
        base / "images",
        base / "iuv" if (base / "iuv").is_dir() else None,
        base / "masks" if (base / "masks").is_dir() else None,
        GET,
        iuv_order,
        people.__getitem__,
        files=[base / "pairs.csv", *([] if joints is None else [joints])],
    )


def open_pairs(
    *,
    split: str,
    size: tuple[int, int],
    root: str | None,
    views: int = 0,
    seed: int = 0,
    iuv_order: str = "auto",
    missing: Missing = "error",
) -> PairFiles:
    """Pairs of a folder of your own, letterboxed into `size` with white.

    The splits are those of the column `split` of pairs.csv; without one, a tenth of the people each
    is held out for validation and for test. iuv_order: "auto", "cv2" or "rgb". missing: "error",
    or "skip" for pairs without a file.
    """
    found = tree(root, split, iuv_order=iuv_order)
    return PairFiles(found, size, views=views, seed=seed, missing=missing)


def _people(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Name -> the least name that pairs lead to."""
    root: dict[str, str] = {}

    def find(name: str) -> str:
        root.setdefault(name, name)
        while root[name] != name:
            root[name] = root[root[name]]
            name = root[name]
        return name

    for source, target in pairs:
        a, b = sorted((find(source), find(target)))
        root[b] = a
    return {name: find(name) for name in root}


def _by_column(
    base: os.PathLike[str], rows: list[lists.PairRow], split: str, people: dict[str, str]
) -> list[tuple[str, str]]:
    owner: dict[str, str] = {}
    for row in rows:
        name = row.split or ""
        if name not in ("train", "validation", "test"):
            raise ValueError(
                f"{base}/pairs.csv: split must be train, validation or test, got {row.split!r} for "
                f"{row.source},{row.target}"
            )
        other = owner.setdefault(people[row.source], name)
        if other != name:
            raise ValueError(
                f"{base}/pairs.csv: {row.source} is in {other} and in {name} (by itself or through "
                "pairs); a person belongs into one split"
            )
    pairs = [(row.source, row.target) for row in rows if row.split == split]
    if not pairs:
        raise ValueError(f"{base}/pairs.csv has no pair of the split {split}")
    return pairs


def _by_person(
    base: os.PathLike[str], rows: list[lists.PairRow], split: str, people: dict[str, str]
) -> list[tuple[str, str]]:
    everyone = set(people.values())
    if split != "train" and len(everyone) < 3:
        raise ValueError(
            f"{base}/pairs.csv has {len(everyone)} people: too few to hold some out for {split}; "
            "give it a column split (from,to,split)"
        )
    enough = len(everyone) >= 3
    test = lists.carve(everyone, SHARE if enough else 0)
    validation = lists.carve(everyone - test, SHARE / (1 - SHARE) if enough else 0)
    owner = {person: "test" for person in test} | {person: "validation" for person in validation}
    return [
        (row.source, row.target) for row in rows if owner.get(people[row.source], "train") == split
    ]
