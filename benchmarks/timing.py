# SPDX-License-Identifier: Apache-2.0
"""The clock: providers take turns, and samples taken while others used the machine are set aside.

CPU. In every round each provider runs one block of calls, so that ratios come from the same
minutes. Before a block the clock waits until the rest of the machine uses less than 3 % of it (for
a while: WAIT_S; not at all where the last block had such quiet), and a block during which it used
more than 6 % is not counted, unless there are no others; then the row is marked noisy. A call's
result is freed on the clock, as in a loop.
What takes seconds a call gets fewer samples (LIMIT_S), in the extreme one: the row says how many.
A block begins with a call off the clock: memory that a virtual machine has had free for seconds
may have gone back to its host (free page reporting), and who touches it next waits for it.

CUDA. Blocks of graph replays between two events. A graph holds one call per set of inputs, with
sets enough (at least four) that one replay does not find its data in the L2 cache; one set when a
warm cache is asked for. What cannot be
captured (nonzero waits for the GPU) is timed call by call, and says so; likewise a call that takes
longer than a block, of which there are no more than ``rounds``.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch

QUIET, NOISY = 0.03, 0.06  # share of the machine that others use
WAIT_S, WATCH_S = 5.0, 0.1  # longest wait for quiet, and how long a look at the load takes
BLOCK_S = 0.25  # a clock tick of /proc/stat is 10 ms: shorter blocks cannot be judged
SLOW_S = 1.0  # a call from here on is its own warm-up, and no block of it is repeated
LIMIT_S = 60.0  # of a provider's timed calls on a case, when they are slow


class Timing(NamedTuple):
    """Seconds per call: quartiles and least of the counted samples."""

    median: float
    low: float
    high: float
    least: float
    samples: int
    foreign: float  # largest share of the machine that others used during a counted block
    noisy: bool
    method: str  # "wall clock", "CUDA graph" or "CUDA events"


class Contender(NamedTuple):
    """What runs on the clock; active is entered around every block.

    block, for what runs in another process: makes so many calls there, with empty caches or not,
    and returns the seconds of each. Then call is not used.
    """

    name: str
    call: Callable[[], Any]
    active: Callable[[], AbstractContextManager[None]]
    block: Callable[[int, bool], list[float]] | None = None

    def seconds(self, count: int, before: Callable[[], Any] | None = None) -> list[float]:
        if self.block is not None:
            return self.block(count, before is not None)
        return [_seconds(self.call, before) for _ in range(count)]


class Block(NamedTuple):
    seconds: list[float]
    foreign: float


class ForeignLoad:
    """Share of the machine's processor time that other processes took since the last look.

    own: processor seconds of this process, and of any other that works for it.
    """

    def __init__(self, own: Callable[[], float] = time.process_time) -> None:
        self._own = own
        self._last = self._read()

    def _read(self) -> tuple[float, float, float]:
        """Seconds busy of all processors, of our own, and on the wall."""
        try:
            with open("/proc/stat") as stat:
                ticks = [int(word) for word in stat.readline().split()[1:9]]
        except OSError:  # not Linux: nothing is known about others
            ticks = [0] * 8
        idle = ticks[3] + ticks[4]
        busy = (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")
        return busy, self._own(), time.perf_counter()

    def look(self) -> float:
        before, self._last = self._last, self._read()
        busy, own, wall = (now - then for now, then in zip(self._last, before, strict=True))
        return max(0.0, busy - own) / max(wall * (os.cpu_count() or 1), 1e-9)


def wait_for_quiet(load: ForeignLoad, patience: float) -> float:
    """Seconds waited until others left the machine alone, or patience (about) was at its end."""
    start = time.perf_counter()
    while time.perf_counter() - start < patience:
        load.look()
        time.sleep(WATCH_S)
        if load.look() < QUIET:
            break
    return time.perf_counter() - start


def interleave(
    contenders: Sequence[Contender],
    *,
    rounds: int,
    block_s: float = BLOCK_S,
    patience: float = WAIT_S,
    before: Callable[[], Any] | None = None,
    limit_s: float = LIMIT_S,
    own: Callable[[], float] = time.process_time,
) -> dict[str, Timing]:
    """Time every contender on the CPU, in turns, until each has ``rounds`` quiet blocks.

    before runs ahead of every call, off the clock. Noisy blocks are repeated, at most ``rounds``
    more times; all waiting together takes at most ``rounds`` times ``patience`` seconds. Calls of
    ``SLOW_S`` and more are timed ``rounds`` times, noise or not, or as often as ``limit_s`` seconds
    allow; where that is once, the call that shows how slow it is counts. own: see ForeignLoad.
    """
    load = ForeignLoad(own)
    spare = rounds * patience
    calls, wanted, most = {}, {}, {}
    blocks: dict[str, list[Block]] = {contender.name: [] for contender in contenders}
    for contender in contenders:
        name = contender.name
        with contender.active():
            load.look()
            (seconds,) = contender.seconds(1, before)
            foreign = load.look()
            wanted[name], most[name] = rounds, 2 * rounds
            if seconds >= SLOW_S:
                wanted[name] = most[name] = max(1, int(min(rounds, limit_s / seconds)))
                if most[name] == 1:
                    blocks[name].append(Block([seconds], foreign))
            else:  # the first call allocates, the next are typical
                seconds = min(contender.seconds(2))
            calls[name] = max(1, int(block_s / seconds))

    def quiet(name: str) -> list[Block]:
        return [block for block in blocks[name] if block.foreign <= NOISY]

    last = 1.0  # share of others: as if they were busy
    for _ in range(2 * rounds):
        waiting = [
            c
            for c in contenders
            if len(quiet(c.name)) < wanted[c.name] and len(blocks[c.name]) < most[c.name]
        ]
        if not waiting:
            break
        for contender in waiting:
            if last >= QUIET:
                spare -= wait_for_quiet(load, min(patience, spare))
            with contender.active():
                if most[contender.name] > wanted[contender.name]:
                    contender.seconds(1)
                load.look()
                timed = contender.seconds(calls[contender.name], before)
                last = load.look()
                blocks[contender.name].append(Block(timed, last))
    return {c.name: _summary(blocks[c.name], quiet(c.name), wanted[c.name]) for c in contenders}


def _seconds(call: Callable[[], Any], before: Callable[[], Any] | None) -> float:
    if before is not None:
        before()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def evictor() -> Callable[[], Any]:
    """Empties the caches of the CPU: overwrites 256 MB."""
    return torch.empty(64 << 20).zero_


def _summary(blocks: list[Block], quiet: list[Block], rounds: int) -> Timing:
    noisy = len(quiet) < (rounds + 1) // 2
    counted = sorted(blocks, key=lambda block: block.foreign)[:rounds] if noisy else quiet
    seconds = [s for block in counted for s in block.seconds]
    foreign = max(block.foreign for block in counted)
    return timing_of(seconds, foreign, noisy, "wall clock")


def timing_of(seconds: list[float], foreign: float, noisy: bool, method: str) -> Timing:
    low = median = high = seconds[0]
    if len(seconds) > 1:  # inclusive: quartiles of few samples lie among them
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(median, low, high, min(seconds), len(seconds), foreign, noisy, method)


def l2_sets(bytes_per_set: int) -> int:
    """Sets of inputs that together are three times the L2 cache, at least four, at most 64."""
    cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    return min(64, max(4, -(-3 * cache // max(1, bytes_per_set))))


def cuda_timing(
    make_calls: Callable[[], Sequence[Callable[[], Any]]],
    active: Callable[[], AbstractContextManager[None]],
    *,
    rounds: int,
    block_s: float = 0.05,
    capture: bool = True,
) -> Timing:
    """Time a provider on the GPU. make_calls builds one call per set of inputs; it runs on the
    stream of the capture, because backward runs where its forward ran."""
    stream = torch.cuda.Stream()
    with active(), torch.cuda.stream(stream):
        calls = make_calls()
        calls[0]()  # compiles
        stream.synchronize()
        if (once := _events(calls[0], 1, stream)) >= block_s:  # no cache decides this one
            more = [_events(calls[0], 1, stream) for _ in range(rounds - 1)]
            return timing_of([once, *more], 0.0, False, "CUDA events")
        for _ in range(2):  # lets the allocator settle
            kept = [call() for call in calls]
        del kept
        stream.synchronize()
        if capture and not _waits(calls[0]):
            replay, method = _captured(calls, stream), "CUDA graph"
        else:
            replay, method = _one_by_one(calls), "CUDA events"
        count = max(1, int(block_s / _events(replay, 1, stream)))
        seconds = [_events(replay, count, stream) / len(calls) for _ in range(4 * rounds)]
    return timing_of(seconds, 0.0, False, method)


def _waits(call: Callable[[], Any]) -> bool:
    """Whether it waits for the GPU, as PyTorch sees it. Better asked than tried: a capture that
    fails leaves the allocator in a state that it does not leave."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return False


def _captured(calls: Sequence[Callable[[], Any]], stream: torch.cuda.Stream) -> Callable[[], None]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        kept = [call() for call in calls]  # alive: every call writes to memory of its own
    del kept
    return graph.replay


def _one_by_one(calls: Sequence[Callable[[], Any]]) -> Callable[[], None]:
    def run() -> None:
        for call in calls:
            call()

    return run


def _events(run: Callable[[], None], count: int, stream: torch.cuda.Stream) -> float:
    """Seconds per run."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record(stream)
    for _ in range(count):
        run()
    end.record(stream)
    end.synchronize()
    return start.elapsed_time(end) * 1e-3 / count
