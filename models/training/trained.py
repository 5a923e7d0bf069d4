# SPDX-License-Identifier: Apache-2.0
"""A trained system read back from its run, ready to make pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import systems
from ..config import Settings
from ..system import System
from . import checkpoint
from .folder import build, features_of
from .settings import TrainSettings, settings_class
from .weights import load_weights


@dataclass(frozen=True)
class Trained:
    """A system in evaluation mode, and where it comes from."""

    name: str
    preset: str
    system: System
    config: Settings
    settings: TrainSettings
    step: int
    averaged: bool
    path: Path  # of the checkpoint

    def about(self) -> dict[str, str]:
        """What every result printed of it says."""
        return {
            "system": self.name,
            "run_preset": self.preset,
            "run_step": f"{self.step}",
            "run_weights": "averaged" if self.averaged else "last",
            **{f"run_{name}": words for name, words in features_of(self.system).items()},
        }

    def line(self) -> str:
        return ", ".join(
            f"{name}: {text}".replace("run_", "") for name, text in self.about().items()
        )

    @property
    def device(self) -> torch.device:
        return next(self.system.parameters()).device


def load_trained(path: str | Path, *, average: bool = True, device: str = "cpu") -> Trained:
    """The newest whole checkpoint of a run, or the checkpoint itself.

    average: take the averaged weights where it has them.

    Raises FileNotFoundError, or ValueError with one line, when there is none that can be read.
    """
    found = checkpoint.of_run(path)
    state = found.state
    kind = systems.load(state["system"])
    # The presets of this version may differ from those of the run, so all fields are given.
    config = kind.Config.from_json(state["config"])
    settings = settings_class(kind).from_json(state["settings"])
    system = build(kind, config, settings.seed)
    averaged = average and checkpoint.EMA in found.files
    load_weights(system, found, average=averaged)
    system.to(device).eval().requires_grad_(False)
    name, preset = state["system"], state["preset"]
    return Trained(name, preset, system, config, settings, state["step"], averaged, found.path)


def device_of(name: str) -> str:
    """auto, cpu or cuda as a device. Raises ValueError for a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no GPU here; use --device cpu or auto")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def data_line(settings: TrainSettings, split: str, pairs: int) -> str:
    """Data set, its options, split, size and number of pairs, for results."""
    options = "".join(f" {key}={json.dumps(value)}" for key, value in settings.options.items())
    H, W = settings.size
    return f"{settings.data}{options}, {split} split, {H} x {W}, {pairs} pairs"
