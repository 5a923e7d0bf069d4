# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of flow_warp without a GPU: see triton_worker.py."""

from __future__ import annotations

import pytest
import test_flow_warp
import torch
from cases import channels_last, features
from flows import warp_inputs
from test_flow_warp import TestFlowWarp
from triton_worker import (  # noqa: F401  # compiled, interpreted, poisoned_memory: fixtures
    ARCHS,
    PLACE,
    compiled,
    interpreted,
    poisoned_memory,
    shared_tests,
)

import pose_kernels as pk
from pose_kernels.reference.flow_warp import flow_warp_backward as reference_backward
from pose_kernels.triton import flow_warp as module

TestFlowWarp.__test__ = False  # it runs in test_flow_warp.py
CONTRACT = TestFlowWarp()
# What the interpreter takes grows with programs.
SMALL = [sample for sample in CONTRACT.CASES if sample.id != "long-rows"]


# Bands of rows are not how these kernels work, and the test of them is large.
SHARED = [p for p in shared_tests(test_flow_warp) if "interleaved_bands" not in p.id]


@pytest.mark.parametrize(("function", "given"), SHARED)
def test_value_shared_tests_of_flow_warp(monkeypatch, function, given):
    monkeypatch.setattr(module, "BLOCK", 4096)
    function(**given)


@pytest.mark.parametrize("sample", SMALL, ids=[sample.id for sample in SMALL])
def test_value_flow_warp_matches_the_reference(monkeypatch, sample):
    monkeypatch.setattr(module, "BLOCK", 128 if sample.id == "small" else 1024)
    assert pk.backends.chosen("flow_warp", "cpu") == "triton"
    dtype = torch.bfloat16 if sample.id == "gate-border" else torch.float32
    CONTRACT.check(sample.make(dtype), "cpu")


def test_value_flow_warp_memory_formats_and_strides(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 1024)
    (sample,) = (sample for sample in CONTRACT.CASES if sample.id == "expand")
    CONTRACT.test_memory_formats(sample, torch.float32, PLACE)
    CONTRACT.test_strides(sample, PLACE)


def test_value_flow_warp_deterministic_mode_uses_no_atomics(monkeypatch):
    inputs = CONTRACT.CASES[0].make(torch.float32)
    grad = features((2, 3, 5, 9), torch.float32, 7)
    args = (grad, inputs["image"], inputs["flow"], None, 0, 0)
    launched = []
    monkeypatch.setattr(module, "_launch", lambda *args, **kwargs: launched.append(args))
    torch.ops.pose_kernels.flow_warp_backward(*args, True, True)
    assert launched  # the control: in the other mode the kernel is asked
    launched.clear()
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    got = torch.ops.pose_kernels.flow_warp_backward(*args, True, True)
    assert not launched
    expected = reference_backward(*args, True, True)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    torch.ops.pose_kernels.flow_warp_backward(*args, False, True)
    assert launched  # a gather: the same bits in any case


# ---- compilation

ALL = {"_warp", "_warp_backward"}


def every_kernel(dtype, last, C, mode, padding):
    inputs = warp_inputs((1, C, 8, 8), (8, 16), mode, padding, dtype)
    image = channels_last(inputs["image"]) if last else inputs["image"]
    args = (inputs["flow"], inputs.get("visibility"))
    index = test_flow_warp.MODES.index(mode), test_flow_warp.PADDINGS.index(padding)
    out = module.flow_warp(image, *args, *index)
    module.flow_warp_backward(out, image, *args, *index, True, True)


@pytest.mark.parametrize("arch", ARCHS)
def test_compile_flow_warp_for_every_architecture(compiled, arch):  # noqa: F811
    kernels = compiled(arch, every_kernel, torch.float32, False, 3, "expand", "zeros")
    assert set(kernels) == ALL
    for kernel in kernels.values():
        assert "fma.rn" not in kernel.asm["ptx"]


COMPILED = [
    (torch.bfloat16, False, 3, "plain", "border"),
    (torch.float32, True, 64, "gate", "zeros"),
    (torch.float64, True, 3, "expand", "border"),
    (torch.float16, True, 65, "plain", "zeros"),
]


@pytest.mark.parametrize("sample", COMPILED, ids=str)
def test_compile_flow_warp_of_other_kinds(compiled, sample):  # noqa: F811
    assert set(compiled(90, every_kernel, *sample)) == ALL
