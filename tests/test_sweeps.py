# SPDX-License-Identifier: Apache-2.0
"""Every op on inputs that hypothesis makes as difficult as it can, against the reference.

Beside what each contract sweeps by itself: every tensor in a layout of its own (broadcast and
overlapping ones included), part maps of a single value, features and incoming gradients that are
not finite, geometry of any floating dtype, gradients to some of the inputs only.

CI runs the same few examples every time. POSE_KERNELS_SWEEP=2000 runs so many, each time others.
"""

from __future__ import annotations

import os

import pytest
import torch
from adversary import Memory, Swept, agree, finite, passes, plain_copies
from cases import INF, NAN, move, tensors
from every_op import CONTRACTS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pose_kernels as pk

ODD = (NAN, INF, -INF)
# Geometry is wild in the contracts already.
SWEPT = {
    "uv_splat": Swept(CONTRACTS["uv_splat"], {"image": ODD}, ("uv",)),
    # A weight that rounds to 0 or to -0 makes NaN, inf or -inf of infinity.
    "uv_raster": Swept(CONTRACTS["uv_raster"], {"image": (NAN,)}, ("uv",)),
    "uv_gather": Swept(CONTRACTS["uv_gather"], {"atlas": ODD}, ("uv",)),
    "push_pull": Swept(CONTRACTS["push_pull"], {"atlas": ODD, "weight": (*ODD, -1.0)}),
    "capsule_mask": Swept(CONTRACTS["capsule_mask"], recast=("end", "radius")),
    "capsule_mask-soft": Swept(CONTRACTS["capsule_mask-soft"], recast=("end", "radius")),
    # A gradient of NaN spoils its whole fit.
    "helmert_fit": Swept(CONTRACTS["helmert_fit"], recast=("target", "weight"), odd_incoming=False),
    "helmert_warp-bits": Swept(
        CONTRACTS["helmert_warp-bits"], {"volume": (NAN, INF)}, reads_more=("transform",)
    ),
    "helmert_warp-floats": Swept(
        CONTRACTS["helmert_warp-floats"], {"volume": (NAN, INF)}, reads_more=("mask", "transform")
    ),
    "heatmap": Swept(CONTRACTS["heatmap"]),
    "heatmap-marks": Swept(CONTRACTS["heatmap-marks"]),
    "flow_warp": Swept(CONTRACTS["flow_warp"], {"image": ODD}, reads_more=("flow",)),
    "region_crop": Swept(CONTRACTS["region_crop"], {"image": ODD}),
    "mesh_raster": Swept(CONTRACTS["mesh_raster"], {"vertices": ODD}),
}
LONG = int(os.environ.get("POSE_KERNELS_SWEEP", 0))


def test_every_op_is_swept():
    assert set(SWEPT) == set(CONTRACTS)
    swept = {contract.op for contract in CONTRACTS.values()}
    ops = {getattr(pk, name) for name in pk.reference.__all__}
    assert swept == ops and len(ops) == 11


@pytest.mark.parametrize("name", SWEPT)
@settings(
    max_examples=LONG or 12,
    derandomize=not LONG,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_sweep(device, name, data):
    swept = SWEPT[name]
    contract = swept.contract()
    inputs = swept.draw_inputs(data.draw)
    wanted = swept.draw_wanted(data.draw, inputs)
    plain = plain_copies(inputs)
    outputs = contract.expect(plain)
    incoming = swept.draw_incoming(data.draw, plain, outputs)
    dense = [g.contiguous().clone() for g in incoming]
    expected, expected_grads = passes(contract.expect, contract, plain, dense, wanted)
    bounds = swept.contract.bounds(
        swept.clean(plain), [finite(y) for y in expected], [finite(g) for g in dense]
    )

    given_inputs, given_incoming = move(inputs, device), [g.to(device) for g in incoming]
    memory = Memory([*(given_inputs[n] for n in tensors(given_inputs)), *given_incoming])
    outputs, grads = passes(contract.run, contract, given_inputs, given_incoming, wanted)
    for what, y, want in zip(contract.outputs, outputs, expected, strict=True):
        agree(y, want, bounds[what], what)
        assert y.untyped_storage().data_ptr() not in memory.addresses(), f"{what} is an input"
    for what in wanted:
        zero = torch.zeros_like(plain[what])  # no gradient is one of 0
        got, want = (g.get(what, zero) for g in (grads, expected_grads))
        agree(got, want, bounds[what], f"gradient to {what}", exactly=False)
    assert memory.is_untouched()
