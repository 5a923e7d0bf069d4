# SPDX-License-Identifier: Apache-2.0
"""Argument checks: every message names the argument, what was expected and what came."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

import torch

_FEATURE_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def describe(value: object) -> str:
    """``(2, 3, 64, 64) float32`` for a tensor, the type's name for anything else."""
    if not isinstance(value, torch.Tensor):
        return f"{type(value).__name__} {value!r}"[:80]
    return f"({', '.join(map(str, value.shape))}) {dtype_name(value.dtype)}"


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class Axes:
    """Axis letters bound to sizes: the first tensor that names a letter decides its size.

    >>> axes = Axes()
    >>> axes.bind("image", torch.zeros(2, 3, 8, 8), "N C H W", "features")
    >>> axes.bind("part", torch.zeros(2, 8, 9, dtype=torch.uint8), "N H W", "integer")
    Traceback (most recent call last):
    ...
    ValueError: part must be (N, H, W) = (2, 8, 8) as in image, got (2, 8, 9) uint8
    """

    def __init__(self) -> None:
        self.size: dict[str, int] = {}
        self.named_by: dict[str, str] = {}
        self.first: str | None = None
        self.device: torch.device | None = None

    def bind(self, name: str, value: object, letters: str, kind: str) -> None:
        """Check that ``value`` is a dense tensor of this rank, kind and device, and bind its axes.

        kind: "features" or "geometry" (floating point), "integer", "boolean" or "numbers" (bool or
            real).
        A letter that is a number ("2") must have exactly that size.
        """
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {describe(value)}")
        # Small ops spend most of their time in here: what only a message needs is made for it.
        axes, shape, dtype, device = letters.split(), value.shape, value.dtype, value.device
        if value.layout is not torch.strided:
            raise ValueError(f"{name} must be a dense (strided) tensor, got layout {value.layout}")
        if len(shape) != len(axes):
            raise ValueError(f"{name} must be ({', '.join(axes)}), got {describe(value)}")
        if kind == "integer":
            if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
                raise ValueError(f"{name} must have an integer dtype, got {describe(value)}")
        elif kind == "boolean":
            if dtype != torch.bool:
                raise ValueError(f"{name} must be bool, got {describe(value)}")
        elif kind == "numbers":
            if dtype.is_complex:
                raise ValueError(f"{name} must be bool or real numbers, got {describe(value)}")
        elif dtype not in _FEATURE_DTYPES:
            raise ValueError(
                f"{name} must be float32, float64, float16 or bfloat16, got {describe(value)}"
            )
        if self.first is None:
            self.first, self.device = name, device
        elif device != self.device:
            raise ValueError(f"{name} must be on {self.device} as {self.first} is, got {device}")
        fits, sizes = True, self.size
        for axis, size in zip(axes, shape, strict=True):
            expected = sizes.get(axis)
            if expected is None:
                expected = sizes[axis] = int(axis) if axis.isdigit() else size
                self.named_by[axis] = name
            fits = fits and expected == size
        if not fits:
            self._misfit(name, value, axes)

    def _misfit(self, name: str, value: torch.Tensor, axes: list[str]) -> NoReturn:
        wanted, sizes = ", ".join(axes), ", ".join(str(self.size[axis]) for axis in axes)
        matching = f"({wanted})" if sizes == wanted else f"({wanted}) = ({sizes})"
        others = dict.fromkeys(self.named_by[axis] for axis in axes if not axis.isdigit())
        others.pop(name, None)
        source = f" as in {' and '.join(others)}" if others else ""
        raise ValueError(f"{name} must be {matching}{source}, got {describe(value)}")


def positive_int(name: str, value: object, most: int) -> None:
    fits = isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)
    if not fits or value < 1:  # type: ignore[operator]  # an int by now
        raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
    if value > most:  # type: ignore[operator]  # an int by now
        raise ValueError(f"{name} must be at most {most}, got {value!r}")


def non_negative_float(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    return float(value)


def number_within(name: str, value: object, least: float, most: float) -> float:
    """Bounds keep what a kernel derives from the number, its square say, within float32."""
    fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not fits or not least <= value <= most:  # type: ignore[operator]  # a number by now
        raise ValueError(f"{name} must be a number from {least:g} to {most:g}, got {value!r}")
    return float(value)  # type: ignore[arg-type]  # a number by now


def one_of(name: str, value: object, choices: Iterable[object]) -> None:
    allowed = tuple(choices)
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def geometry_dtype(features: torch.dtype) -> torch.dtype:
    """Coordinates and sums: float64 beside float64 features, float32 beside all others."""
    return torch.float64 if features == torch.float64 else torch.float32


def kernel_part(part: torch.Tensor) -> torch.Tensor:
    """The part map in one of the integer dtypes the kernels read, values kept."""
    if part.dtype in (torch.uint8, torch.int32, torch.int64):
        return part
    return part.to(torch.int32 if part.dtype.itemsize <= 2 else torch.int64)
