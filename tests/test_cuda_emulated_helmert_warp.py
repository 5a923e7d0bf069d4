# SPDX-License-Identifier: Apache-2.0
"""helmert_warp on CUDA, executed on the CPU as in test_cuda_emulated.py, against the reference."""

from __future__ import annotations

import itertools

import pytest
import torch
from emulation import builder
from emulation.helmert_warp import WarpKernels
from emulation.kernels import geometry
from test_cuda_emulated import DTYPES, FORMATS, INF, NAN, TOLERANCE
from torch import Tensor

from pose_kernels.reference.helmert_warp import helmert_warp, helmert_warp_backward


@pytest.fixture
def kernels(request, tmp_path_factory):
    module = builder.emulated_module(request, tmp_path_factory)
    module.schedule(0)
    return WarpKernels(module)


def close(actual: Tensor | None, expected: Tensor, dtype: torch.dtype) -> None:
    assert actual is not None and actual.shape == expected.shape
    if expected.numel():
        scale = max(1.0, float(expected.double().abs().max()))
        error = float((actual.double() - expected.double()).abs().max())
        assert error <= TOLERANCE[dtype] * scale


def rigid(N, P, size, dtype, scale=1.0, seed=0):
    """Rotations about the center of the volume and shifts of a few voxels."""
    random = torch.Generator().manual_seed(seed)
    A = torch.linalg.qr(torch.randn(N, P, 3, 3, generator=random, dtype=torch.float64))[0] * scale
    center = torch.tensor(size[::-1], dtype=torch.float64) / 2
    shift = torch.randn(N, P, 3, generator=random, dtype=torch.float64) * 2
    return torch.cat([A, (center + shift - A @ center)[..., None]], -1).to(dtype)


def scene(shape, dtype=torch.float64, soft=False, scale=1.0, seed=0):
    """volume, mask and transform. Masks overlap, and leave a third of the voxels to no part."""
    N, C, D, H, W, P = shape
    random = torch.Generator().manual_seed(seed)
    volume = torch.rand((N, C, D, H, W), generator=random, dtype=torch.float64) * 4 - 2
    draw = torch.rand((N, P, D, H, W), generator=random, dtype=torch.float64)
    inside = draw > 0.65 ** (1 / P)
    mask: Tensor
    if soft:
        mask = draw.where(inside, 0).to(geometry(dtype))
    else:
        bit = torch.tensor([1 << p for p in range(P)], dtype=torch.int32).view(1, P, 1, 1, 1)
        mask = (inside * bit).sum(1, dtype=torch.int32)
    return volume.to(dtype), mask, rigid(N, P, (D, H, W), geometry(dtype), scale, seed)


def incoming(volume: Tensor, seed=9) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return (torch.rand(volume.shape, generator=random, dtype=torch.float64) * 2 - 1).to(
        volume.dtype
    )


def identity(N, P, dtype=torch.float32):
    return torch.eye(3, 4, dtype=dtype).expand(N, P, 3, 4).contiguous()


# N, C, D, H, W, P
SHAPES = [
    (2, 3, 5, 7, 9, 4),
    (1, 9, 3, 9, 17, 2),
    (1, 33, 4, 5, 6, 3),
    (1, 130, 2, 3, 5, 2),
    (1, 1, 1, 1, 1, 1),
    (1, 8, 1, 11, 6, 3),
    (2, 4, 6, 1, 1, 2),
    (1, 5, 9, 1, 7, 31),
    (0, 3, 4, 4, 4, 2),
    (2, 0, 4, 4, 4, 2),
]
CASES = [
    pytest.param(layout, shape, soft, id=f"{layout}-{'x'.join(map(str, shape))}-{kind}")
    for layout, shape, (soft, kind) in itertools.product(
        FORMATS, SHAPES, ((False, "bits"), (True, "soft"))
    )
]
VARIANTS = [  # every dtype, in 16-byte accesses and not
    pytest.param(dtype, C, soft, shift, id=f"{str(dtype)[6:]}-C{C}-shift{shift}")
    for dtype, (C, soft, shift) in itertools.product(
        DTYPES, ((3, False, 0), (16, True, 0), (24, False, 1), (48, False, 0))
    )
]
MAPS = [0.0, 0.2, 3.0]  # one source voxel for all, a strongly enlarged part, a shrunk one


