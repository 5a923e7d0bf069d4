# SPDX-License-Identifier: Apache-2.0
"""capsule_mask: cases by hand, float64 from other formulas, gradients, degenerate capsules."""

from __future__ import annotations

import pytest
import torch
from capsules import INF, NAN, Exact, assert_within, bits_of, capsules
from torch import Tensor

import pose_kernels as pk

NAMES = ("start", "end", "radius")
SOFTNESS = 0.3
# N, K, (D, H, W), P, wild
SAMPLES = [
    (1, 1, (1, 1, 1), 1, False),
    (2, 9, (9, 12, 17), 3, False),
    (3, 20, (8, 20, 33), 4, True),
    (1, 40, (5, 6, 70), 31, True),
    (2, 6, (1, 1, 40), 2, False),
    (2, 6, (40, 1, 1), 2, False),
    (1, 12, (3, 130, 16), 5, True),
]
IDS = ["x".join(map(str, size)) + f"-P{P}" for _, _, size, P, _ in SAMPLES]
every_sample = pytest.mark.parametrize("sample", SAMPLES, ids=IDS)
both_dtypes = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32], ids=["float64", "float32"]
)


def on(place, inputs):
    return {k: v.to(place.device) if isinstance(v, Tensor) else v for k, v in inputs.items()}


def one(start, end, radius, *, part=0, size, num_parts=1, **options) -> Tensor:
    """The mask of one capsule in one volume."""
    arguments = torch.tensor([[start]]), torch.tensor([[end]]), torch.tensor([[radius]])
    part = torch.tensor([part])
    return pk.capsule_mask(*arguments, part, size=size, num_parts=num_parts, **options)[0]


def drawn(mask: Tensor) -> list[str]:
    """Rows of an (H, W) mask as a picture."""
    return ["".join("#" if x else "." for x in row) for row in mask.tolist()]


# ---- by hand


def test_capsule_along_x(place):
    """From x = 2 to 5 at y = 2 with radius 1.5: corners at (1, 1) are sqrt(2) away, inside."""
    mask = one([2.0, 2, 0], [5.0, 2, 0], 1.5, size=(1, 5, 8))
    assert drawn(mask[0]) == [
        "........",
        ".######.",
        ".######.",
        ".######.",
        "........",
    ]


def test_ball_includes_its_surface(place):
    """Radius 2 around (2, 2): exactly 2 away is inside, sqrt(5) is not."""
    mask = one([2.0, 2, 0], [2.0, 2, 0], 2.0, size=(3, 5, 5))
    disc = ["..#..", ".###.", "#####", ".###.", "..#.."]
    assert drawn(mask[0]) == disc
    assert drawn(mask[1]) == [".....", ".###.", ".###.", ".###.", "....."]
    assert drawn(mask[2]) == [".....", ".....", "..#..", ".....", "....."]


def test_half_axes(place):
    """x, y, z are three half-axes: 3 along x, 1 along y, half a voxel along z."""
    mask = one([3.0, 1, 1], [3.0, 1, 1], [3.0, 1.0, 0.5], size=(3, 3, 7))
    assert not mask[0].any() and not mask[2].any()
    assert drawn(mask[1]) == ["...#...", "#######", "...#..."]


def test_segment_along_z_is_the_same_in_all_its_slices(place):
    mask = one([1.0, 1, 1], [1.0, 1, 3], [1.0, 1.0, 0.5], size=(5, 3, 3))
    assert [int(slab.count_nonzero()) for slab in mask] == [0, 5, 5, 5, 0]


def test_diagonal_segment(place):
    """Distance to the line y = x is |x - y| / sqrt(2): one aside is 0.71, inside 0.8."""
    mask = one([0.0, 0, 0], [4.0, 4, 0], 0.8, size=(1, 5, 5))
    assert drawn(mask[0]) == ["##...", "###..", ".###.", "..###", "...##"]


def test_soft_values(place):
    """sigma((1 - d) / s): d = 0, 1, 2 voxels over a radius of 1, and 0 in the part without any."""
    mask = one(
        [1.0, 0, 0], [1.0, 0, 0], 1.0, part=1, num_parts=2, size=(1, 1, 4), packed=False,
        softness=0.5,
    )  # fmt: skip
    expected = torch.tensor([0.5, 0.880797, 0.5, 0.119203])
    torch.testing.assert_close(mask[1, 0, 0], expected, rtol=1e-6, atol=0)
    assert mask[0].abs().max() == 0 and mask.dtype == torch.float32


