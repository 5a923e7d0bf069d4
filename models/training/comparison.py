# SPDX-License-Identifier: Apache-2.0
"""A system and two baselines through the same metrics, side by side."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pose_kernels.files import write_files

from ..batch import Batch, to, to_bytes
from ..metrics import (
    Learned,
    Report,
    Unavailable,
    l1,
    learned,
    local_ssim,
    mask_ssim,
    masked_ssim,
    ms_ssim,
    psnr,
    ssim,
)
from .trained import Trained

COPY = "copy of the source"
_LEAST_MS_SSIM = 161


class Comparison:
    """Reports of several methods on the same pairs."""

    def __init__(self, header: str, reports: dict[str, Report]) -> None:
        self.header, self.reports = header, reports

    def rows(self) -> list[dict[str, Any]]:
        """Rows of all reports, with the column `method`."""
        return [
            {"method": method, **row}
            for method, report in self.reports.items()
            for row in report.rows()
        ]

    def table(self) -> str:
        """A row per metric, a column per method."""
        cells: dict[str, dict[str, str]] = {}
        for row in self.rows():
            name = f"{row['metric']} ({row['preset']})" if row["preset"] else str(row["metric"])
            text = row["note"] if row["value"] is None else f"{row['value']:.4f}"
            cells.setdefault(name, {})[row["method"]] = text
        first = max(len(name) for name in ("metric", *cells))
        lines = [self.header, "  ".join(("metric".ljust(first), *self.reports))]
        for name, values in cells.items():
            texts = [values.get(method, "-") for method in self.reports]
            if len(set(texts)) == 1 and texts[0].startswith("not measured"):
                lines.append(f"{name.ljust(first)}  {texts[0]}")
                continue
            aligned = (text.rjust(len(method)) for text, method in zip(texts, self.reports))
            lines.append("  ".join((name.ljust(first), *aligned)))
        return "\n".join(lines)

    def write(self, path: Path) -> tuple[Path, Path]:
        """Write path.json and path.csv, both or none. Raises OSError with one line."""
        rows = self.rows()
        page = io.StringIO(newline="")
        writer = csv.DictWriter(page, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        plain = [
            {k: str(v) if isinstance(v, float) and math.isinf(v) else v for k, v in row.items()}
            for row in rows
        ]
        targets = path.with_name(f"{path.name}.json"), path.with_name(f"{path.name}.csv")
        text = json.dumps(plain, indent=1, allow_nan=False) + "\n"
        write_files({targets[0]: text.encode(), targets[1]: page.getvalue().encode()})
        return targets


def mean_picture(batches: Iterable[Batch]) -> Tensor:
    """The mean target (3, H, W) in [-1, 1]: what l2 would have one say without looking."""
    total, count = torch.zeros(()), 0
    for batch in batches:
        total = total + batch["target_image"].double().sum(0)
        count += len(batch["target_image"])
    return (total / count).float()


@torch.no_grad()
def measure(
    trained: Trained,
    batches: Sequence[Batch] | Any,
    mean: Tensor,
    *,
    data: str,
    mean_of: int,
    networks: Sequence[str] = (),
) -> Comparison:
    """Every metric that the pairs allow, of the system and of the two baselines.

    batches: with their length. mean: (3, H, W), the mean of `mean_of` training pictures.
    """
    device = trained.device
    about = trained.about()
    methods = (trained.name, COPY, f"mean of {mean_of} training pictures")
    reports = {method: Report(data, **about) for method in methods}
    measuring = {method: _networks(networks, report, device) for method, report in reports.items()}
    for batch in tqdm(batches, unit="batch", file=sys.stderr, disable=None):
        batch = to(batch, device)
        truth = to_bytes(batch["target_image"])
        pictures = (
            to_bytes(trained.system.generate(batch)["out"]),
            to_bytes(batch["source_image"]),
            to_bytes(mean.to(device)).expand_as(truth),
        )
        for (method, report), picture in zip(reports.items(), pictures):
            _add(report, picture, truth, batch)
            for network in measuring[method]:
                values = network.update(picture, truth)
                if values is not None:
                    report.add(network.name, values, preset=network.preset, weights=network.weights)
    for method, report in reports.items():
        for network in measuring[method]:
            if network.of_set:
                report.add_of_set(
                    network.name,
                    network.compute(),
                    network.pictures,
                    preset=network.preset,
                    weights=network.weights,
                )
    return Comparison(f"{trained.line()}\n{data}", reports)


def _add(report: Report, picture: Tensor, truth: Tensor, batch: Batch) -> None:
    report.add("SSIM", ssim(picture, truth, "dsc"), preset="dsc")
    report.add("SSIM", ssim(picture, truth, "diaf"), preset="diaf")
    if min(truth.shape[-2:]) >= _LEAST_MS_SSIM:
        report.add("MS-SSIM", ms_ssim(picture, truth))
    else:
        report.unavailable("MS-SSIM", f"it needs sides of at least {_LEAST_MS_SSIM} pixels")
    report.add("l1", l1(picture, truth))
    report.add("PSNR", psnr(picture, truth))
    if "target_mask" in batch:
        values = masked_ssim(picture, truth, batch["target_mask"], "diaf")
        report.add("SSIM on the person", values, preset="diaf")
    if "target_joints18" in batch:
        joints = batch["target_joints18"]
        report.add("mask-SSIM", mask_ssim(picture, truth, joints), preset="dsc")
        if truth.shape[-2] >= 56:
            report.add("local-SSIM", local_ssim(picture, truth, joints), preset="diaf")


def _networks(names: Sequence[Any], report: Report, device: torch.device) -> list[Learned]:
    found = []
    for name in names:
        try:
            found.append(learned(name, device))
        except Unavailable as error:
            report.unavailable(name, str(error))
    return found
