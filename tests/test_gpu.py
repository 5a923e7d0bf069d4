# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can answer: graphs, streams, waiting, a second device, the same bits every run.

The values themselves are the business of the other files, whose tests run at the places on a GPU as
well. test_gpu_large.py holds tensors of more than 2^31 elements.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import pose_kernels as pk
from pose_kernels.testing import synthetic_iuv

if not torch.cuda.is_available():
    pytest.skip("torch finds no GPU here", allow_module_level=True)
TOOLS = Path(__file__).resolve().parents[1] / "tools"
if not (TOOLS / "op_calls.py").exists():
    pytest.skip("tools/ is not here", allow_module_level=True)
sys.path.insert(0, str(TOOLS))

import op_calls  # noqa: E402
import test_flow_warp  # noqa: E402
import test_helmert_warp  # noqa: E402
import test_push_pull  # noqa: E402
import test_region_crop  # noqa: E402
import test_uv_gather  # noqa: E402
import test_uv_raster  # noqa: E402
import test_uv_splat  # noqa: E402
from cases import move  # noqa: E402

BACKENDS = [name for name in ("cuda", "triton") if name not in pk.backends.unavailable]
every_call = pytest.mark.parametrize(
    ("backend", "call"),
    [
        pytest.param(backend, call, id=f"{backend}-{call.name}")
        for backend in BACKENDS
        for call in op_calls.chosen(backend)
    ],
)
LONG = 300_000_000  # clock cycles: 0.15 s at 2 GHz, far longer than a call takes to be sent


def alike(backend: str, got: list[Tensor], expected: list[Tensor]) -> None:
    """Bit for bit; Triton adds in the order in which the threads come."""
    for a, b in zip(got, expected, strict=True):
        if backend == "cuda" or not a.is_floating_point():
            assert torch.equal(a, b)
        else:
            near = 0.05 if a.dtype in (torch.float16, torch.bfloat16) else 1e-3
            torch.testing.assert_close(a, b, rtol=near, atol=near)


def tensors(inputs: op_calls.Inputs) -> dict[str, Tensor]:
    return {name: x for name, x in inputs.items() if isinstance(x, Tensor)}


def warm(call: op_calls.Call, inputs: op_calls.Inputs) -> list[Tensor]:
    """What arrives at the outputs, after everything has been compiled, loaded and allocated."""
    incoming = call.arriving(inputs)
    for _ in range(2):
        call.run(inputs, incoming)
    torch.cuda.synchronize()
    return incoming


