# SPDX-License-Identifier: Apache-2.0
"""Choosing a backend, and the truth about the choice."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from cases import features

import pose_kernels as pk
from pose_kernels import backends
from pose_kernels.autograd import OPERATORS
from pose_kernels.testing import synthetic_iuv

ROOT = Path(pk.__file__).parent.parent
has = torch._C._dispatch_has_kernel_for_dispatch_key
ALL = "auto, cuda, triton, cpp, reference"
OPS = tuple(OPERATORS)


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh process that imports this pose_kernels."""
    drop = ("POSE_KERNELS_BACKEND", "TRITON_INTERPRET")
    clean = {k: v for k, v in os.environ.items() if k not in drop}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        env={**clean, "PYTHONPATH": str(ROOT), **environment},
    )


def splat() -> torch.Tensor:
    part, uv = synthetic_iuv(1, 20, 20)
    return pk.uv_splat(features((1, 3, 20, 20), torch.float32), part, uv, size=16)[0]


def test_unknown_backend():
    with pytest.raises(ValueError) as error, pk.use_backend("gpu"):
        pass
    assert str(error.value) == f"backend must be one of {ALL}, got 'gpu'"
    assert backends.current() == "auto"


@pytest.mark.parametrize("name", [b for b in backends.BACKENDS if b != "auto"])
def test_a_backend_is_available_or_says_why_not(name):
    if name in backends.unavailable:
        with pytest.raises(ValueError) as error, pk.use_backend(name):
            pass
        reason = backends.unavailable[name]
        assert reason
        assert str(error.value) == f"backend {name!r} is not available: {reason}"
    else:
        with pk.use_backend(name):
            assert backends.current() == name
            assert splat().isfinite().all()
    assert backends.current() == "auto"


def test_blocks_nest_and_an_exception_leaves_none_behind():
    before = splat()
    with pytest.raises(ZeroDivisionError), pk.use_backend("reference"):
        with pk.use_backend("auto"):
            assert backends.current() == "auto"
            assert torch.equal(splat(), before)
        assert backends.current() == "reference"
        assert backends.chosen("uv_splat", "cpu") == "reference"
        raise ZeroDivisionError
    assert backends.current() == "auto"
    assert torch.equal(splat(), before)


def test_blocks_of_two_threads_that_overlap_leave_nothing_behind():
    """Entered one after the other and left in the same order, as no single thread could."""
    first, second = pk.use_backend("reference"), pk.use_backend("auto")
    first.__enter__()
    second.__enter__()
    assert backends.current() == "auto"
    first.__exit__(None, None, None)
    assert backends.current() == "auto"
    second.__exit__(None, None, None)
    assert backends.current() == "auto"


def test_a_failed_switch_changes_nothing(monkeypatch):
    """A backend that turns out to be broken when it is first used leaves the old one in force."""

    def broken():
        raise ImportError("no such luck")

    monkeypatch.setattr(backends, "_triton_kernels", broken)
    monkeypatch.delitem(backends.unavailable, "triton", raising=False)
    with pk.use_backend("reference"):
        with pytest.raises((ValueError, ImportError)), pk.use_backend("triton"):
            pass
        assert backends.current() == "reference"
        assert has("pose_kernels::uv_splat", "CPU")
        assert backends.chosen("uv_splat", "cpu") == "reference"
        calls = count_reference_calls(monkeypatch)
        splat()
        assert calls, "says reference, runs something else"


def count_reference_calls(monkeypatch) -> list[int]:
    """Grows with every call of the index_add that only the reference's splat uses."""
    calls: list[int] = []
    original = torch.Tensor.index_add

    def counted(self, *args, **kwargs):
        calls.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "index_add", counted)
    return calls


def test_what_is_said_to_run_does_run(place, monkeypatch):
    if place.device != "cpu":
        pytest.skip("splat() makes CPU tensors: once, at the place on the CPU")
    assert backends.chosen("uv_splat", "cpu") == place.backend
    calls = count_reference_calls(monkeypatch)
    splat()
    assert bool(calls) == (place.backend == "reference")


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", backends.BACKENDS)
def test_the_choice_for_cuda_tensors_matches_the_dispatcher(name, op):
    """Whatever is chosen for the CPU: a kernel registered for CUDA is the one that is named."""
    if name in backends.unavailable:
        pytest.skip(backends.unavailable[name].splitlines()[0])
    with pk.use_backend(name):
        chosen = backends.chosen(op, "cuda")
        registered = has(f"pose_kernels::{op}", "CUDA")
        assert registered or chosen == "reference", f"says {chosen}, has no kernel for CUDA"


