# SPDX-License-Identifier: Apache-2.0
"""Another revision of this project: checked out and built in a temporary folder, and asked there.

    FOLDER/tree     a git worktree of the revision, its libraries built in place
    FOLDER/path     what its process imports: its pose_kernels, and the benchmarks of this revision

Both are gone afterwards, whatever happens short of a kill that nobody can catch; then the folder
stays, and git forgets the worktree when --compare runs again and the folder is removed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from . import timing
from .registry import Case, Provider
from .worker import Client, Failed

ROOT = Path(__file__).resolve().parents[1]


class Unusable(Exception):
    """There is no such revision, or it does not build, or does not start. The message says why."""


@contextmanager
def another(ref: str, threads: int, say: Callable[[str], None]) -> Iterator[Revision]:
    """Checks a revision out, builds it, starts its process; and removes all of it afterwards."""
    try:
        name = _git("rev-parse", "--verify", "--short", f"{ref}^{{commit}}")
    except Unusable as error:
        raise Unusable(f"--compare {ref}: {error}") from None
    folder = Path(tempfile.mkdtemp(prefix="pose_kernels-compare-"))
    found = Revision(name, folder, threads)
    try:
        say(f"checking out {ref} ({name}) into {folder}")
        _check_out(ref, name, folder)
        say(f"building the libraries of {name}: minutes where much of csrc/ differs")
        _build(ref, name, folder / "tree")
        found.start()
        yield found
    finally:
        with _undisturbed():
            found.stop()
            _remove(folder)


def _check_out(ref: str, name: str, folder: Path) -> None:
    _git("worktree", "prune")
    _git("worktree", "add", "--quiet", "--detach", str(folder / "tree"), name)
    if not (folder / "tree" / "pose_kernels" / "__init__.py").is_file():
        raise Unusable(f"{ref} ({name}) has no package pose_kernels")
    path = folder / "path"
    path.mkdir()
    (path / "pose_kernels").symlink_to(folder / "tree" / "pose_kernels")
    (path / "benchmarks").symlink_to(Path(__file__).resolve().parent)


def _build(ref: str, name: str, tree: Path) -> None:
    ours = ROOT / "build" / "kernels"
    if ours.is_dir():  # objects are taken over where sources, command and compiler agree
        no_cuda = shutil.ignore_patterns("cuda", "_C_cuda*")
        shutil.copytree(ours, tree / "build" / "kernels", ignore=no_cuda)
    command = [sys.executable, "setup.py", "--quiet", "build_kernels", "--inplace"]
    environment = {**os.environ, "POSE_KERNELS_CUDA": "0"}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise Unusable(f"{ref} ({name}) does not build here:\n{last}")


def _remove(folder: Path) -> None:
    tree = str(folder / "tree")
    for words in (["remove", "--force", "--force", tree], ["prune"]):
        subprocess.run(["git", "worktree", *words], cwd=ROOT, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


class Revision:
    """Another revision, checked out and built in a folder. name is its short commit."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        self.name, self._folder, self._threads = name, folder, threads
        self._client = Client(name, self._send)
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._note = ""

    def joined(self, op: str, module: ModuleType) -> ModuleType:
        """The benchmark of an op with one more provider: this revision."""
        return _Joined(self, op, module)

    def provider(self, op: str, case: Case) -> Provider:
        return self._client.provider(op, case, self._note)

    def contender(self, op: str, case: Case, tensors: dict[str, Tensor]) -> timing.Contender:
        return self._client.contender(op, case, tensors)

    def release(self) -> None:
        """Free what the last case left there, if its process still runs."""
        if self._connection is not None:
            self._client.ask("release")

    def processor_seconds(self) -> float:
        """Of this process and of the revision's."""
        return time.process_time() + self._client.processor_seconds

    def start(self) -> None:
        """A process of the revision; also after an earlier one has died."""
        path = self._folder / "path"
        ours, theirs = Pipe()
        found = filter(None, [os.environ.get("PYTHONPATH")])
        # The folder of `python -m` comes first in sys.path, before anything installed.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", str(theirs.fileno()), str(self._threads)],
            cwd=path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(path), *found])},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C is for the run; this process ends with its pipe
        )
        theirs.close()
        self._connection = ours
        try:
            folder, backend = self._client.ask("package")
        except Failed as error:
            raise Unusable(f"the package of {self.name} fails: {error}") from None
        if Path(folder) != (self._folder / "tree" / "pose_kernels").resolve():
            raise Unusable(f"{self.name} was to be compared, but {folder} was imported")
        if backend != "cpp":
            self._note = f"runs on its backend {backend!r}"

    def _send(self, request: bytes) -> bytes:
        if self._connection is None:
            self.start()
        assert self._connection is not None
        try:
            self._connection.send_bytes(request)
            return self._connection.recv_bytes()
        except (EOFError, OSError):
            code = self.stop()
            raise Failed(f"the process of {self.name} ended with {code}") from None

    def stop(self) -> int | None:
        process, self._process = self._process, None
        if self._connection is not None:
            self._connection.close()  # the process ends when it reads the end of its pipe
            self._connection = None
        if process is None:
            return None
        try:
            return process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


class _Joined(ModuleType):
    def __init__(self, revision: Revision, op: str, module: ModuleType) -> None:
        super().__init__(module.__name__)
        self._revision, self._op, self._module = revision, op, module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def providers(self, case: Case, device: str) -> list[Provider]:
        return [*self._module.providers(case, device), self._revision.provider(self._op, case)]


def _git(*words: str) -> str:
    command = ["git", "-c", f"core.hooksPath={os.devnull}", *words]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError as error:
        raise Unusable(f"git does not run: {error}") from None
    if done.returncode != 0:
        raise Unusable(f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


class _undisturbed:
    """No Ctrl-C and no TERM in the middle of cleaning up."""

    def __enter__(self) -> None:
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, signal.SIG_IGN)

    def __exit__(self, *reason: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
