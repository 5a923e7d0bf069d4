# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: what lies where, and whose it is.

run.json            system, preset, configuration, settings, versions
checkpoints/        step-XXXXXXXX/, latest
losses.csv          step, stage, player, term, value
sheets/             step-XXXXXXXX.png
tensorboard/        event files
non-finite-*.json   what the step had that stopped the run
evaluation-SPLIT.*  what models.evaluate has found; sample-SPLIT.png of models.sample
"""

from __future__ import annotations

import json
import platform
import shutil
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pose_kernels.files import open_folder, write_files

from ..config import Settings
from ..system import System
from . import checkpoint
from .settings import CHANGEABLE, TrainSettings


@dataclass(frozen=True)
class Run:
    """What a run is made of."""

    system: str
    preset: str
    config: Settings
    settings: TrainSettings

    def to_json(self) -> dict[str, Any]:
        return {
            "system": self.system,
            "preset": self.preset,
            "config": self.config.to_json(),
            "settings": self.settings.to_json(),
            "versions": _versions(),
        }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("pose_kernels", "accelerate", "safetensors"):
        with suppress(PackageNotFoundError):  # a source tree that nobody installed
            found[name] = version(name)
    return found


class Folder:
    """Paths of a run, and the questions asked before the first is written."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.run = self.path / "run.json"
        self.losses = self.path / "losses.csv"
        self.checkpoints = self.path / "checkpoints"
        self.sheets = self.path / "sheets"
        self.tensorboard = self.path / "tensorboard"

    def read(self) -> dict[str, Any]:
        """The content of run.json.

        Raises FileNotFoundError when there is no run, ValueError when the file is no such JSON.
        """
        try:
            content = json.loads(self.run.read_bytes())
            for key in ("system", "preset", "config", "settings"):
                content[key]
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.path} holds no run: there is no {self.run}") from None
        except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError):
            raise ValueError(f"{self.run} is not the description of a run") from None
        return dict(content)

    def refuse_another(self) -> None:
        """Raises ValueError when a run lies here already."""
        if self.run.exists() or self.checkpoints.exists():
            steps = checkpoint.names_in(self.checkpoints)
            state = f"its newest checkpoint is {steps[-1]}" if steps else "without a checkpoint"
            raise ValueError(
                f"--out {self.path} holds a run already, {state}: "
                "continue it with --resume, replace it with --overwrite, or name another folder"
            )

    def begin(self, run: Run) -> None:
        """Make the folder, empty of any other run, and write run.json.

        Raises OSError with one line.
        """
        open_folder(self.path)
        self.run.unlink(missing_ok=True)
        self.losses.unlink(missing_ok=True)
        for old in (self.checkpoints, self.sheets, self.tensorboard):
            if old.exists():
                shutil.rmtree(old)
        for pattern in ("non-finite-step-*.json", "evaluation-*.*", "sample-*.png"):
            for result in self.path.glob(pattern):  # of the run that is no more
                result.unlink()
        self.describe(run)

    def describe(self, run: Run) -> None:
        write_files({self.run: (json.dumps(run.to_json(), indent=1) + "\n").encode()})


def continued(stored: dict[str, Any], run: Run) -> None:
    """Raises ValueError when `run` is not the stored one but for what may change on the way."""
    ours = run.to_json()
    if stored["system"] != run.system:
        raise ValueError(f"--resume: the run is of {stored['system']}, not {run.system}")
    for part in ("config", "settings"):
        for name, value in json.loads(json.dumps(ours[part])).items():
            before = stored[part].get(name, value)
            if before != value and not (part == "settings" and name in CHANGEABLE):
                flag = name.replace("_", "-")
                raise ValueError(
                    f"--resume: --{flag} was {before!r} and cannot become {value!r} on the way"
                )


def build(system: type[System], config: Settings, seed: int) -> System:
    """The system with the weights that a run of this seed begins with.

    Its frozen parameters are not in a checkpoint, so they have to come out the same here.
    """
    torch.manual_seed(seed)
    return system(config)


def features_of(system: nn.Module) -> dict[str, str]:
    """Whence the networks are that measure its losses: their `source`, if there are any."""
    sources = {
        source: None
        for module in system.modules()
        if isinstance(source := getattr(module, "source", None), str)
    }
    return {"features": "; ".join(sources)} if sources else {}
