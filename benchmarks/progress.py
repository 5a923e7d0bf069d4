# SPDX-License-Identifier: Apache-2.0
"""How far a run is, on standard error: a bar on a terminal, a line per case elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence

BAR = 20  # characters


class Progress:
    """weights: how long every case is expected to take, in any unit."""

    def __init__(
        self, weights: Sequence[float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._weights, self._clock = list(weights), clock
        self._began, self.done, self._bar = clock(), 0, ""

    def begin(self, words: str) -> None:
        """The next case begins."""
        count = f"{self.done}/{len(self._weights)}"
        if not sys.stderr.isatty():
            print(f"[{count} done; {self.times()}] {words}", file=sys.stderr, flush=True)
            return
        full = BAR * self.done // len(self._weights)
        line = f"[{'#' * full}{'.' * (BAR - full)}] {count}, {self.times()}: {words}"
        self._bar = line[: shutil.get_terminal_size().columns - 1]
        self._draw()

    def end(self) -> None:
        """It has ended."""
        self.done += 1
        self.clear()
        self._bar = ""

    def times(self) -> str:
        gone = self._clock() - self._began
        words = f"{minutes(gone)} gone"
        if self.done:
            done, left = sum(self._weights[: self.done]), sum(self._weights[self.done :])
            words += f", about {minutes(gone * left / done)} left"
        return words

    def say(self, words: str) -> None:
        """A line that stays."""
        self.clear()
        print(words, file=sys.stderr, flush=True)
        self._draw()

    def clear(self) -> None:
        """Before anything else is printed: it may be to the same terminal."""
        if self._bar:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _draw(self) -> None:
        if self._bar:
            print(f"\r\033[K{self._bar}", end="", file=sys.stderr, flush=True)


def minutes(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
