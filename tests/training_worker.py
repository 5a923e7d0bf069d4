# SPDX-License-Identifier: Apache-2.0
"""A small system and data set for the tests of the trainer, and its command on them as a process.

python tests/training_worker.py tiny_gan --out DIR ...
TRAINING_KILL=write:2 kills the process within the second checkpoint, =rename:2 just before it gets
its name, =step:7 after the seventh step.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor, nn

from models import systems
from models.config import Settings, option
from models.system import DISCRIMINATOR, GENERATOR, Stage, System


class TinyPairs:
    """Pictures whose target is a fixed map of the source, drawn from (seed, split, epoch, index)."""

    name = "tiny pairs"
    loaded: list[tuple[int, int]] = []

    def __init__(self, split: str, size: tuple[int, int], length: int = 12, seed: int = 0) -> None:
        self.split, self.size, self.length, self.seed, self.epoch = split, size, length, seed, 0
        self.keys = frozenset({"source_image", "target_image", "identity"})

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.loaded.append((self.epoch, index))
        number = hash((self.seed, len(self.split), self.epoch, index)) % 2**31
        generator = torch.Generator().manual_seed(number)
        source = torch.rand((3, *self.size), generator=generator) * 2 - 1
        return {
            "source_image": source,
            "target_image": (0.5 * source.flip(0) + 0.1).clone(),
            "identity": torch.tensor(index),
        }


def open_tiny(name: str, *, split: str, size: tuple[int, int], **options: Any) -> TinyPairs:
    if name != "tiny":
        raise ValueError(f"--data must be tiny, got {name!r}")
    if options.get("root"):
        raise FileNotFoundError(f"{options['root']}/pairs.csv is not there: make it first")
    return TinyPairs(split, size, int(options.get("length", 12)), options["seed"])


@dataclass(frozen=True)
class TinyConfig(Settings):
    width: int = option(8, "channels", preset={"tiny": 4})
    drop: float = option(0.1, "share of channels that are dropped")
    warm: int = option(40, "steps of the first stage", preset={"tiny": 4})
    poison: int = option(-1, "identity that makes the loss NaN; -1: none")
    lacking: bool = option(False, "ask for a key that the data lack")


class TinyGan(System):
    """Two stages, two players, a parameter that some steps do not use and a frozen one."""

    name = "tiny_gan"
    needs = frozenset({"source_image", "target_image"})
    Config = TinyConfig
    training_presets = {
        "paper": {"data": "tiny", "batch": 4, "workers": 0, "size": (8, 8)},
        "tiny": {"size": (8, 8), "ema": 0.9, "save_every": 4, "sheet_every": 8},
    }

    def __init__(self, config: TinyConfig) -> None:
        super().__init__(config)
        width = config.width
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.last = nn.Conv2d(width, 3, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(3, 1, 1))
        self.unused = nn.Parameter(torch.ones(2))
        self.judge = nn.Conv2d(3, 1, 3)
        self.register_buffer("frozen_mean", torch.zeros(1))
        self.features = nn.Conv2d(3, 4, 1)  # that nobody trains
        self.drop = nn.Dropout2d(config.drop)

    @property
    def stages(self) -> list[Stage]:
        return [
            Stage("warm", self.config.warm),
            Stage("joint", 2 * self.config.warm, (DISCRIMINATOR, GENERATOR)),
        ]

    def players(self, stage: str) -> dict[str, list[nn.Parameter]]:
        convs = [*self.first.parameters(), *self.last.parameters()]
        if stage == "warm":
            return {GENERATOR: convs}
        return {
            GENERATOR: [*convs, self.scale, self.unused],
            DISCRIMINATOR: list(self.judge.parameters()),
        }

    def optimizer(self, player: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=1e-2, betas=(0.5, 0.999))

    def generate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        hidden = self.drop(torch.relu(self.first(batch["source_image"])))
        return {"out": self.last(hidden) * self.scale}

    def losses(self, batch: dict[str, Tensor], stage: str, player: str) -> dict[str, Tensor]:
        out, truth = self.generate(batch)["out"], batch["target_image"]
        if player == DISCRIMINATOR:
            out = out.detach()
            return {
                "gan": (self.judge(truth) - 1).square().mean() + self.judge(out).square().mean()
            }
        poisoned = (batch["identity"] == self.config.poison).any()
        features = (self.features(out) - self.features(truth)).abs().mean()
        terms = {"l1": (out - truth).abs().mean(), "features": 0.1 * features}
        terms["l1"] = torch.where(poisoned, torch.nan, terms["l1"])
        if stage == "joint":
            terms["gan"] = 0.1 * (self.judge(out) - 1).square().mean()
        return terms


class Demanding(TinyGan):
    name = "demanding"
    needs = TinyGan.needs | {"flow", "source_joints18"}


systems.register("tiny_gan", TinyGan, "two convolutions and a judge")
systems.register("demanding", Demanding, "asks for what the data lack")


def _killed(function: Callable[..., Any], times: int, before: bool = False) -> Callable[..., Any]:
    count = 0

    def call(*args: Any, **keywords: Any) -> Any:
        nonlocal count
        count += 1
        if before and count == times:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **keywords)
        if count == times:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


def _arm(order: str) -> None:
    from models.training import checkpoint, loop

    place, _, times = order.partition(":")
    if place == "step":
        loop.Trainer._one_step = _killed(loop.Trainer._one_step, int(times))  # type: ignore[method-assign]
    elif place == "write":
        checkpoint.save_file = _killed(checkpoint.save_file, int(times))
    elif place == "rename":
        checkpoint._flush = _killed(checkpoint._flush, int(times), before=True)
    else:
        raise ValueError(f"TRAINING_KILL: no place {place!r}")


if __name__ == "__main__":
    from models.train import main

    torch.set_num_threads(1)
    if order := os.environ.get("TRAINING_KILL"):
        _arm(order)
    sys.exit(main(sys.argv[1:], open_data=open_tiny))
