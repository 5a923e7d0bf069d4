# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 (a row is one line: the mistake and the whole message)
"""flow_pyramid: means of the flow in the units of each level, smallest visibility."""

from __future__ import annotations

import pytest
import torch

import pose_kernels as pk


@pytest.mark.parametrize("masked", [False, True])
def test_a_constant_flow_is_divided_by_the_scale(masked):
    flow = torch.tensor([6.0, -4.0]).view(1, 2, 1, 1).expand(2, 2, 8, 16)
    seen = torch.ones(2, 8, 16, dtype=torch.uint8)
    levels = pk.flow_pyramid(flow, seen, 4, masked=masked)
    assert len(levels) == 4
    for level, (f, v) in enumerate(levels):
        assert f.shape == (2, 2, 8 >> level, 16 >> level) and v.shape == (2, *f.shape[2:])
        assert torch.equal(f, torch.tensor([6.0, -4.0]).view(1, 2, 1, 1).expand_as(f) / 2**level)
        assert (v == 1).all() and v.dtype == torch.uint8


def test_visible_wins_over_occluded_over_background():
    seen = torch.tensor([[2, 2, 2, 1], [2, 0, 1, 1], [2, 2, 2, 2], [2, 2, 2, 1]])[None]
    levels = pk.flow_pyramid(torch.zeros(1, 2, 4, 4), seen, 3)
    assert levels[1][1].tolist() == [[[0, 1], [2, 1]]]
    assert levels[2][1].tolist() == [[[0]]]


def test_masked_means_leave_the_background_out():
    flow = torch.arange(16.0).view(1, 1, 4, 4).repeat(1, 2, 1, 1)
    seen = torch.full((1, 4, 4), 2)
    seen[0, 0, 0], seen[0, 3, 3], seen[0, 2, 3] = 0, 1, 1
    flow[:, :, 1, 1] = float("nan")  # background
    first, second, third = (f[0, 0] for f, _ in pk.flow_pyramid(flow, seen, 3, masked=True))
    assert first[0, 0] == 0 and first[3, 3] == 15 and first[2, 3] == 11
    assert first.abs().sum() == 26
    assert second.tolist() == [[0, 0], [0, 6.5]]
    assert third.item() == pytest.approx((0 + 15 + 11) / 3 / 4)
    assert pk.flow_pyramid(flow, seen, 2)[1][0][0, 0, 0, 0].isnan()


@pytest.mark.parametrize("masked", [False, True])
def test_against_the_formula(masked):
    flow = torch.randn(2, 2, 8, 12, dtype=torch.float64)
    seen = torch.randint(0, 3, (2, 8, 12))
    for level, (f, v) in enumerate(pk.flow_pyramid(flow, seen, 3, masked=masked)):
        side = 2**level
        for y in range(8 // side):
            for x in range(12 // side):
                block = (slice(y * side, (y + 1) * side), slice(x * side, (x + 1) * side))
                for n in range(2):
                    values, codes = flow[(n, slice(None), *block)], seen[n][block]
                    if masked:
                        values = values[:, codes < 2]
                    total = values.flatten(1).sum(1) / max(values[0].numel(), 1) / side
                    torch.testing.assert_close(f[n, :, y, x], total)
                    assert v[n, y, x] == codes.min()


@pytest.mark.parametrize("masked", [False, True])
def test_gradcheck(masked):
    seen = torch.randint(0, 3, (1, 4, 8))
    flow = torch.randn(1, 2, 4, 8, dtype=torch.float64, requires_grad=True)

    def run(flow):
        return tuple(f for f, _ in pk.flow_pyramid(flow, seen, 3, masked=masked))

    assert torch.autograd.gradcheck(run, flow)


def test_half_precision_flow_and_empty_batches():
    flow, seen = torch.ones(0, 2, 4, 4, dtype=torch.bfloat16), torch.zeros(0, 4, 4)
    levels = pk.flow_pyramid(flow, seen.long(), 3, masked=True)
    assert [f.shape for f, _ in levels] == [(0, 2, 4, 4), (0, 2, 2, 2), (0, 2, 1, 1)]
    assert all(f.dtype == torch.float32 for f, _ in levels)


flow, visibility = torch.zeros(2, 2, 12, 8), torch.zeros(2, 12, 8, dtype=torch.uint8)
BAD = [
    ({"flow": flow[0]}, "flow must be (N, 2, H, W), got (2, 12, 8) float32"),
    ({"flow": flow.int()}, "flow must be float32, float64, float16 or bfloat16, got (2, 2, 12, 8) int32"),
    ({"visibility": visibility[:1]}, "visibility must be (N, H, W) = (2, 12, 8) as in flow, got (1, 12, 8) uint8"),
    ({"visibility": visibility.float()}, "visibility must have an integer dtype, got (2, 12, 8) float32"),
    ({"levels": 0}, "levels must be an int of at least 1, got 0"),
    ({"levels": 2.0}, "levels must be an int of at least 1, got 2.0"),
    ({"levels": 32}, "levels must be at most 31, got 32"),
    ({"levels": 4}, "flow must have sides that are multiples of 8 for 4 levels, got (2, 2, 12, 8) float32"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "message"), BAD, ids=[row[1][-30:] for row in BAD])
def test_bad_input(wrong, message):
    with pytest.raises(ValueError) as error:
        pk.flow_pyramid(**{"flow": flow, "visibility": visibility, "levels": 3, **wrong})
    assert str(error.value) == message
