# SPDX-License-Identifier: Apache-2.0
"""One case: every provider is checked, and those that agree are timed."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from . import agreement, memory, registry, roofline, timing
from .progress import Progress
from .registry import Case, Provider, unavailable
from .report import Row
from .revision import Revision, Unusable
from .worker import Failed


class Clock(NamedTuple):
    """How long to time: blocks per provider; wait for quiet, and slow calls, in seconds."""

    rounds: int
    patience: float
    limit: float


class Session(NamedTuple):
    """What is the same for all cases of a run."""

    device: str
    cold: bool
    compiled: bool
    ceiling: roofline.Ceiling
    peaks: memory.Peaks
    clock: Clock
    revision: Revision | None
    progress: Progress


def contenders(module: ModuleType, case: Case, session: Session) -> list[Provider]:
    providers = [
        provider
        for provider in module.providers(case, session.device)
        if provider.gradients or case.direction == "forward"
    ]
    if session.compiled:
        torch._dynamo.reset()  # or its limit of recompilations is one for all cases
        providers += registry.compiled(providers)
    return providers


def measure(op: str, case: Case, session: Session) -> list[Row]:
    """A row for every provider, also for those that are refused."""
    module = registry.load(op)
    if session.revision is not None:
        module = session.revision.joined(op, module)
    tensors = module.inputs(case, session.device)
    moved = module.bytes_moved(case)
    rows, ready, calls = [], {}, []
    for provider in contenders(module, case, session):
        row = Row(
            *(op, case.direction, case.title, provider.name, provider.kind),
            *(moved, module.flops(case), session.ceiling.at(moved), provider.note),
        )
        rows.append(row)
        row.refused = unavailable(provider) or check(module, case, provider, tensors)
        if row.refused is not None:
            session.progress.say(f"    {provider.name}: {row.refused}")
            continue
        ready[provider.name] = row
        key = memory.key(op, case, provider)
        row.peak_bytes, row.result_bytes = session.peaks.found.get(key, (None, None))
        if session.device == "cuda":
            try:
                with provider.active():
                    call = registry.workload(module, case, provider, tensors)
                    row.result_bytes = memory.size_of(call())
                    row.peak_bytes = memory.peak(call, "cuda")
                _fill(row, cuda_timing(module, case, provider, tensors, session))
            except RuntimeError as error:  # a capture that fails, memory that is not there
                row.refused = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                session.progress.say(f"    {provider.name}: {row.refused}")
        elif provider.kind != "earlier":
            call = registry.workload(module, case, provider, tensors)
            calls.append(timing.Contender(provider.name, call, provider.active))
    agreement.forget()
    gc.collect()
    if calls:
        for name, result in in_turns(op, case, tensors, calls, ready, session).items():
            _fill(ready[name], result)
    return rows


def in_turns(
    op: str,
    case: Case,
    tensors: dict[str, Tensor],
    calls: Sequence[timing.Contender],
    ready: dict[str, Row],
    session: Session,
) -> dict[str, timing.Timing]:
    """Time our own calls, and the other revision if it is ready."""
    clock, revision = session.clock, session.revision
    before = timing.evictor() if session.cold else None

    def timed(
        contenders: Sequence[timing.Contender], own: Callable[[], float] = time.process_time
    ) -> dict[str, timing.Timing]:
        return timing.interleave(
            contenders,
            rounds=clock.rounds,
            patience=clock.patience,
            before=before,
            limit_s=clock.limit,
            own=own,
        )

    if revision is None or revision.name not in ready:
        return timed(calls)
    try:
        other = revision.contender(op, case, tensors)
        # Beside ours, the first: nothing lies between the two that are compared.
        found = timed([calls[0], other, *calls[1:]], revision.processor_seconds)
        revision.release()
        return found
    except (Failed, Unusable) as error:  # it has died under the clock
        ready.pop(revision.name).refused = str(error)
        return timed(calls)


def check(
    module: ModuleType, case: Case, provider: Provider, tensors: dict[str, Tensor]
) -> str | None:
    try:
        return agreement.disagreement(module, case, provider, tensors)
    except (Failed, Unusable) as error:
        return str(error)
    except Exception as error:  # one that cannot run is a row of the table, not the end of the run
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def cuda_timing(
    module: ModuleType,
    case: Case,
    provider: Provider,
    tensors: dict[str, Tensor],
    session: Session,
) -> timing.Timing:
    size = sum(x.nbytes for x in tensors.values())
    sets = timing.l2_sets(size) if session.cold else 1

    def make_calls() -> list:
        return [
            # A cache sees addresses, not values: copies will do.
            registry.workload(module, case, provider, {k: x.clone() for k, x in tensors.items()})
            for _ in range(sets)
        ]

    capture = not provider.synchronizes
    return timing.cuda_timing(
        make_calls, provider.active, rounds=session.clock.rounds, capture=capture
    )


def _fill(row: Row, result: timing.Timing) -> None:
    row.median_ms, row.low_ms, row.high_ms, row.least_ms = (1e3 * s for s in result[:4])
    row.samples, row.foreign, row.noisy, row.method = result[4:]
