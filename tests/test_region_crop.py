# SPDX-License-Identifier: Apache-2.0
"""region_crop: the contract, answers worked by hand, and what holds for it alone."""

from __future__ import annotations

import functools

import pytest
import torch
from cases import DTYPE_IDS, DTYPES, INF, NAN, Case, Inputs, channels_last, features, geometry, move
from contract import Contract
from contract_modes import Modes
from hypothesis import strategies as st
from torch import Tensor

import pose_kernels as pk
from pose_kernels.reference.region_crop import region_crop_backward

HALVES = (torch.bfloat16, torch.float16)


def wild_centers(N: int, K: int, H: int, W: int, dtype: torch.dtype, seed: int) -> Tensor:
    """In and around the image, many halfway between pixels; some far away or not finite."""
    random = torch.Generator().manual_seed(seed)
    center = torch.rand((N, K, 2), generator=random, dtype=torch.float64) * 1.6 - 0.3
    center = (center * torch.tensor([W, H]) * 2).round() / 2
    special = torch.tensor([NAN, INF, -INF, 6e4, -6e4], dtype=torch.float64)
    pick = torch.randint(0, 6 * len(special), center.shape, generator=random)
    return center.where(pick >= len(special), special[pick % len(special)]).to(dtype)


def crop_inputs(
    shape: tuple[int, int, int, int],
    K: int,
    size: int,
    dtype: torch.dtype,
    *,
    center_dtype: torch.dtype | None = None,
    seed: int = 0,
) -> Inputs:
    N, _, H, W = shape
    center = wild_centers(N, K, H, W, center_dtype or geometry(dtype), seed + 1)
    return {"image": features(shape, dtype, seed), "center": center, "size": size}


def case(name: str, shape, K: int, size: int, **options) -> Case:
    return Case(name, functools.partial(crop_inputs, shape, K, size, **options))


def tame(dtype: torch.dtype) -> Inputs:
    """Windows that overlap, in the middle and at a border, of both images."""
    inputs = crop_inputs((2, 2, 4, 5), 3, 2, dtype)
    center = [[[1.2, 1.0], [2.3, 1.7], [4.0, 0.0]], [[2.0, 3.0], [-3.0, 2.0], [2.0, 3.0]]]
    return {**inputs, "center": torch.tensor(center, dtype=geometry(dtype))}


CASES = [
    case("small", (2, 3, 7, 9), 4, 3),
    case("channels", (1, 16, 9, 8), 5, 4),
    case("odd-channels", (1, 19, 6, 8), 3, 5, center_dtype=torch.float64),
    case("whole", (2, 2, 5, 5), 2, 5, center_dtype=torch.float16),
    case("single-pixels", (2, 3, 6, 5), 7, 1, center_dtype=torch.bfloat16),
    case("one-pixel", (1, 1, 1, 1), 1, 1),
    case("no-images", (0, 3, 4, 5), 2, 3),
    case("no-channels", (2, 0, 4, 5), 2, 3),
]


def crop_bounds(inputs: Inputs, outputs: list[Tensor], grads: list[Tensor]) -> dict[str, Tensor]:
    """Crops are copies; a pixel of n crops sums n gradients, and a half type rounds once."""
    crops, valid = outputs
    bounds = {
        "crops": torch.zeros(crops.shape, dtype=torch.float64),
        "valid": torch.zeros_like(valid, device="cpu"),
    }
    if grads:
        accumulator, g = geometry(crops.dtype), grads[0].detach().cpu().double().abs()
        place = inputs["center"].cpu(), *inputs["image"].shape[2:]
        terms = region_crop_backward(torch.ones_like(g), *place)
        store = torch.finfo(crops.dtype).eps if crops.dtype != accumulator else 0.0
        relative = terms * torch.finfo(accumulator).eps + store
        bounds["image"] = 2 * relative * region_crop_backward(g, *place)
    return bounds


def random_inputs(N, C, K, size, below, beside, dtype, center_dtype, seed) -> Inputs:
    shape = (N, C, size + below, size + beside)
    return crop_inputs(shape, K, size, dtype, center_dtype=center_dtype, seed=seed)


