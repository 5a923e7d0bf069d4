# SPDX-License-Identifier: Apache-2.0
"""heatmap, capsule_mask and helmert_fit as contracts: their inputs and bounds, for the sweeps.

Their own test files check them against other formulas; here they are put into the form that
``contract.Contract`` gives the other ops. Nothing in here is collected by itself.
"""

from __future__ import annotations

from typing import Any

import capsules
import torch
from cases import DTYPES, Case, Inputs, geometry
from contract import Contract
from heatmap_problems import Exact, Problem
from hypothesis import strategies as st
from point_pairs import DEGENERATE, NOT_FINITE, batch, random_pairs
from torch import Tensor

import pose_kernels as pk

# ---- heatmap


def heatmap_inputs(
    N: int,
    J: int,
    size: list[int],
    sigma: float,
    strides: list[float],
    kind: str,
    dtype: torch.dtype,
    seed: int,
    valid: bool = False,
) -> Inputs:
    problem = Problem(N, J, tuple(size), sigma, tuple(strides[: len(size)]), seed)
    inputs = {"points": problem.points(dtype), "size": problem.size, "sigma": sigma}
    inputs |= {"stride": problem.stride, "kind": kind}
    if valid:
        random = torch.Generator().manual_seed(seed + 1)
        inputs["valid"] = torch.randint(-1, 3, (N, J), generator=random)
    return inputs


def heatmap_exact(inputs: Inputs) -> Exact:
    points = inputs["points"].detach().cpu().to(geometry(inputs["points"].dtype))
    if "valid" in inputs:
        points = points.where((inputs["valid"].cpu() > 0)[..., None], capsules.NAN)
    problem = Problem(*points.shape[:2], inputs["size"], inputs["sigma"], inputs["stride"])
    return Exact(problem, points, points.dtype)


def gaussian_bounds(inputs: Inputs, outputs: list[Tensor], grads: list[Tensor]) -> dict[str, Any]:
    exact = heatmap_exact(inputs)
    bounds = {"maps": (2 * exact.bound).expand(outputs[0].shape)}
    if grads:
        bounds["points"] = 2 * exact.gradient(grads[0])[1]
    return bounds


def mark_bounds(inputs: Inputs, outputs: list[Tensor], grads: list[Tensor]) -> dict[str, Any]:
    """Bit for bit, but where rounding decides whether a node lies on the disc."""
    exact = heatmap_exact(inputs)
    if inputs["kind"] == "impulse":
        return {"maps": torch.zeros_like(exact.value)}
    squares = sum((z * exact.sigma) ** 2 for z in exact.z)
    off = sum(2 * e * (z * exact.sigma).abs() for z, e in zip(exact.z, exact.extent))
    near = (squares - exact.sigma**2).abs() <= 4 * exact.eps * (off + exact.sigma**2)
    return {"maps": near.double()}


def heatmaps(kinds: list[str]) -> st.SearchStrategy[Inputs]:
    return st.builds(
        heatmap_inputs,
        N=st.integers(0, 3),
        J=st.integers(0, 4),
        size=st.lists(st.integers(1, 40), min_size=2, max_size=3),
        sigma=st.floats(0.05, 100),
        strides=st.lists(st.sampled_from([0.5, 1.0, 3.0, 7.3]), min_size=3, max_size=3),
        kind=st.sampled_from(kinds),
        dtype=st.sampled_from(DTYPES),
        seed=st.integers(0, 1000),
        valid=st.booleans(),
    )


class Gaussians(Contract):
    op = staticmethod(pk.heatmap)
    reference = staticmethod(pk.reference.heatmap)
    bounds = staticmethod(gaussian_bounds)
    outputs, differentiable = ("maps",), ("points",)
    sweep = heatmaps(["gaussian"])
    tame = Case(
        "tame", lambda dtype: heatmap_inputs(2, 2, [4, 5], 1.5, [1.0, 1.0], "gaussian", dtype, 3)
    )
    collide = Case(
        "collide",
        lambda dtype: heatmap_inputs(2, 3, [64, 65], 20.0, [1.0, 1.0], "gaussian", dtype, 0),
    )


