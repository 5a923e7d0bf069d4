# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of capsule_mask, executed on the CPU: see test_cuda_emulated.py."""

from __future__ import annotations

import pytest
import torch
from capsules import Exact, assert_within, bits_of, capsules
from emulation import builder
from emulation.capsule_mask import CapsuleKernels

DTYPES = (torch.float64, torch.float32)
# N, K, (D, H, W), P, wild
CASES = [
    (1, 1, (1, 1, 1), 1, False),
    (2, 5, (3, 7, 9), 3, False),
    (1, 18, (2, 5, 70), 31, True),  # more than a block along x
    (2, 12, (11, 20, 16), 2, True),  # aligned rows, blocks in all directions, four steps along z
    (1, 70, (5, 6, 8), 3, True),  # more capsules than a list holds
    (3, 4, (1, 40, 4), 2, False),
    (0, 3, (4, 4, 4), 2, False),
]
IDS = ["x".join(map(str, case[2])) + f"-N{case[0]}-K{case[1]}" for case in CASES]
SOFTNESS = 0.3


@pytest.fixture
def kernels(request, tmp_path_factory):
    module = builder.emulated_module(request, tmp_path_factory)
    module.schedule(0)
    return CapsuleKernels(module)


def tensors(inputs):
    """What the dispatcher gives a kernel: part for every sample, without memory of its own."""
    start = inputs["start"]
    part = inputs["part"].to(torch.int32).expand(start.shape[:2])
    return start, inputs["end"], inputs["radius"], part


def check_hard(kernels, inputs):
    start = inputs["start"]
    expected, unsure = Exact(inputs).inside(start.dtype)
    size, P = inputs["size"], inputs["num_parts"]
    dense = kernels.hard(*tensors(inputs), size, P, False)
    assert torch.equal(dense[~unsure], expected[~unsure])
    assert unsure.sum() <= 1e-3 * unsure.numel()
    assert torch.equal(kernels.hard(*tensors(inputs), size, P, True), bits_of(dense))


def check_soft(kernels, inputs):
    dtype = inputs["start"].dtype
    exact = Exact(inputs)
    expected, bound = exact.soft(SOFTNESS, dtype)
    size, P = inputs["size"], inputs["num_parts"]
    actual = kernels.soft(*tensors(inputs), size, P, SOFTNESS)
    assert actual.dtype == dtype
    if actual.numel() == 0:
        return
    assert_within(actual, expected, bound)
    grad = torch.randn(actual.shape, dtype=dtype)
    expected, bound = exact.gradients(SOFTNESS, grad, dtype)
    for g, name in zip(kernels.soft_backward(grad, *tensors(inputs), SOFTNESS), expected):
        assert_within(g, expected[name], bound[name])


@pytest.mark.parametrize("sample", CASES, ids=IDS)
def test_hard(kernels, sample):
    check_hard(kernels, capsules(*sample[:4], wild=sample[4]))


@pytest.mark.parametrize("sample", CASES, ids=IDS)
def test_soft_and_backward(kernels, sample):
    check_soft(kernels, capsules(*sample[:4], wild=sample[4]))


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("size", [(3, 5, 16), (2, 4, 11)])
def test_dtypes(kernels, dtype, shift, size):
    """Rows aligned and not, memory aligned and not."""
    kernels.shift = shift
    inputs = capsules(2, 11, size, 4, dtype, wild=True, seed=2)
    check_hard(kernels, inputs)
    check_soft(kernels, inputs)


def test_strided_inputs(kernels):
    """One radius for all axes, ends that are slices of joints, a part per sample."""
    inputs = capsules(2, 6, (4, 9, 12), 3, torch.float32, seed=3)
    joints = torch.stack([inputs["start"], inputs["end"]], 2)  # (N, K, 2, 3)
    radius = inputs["radius"][..., :1]
    part = torch.stack([inputs["part"], inputs["part"].flip(0)]).to(torch.int32)
    strided = joints[:, :, 0], joints[:, :, 1], radius.expand(2, 6, 3), part.t().contiguous().t()
    dense = [x.contiguous() for x in strided]
    assert not any(x.is_contiguous() for x in strided)
    size = inputs["size"]
    assert torch.equal(kernels.hard(*strided, size, 3, True), kernels.hard(*dense, size, 3, True))
    a, b = (kernels.soft(*x, size, 3, SOFTNESS) for x in (strided, dense))
    assert torch.equal(a, b)
    grads = (kernels.soft_backward(a, *x, SOFTNESS) for x in (strided, dense))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("packed", [False, True])
def test_the_surface_belongs_to_the_capsule(kernels, packed):
    """A ball of radius 2, a power of two: the six voxels that touch it are computed exactly."""
    center, part = torch.full((1, 1, 3), 8.0), torch.zeros(1, 1, dtype=torch.int32)
    mask = kernels.hard(center, center, torch.full((1, 1, 3), 2.0), part, (17, 17, 17), 1, packed)
    ball = torch.cartesian_prod(*[torch.arange(17.0)] * 3).sub(8).square().sum(1) <= 4
    assert torch.equal(mask.flatten().bool(), ball) and ball.sum() == 33


def test_same_bits_in_every_order_of_threads(kernels):
    inputs = capsules(1, 40, (5, 9, 20), 3, torch.float32, wild=True, seed=4)
    size, runs = inputs["size"], []
    grad = torch.randn(1, 3, *size)
    for order in (0, 1, 2, 3):
        kernels.module.schedule(order)
        runs.append(
            [
                kernels.hard(*tensors(inputs), size, 3, True),
                kernels.soft(*tensors(inputs), size, 3, SOFTNESS),
                *kernels.soft_backward(grad, *tensors(inputs), SOFTNESS),
            ]
        )
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))
