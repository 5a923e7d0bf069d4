# SPDX-License-Identifier: Apache-2.0
"""The table of which backend executed which op must tell the truth."""

from __future__ import annotations

from collections import Counter

import executions
import pytest
import torch
from torch._subclasses import FakeTensorMode

import pose_kernels as pk
from pose_kernels.autograd import OPERATORS

LABELS = {"cuda": "cuda", "triton": "triton on a GPU", "reference": "reference on a GPU"}


def crop(device: str) -> torch.Tensor:
    image = torch.ones(1, 3, 4, 4, device=device, requires_grad=True)
    return pk.region_crop(image, torch.ones(1, 1, 2, device=device), 2)[0]


def test_what_ran_is_recorded(place):
    label = place.backend if place.device == "cpu" else LABELS[place.backend]
    crops = crop(place.device)
    assert executions.current == {("region_crop", label): 1}
    crops.sum().backward()
    assert executions.current == {(f"region_crop{end}", label): 1 for end in ("", "_backward")}


def test_what_did_not_run_is_not():
    with FakeTensorMode():
        crop("cpu")
    with pytest.raises(ValueError):
        pk.region_crop(torch.ones(1, 3, 4, 4), torch.ones(1, 1, 2), -1)
    assert not executions.current


def test_a_cell_is_of_a_test_that_passed_and_empty_ones_are_found(monkeypatch):
    executions.record("heatmap", "reference")
    executions.current["uv_gather", "triton on a GPU"] = 3
    cells = executions.cells([("other", "1 x y"), *executions.properties()])
    assert cells == {("heatmap", "reference"): 1, ("uv_gather", "triton on a GPU"): 3}
    executions.current.clear()
    full = Counter({(op, backend): 1 for op in OPERATORS for backend in executions.COLUMNS})
    monkeypatch.setattr(executions, "passed", full)
    assert executions.empty_cells() == []
    del full["heatmap", "reference"]
    del full["push_pull", "triton-compiled"]  # there is no such kernel
    assert executions.empty_cells() == [("heatmap", "reference")]
