# SPDX-License-Identifier: Apache-2.0
"""Two processes train as one does on the whole batch."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import torch
import training_worker  # noqa: F401  (registers the system)
from safetensors.torch import load_file

from models.train import main

FLAGS = (
    "tiny_gan --preset tiny --steps 6 --drop 0 --batch 4 --clip 0.2 --seed 3 --sheet-every 0 "
    "--device cpu"
).split()


def terms(out: Path) -> dict[tuple[str, ...], float]:
    with (out / "losses.csv").open() as file:
        rows = list(csv.reader(file))[1:]
    found = {tuple(row[:4]): float(row[4]) for row in rows}
    assert len(found) == len(rows)
    return found


def test_two_processes_give_the_weights_of_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    command = "-m torch.distributed.run --standalone --nproc-per-node 2".split()
    worker = str(Path(__file__).with_name("training_worker.py"))
    both = subprocess.run(
        # Each process also cuts its share in two: four parts in all.
        [sys.executable, *command, worker, *FLAGS, "--accumulate", "2", "--out", str(two)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("in each of 2 processes") == 1  # said by one of them
    assert main([*FLAGS, "--out", str(one)]) == 0
    ours, theirs = terms(one), terms(two)
    # All losses and the norms of all gradients, of both players in both stages, at every step.
    assert ours.keys() == theirs.keys() and len(ours) == 2 * 3 + 4 * 6
    for key, value in ours.items():
        assert abs(value - theirs[key]) < 1e-5 * max(1, abs(value)), key
    for name in ("model.safetensors", "ema.safetensors", "optimizer-generator.safetensors"):
        expected = load_file(one / "checkpoints" / "step-00000006" / name)
        found = load_file(two / "checkpoints" / "step-00000006" / name)
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(
                found[key], tensor, rtol=1e-4, atol=1e-5, msg=f"{name} {key}"
            )