class TestRegionCrop(Contract, Modes):
    op = staticmethod(pk.region_crop)
    reference = staticmethod(pk.reference.region_crop)
    bounds = staticmethod(crop_bounds)
    CASES = CASES
    in_every_dtype = 4
    tame = Case("tame", tame)
    collide = case("collide", (2, 3, 64, 64), 40, 32)
    values, differentiable, outputs = "image", ("image",), ("crops", "valid")
    fixed = ("valid",)
    realistic = [case("realistic", (4, 3, 512, 512), 20, 128)]
    sweep = st.builds(
        random_inputs,
        N=st.integers(0, 3),
        C=st.integers(0, 9),
        K=st.integers(1, 6),
        size=st.integers(1, 9),
        below=st.integers(0, 9),
        beside=st.integers(0, 9),
        dtype=st.sampled_from(DTYPES),
        center_dtype=st.sampled_from(DTYPES),
        seed=st.integers(0, 99),
    )

    def dispatched(self, inputs: Inputs):
        return torch.ops.pose_kernels.region_crop.default, tuple(inputs.values())

    def grown(self, by: int) -> Inputs:
        return crop_inputs((3 + by, 4 + by, 9 + by, 11 + by), 6 + by, 3 + by, torch.float32)


# x, y, size, and the corner x0, y0 of the window in an image of 7 columns and 5 rows
LITERAL = [
    ("odd side", 3.0, 2.0, 3, 2, 1),
    ("even side: one more to the left", 3.0, 2.0, 2, 2, 1),
    ("one pixel", 6.0, 4.0, 1, 6, 4),
    ("halves go to the even pixel", 2.5, 3.5, 1, 2, 4),
    ("below zero too", -0.5, 0.5, 1, 0, 0),
    ("nearest", 3.49, 1.51, 1, 3, 2),
    ("moved back from the left and the bottom", 0.4, 4.4, 3, 0, 2),
    ("far outside", -7.0, 99.0, 3, 0, 2),
    ("beyond every integer", 1e30, -3e38, 3, 4, 0),
    ("beyond 32 bits", -5e9, 5e9, 4, 0, 1),
    ("as high as the image", 6.0, 4.0, 5, 2, 0),
]


@pytest.mark.parametrize("row", LITERAL, ids=[row[0] for row in LITERAL])
def test_where_a_window_lies(place, row):
    _, x, y, size, x0, y0 = row
    image = (torch.arange(5)[:, None] * 10.0 + torch.arange(7))[None, None].to(place.device)
    for dtype in (torch.float32, torch.float64):
        center = torch.tensor([[[x, y]]], dtype=dtype, device=place.device)
        crops, valid = pk.region_crop(torch.cat([image, -image], 1), center, size)
        expected = image[0, 0, y0 : y0 + size, x0 : x0 + size]
        assert torch.equal(crops[0, 0], torch.stack([expected, -expected]))
        assert valid.tolist() == [[True]]


