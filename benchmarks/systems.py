# SPDX-License-Identifier: Apache-2.0
"""Training steps of the package's own systems, on pairs of synthetic people.

dense_pose_transfer-tiny    the last stage of models.dense_pose_transfer, preset tiny
dense_pose_transfer-paper   the same of the published sizes and losses, a batch of one: turns of
                            the generator and of the discriminator

The backend computes the ops, ours or the reference; everything else is the same code. A step is
every turn of the stage: forward, backward and Adam of its player.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import default_collate

import pose_kernels as pk
from models.batch import Batch, to
from models.data.synthetic import SyntheticPairs
from models.dense_pose_transfer import Config, DensePoseTransfer
from models.system import System

from .streams import SEED, Maker, Trained

REFERENCE = "reference"
BEGUN = (
    0.2  # size of a layer that starts at 0, over what keeps the scale: as if it had been trained
)
# Wider than the streams': the discriminator's first loss comes after a step of Adam already, the
# generator's; and Adam divides by the gradient's size, so that 1e-7 of the source picture become
# 5e-4 of the loss three steps later (preset tiny).
ALLOWED = (1e-4, 2e-3)


@dataclasses.dataclass(frozen=True)
class SystemSteps:
    """The last stage of Dense Pose Transfer on N pairs of side x side pixels.

    views: further pictures of each person that supervise the texture; checked: as in Trained.
    """

    config: Config
    N: int
    side: int
    views: int = 0
    checked: int = 3

    @property
    def title(self) -> str:
        terms = " + ".join(self.config.terms)
        return f"B{self.N} {self.side}x{self.side} S{self.config.tile_size}, {terms}, fp32"

    def makers(self, device: str) -> list[Maker]:
        return [
            Maker(f"ours, {pk.backends.chosen('uv_raster', device)}", "ours", "auto"),
            Maker("the reference ops in PyTorch", "eager", REFERENCE),
        ]

    def start(self, maker: Maker, device: str) -> Trained:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            system = DensePoseTransfer(self.config)
            for weight in system.parameters():
                if weight.dim() > 1 and not weight.any():  # would hide the ops before it
                    torch.nn.init.normal_(weight, std=BEGUN / weight[0].numel() ** 0.5)
        system.to(device)
        batch = to(_pairs(self.N, self.side, self.views), device)
        names: list[str] = []
        step = training(system, batch, names)
        backend = str(maker.ops)

        def active() -> Any:  # ours are what is in force
            return pk.use_backend(backend) if backend == REFERENCE else nullcontext()

        return Trained(step, names, active, self.checked, ALLOWED, lambda: recorded(step))


def training(system: System, batch: Batch, names: list[str]) -> Callable[[], Tensor]:
    """A step of the system's last stage on the batch: all terms (T,), whose names go into names."""
    stage = system.stages[-1]
    players = system.players(stage.name)
    optimizers = {name: system.optimizer(name, players[name]) for name in players}
    system.requires_grad_(False)

    def step() -> Tensor:
        terms: dict[str, Tensor] = {}
        for turn in stage.turns:
            for name, parameters in players.items():
                for parameter in parameters:
                    parameter.requires_grad_(name == turn)
            optimizers[turn].zero_grad(set_to_none=True)
            found = system(batch, stage.name, turn)
            torch.stack(list(found.values())).sum().backward()
            optimizers[turn].step()
            terms |= {name: value.detach() for name, value in found.items()}
        names[:] = terms
        return torch.stack(list(terms.values()))

    return step


class Recorder(TorchDispatchMode):
    """Keeps which of the package's ops ran on what, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        call = functools.partial(func, *args, **(kwargs or {}))
        if func.namespace == "pose_kernels":
            self.calls.append(call)
        return call()


def recorded(step: Callable[[], Tensor]) -> Callable[[], None]:
    """What the ops do in a step, without the rest of it: the same calls on the same tensors."""
    with Recorder() as recorder:
        step()

    @torch.no_grad()
    def replay() -> None:
        for call in recorder.calls:
            call()

    return replay


@functools.lru_cache(maxsize=2)
def _pairs(N: int, side: int, views: int) -> Batch:
    data = SyntheticPairs("train", (side, side), seed=SEED, views=views, flow=False)
    return default_collate([data[index] for index in range(N)])


_SMALL: dict[str, Any] = {
    "width": 4,
    "blocks": 1,
    "blend_width": 4,
    "blend_blocks": 1,
    "tile_size": 16,
    "inpaint_width": 2,
    "global_code": 8,
    "discriminator_width": 4,
    # As published: what small numbers of channels do not show would else go unnoticed.
    "uv_encode": "quad",
    "blend_norm": "instance",
    "inpaint_norm": "instance",
}
SYSTEMS: dict[str, dict[str, SystemSteps]] = {
    "dense_pose_transfer-tiny": {
        "default": SystemSteps(Config.preset("tiny"), N=8, side=64),
        "small": SystemSteps(Config.preset("tiny", **_SMALL), N=2, side=32),
    },
    "dense_pose_transfer-paper": {
        "default": SystemSteps(Config.preset("paper"), N=1, side=256, views=4, checked=1),
        "small": SystemSteps(
            Config.preset("tiny", **_SMALL, losses=("l1", "gan")), N=1, side=32, views=3, checked=1
        ),
    },
}
