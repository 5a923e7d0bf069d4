# SPDX-License-Identifier: Apache-2.0
"""Data sets of pairs of pictures of one person: `open_data` opens any of them by name.

    data = open_data("deepfashion", split="train", size=(256, 256), root="DeepFashion")
    data[0]["source_image"]  # (3, 256, 256) float32 in [-1, 1]; the keys are those of models.batch

How the files must lie: docs/data.md. `python -m models.data --check-data NAME --data-root DIR`
goes through a tree and counts.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import os
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from torch import Tensor

SPLITS = ("train", "validation", "test")


class PairData(Protocol):
    """A map-style data set; an item is the dictionary of one pair (`models.batch` without N).

    name, split: what it is, for results. size: (H, W) of every picture. keys: those of every item.
    """

    name: str
    split: str
    size: tuple[int, int]
    keys: frozenset[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Tensor]: ...

    def set_epoch(self, epoch: int) -> None:
        """Whatever is random in an item is a function of (seed, split, epoch, index) alone."""


def _synthetic(
    *,
    split: str,
    size: tuple[int, int],
    root: str | None,
    views: int,
    seed: int,
    length: int | None = None,
    flow: bool = True,
    background: str = "studio",
) -> PairData:
    if root is not None:
        raise ValueError(f"synthetic people are drawn, not read: leave out --data-root {root}")
    people = _load("models.data.synthetic:SyntheticPairs")
    data: PairData = people(
        split, size, seed=seed, length=length, views=views, flow=flow, background=background
    )
    return data


Opener = Callable[..., PairData]

# What opens a data set, and what describes its files to the check; "module:function" is imported
# when it is first asked for.
_OPENERS: dict[str, str | Opener] = {
    "synthetic": _synthetic,
    "deepfashion": "models.data.deepfashion:open_pairs",
    "mvc": "models.data.mvc:open_pairs",
    "folder": "models.data.folder:open_pairs",
}
_TREES: dict[str, str | Callable[..., Any]] = {
    "deepfashion": "models.data.deepfashion:tree",
    "mvc": "models.data.mvc:tree",
    "folder": "models.data.folder:tree",
}
_GIVEN = {"split", "size", "root", "views", "seed"}  # the arguments of every opener


def names() -> tuple[str, ...]:
    """Names that `open_data` knows, besides any MODULE:FUNCTION."""
    return tuple(sorted(_OPENERS))


def register(name: str, opener: str | Opener, tree: str | Callable[..., Any] | None = None) -> None:
    """Make a data set of your own known by a short name.

    opener: called with the keywords split, size, root, views, seed and the options; returns a
    `PairData`. tree: the same for the check of files, called with (root, split, **options), returns
    a `models.data.tree.Tree`. Both may be "module:function". Without registering, `open_data` takes
    "module:function" as the name.

    Raises ValueError when the name is taken or holds a colon.
    """
    if name in _OPENERS or ":" in name:
        raise ValueError(f"name must be new and without a colon, got {name!r}")
    _OPENERS[name] = opener
    if tree is not None:
        _TREES[name] = tree


def open_data(
    name: str,
    *,
    split: str,
    size: int | tuple[int, int],
    root: str | os.PathLike[str] | None = None,
    views: int = 0,
    seed: int = 0,
    **options: Any,
) -> PairData:
    """Open a data set of pairs.

    name: "synthetic", "deepfashion", "mvc", "folder", a registered name, or "MODULE:FUNCTION".
    split: "train", "validation" or "test"; no person in certain clothes is in two of them.
    size: (H, W) of the pictures, in pixels; one number is a square.
    root: folder of the files. views: K of `view_image`, further pictures of the same clothes with
    the source first; 0 for none. options: those of the data set, see `options_of` and docs/data.md.

    Raises ValueError for an unknown name, split or option, FileNotFoundError with the missing file
    and where it comes from.
    """
    opener = _find(name, _OPENERS)
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"size must be one or two positive integers (H, W), got {size!r}")
    if not isinstance(views, int) or views < 0:
        raise ValueError(f"views must be an integer of at least 0, got {views!r}")
    known = options_of(name)
    if known is not None and (unknown := sorted(set(options) - set(known))):
        raise ValueError(
            f"{name} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}"
        )
    place = None if root is None else os.fspath(root)
    data: PairData = opener(split=split, size=sides, root=place, views=views, seed=seed, **options)
    return data


def options_of(name: str) -> dict[str, Any] | None:
    """Option -> default of a data set, or None when it takes any."""
    parameters = inspect.signature(_find(name, _OPENERS)).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name: p.default for p in parameters if p.name not in _GIVEN}


def read_options(texts: Iterable[str]) -> dict[str, Any]:
    """The options that a command line gives as KEY=VALUE: JSON where it reads as such, else text.

    >>> read_options(["variant=crop176", "validation=0.02", "flow=false"])
    {'variant': 'crop176', 'validation': 0.02, 'flow': False}
    """
    options: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"a data option must be KEY=VALUE, got {text!r}")
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            options[key] = value
    return options


def tree_of(name: str) -> Callable[..., Any] | None:
    """What describes the files of a data set to the check, or None where there are none."""
    if name in _TREES:
        return _find(name, _TREES)
    _find(name, _OPENERS)
    return None


def _find(name: str, table: dict[str, Any]) -> Callable[..., Any]:
    entry = table.get(name, name)
    if callable(entry):
        return entry
    if ":" not in entry:
        near = difflib.get_close_matches(name, names(), 1)
        hint = f"; is it {near[0]}?" if near else ""
        raise ValueError(
            f"data must be one of {', '.join(names())}, or MODULE:FUNCTION of your own, got "
            f"{name!r}{hint}"
        )
    return _load(entry)


def _load(entry: str) -> Callable[..., Any]:
    """What "module:function" names."""
    module, _, attribute = entry.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"data {entry!r} cannot be imported: {error}") from None
    if not callable(found):
        raise ValueError(f"data {entry!r} must name a function, got {type(found).__name__}")
    loaded: Callable[..., Any] = found
    return loaded
