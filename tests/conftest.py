# SPDX-License-Identifier: Apache-2.0
"""Fixtures of every test, and the closing lines that say which backends executed which op.

A test that names the fixture ``place`` runs once per backend and device that this machine has; one
that names ``device`` runs once per device, on the backend chosen automatically. What a test
executed is recorded (executions.py); only tests that pass count. A complete run prints the table,
and fails where a backend that this machine has did not execute an op.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import executions
import pytest
import torch

import pose_kernels as pk

pytest.register_assert_rewrite(
    "adversary", "cases", "contract", "contract_gradients", "contract_modes", "surface", "volume"
)


class Place(NamedTuple):
    backend: str
    device: str

    def __str__(self) -> str:
        return f"{self.backend}-{self.device}"


def _devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _places() -> list[Place]:
    missing = pk.backends.unavailable
    places = [Place(name, "cpu") for name in ("cpp", "reference") if name not in missing]
    if torch.cuda.is_available():
        names = ("cuda", "triton", "reference")
        places += [Place(name, "cuda") for name in names if name not in missing]
    return places


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend-table", metavar="FILE", type=Path, help="write which backend executed which op"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "large: needs a GPU with more than 20 GB free")
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    executions.watch_dispatcher()


SLOW_TESTS = "POSE_KERNELS_SLOW_TESTS" in os.environ


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames:
        places = _places()
        if getattr(metafunc.cls, "slow_reference", False) and not SLOW_TESTS:
            places = [place for place in places if place.backend != "reference"]
        metafunc.parametrize("place", places, ids=str, indirect=True)
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", _devices(), indirect=True)
    if metafunc.cls is not None and hasattr(metafunc.cls, "parameters"):  # a contract
        names = set(metafunc.fixturenames)
        if {"case", "dtype"} <= names:  # together: not every case in every dtype
            names = names - {"case", "dtype"} | {"case, dtype"}
        for name, (values, ids) in metafunc.cls.parameters().items():
            if name in names:
                metafunc.parametrize(name, values, ids=ids)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    executions.current.clear()
    if item.get_closest_marker("large"):
        if not torch.cuda.is_available():
            pytest.skip("no GPU here")
        if torch.cuda.mem_get_info()[0] < 20 * 2**30:
            pytest.skip("less than 20 GB of GPU memory are free")


@pytest.fixture
def place(request: pytest.FixtureRequest):
    """(backend, device), with that backend in force."""
    chosen: Place = request.param
    with pk.use_backend(chosen.backend):
        yield chosen


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    """A device, with the backend that is chosen there automatically."""
    return request.param


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Fill memory that PyTorch hands out uninitialized with NaN: what no kernel wrote then shows.

    On a GPU that mode would also switch the kernels to their deterministic path, so there the
    blocks that the allocator will hand out again are filled beforehand.
    """
    if torch.cuda.is_available():
        for size in [2**18] * 64 + [2**25]:
            torch.full((size,), float("nan"), device="cuda")
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    if call.when == "call":
        item.user_properties += executions.properties()
    yield


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        executions.passed.update(executions.cells(report.user_properties))


def _complete(config: pytest.Config) -> bool:
    """Nobody chose some of the tests."""
    options = ("keyword", "markexpr", "deselect", "ignore", "ignore_glob", "lf", "collectonly")
    if config.args_source is pytest.Config.ArgsSource.ARGS:
        return False
    return not any(getattr(config.option, name, None) for name in options)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == 0 and _complete(session.config) and executions.empty_cells():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    write = terminalreporter.write_line
    file = config.getoption("--backend-table")
    if file:
        file.write_text(executions.as_page())
    if _complete(config):
        write("passed tests that executed the op, by backend:")
        write(executions.as_text())
        for op, backend in executions.empty_cells() if exitstatus == 0 else ():
            write(f"FAILED: no test executed {op} on {backend} and passed", red=True)
    done = [b for b in executions.COLUMNS if any(b == name for _, name in executions.passed)]
    missing = [
        f"{b} ({executions.why_none(b) or 'no test of it ran and passed'})"
        for b in executions.COLUMNS
        if b not in done
    ]
    line = f"backends exercised: {', '.join(done) or 'none'}"
    line += f"; NOT exercised: {', '.join(missing)}" if missing else "; all of them"
    write(line, yellow=bool(missing), green=not missing)
