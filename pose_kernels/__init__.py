# SPDX-License-Identifier: Apache-2.0
"""Fast, exact, differentiable warps for human pose transfer.

import pose_kernels as pk

atlas, weight = pk.uv_splat(image, part, uv)   # photo -> 24 body-part tiles
atlas = pk.push_pull(atlas, weight)            # fill what the photo does not show
out = pk.uv_gather(atlas, part2, uv2)          # paint it into another pose

parts = pk.body_parts(joints, "h36m17")        # 3D joints -> capsules of ten body parts
mask = pk.capsule_mask(parts.start, parts.end, parts.radius, parts.part, size=size, num_parts=10)
out = pk.helmert_warp(volume, mask, pk.part_transforms(parts, parts2))  # move a feature volume
"""

from . import backends, reference
from .appearance_flow import flow_pyramid, mesh_flow
from .backends import use_backend
from .ops.capsule_mask import capsule_mask
from .ops.flow_warp import flow_warp
from .ops.heatmap import heatmap
from .ops.helmert_fit import helmert_fit
from .ops.helmert_warp import helmert_warp
from .ops.mesh_raster import mesh_raster
from .ops.push_pull import push_pull
from .ops.region_crop import region_crop
from .ops.uv_gather import uv_gather
from .ops.uv_raster import uv_raster
from .ops.uv_splat import uv_splat
from .skeleton import body_parts, part_transforms

__version__ = "0.1.0"

backends.initialize()

__all__ = [
    "__version__",
    "body_parts",
    "capsule_mask",
    "flow_pyramid",
    "flow_warp",
    "heatmap",
    "helmert_fit",
    "helmert_warp",
    "mesh_flow",
    "mesh_raster",
    "part_transforms",
    "push_pull",
    "reference",
    "region_crop",
    "use_backend",
    "uv_gather",
    "uv_raster",
    "uv_splat",
]
