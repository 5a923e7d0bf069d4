# SPDX-License-Identifier: Apache-2.0
"""helmert_warp: answers worked by hand, and what its documentation promises."""

from __future__ import annotations

import pytest
import test_helmert_warp as contracts
import torch
from cases import DTYPES, INF, NAN, channels_last, features, move
from torch import Tensor
from volume import ALL_BITS, Warp, blobs, dense_mask, pack, transforms, warp_inputs

import pose_kernels as pk

EYE = torch.eye(3, 4)


def shifted(x: float = 0, y: float = 0, z: float = 0, scale: float = 1) -> Tensor:
    """Output voxel v reads scale v + (x, y, z); (3, 4)."""
    A = scale * EYE
    A[:, 3] = torch.tensor([x, y, z])
    return A


def row(values: list[float], axis: int, place) -> Tensor:
    """The values along one axis (2: x, 1: y, 0: z) of a volume of one channel."""
    shape = [1, 1, 1, 1, 1]
    shape[2 + axis] = len(values)
    return torch.tensor(values, device=place.device).reshape(shape)


# V along x, its mask, the map, what comes out. The volume is 1, 2, 4, 8 everywhere.
ALL = [1, 1, 1, 1]
LITERAL = [
    ("identity", ALL, shifted(), [1, 2, 4, 8]),
    ("reads the voxel one ahead", ALL, shifted(1), [2, 4, 8, 0]),
    ("reads the voxel one behind", ALL, shifted(-1), [0, 1, 2, 4]),
    ("half a voxel: outside is 0", ALL, shifted(0.5), [1.5, 3, 6, 4]),
    ("half a voxel back", ALL, shifted(-0.5), [0.5, 1.5, 3, 6]),
    ("just outside", ALL, shifted(-1.0), [0, 1, 2, 4]),
    ("a quarter inside the border", ALL, shifted(-0.75), [0.25, 1.25, 2.5, 5]),
    ("the mask multiplies before the interpolation", [0, 1, 1, 0], shifted(-0.5), [0, 1, 3, 2]),
    ("a soft mask", [1, 0.5, 0.25, 0], shifted(0.5), [1, 1, 0.5, 0]),
    ("twice as dense", ALL, shifted(0, scale=0.5), [1, 1.5, 2, 3]),
    ("half as dense", ALL, shifted(0, scale=2), [1, 4, 0, 0]),
    ("mirrored", ALL, shifted(3, scale=-1), [8, 4, 2, 1]),
    ("all from one place", ALL, shifted(2.25, scale=0), [5, 5, 5, 5]),
    ("far away", ALL, shifted(1e30), [0, 0, 0, 0]),
    ("huge", ALL, shifted(scale=3e38), [1, 0, 0, 0]),
    ("not a number", ALL, shifted(NAN), [0, 0, 0, 0]),
    ("infinite", ALL, shifted(-INF), [0, 0, 0, 0]),
    ("nothing", [0, 0, 0, 0], shifted(), [0, 0, 0, 0]),
]


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["z", "y", "x"])
@pytest.mark.parametrize("case", LITERAL, ids=[case[0] for case in LITERAL])
def test_one_row_by_hand(place, case, axis):
    """Along each axis; a map that is not finite anywhere is not finite along any axis."""
    _, mask, A, expected = case
    order = [[2, 1, 0], [1, 0, 2], [0, 1, 2]][axis]  # the axis that plays the part of x
    A = A[order][:, [*order, 3]].to(place.device)
    other = [r for r in range(3) if order[r] != 0]
    A[other, :3] = torch.eye(3, device=place.device)[other]  # only the x axis is mapped
    volume, m = row([1.0, 2, 4, 8], axis, place), row([float(x) for x in mask], axis, place)
    out = pk.helmert_warp(volume, m, A[None, None])
    assert out.flatten().tolist() == expected
    if set(mask) <= {0, 1}:
        bits = m[:, 0].to(torch.int32)
        assert pk.helmert_warp(volume, bits, A[None, None]).flatten().tolist() == expected
        assert pk.helmert_warp(volume, m.bool(), A[None, None]).flatten().tolist() == expected


