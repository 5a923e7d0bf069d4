# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels without a GPU; test_triton.py runs this file, in two processes of its own.

* test_value_*: with TRITON_INTERPRET=1, which Triton reads when a kernel is defined: what a kernel
  computes. Whatever the shared tests ask of a backend, they ask of the interpreted kernels here.
* test_compile_*: without it: every kernel, as its launcher specializes it, becomes machine code.
"""

from __future__ import annotations

import inspect
import itertools
import types
from collections.abc import Iterator

import executions
import pytest
import test_uv_gather
import test_uv_splat
import torch
import triton
from cases import DTYPE_IDS, DTYPES, channels_last, features, geometry
from conftest import Place
from surface import parts, wild_uv
from triton.backends.compiler import GPUTarget

import pose_kernels as pk
from pose_kernels.reference import uv_gather as reference_gather
from pose_kernels.reference.uv_splat import uv_splat as reference_splat
from pose_kernels.reference.uv_splat import uv_splat_backward as reference_splat_backward
from pose_kernels.triton import bilinear
from pose_kernels.triton import uv_gather as gather_module
from pose_kernels.triton import uv_splat as splat_module

PLACE = Place("triton", "cpu")
SPLAT, GATHER = test_uv_splat.TestUvSplat(), test_uv_gather.TestUvGather()


@pytest.fixture
def poisoned_memory(monkeypatch):
    """As in conftest.py, by other means: deterministic mode would replace what is tested here."""
    for name in ("new_empty", "new_empty_strided"):  # what the launchers allocate with
        empty = getattr(torch.Tensor, name)

        def poisoned(self, *args, empty=empty, **kwargs):
            y = empty(self, *args, **kwargs)
            return y.fill_(float("nan")) if y.is_floating_point() else y

        monkeypatch.setattr(torch.Tensor, name, poisoned)


executions.watch_triton()


@pytest.fixture(autouse=True)
def interpreted(request, poisoned_memory) -> Iterator[None]:
    if not request.node.name.startswith("test_value"):
        yield
        return
    with pk.use_backend("triton"):
        assert pk.backends.chosen("uv_splat", "cpu") == "triton"
        yield


# ---- values


def shared_tests(module: types.ModuleType) -> list[object]:
    """Every test function of the module that runs once per backend, with its parameters."""
    cases = []
    for name, function in vars(module).items():
        if not name.startswith("test_") or "place" not in inspect.signature(function).parameters:
            continue
        marks = [mark.args for mark in getattr(function, "pytestmark", ())]
        names = [[keys] if isinstance(keys, str) else list(keys) for keys, _ in marks]
        for rows in itertools.product(*(enumerate(values) for _, values in marks)):
            given = {"place": PLACE}
            for keys, (_, row) in zip(names, rows, strict=True):
                given |= dict(zip(keys, [row] if len(keys) == 1 else row, strict=True))
            label = "-".join([name.removeprefix("test_"), *(str(i) for i, _ in rows)])
            cases.append(pytest.param(function, given, id=f"{module.__name__[5:]}-{label}"))
    return cases


@pytest.mark.parametrize(
    ("function", "given"), [*shared_tests(test_uv_splat), *shared_tests(test_uv_gather)]
)
def test_value_shared_tests(monkeypatch, function, given):
    monkeypatch.setattr(bilinear, "BLOCK", 2048)  # what the interpreter takes grows with programs
    function(**given)


CASES = [
    pytest.param(contract, case, dtype, id=f"{contract.op.__name__}-{case.id}-{name}")
    for contract in (SPLAT, GATHER)
    for case in contract.CASES
    for dtype, name in zip(DTYPES, DTYPE_IDS, strict=True)
    if (case.id == "small" or dtype == torch.float32) and case.id != "person"  # that takes seconds
]


@pytest.mark.parametrize(("contract", "sample", "dtype"), CASES)
def test_value_matches_the_reference(contract, sample, dtype):
    contract.check(sample.make(dtype), "cpu")


FORMATS = [
    (SPLAT, "small", torch.float32),
    (SPLAT, "channels", torch.bfloat16),
    (GATHER, "small", torch.float32),
    (GATHER, "crowded", torch.bfloat16),
]


@pytest.mark.parametrize(("contract", "name", "dtype"), FORMATS)
def test_value_memory_formats_and_strides(contract, name, dtype):
    (sample,) = (case for case in contract.CASES if case.id == name)
    contract.test_memory_formats(sample, dtype, PLACE)
    if dtype == torch.float32:
        contract.test_strides(sample, PLACE)
        contract.test_expanded(PLACE)


@pytest.mark.parametrize("formats", list(itertools.product([False, True], repeat=3)))
def test_value_backward_of_mixed_memory_formats(formats):
    """grad_atlas, image and atlas each in a format of their own: grad_image in grad_atlas's."""
    inputs = SPLAT.CASES[0].make(torch.float64)
    atlas, weight = pk.uv_splat(**inputs)
    tensors = [features(tuple(atlas.shape), torch.float64, 7), inputs["image"], atlas]
    stored = [channels_last(x) if last else x for x, last in zip(tensors, formats, strict=True)]
    part, uv = inputs["part"], inputs["uv"]

    def backward(op, grad_atlas, image, atlas):
        return op(grad_atlas, None, image, part, uv, atlas, weight, 1e-3, True, True)

    expected = backward(reference_splat_backward, *tensors)
    got = backward(torch.ops.pose_kernels.uv_splat_backward, *stored)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-11)
    assert got[0].is_contiguous() != formats[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_value_bit_for_bit(dtype):
    """Weights and gathered values round as in the reference: no fused multiply-add, same order.

    bfloat16 is left out: the interpreter truncates where a GPU rounds to nearest.
    """
    inputs = GATHER.CASES[0].make(dtype)
    assert torch.equal(pk.uv_gather(**inputs), reference_gather(**inputs))
    inputs = SPLAT.CASES[0].make(dtype)  # few terms per texel, added in the order of the corners
    weight, expected = pk.uv_splat(**inputs)[1], reference_splat(**inputs)[1]
    torch.testing.assert_close(weight, expected, rtol=4 * torch.finfo(weight.dtype).eps, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_value_halves_are_summed_in_float32(dtype):
    """300 pixels of 1 on one texel: a running sum in bfloat16 would stall at 256."""
    image, part = torch.ones(1, 3, 10, 30, dtype=dtype), torch.ones(1, 10, 30, dtype=torch.uint8)
    uv = torch.zeros(1, 2, 10, 30)
    atlas, weight = pk.uv_splat(image, part, uv, num_parts=1, size=3, normalize=False)
    expected = torch.zeros(3, 3)
    expected[2, 0] = 300
    assert atlas.dtype == dtype and weight.dtype == torch.float32
    assert torch.equal(atlas[0, 0].float(), expected.expand(3, 3, 3))
    assert torch.equal(weight[0, 0], expected)


def test_value_tiles_of_one_texel_read_no_other():
    """Not even times a weight of 0: what lies behind the texel can be another tile, or nothing."""
    atlas = torch.tensor([1.0, float("nan"), 3.0]).view(1, 3, 1, 1, 1)
    part = torch.tensor([[[1, 3, 0]]])
    uv = torch.tensor([0.3, 1.0, 0.5, 0.0, 0.7, 0.5]).view(1, 2, 1, 3).requires_grad_()
    image = pk.uv_gather(atlas, part, uv)
    assert image.flatten().tolist() == [1, 3, 0]
    (grad,) = torch.autograd.grad(image.sum(), uv)
    assert grad.abs().max() == 0
    atlas, _ = pk.uv_splat(image.detach(), part, uv, num_parts=3, size=1)
    assert atlas.flatten().tolist() == [1, 0, 3]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_value_min_weight_is_compared_in_full_precision(dtype):
    """0.1 is a different number in float32 and float64; a weight of exactly that is invisible."""
    image, part = torch.ones(1, 1, 1, 1, dtype=dtype), torch.ones(1, 1, 1, dtype=torch.int64)
    uv = torch.tensor([0.1, 1], dtype=dtype).view(1, 2, 1, 1)
    for min_weight, visible in ((0.1, 0), (0.1 - 1e-8 - 1e-16, 1)):
        atlas, weight = pk.uv_splat(image, part, uv, num_parts=1, size=2, min_weight=min_weight)
        assert weight[0, 0, 0, 1] == torch.tensor(0.1, dtype=dtype)
        assert atlas[0, 0, 0, 0].tolist() == [1, visible]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_outputs_not_asked_for(dtype):
    inputs = SPLAT.CASES[0].make(dtype)
    image, part, uv = inputs["image"], inputs["part"], inputs["uv"]
    ops = torch.ops.pose_kernels
    for normalize in (False, True):
        args = (image, part, uv, 3, 6, normalize, 1e-3)
        atlas, weight = ops.uv_splat(*args, True)
        alone, nothing = ops.uv_splat(*args, False)
        assert torch.equal(alone, atlas)
        assert nothing.shape == (0,) and nothing.dtype == weight.dtype
    grads = (atlas, weight, image, part, uv, atlas, weight, 1e-3)
    both = ops.uv_splat_backward(*grads, True, True)
    grad_image, nothing = ops.uv_splat_backward(*grads, True, False)
    assert torch.equal(grad_image, both[0])
    assert nothing.shape == (0,) and nothing.dtype == uv.dtype
    nothing, grad_uv = ops.uv_splat_backward(*grads, False, True)
    assert torch.equal(grad_uv, both[1])
    assert nothing.shape == (0,) and nothing.dtype == dtype


def test_value_deterministic_mode_uses_no_atomics(monkeypatch):
    inputs = SPLAT.CASES[0].make(torch.float32)
    expected = reference_splat(**inputs)
    launched = []
    monkeypatch.setattr(splat_module, "launch", lambda *args, **kwargs: launched.append(args))
    pk.uv_splat(**inputs)
    assert launched  # the control: in the other mode the kernels are asked
    launched.clear()
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    got = pk.uv_splat(**inputs)
    assert not launched
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


# ---- compilation


class Offline:
    """In the place of Triton's driver: names a GPU that is not there, enough to compile for it."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.arch  # kernels are kept per device

    def get_current_stream(self, device: int) -> int:
        return 0


ARCHS = (75, 80, 86, 89, 90, 100, 120)
ALL = {"_weigh", "_accumulate", "_gather", "_splat_backward"}


@pytest.fixture
def compiled(monkeypatch):
    """run(arch, launcher, *args) -> {kernel: its compiled form} for what the launcher launches."""
    found = {}
    launch = triton.JITFunction.run

    def only_compile(self, *args, grid, warmup, **kwargs):
        kernel = launch(self, *args, grid=grid, warmup=True, **kwargs)
        assert kernel.asm["cubin"].startswith(b"\x7fELF")
        assert kernel.metadata.target.arch == triton.runtime.driver.active.arch
        found[self.fn.__name__] = kernel

    monkeypatch.setattr(triton.JITFunction, "run", only_compile)

    def run(arch, launcher, *args):
        triton.runtime.driver.set_active(Offline(arch))
        found.clear()
        launcher(*args)
        return dict(found)

    return run


def every_kernel(dtype, last, C, shape=(1, 16, 16), P=24, S=16, part_dtype=torch.uint8):
    """Calls all launchers on inputs like these."""
    N, H, W = shape
    image = features((N, C, H, W), dtype)
    part, uv = parts(N, H, W, P, part_dtype), wild_uv(N, H, W, geometry(dtype))
    if last:
        image = channels_last(image)
    atlas, weight = splat_module.uv_splat(image, part, uv, P, S, True, 1e-3, True)
    gather_module.uv_gather(atlas, part, uv)
    grads = (atlas, weight, image, part, uv, atlas, weight, 1e-3, True, True)
    splat_module.uv_splat_backward(*grads)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_compile_for_every_architecture(compiled, arch, dtype):
    kernels = compiled(arch, every_kernel, dtype, False, 3)
    assert set(kernels) == ALL | ({"_convert"} if dtype == torch.bfloat16 else set())


CHANNELS_LAST = [
    (torch.float32, 3),
    (torch.float32, 32),  # a loop over channels
    (torch.float16, 65),  # one with a mask in it
]


@pytest.mark.parametrize(("dtype", "C"), CHANNELS_LAST)
def test_compile_channels_last(compiled, dtype, C):
    assert set(compiled(90, every_kernel, dtype, True, C)) >= ALL


def test_compile_sizes_of_one_and_other_part_maps(compiled):
    """Triton makes a constant of every integer that is 1."""
    assert set(compiled(90, every_kernel, torch.float32, False, 1, (1, 1, 1), 1, 1)) == ALL
    others = (torch.float32, False, 3, (2, 5, 7), 5, 9, torch.int64)
    assert set(compiled(90, every_kernel, *others)) == ALL


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("need_image", "need_uv"), [(True, False), (False, True)])
def test_compile_backward_of_what_is_needed(compiled, last, need_image, need_uv):
    """(False, True) without weight is also the gradient of uv_gather to uv."""
    atlas, image = torch.zeros(1, 2, 32, 4, 4), torch.zeros(1, 32, 8, 8)
    part, uv = torch.zeros(1, 8, 8, dtype=torch.uint8), torch.zeros(1, 2, 8, 8)
    if last:
        atlas, image = channels_last(atlas), channels_last(image)
    args = (atlas, None, image, part, uv, None, None, 0.0, need_image, need_uv)
    assert set(compiled(90, splat_module.uv_splat_backward, *args)) == {"_splat_backward"}


def test_compile_vector_atomics(compiled):
    """One 16-byte atomic per corner and 4 channels where rows allow it, from sm_90 on."""

    def atomics(arch, dtype, last, C):
        image = torch.zeros(1, C, 8, 8, dtype=dtype)
        image = channels_last(image) if last else image
        part, uv = torch.zeros(1, 8, 8, dtype=torch.uint8), torch.zeros(1, 2, 8, 8)
        args = (image, part, uv, 2, 4, True, 1e-3, True)
        ptx = compiled(arch, splat_module.uv_splat, *args)["_accumulate"].asm["ptx"]
        return ptx.count(".global.gpu.relaxed.add.v4.f32"), ptx.count(".relaxed.add.f32")

    assert atomics(90, torch.float32, True, 4) == (4, 0)
    assert atomics(90, torch.bfloat16, True, 3) == (4, 0)
    assert atomics(90, torch.bfloat16, False, 3) == (4, 0)
    assert atomics(90, torch.float32, False, 3) == (0, 12)
    assert atomics(80, torch.float32, True, 4) == (0, 16)


def test_compile_rounds_as_the_reference(compiled):
    """What the interpreter cannot show: nothing is fused, and stores round to nearest."""
    # The same as in test_compile_for_every_architecture: they are compiled once.
    kernels = compiled(90, every_kernel, torch.bfloat16, False, 3)
    for name in ("_weigh", "_gather"):
        assert "fma.rn" not in kernels[name].asm["ptx"]
    assert "cvt.rn.bf16" in kernels["_gather"].asm["ptx"]
    splat = compiled(90, every_kernel, torch.float32, False, 3)["_accumulate"].asm["ptx"]
    assert "div.rn." in splat and "div.full" not in splat
