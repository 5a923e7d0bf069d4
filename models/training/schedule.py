# SPDX-License-Identifier: Apache-2.0
"""The stages of a run one after the other: who trains at which step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..system import Stage


@dataclass(frozen=True)
class Segment:
    """A stage and the steps [start, stop) of the run that are its own."""

    stage: Stage
    start: int
    stop: int


def plan(
    stages: Sequence[Stage], steps: int | None = None, only: str | None = None
) -> list[Segment]:
    """All stages, or one; with `steps`, cut down or stretched to that many in all.

    The steps are divided in proportion to the stages' own, by largest remainder, each at least 1.

    Raises ValueError for an unknown stage, or fewer steps than stages.
    """
    names = [stage.name for stage in stages]
    if only is not None and only not in names:
        raise ValueError(f"--stage must be one of {', '.join(names)}, got {only!r}")
    chosen = [stage for stage in stages if only in (None, stage.name)]
    lengths = [stage.steps for stage in chosen]
    if steps is not None:
        if steps < len(chosen):
            raise ValueError(f"--steps must be at least 1 for each of {', '.join(names)}")
        lengths = _divide(steps, lengths)
    segments, start = [], 0
    for stage, length in zip(chosen, lengths):
        segments.append(Segment(stage, start, start + length))
        start += length
    return segments


def _divide(total: int, weights: list[int]) -> list[int]:
    spare = total - len(weights)  # what is left when each has its one step
    shares = [spare * weight / sum(weights) for weight in weights]
    parts = [1 + int(share) for share in shares]
    by_rest = sorted(range(len(weights)), key=lambda i: int(shares[i]) - shares[i])
    for i in by_rest[: total - sum(parts)]:
        parts[i] += 1
    return parts