def test_other_devices_get_the_reference():
    assert backends.chosen("uv_splat", "meta") == "reference"
    assert backends.chosen("uv_splat", torch.device("cpu")) in ("cpp", "reference")


def test_a_compiled_graph_follows_the_choice():
    """The choice is made when an op runs, not when it was traced."""
    torch._dynamo.reset()
    compiled = torch.compile(splat, backend="aot_eager")
    first = compiled()
    with pk.use_backend("reference"):
        second = compiled()
        assert torch.equal(second, splat())
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()


def test_switching_many_times_leaks_nothing():
    registered = len(torch.library._defs) if hasattr(torch.library, "_defs") else None
    for _ in range(50):
        with pk.use_backend("reference"):
            pass
    if registered is not None:
        assert len(torch.library._defs) == registered
    assert backends.current() == "auto"


VARIANTS = [
    ("auto", "auto", None),
    ("", "auto", None),
    ("reference", "reference", None),
    ("nonsense", "auto", f"POSE_KERNELS_BACKEND=nonsense is ignored: it must be one of {ALL}"),
    ("CPP", "auto", f"POSE_KERNELS_BACKEND=CPP is ignored: it must be one of {ALL}"),
]
VARIANTS += [
    (name, "auto", f"POSE_KERNELS_BACKEND={name} is ignored: {why.splitlines()[0]}")
    for name, why in backends.unavailable.items()
    if name != "triton"
]


def test_the_environment_variable():
    """One process per value would take a minute: initialize() is run again for each in one."""
    code = (
        "import os, sys, warnings\n"
        "from pose_kernels import backends\n"
        "for value in sys.stdin.read().split('|'):\n"
        "    os.environ['POSE_KERNELS_BACKEND'] = value\n"
        "    backends.unavailable.clear()\n"
        "    with warnings.catch_warnings(record=True) as seen:\n"
        "        warnings.simplefilter('always')\n"
        "        backends.initialize()\n"
        "    assert all(w.category is RuntimeWarning for w in seen)\n"
        "    text = ';'.join(str(w.message).splitlines()[0] for w in seen)\n"
        "    print(value, backends.current(), text or None, sep='|')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input="|".join(value for value, _, _ in VARIANTS),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{v}|{current}|{text}" for v, current, text in VARIANTS]


def test_after_fork():
    """A data loader's worker: forked after the parent used its threads, one thread of its own."""
    code = (
        "import os, torch\n"
        "import pose_kernels as pk\n"
        "from pose_kernels.testing import synthetic_iuv\n"
        "part, uv = synthetic_iuv(2, 64, 64)\n"
        "def work():\n"
        "    image = torch.ones(2, 3, 64, 64, requires_grad=True)\n"
        "    atlas, weight = pk.uv_splat(image, part, uv, size=64)\n"
        "    out = pk.uv_gather(pk.push_pull(atlas, weight), part, uv)\n"
        "    return torch.cat([out.detach().flatten()])\n"
        "torch.set_num_threads(2)\n"
        "expected = work()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    torch.set_num_threads(1)\n"
        "    os._exit(0 if torch.equal(work(), expected) else 3)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert torch.equal(work(), expected)\n"
        "print('same')\n"
    )
    done = python(code)
    assert (done.stdout, done.returncode) == ("same\n", 0), done.stderr[-2000:]


def test_two_threads_build_and_differentiate_graphs_at_once():
    """Python threads on different ops and sizes do not disturb each other."""
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            part, uv = synthetic_iuv(1, 16 + seed, 16, seed=seed)
            image = torch.full((1, 2, 16 + seed, 16), float(seed), requires_grad=True)
            for _ in range(5):
                atlas, weight = pk.uv_splat(image, part, uv, size=8 + seed)
                out = pk.uv_gather(pk.push_pull(atlas, weight), part, uv)
                (grad,) = torch.autograd.grad(out.sum(), image)
                torch.testing.assert_close(out, image * (part > 0)[:, None])
                torch.testing.assert_close(grad.sum(), (part > 0).sum() * 2.0, rtol=1e-4, atol=0)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
