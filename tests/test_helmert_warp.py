# SPDX-License-Identifier: Apache-2.0
"""helmert_warp: the contract with bits and with floating masks, and the obvious formulation.

``test_helmert_warp_rules.py`` holds answers worked by hand and what the docstring promises.
"""

from __future__ import annotations

import functools

import pytest
import torch
from cases import DTYPE_IDS, DTYPES, Case, Inputs, channels_last, features, geometry, move
from contract import Contract
from contract_modes import Modes
from hypothesis import strategies as st
from torch import Tensor
from volume import (
    Warp,
    dense_mask,
    generator,
    masks,
    naive_warp,
    pack,
    settled,
    transforms,
    unsure_removed,
    warp_bounds,
    warp_inputs,
)

import pose_kernels as pk

TURNS = ["similarity", "small-turn"]
MANY = ["similarity", "identity", "outside", "shrink", "grow", "line", "mirror", "affine", "plane"]
ODD = ["nan", "similarity", "inf", "huge", "tiny", "steep", "point", "small-turn"]


def case(name: str, shape, P: int, kind: str, maps: list[str], **options) -> Case:
    return Case(name, functools.partial(warp_inputs, shape, P, kind, maps, **options))


BITS = [
    case("parts", (2, 3, 5, 6, 7), 10, "bits", MANY),
    case("identity", (1, 4, 4, 5, 6), 3, "bits", ["identity"]),
    case("everywhere", (1, 3, 4, 5, 4), 4, "all-bits", [*TURNS, "mirror", "grow"]),
    case("bool", (2, 3, 3, 4, 5), 4, "bool", TURNS),
    case("one-part", (2, 16, 3, 5, 4), 1, "bits", TURNS),
    case("31-parts", (1, 3, 5, 4, 6), 31, "bits", MANY + ODD),
    case("32-bool-parts", (1, 2, 4, 4, 4), 32, "bool", MANY),
    case("outside", (1, 3, 4, 4, 4), 3, "bits", ["outside"]),
    case("not-finite", (2, 3, 5, 5, 5), 9, "bits", ODD),
    case("planes", (1, 17, 3, 6, 5), 3, "bits", ["plane"]),
    case("one-voxel", (2, 3, 1, 1, 1), 2, "all-bits", ["small-turn", "identity"]),
    case("one-channel", (1, 1, 5, 7, 3), 3, "bits", TURNS),
    case("64-channels", (1, 64, 4, 2, 3), 3, "bits", MANY),
    case("70-channels", (1, 70, 2, 3, 4), 3, "bits", MANY),
    case("no-samples", (0, 3, 4, 5, 6), 2, "bits", TURNS),
    case("no-channels", (2, 0, 4, 5, 6), 2, "bits", TURNS),
]
FLOATS = [
    case("parts", (2, 3, 5, 6, 7), 10, "soft", MANY),
    case("everywhere", (1, 3, 4, 5, 4), 4, "everywhere", [*TURNS, "mirror", "grow"]),
    case("signed", (2, 4, 3, 5, 5), 5, "signed", MANY),
    case("40-parts", (1, 3, 4, 5, 4), 40, "soft", MANY + ODD),
    case("not-finite", (2, 3, 5, 5, 5), 9, "soft", ODD),
    case("low-transform", (1, 5, 5, 5, 5), 4, "soft", MANY, low=True),
    case("one-voxel", (2, 3, 1, 1, 1), 2, "everywhere", ["small-turn", "identity"]),
    case("one-row", (1, 2, 1, 1, 300), 2, "soft", ["small-turn"]),
    case("16-channels", (1, 16, 4, 2, 3), 3, "soft", MANY),
    case("17-channels", (1, 17, 2, 3, 4), 3, "soft", MANY),
    case("70-channels", (1, 70, 2, 4, 3), 3, "everywhere", TURNS),
    case("no-samples", (0, 3, 4, 5, 6), 2, "soft", TURNS),
    case("no-channels", (2, 0, 4, 5, 6), 2, "soft", TURNS),
]


