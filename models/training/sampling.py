# SPDX-License-Identifier: Apache-2.0
"""Which pairs a step sees: a function of the seed and the step alone.

So a run that goes on needs no state of a sampler, skips nothing by loading it, and gives every
number of processes the same batches.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data import PairData

Key = tuple[int, int]  # epoch, index


def seed_of(*parts: int) -> int:
    """32 bits that differ for every tuple of numbers: sums of seeds would meet."""
    text = " ".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "little")


class Order:
    """The batches of a run. An epoch is a permutation of the data without its incomplete batch;
    data that do not fill one batch are repeated in it."""

    def __init__(self, length: int, batch: int, seed: int) -> None:
        self.length, self.batch, self.seed = length, batch, seed
        self._epoch, self._indexes = -1, torch.empty(0, dtype=torch.int64)

    @property
    def per_epoch(self) -> int:
        return max(1, self.length // self.batch)

    def at(self, step: int) -> list[Key]:
        """The pairs of one step, of all processes."""
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(seed_of(self.seed, epoch))
            self._epoch, self._indexes = epoch, torch.randperm(self.length, generator=generator)
        places = torch.arange(position * self.batch, (position + 1) * self.batch) % self.length
        return [(epoch, index) for index in self._indexes[places].tolist()]


class Share:
    """A batch sampler: the parts of the batches of steps [start, stop) that one process loads."""

    def __init__(
        self, order: Order, start: int, stop: int, process: int, processes: int, parts: int
    ) -> None:
        if order.batch % (processes * parts):
            raise ValueError(
                f"--batch must be a multiple of {processes} processes x --accumulate {parts}, "
                f"got {order.batch}"
            )
        self.order, self.start, self.stop = order, start, stop
        self.size = order.batch // (processes * parts)
        self.first, self.parts = process * parts * self.size, parts

    def __len__(self) -> int:
        return (self.stop - self.start) * self.parts

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self.start, self.stop):
            keys = self.order.at(step)
            for part in range(self.parts):
                begin = self.first + part * self.size
                yield keys[begin : begin + self.size]


class _Keyed(Dataset[dict[str, Tensor]]):
    """The epoch travels with the index: workers hold copies of the data set, which a call of
    `set_epoch` in the training process would not reach."""

    def __init__(self, pairs: PairData) -> None:
        self.pairs = pairs
        self.epoch = -1

    def __getitem__(self, key: Key) -> dict[str, Tensor]:
        epoch, index = key
        if epoch != self.epoch:
            self.pairs.set_epoch(epoch)
            self.epoch = epoch
        return self.pairs[index]


def _begin_worker(worker: int) -> None:
    # Ctrl-C reaches every process of the terminal: the trainer still needs its batches then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def loader(pairs: PairData, share: Share, workers: int, pin: bool) -> DataLoader[Any]:
    """The batches of a share, in order."""
    return DataLoader(
        _Keyed(pairs),
        batch_sampler=share,
        num_workers=workers,
        worker_init_fn=_begin_worker,
        pin_memory=pin,
        # Its own: by default it would draw from the generator that the training draws from.
        generator=torch.Generator().manual_seed(0),
    )


def spread(pairs: PairData, count: int) -> list[int]:
    """`count` indexes at equal distances over a data set, always the same."""
    count = min(count, len(pairs))
    return [i * len(pairs) // count for i in range(count)]


def chosen(pairs: PairData, indexes: list[int], batch: int, workers: int) -> DataLoader[Any]:
    """Some pairs in that order, of epoch 0, in batches of which the last may be smaller."""
    keys = [(0, index) for index in indexes]
    batches = [keys[start : start + batch] for start in range(0, len(keys), batch)]
    return DataLoader(
        _Keyed(pairs),
        batch_sampler=batches,
        num_workers=workers,
        worker_init_fn=_begin_worker,
    )
