# SPDX-License-Identifier: Apache-2.0
"""A small system and data set for the tests of the trainer, and its command on them as a process.

python tests/training_worker.py tiny_gan --out DIR ...
python tests/training_worker.py -    one job per line, each in a process forked from this one

A job is {"argv": [...]} and what may happen to it. "kill": "file:2" kills it after the second file
of checkpoints, "name:2" in the second checkpoint just before it gets its name, "latest:2" just
after, "step:7" after the seventh step. "interrupt": 7 presses Ctrl-C within the seventh step.
"largest": 4096 is the size in bytes above which no file can grow. The answer is a line {"code",
"stdout", "stderr"}.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import tempfile
import traceback
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
    """The target is a fixed map of the source, which is noise of (seed, split, epoch, index)."""

    name = "tiny pairs"
    loaded: list[tuple[int, int]] = []

    gone = -1  # an index whose file is not there

    def __init__(self, split: str, size: tuple[int, int], length: int = 12, seed: int = 0) -> None:
        self.split, self.size, self.length, self.seed, self.epoch = split, size, length, seed, 0
        self.keys = frozenset({"source_image", "target_image", "identity"})

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.loaded.append((self.epoch, index))
        if index == self.gone and self.split == "train":
            raise FileNotFoundError(f"picture-{index}.png: no such file")
        number = hash((self.seed, len(self.split), self.epoch, index)) % 2**31
        generator = torch.Generator().manual_seed(number)
        source = torch.rand((3, *self.size), generator=generator) * 2 - 1
        return {
            "source_image": source,
            "target_image": (0.5 * source.flip(0) + 0.1).clone(),
            "identity": torch.tensor(index),
        }


def open_tiny(
    *,
    split: str,
    size: tuple[int, int],
    root: str | None,
    views: int,
    seed: int,
    length: int = 12,
    gone: int = -1,
) -> TinyPairs:
    if root:
        raise FileNotFoundError(f"{root}/pairs.csv is not there: make it first")
    pairs = TinyPairs(split, size, length, seed)
    pairs.gone = gone
    return pairs


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
        "paper": {"data": "training_worker:open_tiny", "batch": 4, "workers": 0, "size": (8, 8)},
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
        self.features.source = "four channels, seed of the run"
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


systems.register("tiny_gan", "training_worker:TinyGan", "two convolutions and a judge")
systems.register("demanding", "training_worker:Demanding", "asks for what the data lack")


def _signal_at(
    owner: Any, name: str, times: int, number: int, when: Callable[..., bool] | None = None
) -> None:
    """Send this process a signal when owner.name has been called so many times."""
    function = getattr(owner, name)
    count = 0

    def call(*args: Any, **keywords: Any) -> Any:
        nonlocal count
        result = function(*args, **keywords)
        if when is None or when(*args):
            count += 1
            if count == times:
                os.kill(os.getpid(), number)
        return result

    setattr(owner, name, call)


def _arm(job: dict[str, Any]) -> None:
    from models.training import checkpoint, loop

    if order := job.get("kill"):
        place, _, times = order.partition(":")
        owner, name, when = {
            "step": (loop.Trainer, "_one_step", None),
            "file": (checkpoint, "save_file", None),
            "name": (checkpoint, "_flush", lambda path: path.name.startswith(".step-")),
            "latest": (checkpoint, "_flush", lambda path: path.name == "checkpoints"),
        }[place]
        _signal_at(owner, name, int(times), signal.SIGKILL, when)
    if times := job.get("interrupt"):
        _signal_at(loop.Turns, "step", times, signal.SIGINT)
    if largest := job.get("largest"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))


def _in_a_fork(job: dict[str, Any]) -> dict[str, Any]:
    from models.train import main

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        if (child := os.fork()) == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            code = 70
            try:
                _arm(job)
                code = main(job["argv"])
            except SystemExit as error:
                code = int(error.code or 0)
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
        return {"code": code, "stdout": texts[0], "stderr": texts[1]}


if __name__ == "__main__":
    torch.set_num_threads(1)  # also so that a fork has no thread to miss
    if sys.argv[1:] == ["-"]:
        # What a run imports late, once here and not in every fork: it takes longer than the run.
        importlib.import_module("models.train")
        for late in ("torch._dynamo", "torch.distributed.tensor", "torch.utils.tensorboard"):
            importlib.import_module(late)
        for line in sys.stdin:
            print(json.dumps(_in_a_fork(json.loads(line))), flush=True)
    else:
        from models.train import main

        sys.exit(main(sys.argv[1:]))