def large(
    name: str,
    shape: tuple[int, ...],
    P: int,
    kind: str,
    *,
    last: bool = False,
    dtype: torch.dtype = torch.float32,
    share: float = 1.0,
) -> Case:
    """A training step's volume; ``share`` of it, along x, has masks. The dtype is its own."""

    def make(_: torch.dtype) -> Inputs:
        N, C, *size = shape
        volume = torch.zeros(shape, dtype=dtype)
        mask = masks(kind, 1, P, tuple(size), dtype, 1)
        mask[..., int(share * size[-1]) :] = 0
        mask = mask.repeat_interleave(N, 0)
        transform = transforms(TURNS, N, P, tuple(size), 2).to(geometry(dtype))
        volume = channels_last(volume, 3) if last else volume
        return {"volume": volume, "mask": mask, "transform": transform}

    return Case(name, make)


# Large enough that a few megabytes of rows and lists, whatever the volume, fit beside the rest.
PERSON, CUBE = (2, 64, 51, 65, 65), (2, 32, 144, 48, 48)


class Warped(Contract, Modes):
    op = staticmethod(pk.helmert_warp)
    reference = staticmethod(pk.reference.helmert_warp)
    bounds = staticmethod(warp_bounds)
    values, spatial, outputs = "volume", 3, ("warped",)
    in_every_dtype, slow_reference = 2, True  # it takes a second for each, beside a kernel too
    kinds: list[str]

    def incoming(self, inputs: Inputs, outputs: list[Tensor]) -> list[Tensor]:
        """No gradient where rounding decides which part it goes to."""
        (gradient,) = super().incoming(inputs, outputs)
        return [unsure_removed(inputs, gradient)]

    def room(self, inputs: Inputs, megabytes: float) -> float:
        """One byte an element; and what a process touches for the first time, such as code."""
        return inputs["volume"].numel() / 2**20 + 2

    def dispatched(self, inputs: Inputs):
        return torch.ops.pose_kernels.helmert_warp.default, tuple(inputs.values())

    def grown(self, by: int) -> Inputs:
        shape = (2 + by, 10 + by, 6 + by, 7 + by, 8 + by)
        return warp_inputs(shape, 12 + by, self.kinds[0], TURNS, torch.float32)


def sweep(kinds: list[str]) -> st.SearchStrategy[Inputs]:
    return st.builds(
        warp_inputs,
        shape=st.tuples(
            *[st.integers(low, high) for low, high in zip((0, 0, 1, 1, 1), (2, 6, 5, 6, 9))]
        ),
        P=st.integers(1, 6),
        kind=st.sampled_from(kinds),
        maps=st.lists(st.sampled_from(sorted({*MANY, *ODD})), min_size=1, max_size=4),
        dtype=st.sampled_from(DTYPES),
        seed=st.integers(0, 99),
        low=st.booleans(),
    )


@functools.cache
def apart(kind: str) -> Inputs:
    shape = (2, 2, 2, 3, 2)
    return settled(
        lambda seed: warp_inputs(shape, 2, kind, ["small-turn"], torch.float64, seed=seed)
    )


def tame(kind: str) -> Case:
    def make(dtype: torch.dtype) -> Inputs:
        found, g = apart(kind), geometry(dtype)
        mask = found["mask"]
        return {
            "volume": found["volume"].to(dtype, copy=True),
            "mask": mask.to(g, copy=True) if mask.is_floating_point() else mask.clone(),
            "transform": found["transform"].to(g, copy=True),
        }

    return Case("tame", make)


class TestBits(Warped):
    CASES = BITS
    differentiable = ("volume", "transform")
    kinds = ["bits", "all-bits", "bool"]
    tame = tame("all-bits")
    collide = case("collide", (2, 18, 8, 9, 10), 4, "all-bits", ["grow", "similarity"])
    sweep = sweep(kinds)
    realistic = [
        large("contiguous", PERSON, 10, "bits"),
        large("last", PERSON, 10, "bits", last=True),
        large("31-parts", CUBE, 31, "bits"),
        large("all", CUBE, 10, "all-bits"),
        large("all-last", CUBE, 10, "all-bits", last=True),
        large("half", PERSON, 10, "bits", dtype=torch.bfloat16),
        large("half-last", PERSON, 10, "bits", dtype=torch.bfloat16, last=True),
        large("corner", PERSON, 10, "all-bits", share=0.2),
    ]


