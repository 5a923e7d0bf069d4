# SPDX-License-Identifier: Apache-2.0
"""Losses as CSV and as TensorBoard events."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from pose_kernels.files import write_files

HEADER = "step,stage,player,term,value\n"

Terms = dict[str, dict[str, float]]  # player -> term -> value


def forget_after(path: Path, step: int) -> None:
    """Remove rows later than a step, and a row that a crash cut short."""
    if path.exists():
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines[1:] if line.endswith("\n") and _step(line) <= step]
        write_files({path: "".join([HEADER, *kept]).encode()})


def _step(line: str) -> float:
    first = line.split(",", 1)[0]
    return int(first) if first.isdecimal() else float("inf")


class Log:
    """Appends. Rows of one step are one write, so that a killed process leaves whole rows.

    step: the last one that is kept of what the files hold, 0 for a new run.
    """

    def __init__(self, losses: Path, events: Path, step: int) -> None:
        if step == 0 or not losses.exists():
            write_files({losses: HEADER.encode()})
        else:
            forget_after(losses, step)
        self._handle = os.open(losses, os.O_WRONLY | os.O_APPEND)
        self._events = SummaryWriter(str(events), purge_step=step + 1)

    def losses(self, step: int, stage: str, terms: Terms) -> None:
        rows = []
        for player, values in terms.items():
            for term, value in values.items():
                rows.append(f"{step},{stage},{player},{term},{value:.8g}\n")
                self._events.add_scalar(f"{stage}/{player}/{term}", value, step)
        data = "".join(rows).encode()
        if os.write(self._handle, data) < len(data):
            raise OSError("cannot write losses.csv: No space left on device")

    def sheet(self, step: int, picture: NDArray[np.uint8]) -> None:
        self._events.add_image("sheet", picture, step, dataformats="HWC")

    def close(self) -> None:
        self._events.close()
        os.close(self._handle)
