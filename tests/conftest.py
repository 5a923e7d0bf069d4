# SPDX-License-Identifier: Apache-2.0
"""Fixtures of every test, and the closing line that says which backends the run exercised.

A test that names the fixture ``place`` runs once per backend and device that this machine has; one
that names ``device`` runs once per device, on the backend chosen automatically. A test of another
kind (emulated, interpreted, compiled only) says what it exercises with
``@pytest.mark.exercises("cuda-emulated")``. Only tests that pass count.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import pytest
import torch

import pose_kernels as pk

pytest.register_assert_rewrite(
    "adversary", "cases", "contract", "contract_gradients", "contract_modes", "surface", "volume"
)

# What a complete run exercises, in the order of the closing line.
BACKENDS = ("cpp", "reference", "triton-interpreted", "triton-compiled", "cuda-emulated")
GPU_BACKENDS = ("cuda", "triton on a GPU", "reference on a GPU")
_exercised: dict[str, int] = {}
_labels = pytest.StashKey[set[str]]()


class Place(NamedTuple):
    backend: str
    device: str

    def __str__(self) -> str:
        return f"{self.backend}-{self.device}"

    @property
    def label(self) -> str:
        if self.device == "cpu":
            return "triton-interpreted" if self.backend == "triton" else self.backend
        return self.backend if self.backend == "cuda" else f"{self.backend} on a GPU"


def _devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _places() -> list[Place]:
    missing = pk.backends.unavailable
    places = [Place(name, "cpu") for name in ("cpp", "reference") if name not in missing]
    if torch.cuda.is_available():
        names = ("cuda", "triton", "reference")
        places += [Place(name, "cuda") for name in names if name not in missing]
    return places


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "exercises(name): what a passing test proves to work")
    config.addinivalue_line("markers", "large: needs a GPU with more than 20 GB free")
    torch.set_num_threads(min(2, os.cpu_count() or 1))


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


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("large"):
        if not torch.cuda.is_available():
            pytest.skip("no GPU here")
        if torch.cuda.mem_get_info()[0] < 20 * 2**30:
            pytest.skip("less than 20 GB of GPU memory are free")


@pytest.fixture
def place(request: pytest.FixtureRequest):
    """(backend, device), with that backend in force."""
    chosen: Place = request.param
    request.node.stash.setdefault(_labels, set()).add(chosen.label)
    with pk.use_backend(chosen.backend):
        yield chosen


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    """A device, with the backend that is chosen there automatically."""
    op = getattr(request.cls, "op", pk.uv_splat).__name__
    chosen = Place(pk.backends.chosen(op, request.param), request.param)
    request.node.stash.setdefault(_labels, set()).add(chosen.label)
    return chosen.device


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
    report = (yield).get_result()
    if report.when == "call" and report.passed:
        labels = set(item.stash.get(_labels, ()))
        labels |= {name for mark in item.iter_markers("exercises") for name in mark.args}
        for label in labels:
            _exercised[label] = _exercised.get(label, 0) + 1


def _why_not(label: str) -> str:
    if label.endswith("-interpreted") or label.endswith("-compiled") or label.endswith("-emulated"):
        return "its tests did not run or did not pass"
    backend = label.split(" ")[0]
    if backend in pk.backends.unavailable:
        return pk.backends.unavailable[backend].splitlines()[0]
    if label in GPU_BACKENDS and not torch.cuda.is_available():
        return "no GPU here"
    return "no test of it ran and passed"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    known = [*BACKENDS, *GPU_BACKENDS]
    done = [label for label in known if label in _exercised]
    done += sorted(set(_exercised) - set(known))
    missing = [f"{label} ({_why_not(label)})" for label in known if label not in _exercised]
    line = f"backends exercised: {', '.join(done) or 'none'}"
    line += f"; NOT exercised: {', '.join(missing)}" if missing else "; all of them"
    terminalreporter.write_line(line, yellow=bool(missing), green=not missing)