def test_bits_of_31_parts(place):
    """Part p is bit p; the top one is 2^30, and the sum is positive."""
    x = torch.arange(31.0)[None, :, None] * torch.tensor([1.0, 0, 0])
    mask = pk.capsule_mask(
        x, x, torch.full((1, 31), 0.4), torch.arange(31), size=(1, 1, 31), num_parts=31
    )
    assert mask.dtype == torch.int32
    assert mask.flatten().tolist() == [1 << p for p in range(31)]
    everywhere = pk.capsule_mask(
        x, x, torch.full((1, 31), 99.0), torch.arange(31), size=(1, 1, 2), num_parts=31
    )
    assert everywhere.flatten().tolist() == [2**31 - 1] * 2


def test_a_part_is_the_union_of_its_capsules(place):
    inputs = on(place, capsules(2, 9, (6, 9, 11), 3, torch.float32))
    mask = pk.capsule_mask(**inputs, packed=False)
    union = torch.zeros_like(mask)
    for k in range(9):
        single = {name: inputs[name][:, k : k + 1] for name in NAMES}
        single["part"] = inputs["part"][k : k + 1]
        alone = pk.capsule_mask(**{**inputs, **single}, packed=False)
        assert not alone[:, torch.arange(3, device=mask.device) != single["part"]].any()
        union |= alone
    assert torch.equal(mask, union)


# ---- against float64


@both_dtypes
@every_sample
def test_hard(place, sample, dtype):
    """Every voxel farther from a surface than rounding reaches, and few are nearer."""
    inputs = capsules(*sample[:4], dtype, wild=sample[4])
    expected, unsure = Exact(inputs).inside(dtype)
    mask = pk.capsule_mask(**on(place, inputs), packed=False).cpu()
    assert mask.dtype == torch.bool
    assert torch.equal(mask[~unsure], expected[~unsure])
    assert unsure.sum() <= 1e-3 * unsure.numel()
    bits = pk.capsule_mask(**on(place, inputs)).cpu()
    assert torch.equal(bits, bits_of(mask))
    # What a packed mask is for: union, projection and depth maximum are bit operations.
    assert torch.equal(bits != 0, mask.any(1))
    depth = bits[:, 0]
    for slab in bits.unbind(1)[1:]:
        depth = depth | slab
    assert torch.equal(depth, bits_of(mask.amax(2, keepdim=True))[:, 0])


@both_dtypes
@every_sample
def test_soft_and_its_gradient(place, sample, dtype):
    inputs = capsules(*sample[:4], dtype, wild=sample[4])
    exact = Exact(inputs)
    moved = on(place, inputs)
    points = [moved[name].requires_grad_() for name in NAMES]
    mask = pk.capsule_mask(**moved, packed=False, softness=SOFTNESS)
    assert mask.dtype == dtype
    assert_within(mask, *exact.soft(SOFTNESS, dtype))
    grad = torch.randn(mask.shape, dtype=dtype)
    expected, bound = exact.gradients(SOFTNESS, grad, dtype)
    for name, g in zip(NAMES, torch.autograd.grad(mask, points, grad.to(place.device))):
        assert_within(g, expected[name], bound[name])


def test_exact_is_the_minimum_over_the_segment():
    """The formulas of capsules.py against 4,001 points of each segment."""
    inputs = capsules(1, 5, (3, 4, 5), 2, seed=5)
    exact, t = Exact(inputs), torch.linspace(0, 1, 4001, dtype=torch.float64)
    z, y, x = torch.meshgrid(*(torch.arange(n) for n in inputs["size"]), indexing="ij")
    voxel = torch.stack([x, y, z], -1).double()
    for k in range(5):
        start, end, radius = (inputs[name][0, k] for name in NAMES)
        points = start + t[:, None] * (end - start)
        d = ((voxel[..., None, :] - points) / radius).norm(dim=-1).amin(-1)
        torch.testing.assert_close(exact.d[0, k], d, rtol=0, atol=1e-4)
        assert (d >= exact.d[0, k] - 1e-12).all()


@pytest.mark.parametrize("softness", [0.01, 0.3, 5.0])
def test_a_soft_mask_at_a_half_is_the_hard_mask(place, softness):
    inputs = on(place, capsules(2, 7, (7, 9, 11), 3))
    soft = pk.capsule_mask(**inputs, packed=False, softness=softness)
    assert torch.equal(soft >= 0.5, pk.capsule_mask(**inputs, packed=False))


