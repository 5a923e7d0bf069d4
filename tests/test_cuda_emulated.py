# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels, executed on the CPU: every .cu of csrc/cuda against the reference.

Threads are fibers (tests/emulation), so barriers, shuffles and shared memory work as on a GPU. Each
kernel is also run with its threads in other orders and must give the same bits, and, on request,
under AddressSanitizer (test_cuda_emulated_sanitized.py). What this cannot show is speed, and
anything two blocks do to each other.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from emulation import builder
from emulation.kernels import Kernels, geometry
from torch import Tensor

from pose_kernels.reference.push_pull import fill, fill_adjoint
from pose_kernels.reference.uv_gather import uv_gather
from pose_kernels.reference.uv_splat import uv_splat, uv_splat_backward

NAN, INF = float("nan"), float("inf")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
FORMATS = ("planar", "last")
# Sums of tens of terms in the accumulator, one rounding to the feature dtype.
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}


@pytest.fixture
def kernels(request, tmp_path_factory):
    module = builder.emulated_module(request, tmp_path_factory)
    module.schedule(0)
    return Kernels(module)


def close(actual: Tensor, expected: Tensor, dtype: torch.dtype, factor: float = 1) -> None:
    """Equal up to the tolerance of dtype times the largest expected number, and nowhere NaN."""
    assert actual.shape == expected.shape
    if expected.numel():
        scale = max(1.0, float(expected.double().abs().max()))
        error = float((actual.double() - expected.double()).abs().max())
        assert error <= factor * TOLERANCE[dtype] * scale


def surface(N, C, H, W, P, S, dtype=torch.float64, part_dtype=torch.uint8, seed=0):
    """image, part and uv: parts out of range, coordinates 0, 1, outside, NaN and infinite."""
    random = torch.Generator().manual_seed(seed)
    image = torch.rand((N, C, H, W), generator=random, dtype=torch.float64) * 4 - 2
    part = torch.randint(0, P + 3, (N, H, W), generator=random)
    if part_dtype != torch.uint8:
        part = part.where(part <= P + 1, -1)
    uv = torch.rand((N, 2, H, W), generator=random, dtype=torch.float64) * 1.2 - 0.1
    special = torch.tensor([0.0, 1.0, NAN, INF, -INF, 1e30], dtype=torch.float64)
    pick = torch.randint(0, 40, uv.shape, generator=random)
    uv = uv.where(pick >= 6, special[pick % 6])
    return image.to(dtype), part.to(part_dtype), uv.to(geometry(dtype))


# N, C, H, W, P, S
SHAPES = [
    (2, 3, 9, 13, 3, 7),
    (1, 1, 5, 6, 1, 1),
    (2, 2, 8, 11, 40, 5),
    (1, 4, 16, 16, 2, 33),
    (2, 5, 7, 3, 1, 9),
    (1, 9, 6, 10, 2, 12),
    (1, 33, 7, 9, 2, 10),
    (1, 64, 5, 8, 1, 8),
    (1, 3, 70, 64, 24, 40),
    (1, 1, 8, 9, 5000, 1),
    (0, 3, 4, 4, 2, 4),
    (2, 0, 4, 4, 2, 4),
    (1, 3, 0, 5, 2, 4),
]
FORMAT_SHAPES = list(itertools.product(FORMATS, SHAPES))
VARIANTS = [  # every dtype, aligned and not, every part dtype
    pytest.param(dtype, shape, part_dtype, shift, id=f"{str(dtype)[6:]}-C{shape[1]}-shift{shift}")
    for dtype, shift in itertools.product(DTYPES, (0, 1))
    for shape, part_dtype in [
        ((2, 3, 9, 13, 3, 8), torch.int32),
        ((1, 8, 6, 10, 2, 16), torch.int64),
        ((1, 40, 6, 10, 2, 16), torch.uint8),
    ]
]


