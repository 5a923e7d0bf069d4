# SPDX-License-Identifier: Apache-2.0
"""Another revision's package in a process of its own: what it is asked, and what it answers.

The process imports that revision's pose_kernels, and the benchmarks of this one. Requests come one
at a time: (name of a method of Server, arguments) -> (ok, result or reason, processor seconds so
far), pickled. Inputs are sent, never drawn anew, so that both revisions get the same bits.

    python -m benchmarks.worker FILE_DESCRIPTOR THREADS          revision.py starts it so
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pose_kernels as pk

from . import registry, timing
from .registry import Case, Provider


class Missing(LookupError):
    """An op that the other revision does not have."""


class Server:
    """Answers in the other process. It keeps one graph and one workload at a time."""

    def __init__(self) -> None:
        self._graph: tuple[Tensor, list[Tensor]] | None = None
        self._workload: tuple[Callable[[], Any], Provider] | None = None
        self._evict: Callable[[], Any] | None = None

    def answer(self, request: bytes) -> bytes:
        try:
            method, *arguments = pickle.loads(request)  # imports what a case is made of
            found = True, getattr(self, method)(*arguments)
        except Missing as error:
            found = False, str(error)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else ""
            found = False, f"{type(error).__name__}: {reason}"
        return pickle.dumps((*found, time.process_time()))

    def package(self) -> tuple[str, str]:
        """The folder of the package, and the backend that its ops run on."""
        return str(Path(pk.__file__).resolve().parent), pk.backends.chosen("uv_splat", "cpu")

    def run(
        self, op: str, case: Case, tensors: tuple[Tensor, ...], needs_grad: tuple[bool, ...]
    ) -> tuple[Tensor, ...]:
        """The outputs; where anything needs a gradient the graph is kept for gradients()."""
        provider = self._ours(op, case)
        arguments = [x.requires_grad_(needed) for x, needed in zip(tensors, needs_grad)]
        with provider.active(), torch.set_grad_enabled(any(needs_grad)):
            outputs = provider.call(*arguments)
        self._graph = outputs[0], [x for x in arguments if x.requires_grad]
        return tuple(x.detach() for x in outputs)

    def gradients(self, cotangent: Tensor) -> tuple[Tensor, ...]:
        assert self._graph is not None
        (output, wanted), self._graph = self._graph, None
        return torch.autograd.grad(output, wanted, cotangent)

    def prepare(self, op: str, case: Case, tensors: dict[str, Tensor]) -> None:
        self._graph = None
        provider = self._ours(op, case)
        self._workload = registry.workload(registry.load(op), case, provider, tensors), provider

    def seconds(self, count: int, cold: bool) -> list[float]:
        assert self._workload is not None
        call, provider = self._workload
        if cold:
            self._evict = self._evict or timing.evictor()
        with provider.active():
            return timing.Contender("", call, provider.active).seconds(
                count, self._evict if cold else None
            )

    def release(self) -> None:
        self._graph = self._workload = None

    @staticmethod
    def _ours(op: str, case: Case) -> Provider:
        if not hasattr(pk, op):
            raise Missing(f"that revision has no {op}")
        return next(p for p in registry.load(op).providers(case, "cpu") if p.kind == "ours")


class Failed(RuntimeError):
    """The other process could not do what it was asked, or is gone."""


class Client:
    """Asks, from this process. send: the bytes of a request -> the bytes of its answer."""

    def __init__(self, name: str, send: Callable[[bytes], bytes]) -> None:
        self.name, self._send = name, send
        self.processor_seconds = 0.0

    def ask(self, method: str, *arguments: Any) -> Any:
        done, result, self.processor_seconds = pickle.loads(
            self._send(pickle.dumps((method, *arguments)))
        )
        if not done:
            raise Failed(result)
        return result

    def provider(self, op: str, case: Case, note: str = "") -> Provider:
        """The op as that revision computes it, gradients included, for the check."""

        def call(*tensors: Tensor) -> tuple[Tensor, ...]:
            needs_grad = tuple(torch.is_grad_enabled() and x.requires_grad for x in tensors)
            return _Elsewhere.apply(self, op, case, needs_grad, *tensors)

        return Provider(self.name, "earlier", call, note=note)

    def contender(self, op: str, case: Case, tensors: dict[str, Tensor]) -> timing.Contender:
        """For the clock, which runs there: what is sent between the processes is not on it."""
        self.ask("prepare", op, case, {name: x.detach() for name, x in tensors.items()})

        def block(count: int, cold: bool) -> list[float]:
            return self.ask("seconds", count, cold)

        return timing.Contender(self.name, tuple, nullcontext, block)


class _Elsewhere(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, client: Client, op: str, case: Case, needs_grad: tuple, *tensors: Tensor):
        ctx.client, ctx.needs_grad = client, needs_grad
        return client.ask("run", op, case, tuple(x.detach() for x in tensors), needs_grad)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        found = iter(ctx.client.ask("gradients", grads[0]))
        return (None,) * 4 + tuple(next(found) if needed else None for needed in ctx.needs_grad)


def main() -> int:
    connection, threads = Connection(int(sys.argv[1])), int(sys.argv[2])
    torch.set_num_threads(threads)
    server = Server()
    while True:
        try:
            connection.send_bytes(server.answer(connection.recv_bytes()))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return 0


if __name__ == "__main__":
    sys.exit(main())
