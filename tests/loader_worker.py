# SPDX-License-Identifier: Apache-2.0
"""Run by test_workers.py: data loaders whose workers call every op. ``loader_worker.py fork spawn``

A worker imports this file, so that the dataset is found there under the same name.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)] if __name__ == "__main__" else []


class EveryOp(Dataset):
    """Item i: outputs and gradients of the i-th op."""

    def __init__(self) -> None:
        from every_op import CONTRACTS

        self.names = list(CONTRACTS)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> tuple[int, int, list[Tensor]]:
        from every_op import CONTRACTS, Pass

        name = self.names[i]
        worker = torch.utils.data.get_worker_info()
        run = Pass(name, CONTRACTS[name].collide, torch.float32)
        return -1 if worker is None else worker.id, i, run()


def main(contexts: list[str]) -> None:
    torch.set_num_threads(2)
    data = EveryOp()
    expected = [data[i][2] for i in range(len(data))]  # the pool of this process has been used
    for context in contexts:
        loader = DataLoader(
            data,
            batch_size=None,
            num_workers=2,
            multiprocessing_context=context,
            timeout=100,
        )
        workers = set()
        for worker, i, found in loader:
            workers.add(worker)
            assert len(found) == len(expected[i])
            for a, b in zip(found, expected[i], strict=True):
                assert torch.equal(a.nan_to_num(), b.nan_to_num()), (context, data.names[i])
        assert workers == {0, 1}
        again = data[0][2]  # and can be used after
        assert all(torch.equal(a, b) for a, b in zip(again, expected[0], strict=True))
        print(context, len(data), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
