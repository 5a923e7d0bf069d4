# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 (a row is one line: the mistake and the whole message)
"""What a wrong argument is told: one row per mistake, with the whole message."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode

import pose_kernels as pk

image, part, uv = (
    torch.zeros(2, 3, 8, 9),
    torch.zeros(2, 8, 9, dtype=torch.uint8),
    torch.zeros(2, 2, 8, 9),
)
atlas, weight = torch.zeros(2, 4, 3, 5, 5), torch.zeros(2, 4, 5, 5)
SPLAT = {"image": image, "part": part, "uv": uv, "num_parts": 4, "size": 5}
RASTER = {**SPLAT, "max_edge": 0.5}
GATHER = {"atlas": atlas, "part": part, "uv": uv}
points = torch.zeros(2, 5, 4, 3)
FIT = {"source": points, "target": points, "weight": points[..., 0]}
FILL = {"atlas": atlas, "weight": weight}
volume, maps = torch.zeros(2, 3, 4, 5, 6), torch.zeros(2, 7, 3, 4)
bits, dense = torch.zeros(2, 4, 5, 6, dtype=torch.int32), torch.zeros(2, 7, 4, 5, 6)
WARP = {"volume": volume, "mask": bits, "transform": maps}
spots = torch.zeros(2, 4, 2)
CROP = {"image": image, "center": spots, "size": 5}
flow, seen = torch.zeros(2, 2, 6, 7), torch.zeros(2, 6, 7, dtype=torch.uint8)
FLOW = {"image": image, "flow": flow, "visibility": seen}
floats = "must be float32, float64, float16 or bfloat16"
kinds = "must be int32 bits (N, D, H, W), or floating or bool (N, P, D, H, W)"

# op, correct arguments, the wrong one(s), the message
ROWS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    # rank
    ("uv_splat", SPLAT, {"image": image[0]}, "image must be (N, C, H, W), got (3, 8, 9) float32"),
    ("uv_splat", SPLAT, {"part": part[:, None]}, "part must be (N, H, W), got (2, 1, 8, 9) uint8"),
    ("uv_splat", SPLAT, {"uv": uv[:, 0]}, "uv must be (N, 2, H, W), got (2, 8, 9) float32"),
    ("uv_gather", GATHER, {"atlas": atlas[0]}, "atlas must be (N, P, C, S, S), got (4, 3, 5, 5) float32"),
    ("uv_gather", GATHER, {"part": part[0]}, "part must be (N, H, W), got (8, 9) uint8"),
    ("uv_gather", GATHER, {"uv": uv[None]}, "uv must be (N, 2, H, W), got (1, 2, 2, 8, 9) float32"),
    ("push_pull", FILL, {"atlas": image[0, 0]}, "atlas must be (..., C, H, W), got (8, 9) float32"),
    ("push_pull", FILL, {"weight": weight[0]}, "weight must be (L0, L1, H, W), got (4, 5, 5) float32"),
    # sizes that do not agree
    ("uv_splat", SPLAT, {"part": part[:1]}, "part must be (N, H, W) = (2, 8, 9) as in image, got (1, 8, 9) uint8"),
    ("uv_splat", SPLAT, {"part": part[:, :7]}, "part must be (N, H, W) = (2, 8, 9) as in image, got (2, 7, 9) uint8"),
    ("uv_splat", SPLAT, {"uv": uv[..., :8]}, "uv must be (N, 2, H, W) = (2, 2, 8, 9) as in image, got (2, 2, 8, 8) float32"),
    ("uv_splat", SPLAT, {"uv": image}, "uv must be (N, 2, H, W) = (2, 2, 8, 9) as in image, got (2, 3, 8, 9) float32"),
    ("uv_splat", SPLAT, {"uv": uv.permute(0, 2, 3, 1)}, "uv must be (N, 2, H, W) = (2, 2, 8, 9) as in image, got (2, 8, 9, 2) float32"),
    ("uv_gather", GATHER, {"part": part[:1]}, "part must be (N, H, W) = (2, 8, 9) as in atlas, got (1, 8, 9) uint8"),
    ("uv_gather", GATHER, {"uv": uv[:, :, :3]}, "uv must be (N, 2, H, W) = (2, 2, 8, 9) as in atlas and part, got (2, 2, 3, 9) float32"),
    ("uv_gather", GATHER, {"atlas": atlas[..., :4]}, "atlas must be (N, P, C, S, S) = (2, 4, 3, 5, 5), got (2, 4, 3, 5, 4) float32"),
    ("uv_gather", GATHER, {"atlas": atlas[:, :0]}, "atlas must have at least one tile of at least one texel, got P = 0, S = 5"),
    ("uv_gather", GATHER, {"atlas": atlas[..., :0, :0]}, "atlas must have at least one tile of at least one texel, got P = 4, S = 0"),
    ("push_pull", FILL, {"weight": weight[:, :3]}, "weight must be (L0, L1, H, W) = (2, 4, 5, 5) as in atlas, got (2, 3, 5, 5) float32"),
    ("push_pull", FILL, {"weight": weight[..., :1]}, "weight must be (L0, L1, H, W) = (2, 4, 5, 5) as in atlas, got (2, 4, 5, 1) float32"),
    ("helmert_fit", FIT, {"source": points[0, 0, 0]}, "source must be (..., K, 3), got (3) float32"),
    ("helmert_fit", FIT, {"source": points[0]}, "target must be (L0, K, 3), got (2, 5, 4, 3) float32"),
    ("helmert_fit", FIT, {"target": points[0]}, "target must be (L0, L1, K, 3), got (5, 4, 3) float32"),
    ("helmert_fit", FIT, {"weight": points}, "weight must be (L0, L1, K), got (2, 5, 4, 3) float32"),
    ("helmert_fit", FIT, {"source": points[..., :2]}, "source must be (L0, L1, K, 3) = (2, 5, 4, 3), got (2, 5, 4, 2) float32"),
    ("helmert_fit", FIT, {"target": points[:, :, :3]}, "target must be (L0, L1, K, 3) = (2, 5, 4, 3) as in source, got (2, 5, 3, 3) float32"),
    ("helmert_fit", FIT, {"target": points[:1]}, "target must be (L0, L1, K, 3) = (2, 5, 4, 3) as in source, got (1, 5, 4, 3) float32"),
    ("helmert_fit", FIT, {"weight": points[..., :3, 0]}, "weight must be (L0, L1, K) = (2, 5, 4) as in source, got (2, 5, 3) float32"),
    ("helmert_fit", FIT, {"source": points[:, :, :0], "target": points[:, :, :0], "weight": points[:, :, :0, 0]}, "source must have at least one point, got (2, 5, 0, 3) float32"),
    # dtypes
    ("helmert_fit", FIT, {"source": points.int()}, f"source {floats}, got (2, 5, 4, 3) int32"),
    ("helmert_fit", FIT, {"target": points.to(torch.complex64)}, f"target {floats}, got (2, 5, 4, 3) complex64"),
    ("helmert_fit", FIT, {"weight": points[..., 0].bool()}, f"weight {floats}, got (2, 5, 4) bool"),
    ("uv_splat", SPLAT, {"image": image.to(torch.uint8)}, f"image {floats}, got (2, 3, 8, 9) uint8"),
    ("uv_splat", SPLAT, {"image": image.bool()}, f"image {floats}, got (2, 3, 8, 9) bool"),
    ("uv_splat", SPLAT, {"image": image.to(torch.complex64)}, f"image {floats}, got (2, 3, 8, 9) complex64"),
    ("uv_splat", SPLAT, {"image": image.to(torch.float8_e4m3fn)}, f"image {floats}, got (2, 3, 8, 9) float8_e4m3fn"),
    ("uv_splat", SPLAT, {"part": part.float()}, "part must have an integer dtype, got (2, 8, 9) float32"),
    ("uv_splat", SPLAT, {"part": part.bool()}, "part must have an integer dtype, got (2, 8, 9) bool"),
    ("uv_splat", SPLAT, {"uv": uv.int()}, f"uv {floats}, got (2, 2, 8, 9) int32"),
    ("uv_splat", SPLAT, {"uv": uv.to(torch.complex128)}, f"uv {floats}, got (2, 2, 8, 9) complex128"),
    ("uv_gather", GATHER, {"atlas": atlas.long()}, f"atlas {floats}, got (2, 4, 3, 5, 5) int64"),
    ("uv_gather", GATHER, {"part": part.half()}, "part must have an integer dtype, got (2, 8, 9) float16"),
    ("push_pull", FILL, {"atlas": atlas.to(torch.complex64)}, f"atlas {floats}, got (2, 4, 3, 5, 5) complex64"),
    ("push_pull", FILL, {"weight": weight.bool()}, f"weight {floats}, got (2, 4, 5, 5) bool"),
    # devices and layouts
    ("uv_splat", SPLAT, {"part": part.to("meta")}, "part must be on cpu as image is, got meta"),
    ("uv_splat", SPLAT, {"uv": uv.to("meta")}, "uv must be on cpu as image is, got meta"),
    ("uv_gather", GATHER, {"part": part.to("meta")}, "part must be on cpu as atlas is, got meta"),
    ("push_pull", FILL, {"weight": weight.to("meta")}, "weight must be on cpu as atlas is, got meta"),
    ("uv_splat", SPLAT, {"image": image.to_sparse()}, "image must be a dense (strided) tensor, got layout torch.sparse_coo"),
    ("uv_gather", GATHER, {"uv": uv.to_sparse()}, "uv must be a dense (strided) tensor, got layout torch.sparse_coo"),
    ("push_pull", FILL, {"weight": weight.to_sparse()}, "weight must be a dense (strided) tensor, got layout torch.sparse_coo"),
    ("helmert_fit", FIT, {"target": points.to("meta")}, "target must be on cpu as source is, got meta"),
    ("helmert_fit", FIT, {"source": points.to_sparse()}, "source must be a dense (strided) tensor, got layout torch.sparse_coo"),
    # numbers
    ("uv_splat", SPLAT, {"size": 0}, "size must be an int of at least 1, got 0"),
    ("uv_splat", SPLAT, {"size": -5}, "size must be an int of at least 1, got -5"),
    ("uv_splat", SPLAT, {"size": 5.0}, "size must be an int of at least 1, got 5.0"),
    ("uv_splat", SPLAT, {"size": True}, "size must be an int of at least 1, got True"),
    ("uv_splat", SPLAT, {"size": (5, 5)}, "size must be an int of at least 1, got (5, 5)"),
    ("uv_splat", SPLAT, {"num_parts": 0}, "num_parts must be an int of at least 1, got 0"),
    ("uv_splat", SPLAT, {"num_parts": None}, "num_parts must be an int of at least 1, got None"),
    ("uv_splat", SPLAT, {"min_weight": -1e-3}, "min_weight must be a number of at least 0, got -0.001"),
    ("uv_splat", SPLAT, {"min_weight": float("nan")}, "min_weight must be a number of at least 0, got nan"),
    ("uv_splat", SPLAT, {"min_weight": "0"}, "min_weight must be a number of at least 0, got '0'"),
    ("push_pull", FILL, {"min_weight": -1}, "min_weight must be a number of at least 0, got -1"),
    ("push_pull", FILL, {"radius": -1}, "radius must be None or an int of at least 0, got -1"),
    # uv_raster
    ("uv_raster", RASTER, {"image": image[0]}, "image must be (N, C, H, W), got (3, 8, 9) float32"),
    ("uv_raster", RASTER, {"part": part[:, :7]}, "part must be (N, H, W) = (2, 8, 9) as in image, got (2, 7, 9) uint8"),
    ("uv_raster", RASTER, {"uv": image}, "uv must be (N, 2, H, W) = (2, 2, 8, 9) as in image, got (2, 3, 8, 9) float32"),
    ("uv_raster", RASTER, {"image": image.int()}, f"image {floats}, got (2, 3, 8, 9) int32"),
    ("uv_raster", RASTER, {"part": part.bool()}, "part must have an integer dtype, got (2, 8, 9) bool"),
    ("uv_raster", RASTER, {"uv": uv.to("meta")}, "uv must be on cpu as image is, got meta"),
    ("uv_raster", RASTER, {"size": 0}, "size must be an int of at least 1, got 0"),
    ("uv_raster", RASTER, {"size": 46341}, "size must be at most 46340, got 46341"),
    ("uv_raster", RASTER, {"num_parts": -1}, "num_parts must be an int of at least 1, got -1"),
    ("uv_raster", RASTER, {"max_edge": -0.1}, "max_edge must be a number of at least 0, got -0.1"),
    ("uv_raster", RASTER, {"max_edge": float("nan")}, "max_edge must be a number of at least 0, got nan"),
    # helmert_warp
    ("helmert_warp", WARP, {"volume": volume[0]}, "volume must be (N, C, D, H, W), got (3, 4, 5, 6) float32"),
    ("helmert_warp", WARP, {"volume": volume[None]}, "volume must be (N, C, D, H, W), got (1, 2, 3, 4, 5, 6) float32"),
    ("helmert_warp", WARP, {"volume": volume[:, :, :0]}, "volume must have 1 to 2^24 - 1 voxels a side, got (2, 3, 0, 5, 6) float32"),
    ("helmert_warp", WARP, {"volume": volume[..., :0]}, "volume must have 1 to 2^24 - 1 voxels a side, got (2, 3, 4, 5, 0) float32"),
    ("helmert_warp", WARP, {"volume": volume[..., :1, :1].expand(2, 3, 4, 1, 2**24)}, "volume must have 1 to 2^24 - 1 voxels a side, got (2, 3, 4, 1, 16777216) float32"),
    ("helmert_warp", WARP, {"volume": volume.int()}, f"volume {floats}, got (2, 3, 4, 5, 6) int32"),
    ("helmert_warp", WARP, {"volume": volume.bool()}, f"volume {floats}, got (2, 3, 4, 5, 6) bool"),
    ("helmert_warp", WARP, {"volume": volume.to(torch.complex64)}, f"volume {floats}, got (2, 3, 4, 5, 6) complex64"),
    ("helmert_warp", WARP, {"volume": volume.to_sparse()}, "volume must be a dense (strided) tensor, got layout torch.sparse_coo"),
    ("helmert_warp", WARP, {"transform": maps[0]}, "transform must be (N, P, 3, 4), got (7, 3, 4) float32"),
    ("helmert_warp", WARP, {"transform": torch.zeros(2, 7, 4, 4)}, "transform must be (N, P, 3, 4) = (2, 7, 3, 4) as in volume, got (2, 7, 4, 4) float32"),
    ("helmert_warp", WARP, {"transform": maps.transpose(2, 3)}, "transform must be (N, P, 3, 4) = (2, 7, 3, 4) as in volume, got (2, 7, 4, 3) float32"),
    ("helmert_warp", WARP, {"transform": maps[:1]}, "transform must be (N, P, 3, 4) = (2, 7, 3, 4) as in volume, got (1, 7, 3, 4) float32"),
    ("helmert_warp", WARP, {"transform": maps[:, :0]}, "transform must have 1 to 255 parts, got 0"),
    ("helmert_warp", WARP, {"transform": torch.zeros(2, 256, 3, 4)}, "transform must have 1 to 255 parts, got 256"),
    ("helmert_warp", WARP, {"transform": torch.zeros(2, 32, 3, 4)}, "mask must be floating, (N, P, D, H, W), for more than 31 parts: int32 has a bit for each of 31, transform has 32"),
    ("helmert_warp", WARP, {"transform": maps.int()}, f"transform {floats}, got (2, 7, 3, 4) int32"),
    ("helmert_warp", WARP, {"transform": maps.to(torch.complex128)}, f"transform {floats}, got (2, 7, 3, 4) complex128"),
    ("helmert_warp", WARP, {"transform": maps.to("meta")}, "transform must be on cpu as volume is, got meta"),
    ("helmert_warp", WARP, {"transform": maps.to_sparse()}, "transform must be a dense (strided) tensor, got layout torch.sparse_coo"),
    ("helmert_warp", WARP, {"mask": bits[0]}, "mask must be (N, D, H, W), got (4, 5, 6) int32"),
    ("helmert_warp", WARP, {"mask": dense.int()}, "mask must be (N, D, H, W), got (2, 7, 4, 5, 6) int32"),
    ("helmert_warp", WARP, {"mask": bits[:1]}, "mask must be (N, D, H, W) = (2, 4, 5, 6) as in volume, got (1, 4, 5, 6) int32"),
    ("helmert_warp", WARP, {"mask": bits[..., :5]}, "mask must be (N, D, H, W) = (2, 4, 5, 6) as in volume, got (2, 4, 5, 5) int32"),
    ("helmert_warp", WARP, {"mask": bits.float()}, "mask must be (N, P, D, H, W), got (2, 4, 5, 6) float32"),
    ("helmert_warp", WARP, {"mask": bits.bool()}, "mask must be (N, P, D, H, W), got (2, 4, 5, 6) bool"),
    ("helmert_warp", WARP, {"mask": dense[:, :6]}, "mask must be (N, P, D, H, W) = (2, 7, 4, 5, 6) as in volume and transform, got (2, 6, 4, 5, 6) float32"),
    ("helmert_warp", WARP, {"mask": dense[:, :, :3]}, "mask must be (N, P, D, H, W) = (2, 7, 4, 5, 6) as in volume and transform, got (2, 7, 3, 5, 6) float32"),
    ("helmert_warp", WARP, {"mask": dense[:, :6].bool()}, "mask must be (N, P, D, H, W) = (2, 7, 4, 5, 6) as in volume and transform, got (2, 6, 4, 5, 6) bool"),
    ("helmert_warp", WARP, {"mask": bits.long()}, f"mask {kinds}, got (2, 4, 5, 6) int64"),
    ("helmert_warp", WARP, {"mask": bits.to(torch.uint8)}, f"mask {kinds}, got (2, 4, 5, 6) uint8"),
    ("helmert_warp", WARP, {"mask": dense.to(torch.complex64)}, f"mask {kinds}, got (2, 7, 4, 5, 6) complex64"),
    ("helmert_warp", WARP, {"mask": bits.to("meta")}, "mask must be on cpu as volume is, got meta"),
    ("helmert_warp", WARP, {"mask": dense.to("meta")}, "mask must be on cpu as volume is, got meta"),
    ("helmert_warp", WARP, {"mask": bits.to_sparse()}, "mask must be a dense (strided) tensor, got layout torch.sparse_coo"),
    ("helmert_warp", WARP, {"mask": dense.to_sparse()}, "mask must be a dense (strided) tensor, got layout torch.sparse_coo"),
    ("region_crop", CROP, {"image": image[0]}, "image must be (N, C, H, W), got (3, 8, 9) float32"),
    ("region_crop", CROP, {"image": image.to(torch.uint8)}, f"image {floats}, got (2, 3, 8, 9) uint8"),
    ("region_crop", CROP, {"image": image.bool()}, f"image {floats}, got (2, 3, 8, 9) bool"),
    ("region_crop", CROP, {"image": image.to(torch.complex64)}, f"image {floats}, got (2, 3, 8, 9) complex64"),
    ("region_crop", CROP, {"image": image.to_sparse()}, "image must be a dense (strided) tensor, got layout torch.sparse_coo"),
    ("region_crop", CROP, {"center": spots[0]}, "center must be (N, K, 2), got (4, 2) float32"),
    ("region_crop", CROP, {"center": torch.zeros(2, 4, 3)}, "center must be (N, K, 2) = (2, 4, 2) as in image, got (2, 4, 3) float32"),
    ("region_crop", CROP, {"center": spots[:1]}, "center must be (N, K, 2) = (2, 4, 2) as in image, got (1, 4, 2) float32"),
    ("region_crop", CROP, {"center": spots[:, :0]}, "center must have at least one point an image, got (2, 0, 2) float32"),
    ("region_crop", CROP, {"center": spots.int()}, f"center {floats}, got (2, 4, 2) int32"),
    ("region_crop", CROP, {"center": spots.to("meta")}, "center must be on cpu as image is, got meta"),
    ("region_crop", CROP, {"center": spots.to_sparse()}, "center must be a dense (strided) tensor, got layout torch.sparse_coo"),
    ("region_crop", CROP, {"size": 9}, "size must be at most the sides of image, (2, 3, 8, 9) float32, got 9"),
    ("region_crop", CROP, {"size": 2**40}, "size must be at most 2147483647, got 1099511627776"),
    ("region_crop", CROP, {"size": 0}, "size must be an int of at least 1, got 0"),
    ("region_crop", CROP, {"size": 5.0}, "size must be an int of at least 1, got 5.0"),
    ("region_crop", CROP, {"size": True}, "size must be an int of at least 1, got True"),
    ("region_crop", CROP, {"size": (5, 5)}, "size must be an int of at least 1, got (5, 5)"),
    ("region_crop", CROP, {"image": image[..., :0, :]}, "size must be at most the sides of image, (2, 3, 0, 9) float32, got 5"),
    # flow_warp
    ("flow_warp", FLOW, {"image": image[0]}, "image must be (N, C, H, W), got (3, 8, 9) float32"),
    ("flow_warp", FLOW, {"image": image.int()}, f"image {floats}, got (2, 3, 8, 9) int32"),
    ("flow_warp", FLOW, {"image": image[..., :0]}, "image must have 1 to 2^24 - 1 pixels a side, got (2, 3, 8, 0) float32"),
    ("flow_warp", FLOW, {"image": image[..., :1, :1].expand(2, 3, 1, 2**24)}, "image must have 1 to 2^24 - 1 pixels a side, got (2, 3, 1, 16777216) float32"),
    ("flow_warp", FLOW, {"image": image.to_sparse()}, "image must be a dense (strided) tensor, got layout torch.sparse_coo"),
    ("flow_warp", FLOW, {"flow": flow[:, 0]}, "flow must be (N, 2, H', W'), got (2, 6, 7) float32"),
    ("flow_warp", FLOW, {"flow": flow[:1]}, "flow must be (N, 2, H', W') = (2, 2, 6, 7) as in image, got (1, 2, 6, 7) float32"),
    ("flow_warp", FLOW, {"flow": flow.permute(0, 2, 3, 1)}, "flow must be (N, 2, H', W') = (2, 2, 7, 2) as in image, got (2, 6, 7, 2) float32"),
    ("flow_warp", FLOW, {"flow": flow.long()}, f"flow {floats}, got (2, 2, 6, 7) int64"),
    ("flow_warp", FLOW, {"flow": flow.to("meta")}, "flow must be on cpu as image is, got meta"),
    ("flow_warp", FLOW, {"flow": flow[..., :1, :1].expand(2, 2, 2**24, 1), "visibility": None}, "flow must have at most 2^24 - 1 pixels a side, got (2, 2, 16777216, 1) float32"),
    ("flow_warp", FLOW, {"visibility": seen[0]}, "visibility must be (N, H', W'), got (6, 7) uint8"),
    ("flow_warp", FLOW, {"visibility": seen[:, :5]}, "visibility must be (N, H', W') = (2, 6, 7) as in image and flow, got (2, 5, 7) uint8"),
    ("flow_warp", FLOW, {"visibility": seen.float()}, "visibility must have an integer dtype, got (2, 6, 7) float32"),
    ("flow_warp", FLOW, {"visibility": seen.long()}, "visibility must be uint8, got (2, 6, 7) int64"),
    ("flow_warp", FLOW, {"visibility": seen.to("meta")}, "visibility must be on cpu as image is, got meta"),
    ("flow_warp", FLOW, {"mode": "both"}, "mode must be one of 'plain', 'gate', 'expand', got 'both'"),
    ("flow_warp", FLOW, {"padding": "reflection"}, "padding must be one of 'zeros', 'border', got 'reflection'"),
    ("flow_warp", FLOW, {"visibility": None, "mode": "gate"}, "visibility must be given for mode 'gate', got None"),
    ("flow_warp", FLOW, {"visibility": None, "mode": "expand"}, "visibility must be given for mode 'expand', got None"),
]  # fmt: skip

TYPE_ROWS = [
    ("uv_splat", SPLAT, {"image": image.numpy()[:0]}, "image must be a torch.Tensor, got ndarray array([], shape=(0, 3, 8, 9), dtype=float32)"),
    ("uv_splat", SPLAT, {"part": None}, "part must be a torch.Tensor, got NoneType None"),
    ("uv_splat", SPLAT, {"uv": [0.5, 0.5]}, "uv must be a torch.Tensor, got list [0.5, 0.5]"),
    ("uv_gather", GATHER, {"atlas": "T.png"}, "atlas must be a torch.Tensor, got str 'T.png'"),
    ("uv_gather", GATHER, {"uv": 0.5}, "uv must be a torch.Tensor, got float 0.5"),
    ("helmert_fit", FIT, {"source": [[0.0, 0, 0]]}, "source must be a torch.Tensor, got list [[0.0, 0, 0]]"),
    ("helmert_fit", FIT, {"target": None}, "target must be a torch.Tensor, got NoneType None"),
    ("helmert_fit", FIT, {"weight": 1.0}, "weight must be a torch.Tensor, got float 1.0"),
    ("helmert_fit", FIT, {"scale": 1}, "scale must be a bool, got int 1"),
    ("push_pull", FILL, {"atlas": (1, 2)}, "atlas must be a torch.Tensor, got tuple (1, 2)"),
    ("push_pull", FILL, {"weight": None}, "weight must be a torch.Tensor, got NoneType None"),
    ("push_pull", FILL, {"radius": 1.5}, "radius must be None or an int, got float 1.5"),
    ("push_pull", FILL, {"radius": True}, "radius must be None or an int, got bool True"),
    ("flow_warp", FLOW, {"image": None}, "image must be a torch.Tensor, got NoneType None"),
    ("flow_warp", FLOW, {"flow": 1.0}, "flow must be a torch.Tensor, got float 1.0"),
    ("flow_warp", FLOW, {"visibility": [0]}, "visibility must be a torch.Tensor, got list [0]"),
    ("helmert_warp", WARP, {"volume": None}, "volume must be a torch.Tensor, got NoneType None"),
    ("helmert_warp", WARP, {"mask": [1]}, "mask must be a torch.Tensor, got list [1]"),
    ("region_crop", CROP, {"image": None}, "image must be a torch.Tensor, got NoneType None"),
    ("region_crop", CROP, {"center": [[1.0, 2.0]]}, "center must be a torch.Tensor, got list [[1.0, 2.0]]"),
    ("helmert_warp", WARP, {"transform": "A"}, "transform must be a torch.Tensor, got str 'A'"),
]  # fmt: skip


def row_id(row: tuple) -> str:
    return f"{row[0]}-{next(iter(row[2]))}-{row[3].rsplit('got ', 1)[-1]}"


@pytest.mark.parametrize("row", ROWS, ids=map(row_id, ROWS))
def test_value_error(row):
    name, right, wrong, message = row
    with pytest.raises(ValueError) as error:
        getattr(pk, name)(**{**right, **wrong})
    assert type(error.value) is ValueError
    assert str(error.value) == message


@pytest.mark.parametrize("row", TYPE_ROWS, ids=map(row_id, TYPE_ROWS))
def test_type_error(row):
    name, right, wrong, message = row
    with pytest.raises(TypeError) as error:
        getattr(pk, name)(**{**right, **wrong})
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("uv_splat", SPLAT),
        ("uv_gather", GATHER),
        ("push_pull", FILL),
        ("helmert_fit", FIT),
        ("helmert_warp", WARP),
        ("region_crop", CROP),
    ],
)
def test_the_rows_are_wrong_in_one_thing_only(name, right):
    getattr(pk, name)(**right)


FAKE_ROWS = [
    row for row in ROWS if not any(isinstance(v, torch.Tensor) and (v.is_sparse or v.is_meta) for v in row[2].values())
]  # fmt: skip


@pytest.mark.parametrize("row", FAKE_ROWS, ids=map(row_id, FAKE_ROWS))
def test_fake_tensors_are_told_the_same(row):
    """What torch.compile and torch.export see when they trace."""
    name, right, wrong, message = row
    with FakeTensorMode() as mode:
        fakes = {
            k: mode.from_tensor(v) if isinstance(v, torch.Tensor) else v
            for k, v in {**right, **wrong}.items()
        }
        with pytest.raises(ValueError) as error:
            getattr(pk, name)(**fakes)
    assert str(error.value) == message


def test_numpy_integers_are_no_ints():
    """As everywhere: an int, so that a shape never depends on the precision of a NumPy scalar."""
    with pytest.raises(ValueError, match=r"^size must be an int of at least 1, got np.int64\(5\)$"):
        pk.uv_splat(**{**SPLAT, "size": np.int64(5)})


@pytest.mark.parametrize(
    "option", [{"size": 2**33}, {"size": 2**70}, {"num_parts": 2**62}, {"num_parts": 2**70}]
)
def test_a_size_no_memory_can_hold_is_an_error(option):
    """Never a wrapped-around allocation; which error is PyTorch's choice."""
    for op in (pk.uv_splat, pk.reference.uv_splat):
        with pytest.raises((RuntimeError, TypeError, ValueError, OverflowError, MemoryError)):
            op(**{**SPLAT, **option})


@pytest.mark.parametrize(
    "bad", [{"part": part[:, :4]}, {"uv": uv[:, :, :4]}, {"part": part.int().float()}]
)
def test_the_error_survives_torch_compile(bad):
    compiled = torch.compile(lambda i: pk.uv_splat(**i), backend="eager", fullgraph=True)
    with pytest.raises(Exception) as error:
        compiled({**SPLAT, **bad})
    assert "part must" in str(error.value) or "uv must" in str(error.value)
    torch._dynamo.reset()


def test_requires_grad_where_no_gradient_flows_is_allowed():
    known = weight.clone().requires_grad_()
    filled = pk.push_pull(atlas, known)
    assert not filled.requires_grad or torch.autograd.grad(
        filled.sum(), known, allow_unused=True
    ) == (None,)
