# SPDX-License-Identifier: Apache-2.0
"""What the three commands share: arguments, and errors of one line."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from typing import Any, NoReturn

from ..config import PAPER, Settings
from ..data import PairData, open_data
from ..system import System
from .settings import GROUPS, DataSettings, TrainSettings, adapted, preset_of, settings_class


class Parser(argparse.ArgumentParser):
    """Errors are one line and exit status 2, without the list of all flags before it."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **keywords,
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help shows all)\n")


def add_settings(parser: argparse.ArgumentParser, system: type[System]) -> None:
    """Every setting of the trainer and of the system, in groups."""
    settings_class(system)  # raises where names clash
    for title, group in GROUPS.items():
        adapted(group, system).add_arguments(parser.add_argument_group(title))
    system.Config.add_arguments(parser.add_argument_group(f"system {system.name}"))


def presets(system: type[System]) -> list[str]:
    """Names that the system or the trainer knows for it."""
    names = {*system.Config.presets(), *settings_class(system).presets()} - {PAPER}
    return [PAPER, *sorted(names)]


def settings_from(
    args: argparse.Namespace, system: type[System], preset: str
) -> tuple[Settings, TrainSettings]:
    """The preset with the flags that were given. Raises ValueError."""
    if preset not in presets(system):
        raise ValueError(f"--preset must be one of {', '.join(presets(system))}, got {preset!r}")
    ours = settings_class(system)
    config = system.Config.from_arguments(args, preset_of(system.Config, preset))
    return config, ours.from_arguments(args, preset_of(ours, preset))


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Which weights and which data, for the commands that read a run."""
    parser.add_argument("--no-ema", action="store_true", help="the last weights, not the averaged")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto: a GPU where there is one",
    )
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        default="test",
        help="of the data set (%(default)s)",
    )
    group = parser.add_argument_group("data", "Those of the run, unless they are given.")
    DataSettings.add_arguments(group)


def data_settings(settings: TrainSettings, args: argparse.Namespace) -> TrainSettings:
    """The settings of a run with other data, as far as they are given. Raises ValueError."""
    names = [field.name for field in dataclasses.fields(DataSettings)]
    given = argparse.Namespace(**{name: getattr(args, name) for name in names})
    if given.data is not None and given.data != settings.data:
        # Folder and options of another data set mean nothing here.
        settings = dataclasses.replace(settings, data_root=None, data_options=())
    for name in names:
        value = getattr(settings, name)
        if getattr(given, name) is None:
            setattr(given, name, "none" if value is None else value)
    changes = DataSettings.from_arguments(given).to_json()
    return dataclasses.replace(settings, **changes)


def open_split(settings: TrainSettings, split: str) -> PairData:
    """A split of the settings' data set, at their size.

    Raises ValueError or FileNotFoundError with one line.
    """
    H, W = settings.size
    return open_data(
        settings.data,
        split=split,
        size=(H, W),
        root=settings.data_root,
        views=settings.views,
        seed=settings.data_seed,
        **settings.options,
    )


def fail(prog: str, error: BaseException, code: int) -> int:
    """Say why, in one line, and return the exit status."""
    place = f" (process {os.environ['RANK']})" if int(os.environ.get("WORLD_SIZE", 1)) > 1 else ""
    print(f"{prog}{place}: {' '.join(str(error).split())}", file=sys.stderr)
    return code
