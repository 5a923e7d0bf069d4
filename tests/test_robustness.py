# SPDX-License-Identifier: Apache-2.0
"""All ops in the surroundings of a real program: threads, deterministic mode, long runs, copies.

Worker processes are in test_workers.py, an import without compiled libraries in test_import.py.
"""

from __future__ import annotations

import copy
import gc
import io
import pickle
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from cases import DTYPES
from every_op import CONTRACTS, Pass
from meshes import sphere
from torch import Tensor

import pose_kernels as pk
from pose_kernels.clip import Clip
from pose_kernels.io import IUV
from pose_kernels.obj import Mesh
from pose_kernels.people.pose import Pose
from pose_kernels.people.wardrobe import identity
from pose_kernels.repose_volume import repose_volume
from pose_kernels.skeleton_tables import SKELETONS
from pose_kernels.testing import synthetic_iuv
from pose_kernels.transfer import transfer_texture
from pose_kernels.turned_mesh import turned_flow


def together(work: Callable[[int], None], count: int) -> None:
    """work(0), .., work(count - 1), a thread each, all let go at once; raises what one raises."""
    start, failures = threading.Barrier(count), []

    def run(i: int) -> None:
        try:
            start.wait()
            work(i)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


# ---- threads


def test_eight_threads_run_all_ops_at_once(device):
    """Two threads each on the same inputs, four kinds of them, each thread at another op."""
    names = list(CONTRACTS)
    every = {(n, d): Pass(n, CONTRACTS[n].collide, d, device) for n in names for d in DTYPES}
    expected = {key: run() for key, run in every.items()}

    def work(i: int) -> None:
        for turn in range(len(names)):
            key = names[(turn + 2 * i) % len(names)], DTYPES[i % len(DTYPES)]
            assert every[key].same(every[key](), expected[key]), key

    together(work, 8)