class TestSplat:
    @pytest.mark.parametrize("normalize", [True, False])
    @pytest.mark.parametrize(("layout", "shape"), FORMAT_SHAPES)
    def test_forward(self, kernels, layout, shape, normalize):
        image, part, uv = surface(*shape)
        P, S = shape[4:]
        atlas, weight = kernels.uv_splat(
            image, part, uv, P, S, last=layout == "last", normalize=normalize
        )
        expected = uv_splat(image, part, uv, num_parts=P, size=S, normalize=normalize)
        close(atlas, expected[0], torch.float64)
        close(weight, expected[1], torch.float64)

    @pytest.mark.parametrize("layout", FORMATS)
    @pytest.mark.parametrize(("dtype", "shape", "part_dtype", "shift"), VARIANTS)
    def test_dtypes(self, kernels, layout, dtype, shape, part_dtype, shift):
        image, part, uv = surface(*shape, dtype, part_dtype)
        kernels.shift = shift
        atlas, weight = kernels.uv_splat(image, part, uv, *shape[4:], last=layout == "last")
        expected = uv_splat(image, part, uv, num_parts=shape[4], size=shape[5])
        assert atlas.dtype == dtype and weight.dtype == geometry(dtype)
        close(atlas, expected[0], dtype)
        close(weight, expected[1], geometry(dtype))

    @pytest.mark.parametrize("layout", FORMATS)
    @pytest.mark.parametrize("C", [3, 40])
    def test_same_bits_in_every_order_of_threads(self, kernels, layout, C):
        image, part, uv = surface(1, C, 40, 60, 2, 20, torch.float32)
        part.view(-1)[2048:] = 0  # a whole chunk of background
        runs = []
        for order in (0, 1, 2, 3):
            kernels.module.schedule(order)
            runs.append(kernels.uv_splat(image, part, uv, 2, 20, last=layout == "last"))
        for atlas, weight in runs[1:]:
            assert torch.equal(atlas, runs[0][0]) and torch.equal(weight, runs[0][1])

    def test_many_chunks(self, kernels):
        """More than 32 chunks of 2,048 pixels: a warp reads its list in several rounds."""
        image, part, uv = surface(1, 1, 65, 1040, 2, 12)
        atlas, weight = kernels.uv_splat(image, part, uv, 2, 12)
        expected = uv_splat(image, part, uv, num_parts=2, size=12)
        close(atlas, expected[0], torch.float64, 10)
        close(weight, expected[1], torch.float64)

    @pytest.mark.parametrize("layout", FORMATS)
    def test_all_pixels_in_one_texel(self, kernels, layout):
        image = torch.rand(1, 3, 64, 48, dtype=torch.float64)
        part = torch.full((1, 64, 48), 2, dtype=torch.uint8)
        uv = torch.full((1, 2, 64, 48), 0.5, dtype=torch.float64)
        atlas, weight = kernels.uv_splat(image, part, uv, 2, 5, last=layout == "last")
        assert weight[0, 1, 2, 2] == 64 * 48 and weight.sum() == 64 * 48
        mean = image.mean((0, 2, 3))
        close(atlas[0, 1, :, 2, 2], mean, torch.float64)
        assert atlas.double().abs().sum() == atlas[0, 1, :, 2, 2].double().abs().sum()

    def test_by_hand(self, kernels):
        """One pixel a quarter to the right of texel (row 1, column 0) of part 2 on 3 x 3 tiles."""
        image = torch.full((1, 1, 1, 1), 8.0)
        part, uv = torch.tensor([[[2]]]), torch.tensor([0.125, 0.5]).view(1, 2, 1, 1)
        atlas, weight = kernels.uv_splat(image, part, uv, 2, 3, normalize=False)
        row = torch.tensor([[0, 0, 0], [0.75, 0.25, 0], [0, 0, 0]])
        assert torch.equal(weight[0, 1], row) and torch.equal(atlas[0, 1, 0], 8 * row)
        assert not weight[0, 0].any() and not atlas[0, 0].any()
        for limit in (0.25, 0.5):  # a weight of exactly the limit is too little
            atlas, nothing = kernels.uv_splat(
                image, part, uv, 2, 3, min_weight=limit, with_weight=False
            )
            assert nothing is None
            assert torch.equal(atlas[0, 1, 0], torch.tensor([[0.0, 0, 0], [8, 0, 0], [0, 0, 0]]))

    def test_nothing_is_read_from_the_background(self, kernels):
        image, part, uv = surface(1, 3, 9, 9, 2, 6)
        part[:, :5] = 0
        expected = kernels.uv_splat(image, part, uv, 2, 6)
        image[:, :, :5] = NAN
        actual = kernels.uv_splat(image, part, uv, 2, 6)
        assert torch.equal(actual[0], expected[0]) and torch.equal(actual[1], expected[1])


