# SPDX-License-Identifier: Apache-2.0
"""The files of a data set: which pairs there are, and where the pictures, maps and joints lie."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from . import lists
from .placement import Placement, letterbox

PICTURES = (".jpg", ".png", ".jpeg", ".bmp", ".webp")
MAPS = (".png", ".npz", ".npy")

HowToGet = Mapping[str, str]  # "images", "iuv", ... -> whence they come
Missing = Literal["error", "skip"]


@dataclass
class Tree:
    """One split of a data set as it lies on the disk.

    pairs: names of source and target. joints: name -> (18, 2) of (x, y), NaN where missing, or None
    when the data set has none. folders: None when there is none. get: how to get what is missing.
    """

    name: str
    split: str
    root: Path
    pairs: list[tuple[str, str]]
    joints: dict[str, NDArray[np.float32]] | None
    image_folder: Path
    iuv_folder: Path | None
    mask_folder: Path | None
    get: HowToGet
    iuv_order: str = "auto"
    person: Callable[[str], str] = lists.clothes_key  # equal for equal people in equal clothes
    files: list[Path] = field(default_factory=list)  # the lists that were read

    def images(self) -> list[str]:
        """Every picture of the pairs once, in their order."""
        return list(dict.fromkeys(name for pair in self.pairs for name in pair))

    def image_files(self, name: str) -> Iterator[Path]:
        """Where a picture may lie: the first that is there counts."""
        path = self.image_folder / name
        yield path
        for suffix in PICTURES:
            yield path.with_suffix(suffix)

    def iuv_files(self, name: str) -> Iterator[Path]:
        assert self.iuv_folder is not None
        stem = str(Path(name).with_suffix(""))
        for end in ("_IUV", "_iuv", ""):
            for suffix in MAPS:
                yield self.iuv_folder / f"{stem}{end}{suffix}"

    def mask_files(self, name: str) -> Iterator[Path]:
        assert self.mask_folder is not None
        path = self.mask_folder / name
        yield path.with_suffix(".png")
        yield path

    def frame(self, picture: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of what is letterboxed: beside it there is nothing to be seen."""
        return picture

    def place(self, picture: tuple[int, int], size: tuple[int, int]) -> Placement:
        """Where a picture, map or mask of some (H, W) goes. ValueError for a size it cannot be."""
        return letterbox(picture, size)

    def place_joints(self, picture: tuple[int, int], size: tuple[int, int]) -> Placement:
        """Where the joints of a picture of (H, W) go."""
        return self.place(picture, size)

    def joint_range(self, picture: tuple[int, int]) -> tuple[float, float, float, float]:
        """Least x, least y, largest x, largest y of a joint that can be right."""
        return -0.5, -0.5, picture[1] - 0.5, picture[0] - 0.5

    def agree(self, picture: tuple[int, int], other: tuple[int, int]) -> bool:
        """Whether a map or mask of the other (H, W) can belong to the picture: same aspect."""
        return abs(other[1] - picture[1] * other[0] / picture[0]) <= 1


class Listing:
    """Which files there are, from one listing per folder: far fewer questions to the disk."""

    def __init__(self) -> None:
        self._folders: dict[str, set[str]] = {}

    def first(self, candidates: Iterable[Path]) -> Path | None:
        """The first of them that is there."""
        for path in candidates:
            folder = str(path.parent)
            if folder not in self._folders:
                try:
                    self._folders[folder] = set(os.listdir(folder))
                except OSError:
                    self._folders[folder] = set()
            if path.name in self._folders[folder]:
                return path
        return None


@dataclass(frozen=True)
class Found:
    """The files of one picture; None where the data set has no such files."""

    image: Path
    iuv: Path | None
    mask: Path | None


def find(tree: Tree, name: str, listing: Listing) -> Found | tuple[str, Path]:
    """The files of a picture, or what lacks ("images", "iuv", "masks", "joints") and where."""
    image = listing.first(tree.image_files(name))
    if image is None:
        return "images", next(tree.image_files(name))
    iuv = mask = None
    if tree.iuv_folder is not None and (iuv := listing.first(tree.iuv_files(name))) is None:
        return "iuv", next(tree.iuv_files(name))
    if tree.mask_folder is not None and (mask := listing.first(tree.mask_files(name))) is None:
        return "masks", next(tree.mask_files(name))
    if tree.joints is not None and name not in tree.joints:
        return "joints", Path(name)
    return Found(image, iuv, mask)


def find_all(tree: Tree, missing: Missing) -> dict[str, Found]:
    """The files of every picture of the pairs. missing="skip": without those that lack some.

    Raises FileNotFoundError at missing="error", with the first that lacks, how many, and whence
    they come.
    """
    if missing not in ("error", "skip"):
        raise ValueError(f"missing must be error or skip, got {missing!r}")
    listing = Listing()
    found: dict[str, Found] = {}
    lacking: list[tuple[str, Path]] = []
    names = tree.images()
    for name in names:
        files = find(tree, name, listing)
        if isinstance(files, Found):
            found[name] = files
        else:
            lacking.append(files)
    if lacking and (missing == "error" or not found):
        what, path = lacking[0]
        of = "is in no line of the annotation" if what == "joints" else "no such file"
        rest = sum(kind == what for kind, _ in lacking) - 1
        raise FileNotFoundError(
            f"{path}: {of}, nor for {rest} more of {len(names)} {tree.name} {tree.split} pictures; "
            f"{tree.get[what]}; --data-options missing=skip leaves such pairs out"
        )
    return found


def open_root(root: str | os.PathLike[str] | None, name: str, how: str) -> Path:
    """The folder of a data set. Raises ValueError when none is given, FileNotFoundError."""
    if root is None:
        raise ValueError(f"{name} needs its folder: --data-root DIR (root=...); {how}")
    folder = Path(root)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; {how}")
    return folder


def first_file(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """The first of the names in the first of the folders that has one."""
    paths = (folder / name for folder in folders for name in names)
    return next((path for path in paths if path.is_file()), None)


def first_folder(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    paths = (folder / name for folder in folders for name in names)
    return next((path for path in paths if path.is_dir()), None)


def given(path: str | None, root: Path, what: str, *, folder: bool = False) -> Path | None:
    """A file or folder that an option names, as it is or below the root; None for none.

    Raises FileNotFoundError.
    """
    if path is None:
        return None
    for place in (root / path, Path(path)):
        if place.is_dir() if folder else place.is_file():
            return place
    raise FileNotFoundError(
        f"{what} {path}: no such {'folder' if folder else 'file'}, here or in {root}"
    )
