# SPDX-License-Identifier: Apache-2.0
"""The exponential moving average of the generating weights: pictures are made with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter

from ..system import DISCRIMINATOR, System


def generating(system: System) -> dict[str, Parameter]:
    """name -> parameter, of every player but the discriminator."""
    ours = {
        id(parameter)
        for stage in system.stages
        for player, parameters in system.players(stage.name).items()
        if player != DISCRIMINATOR
        for parameter in parameters
    }
    return {name: p for name, p in system.named_parameters() if id(p) in ours}


class Average:
    """average <- average + (1 - d) (weight - average), in float32.

    d = min(decay, (1 + n) / (10 + n)) after n steps of the stage: the weights at the start of a
    stage are no better than any, and would else stay in the average for 1 / (1 - decay) steps.
    """

    def __init__(self, system: System, decay: float) -> None:
        self.decay = decay
        self._live = generating(system)
        self.weights = {
            name: p.detach().to(torch.float32, copy=True) for name, p in self._live.items()
        }

    @torch.no_grad()
    def update(self, n: int) -> None:
        """n: steps of the present stage before this one."""
        weight = 1 - min(self.decay, (1 + n) / (10 + n))
        live = [p.detach().float() for p in self._live.values()]
        torch._foreach_lerp_(list(self.weights.values()), live, weight)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        for name, average in self.weights.items():
            average.copy_(weights[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the system has the averaged weights."""
        kept = {name: p.detach().clone() for name, p in self._live.items()}
        _put(self._live, self.weights)
        try:
            yield
        finally:
            _put(self._live, kept)


@torch.no_grad()
def _put(live: Mapping[str, Parameter], weights: Mapping[str, Tensor]) -> None:
    for name, parameter in live.items():
        parameter.copy_(weights[name])
