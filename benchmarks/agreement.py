# SPDX-License-Identifier: Apache-2.0
"""No provider is timed before it computes what the specification computes.

1. The formula: on a small copy of the case in float64, outputs and every gradient.
2. The run: at full size in the case's dtype, outputs and the gradient of the features. The
   gradient of uv is left to the first check: for a texel hit once it is a difference of equal
   numbers, rounding noise times S.
   Where pk.reference would take minutes at that size, or is itself among the providers, one of
   them is what the others are held against: `specification` in registry.py.

Both compare sums over the whole tensor, sum |a - b| <= tolerance * sum |b|: the question is
whether the same thing is computed, element by element is what the tests do.
"""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from pose_kernels.testing import tolerance

from .registry import Case, Provider, differentiated, leaves

_EXPECTED: dict[Any, list[Tensor]] = {}  # of the last case: every provider is held against it


def disagreement(
    module: ModuleType, case: Case, provider: Provider, tensors: dict[str, Tensor]
) -> str | None:
    """None when the provider agrees with the specification, else where and by how much."""
    if provider.kind != "compiled":  # of a formulation that has been checked
        small = case.small()
        if not provider.float64:
            small = dataclasses.replace(small, dtype=torch.float32)
        device = next(iter(tensors.values())).device.type
        copy = module.inputs(small, device)
        (same,) = (p for p in module.providers(small, device) if p.name == provider.name)
        reason = _compare(module, small, same, copy, only_features=False)
        if reason is not None:
            return f"{reason} (small copy, {small.dtype})"
    if provider.specification:  # with itself: seconds, and nothing learned
        return None
    return _compare(module, case, provider, tensors, only_features=True)


def _compare(
    module: ModuleType,
    case: Case,
    provider: Provider,
    tensors: dict[str, Tensor],
    only_features: bool,
) -> str | None:
    gradients = case.direction != "forward" and provider.gradients
    arguments = leaves(module, provider, tensors)
    with provider.active(), torch.set_grad_enabled(gradients):
        outputs = provider.call(*arguments)
    finished = provider.finish(outputs)
    expected = _expected(module, case, tensors, gradients, only_features, finished[0])
    got = [x.detach() for x in finished]
    names = [f"output {i}" for i in range(len(got))]
    if gradients:
        wanted = differentiated(module, tensors, arguments)[: 1 if only_features else None]
        cotangent = _cotangent(finished[0])
        with provider.active():
            found = torch.autograd.grad(finished[0], wanted, cotangent)
        got += provider.restore(tuple(found))
        names += [f"gradient of {name}" for name in module.DIFFERENTIABLE]
    allowed = _allowed(module, case, provider)
    for name, a, b in zip(names, got, expected, strict=False):
        if a.shape != b.shape:
            return f"{name} has shape {tuple(a.shape)}, not {tuple(b.shape)}"
        scale = b.double().abs().sum().item()
        error = (a.double() - b.double()).abs().sum().item()
        if not error <= allowed * scale:  # also when either is NaN
            return f"{name} is off by {error / max(scale, 1e-300):.1e}, allowed are {allowed:.1e}"
    return None


def _allowed(module: ModuleType, case: Case, provider: Provider) -> float:
    # Twice the roundings of one coordinate, and those of the longest sum. The division by a small
    # weight enlarges the former, on few texels; the sum over the tensor levels that out.
    terms = module.longest_sum(case) + 2 * module.coordinate_range(case) * provider.coordinate_scale
    dtype = case.dtype
    if not provider.float64 and dtype == torch.float64:
        dtype = torch.float32
    return tolerance(dtype, int(terms))["rtol"]


def _cotangent(output: Tensor) -> Tensor:
    """The same numbers whatever the strides, so that all providers get equal gradients."""
    shape = output.shape
    random = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=random).to(output.dtype).to(output.device)


def _expected(
    module: ModuleType,
    case: Case,
    tensors: dict[str, Tensor],
    gradients: bool,
    only_features: bool,
    like: Tensor,
) -> list[Tensor]:
    key = (module.__name__, dataclasses.replace(case, direction=""), gradients, str(like.device))
    if key in _EXPECTED:
        return _EXPECTED[key]
    names = module.DIFFERENTIABLE[: 1 if only_features else None]
    arguments = {
        name: x.detach().requires_grad_(gradients and name in names) for name, x in tensors.items()
    }
    with torch.set_grad_enabled(gradients):
        outputs = module.reference(case, **arguments)
    expected = [x.detach() for x in outputs]
    if gradients:
        wanted = [arguments[name] for name in names]
        expected += torch.autograd.grad(outputs[0], wanted, _cotangent(outputs[0]))
    if len(_EXPECTED) >= 4:  # small and full, with and without gradients
        _EXPECTED.pop(next(iter(_EXPECTED)))
    _EXPECTED[key] = expected
    return expected


def forget() -> None:
    """Free the expected results: hundreds of megabytes that the clock need not carry."""
    _EXPECTED.clear()
