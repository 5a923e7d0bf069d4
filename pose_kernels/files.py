# SPDX-License-Identifier: Apache-2.0
"""Atomic writes: a reader sees the old file or the new one, never half of one.

The data goes to a hidden file in the same folder, is flushed to the disk and then renamed over the
old file.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

PathLike = str | os.PathLike[str]


def open_folder(path: PathLike) -> Path:
    """Make a folder (and its parents) and try to write there, so that a bad one is found early.

    Raises OSError with one clear line.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = _hidden_name(folder / "probe")
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        probe.unlink()
    except OSError as error:
        raise OSError(f"cannot write into folder {folder}: {error.strerror or error}") from None
    return folder


def write_files(contents: Mapping[Any, bytes]) -> None:
    """Write several files (path -> bytes), all or none: nothing is renamed before all is on disk.

    Raises OSError with one clear line; then no file has changed and nothing is left behind.
    """
    hidden = {Path(path): _hidden_name(Path(path)) for path in contents}
    target = Path()
    try:
        for target, data in zip(hidden, contents.values()):
            # 0o666 less the umask, as for any new file; exclusive, so no other file is touched
            handle = os.open(hidden[target], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for target in hidden:
            if target.is_dir():
                raise IsADirectoryError(None, "it is a folder")
        for target, written in hidden.items():
            os.replace(written, target)
    except OSError as error:
        raise OSError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        for leftover in hidden.values():
            with suppress(OSError):
                leftover.unlink(missing_ok=True)


def _hidden_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