@every_call
def test_graph(backend, call):
    """Forward and backward are captured once, and replayed on other values."""
    inputs = call.inputs("cuda")
    stream = torch.cuda.Stream()
    with pk.use_backend(backend):
        incoming = warm(call, inputs)
        with torch.cuda.stream(stream):
            warm(call, inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            captured = call.run(inputs, incoming)
        first = [x.clone() for x in call.run(inputs, incoming)]
        for x in tensors(inputs).values():
            x.copy_(x.flip(0))
        expected = call.run(inputs, incoming)
        for x in captured:
            x.fill_(1)
        graph.replay()
        torch.cuda.synchronize()
    alike(backend, captured, expected)
    assert not all(torch.equal(a, b) for a, b in zip(first, expected)), "other values, same results"


@every_call
def test_stream(backend, call):
    """On a stream of its own an op waits for that stream only, and the host waits for nothing."""
    fresh = call.inputs("cuda")
    with pk.use_backend(backend):
        incoming = warm(call, fresh)
        expected = call.run(fresh, incoming)
        late = {k: torch.zeros_like(v) if isinstance(v, Tensor) else v for k, v in fresh.items()}
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            warm(call, late)
        before, elsewhere = torch.cuda.Event(), torch.cuda.Event()
        torch.cuda._sleep(3 * LONG)  # keeps the default stream busy
        elsewhere.record()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(LONG)
            before.record()
            for name, x in tensors(late).items():
                x.copy_(fresh[name])
            got = call.run(late, incoming)
            sent_at_once = not before.query()
        stream.synchronize()
        overtook = not elsewhere.query()
        torch.cuda.synchronize()
    assert sent_at_once, "the host waited for the GPU"
    assert overtook, "the op waited for the default stream"
    alike(backend, got, expected)


@every_call
def test_no_synchronization(backend, call):
    """PyTorch's own watch over operations that wait for the GPU finds none."""
    inputs = call.inputs("cuda")
    with pk.use_backend(backend):
        incoming = warm(call, inputs)
        torch.cuda.set_sync_debug_mode("error")
        try:
            call.run(inputs, incoming)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_the_watch_over_synchronization_works():
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            torch.ones(1, device="cuda").item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU here")
@every_call
def test_second_device(backend, call):
    """Tensors on cuda:1 while cuda:0 is the current device."""
    with pk.use_backend(backend):
        expected = call.run(call.inputs("cuda:0"))
        got = call.run(call.inputs("cuda:1"))
    assert torch.cuda.current_device() == 0
    assert all(x.device.index == 1 for x in got)
    alike(backend, [x.to("cuda:0") for x in got], expected)


CONTRACTS = [
    test_uv_splat.TestUvSplat,
    test_uv_raster.TestUvRaster,
    test_uv_gather.TestUvGather,
    test_push_pull.TestPushPull,
    test_helmert_warp.TestBits,
    test_helmert_warp.TestFloats,
    test_flow_warp.TestFlowWarp,
    test_region_crop.TestRegionCrop,
]


@pytest.mark.skipif("cuda" not in BACKENDS, reason=pk.backends.unavailable.get("cuda", ""))
@pytest.mark.parametrize("kind", CONTRACTS, ids=lambda kind: kind.__name__)
def test_same_bits_without_deterministic_mode(kind):
    """Of the compiled kernels, where many terms fall on one element."""
    contract = kind()
    inputs = move(contract.collide.make(torch.float32), "cuda")
    with pk.use_backend("cuda"):
        incoming = contract.incoming(inputs, contract.run(inputs))
        assert not torch.are_deterministic_algorithms_enabled()
        results = []
        for _ in range(5):
            outputs, grads = contract.gradients(contract.run, inputs, incoming)
            results.append([*outputs, *grads.values()])
    for again in results[1:]:
        assert all(contract.same(a, b) for a, b in zip(results[0], again, strict=True))


@every_call
def test_small_calls_in_a_row_keep_their_memory_apart(backend, call):
    """Workspace that is freed while a kernel still uses it, and handed to the next call."""
    inputs = call.inputs("cuda")
    with pk.use_backend(backend):
        incoming = warm(call, inputs)
        expected = call.run(inputs, incoming)
        torch.cuda._sleep(LONG // 10)  # all of it is in the queue before the first one starts
        rows = [call.run(inputs, incoming) for _ in range(8)]
        torch.cuda.synchronize()
    for got in rows:
        alike(backend, got, expected)


def test_faces_that_are_none_are_left_out(monkeypatch):
    """Without POSE_KERNELS_DEBUG nobody looks at the indices beforehand: the kernel does."""
    monkeypatch.delenv("POSE_KERNELS_DEBUG", raising=False)
    vertices = torch.tensor([[[0.0, 0, 1], [9, 0, 1], [0, 9, 1], [9, 9, 0]]], device="cuda")
    faces = torch.tensor([[0, 1, 2]], device="cuda")
    wrong = torch.tensor([[0, 1, 4], [-1, 1, 3], [2**31 - 1, 2, 3]], device="cuda")
    expected = pk.mesh_raster(vertices, faces, (10, 10))
    got = pk.mesh_raster(vertices, torch.cat([faces, wrong]), (10, 10))
    assert (expected[0] == 0).sum() == 55
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    monkeypatch.setenv("POSE_KERNELS_DEBUG", "1")
    with pytest.raises(ValueError, match="faces must hold indices of the V = 4 vertices"):
        pk.mesh_raster(vertices, torch.cat([faces, wrong]), (10, 10))


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_into_a_graph(backend):
    """torch.compile(mode="reduce-overhead"): inductor's code and the ops in one CUDA graph."""
    torch._dynamo.reset()
    part, uv = synthetic_iuv(2, 24, 20, device="cuda")

    def transfer(image: Tensor) -> Tensor:
        atlas, weight = pk.uv_splat((image * 2).tanh(), part, uv, size=8)
        return pk.uv_gather(pk.push_pull(atlas, weight, radius=3), part, uv).square().sum()

    compiled = torch.compile(transfer, mode="reduce-overhead", fullgraph=True)
    random = torch.Generator("cuda").manual_seed(0)
    with pk.use_backend(backend):
        for _ in range(4):  # recorded in the second
            image = torch.rand(2, 3, 24, 20, device="cuda", generator=random).requires_grad_()
            (expected,) = torch.autograd.grad(transfer(image), image)
            torch.compiler.cudagraph_mark_step_begin()
            (got,) = torch.autograd.grad(compiled(image), image)
            torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
            assert expected.abs().max() > 0.1
    torch._dynamo.reset()
