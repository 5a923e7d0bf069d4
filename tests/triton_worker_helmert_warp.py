# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of helmert_warp without a GPU: see triton_worker.py."""

from __future__ import annotations

import pytest
import torch
from cases import channels_last
from test_helmert_warp import TestBits, TestFloats
from triton_worker import (  # noqa: F401  # compiled, interpreted, poisoned_memory: fixtures
    ARCHS,
    compiled,
    interpreted,
    poisoned_memory,
)
from volume import warp_inputs

import pose_kernels as pk
from pose_kernels.reference.helmert_warp import helmert_warp_backward as reference_backward
from pose_kernels.triton import helmert_warp as module

for collected in (TestBits, TestFloats):  # they run in test_helmert_warp.py
    collected.__test__ = False

# What the interpreter takes grows with programs, parts and blocks of channels.
VALUES = [
    (TestBits, "one-channel", torch.float32, False),
    (TestBits, "one-part", torch.bfloat16, False),
    (TestBits, "one-part", torch.float32, True),
    (TestBits, "not-finite", torch.float32, False),
    (TestFloats, "signed", torch.float64, False),
    (TestFloats, "signed", torch.float32, True),
    (TestFloats, "low-transform", torch.float16, False),
    (TestFloats, "one-voxel", torch.float32, False),
    (TestFloats, "no-samples", torch.float32, False),
    (TestFloats, "no-channels", torch.float32, False),
]


@pytest.mark.parametrize(("contract", "name", "dtype", "last"), VALUES)
def test_value_helmert_warp(monkeypatch, contract, name, dtype, last):
    monkeypatch.setattr(module, "BLOCK", 256)
    (sample,) = (case for case in contract.CASES if case.id == name)
    inputs = sample.make(dtype)
    if last:
        inputs["volume"] = channels_last(inputs["volume"], 3)
    assert pk.backends.chosen("helmert_warp", "cpu") == "triton"
    contract().check(inputs, "cpu")


def test_value_helmert_warp_in_several_programs(monkeypatch):
    """Blocks of voxels that end within a row, and more parts than one word has bits for."""
    monkeypatch.setattr(module, "BLOCK", 32)
    monkeypatch.setattr(module, "PER_WORD", 2)
    inputs = warp_inputs((2, 5, 3, 4, 5), 3, "bits", ["similarity", "grow"], torch.float32)
    TestBits().check(inputs, "cpu")


def every_output(kind):
    inputs = warp_inputs((1, 3, 3, 4, 5), 2, kind, ["small-turn"], torch.float32)
    grad = torch.rand_like(inputs["volume"])
    return (grad, *inputs.values())


def test_value_helmert_warp_outputs_not_asked_for(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 64)
    args = every_output("soft")
    everything = torch.ops.pose_kernels.helmert_warp_backward(*args, True, True, True)
    for asked in range(3):
        need = [k == asked for k in range(3)]
        some = torch.ops.pose_kernels.helmert_warp_backward(*args, *need)
        for k, (got, full) in enumerate(zip(some, everything, strict=True)):
            assert torch.equal(got, full) if k == asked else got.shape == (0,)
            assert got.dtype == full.dtype


def test_value_helmert_warp_deterministic_mode_uses_no_atomics(monkeypatch):
    args = every_output("bits")
    need = (True, False, True)
    launched = []
    monkeypatch.setattr(module._Scene, "launch", lambda self, *args, **_: launched.append(args))
    torch.ops.pose_kernels.helmert_warp_backward(*args, *need)
    assert launched  # the control: in the other mode the kernels are asked
    launched.clear()
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    got = torch.ops.pose_kernels.helmert_warp_backward(*args, *need)
    assert not launched
    expected = reference_backward(*args, *need)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def every_kernel(dtype, kind, last, shape, P):
    inputs = warp_inputs(shape, P, kind, ["similarity"], dtype)
    volume, mask, transform = inputs.values()
    volume = channels_last(volume, 3) if last else volume
    module.helmert_warp(volume, mask, transform)
    need_mask = mask.is_floating_point()
    module.helmert_warp_backward(volume, volume, mask, transform, True, need_mask, True)


ALL = {"_find", "_warp", "_warp_backward"}


@pytest.mark.parametrize("arch", ARCHS)
def test_compile_helmert_warp_for_every_architecture(compiled, arch):  # noqa: F811
    kernels = compiled(arch, every_kernel, torch.float32, "bits", True, (1, 8, 4, 6, 8), 3)
    assert set(kernels) == ALL
    for kernel in kernels.values():  # products of positions must not be fused with their sums
        assert "fma.rn" not in kernel.asm["ptx"]


COMPILED = [
    (torch.bfloat16, "soft", False, (1, 5, 4, 6, 7), 40),
    (torch.float64, "soft", True, (2, 3, 4, 6, 7), 2),
    (torch.float32, "bits", False, (1, 1, 1, 1, 1), 1),
]


@pytest.mark.parametrize("sample", COMPILED, ids=str)
def test_compile_helmert_warp_of_other_kinds(compiled, sample):  # noqa: F811
    assert set(compiled(90, every_kernel, *sample)) == ALL
