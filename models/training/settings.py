# SPDX-License-Identifier: Apache-2.0
"""The settings of a training run that are not the system's: data, steps, output."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, Literal

from ..config import PAPER, Settings, option
from ..data import read_options
from ..system import System


@dataclass(frozen=True)
class DataSettings(Settings):
    """Which pairs, at which size."""

    data: str = option(
        "synthetic", "data set: synthetic, deepfashion, mvc, folder, or MODULE:FUNCTION of your own"
    )
    data_root: str | None = option(None, "folder of the data set")
    data_options: tuple[str, ...] = option((), "further options of the data set, as name=value")
    size: tuple[int, ...] = option(
        (256, 256), "height and width of the pictures", preset={"tiny": (64, 64)}
    )
    views: int = option(0, "further views of the same person per pair")
    data_seed: int = option(0, "of the data set's own random numbers, as of synthetic people")
    workers: int = option(2, "processes that load data; 0 loads in the training process")


@dataclass(frozen=True)
class StepSettings(Settings):
    """What a step is, and how many there are."""

    steps: int | None = option(
        None, "steps in all, divided among the stages in proportion; none: the stages' own"
    )
    stage: str | None = option(None, "train this stage only")
    init: str | None = option(None, "start from the weights of this run or checkpoint folder")
    batch: int = option(8, "pairs per step, over all processes together")
    accumulate: int = option(1, "parts a process cuts its share of a batch into, to save memory")
    precision: Literal["no", "bf16", "fp16"] = option("no", "mixed precision")
    clip: float | None = option(None, "largest norm of a player's gradient; none: as it comes")
    ema: float = option(0.999, "decay of the averaged weights; 0: none are kept")
    seed: int = option(0, "of the weights, the order of the pairs and the steps' random numbers")
    deterministic: bool = option(False, "the same numbers again, at some cost in time")
    device: Literal["auto", "cpu", "cuda"] = option("auto", "auto: a GPU where there is one")


@dataclass(frozen=True)
class OutputSettings(Settings):
    """What is written, and how often."""

    out: str = option("run", "folder of the run")
    log_every: int = option(10, "steps between rows of losses.csv", preset={"tiny": 1})
    save_every: int = option(1000, "steps between checkpoints", preset={"tiny": 100})
    keep: int = option(3, "checkpoints that are kept")
    sheet_every: int = option(1000, "steps between sample sheets; 0: none", preset={"tiny": 100})
    sheet_pairs: int = option(6, "validation pairs on a sample sheet")


@dataclass(frozen=True)
class TrainSettings(DataSettings, StepSettings, OutputSettings):
    """All of them. Raises ValueError with one line for a value that makes no sense."""

    def __post_init__(self) -> None:
        super().__post_init__()
        least = {"views": 0, "workers": 0, "batch": 1, "accumulate": 1, "log_every": 1}
        least |= {"save_every": 1, "keep": 1, "sheet_every": 0, "sheet_pairs": 1}
        for name, bound in least.items():
            self._require(name, getattr(self, name) >= bound, f"at least {bound}")
        self._require("size", len(self.size) == 2 and min(self.size) > 0, "two numbers above 0")
        self._require("steps", self.steps is None or self.steps > 0, "above 0")
        self._require("clip", self.clip is None or self.clip > 0, "above 0")
        self._require("ema", 0 <= self.ema < 1, "at least 0 and below 1")
        self._require("seed", 0 <= self.seed < 2**63, "at least 0 and below 2^63")
        try:
            read_options(self.data_options)
        except ValueError as error:
            raise ValueError(f"--data-options: {error}") from None

    def _require(self, name: str, holds: bool, words: str) -> None:
        if not holds:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} must be {words}, got {getattr(self, name)!r}")

    @property
    def options(self) -> dict[str, Any]:
        """`data_options` as keywords."""
        return read_options(self.data_options)


GROUPS = {"data": DataSettings, "training": StepSettings, "output": OutputSettings}

# What a run that goes on may change: nothing that alters the weights or the order of the data.
CHANGEABLE = frozenset(
    "steps data_root workers accumulate deterministic device out log_every save_every keep "
    "sheet_every sheet_pairs".split()
)


def adapted(group: type[Settings], system: type[System]) -> type[Settings]:
    """The group with the values that `System.training_presets` gives to each preset."""
    hints = typing.get_type_hints(group)
    changed: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(group):
        presets = dict(field.metadata["preset"])
        presets |= {
            preset: values[field.name]
            for preset, values in system.training_presets.items()
            if field.name in values
        }
        default = presets.pop(PAPER, field.default)
        value = option(default, field.metadata["help"], preset=presets)
        changed.append((field.name, hints[field.name], value))
    return dataclasses.make_dataclass(group.__name__, changed, bases=(group,), frozen=True)


def settings_class(system: type[System]) -> type[TrainSettings]:
    """`TrainSettings` with the presets of a system.

    Raises ValueError for a system that gives a value to a setting that does not exist, or whose
    own settings have a name of these.
    """
    names = {field.name for field in dataclasses.fields(TrainSettings)}
    given = {name for values in system.training_presets.values() for name in values}
    if unknown := sorted(given - names):
        raise ValueError(f"{system.name}: there is no setting {', '.join(unknown)}")
    if both := sorted(names & {field.name for field in dataclasses.fields(system.Config)}):
        raise ValueError(f"{system.name}: the settings have {', '.join(both)} already")
    return typing.cast(type[TrainSettings], adapted(TrainSettings, system))


def preset_of(settings: type[Settings], name: str) -> str:
    """The preset, or the published values where these settings do not vary with it."""
    return name if name in settings.presets() else PAPER
