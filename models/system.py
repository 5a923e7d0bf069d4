# SPDX-License-Identifier: Apache-2.0
"""What the trainer knows of a generator system, and all that it knows.

A *player* owns parameters and an optimizer ("generator", "discriminator"). A *stage* is a part of
the training with players, losses and a number of steps of its own. One step runs the turns of its
stage in order; a turn computes the losses of one player on the batch and steps its optimizer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from .batch import Batch
from .config import Settings

GENERATOR, DISCRIMINATOR = "generator", "discriminator"


@dataclass(frozen=True)
class Stage:
    """name; steps: of the whole stage, at the published batch size unless the preset is smaller;
    turns: players, in the order of one step."""

    name: str
    steps: int
    turns: tuple[str, ...] = (GENERATOR,)


class System(nn.Module, ABC):
    """One of the published systems. Subclasses are made from their configuration alone.

    `forward(batch)` generates; `forward(batch, stage, player)` gives the losses of a turn. Both go
    through `forward`, since data-parallel wrappers see no other call. Nothing in here moves
    tensors between devices, opens files or knows of processes.
    """

    name: ClassVar[str]
    # keys of `models.batch` without which `losses` cannot do; they may depend on the configuration
    needs: frozenset[str]
    Config: ClassVar[type[Settings]]
    # preset -> settings of the trainer (models/training/settings.py) that differ from its own
    # defaults: {"paper": {"batch": 8}, "tiny": {"batch": 4, "size": (64, 64)}}. How long a stage
    # is says the stage, which is made from the configuration, hence from its preset too.
    training_presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @property
    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """In their order; at least one."""

    @abstractmethod
    def players(self, stage: str) -> dict[str, list[Parameter]]:
        """Who trains what in a stage. A parameter that nobody has is frozen in that stage."""

    @abstractmethod
    def optimizer(self, player: str, parameters: list[Parameter]) -> torch.optim.Optimizer:
        """The published optimizer of a player."""

    @abstractmethod
    def generate(self, batch: Batch) -> dict[str, Tensor]:
        """`out` (N, 3, H, W) in about [-1, 1], and every intermediate result worth a look.

        Needs no target picture.
        """

    @abstractmethod
    def losses(self, batch: Batch, stage: str, player: str) -> dict[str, Tensor]:
        """Named scalar terms, already weighted: a turn minimizes their sum."""

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Columns of the sample sheet: title -> (N, 3, H, W) in [-1, 1], in order."""
        return {
            "source": batch["source_image"],
            "out": self.generate(batch)["out"],
            "target": batch["target_image"],
        }

    def forward(
        self, batch: Batch, stage: str | None = None, player: str | None = None
    ) -> dict[str, Tensor]:
        """What `generate` or, with a stage and a player, `losses` returns."""
        if stage is None or player is None:
            return self.generate(batch)
        return self.losses(batch, stage, player)

    def trained(self) -> Iterator[Parameter]:
        """Every parameter that some player of some stage trains, once."""
        seen: set[int] = set()
        for stage in self.stages:
            for parameters in self.players(stage.name).values():
                for parameter in parameters:
                    if id(parameter) not in seen:
                        seen.add(id(parameter))
                        yield parameter
