# SPDX-License-Identifier: Apache-2.0
"""The state of an optimizer as tensors and JSON, by parameter names instead of by numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def pack(
    optimizer: torch.optim.Optimizer, names: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors "name|entry", and what is no tensor. names: of its parameters, in their order.

    Raises ValueError when a value is neither tensor nor JSON.
    """
    content = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {"groups": content["param_groups"], "names": list(names), "plain": {}}
    for number, entries in content["state"].items():
        for entry, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{names[number]}|{entry}"] = value
            else:
                plain["plain"].setdefault(names[number], {})[entry] = _json(entry, value)
    for group in plain["groups"]:
        for entry, value in group.items():
            _json(entry, value)
    return tensors, plain


def _json(entry: str, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_json(entry, one) for one in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"an optimizer's {entry} cannot be saved: it is {type(value).__name__}")


def unpack(
    optimizer: torch.optim.Optimizer,
    names: Sequence[str],
    tensors: Mapping[str, Tensor],
    plain: Mapping[str, Any],
) -> None:
    """Bring a new optimizer to the state that `pack` wrote.

    Raises ValueError when it has other parameters.
    """
    if list(names) != plain["names"]:
        raise ValueError("the checkpoint's optimizer has other parameters than this system")
    state: dict[int, dict[str, Any]] = {}
    for number, name in enumerate(names):
        if name in plain["plain"]:
            state.setdefault(number, {}).update(plain["plain"][name])
    numbers = {name: number for number, name in enumerate(names)}
    for key, tensor in tensors.items():
        name, _, entry = key.rpartition("|")
        state.setdefault(numbers[name], {})[entry] = tensor
    groups = []
    for saved, present in zip(plain["groups"], optimizer.state_dict()["param_groups"]):
        # JSON knows no tuples (the betas of Adam).
        groups.append(
            {k: tuple(v) if isinstance(present.get(k), tuple) else v for k, v in saved.items()}
        )
    optimizer.load_state_dict({"state": state, "param_groups": groups})