def incoming(shape, dtype, seed=9):
    random = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=random, dtype=torch.float64) * 2 - 1).to(dtype)


class TestSplatBackward:
    @staticmethod
    def run(kernels, layout, shape, dtype, part_dtype, normalize, with_grad_weight):
        N, C, _, _, P, S = shape
        image, part, uv = surface(*shape, dtype, part_dtype)
        atlas, weight = uv_splat(image, part, uv, num_parts=P, size=S, normalize=normalize)
        grad_atlas = incoming((N, P, C, S, S), dtype)
        grad_weight = incoming((N, P, S, S), uv.dtype, 10) if with_grad_weight else None
        saved = (atlas, weight) if normalize else (None, None)
        arguments = (grad_atlas, grad_weight, image, part, uv, *saved)
        actual = kernels.uv_splat_backward(*arguments, last=layout == "last")
        return arguments, actual, uv_splat_backward(*arguments, 1e-3, True, True)

    @pytest.mark.parametrize("normalize", [True, False])
    @pytest.mark.parametrize(("layout", "shape"), FORMAT_SHAPES)
    def test_backward(self, kernels, layout, shape, normalize):
        _, actual, expected = self.run(
            kernels, layout, shape, torch.float64, torch.uint8, normalize, normalize
        )
        close(actual[0], expected[0], torch.float64)
        close(actual[1], expected[1], torch.float64, 10)

    @pytest.mark.parametrize("layout", FORMATS)
    @pytest.mark.parametrize(("dtype", "shape", "part_dtype", "shift"), VARIANTS)
    def test_dtypes(self, kernels, layout, dtype, shape, part_dtype, shift):
        kernels.shift = shift
        _, actual, expected = self.run(kernels, layout, shape, dtype, part_dtype, True, True)
        close(actual[0], expected[0], dtype)
        # Both widen the same numbers and add them in another order.
        close(actual[1], expected[1], geometry(dtype), 10)

    @pytest.mark.parametrize("layout", FORMATS)
    def test_only_what_is_needed(self, kernels, layout):
        shape = (1, 12, 6, 7, 2, 8)
        arguments, both, _ = self.run(
            kernels, layout, shape, torch.float32, torch.uint8, True, False
        )
        last = layout == "last"
        image, none = kernels.uv_splat_backward(*arguments, last=last, need_uv=False)
        assert none is None and torch.equal(image, both[0])
        none, uv = kernels.uv_splat_backward(*arguments, last=last, need_image=False)
        assert none is None and torch.equal(uv, both[1])
        grad_atlas, _, _, part, uv, _, weight = arguments  # neither image nor atlas for grad_image
        image, _ = kernels.uv_splat_backward(
            grad_atlas, None, None, part, uv, None, weight, last=last, need_uv=False
        )
        assert torch.equal(image, both[0])

    @pytest.mark.parametrize("layout", FORMATS)
    def test_invisible_texels_pass_nothing(self, kernels, layout):
        """Where D <= min_weight not even an infinite gradient gets through."""
        image, part, uv = surface(1, 8, 8, 8, 1, 16, torch.float32)
        _, weight = uv_splat(image, part, uv, num_parts=1, size=16)
        limit = float(weight[weight > 0].median())  # that of a texel
        atlas, _ = uv_splat(image, part, uv, num_parts=1, size=16, min_weight=limit)
        grad = incoming(atlas.shape, atlas.dtype)
        arguments = dict(last=layout == "last", min_weight=limit)
        clean = kernels.uv_splat_backward(grad, None, image, part, uv, atlas, weight, **arguments)
        grad = grad.where((weight > limit)[:, :, None], INF)
        dirty = kernels.uv_splat_backward(grad, None, image, part, uv, atlas, weight, **arguments)
        assert torch.equal(clean[0], dirty[0]) and torch.equal(clean[1], dirty[1])

    def test_same_bits_in_every_order_of_threads(self, kernels):
        runs = []
        for order in (0, 1, 2):
            kernels.module.schedule(order)
            shape = (1, 40, 6, 7, 2, 8)
            _, actual, _ = self.run(kernels, "last", shape, torch.float32, torch.uint8, True, True)
            runs.append(actual)
        for image, uv in runs[1:]:
            assert torch.equal(image, runs[0][0]) and torch.equal(uv, runs[0][1])