class TestFloats(Warped):
    CASES = FLOATS
    differentiable = ("volume", "mask", "transform")
    kinds = ["soft", "everywhere", "signed"]
    tame = tame("everywhere")
    collide = case("collide", (2, 18, 8, 9, 10), 4, "everywhere", ["grow", "similarity"])
    sweep = sweep(kinds)
    realistic = [
        large("contiguous", CUBE, 10, "soft"),
        large("last", CUBE, 10, "soft", last=True),
        large("everywhere", CUBE, 10, "everywhere"),
        large("half", CUBE, 10, "soft", dtype=torch.float16),
        large("half-last", CUBE, 10, "everywhere", dtype=torch.float16, last=True),
        large("flat", (1, 32, 2, 640, 640), 3, "everywhere"),
        large("few-channels", (2, 3, 160, 128, 128), 4, "soft"),
    ]


# ---- against P masked copies, P x grid_sample and a maximum, in float64


def expected_from_naive(inputs: Inputs, incoming: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    P = inputs["transform"].shape[1]
    given = {
        "volume": inputs["volume"].double(),
        "mask": dense_mask(inputs["mask"], P),
        "transform": inputs["transform"].double(),
    }
    given = {name: x.detach().requires_grad_() for name, x in given.items()}
    out = naive_warp(**given)
    grads = torch.autograd.grad(out, list(given.values()), incoming.double())
    return out.detach(), dict(zip(given, grads, strict=True))


NAIVE = [
    ("bits", (2, 16, 9, 13, 11), 10, ["similarity", "small-turn", "shrink", "grow", "affine"]),
    ("soft", (2, 5, 9, 8, 11), 10, ["similarity", "small-turn", "shrink", "grow", "affine"]),
    ("signed", (1, 7, 7, 8, 9), 5, ["affine", "line", "outside"]),
    ("everywhere", (1, 64, 5, 7, 6), 3, ["small-turn"]),
    ("all-bits", (2, 3, 6, 1, 9), 31, ["small-turn", "similarity"]),
    ("bool", (1, 17, 1, 6, 1), 4, ["small-turn", "affine"]),
    ("soft", (1, 3, 6, 6, 6), 40, ["similarity"]),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("row", NAIVE, ids=lambda row: f"{row[0]}-{row[2]}")
def test_equals_the_naive_formulation(place, row, dtype):
    """Values and gradients, to 1e-5 of the largest in float32."""
    kind, shape, P, maps = row
    inputs = warp_inputs(shape, P, kind, maps, dtype, seed=3)
    contract = TestFloats() if inputs["mask"].is_floating_point() else TestBits()
    (incoming,) = contract.incoming(inputs, contract.expect(inputs))
    out, grads = expected_from_naive(inputs, incoming)
    bounds = warp_bounds(inputs, [out], [incoming])
    inputs = move(inputs, place.device)
    for stored in (inputs["volume"], channels_last(inputs["volume"], 3)):
        (got,), got_grads = contract.gradients(
            contract.run, {**inputs, "volume": stored}, [incoming]
        )
        assert set(got_grads) == set(contract.differentiable)
        pairs = {"warped": (got, out), **{k: (g, grads[k]) for k, g in got_grads.items()}}
        for name, (actual, expected) in pairs.items():
            assert expected.abs().max() > 0.1, name
            contract.within(actual.double(), expected, bounds[name] + 1e-12, name)
            if dtype == torch.float32:
                error = (actual.double().cpu() - expected).abs().max()
                assert error <= 1e-5 * expected.abs().max(), name


def dyadic(seed: int, dtype: torch.dtype) -> tuple[Inputs, Tensor]:
    """Small integers, and maps of halves to eighths: every sum is exact, and ties abound."""
    random = generator(seed)

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=random)

    N, P, D, H, W = (int(draw(1, high)) for high in (2, 6, 5, 6, 9))
    C = (1, 2, 5, 9, 17, 33)[int(draw(0, 5))]
    maps = draw(-16, 16, N, P, 3, 4) / 2.0 ** float(draw(0, 3))
    if seed % 3 == 0:
        maps[..., :3] = torch.eye(3) * (1, -1, 0.5, 2)[int(draw(0, 3))]
    elif seed % 3 == 1:
        maps[..., :3] *= draw(0, 2, N, P, 3, 3) == 0
    maps[..., 3] += torch.tensor([W, H, D]) // 2
    inside = draw(0, 99, N, P, D, H, W) < (3, 30, 100)[int(draw(0, 2))]
    soft = inside * draw(-2, 2, N, P, D, H, W)
    volume = draw(-3, 3, N, C, D, H, W).to(dtype)
    mask = pack(inside, stray=seed) if int(draw(0, 1)) else soft.to(dtype)
    inputs = {"volume": volume, "mask": mask, "transform": maps.to(dtype)}
    return inputs, draw(-3, 3, N, C, D, H, W).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_ties_and_kinks_bit_for_bit(place, dtype, last):
    """Where arithmetic is exact, so are the winner, its cell, and every gradient."""
    for seed in range(24):
        inputs, g = dyadic(seed, dtype)
        contract = TestFloats() if inputs["mask"].is_floating_point() else TestBits()
        expected, expected_grads = contract.gradients(contract.expect, inputs, [g])
        mask = dense_mask(inputs["mask"], inputs["transform"].shape[1])
        naive = naive_warp(inputs["volume"].double(), mask, inputs["transform"])
        torch.testing.assert_close(expected[0].double(), naive, rtol=1e-12, atol=1e-12)
        given = move(inputs, place.device)
        if last:
            given["volume"], g = channels_last(given["volume"], 3), channels_last(g, 3)
        got, grads = contract.gradients(contract.run, given, [g])
        assert torch.equal(got[0].cpu(), expected[0]), seed
        for name, grad in grads.items():
            assert torch.equal(grad.cpu(), expected_grads[name]), f"{name} of seed {seed}"


@pytest.mark.parametrize("contract", [TestBits, TestFloats])
def test_the_cases_leave_almost_all_gradients_in(contract):
    """The control of ``unsure_removed``: it removes ties that rounding breaks, not the test."""
    for sample in [*contract.CASES, contract.collide]:
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            warp = Warp(sample.make(dtype))
            if warp.sure.numel():
                assert warp.sure.double().mean() > 0.98, f"{sample.id} {dtype}"


@pytest.mark.parametrize("kind", ["bits", "soft"])
def test_cases_have_every_kind_of_voxel(kind):
    """Covered by none, by one and by several parts, won by each; negative winners where all are."""
    contract = TestBits if kind == "bits" else TestFloats
    warp = Warp(contract.CASES[0].make(torch.float32))
    covered = torch.stack([part.covered for part in warp.parts]).sum(0)
    assert {0, 1, 2, 3} <= set(covered.flatten().tolist())
    assert len(set(warp.winner.flatten().tolist())) > 5
    everywhere = contract.CASES[2 if kind == "bits" else 1].make(torch.float32)
    assert (pk.reference.helmert_warp(**everywhere) < 0).any()


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_a_mask_of_nan_shows_where_it_is_read_and_nowhere_else(place, last):
    """Positions beyond the volume read nothing, whatever its border holds."""
    volume = features((1, 17, 4, 5, 6), torch.float32)
    mask = torch.full((1, 2, 4, 5, 6), 0.5)
    mask[0, 0, 0, 0, 0] = mask[0, 0, 3, 4, 5] = mask[0, 1, 2, 2, 2] = float("nan")
    transform = torch.eye(3, 4).repeat(1, 2, 1, 1)
    transform[..., 3] = torch.tensor([[2.25, 1.5, -1.75], [-2.25, 0.75, 0.5]])
    inputs = move({"volume": volume, "mask": mask, "transform": transform}, place.device)
    inputs["volume"] = channels_last(inputs["volume"]) if last else inputs["volume"]
    results = []
    for warp in (pk.helmert_warp, pk.reference.helmert_warp):
        given = {k: x.detach().requires_grad_(k != "mask") for k, x in inputs.items()}
        found = warp(**given)
        incoming = found.isfinite().to(found.dtype)
        grads = torch.autograd.grad(found, (given["volume"], given["transform"]), incoming)
        results.append([found, *grads])
    assert 0 < found.isnan().sum() < found.numel() / 2
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, equal_nan=True)
