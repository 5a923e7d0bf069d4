# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of capsule_mask without a GPU: see triton_worker.py."""

from __future__ import annotations

import pytest
import torch
from capsules import Exact, assert_within, bits_of, capsules
from triton_worker import (  # noqa: F401  # compiled, interpreted, poisoned_memory: fixtures
    ARCHS,
    compiled,
    interpreted,
    poisoned_memory,
)

import pose_kernels as pk
from pose_kernels.triton import capsule_mask as module

SOFTNESS = 0.3
# N, K, (D, H, W), P, wild, dtype; the interpreter takes a second for some hundred capsules
VALUES = [
    (1, 1, (1, 1, 1), 1, False, torch.float32),
    (2, 4, (3, 5, 7), 2, False, torch.float32),
    (1, 10, (3, 6, 40), 31, True, torch.float32),  # two blocks of voxels
    (1, 9, (2, 5, 9), 3, True, torch.float64),
]


@pytest.mark.parametrize("sample", VALUES, ids=lambda sample: f"K{sample[1]}-{sample[5]}")
def test_value_capsule_mask(monkeypatch, sample):
    N, K, size, P, wild, dtype = sample
    inputs = capsules(N, K, size, P, dtype, wild=wild)
    exact = Exact(inputs)
    expected, unsure = exact.inside(dtype)
    dense = pk.capsule_mask(**inputs, packed=False)
    assert torch.equal(dense[~unsure], expected[~unsure])
    assert torch.equal(pk.capsule_mask(**inputs), bits_of(dense))
    points = {name: inputs[name].requires_grad_() for name in ("start", "end", "radius")}
    soft = pk.capsule_mask(**inputs, packed=False, softness=SOFTNESS)
    assert_within(soft, *exact.soft(SOFTNESS, dtype))
    grad = torch.randn(soft.shape, dtype=dtype)
    expected, bound = exact.gradients(SOFTNESS, grad, dtype)
    for name, g in zip(points, torch.autograd.grad(soft, list(points.values()), grad)):
        assert_within(g, expected[name], bound[name])


def test_value_capsule_mask_of_nobody():
    inputs = capsules(0, 3, (2, 3, 4), 2, torch.float32)
    assert pk.capsule_mask(**inputs).shape == (0, 2, 3, 4)
    assert pk.capsule_mask(**inputs, packed=False, softness=1.0).shape == (0, 2, 2, 3, 4)


def every_kernel(dtype, size, N, K, P):
    inputs = capsules(N, K, size, P, dtype)
    points = inputs["start"], inputs["end"], inputs["radius"]
    part = inputs["part"].to(torch.int32).expand(N, K)
    module.capsule_mask(*points, part, size, P, True)
    module.capsule_mask(*points, part, size, P, False)
    mask = module.capsule_soft_mask(*points, part, size, P, SOFTNESS)
    module.capsule_soft_mask_backward(mask, *points, part, SOFTNESS)


ALL = {"_mask", "_soft_mask", "_soft_mask_backward"}


@pytest.mark.parametrize("arch", ARCHS)
def test_compile_capsule_mask_for_every_architecture(compiled, arch):  # noqa: F811
    assert set(compiled(arch, every_kernel, torch.float32, (16, 16, 16), 2, 17, 10)) == ALL


def test_compile_capsule_mask_in_float64_and_sizes_of_one(compiled):  # noqa: F811
    assert set(compiled(90, every_kernel, torch.float64, (5, 6, 7), 1, 3, 2)) == ALL
    assert set(compiled(90, every_kernel, torch.float32, (1, 1, 1), 1, 1, 1)) == ALL
