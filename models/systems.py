# SPDX-License-Identifier: Apache-2.0
"""The generator systems by name. A class is imported only when it is asked for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from .system import System


@dataclass(frozen=True)
class Entry:
    """path: "module:Class", or the class itself; summary: one line for `--help`."""

    path: str | type[System]
    summary: str


_SYSTEMS: dict[str, Entry] = {}


def register(name: str, path: str | type[System], summary: str) -> None:
    """Make a system known to the commands. The class has its Settings as `Config`.

    Raises ValueError when the name is taken by another system.
    """
    entry = Entry(path, summary)
    if _SYSTEMS.get(name, entry) != entry:
        raise ValueError(f"system {name!r} is registered already, as {_SYSTEMS[name].path}")
    _SYSTEMS[name] = entry


def summary(name: str) -> str:
    """Its one line; of an unregistered one, its name."""
    return _SYSTEMS[name].summary if name in _SYSTEMS else name


def summaries() -> dict[str, str]:
    """name -> one line, in the order of registration."""
    return {name: entry.summary for name, entry in _SYSTEMS.items()}


def load(name: str) -> type[System]:
    """The class of a system; a name that is not registered may be "MODULE:CLASS" itself.

    Raises ValueError with the names there are when there is no such system.
    """
    if name in _SYSTEMS:
        path = _SYSTEMS[name].path
        return _imported(path) if isinstance(path, str) else path
    if ":" not in name:
        names = ", ".join(_SYSTEMS)
        raise ValueError(f"there is no system {name!r}; there are: {names}, or MODULE:CLASS")
    try:
        found = _imported(name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"system {name}: {error}") from None
    if not (isinstance(found, type) and issubclass(found, System)):
        raise ValueError(f"system {name} is no subclass of models.system.System")
    return found


def _imported(path: str) -> type[System]:
    module, _, attribute = path.partition(":")
    found: type[System] = getattr(importlib.import_module(module), attribute)
    return found


register(
    "dense_pose_transfer",
    "models.dense_pose_transfer:DensePoseTransfer",
    "Neverova, Guler, Kokkinos: Dense Pose Transfer, ECCV 2018",
)
register(
    "volume_reposing",
    "models.volume_reposing:VolumeReposing",
    "Knoche, Sarandi, Leibe: Reposing Humans by Warping 3D Features, CVPR Workshops 2020",
)
