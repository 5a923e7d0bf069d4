# SPDX-License-Identifier: Apache-2.0
"""What was measured, by which protocol, on which data, with whose weights: as table and file.

report = Report("synthetic test, 64x64, seed 0", system="dense_pose_transfer", step="2000")
for batch in ...:
    report.add("SSIM", ssim(out, truth, "dsc"), preset="dsc")
report.unavailable("LPIPS", "torchvision is not installed")
print(report.table())
report.write("evaluation")     # evaluation.json and evaluation.csv
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pose_kernels.files import write_files

PathLike = str | os.PathLike[str]

_COLUMNS = ("metric", "preset", "value", "pictures", "left_out", "weights", "note")


@dataclass
class _Entry:
    """values: of pictures, or the one of the whole set; shares: how much each counts."""

    weights: str = ""
    note: str = ""
    values: list[Tensor] = field(default_factory=list)
    shares: list[Tensor] = field(default_factory=list)
    of_set: tuple[float, int] | None = None  # value, pictures


class Report:
    """Results of one evaluation, in the order in which the metrics came.

    data: what was evaluated: data set, split, size, number of pairs. about: further columns of
    every row, such as system, checkpoint, the features that it was trained on.
    """

    def __init__(self, data: str, **about: str) -> None:
        self.data = data
        self.about = dict(about)
        self._entries: dict[tuple[str, str], _Entry] = {}

    def add(
        self,
        metric: str,
        values: Tensor,
        *,
        preset: str = "",
        share: Tensor | None = None,
        weights: str = "",
    ) -> None:
        """Add the values (N,) of a batch of pictures.

        share: (N,), how much each counts in the mean, default 1. weights: of the network that
        measures, if one does. NaN stands for a picture of which the metric says nothing: it is
        left out of the mean, and counted.

        Raises ValueError for other shapes.
        """
        if values.dim() != 1 or (share is not None and share.shape != values.shape):
            shapes = [tuple(one.shape) for one in (values, share) if one is not None]
            raise ValueError(f"values (and share) of {metric} must be (N,), got {shapes}")
        entry = self._entry(metric, preset)
        entry.weights = weights
        entry.values.append(values.detach().double().cpu())
        share = torch.ones_like(values) if share is None else share
        entry.shares.append(share.detach().double().cpu())

    def add_of_set(
        self, metric: str, value: float, pictures: int, *, preset: str = "", weights: str = ""
    ) -> None:
        """Add a value that only the whole set has, such as FID."""
        entry = self._entry(metric, preset)
        entry.weights, entry.of_set = weights, (float(value), pictures)

    def unavailable(self, metric: str, reason: str, *, preset: str = "") -> None:
        """Say that a metric could not be measured, and why."""
        self._entry(metric, preset).note = f"not measured: {reason}"

    def values(self, metric: str, preset: str = "") -> Tensor:
        """The values (pictures,) of a metric in the order in which they came.

        Raises ValueError when there are none.
        """
        entry = self._entries.get((metric, preset), _Entry())
        if not entry.values:
            raise ValueError(f"there are no values of {metric} {preset}".rstrip())
        return torch.cat(entry.values)

    def mean(self, metric: str, preset: str = "") -> float:
        """The value of a row: the mean over the pictures, or that of the set; NaN for none."""
        return self._result(self._entries.get((metric, preset), _Entry()))[0]

    def rows(self) -> list[dict[str, Any]]:
        """A dictionary per metric, with data and `about`; value is None where there is none."""
        rows = []
        for (metric, preset), entry in self._entries.items():
            value, pictures, left_out = self._result(entry)
            note = entry.note or ("" if pictures else "not measured: no picture has a value")
            numbers = {
                "value": None if math.isnan(value) else value,
                "pictures": pictures,
                "left_out": left_out,
            }
            words = {"weights": entry.weights, "note": note}
            row = {"metric": metric, "preset": preset, **numbers, **words}
            rows.append({**row, "data": self.data, **self.about})
        return rows

    def table(self) -> str:
        """The rows as text, with what they have in common above."""
        lines = [f"{name}: {text}" for name, text in {"data": self.data, **self.about}.items()]
        cells = [list(_COLUMNS)]
        for row in self.rows():
            shown = {**row, "value": "-" if row["value"] is None else f"{row['value']:.4f}"}
            shown["left_out"] = row["left_out"] or ""
            cells.append([str(shown[column]) for column in _COLUMNS])
        cells[0][4] = "left out"
        kept = [i for i in range(len(_COLUMNS)) if i < 4 or any(line[i] for line in cells[1:])]
        widths = [max(len(line[i]) for line in cells) for i in range(len(_COLUMNS))]
        for line in cells:
            aligned = (
                line[i].rjust(widths[i]) if 2 <= i <= 4 else line[i].ljust(widths[i]) for i in kept
            )
            lines.append("  ".join(aligned).rstrip())
        return "\n".join(lines)

    def write(self, path: PathLike) -> tuple[Path, Path]:
        """Write `path`.json and `path`.csv, both or none; returns where.

        In JSON an infinite value is the text "inf".

        Raises OSError with one clear line.
        """
        rows = self.rows()
        as_json = [
            {k: str(v) if isinstance(v, float) and math.isinf(v) else v for k, v in row.items()}
            for row in rows
        ]
        page = io.StringIO(newline="")
        names = [*_COLUMNS, "data", *self.about]
        writer = csv.DictWriter(page, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        targets = Path(f"{os.fspath(path)}.json"), Path(f"{os.fspath(path)}.csv")
        content = json.dumps(as_json, indent=1, allow_nan=False) + "\n"
        write_files({targets[0]: content.encode(), targets[1]: page.getvalue().encode()})
        return targets

    def _entry(self, metric: str, preset: str) -> _Entry:
        return self._entries.setdefault((metric, preset), _Entry())

    @staticmethod
    def _result(entry: _Entry) -> tuple[float, int, int]:
        """Value, pictures that it is of, pictures left out."""
        if entry.of_set is not None:
            return *entry.of_set, 0
        if not entry.values:
            return math.nan, 0, 0
        values, shares = torch.cat(entry.values), torch.cat(entry.shares)
        there = ~values.isnan() & (shares > 0)
        count = int(there.sum())
        if not count:
            return math.nan, 0, len(values)
        values, shares = values[there], shares[there]
        return float((values * shares).sum() / shares.sum()), count, len(there) - count