def test_one_voxel(place):
    volume = torch.tensor([8.0, -8.0], device=place.device).reshape(1, 2, 1, 1, 1)
    mask = torch.ones(1, 1, 1, 1, dtype=torch.int32, device=place.device)
    for shift, expected in ((0.0, 8), (0.25, 6), (-0.25, 6), (0.75, 2), (1, 0), (-1, 0)):
        A = shifted(0, shift, 0)[None, None].to(place.device)
        assert pk.helmert_warp(volume, mask, A).flatten().tolist() == [expected, -expected]


def test_eight_corners_by_hand(place):
    """At (1/4, 1/2, 1/8): weights 3/4 1/4, 1/2 1/2, 7/8 1/8 along x, y, z; corners 1 .. 128."""
    volume = (2.0 ** torch.arange(8)).reshape(1, 1, 2, 2, 2).to(place.device)
    mask = torch.ones(1, 1, 2, 2, 2, device=place.device)
    A = shifted(0.25, 0.5, 0.125)[None, None].to(place.device)
    expected = sum(
        2.0 ** (x + 2 * y + 4 * z) * (0.75, 0.25)[x] * 0.5 * (0.875, 0.125)[z]
        for x in (0, 1)
        for y in (0, 1)
        for z in (0, 1)
    )
    assert pk.helmert_warp(volume, mask, A)[0, 0, 0, 0, 0].item() == expected


# ---- identity


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("P", [1, 2, 10, ALL_BITS])
def test_the_same_pose_returns_the_masked_volume(place, P, dtype, last):
    """V inside the union where V >= 0, bit for bit; V < 0 only where all parts are, else 0."""
    size = (5, 6, 7)
    volume = features((2, 5, *size), dtype, 1).to(place.device)
    volume = channels_last(volume, 3) if last else volume
    inside = blobs(2, P, size, 5, radius=0.5)
    inside[:, :, 2:4, 2:4, 3:6] = True
    mask = pack(inside, stray=2).to(place.device)
    A = EYE.expand(2, P, 3, 4).to(place.device, torch.float64)
    if dtype != torch.float64:
        A = A.float()
    union = inside.any(1, keepdim=True).to(place.device)
    every = inside.all(1, keepdim=True).to(place.device)
    assert union.any() and every.any()
    expected = torch.where((volume >= 0) & union | every, volume, 0)
    assert torch.equal(pk.helmert_warp(volume, mask, A), expected)
    dense = inside.to(place.device, A.dtype)
    assert torch.equal(pk.helmert_warp(volume, dense, A), expected)
    assert torch.equal(pk.helmert_warp(volume, inside.to(place.device), A), expected)


# ---- who wins


def grads_of(volume: Tensor, mask: Tensor, A: Tensor) -> dict[str, Tensor]:
    given = {"volume": volume, "transform": A}
    if mask.is_floating_point():
        given["mask"] = mask
    given = {k: x.detach().requires_grad_() for k, x in given.items()}
    out = pk.helmert_warp(**{"mask": mask, **given})
    incoming = features(tuple(out.shape), out.dtype, 8).to(out.device)
    return dict(zip(given, torch.autograd.grad(out, list(given.values()), incoming), strict=True))


