# SPDX-License-Identifier: Apache-2.0
"""Pairs of pictures read from files: the data set of every tree.

Pictures, maps, masks and joints go through one placement each (`placement.py`), so they stay on top
of each other; maps and masks are never interpolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pose_kernels import io

from . import lists
from .placement import Placement, letterbox
from .tree import Missing, Tree, find_all

_MASK_LEVEL = 0.5  # a mask's pixel counts as the person from half brightness on


class PairFiles(Dataset[dict[str, Tensor]]):
    """The pairs of a tree; keys as in `models.batch`.

    source_image, target_image always; *_part, *_uv with IUV maps; *_mask from mask files, else from
    the maps (DensePose's body, without wide clothes and hair); *_joints18 with an annotation;
    view_* with views > 0, which need maps; identity.

    Raises FileNotFoundError for files that lack (see `find_all`), ValueError when no pair is left
    or views are asked for without maps; at an item, ValueError and OSError name the bad file.
    """

    def __init__(
        self,
        tree: Tree,
        size: tuple[int, int],
        *,
        views: int = 0,
        seed: int = 0,
        missing: Missing = "error",
    ) -> None:
        self.name, self.split, self.size = tree.name, tree.split, size
        self.tree, self.seed, self.views, self.epoch = tree, seed, views, 0
        if views and tree.iuv_folder is None:
            raise ValueError(f"{tree.name}: views={views} needs IUV maps; {tree.get['iuv']}")
        found = find_all(tree, missing)
        self._names = list(found)
        self._files = list(found.values())
        number = {name: i for i, name in enumerate(self._names)}
        pairs = [(number[a], number[b]) for a, b in tree.pairs if a in number and b in number]
        if not pairs:
            raise ValueError(f"{tree.name} {tree.split}: no pair is left of {len(tree.pairs)}")
        self._pairs = np.array(pairs, np.int32)  # one block: workers share it after a fork
        self._people: dict[str, list[int]] = {}
        for i, name in enumerate(self._names):
            self._people.setdefault(tree.person(name), []).append(i)
        keys = {"image"}
        if tree.iuv_folder is not None:
            keys |= {"part", "uv", "mask"}
        if tree.mask_folder is not None:
            keys.add("mask")
        if tree.joints is not None:
            keys.add("joints18")
        every = {f"{side}_{key}" for side in ("source", "target") for key in keys} | {"identity"}
        if views:
            every |= {"view_image", "view_part", "view_uv"}
        self.keys = frozenset(every)

    def __len__(self) -> int:
        return len(self._pairs)

    def set_epoch(self, epoch: int) -> None:
        """Which views an item has depends on it."""
        self.epoch = epoch

    def names(self, index: int) -> tuple[str, str]:
        """The names of source and target."""
        source, target = self._pairs[index]
        return self._names[source], self._names[target]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name} {self.split} has {len(self)} pairs, asked for {index}")
        index %= len(self)
        source, target = (int(i) for i in self._pairs[index])
        item: dict[str, Tensor] = {}
        loaded = {}
        for side, i in (("source", source), ("target", target)):
            loaded[i] = self._load(i)
            item.update({f"{side}_{key}": value for key, value in loaded[i].items()})
        person = self.tree.person(self._names[source])
        item["identity"] = torch.tensor(lists.key_number(person))
        if self.views:
            chosen = self._choose(index, source, target, person)
            views = [loaded.get(i) or self._load(i) for i in chosen]
            item.update(self._stack(views))
        return item

    def _choose(self, index: int, source: int, target: int, person: str) -> list[int]:
        """The source, others of the same clothes in an order of this item and epoch, the target."""
        others = [i for i in self._people[person] if i not in (source, target)]
        key = (self.seed, lists.key_number(self.split), self.epoch, index)
        order = np.random.default_rng(key).permutation(len(others))
        return [source, *(others[k] for k in order), target][: self.views]

    def _stack(self, views: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """view_*: (K, ...), zeros (all background) where there are fewer."""
        stacked = {}
        for key in ("image", "part", "uv"):
            first = views[0][key]
            out = first.new_zeros((self.views, *first.shape))
            for k, view in enumerate(views):
                out[k] = view[key]
            stacked[f"view_{key}"] = out
        return stacked

    def _load(self, i: int) -> dict[str, Tensor]:
        name, files = self._names[i], self._files[i]
        image = io.read_image(files.image)
        shape = (image.shape[1], image.shape[2])
        placement = self._place(files.image, shape)
        loaded = {"image": placement.image(image) * 2 - 1}
        if files.iuv is not None:
            loaded.update(self._load_iuv(files.iuv, files.image, shape))
        if files.mask is not None:
            loaded["mask"] = self._load_mask(files.mask, files.image, shape)
        elif "part" in loaded:
            loaded["mask"] = (loaded["part"] > 0).float()[None]
        if self.tree.joints is not None:
            loaded["joints18"] = self._joints(name, shape)
        return loaded

    def _place(self, path: Path, shape: tuple[int, int]) -> Placement:
        try:
            return self.tree.place(shape, self.size)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def _load_iuv(self, path: Path, image: Path, shape: tuple[int, int]) -> dict[str, Tensor]:
        part, uv = io.read_iuv(path, self.tree.iuv_order)
        placement = self._beside(path, (part.shape[0], part.shape[1]), image, shape)
        part = placement.nearest(part[None])[0]
        uv = placement.nearest(uv)
        body = (part > 0) & uv.isfinite().all(0)
        return {"part": part * body, "uv": torch.where(body, uv, 0.0)}

    def _load_mask(self, path: Path, image: Path, shape: tuple[int, int]) -> Tensor:
        mask = io.read_image(path).amax(0, keepdim=True)
        placement = self._beside(path, (mask.shape[1], mask.shape[2]), image, shape)
        return (placement.nearest(mask) >= _MASK_LEVEL).float()

    def _beside(
        self, path: Path, own: tuple[int, int], image: Path, shape: tuple[int, int]
    ) -> Placement:
        if not self.tree.agree(shape, own):
            raise ValueError(
                f"{path} is {own[1]} x {own[0]} (width x height), but its picture {image.name} is "
                f"{shape[1]} x {shape[0]}: make the map from that picture"
            )
        return self._place(path, own)

    def _joints(self, name: str, shape: tuple[int, int]) -> Tensor:
        assert self.tree.joints is not None
        points = self.tree.place_joints(shape, self.size).points(self.tree.joints[name])
        frame = self.tree.frame(shape)
        low, high = letterbox(frame, self.size).window(frame)
        inside = (points > low) & (points < high)  # False for NaN
        return torch.from_numpy(np.where(inside.all(1, keepdims=True), points, np.float32(-1)))
