# SPDX-License-Identifier: Apache-2.0
"""Every op in pure PyTorch, with the same signature: the specification in code.

Runs on any device, in any floating dtype, differentiable through plain autograd. The compiled
kernels are tested against these functions, and machines without a kernel fall back to them.
"""

from .capsule_mask import capsule_mask
from .flow_warp import flow_warp
from .heatmap import heatmap
from .helmert_fit import helmert_fit
from .helmert_warp import helmert_warp
from .mesh_raster import mesh_raster
from .push_pull import push_pull
from .region_crop import region_crop
from .uv_gather import uv_gather
from .uv_raster import uv_raster
from .uv_splat import uv_splat

__all__ = [
    "capsule_mask",
    "flow_warp",
    "heatmap",
    "helmert_fit",
    "helmert_warp",
    "mesh_raster",
    "push_pull",
    "region_crop",
    "uv_gather",
    "uv_raster",
    "uv_splat",
]
