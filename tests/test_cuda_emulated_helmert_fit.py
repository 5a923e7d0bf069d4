# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of helmert_fit, executed on the CPU; see test_cuda_emulated.py."""

from __future__ import annotations

import pytest
import torch
from emulation import builder
from emulation.helmert_fit import Kernels
from point_pairs import DEGENERATE, NOT_FINITE, batch, random_pairs, similar, similar_gradients

from pose_kernels.reference.helmert_fit import fit, fit_backward

# All arithmetic is double: one rounding to float at the end, of inputs that are the same.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-11}
BOTH = (torch.float32, torch.float64)
# One point, one chunk and several (a chunk is 13 or 27 points), one block and several of 64 fits.
SHAPES = [(1, 1), (3, 2), (64, 3), (65, 4), (130, 8), (5, 28), (70, 14), (3, 100), (0, 4)]


@pytest.fixture
def kernels(request, tmp_path_factory):
    module = builder.emulated_module(request, tmp_path_factory)
    module.schedule(0)
    return Kernels(module)


def gradient(N, dtype):
    return torch.randn((N, 3, 4), generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("dtype", BOTH, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_size(kernels, shape, dtype, shift, scale):
    kernels.shift = shift
    inputs = random_pairs(*shape, dtype)
    assert similar(kernels.helmert_fit(*inputs, scale), fit(*inputs, scale), TOLERANCE[dtype])
    grad = gradient(shape[0], dtype)
    found = kernels.helmert_fit_backward(grad, *inputs, scale)
    expected = fit_backward(grad, *inputs, scale)
    assert similar_gradients(found, expected, inputs, 10 * TOLERANCE[dtype])


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("dtype", BOTH, ids=str)
@pytest.mark.parametrize("name", [*DEGENERATE, *NOT_FINITE])
def test_degenerate(kernels, name, dtype, scale):
    inputs = batch(name, dtype)
    assert similar(kernels.helmert_fit(*inputs, scale), fit(*inputs, scale), TOLERANCE[dtype])
    grad = gradient(1, dtype)
    found = kernels.helmert_fit_backward(grad, *inputs, scale)
    assert all(x.isfinite().all() for x in found)
    expected = fit_backward(grad, *inputs, scale)
    assert similar_gradients(found, expected, inputs, 10 * TOLERANCE[dtype])


def test_same_bits_in_every_order_of_threads_and_place(kernels):
    inputs = random_pairs(130, 30, torch.float32)
    grad = gradient(130, torch.float32)
    runs = []
    for order in (0, 1, 2):
        kernels.module.schedule(order)
        runs.append([kernels.helmert_fit(*inputs), *kernels.helmert_fit_backward(grad, *inputs)])
    kernels.module.schedule(0)
    last = [x[-1:] for x in inputs]
    alone = [kernels.helmert_fit(*last), *kernels.helmert_fit_backward(grad[-1:], *last)]
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))
    assert all(torch.equal(a[-1:], b) for a, b in zip(runs[0], alone, strict=True))