def sparse(C):
    """Small parts in a volume of many bricks, far apart, under all kinds of maps."""
    volume, _, transform = scene((1, C, 9, 11, 27, 6), torch.float32)
    mask = torch.zeros(1, 9, 11, 27, dtype=torch.int32)
    mask[:, 2:5, 3:7, 4:7] = 1
    mask[:, 8, 8, 8] |= 2
    mask[:, 7:, 9:, 25:] |= 4
    mask[:, :, 10, 16] |= 8
    mask[:, 7:9, 7:9, 23:25] |= 16
    mask[:, 7, 7, 15] |= 32  # the last corner of a brick; part 1: the first
    transform[0, [1, 5]] = torch.eye(3, 4)
    transform[0, 2, :, :3] *= 0.3
    transform[0, 2, :, 3] = torch.tensor([22.0, 8, 6])
    return volume, mask, transform


class TestForward:
    @pytest.mark.parametrize(("layout", "shape", "soft"), CASES)
    def test_forward(self, kernels, layout, shape, soft):
        inputs = scene(shape, soft=soft)
        close(kernels.warp(*inputs, last=layout == "last"), helmert_warp(*inputs), torch.float64)

    @pytest.mark.parametrize("layout", FORMATS)
    @pytest.mark.parametrize(("dtype", "C", "soft", "shift"), VARIANTS)
    def test_dtypes(self, kernels, layout, dtype, C, soft, shift):
        inputs = scene((1, C, 4, 5, 9, 3), dtype, soft)
        kernels.shift = shift
        actual = kernels.warp(*inputs, last=layout == "last")
        assert actual.dtype == dtype
        close(actual, helmert_warp(*inputs), dtype)

    @pytest.mark.parametrize("layout", FORMATS)
    @pytest.mark.parametrize("scale", MAPS)
    def test_maps(self, kernels, layout, scale):
        inputs = scene((1, 8, 6, 7, 9, 3), scale=scale)
        close(kernels.warp(*inputs, last=layout == "last"), helmert_warp(*inputs), torch.float64)

    @pytest.mark.parametrize("layout", FORMATS)
    @pytest.mark.parametrize("C", [2, 16])
    def test_sparse_parts(self, kernels, layout, C):
        inputs = sparse(C)
        actual = kernels.warp(*inputs, last=layout == "last")
        close(actual, helmert_warp(*inputs), torch.float32)
        assert actual.any() and (actual == 0).float().mean() > 0.5

    def test_more_parts_than_bits(self, kernels):
        inputs = scene((1, 8, 3, 5, 6, 40), soft=True)
        close(kernels.warp(*inputs, last=True), helmert_warp(*inputs), torch.float64)

    @pytest.mark.parametrize("layout", FORMATS)
    def test_identity_is_exact(self, kernels, layout):
        volume, mask, _ = scene((1, 12, 5, 6, 19, 3), torch.float32)
        volume = volume.abs()
        actual = kernels.warp(volume, mask, identity(1, 3), last=layout == "last")
        assert torch.equal(actual, volume * (mask != 0)[:, None])

    @pytest.mark.parametrize("layout", FORMATS)
    def test_absent_parts(self, kernels, layout):
        """A map that is not finite, or leads elsewhere, is a part that is not there."""
        volume, _, _ = scene((1, 12, 3, 4, 9, 4), torch.float32)
        volume = volume.abs() + 1
        everywhere = torch.ones(1, 4, *volume.shape[2:])
        maps = identity(1, 4)
        maps[0, 0, 1, 2] = NAN
        maps[0, 1, 2, 3] = INF
        maps[0, 2, 0, 3] = 1e9
        assert torch.equal(kernels.warp(volume, everywhere, maps, last=layout == "last"), volume)
        maps[0, 3, 0, :] = torch.tensor([3e38, 3e38, 3e38, -3e38])  # overflows on the way
        close(
            kernels.warp(volume, everywhere, maps, last=layout == "last"),
            helmert_warp(volume, everywhere, maps),
            torch.float32,
        )

    @pytest.mark.parametrize("layout", FORMATS)
    def test_negative_maxima_where_all_parts_cover(self, kernels, layout):
        volume = -torch.rand(1, 12, 3, 4, 9) - 0.5
        mask = torch.full((1, 3, 4, 9), 0b111, dtype=torch.int32)
        mask[..., 6:] = 0b101
        actual = kernels.warp(volume, mask, identity(1, 3), last=layout == "last")
        assert torch.equal(actual, volume * (mask == 0b111)[:, None])

    @pytest.mark.parametrize("layout", FORMATS)
    def test_nan(self, kernels, layout):
        """Features outside the masks are not even read; inside, NaN wins."""
        volume, mask, maps = scene((1, 12, 4, 5, 9, 2), torch.float32)
        expected = kernels.warp(volume, mask, maps, last=layout == "last")
        volume = volume.where((mask != 0)[:, None], NAN)
        assert torch.equal(kernels.warp(volume, mask, maps, last=layout == "last"), expected)
        volume[0, 5] = NAN
        actual = kernels.warp(volume, mask, maps, last=layout == "last")
        assert actual[0, 5].isnan().any()
        rest = [c for c in range(12) if c != 5]
        assert torch.equal(actual[:, rest], expected[:, rest])

    @pytest.mark.parametrize("layout", FORMATS)
    @pytest.mark.parametrize("C", [3, 20])
    def test_same_bits_in_every_order_of_threads(self, kernels, layout, C):
        inputs = scene((1, C, 4, 6, 9, 4), torch.float32)
        runs = []
        for order in (0, 1, 2):
            kernels.module.schedule(order)
            runs.append(kernels.warp(*inputs, last=layout == "last"))
        assert torch.equal(runs[1], runs[0]) and torch.equal(runs[2], runs[0])


