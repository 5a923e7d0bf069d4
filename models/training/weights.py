# SPDX-License-Identifier: Apache-2.0
"""What of a system a checkpoint holds: the parameters that are trained, and the buffers.

Parameters that nobody trains, such as those of a feature network in a loss, come from the
configuration again, and would make every checkpoint larger by their size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..system import System
from . import checkpoint


def trained_weights(system: System) -> dict[str, Tensor]:
    """name -> tensor; a parameter with several names has its first."""
    trained = {id(parameter) for parameter in system.trained()}
    parameters = dict(system.named_parameters(remove_duplicate=False))
    found: dict[str, Tensor] = {n: p for n, p in system.named_parameters() if id(p) in trained}
    buffers = {n: t for n, t in system.state_dict().items() if n not in parameters}
    return found | buffers


@torch.no_grad()
def load_weights(system: System, found: checkpoint.Checkpoint, average: bool = False) -> None:
    """Set them from a checkpoint; with `average`, the averaged ones where it has them.

    Raises ValueError when the checkpoint is of another architecture.
    """
    ours = trained_weights(system)
    theirs = dict(found.files[checkpoint.MODEL])
    if average:
        theirs |= found.files.get(checkpoint.EMA, {})
    for name in sorted(ours.keys() | theirs.keys()):
        there, here = (tuple(w[name].shape) if name in w else "none" for w in (theirs, ours))
        if there != here:
            raise ValueError(
                f"checkpoint {found.path} is of another architecture: the shape of {name} is "
                f"{there} there and {here} here"
            )
    for name, tensor in ours.items():
        tensor.copy_(theirs[name])
