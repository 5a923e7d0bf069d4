# SPDX-License-Identifier: Apache-2.0
"""The contract itself: which tests an op gets, and that its comparison can fail."""

from __future__ import annotations

import pytest
import test_push_pull
import test_uv_splat
import torch
from cases import INF, NAN, assert_within, channels_last, needs
from contract import Contract
from contract_modes import Modes


def promised(contract: type) -> set[str]:
    return {name for name in dir(contract) if name.startswith("test_") and getattr(contract, name)}


def filled_in(**attributes) -> type:
    given = {"CASES": [], "realistic": [], "outputs": ("y",), "differentiable": (), **attributes}
    return type("Filled", (Contract, Modes), given)


def test_an_op_has_the_tests_that_make_sense_for_it():
    every = promised(type("Every", (Modes, Contract.__mro__[1]), {})) | promised(Contract)
    splat, pull = (
        promised(module) for module in (test_uv_splat.TestUvSplat, test_push_pull.TestPushPull)
    )
    assert splat == every
    about_geometry = {
        "test_second_order_through_geometry_is_right_or_an_error",
        "test_eager_second_order_through_geometry_is_an_error",
    }
    assert every - pull == about_geometry
    points = promised(filled_in(differentiable=("points",)))
    about_features = {
        "test_memory_formats",
        "test_second_order_of_the_values",
        "test_compile_in_channels_last",
        "test_func_hessian_of_the_values",
    }
    assert every - points == about_features
    twice = promised(filled_in(differentiable=("points",), twice=("points",)))
    assert points - twice == {"test_eager_second_order_through_geometry_is_an_error"}
    nothing = promised(filled_in())
    about_gradients = {
        "test_gradcheck",
        "test_subset_of_inputs_requires_grad",
        "test_nothing_is_kept_alive",
        "test_func_first_order",
        "test_forward_mode_in_compile_is_right_or_an_error",
        "test_scaled_loss",
        "test_checkpoint",
    }
    assert every - nothing == about_gradients | about_features | about_geometry


def test_features_alone_come_in_memory_formats():
    assert filled_in().parameters()["last"][1] == ["contiguous"]
    assert filled_in().parameters()["layout"][1] == ["contiguous", "expanded", "sliced"]
    filled = filled_in(differentiable=("x",), values="x")
    assert filled.parameters()["last"][1] == ["contiguous", "channels_last"]


def test_values_must_be_differentiable():
    with pytest.raises(AssertionError):
        filled_in(values="x")


def test_needs_is_kept_by_other_marks():
    marked = needs("values")(pytest.mark.parametrize("x", [1])(lambda x: None))
    assert marked.needs == "values"


@pytest.mark.parametrize("spatial", [2, 3])
def test_channels_last(spatial):
    x = torch.randn(2, 3, 4, 5, 6)
    y = channels_last(x, spatial)
    assert torch.equal(x, y)
    assert y.stride(-1 - spatial) == 1
    named = {2: torch.channels_last, 3: torch.channels_last_3d}[spatial]
    assert (x[0] if spatial == 2 else x).to(memory_format=named).stride() == y.stride()[
        3 - spatial :
    ]


ONE = torch.tensor([1.0, 2.0])
BITS = torch.tensor([0b101, 0b011], dtype=torch.int32)
WRONG = [
    (ONE, ONE + 0.1, 0.05, False),
    (ONE, torch.tensor([1.0, NAN]), INF, False),
    (torch.tensor([1.0, NAN]), torch.tensor([1.0, NAN]), INF, False),
    (torch.tensor([1.0, NAN]), ONE, INF, True),
    (ONE, torch.tensor([1.0, NAN]), INF, True),
    (torch.tensor([1.0, NAN]), torch.tensor([1.2, NAN]), 0.1, True),
    (ONE, ONE.double(), 1.0, False),
    (ONE, ONE[:1], 1.0, False),
    (ONE, ONE, NAN, False),
    (BITS, BITS ^ 0b10, 0b01, False),
    (BITS > 3, BITS > 0, False, False),
]
RIGHT = [
    (ONE, ONE + 0.1, 0.2, False),
    (torch.tensor([1.0, NAN]), torch.tensor([1.2, NAN]), 0.3, True),
    (BITS, BITS ^ 0b10, 0b10, False),
    (BITS > 3, BITS > 0, True, False),
]


@pytest.mark.parametrize(
    ("row", "right"), [*((row, False) for row in WRONG), *((row, True) for row in RIGHT)]
)
def test_assert_within(row, right):
    expected, actual, bound, may_be_nan = row
    dtype = torch.float64 if expected.is_floating_point() else expected.dtype
    bound = torch.full(expected.shape, bound, dtype=dtype)
    if right:
        assert_within(actual, expected, bound, "y", may_be_nan=may_be_nan)
    else:
        with pytest.raises(AssertionError):
            assert_within(actual, expected, bound, "y", may_be_nan=may_be_nan)