class TestBackward:
    @staticmethod
    def check(kernels, layout, inputs, **options):
        volume, mask, _ = inputs
        grad = incoming(volume)
        actual = kernels.backward(grad, *inputs, last=layout == "last", **options)
        need_mask = mask.is_floating_point()
        expected = helmert_warp_backward(grad, *inputs, True, need_mask, True)
        close(actual[0], expected[0], volume.dtype)
        if need_mask:
            close(actual[1], expected[1], geometry(volume.dtype))
        close(actual[2], expected[2], geometry(volume.dtype))
        return grad, actual

    @pytest.mark.parametrize(("layout", "shape", "soft"), CASES)
    def test_backward(self, kernels, layout, shape, soft):
        inputs = scene(shape, soft=soft)
        grad, (by_volume, by_mask, _) = self.check(kernels, layout, inputs)
        # Where the winners stay, the warp is linear in the volume, and in the mask.
        out = helmert_warp(*inputs)
        through = (out * grad).sum()
        for x, g in ((inputs[0], by_volume), (inputs[1], by_mask)):
            if g is not None:
                assert abs((x * g).sum() - through) <= 1e-12 * ((out * grad).abs().sum() + 1)

    @pytest.mark.parametrize("layout", FORMATS)
    @pytest.mark.parametrize(("dtype", "C", "soft", "shift"), VARIANTS)
    def test_dtypes(self, kernels, layout, dtype, C, soft, shift):
        kernels.shift = shift
        _, actual = self.check(kernels, layout, scene((1, C, 3, 5, 7, 3), dtype, soft))
        assert actual[0].dtype == dtype and actual[2].dtype == geometry(dtype)

    @pytest.mark.parametrize("layout", FORMATS)
    @pytest.mark.parametrize("soft", [False, True])
    @pytest.mark.parametrize("scale", MAPS)
    def test_maps(self, kernels, layout, soft, scale):
        self.check(kernels, layout, scene((1, 8, 4, 5, 7, 2), soft=soft, scale=scale))

    def test_maps_that_lose_a_dimension(self, kernels):
        volume, mask, maps = scene((1, 8, 4, 5, 7, 3))
        maps[0, 0, 2] = torch.tensor([0.0, 0, 0, 1.5])  # flat
        maps[0, 1, 1] = maps[0, 1, 0]  # skew: two rows alike
        maps[0, 2, :, 0] = 0  # the same for a whole row
        self.check(kernels, "last", (volume, mask, maps))

    @pytest.mark.parametrize("layout", FORMATS)
    def test_sparse_parts(self, kernels, layout):
        self.check(kernels, layout, sparse(8))

    def test_more_parts_than_bits(self, kernels):
        self.check(kernels, "last", scene((1, 8, 3, 4, 5, 40), soft=True))

    @pytest.mark.parametrize("volume_last", [False, True])
    def test_mixed_memory_formats(self, kernels, volume_last):
        inputs = scene((1, 8, 3, 4, 5, 2))
        layout = FORMATS[not volume_last]
        self.check(kernels, layout, inputs, volume_last=volume_last)

    @pytest.mark.parametrize("layout", FORMATS)
    @pytest.mark.parametrize("soft", [False, True])
    def test_only_what_is_needed(self, kernels, layout, soft):
        inputs = scene((1, 12, 3, 5, 6, 3), torch.float32, soft)
        grad, last = incoming(inputs[0]), layout == "last"
        everything = kernels.backward(grad, *inputs, last=last)
        for need in itertools.product([False, True], repeat=3):
            some = kernels.backward(grad, *inputs, last=last, need=need)
            for wanted, got, full in zip(need, some, everything, strict=True):
                assert (got is not None) == (wanted and full is not None)
                assert got is None or torch.equal(got, full)

    @pytest.mark.parametrize("layout", FORMATS)
    def test_ties_go_to_the_lowest_part(self, kernels, layout):
        volume = torch.rand(1, 12, 3, 4, 9) + 0.5
        mask = torch.ones(1, 3, *volume.shape[2:])
        grad = incoming(volume)
        by_volume, by_mask, by_map = kernels.backward(
            grad, volume, mask, identity(1, 3), last=layout == "last"
        )
        assert torch.equal(by_volume, grad)
        close(by_mask[:, 0], (grad * volume).sum(1), torch.float32)
        assert not by_mask[:, 1:].any() and not by_map[:, 1:].any() and by_map[:, 0].any()

    @pytest.mark.parametrize("layout", FORMATS)
    @pytest.mark.parametrize("absent", [0, 1])
    def test_a_part_that_is_not_there_wins_ties_at_zero(self, kernels, layout, absent):
        """Features of 0: the gradient passes only where the covering part comes first."""
        volume = torch.zeros(1, 12, 3, 4, 9)
        mask = torch.full((1, 3, 4, 9), 1 << (1 - absent), dtype=torch.int32)
        grad = incoming(volume)
        by_volume, _, _ = kernels.backward(
            grad, volume, mask, identity(1, 2), last=layout == "last"
        )
        assert torch.equal(by_volume, grad if absent == 1 else torch.zeros_like(grad))

    @pytest.mark.parametrize("layout", FORMATS)
    def test_absent_parts(self, kernels, layout):
        volume, mask, maps = scene((1, 12, 3, 4, 9, 3), torch.float32, soft=True)
        maps[0, 0, 1, 2] = NAN
        maps[0, 1, 2, 3] = -INF
        by_volume, by_mask, by_map = kernels.backward(
            incoming(volume), volume, mask, maps, last=layout == "last"
        )
        assert by_volume.isfinite().all() and by_volume.any()
        assert not by_mask[:, :2].any() and not by_map[:, :2].any() and by_map[:, 2].any()

    @pytest.mark.parametrize("layout", FORMATS)
    @pytest.mark.parametrize("soft", [False, True])
    def test_same_bits_in_every_order_of_threads(self, kernels, layout, soft):
        inputs = scene((1, 20, 3, 5, 6, 3), torch.float32, soft)
        grad = incoming(inputs[0])
        runs = []
        for order in (0, 1, 2):
            kernels.module.schedule(order)
            runs.append(kernels.backward(grad, *inputs, last=layout == "last"))
        for run in runs[1:]:
            for x, y in zip(run, runs[0], strict=True):
                assert (x is None and y is None) or torch.equal(x, y)

    @pytest.mark.parametrize("shape", [(2, 64, 33, 65, 65), (1, 16, 128, 128, 128)])
    @pytest.mark.parametrize(("P", "bits"), [(10, True), (255, False)])
    def test_workspace(self, kernels, shape, P, bits):
        """A byte per element of the volume and a few megabytes."""
        elements = torch.Size(shape).numel()
        space = kernels.module.helmert_warp_backward_workspace(*shape, P, bits)
        assert elements <= space <= elements + 8 * 2**20
