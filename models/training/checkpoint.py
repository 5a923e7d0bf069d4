# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: folders of safetensors and one JSON file, whole or not there at all.

A checkpoint is written into a hidden folder, every file is flushed to the disk, and the folder is
renamed when it is complete. `state.json` has the size and the SHA-256 of every other file, so a
truncated or altered one is found when it is read. Nothing is pickled: a checkpoint from elsewhere
cannot run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from pose_kernels.files import write_files

FORMAT = 1
STATE, LATEST = "state.json", "latest"
MODEL, EMA = "model", "ema"

Tensors = dict[str, Tensor]


class Corrupt(ValueError):
    """A checkpoint that is not what was written; the message names it and says why."""


@dataclass(frozen=True)
class Checkpoint:
    """state: the content of state.json. files: file stem -> tensors."""

    path: Path
    state: dict[str, Any]
    files: dict[str, Tensors]


def name_of(step: int) -> str:
    return f"step-{step:08d}"


class Store:
    """The checkpoints of one run, in one folder; `keep` of them stay."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self.names: list[str] = []  # of this run's past, the oldest first

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest that is whole, and why newer ones were not taken, one line each."""
        found, warnings = newest(self.folder)
        if found:
            self.names = [name for name in names_in(self.folder) if name <= found.path.name]
        return found, warnings

    def write(self, state: Mapping[str, Any], files: Mapping[str, Tensors]) -> Path:
        """Write step-XXXXXXXX, point `latest` to it, and remove all but the newest `keep`.

        Removed are also those that `newest` did not take: they must not push out good ones.

        Raises OSError with one line when it cannot be written; then the others are as they were.
        """
        name = name_of(state["step"])
        hidden, final = self.folder / f".{name}.{os.getpid()}.tmp", self.folder / name
        try:
            _clear(self.folder)
            hidden.mkdir(parents=True)
            entries = {}
            for stem, tensors in files.items():
                path = hidden / f"{stem}.safetensors"
                save_file({key: _plain(value) for key, value in tensors.items()}, path)
                path.chmod(hidden.stat().st_mode & 0o666)  # as any new file, not the owner's alone
                _flush(path)
                entries[path.name] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
            text = json.dumps({"format": FORMAT, **state, "files": entries}, indent=1)
            write_files({hidden / STATE: text.encode()})
            _flush(hidden)
            if final.exists():  # one that was not taken, whose step has been reached once more
                _remove(final)
            hidden.rename(final)
            _flush(self.folder)
            write_files({self.folder / LATEST: f"{name}\n".encode()})
        except (OSError, safetensors.SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OSError(f"cannot write checkpoint {final}: {reason}") from None
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
        self.names = [*(past for past in self.names if past != name), name]
        for other in set(names_in(self.folder)) - set(self.names[-self.keep :]):
            _remove(self.folder / other)
        self.names = self.names[-self.keep :]
        return final


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if whole else tensor.clone().contiguous()  # views share memory, which is refused


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _remove(path: Path) -> None:
    """Out of sight at once, then file by file: a process killed here leaves no half checkpoint."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}.old.tmp")
    with suppress(OSError):
        path.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def _clear(folder: Path) -> None:
    """Remove what a killed process left half written."""
    for leftover in folder.glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def names_in(folder: Path) -> list[str]:
    """Checkpoints of a folder, the oldest first."""
    return sorted(path.name for path in folder.glob("step-*") if path.is_dir())


def read(path: Path) -> Checkpoint:
    """A checkpoint, checked byte for byte.

    Raises Corrupt with its path and the reason.
    """
    try:
        state = json.loads((path / STATE).read_bytes())
        if state["format"] != FORMAT:
            raise Corrupt(f"checkpoint {path} has format {state['format']}, not {FORMAT}")
        files = {}
        for name, expected in state["files"].items():
            file = path / Path(name).name
            if file.stat().st_size != expected["bytes"]:
                words = f"{file.stat().st_size} bytes instead of {expected['bytes']}"
                raise Corrupt(f"checkpoint {path} is truncated: {name} has {words}")
            if _digest(file) != expected["sha256"]:
                raise Corrupt(f"checkpoint {path} is corrupt: {name} has another checksum")
            files[file.stem] = load_file(file)
    except OSError as error:
        raise Corrupt(f"checkpoint {path} is incomplete: {error}") from None
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError):
        raise Corrupt(f"checkpoint {path} is corrupt: {STATE} cannot be read") from None
    except safetensors.SafetensorError as error:
        raise Corrupt(f"checkpoint {path} is corrupt: {error}") from None
    return Checkpoint(path, state, files)


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The one that `latest` names, else the newest, else the ones before; and why others were not
    taken, one line each."""
    names = names_in(folder)[::-1]
    try:
        latest = (folder / LATEST).read_text().strip()
    except (OSError, UnicodeDecodeError):
        latest = ""
    if latest in names:  # later ones belong to a future that was given up
        names = names[names.index(latest) :] + names[: names.index(latest)][::-1]
    warnings: list[str] = []
    for name in names:
        try:
            return read(folder / name), warnings
        except Corrupt as error:
            warnings.append(str(error))
    return None, warnings


def of_run(path: str | Path) -> Checkpoint:
    """The checkpoint of a folder that is one, or the newest whole one of a run's folder.

    Raises FileNotFoundError when there is none, Corrupt when none is whole.
    """
    path = Path(path)
    if (path / STATE).exists():
        return read(path)
    found, warnings = newest(path / "checkpoints")
    if found is None and warnings:
        raise Corrupt("; ".join(warnings))
    if found is None:
        raise FileNotFoundError(f"{path} is neither a checkpoint nor a run that has one")
    return found