@pytest.mark.parametrize("softness", [1e-6, 1e-3])
def test_a_tiny_softness_is_finite(place, softness):
    inputs = on(place, capsules(1, 5, (7, 9, 11), 2, torch.float32))
    points = [inputs[name].requires_grad_() for name in NAMES]
    mask = pk.capsule_mask(**inputs, packed=False, softness=softness)
    assert ((mask >= 0) & (mask <= 1)).all() and (mask == 0).any() and (mask == 1).any()
    assert all(g.isfinite().all() for g in torch.autograd.grad(mask.sum(), points))


# ---- gradients


def test_gradcheck(place):
    """Away from kinks: no voxel on a segment, none equally near to two capsules."""
    inputs = on(place, capsules(2, 5, (3, 4, 5), 2, seed=1))
    inputs["end"][:, 0] += 0.7  # no longer a ball
    inputs["end"][:, 2] += 0.4  # and no shared end

    def run(start, end, radius):
        changed = {**inputs, "start": start, "end": end, "radius": radius}
        return pk.capsule_mask(**changed, packed=False, softness=0.7)

    points = [inputs[name].clone().requires_grad_() for name in NAMES]
    assert torch.autograd.gradcheck(
        run, points, check_forward_ad=place.backend != "triton", check_batched_grad=True
    )


def test_ends_of_a_ball_move_together(place):
    """Where a = b all gradient goes to the start; that of moving both is the ball's."""
    ball = torch.tensor([[[1.3, 0.4, 0.0]]], dtype=torch.float64, device=place.device)
    part = torch.zeros(1, dtype=torch.int64, device=place.device)

    def run(center, radius):
        return pk.capsule_mask(
            center, center, radius, part, size=(2, 3, 4), num_parts=1, packed=False, softness=0.5
        )

    radius = torch.tensor([[1.1]], dtype=torch.float64, device=place.device)
    assert torch.autograd.gradcheck(run, (ball.requires_grad_(), radius.requires_grad_()))
    start, end = ball.detach().requires_grad_(), ball.detach().requires_grad_()
    options = {"size": (2, 3, 4), "num_parts": 1, "packed": False, "softness": 0.5}
    mask = pk.capsule_mask(start, end, radius, part, **options)
    to_start, to_end = torch.autograd.grad(mask.square().sum(), (start, end))
    assert to_end.abs().max() == 0 and to_start.abs().min() > 0.01


def test_no_gradient_where_d_is_zero(place):
    """A voxel on the segment: sigma is at its greatest, and the root has no slope there."""
    point = torch.zeros(1, 1, 3, device=place.device, requires_grad=True)
    radius = torch.ones(1, 1, device=place.device, requires_grad=True)
    mask = pk.capsule_mask(
        point, point, radius, torch.zeros(1, dtype=torch.uint8, device=place.device),
        size=(1, 1, 1), num_parts=1, packed=False, softness=0.5,
    )  # fmt: skip
    grads = torch.autograd.grad(mask.sum(), (point, radius))
    assert all((g == 0).all() for g in grads)


@both_dtypes
def test_of_two_equally_near_the_first_gets_the_gradient(place, dtype):
    """They share an end, one has it first and one last, and most voxels are nearest to it."""
    corner, left, right = [4.0, 2.0, 0.0], [1.3, 1.9, 0.2], [7.2, 1.8, 0.1]
    for first, second in (((corner, right), (left, corner)), ((left, corner), (corner, right))):
        start = torch.tensor([[first[0], second[0]]], dtype=dtype, device=place.device)
        end = torch.tensor([[first[1], second[1]]], dtype=dtype, device=place.device)
        radius = torch.full((1, 2), 1.7, dtype=dtype, device=place.device)
        mask = pk.capsule_mask(
            start.requires_grad_(), end.requires_grad_(), radius.requires_grad_(),
            torch.zeros(2, dtype=torch.int64, device=place.device),
            size=(1, 9, 9), num_parts=1, packed=False, softness=1.0,
        )  # fmt: skip
        one_voxel = mask[0, 0, 0, 8, 4]  # straight below the corner
        (g,) = torch.autograd.grad(one_voxel, radius)
        assert g[0, 0] > 0 and g[0, 1] == 0