class TestGather:
    @pytest.mark.parametrize(("layout", "shape"), FORMAT_SHAPES)
    def test_forward(self, kernels, layout, shape):
        N, C, _, _, P, S = shape
        _, part, uv = surface(*shape)
        atlas = incoming((N, P, C, S, S), torch.float64)
        actual = kernels.uv_gather(atlas, part, uv, last=layout == "last")
        close(actual, uv_gather(atlas, part, uv), torch.float64)

    @pytest.mark.parametrize("layout", FORMATS)
    @pytest.mark.parametrize(("dtype", "shape", "part_dtype", "shift"), VARIANTS)
    def test_dtypes(self, kernels, layout, dtype, shape, part_dtype, shift):
        N, C, _, _, P, S = shape
        _, part, uv = surface(*shape, dtype, part_dtype)
        atlas = incoming((N, P, C, S, S), dtype)
        kernels.shift = shift
        actual = kernels.uv_gather(atlas, part, uv, last=layout == "last")
        close(actual, uv_gather(atlas, part, uv), dtype)

    @pytest.mark.parametrize("C", [3, 33])
    @pytest.mark.parametrize("layout", FORMATS)
    def test_is_the_adjoint_of_splat(self, kernels, layout, C):
        image, part, uv = surface(2, C, 20, 30, 3, 16)
        last = layout == "last"
        atlas, _ = kernels.uv_splat(image, part, uv, 3, 16, normalize=False, last=last)
        other = incoming(atlas.shape, torch.float64)
        gathered = kernels.uv_gather(other, part, uv, last=last)
        left, right = (atlas * other).sum(), (image * gathered).sum()
        assert abs(left - right) <= 1e-12 * (atlas * other).abs().sum()


# H, W
SIZES = [(1, 1), (1, 7), (9, 1), (2, 2), (5, 5), (8, 8), (16, 24), (33, 17), (64, 64), (35, 100)]
COVERAGE = [0.0, 0.05, 0.5, 1.0]


def tiles(H, W, C=2, dtype=torch.float64, seed=0):
    """One tile per coverage, NaN where nothing is known; weights with NaN, negatives, the limit."""
    random = torch.Generator().manual_seed(seed)
    M = len(COVERAGE)
    draw = torch.rand((M, H, W), generator=random)
    known = draw < torch.tensor(COVERAGE)[:, None, None]
    if H * W > 1:
        known[1].view(-1)[int(draw[1].argmax())] = True
    pick = torch.randint(0, 4, known.shape, generator=random)
    unknown = torch.tensor([0.0, -1.0, NAN, 0.25])[pick]  # 0.25 is the limit itself
    weight = torch.where(known, draw + 0.5, unknown).to(geometry(dtype))
    atlas = torch.rand((M, C, H, W), generator=random, dtype=torch.float64) * 4 - 2
    return atlas.where(known[:, None], NAN).to(dtype), weight, known


