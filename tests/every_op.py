# SPDX-License-Identifier: Apache-2.0
"""The contract of every op under one name, for tests that run all of them together."""

from __future__ import annotations

import test_flow_warp
import test_helmert_warp
import test_mesh_raster
import test_push_pull
import test_region_crop
import test_uv_gather
import test_uv_raster
import test_uv_splat
import torch
from cases import Case, move
from contract import Contract
from contract_gradients import Gradients
from point_contracts import Fits, Gaussians, HardCapsules, Marks, SoftCapsules
from torch import Tensor

CONTRACTS: dict[str, type[Contract]] = {
    "uv_splat": test_uv_splat.TestUvSplat,
    "uv_raster": test_uv_raster.TestUvRaster,
    "uv_gather": test_uv_gather.TestUvGather,
    "push_pull": test_push_pull.TestPushPull,
    "capsule_mask": HardCapsules,
    "capsule_mask-soft": SoftCapsules,
    "helmert_fit": Fits,
    "helmert_warp-bits": test_helmert_warp.TestBits,
    "helmert_warp-floats": test_helmert_warp.TestFloats,
    "heatmap": Gaussians,
    "heatmap-marks": Marks,
    "flow_warp": test_flow_warp.TestFlowWarp,
    "region_crop": test_region_crop.TestRegionCrop,
    "mesh_raster": test_mesh_raster.TestMeshRaster,
}


class Pass:
    """One input of an op and the gradients that arrive; called, it runs both ways."""

    def __init__(self, name: str, case: Case, dtype: torch.dtype, device: str = "cpu") -> None:
        self.contract = CONTRACTS[name]()
        inputs = case.make(dtype)
        # Of the base class: everywhere, also where rounding decides what a contract compares.
        self.incoming = Gradients.incoming(self.contract, inputs, self.contract.run(inputs))
        self.inputs = move(inputs, device)

    def __call__(self) -> list[Tensor]:
        """Outputs, then gradients."""
        y, grads = self.contract.gradients(self.contract.run, self.inputs, self.incoming)
        return [*(x.detach() for x in y), *grads.values()]

    def same(self, a: list[Tensor], b: list[Tensor]) -> bool:
        return len(a) == len(b) and all(self.contract.same(x, y) for x, y in zip(a, b))
