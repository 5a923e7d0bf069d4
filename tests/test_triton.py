# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels where there is no GPU: in Triton's interpreter, and compiled for every GPU.

Triton decides between the two when a kernel is defined, once per process, so each has a process of
its own, which runs triton_worker*.py; both start together, with the first test here. On a GPU the
kernels also run as the backend "triton" of the other test files.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import executions
import pytest

import pose_kernels as pk

if importlib.util.find_spec("triton") is None:
    pytest.skip("the package triton is not installed", allow_module_level=True)

HERE = Path(__file__).parent
WORKERS = sorted(HERE.glob("triton_worker*.py"))
TESTS = [  # file.test, as the report of a run names them
    f"{worker.stem}.{node.name}"
    for worker in WORKERS
    for node in ast.parse(worker.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
]


def kind_of(name: str) -> str:
    return name.split(".")[1].split("_")[1]


class Run:
    """One process that runs the tests of the workers whose names contain ``kind``."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.report, self.log = folder / f"{kind}.xml", folder / f"{kind}.log"
        environment = {k: v for k, v in os.environ.items() if k != "POSE_KERNELS_BACKEND"}
        environment["TRITON_INTERPRET"] = "1" if kind == "value" else "0"
        # The same pose_kernels as here, wherever it is installed.
        paths = [str(Path(pk.__file__).parents[1]), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        command = [sys.executable, "-m", "pytest", "-q", "-k", f"test_{kind}"]
        command += ["-p", "no:cacheprovider", f"--junitxml={self.report}"]
        command += [worker.name for worker in WORKERS]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                command, cwd=HERE, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        self.cases: dict[str, list[ElementTree.Element]] | None = None

    def check(self, name: str) -> None:
        """Every case of the test ran and passed; what they executed, this test has executed."""
        if self.cases is None:
            self.process.wait(timeout=900)
            if not self.report.exists():
                pytest.fail(self.log.read_text(), pytrace=False)
            self.cases = {}
            for case in ElementTree.parse(self.report).iter("testcase"):
                file = case.get("classname", "").split(".")[-1]
                name_of_case = f"{file}.{case.get('name', '').split('[')[0]}"
                self.cases.setdefault(name_of_case, []).append(case)
        assert name in self.cases, self.log.read_text()
        for case in self.cases[name]:
            for problem in case:
                if problem.tag in ("failure", "error", "skipped"):
                    pytest.fail(f"{case.get('name')}\n{problem.text}", pytrace=False)
            properties = [(x.get("name", ""), x.get("value")) for x in case.iter("property")]
            executions.current.update(executions.cells(properties))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    folder = tmp_path_factory.mktemp("triton")
    started = {kind: Run(kind, folder) for kind in ("value", "compile")}
    yield started
    for run in started.values():
        run.process.kill()
        run.process.wait()


@pytest.mark.parametrize("name", [name for name in TESTS if kind_of(name) == "value"])
def test_interpreted(runs: dict[str, Run], name: str) -> None:
    runs["value"].check(name)


@pytest.mark.parametrize("name", [name for name in TESTS if kind_of(name) == "compile"])
def test_compiled(runs: dict[str, Run], name: str) -> None:
    runs["compile"].check(name)


def test_every_test_of_the_workers_is_one_or_the_other() -> None:
    assert {kind_of(name) for name in TESTS} == {"value", "compile"}