class Marks(Contract):
    op = staticmethod(pk.heatmap)
    reference = staticmethod(pk.reference.heatmap)
    bounds = staticmethod(mark_bounds)
    outputs, fixed, differentiable = ("maps",), ("maps",), ()
    sweep = heatmaps(["disc", "impulse"])
    tame = Case(
        "tame", lambda dtype: heatmap_inputs(2, 2, [4, 5], 1.5, [1.0, 1.0], "disc", dtype, 3)
    )
    collide = Case(
        "collide", lambda dtype: heatmap_inputs(2, 3, [64, 65], 9.0, [1.0, 1.0], "disc", dtype, 0)
    )


# ---- capsule_mask


def capsule_inputs(
    N: int,
    K: int,
    size: tuple[int, int, int],
    P: int,
    wild: bool,
    balls: bool,
    dtype: torch.dtype,
    seed: int,
    **options: Any,
) -> Inputs:
    inputs = capsules.capsules(N, K, size, P, dtype, wild=wild, seed=seed)
    if balls:
        inputs["radius"] = inputs["radius"][..., 0]
    return {**inputs, **options}


def capsule_exact(inputs: Inputs) -> capsules.Exact:
    dtype = geometry(inputs["start"].dtype)
    names = ("start", "end", "radius")
    points = {name: inputs[name].detach().cpu().to(dtype) for name in names}
    return capsules.Exact({**inputs, **points, "part": inputs["part"].cpu()})


def soft_reference(
    start: Tensor, end: Tensor, radius: Tensor, *args: Any, **options: Any
) -> Tensor:
    """The reference in float64: autograd of a float32 sigmoid cancels, deep inside a capsule."""
    dtype = geometry(start.dtype)
    wide = (x.to(dtype).double() for x in (start, end, radius))
    return pk.reference.capsule_mask(*wide, *args, **options).to(dtype)


def hard_bounds(inputs: Inputs, outputs: list[Tensor], grads: list[Tensor]) -> dict[str, Tensor]:
    """The bits that rounding decides."""
    unsure = capsule_exact(inputs).inside(geometry(inputs["start"].dtype))[1]
    return {"mask": capsules.bits_of(unsure) if inputs["packed"] else unsure}


def soft_bounds(inputs: Inputs, outputs: list[Tensor], grads: list[Tensor]) -> dict[str, Tensor]:
    exact, dtype = capsule_exact(inputs), geometry(inputs["start"].dtype)
    bounds = {"mask": 2 * exact.soft(inputs["softness"], dtype)[1]}
    if grads:
        wrong = exact.gradients(inputs["softness"], grads[0].cpu(), dtype)[1]
        for name, bound in wrong.items():
            bounds[name] = 2 * (bound if inputs[name].dim() == 3 else bound.sum(-1))
    return bounds


def many_capsules(**options: Any) -> st.SearchStrategy[Inputs]:
    return st.builds(
        capsule_inputs,
        N=st.integers(0, 3),
        K=st.integers(1, 12),
        size=st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 35)),
        P=st.integers(1, 5),
        wild=st.booleans(),
        balls=st.booleans(),
        dtype=st.sampled_from(DTYPES),
        seed=st.integers(0, 999),
        **options,
    )


class HardCapsules(Contract):
    op = staticmethod(pk.capsule_mask)
    reference = staticmethod(pk.reference.capsule_mask)
    bounds = staticmethod(hard_bounds)
    outputs, fixed, differentiable = ("mask",), ("mask",), ()
    unbatched = ("part",)
    sweep = many_capsules(packed=st.booleans())
    tame = Case(
        "tame",
        lambda dtype: capsule_inputs(2, 3, (2, 3, 4), 2, False, False, dtype, 0, packed=True),
    )
    collide = Case(
        "collide",
        lambda dtype: capsule_inputs(2, 20, (9, 20, 33), 4, True, False, dtype, 0, packed=True),
    )


