# SPDX-License-Identifier: Apache-2.0
"""Takes the place of hypothesis on a machine that lacks it and has no network: what is tested with
random inputs is skipped, with that reason, and the rest of each file runs. See gpu_stages.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


class Strategy:
    """Nobody draws from it."""

    def _same(self, *args: Any, **keywords: Any) -> Strategy:
        return self

    map = filter = flatmap = __or__ = __call__ = _same


class AnyName:
    """Has whatever attribute is asked for."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __getattr__(self, name: str) -> Any:
        return self.value


def unchanged(*args: Any, **keywords: Any) -> Callable[[Any], Any]:
    return lambda test: test


def given(*args: Any, **keywords: Any) -> Callable[[Any], Any]:
    return pytest.mark.skip(reason="hypothesis is not installed here")


strategies = AnyName(lambda *args, **keywords: Strategy())
HealthCheck = Phase = Verbosity = AnyName(None)
settings = example = seed = unchanged
