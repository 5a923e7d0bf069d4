# SPDX-License-Identifier: Apache-2.0
"""One input of an op, the memory layouts it may come in, and the bounds its outputs must keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NAN, INF = float("nan"), float("inf")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
DTYPE_IDS = [str(dtype).removeprefix("torch.") for dtype in DTYPES]
Inputs = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One input: ``make(dtype)`` returns the op's keyword arguments on the CPU."""

    id: str
    make: Callable[[torch.dtype], Inputs]


def geometry(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def features(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Numbers in (-2, 2), exactly the same ones in every dtype up to rounding."""
    random = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=random, dtype=torch.float64) * 4 - 2).to(dtype)


# ---- layouts


def tensors(inputs: Inputs) -> list[str]:
    return [name for name, value in inputs.items() if isinstance(value, Tensor)]


def move(inputs: Inputs, device: str) -> Inputs:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}


def channels_last(x: Tensor, spatial: int = 2) -> Tensor:
    """The same (..., C, <spatial>) values with the channels innermost in memory."""
    return x.movedim(-1 - spatial, -1).contiguous().movedim(-1, -1 - spatial)


def strided_copies(x: Tensor) -> dict[str, Tensor]:
    """The values of x in tensors that are neither contiguous nor channels last."""
    padded = x.new_full((*x.shape[:-1], 2 * x.shape[-1] + 3), 77)
    padded[..., 2:-1:2] = x
    swapped = x.transpose(0, -1).contiguous().transpose(0, -1)
    shifted = torch.cat([x.new_full((1, *x.shape[1:]), 77), x])[1:]  # an offset into its storage
    return {"sliced": padded[..., 2:-1:2], "transposed": swapped, "shifted": shifted}


# ---- comparison


def assert_within(
    actual: Tensor, expected: Tensor, bound: Tensor, what: str, *, may_be_nan: bool = False
) -> None:
    """|actual - expected| <= bound for each element, all finite, same shape and dtype.

    Of integers and booleans, ``bound`` holds the bits that may differ. ``may_be_nan``: where the
    expected value is NaN, the actual one must be NaN too.
    """
    assert actual.shape == expected.shape, f"{what}: {actual.shape} is not {expected.shape}"
    assert actual.dtype == expected.dtype, f"{what}: {actual.dtype} is not {expected.dtype}"
    if actual.numel() == 0:
        return
    actual, expected = actual.detach().cpu(), expected.detach().cpu()
    if not actual.is_floating_point():
        assert bound.dtype == actual.dtype, f"{what}: a bound of bits, not of {bound.dtype}"
        wrong = ((actual ^ expected) & ~bound) != 0
        assert not wrong.any(), (
            f"{what}: {int(wrong.sum())} of {wrong.numel()} differ; the first, at flat index "
            f"{int(wrong.flatten().int().argmax())}, is {actual[wrong][0]} where "
            f"{expected[wrong][0]} is right"
        )
        return
    actual, expected = actual.double(), expected.double()
    if may_be_nan:
        nan = expected.isnan()
        assert torch.equal(actual.isnan(), nan), f"{what}: NaN where it should not be, or not NaN"
        actual, expected = actual.masked_fill(nan, 0), expected.masked_fill(nan, 0)
        bound = bound.expand_as(expected).masked_fill(nan, 0)
    assert expected.isfinite().all(), f"{what}: the expected values are not finite"
    assert actual.isfinite().all(), f"{what}: {(~actual.isfinite()).sum()} values are not finite"
    error = (actual - expected).abs()
    wrong = ~(error <= bound)
    if wrong.any():
        worst = int((error - bound).argmax())
        raise AssertionError(
            f"{what}: {int(wrong.sum())} of {wrong.numel()} differ; the worst, at flat index "
            f"{worst}, is {actual.flatten()[worst]:.9g} where {expected.flatten()[worst]:.9g} +- "
            f"{bound.expand_as(error).flatten()[worst]:.3g} is right"
        )


# ---- which tests an op has


def needs(attribute: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A test of the contract that only ops whose ``attribute`` is not empty have."""

    def mark(test: Callable[..., Any]) -> Callable[..., Any]:
        test.needs = attribute  # type: ignore[attr-defined]
        return test

    return mark