@pytest.mark.parametrize("kind", ["bits", "floating"])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_the_lowest_index_wins_among_equals(place, kind, last):
    """Parts 1, 2 and 4 are the same; 0 is absent, 3 is nothing: 1 gets every gradient."""
    volume = (features((2, 19, 5, 6, 7), torch.float32).abs() + 0.1).to(place.device)
    volume = channels_last(volume, 3) if last else volume
    one = transforms(["small-turn"], 2, 1, (5, 6, 7), 3).float()
    A = one.repeat(1, 5, 1, 1).to(place.device)
    A[:, 0, 1, 2] = NAN
    inside = blobs(2, 1, (5, 6, 7), 4, radius=0.6).repeat(1, 5, 1, 1, 1)
    inside[:, 3] = False
    mask = (pack(inside) if kind == "bits" else inside.float() * 0.5).to(place.device)
    grads = grads_of(volume, mask, A)
    alone = mask[:, 1:2] if kind == "floating" else mask & 2
    (out, first) = (
        pk.helmert_warp(volume, mask, A),
        pk.helmert_warp(volume, alone if kind == "floating" else alone >> 1, A[:, 1:2]),
    )
    assert torch.equal(out, first)
    assert grads["transform"][:, 1].abs().amax((1, 2)).min() > 0.1
    others = [0, 2, 3, 4]
    assert grads["transform"][:, others].abs().max() == 0
    if kind == "floating":
        assert grads["mask"][:, 1].abs().max() > 0.1
        assert grads["mask"][:, others].abs().max() == 0
    single = grads_of(volume, alone if kind == "floating" else alone >> 1, A[:, 1:2])
    torch.testing.assert_close(grads["volume"], single["volume"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        grads["transform"][:, 1:2], single["transform"], rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("first", [True, False])
def test_a_part_that_is_not_there_beats_negative_values_and_passes_nothing(place, first):
    """A NaN map, a map to the outside or an empty mask: 0 takes part in the maximum."""
    volume = -(features((1, 5, 4, 5, 6), torch.float32).abs() + 0.1).to(place.device)
    for absent in ("nan", "outside", "empty"):
        A = EYE.repeat(1, 2, 1, 1).to(place.device)
        mask = torch.ones(1, 2, 4, 5, 6, device=place.device)
        p = 0 if first else 1
        if absent == "nan":
            A[0, p, 2, 3] = NAN
        elif absent == "outside":
            A[0, p, 0, 3] = 50
        else:
            mask[:, p] = 0
        for m in (mask, pack(mask.cpu().bool()).to(place.device)):
            assert pk.helmert_warp(volume, m, A).abs().max() == 0
            for name, grad in grads_of(volume, m, A).items():
                assert grad.abs().max() == 0, name


def test_a_zero_before_the_winner_among_zeros(place):
    """A covered part whose value is 0 wins over later absent ones, and loses to earlier ones."""
    volume = torch.zeros(1, 3, 3, 3, 3, device=place.device)
    mask = torch.ones(1, 2, 3, 3, 3, device=place.device)
    for absent, present in ((0, 1), (1, 0)):
        A = EYE.repeat(1, 2, 1, 1).to(place.device)
        A[0, absent] = NAN
        grads = grads_of(volume, mask, A)
        assert (grads["volume"].abs().max() > 0) == (present == 0)


# ---- what is not there


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("kind", ["bits", "bool"])
def test_what_lies_outside_the_masks_never_shows(place, kind, bad, last):
    inputs = move(
        warp_inputs((2, 17, 4, 5, 6), 4, kind, ["small-turn"], torch.float32), place.device
    )
    union = dense_mask(inputs["mask"], 4).any(1, keepdim=True)
    assert not union.all()
    volume = channels_last(inputs["volume"], 3) if last else inputs["volume"]
    dirty = volume.where(union, bad)
    clean = pk.helmert_warp(volume, inputs["mask"], inputs["transform"])
    assert torch.equal(pk.helmert_warp(dirty, inputs["mask"], inputs["transform"]), clean)
    before = grads_of(volume, inputs["mask"], inputs["transform"])
    after = grads_of(dirty, inputs["mask"], inputs["transform"])
    for name, grad in before.items():
        assert grad.abs().max() > 0.1
        assert torch.equal(grad, after[name]), name
    assert before["volume"].where(union, 0).equal(before["volume"])


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("kind", ["bits", "soft"])
def test_a_map_that_is_not_finite_is_an_absent_part(place, kind, bad):
    """In any of its twelve numbers; its gradients are 0 and the other parts' are as without it."""
    for position in range(12):
        inputs = warp_inputs((1, 4, 4, 5, 6), 4, kind, ["small-turn"], torch.float32, seed=1)
        inputs = move(inputs, place.device)
        A, mask = inputs["transform"], inputs["mask"]
        A[0, 0, position // 4, position % 4] = bad
        empty = mask & ~1 if kind == "bits" else mask.clone()
        if kind != "bits":
            empty[:, 0] = 0
        clean = A.clone()
        clean[:, 0] = EYE.to(A)
        expected = pk.helmert_warp(inputs["volume"], empty, clean)
        assert torch.equal(pk.helmert_warp(inputs["volume"], mask, A), expected)
        assert expected.abs().max() > 0.1
        with_bad, without = (grads_of(inputs["volume"], *x) for x in ((mask, A), (empty, clean)))
        for name in with_bad:
            assert torch.equal(with_bad[name], without[name]), name
        assert with_bad["transform"][:, 0].abs().max() == 0


def test_a_number_that_is_not_one_wins(place):
    """NaN inside a mask is not hidden by other parts, and its gradients reach the volume only."""
    volume = features((1, 2, 3, 4, 5), torch.float32).to(place.device)
    volume[0, 1, 1, 2, 3] = NAN
    mask = torch.ones(1, 3, 4, 5, dtype=torch.int32, device=place.device) * 0b11
    out = pk.helmert_warp(volume, mask, EYE.repeat(1, 2, 1, 1).to(place.device))
    assert torch.equal(out.isnan(), volume.isnan())


def test_bits_of_parts_that_are_not_there_are_ignored(place):
    """The sign bit too."""
    inputs = move(contracts.TestBits.CASES[0].make(torch.float32), place.device)
    P = inputs["transform"].shape[1]
    clean = pk.helmert_warp(**{**inputs, "mask": inputs["mask"] & 2**P - 1})
    assert (inputs["mask"] < 0).any()
    assert torch.equal(pk.helmert_warp(**inputs), clean)
    thirty_one = move(
        next(c for c in contracts.TestBits.CASES if c.id == "31-parts").make(torch.float32),
        place.device,
    )
    mask = thirty_one["mask"]
    assert torch.equal(
        pk.helmert_warp(**{**thirty_one, "mask": mask | -(2**31)}),
        pk.helmert_warp(**{**thirty_one, "mask": mask & 2**31 - 1}),
    )


# ---- kinds of masks


@pytest.mark.parametrize("P", [1, 31, 32, 40])
def test_bool_masks_are_the_bits(place, P):
    inputs = move(
        warp_inputs((2, 5, 4, 5, 6), P, "bool", ["small-turn"], torch.float32), place.device
    )
    dense = pk.helmert_warp(**{**inputs, "mask": inputs["mask"].float()})
    out = pk.helmert_warp(**inputs)
    assert out.abs().max() > 0.1
    torch.testing.assert_close(out, dense, rtol=0, atol=0)
    if P <= ALL_BITS:
        bits = pack(inputs["mask"].cpu()).to(place.device)
        assert torch.equal(out, pk.helmert_warp(**{**inputs, "mask": bits}))
    torch.testing.assert_close(pk.reference.helmert_warp(**inputs), out, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_masks_of_another_dtype_are_used_in_float32(place, dtype):
    inputs = move(contracts.TestFloats.CASES[0].make(torch.float32), place.device)
    given = inputs["mask"].to(dtype)
    out = pk.helmert_warp(**{**inputs, "mask": given})
    assert torch.equal(out, pk.helmert_warp(**{**inputs, "mask": given.float()}))
    assert out.dtype == torch.float32


def test_planes_are_warped_alike(place):
    """A map that keeps z: every slice is the warp of that slice alone."""
    inputs = warp_inputs((1, 3, 5, 6, 7), 3, "soft", ["plane"], torch.float32, seed=4)
    inputs["mask"] = inputs["mask"][:, :, 2:3].expand(1, 3, 5, 6, 7).contiguous()
    inputs = move(inputs, place.device)
    out = pk.helmert_warp(**inputs)
    for z in range(5):
        alone = {
            **inputs,
            "volume": inputs["volume"][:, :, z : z + 1],
            "mask": inputs["mask"][:, :, :1],
        }
        assert torch.equal(out[:, :, z : z + 1], pk.helmert_warp(**alone))


# ---- positions


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["z", "y", "x"])
def test_positions_are_exact_to_their_fraction(place, axis):
    """Thousands of voxels along, where float32 positions would be off by 1e-3 voxels."""
    W = 20011
    shape, order = [1, 1, 1, 1, 1], 2 - axis
    shape[2 + axis] = W
    volume = (torch.arange(W) % 2).float().reshape(shape).to(place.device)  # 0, 1, 0, 1, ...
    A = torch.zeros(1, 1, 3, 4)
    A[0, 0, order, order], A[0, 0, order, 3] = 0.99937, 5.123
    out = pk.helmert_warp(volume, torch.ones(shape, device=place.device), A.to(place.device))
    row = A[0, 0, order].double()
    s = row[order] * torch.arange(W) + row[3]
    lower = s.floor()
    fraction = s - lower
    expected = torch.where(lower % 2 == 0, fraction, 1 - fraction)
    expected = expected.where(s < W - 1, 0)
    inside = s < W - 1
    error = (out.flatten().cpu().double() - expected)[inside].abs().max()
    assert error < 1e-6


def test_the_derivative_at_an_integer_is_towards_larger_coordinates(place):
    volume = torch.tensor([1.0, 2, 4, 8], device=place.device).reshape(1, 1, 1, 1, 4)
    mask = torch.ones(1, 1, 1, 4, dtype=torch.int32, device=place.device)
    A = EYE[None, None].clone().to(place.device).requires_grad_()
    out = pk.helmert_warp(volume, mask, A).flatten()
    slopes = [
        torch.autograd.grad(out[i], A, retain_graph=True)[0][0, 0, 0, 3].item() for i in range(4)
    ]
    assert slopes == [1, 2, 4, -8]


# ---- gradients on purpose


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("kind", ["bits", "soft"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_gradient_of_the_volume_is_the_adjoint(place, kind, dtype, last):
    """<warp(V), g> = <V, grad_V>: the op is linear in V while the winners stay."""
    inputs = warp_inputs((2, 18, 6, 7, 8), 5, kind, ["small-turn"], dtype, seed=2)
    inputs = move(inputs, place.device)
    volume = channels_last(inputs["volume"], 3) if last else inputs["volume"]
    volume = volume.requires_grad_()
    out = pk.helmert_warp(**{**inputs, "volume": volume})
    incoming = features(tuple(out.shape), dtype, 3).to(place.device)
    (grad,) = torch.autograd.grad(out, volume, incoming)
    left, right = (out.double() * incoming.double()), (volume.double() * grad.double())
    assert left.abs().sum() > 10
    tolerance = 4 * torch.finfo(dtype).eps
    assert (left.sum() - right.sum()).abs() <= tolerance * (left.abs().sum() + right.abs().sum())


@pytest.mark.parametrize("wanted", ["volume", "mask", "transform"])
def test_gradients_that_nobody_asked_for_are_not_made(place, wanted):
    inputs = move(contracts.TestFloats.CASES[0].make(torch.float32), place.device)
    g = features(tuple(inputs["volume"].shape), torch.float32, 1).to(place.device)
    op, names = torch.ops.pose_kernels.helmert_warp_backward, ["volume", "mask", "transform"]
    every = op(g, *inputs.values(), True, True, True)
    one = op(g, *inputs.values(), *(name == wanted for name in names))
    for name, grad, full in zip(names, one, every, strict=True):
        if name == wanted:
            torch.testing.assert_close(grad, full, rtol=1e-5, atol=1e-5)
        else:
            assert grad.shape == (0,) and grad.dtype == inputs[name].dtype


def test_the_order_of_the_voxels_shows_in_the_bits(place):
    """The control of test_same_bits_in_every_run: it would notice sums taken in another order."""
    inputs = move(contracts.TestFloats.collide.make(torch.float32), place.device)
    assert Warp(move(inputs, "cpu")).sure.double().mean() > 0.99
    grads = grads_of(**{k if k != "transform" else "A": v for k, v in inputs.items()})["volume"]
    flip = torch.diag(torch.tensor([-1.0, -1, -1, 1])).to(place.device)
    flip[:3, 3] = torch.tensor([9.0, 8, 7])
    g = features(tuple(inputs["volume"].shape), torch.float32, 8).to(place.device)
    volume = inputs["volume"].requires_grad_()
    out = pk.helmert_warp(volume, inputs["mask"], inputs["transform"] @ flip)
    (again,) = torch.autograd.grad(out, volume, g.flip((2, 3, 4)))
    torch.testing.assert_close(grads, again, rtol=1e-3, atol=1e-2)
    assert not torch.equal(grads, again)