class TestPushPull:
    @pytest.mark.parametrize("workspace", [False, True], ids=["shared", "workspace"])
    @pytest.mark.parametrize(("layout", "size"), list(itertools.product(FORMATS, SIZES)))
    def test_forward(self, kernels, layout, size, workspace):
        atlas, weight, known = tiles(*size)
        if workspace:
            kernels.shared_memory = 0
        for radius in (-1, 0, 1, 4, 1000):
            actual = kernels.push_pull(
                atlas, weight, radius, min_weight=0.25, last=layout == "last"
            )
            assert kernels.used_workspace == workspace
            close(actual, fill(atlas, weight, radius, 0.25), torch.float64)
            exact = known[:, None].expand_as(atlas)
            assert torch.equal(actual[exact], atlas[exact])

    @pytest.mark.parametrize("workspace", [False, True], ids=["shared", "workspace"])
    @pytest.mark.parametrize(("layout", "size"), list(itertools.product(FORMATS, SIZES)))
    def test_adjoint(self, kernels, layout, size, workspace):
        atlas, weight, known = tiles(*size)
        atlas = atlas.where(known[:, None], 0)
        other = incoming(atlas.shape, torch.float64)
        last = layout == "last"
        if workspace:
            kernels.shared_memory = 0
        for radius in (-1, 0, 3):
            there = kernels.push_pull(atlas, weight, radius, min_weight=0.25, last=last)
            back = kernels.push_pull(
                other, weight, radius, min_weight=0.25, last=last, adjoint=True
            )
            close(back, fill_adjoint(other, weight, radius, 0.25), torch.float64)
            left, right = (there * other).sum(), (atlas * back).sum()
            assert abs(left - right) <= 1e-12 * ((there * other).abs().sum() + 1e-300)
            assert not back.where(~known[:, None], 0).any()

    @pytest.mark.parametrize("adjoint", [False, True])
    @pytest.mark.parametrize("layout", FORMATS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
    @pytest.mark.parametrize("shift", [0, 1])
    def test_dtypes(self, kernels, layout, dtype, adjoint, shift):
        atlas, weight, known = tiles(12, 18, 3, dtype)
        kernels.shift = shift
        if adjoint:
            atlas = incoming(atlas.shape, dtype)
        actual = kernels.push_pull(
            atlas, weight, 5, min_weight=0.25, adjoint=adjoint, last=layout == "last"
        )
        expected = (fill_adjoint if adjoint else fill)(atlas, weight, 5, 0.25)
        assert actual.dtype == dtype
        close(actual, expected, dtype)

    @pytest.mark.parametrize("adjoint", [False, True])
    def test_same_bits_in_every_order_of_threads_and_place(self, kernels, adjoint):
        atlas, weight, known = tiles(40, 37, 1, torch.float32)
        atlas = incoming(atlas.shape, torch.float32) if adjoint else atlas
        runs = []
        for order, shared in ((0, 10**6), (1, 10**6), (2, 10**6), (0, 0), (1, 0)):
            kernels.module.schedule(order)
            kernels.shared_memory = shared
            runs.append(kernels.push_pull(atlas, weight, 6, min_weight=0.25, adjoint=adjoint))
        for other in runs[1:]:
            assert torch.equal(other, runs[0])

    @pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4)])
    def test_empty(self, kernels, shape):
        atlas = torch.zeros(shape)
        weight = torch.zeros(shape[0], *shape[2:])
        assert kernels.push_pull(atlas, weight).shape == shape

    def test_by_hand(self, kernels):
        """A row of four, the first known: everything is its color, nothing beyond the radius."""
        atlas = torch.tensor([3.0, NAN, NAN, NAN]).view(1, 1, 1, 4)
        weight = torch.tensor([1.0, 0, 0, 0]).view(1, 1, 4)
        assert kernels.push_pull(atlas, weight).tolist() == [[[[3, 3, 3, 3]]]]
        assert kernels.push_pull(atlas, weight, 2).tolist() == [[[[3, 3, 3, 0]]]]
        ones = torch.ones_like(atlas)
        assert kernels.push_pull(ones, weight, adjoint=True).tolist() == [[[[4, 0, 0, 0]]]]