def test_centers_are_rounded_in_their_own_precision(place):
    """Half types in float32; float64 centers are not cut to the image's float32."""
    image = torch.arange(400.0, device=place.device)[None, None, None].expand(1, 1, 2, 400)
    just_below = 3.5 - 1e-12

    def column(x: float, dtype: torch.dtype) -> float:
        center = torch.tensor([[[x, 0.0]]], dtype=dtype, device=place.device)
        return float(pk.region_crop(image, center, 1)[0])

    assert column(just_below, torch.float64) == 3
    assert column(just_below, torch.float32) == 4
    assert column(300.5, torch.float16) == 300
    assert column(386.0, torch.bfloat16) == 386


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_center_that_is_not_finite_has_no_crop(place, bad):
    """Zeros, not valid; whatever arrives there, the image's gradient does not see it."""
    image = features((1, 2, 6, 6), torch.float32).to(place.device).requires_grad_()
    center = torch.tensor([[[bad, 2.0], [2.0, 2.0], [3.0, bad], [bad, bad]]], device=place.device)
    crops, valid = pk.region_crop(image, center, 3)
    assert valid.tolist() == [[False, True, False, False]]
    assert torch.equal(crops[0, 1], image[0, :, 1:4, 1:4])
    assert crops[:, [0, 2, 3]].count_nonzero() == 0
    incoming = torch.full_like(crops, bad)
    incoming[0, 1] = 1
    (grad,) = torch.autograd.grad(crops, image, incoming)
    expected = torch.zeros_like(grad)
    expected[:, :, 1:4, 1:4] = 1
    assert torch.equal(grad, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("last", [False, True])
def test_crops_are_copies_bit_for_bit(place, dtype, last):
    """Every pattern: NaNs with what they hold, infinities, subnormals, -0."""
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    info = torch.iinfo(integer)
    bits = torch.randint(info.min, info.max, (1, 3, 40, 41), dtype=integer).to(place.device)
    image = channels_last(bits).view(dtype) if last else bits.view(dtype)
    center = torch.tensor([[[20.0, 20.0], [0.0, 39.0]]], device=place.device)
    with torch.no_grad():
        crops, _ = pk.region_crop(image, center, 30)
    if place.backend == "reference" and dtype in HALVES:  # it may quiet a NaN on its way
        crops, bits = crops.nan_to_num(0), bits.view(dtype).nan_to_num(0).view(integer)
    expected = torch.stack([bits[:, :, 5:35, 5:35], bits[:, :, 10:, :30]], 1)
    assert torch.equal(crops.contiguous().view(integer), expected)


def test_crops_of_a_channels_last_image_are_ready_for_a_network(place):
    image = channels_last(features((2, 3, 8, 9), torch.float32)).to(place.device)
    center = torch.full((2, 4, 2), 4.0, device=place.device)
    crops, _ = pk.region_crop(image, center, 3)
    images = crops.flatten(0, 1)
    assert images.data_ptr() == crops.data_ptr()
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", ["small", "channels", "odd-channels", "single-pixels"])
def test_the_gradient_is_the_adjoint(place, name, layout):
    """<crop(x), y> = <x, adjoint(y)> to 1e-13 in float64."""
    inputs = move(next(c for c in CASES if c.id == name).make(torch.float64), place.device)
    image = inputs["image"] if layout == "contiguous" else channels_last(inputs["image"])
    crops, valid = pk.region_crop(**{**inputs, "image": image.requires_grad_()})
    assert valid.any() and not valid.all()
    y = features(tuple(crops.shape), torch.float64, 9).to(place.device)
    (adjoint,) = torch.autograd.grad(crops, image, y)
    scale = (crops * y).abs().sum()
    assert scale > 1
    assert abs((crops * y).sum() - (image * adjoint).sum()) <= 1e-13 * scale


@pytest.mark.parametrize("last", [False, True])
def test_hundreds_of_crops(device, last):
    """More than a block of a GPU asks at once, and than bfloat16 counts, on the same pixels."""
    image = torch.zeros(1, 3, 6, 9, dtype=torch.bfloat16, device=device)
    image = (channels_last(image) if last else image).requires_grad_()
    center = torch.tensor([6.0, 4.0], device=device).repeat(1, 600, 1)
    center[0, 1::2] = torch.tensor([1.0, 1.0], device=device)
    crops, _ = pk.region_crop(image, center, 3)
    (grad,) = torch.autograd.grad(crops.sum(dtype=torch.float32), image)
    expected = torch.zeros_like(grad)
    expected[:, :, 0:3, 0:3] = 300
    expected[:, :, 3:6, 5:8] = 300
    assert torch.equal(grad, expected)


@pytest.mark.parametrize("last", [False, True])
def test_half_types_are_summed_in_float32(place, last):
    """2048 + 1 is 2048 in float16, and 256 + 1 is 256 in bfloat16."""
    for dtype, large in ((torch.float16, 2048), (torch.bfloat16, 256)):
        image = features((1, 4, 5, 6), dtype).to(place.device)
        image = (channels_last(image) if last else image).requires_grad_()
        center = torch.full((1, 3, 2), 2.0, device=place.device)
        crops, _ = pk.region_crop(image, center, 3)
        incoming = torch.ones_like(crops)
        incoming[:, 0] = large
        (grad,) = torch.autograd.grad(crops, image, incoming)
        assert grad[..., 1:4, 1:4].unique().tolist() == [large + 2]
        assert grad.count_nonzero() == 4 * 9


@pytest.mark.parametrize("last", [False, True])
def test_crops_that_overlap_are_added_in_order(place, last):
    """0 + 1e8 + 1 - 1e8 is 0 in float32; in any other order it is 1, or -1e8 + 1e8 + 1."""
    image = features((1, 4, 5, 6), torch.float32).to(place.device)
    image = (channels_last(image) if last else image).requires_grad_()
    center = torch.full((1, 3, 2), 2.0, device=place.device)
    crops, _ = pk.region_crop(image, center, 3)
    incoming = torch.ones_like(crops) * torch.tensor([1e8, 1.0, -1e8]).view(1, 3, 1, 1, 1).to(crops)
    (grad,) = torch.autograd.grad(crops, image, incoming)
    assert grad.count_nonzero() == 0
    (grad,) = torch.autograd.grad(
        pk.region_crop(image, center, 3)[0], image, incoming[:, [0, 2, 1]]
    )
    assert grad.sum() == 4 * 9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("last", [False, True])
def test_large_results(device, dtype, last):
    """From 16 MB on the CPU writes past its cache."""
    side = 64 * 24 if dtype == torch.float32 else 64 * 34  # 18 MB of image
    image = features((1, 2, 16, 16), dtype).repeat(1, 1, side // 16, side // 16)
    image = (channels_last(image) if last else image).to(device).requires_grad_()
    assert image.numel() * image.element_size() > 16 << 20
    center = torch.tensor([[[side / 2, side / 2], [NAN, 0], [3, 3]]], device=device)
    size = side - 24  # whole vectors of 16 bytes
    crops, _ = pk.region_crop(image, center, size)
    corner = side // 2 - size // 2
    assert torch.equal(crops[:, 0], image[..., corner : corner + size, corner : corner + size])
    assert torch.equal(crops[:, 2], image[..., :size, :size])
    assert crops[:, 1].count_nonzero() == 0
    (grad,) = torch.autograd.grad(crops, image, crops.detach())
    expected = torch.zeros_like(grad)
    expected[..., :size, :size] = crops[:, 2].detach()
    expected[..., corner : corner + size, corner : corner + size] += crops[:, 0].detach()
    assert torch.equal(grad, expected)


def test_a_center_that_requires_grad_gets_none(place):
    inputs = move(tame(torch.float32), place.device)
    inputs["center"].requires_grad_()
    crops, valid = pk.region_crop(**inputs)
    assert not valid.requires_grad
    if crops.requires_grad:
        assert torch.autograd.grad(crops.sum(), inputs["center"], allow_unused=True) == (None,)
    image = inputs["image"].requires_grad_()
    pk.region_crop(**inputs)[0].sum().backward()
    assert image.grad.sum() == 2 * 3 * 2 * 4
    assert inputs["center"].grad is None


@pytest.mark.parametrize("last", [False, True])
def test_the_adjoint_is_an_operator(device, last):
    """With a gradient of its own, and the memory format of what it is given."""
    inputs = move(tame(torch.float64), device)
    grad = features((2, 3, 2, 2, 2), torch.float64).to(device)
    grad = (channels_last(grad) if last else grad).requires_grad_()
    op = torch.ops.pose_kernels.region_crop_backward.default
    arguments = (grad, inputs["center"], 4, 5)
    torch.library.opcheck(op, arguments)
    back = op(*arguments)
    assert back.is_contiguous() != last
    (second,) = torch.autograd.grad(back, grad, inputs["image"])
    assert torch.equal(second, pk.region_crop(**inputs)[0])
