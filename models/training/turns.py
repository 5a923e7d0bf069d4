# SPDX-License-Identifier: Apache-2.0
"""The turns of a step: for each player its losses, their gradients, and a step of its optimizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..batch import Batch
from ..system import Stage, System
from . import optimizer_state, parallel
from .checkpoint import Checkpoint, Tensors
from .log import Terms


class NotFinite(ArithmeticError):
    """A loss or a gradient that is NaN or infinite; the player's weights are as they were."""

    def __init__(self, player: str, terms: dict[str, float]) -> None:
        self.player, self.terms = player, terms
        self.names = [name for name, value in terms.items() if not math.isfinite(value)]
        super().__init__(
            f"{player}: " + ", ".join(f"{name} is {terms[name]}" for name in self.names)
        )


class Turns:
    """The players of a stage and their optimizers.

    model: the system as Accelerate has prepared it; clip: largest norm of a player's gradient.
    """

    def __init__(
        self,
        system: System,
        model: nn.Module,
        stage: Stage,
        accelerator: Accelerator,
        clip: float | None,
    ) -> None:
        self.model, self.stage, self.accelerator, self.clip = model, stage, accelerator, clip
        self.players = system.players(stage.name)
        self.optimizers: dict[str, Any] = {
            player: accelerator.prepare_optimizer(system.optimizer(player, self.players[player]))
            for player in dict.fromkeys(stage.turns)
        }
        self._names = {id(parameter): name for name, parameter in system.named_parameters()}
        system.requires_grad_(False)
        self._turn = ""

    def step(self, parts: Sequence[Batch]) -> Terms:
        """One turn after the other, each on all parts of this process's share of the batch.

        So the turns of a divided batch are those of the whole one: every part of a turn sees the
        other players as the turn before left them.

        Raises NotFinite.
        """
        return {player: self._one(player, parts) for player in self.stage.turns}

    def _one(self, player: str, parts: Sequence[Batch]) -> dict[str, float]:
        self._freeze_others(player)
        accelerator, optimizer = self.accelerator, self.optimizers[player]
        optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        for batch in parts:
            terms = self.model(batch, self.stage.name, player)
            accelerator.backward(sum(terms.values()) / len(parts))
            for name, value in terms.items():
                share = value.detach().float() / len(parts)
                sums[name] = sums[name] + share if name in sums else share
        parameters = self.players[player]
        parallel.average_gradients(parameters, accelerator)
        if accelerator.scaler is not None:
            accelerator.unscale_gradients(optimizer)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.clip:
            nn.utils.clip_grads_with_norm_(parameters, self.clip, norm)
        means = parallel.mean_over_processes(torch.stack(list(sums.values())), accelerator)
        # The only wait for the device in a turn.
        *values, length = torch.cat((means, norm.to(means)[None])).tolist()
        found = dict(zip(sums, values))
        if accelerator.scaler is None:
            found["gradient_norm"] = length
        # With a scaler infinite gradients are a matter of course: it leaves out that step.
        if not all(map(math.isfinite, found.values())):
            raise NotFinite(player, found)
        optimizer.step()
        optimizer.zero_grad()
        return {**found, "gradient_norm": length}

    def _freeze_others(self, player: str) -> None:
        """Nothing is spent on gradients that nobody uses, and none leaks into another turn."""
        if player == self._turn:
            return
        for parameters in self.players.values():
            for parameter in parameters:
                parameter.requires_grad_(False)
        for parameter in self.players[player]:  # after the others: two may share one
            parameter.requires_grad_(True)
        self._turn = player

    def _order(self, player: str) -> list[str]:
        groups = self.optimizers[player].optimizer.param_groups
        return [self._names[id(p)] for group in groups for p in group["params"]]

    def pack(self) -> tuple[dict[str, Tensors], dict[str, Any]]:
        """The optimizers for a checkpoint: file -> tensors, and player -> JSON."""
        files, plain = {}, {}
        for player, optimizer in self.optimizers.items():
            files[f"optimizer-{player}"], plain[player] = optimizer_state.pack(
                optimizer.optimizer, self._order(player)
            )
        return files, plain

    def unpack(self, found: Checkpoint) -> None:
        """Raises ValueError when the checkpoint is of other players or parameters."""
        for player, optimizer in self.optimizers.items():
            if player not in found.state["optimizers"]:
                raise ValueError(f"checkpoint {found.path} has no optimizer of the {player}")
            optimizer_state.unpack(
                optimizer.optimizer,
                self._order(player),
                found.files[f"optimizer-{player}"],
                found.state["optimizers"][player],
            )
