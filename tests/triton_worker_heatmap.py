# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of heatmap without a GPU: see triton_worker.py, whose fixtures serve here."""

from __future__ import annotations

import itertools

import pytest
import test_heatmap
import torch
import triton_worker
from heatmap_problems import NAN, PROBLEMS
from triton_worker import ARCHS, shared_tests

import pose_kernels as pk
from pose_kernels.triton import heatmap as module

poisoned_memory = triton_worker.poisoned_memory
interpreted = triton_worker.interpreted
compiled = triton_worker.compiled

# What takes minutes in the interpreter: large maps, and many calls.
SLOW = (
    "test_outputs_that_bypass_the_cache",
    "test_same_bits_whatever_the_number_of_threads",
    "test_fitting_a_point_finds_it",
    "test_third_order_is_the_reference_s",
    "test_gradcheck",
    "test_sweep",
)


def quick(function, given) -> bool:
    if given.get("dtype") in (torch.bfloat16, torch.float16) and given["name"] != "plane":
        return False
    return function.__name__ not in SLOW and given.get("name") != "several bands"


# ---- values


@pytest.mark.parametrize(
    ("function", "given"), [row for row in shared_tests(test_heatmap) if quick(*row.values)]
)
def test_value_shared_tests(function, given):
    function(**given)


@pytest.mark.parametrize("nodes", [32, 128])
@pytest.mark.parametrize("name", ["plane", "space, strides"])
def test_value_many_programs(monkeypatch, name, nodes):
    """Small programs: their sums are added up to the same gradient."""
    problem = PROBLEMS[name]._replace(N=1, J=2)
    monkeypatch.setattr(module, "NODES", nodes)
    points = problem.points(torch.float64)
    points[0, 0] = points[0, 0].nan_to_num(3, 3, 3).clamp(0, 10)
    g = problem.incoming(torch.float64)

    def gradient(op):
        x = points.clone().requires_grad_()
        y = op(x, problem.size, problem.sigma, stride=problem.stride)
        return y, torch.autograd.grad(y, x, g)[0]

    got, expected = gradient(pk.heatmap), gradient(pk.reference.heatmap)
    assert expected[1].abs().max() > 1e-3
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_value_numbers_arrive_in_full_precision():
    """As floats Triton would pass sigma and stride in float32."""
    points = torch.tensor([[[0.1, 0.0]]], dtype=torch.float64)
    maps = pk.heatmap(points, (1, 2), 0.1, stride=0.1)
    assert maps[0, 0, 0, 1] == 1  # 0.1 * 1 - 0.1
    discs = pk.heatmap(points, (1, 2), 0.1, stride=0.1, kind="disc")
    assert discs.flatten().tolist() == [1, 1]
    empty = pk.heatmap(points * NAN, (1, 2), 0.0, kind="disc")
    assert empty.flatten().tolist() == [0, 0]


# ---- compilation


def everything(dtype: torch.dtype, size: tuple[int, ...], kind: int, sigma: float = 2.0) -> None:
    points = torch.zeros(2, 3, len(size), dtype=dtype)
    stride = [1.0, 2.0, 1.5][: len(size)]
    maps = module.heatmap(points, size, sigma, stride, kind)
    if kind == 0:
        module.heatmap_backward(maps, points, sigma, stride)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_compile_for_every_architecture(compiled, arch, dtype):
    kernels = compiled(arch, everything, dtype, (8, 32, 64), 0)
    assert set(kernels) == {"_heatmap", "_heatmap_backward"}


SIZES = [(256, 256), (33, 17), (1, 1), (4, 5, 6), (1, 1, 1), (3, 4000)]


@pytest.mark.parametrize(("kind", "size"), list(itertools.product([0, 1, 2], SIZES)))
def test_compile_every_kind_and_size(compiled, kind, size):
    """Triton makes a constant of every integer that is 1, and sees multiples of 16."""
    kernels = compiled(90, everything, torch.float32, size, kind)
    assert set(kernels) == {"_heatmap"} | ({"_heatmap_backward"} if kind == 0 else set())


def test_compile_once_for_every_sigma(compiled):
    first = compiled(90, everything, torch.float32, (64, 64), 0, 2.0)
    again = compiled(90, everything, torch.float32, (64, 64), 0, 16.0)
    assert all(first[name].hash == again[name].hash for name in first)


def test_compile_stores_16_bytes_and_divides_exactly(compiled):
    ptx = compiled(90, everything, torch.float32, (256, 256), 0)["_heatmap"].asm["ptx"]
    assert "st.global.v4" in ptx
    ptx = compiled(90, everything, torch.float32, (256, 256), 2)["_heatmap"].asm["ptx"]
    assert "div.rn.f32" in ptx and "div.full" not in ptx