class SoftCapsules(Contract):
    op = staticmethod(pk.capsule_mask)
    reference = staticmethod(soft_reference)
    bounds = staticmethod(soft_bounds)
    outputs, differentiable = ("mask",), ("start", "end", "radius")
    unbatched = ("part",)
    sweep = many_capsules(packed=st.just(False), softness=st.sampled_from([0.05, 0.3, 2]))
    tame = Case(
        "tame",
        lambda dtype: capsule_inputs(
            2, 3, (2, 3, 4), 2, False, False, dtype, 0, packed=False, softness=0.3
        ),
    )
    collide = Case(
        "collide",
        lambda dtype: capsule_inputs(
            2, 20, (9, 20, 33), 4, True, False, dtype, 0, packed=False, softness=0.3
        ),
    )


# ---- helmert_fit

FIT_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-11}


def fit_inputs(kind: str, N: int, K: int, scale: bool, dtype: torch.dtype, seed: int) -> Inputs:
    """N fits: random ones, or all of them one degenerate or broken case between two random ones."""
    tensors = random_pairs(N, K, dtype, seed)
    if kind != "random":
        odd = batch(kind, dtype)
        beside = random_pairs(2, odd[0].shape[1], dtype, seed)
        tensors = tuple(torch.cat([b[:1], o, b[1:]]) for o, b in zip(odd, beside, strict=True))
    return {**dict(zip(("source", "target", "weight"), tensors, strict=True)), "scale": scale}


def fit_bounds(inputs: Inputs, outputs: list[Tensor], grads: list[Tensor]) -> dict[str, Tensor]:
    """Relative to the largest number of a fit; of a weight, to the terms that its gradient sums."""

    def largest(x: Tensor) -> Tensor:
        x = x.detach().double().nan_to_num(0, 0, 0).abs()
        return x.flatten(1).amax(1) if x.numel() else x.new_zeros(x.shape[0])

    def around(x: Tensor, size: Tensor) -> Tensor:
        return size.view(-1, *[1] * (x.dim() - 1)).expand(x.shape)

    names = ("source", "target", "weight")
    source, target, weight = (inputs[name].detach().cpu() for name in names)
    tolerance = FIT_TOLERANCE[geometry(source.dtype)]
    bounds = {"transform": around(outputs[0], tolerance * largest(outputs[0]))}
    if not grads:
        return bounds
    given = {n: x.clone().requires_grad_() for n, x in zip(names, (source, target, weight))}
    out = pk.reference.helmert_fit(**given, scale=inputs["scale"])
    to_source, to_target, to_weight = torch.autograd.grad(out, list(given.values()), grads[0])
    terms = (to_source.double() * source.double().nan_to_num()).abs()
    terms = (terms + (to_target.double() * target.double().nan_to_num()).abs()).sum(-1)
    terms = (terms / weight.double()).where(weight > 0, 0)
    limit = 100 * tolerance
    bounds["source"] = around(source, limit * largest(to_source))
    bounds["target"] = around(target, limit * largest(to_target))
    bounds["weight"] = around(weight, limit * torch.maximum(largest(to_weight), largest(terms)))
    return bounds


class Fits(Contract):
    op = staticmethod(pk.helmert_fit)
    reference = staticmethod(pk.reference.helmert_fit)
    bounds = staticmethod(fit_bounds)
    outputs, differentiable = ("transform",), ("source", "target", "weight")
    may_be_nan = True
    sweep = st.builds(
        fit_inputs,
        kind=st.sampled_from(["random"] * 8 + [*DEGENERATE, *NOT_FINITE]),
        N=st.integers(0, 20),
        K=st.integers(3, 9),
        scale=st.booleans(),
        dtype=st.sampled_from(DTYPES),
        seed=st.integers(0, 999),
    )
    tame = Case("tame", lambda dtype: fit_inputs("random", 2, 4, True, dtype, 0))
    collide = Case("collide", lambda dtype: fit_inputs("random", 40, 7, True, dtype, 0))