# ---- what is empty, ignored, or outside


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_capsule_that_is_not_finite_is_empty(place, name, bad):
    """It changes no voxel and gets no gradient; neither do the others differ."""
    inputs = on(place, capsules(2, 6, (5, 6, 7), 2, torch.float32))
    without = {k: v.clone() if isinstance(v, Tensor) else v for k, v in inputs.items()}
    inputs[name][:, 4, 1] = bad
    without["radius"][:, 4] = -1.0
    results = []
    for each in (inputs, without):
        points = [each[n].requires_grad_() for n in NAMES]
        soft = pk.capsule_mask(**each, packed=False, softness=SOFTNESS)
        grads = torch.autograd.grad(soft.sum(), points)
        assert all((g[:, 4] == 0).all() and g.isfinite().all() for g in grads)
        results.append([pk.capsule_mask(**each), soft, *grads])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("radius", [0.0, -1.0, NAN])
def test_a_half_axis_that_is_not_positive(place, radius):
    assert not one([1.0, 1, 1], [2.0, 1, 1], radius, size=(3, 3, 3)).any()
    assert not one([1.0, 1, 1], [2.0, 1, 1], [1.0, radius, 1.0], size=(3, 3, 3)).any()
    soft = one([1.0, 1, 1], [2.0, 1, 1], radius, size=(3, 3, 3), packed=False, softness=1.0)
    assert (soft == 0).all()


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8])
def test_parts_outside_are_ignored(place, dtype):
    info = torch.iinfo(dtype)
    for part in {info.max, max(-1, info.min), info.min, 3} - {0}:
        start = torch.ones(1, 2, 3, device=place.device)
        parts = torch.tensor([part, 2], dtype=dtype, device=place.device)
        radius = torch.ones(1, 2, device=place.device)
        mask = pk.capsule_mask(start, start, radius, parts, size=(3, 3, 3), num_parts=3)
        assert mask.unique().tolist() == ([0, 5] if part == 0 else [0, 4])


def test_a_part_of_more_than_32_bits_does_not_wrap_around():
    assert not one([1.0, 1, 1], [1.0, 1, 1], 9.0, part=2**32, size=(3, 3, 3)).any()


@pytest.mark.parametrize("far", [30.0, -30.0, 1e6, 1e18, 1e30, 3e38])
def test_all_capsules_outside_the_volume(place, far):
    inputs = on(place, capsules(2, 6, (5, 6, 7), 2, torch.float32))
    inputs["start"] = inputs["start"] + far
    inputs["end"] = inputs["end"] + far
    assert not pk.capsule_mask(**inputs).any()
    points = [inputs[name].requires_grad_() for name in NAMES]
    soft = pk.capsule_mask(**inputs, packed=False, softness=SOFTNESS)
    assert soft.max() < 1e-6
    assert all(g.isfinite().all() for g in torch.autograd.grad(soft.sum(), points))


def test_a_long_segment_through_the_volume(place):
    """Ends a million voxels away; the middle is where it should be."""
    mask = one([-1e6, 2.0, 1.0], [1e6, 2.0, 1.0], 0.9, size=(3, 5, 40))
    assert mask.sum() == 40 and mask[1, 2].all()


def test_nobody(place):
    inputs = on(place, capsules(0, 3, (2, 3, 4), 2, torch.float32))
    assert pk.capsule_mask(**inputs).shape == (0, 2, 3, 4)
    assert pk.capsule_mask(**inputs, packed=False).shape == (0, 2, 2, 3, 4)
    start = inputs["start"].requires_grad_()
    soft = pk.capsule_mask(**inputs, packed=False, softness=0.5)
    assert torch.autograd.grad(soft.sum(), start)[0].shape == (0, 3, 3)


def test_more_than_31_parts_unpacked(place):
    inputs = on(place, capsules(1, 50, (4, 5, 6), 40, torch.float32))
    mask = pk.capsule_mask(**inputs, packed=False)
    assert mask.shape == (1, 40, 4, 5, 6) and mask[:, 31:].any()


def test_a_large_output_is_streamed_to_memory():
    """Beyond 16 MB the CPU writes past the cache: other code, the same values as in pieces."""
    inputs = capsules(3, 12, (40, 52, 64), 12, torch.float32)
    for options in ({}, {"softness": 0.4}):
        mask = pk.capsule_mask(**inputs, packed=False, **options)
        for n in range(3):
            sample = {name: inputs[name][n : n + 1] for name in NAMES}
            alone = pk.capsule_mask(**{**inputs, **sample}, packed=False, **options)
            assert torch.equal(mask[n], alone[0])
