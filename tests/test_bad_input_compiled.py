# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 (a row is one line: the mistake and the message)
"""The compiled kernels check again what reaches them past the public functions."""

from __future__ import annotations

import pytest
import torch
from test_bad_input import atlas, bits, dense, image, maps, part, spots, uv, volume, weight

import pose_kernels as pk

f64 = torch.float64
flat, ones = torch.zeros(2, 4, 3), torch.ones(2, 4)

DIRECT = [
    ("uv_splat", (image[0], part, uv, 4, 5, True, 1e-3, True), "image must be (N, C, H, W)"),
    ("uv_splat", (image, part[:, :4], uv, 4, 5, True, 1e-3, True), "must agree in N, H and W"),
    ("uv_splat", (image, part[:1], uv, 4, 5, True, 1e-3, True), "must agree in N, H and W"),
    ("uv_splat", (image[..., :5], part, uv, 4, 5, True, 1e-3, True), "part must have the size of image"),
    ("uv_splat", (image, part, uv[:, :1], 4, 5, True, 1e-3, True), "must agree in N, H and W"),
    ("uv_splat", (image, part.float(), uv, 4, 5, True, 1e-3, True), "part must be uint8, int32 or int64"),
    ("uv_splat", (image, part.to(torch.int16), uv, 4, 5, True, 1e-3, True), "part must be uint8, int32 or int64"),
    ("uv_splat", (image, part, uv.double(), 4, 5, True, 1e-3, True), "uv must be float32"),
    ("uv_splat", (image.to(f64), part, uv, 4, 5, True, 1e-3, True), "float64 with float64 features"),
    ("uv_splat", (image.int(), part, uv, 4, 5, True, 1e-3, True), "must be"),
    ("uv_splat", (image, part, uv, 0, 5, True, 1e-3, True), "must be at least 1"),
    ("uv_splat", (image, part, uv, 4, -5, True, 1e-3, True), "must be at least 1"),
    ("uv_splat", (image, part, uv, 4, 2**17, True, 1e-3, True), "fewer than 2^31"),
    ("uv_raster", (image[0], part, uv, 4, 5, 0.1), "image must be (N, C, H, W)"),
    ("uv_raster", (image[..., :5], part, uv, 4, 5, 0.1), "part must have the size of image"),
    ("uv_raster", (image, part[:1], uv, 4, 5, 0.1), "must agree in N, H and W"),
    ("uv_raster", (image, part.float(), uv, 4, 5, 0.1), "part must be uint8, int32 or int64"),
    ("uv_raster", (image, part, uv.double(), 4, 5, 0.1), "uv must be float32"),
    ("uv_raster", (image, part, uv, 4, 0, 0.1), "must be at least 1"),
    ("uv_raster", (image, part, uv, 4, 2**17, 0.1), "fewer than 2^31"),
    ("uv_raster", (image, part, uv, 4, 5, float("nan")), "max_edge must be"),
    ("uv_raster_backward", (atlas[0], part, uv, weight, 0.1), "grad_atlas must be"),
    ("uv_raster_backward", (atlas, part[:, :4], uv, weight, 0.1), "must agree"),
    ("uv_raster_backward", (atlas, part, uv, weight[:1], 0.1), "weight must be"),
    ("uv_raster_backward", (atlas, part, uv, weight.half(), 0.1), "weight must be"),
    ("uv_gather", (atlas[0], part, uv), "atlas must be"),
    ("uv_gather", (atlas[..., :4], part, uv), "atlas must be"),
    ("uv_gather", (atlas, part[:, :4], uv), "must agree"),
    ("uv_gather", (atlas[:1], part, uv), "must agree"),
    ("uv_gather", (atlas, part, uv.double()), "uv must be float32"),
    ("uv_gather", (atlas[..., :0, :0], part, uv), "atlas must"),
    ("push_pull", (image, part[:, :4].float(), -1, 1e-3, False), "must agree in M, H and W"),
    ("push_pull", (image, uv, -1, 1e-3, False), "weight (M, H, W)"),
    ("push_pull", (image, part, -1, 1e-3, False), "weight must be float32"),
    ("helmert_fit", (flat[0], flat, ones, True), "source must be (B, K, 3)"),
    ("helmert_fit", (flat[:, :0], flat[:, :0], ones[:, :0], True), "at least one point"),
    ("helmert_fit", (flat, flat[:, :3], ones, True), "target must have the size of source"),
    ("helmert_fit", (flat, flat[..., :2], ones, True), "target must have the size of source"),
    ("helmert_fit", (flat, flat, ones[:1], True), "weight must be (B, K)"),
    ("helmert_fit", (flat, flat.double(), ones, True), "must have one dtype"),
    ("helmert_fit", (flat.half(), flat.half(), ones.half(), True), "points must be float32 or float64"),
    ("helmert_fit_backward", (flat[:, :3], flat, flat, ones, True), "grad must be (B, 3, 4)"),
    ("helmert_fit_backward", (flat.mT.double(), flat, flat, ones, True), "grad must be (B, 3, 4)"),
    ("uv_splat_backward", (atlas, None, None, part, uv, None, None, 0.0, False, True), "needs the image"),
    ("uv_splat_backward", (atlas, None, image, part, uv, None, weight, 0.0, True, True), "needs the atlas"),
    ("uv_splat_backward", (atlas, None, image[:, :2], part, uv, None, None, 0.0, True, True), "image must be"),
    ("uv_splat_backward", (atlas, None, image.half(), part, uv, None, None, 0.0, True, True), "one dtype"),
    ("uv_splat_backward", (atlas, None, image, part, uv, atlas[:, :3], weight, 0.0, True, True), "atlas must be"),
    ("uv_splat_backward", (atlas, None, image, part, uv, atlas, weight[:1], 0.0, True, True), "weight must be"),
    ("uv_splat_backward", (atlas, weight[0], image, part, uv, None, None, 0.0, True, True), "weight must be"),
    ("uv_splat_backward", (atlas, None, None, part, uv, None, weight.half(), 0.0, True, False), "weight must be"),
    ("uv_splat_backward", (atlas, None, None, part[:, :4], uv, None, None, 0.0, True, False), "must agree"),
    ("uv_splat_backward", (atlas[:, :, :, :4], None, None, part, uv, None, None, 0.0, True, False), "grad_atlas must be"),
    ("helmert_warp", (volume[0], bits, maps), "volume must be (N, C, D, H, W)"),
    ("helmert_warp", (volume[:, :, :0], bits[:, :0], maps), "each at least 1"),
    ("helmert_warp", (volume, bits, torch.zeros(2, 7, 4, 4)), "transform must be (N, P, 3, 4)"),
    ("helmert_warp", (volume, bits, maps[:1]), "transform must be (N, P, 3, 4)"),
    ("helmert_warp", (volume, bits, maps[:, :0]), "with 1 to 255 parts"),
    ("helmert_warp", (volume, dense, torch.zeros(2, 256, 3, 4)), "with 1 to 255 parts"),
    ("helmert_warp", (volume, bits, torch.zeros(2, 32, 3, 4)), "has bits for 31 parts"),
    ("helmert_warp", (volume, bits, maps.double()), "transform must be float32"),
    ("helmert_warp", (volume.to(f64), bits, maps), "float64 with float64 features"),
    ("helmert_warp", (volume, bits.long(), maps), "mask must be int32, or float32"),
    ("helmert_warp", (volume, dense.double(), maps), "mask must be int32, or float32"),
    ("helmert_warp", (volume, dense.bool(), maps), "mask must be int32, or float32"),
    ("helmert_warp", (volume, dense[:, :6], maps), "mask must be (N, D, H, W) int32 or (N, P, D, H, W)"),
    ("helmert_warp", (volume, dense.int(), maps), "mask must be (N, D, H, W) int32 or (N, P, D, H, W)"),
    ("helmert_warp", (volume, bits[:1], maps), "mask must be (N, D, H, W) int32 or (N, P, D, H, W)"),
    ("helmert_warp", (volume, bits[..., :5], maps), "must agree in D, H and W"),
    ("helmert_warp", (volume, dense[:, :, :3], maps), "must agree in D, H and W"),
    ("helmert_warp", (volume.int(), bits, maps), "must be"),
    ("helmert_warp_backward", (volume[0], volume, bits, maps, True, False, True), "grad must be (N, C, D, H, W)"),
    ("helmert_warp_backward", (volume[:, :2], volume, bits, maps, True, False, True), "grad must have the shape of volume"),
    ("helmert_warp_backward", (volume[:1], volume, bits, maps, True, False, True), "grad must have the shape of volume"),
    ("helmert_warp_backward", (volume.half(), volume, bits, maps, True, False, True), "grad must have volume's dtype"),
    ("helmert_warp_backward", (volume, volume, bits, maps, True, True, True), "an int32 mask has no gradient"),
    ("helmert_warp_backward", (volume, volume, bits, maps[:1], True, False, True), "transform must be (N, P, 3, 4)"),
    ("region_crop", (image[0], spots, 5), "image must be (N, C, H, W)"),
    ("region_crop", (image, spots[0], 5), "center must be (N, K, 2)"),
    ("region_crop", (image, spots[:, :0], 5), "K at least 1"),
    ("region_crop", (image, torch.zeros(2, 4, 3), 5), "center must be (N, K, 2)"),
    ("region_crop", (image, spots[:1], 5), "must agree in N"),
    ("region_crop", (image, spots.half(), 5), "center must be float32 or float64"),
    ("region_crop", (image.int(), spots, 5), "must be float32, float64"),
    ("region_crop", (image, spots, 0), "size must be 1 to the sides"),
    ("region_crop", (image, spots, 9), "size must be 1 to the sides"),
    ("region_crop_backward", (image, spots, 8, 9), "grad must be (N, K, C, s, s)"),
    ("region_crop_backward", (atlas[..., :4], spots, 8, 9), "grad must be (N, K, C, s, s)"),
    ("region_crop_backward", (atlas, spots[:, :3], 8, 9), "must agree in K"),
    ("region_crop_backward", (atlas, spots[:1], 8, 9), "must agree in N"),
    ("region_crop_backward", (atlas.int(), spots, 8, 9), "must be float32, float64"),
    ("region_crop_backward", (atlas, spots, 4, 9), "size must be 1 to the sides"),
    ("helmert_warp_backward", (volume, volume, dense[:, :6], maps, True, False, True), "mask must be"),
]  # fmt: skip


@pytest.mark.skipif("cpp" in pk.backends.unavailable, reason="_C_cpu is not loaded")
@pytest.mark.parametrize(("name", "args", "message"), DIRECT)
def test_compiled_kernels_check_again(name, args, message):
    with pk.use_backend("cpp"), pytest.raises(RuntimeError) as error:
        getattr(torch.ops.pose_kernels, name)(*args)
    assert message in str(error.value)