def test_a_thread_inside_use_backend_decides_for_all(device):
    """As documented, one choice per process. It is made while nothing runs."""
    names = ("uv_splat", "uv_gather", "push_pull", "flow_warp", "region_crop", "helmert_fit")
    every = [Pass(name, CONTRACTS[name].tame, torch.float64, device) for name in names]
    expected = [run() for run in every]
    inside, left = threading.Barrier(4, timeout=60), threading.Barrier(4, timeout=60)
    seen: list[str] = []

    def work(i: int) -> None:
        with pk.use_backend("reference") if i == 0 else nullcontext():
            inside.wait()
            seen.append(pk.backends.chosen("uv_splat", device))
            for run, want in zip(every, expected, strict=True):
                for a, b in zip(run(), want, strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
            left.wait()

    together(work, 4)
    assert seen == ["reference"] * 4
    assert pk.backends.current() == "auto"


# ---- deterministic algorithms


@pytest.mark.parametrize("name", CONTRACTS)
def test_deterministic_algorithms(place, name):
    """Not an error anywhere, the same bits every time, and those of the mode that is off."""
    contract, slow = CONTRACTS[name], place.backend == "reference"
    run = Pass(name, contract.tame if slow else contract.collide, torch.float32, place.device)
    before = torch.are_deterministic_algorithms_enabled()
    try:
        torch.use_deterministic_algorithms(True)
        first, second = run(), run()
        torch.use_deterministic_algorithms(False)
        third = run()
    finally:
        torch.use_deterministic_algorithms(before, warn_only=True)
    assert run.same(first, second)
    if place.backend in ("cpp", "cuda"):
        assert run.same(first, third)


# ---- long runs


def occupied() -> tuple[int, int]:
    """Kilobytes of this process in memory, and blocks that Python's objects lie in."""
    gc.collect()
    with open("/proc/self/status") as file:
        resident = next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
    return resident, sys.getallocatedblocks()


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_memory_does_not_grow(device, one_thread):
    """10,000 passes, forward and backward, of all ops together: neither Python's nor any other."""
    every = [Pass(name, CONTRACTS[name].tame, torch.float32, device) for name in CONTRACTS]

    def passes(count: int) -> None:
        for _ in range(count):
            for run in every:
                run()

    passes(40)
    sizes = [occupied()]
    for _ in range(4):
        passes(2500 // len(every) + 1)
        sizes.append(occupied())
    # Heaps settle now and then, and what they hold is exchanged; a leak grows in every quarter.
    pages, blocks = (min(b - a for a, b in pairwise(x)) for x in zip(*sizes, strict=True))
    assert pages < 64, f"{sizes}: {pages} kB in 2500 passes"
    assert blocks < 250, f"{sizes}: {blocks} objects in 2500 passes"


# ---- copies


def equal(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a.nan_to_num(), b.nan_to_num()) and a.stride() == b.stride()
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, tuple):
        return type(a) is type(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if hasattr(a, "__dict__"):
        return type(a) is type(b) and all(equal(x, vars(b)[k]) for k, x in vars(a).items())
    return a == b


def saved_and_loaded(x: object) -> object:
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "deepcopy": copy.deepcopy,
    "torch.save": saved_and_loaded,
}


def public_objects() -> dict[str, object]:
    part, uv = synthetic_iuv(1, 24, 24)
    iuv = IUV(part[0].byte(), uv[0])
    vertices, faces = sphere(6, 8, 1.0, 0.0)
    joints = torch.rand(2, 19, 3) * 60 + 90
    return {
        **SKELETONS,
        "Clip": Clip(joints, SKELETONS["reposing19"]),
        "BodyParts": pk.body_parts(joints),
        "Capsules": pk.body_parts(joints).capsules,
        "IUV": iuv,
        "Transfer": transfer_texture(torch.rand(3, 24, 24), iuv, iuv, 8),
        "Repose": repose_volume(joints[0], joints[1], "reposing19", 8),
        "TurnedFlow": turned_flow(vertices, faces, 40.0, 32),
        "Mesh": Mesh(vertices.double(), faces, ("ball",)),
        "Pose": Pose(),
        "Identity": identity(3),
        "ops": tuple(getattr(pk, name) for name in pk.reference.__all__),
        "references": tuple(getattr(pk.reference, name) for name in pk.reference.__all__),
    }


@pytest.mark.parametrize("how", COPIES)
def test_copies_of_what_the_package_returns(how):
    for name, x in public_objects().items():
        assert equal(x, COPIES[how](x)), name


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_outputs_are_ordinary_tensors(device, last):
    """They survive torch.save, which keeps values and strides, and nothing else comes along."""
    for name, contract in CONTRACTS.items():
        run = Pass(name, contract.tame, torch.float32, device)
        if last and contract.values:
            run.inputs[contract.values] = run.contract.last(run.inputs[contract.values])
        for x in run():
            file = io.BytesIO()
            torch.save(x, file)
            assert file.tell() < 4096 + 2 * x.numel() * x.element_size(), name
            file.seek(0)
            again = torch.load(file, weights_only=True)
            assert equal(x, again) and x.dtype == again.dtype and x.device == again.device, name


class Repainted(torch.nn.Module):
    """A model around ops: an atlas that is learned, painted into a pose."""

    def __init__(self) -> None:
        super().__init__()
        self.atlas = torch.nn.Parameter(torch.rand(1, 24, 3, 8, 8))
        self.paint, self.fill = pk.uv_gather, pk.push_pull

    def forward(self, part: Tensor, uv: Tensor) -> Tensor:
        weight = torch.ones(1, 24, 8, 8, device=part.device)
        return self.paint(self.fill(self.atlas, weight), part, uv)


@pytest.mark.parametrize("how", COPIES)
def test_copies_of_a_module_that_holds_ops(device, how):
    model = Repainted().to(device)
    part, uv = (x.to(device) for x in synthetic_iuv(1, 20, 20))
    other = COPIES[how](model)
    assert torch.equal(other(part, uv), model(part, uv))
    other(part, uv).sum().backward()
    assert other.atlas.grad.abs().sum() > 0 and model.atlas.grad is None
