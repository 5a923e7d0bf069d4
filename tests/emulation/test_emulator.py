# SPDX-License-Identifier: Apache-2.0
"""What cuda_emulation.h promises, on kernels with known answers and kernels wrong on purpose."""

from __future__ import annotations

import pytest
from emulation import builder


@pytest.fixture
def emulated(request, tmp_path_factory):
    module = builder.emulated_module(request, tmp_path_factory)
    yield module
    module.schedule(0)


@pytest.mark.parametrize("order", [0, 1, 5])
def test_right_kernels(emulated, order):
    emulated.schedule(order)
    assert emulated.self_check("reverse_block") == list(range(63, -1, -1))
    words = [word & 0xFFFFFFFF for word in emulated.self_check("warp_words")[:7]]
    assert words == [28, 6, 60, 0xAAAAAAAA, 0x22222222, 0xF0, 0b111]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("half_block_barrier", "deadlock: .*__syncthreads"),
        ("barrier_after_return", "__syncthreads: a thread of the block has returned"),
        ("two_wishes", "a vote: lane 0 of the mask waits for a shuffle"),
        ("past_the_end", "wrote past its shared memory"),
    ],
)
def test_wrong_kernels_are_errors(emulated, name, message):
    emulated.schedule(0)
    with pytest.raises(RuntimeError, match=message):
        emulated.self_check(name)


def test_shared_memory_starts_as_nan(emulated):
    assert not any(emulated.self_check("sum_of_floats"))


def test_a_missing_barrier_shows_in_another_order(emulated):
    answers = set()
    for order in (0, 1, 5):
        emulated.schedule(order)
        answers.add(tuple(emulated.self_check("missing_barrier")))
    assert len(answers) > 1
