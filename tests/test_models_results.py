# SPDX-License-Identifier: Apache-2.0
"""The numbers of trained systems in the README are those of committed results."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "systems"
COLUMNS = (("SSIM", "dsc", 3), ("l1", "", 4), ("PSNR", "", 1), ("SSIM on the person", "diaf", 3))
ROWS = {
    "`dense_pose_transfer`": ("full", "dense_pose_transfer"),
    "without inpainting (`--modules pred_warp_blend`)": ("pred_warp_blend", "dense_pose_transfer"),
    "predictive module alone (`--modules pred`)": ("pred", "dense_pose_transfer"),
    "copy of the source": ("full", "copy of the source"),
    "mean picture": ("full", "mean of 500 training pictures"),
}


@pytest.mark.parametrize("title", ROWS)
def test_readme(title):
    modules, method = ROWS[title]
    file = RESULTS / f"dense_pose_transfer-tiny-{modules}.json"
    values = {
        (row["metric"], row["preset"]): row["value"]
        for row in json.loads(file.read_text())
        if row["method"] == method
    }
    lines = (ROOT / "README.md").read_text().splitlines()
    cells = next(line for line in lines if line.startswith(f"| {title} |")).split("|")[2:-1]
    expected = [f"{values[metric, preset]:.{digits}f}" for metric, preset, digits in COLUMNS]
    assert [cell.strip() for cell in cells] == expected
