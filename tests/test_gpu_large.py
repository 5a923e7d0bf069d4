# SPDX-License-Identifier: Apache-2.0
"""Tensors of more than 2^31 elements on a GPU: the first and the last elements are the right ones.

uv_splat, push_pull and uv_gather: test_registration.py. A fit has no such size.
"""

from __future__ import annotations

import pytest
import torch

import pose_kernels as pk

if not torch.cuda.is_available():
    pytest.skip("torch finds no GPU here", allow_module_level=True)
pytestmark = pytest.mark.large
HALF = {"dtype": torch.float16, "device": "cuda"}


def places(op: str) -> list[str]:
    found = ["cuda", *(["triton"] if op in pk.backends.triton_ops else [])]
    return [name for name in found if name not in pk.backends.unavailable]


@pytest.fixture(autouse=True)
def gpu_memory(poisoned_memory):
    torch.cuda.empty_cache()
    yield
    torch.cuda.empty_cache()


def over(op: str):
    """Once per backend that has a kernel."""
    return pytest.mark.parametrize("backend", places(op))


@over("flow_warp")
def test_flow_warp(backend):
    """Nothing moves."""
    image = torch.zeros(1, 600, 1900, 1900, **HALF)
    assert image.numel() > 2**31
    image[0, 0, 0, 0], image[0, -1, 0, 0], image[0, -1, -1, -1] = 7, 5, 3
    flow = torch.zeros(1, 2, 1900, 1900, device="cuda").requires_grad_()
    with pk.use_backend(backend):
        image.requires_grad_()
        out = pk.flow_warp(image, flow)
        assert torch.equal(out.detach()[0, -1], image.detach()[0, -1])
        assert out.count_nonzero() == 3 and out[0, 0, 0, 0] == 7
        grad, slope = torch.autograd.grad(out, (image, flow), out.detach())
        assert grad.count_nonzero() == 3 and grad[0, -1, -1, -1] == 3 and grad[0, 0, 0, 0] == 7
        assert slope.isfinite().all()


@over("helmert_warp")
def test_helmert_warp(backend):
    """One part that stays where it is."""
    volume = torch.zeros(1, 40, 384, 384, 384, **HALF)
    assert volume.numel() > 2**31
    volume[0, 0, 0, 0, 0], volume[0, -1, -1, -1, -1] = 7, 3
    mask = torch.ones(1, 384, 384, 384, dtype=torch.int32, device="cuda")
    transform = torch.eye(3, 4, device="cuda").view(1, 1, 3, 4).requires_grad_()
    with pk.use_backend(backend):
        volume.requires_grad_()
        out = pk.helmert_warp(volume, mask, transform)
        assert out.count_nonzero() == 2
        assert out[0, 0, 0, 0, 0] == 7 and out[0, -1, -1, -1, -1] == 3
        grad, _ = torch.autograd.grad(out, (volume, transform), out.detach())
        assert grad.count_nonzero() == 2
        assert grad[0, 0, 0, 0, 0] == 7 and grad[0, -1, -1, -1, -1] == 3


@over("capsule_mask")
def test_capsule_mask(backend):
    """A ball on the last voxel, of the last part."""
    center = torch.full((1, 1, 3), 511.0, device="cuda")
    radius = torch.full((1, 1, 3), 1.5, device="cuda")
    last = torch.tensor([30], device="cuda")
    with pk.use_backend(backend):
        mask = pk.capsule_mask(
            *(center, center, radius, last), size=(512, 512, 512), num_parts=31, packed=False
        )
        assert mask.numel() > 2**31
        assert mask[0, 30, -2:, -2:, -2:].sum() == 7 and not mask[0, 30, -1, -1, -3]
        assert mask.count_nonzero() == 7
        del mask
        radius.requires_grad_()
        soft = pk.capsule_mask(
            *(center, center, radius, last - 14),
            **{"size": (512, 512, 512), "num_parts": 17, "packed": False, "softness": 0.3},
        )
        assert soft.numel() > 2**31 and soft[0, -1, -1, -1, -1] > 0.9 and soft[0, 0, 0, 0, 0] == 0
        assert soft[0, -1, -1, -1, -1] == soft.max()
        (grad,) = torch.autograd.grad(soft[0, -1, -1, -1, -3], radius)
        assert grad[0, 0, 0] > 0


@over("heatmap")
def test_heatmap(backend):
    points = torch.full((1, 150, 2), 3999.0, device="cuda")
    points[:, :-1] = -1e6
    points.requires_grad_()
    with pk.use_backend(backend):
        maps = pk.heatmap(points, (4000, 4000), 2.0)
        assert maps.numel() > 2**31
        assert maps[0, -1, -1, -1] == 1 and maps[0, -1, 0, 0] == 0
        assert maps[0, :-1].count_nonzero() == 0
        (grad,) = torch.autograd.grad(maps, points, maps.detach())
        assert (grad[0, -1] < 0).all(), "more of a joint on the corner is seen further inside"
        assert grad[0, :-1].count_nonzero() == 0


@over("region_crop")
def test_region_crop(backend):
    """Sixteen windows that are the whole image."""
    image = torch.arange(64.0, device="cuda").half().view(1, 64, 1, 1).repeat(1, 1, 1500, 1500)
    image[0, -1, -1, -1] = 5
    image.requires_grad_()
    center = torch.full((1, 16, 2), 750.0, device="cuda")
    with pk.use_backend(backend):
        crops, valid = pk.region_crop(image, center, 1500)
        assert crops.numel() > 2**31 and valid.all()
        assert all(torch.equal(crops.detach()[0, k], image.detach()[0]) for k in (0, 7, 15))
        (grad,) = torch.autograd.grad(crops, image, crops.detach())
        assert torch.equal(grad, 16 * image.detach())


@over("uv_raster")
def test_uv_raster(backend):
    """Four pixels on the last four texels of the last tile."""
    P, C, S = 24, 100, 1024
    image = torch.zeros(1, C, 2, 2, **HALF)
    image[0, -1] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    image.requires_grad_()
    part = torch.full((1, 2, 2), P, device="cuda")
    near = torch.tensor([1.0, 0.0], device="cuda", dtype=torch.float64) / (S - 1)
    uv = torch.stack([(1 - near).expand(2, 2), near[:, None].expand(2, 2)])[None].float()
    with pk.use_backend(backend):
        atlas, weight = pk.uv_raster(image, part, uv, size=S)
        assert atlas.numel() > 2**31
        corner = atlas.detach()[0, -1, -1, -2:, -2:]
        torch.testing.assert_close(corner, image.detach()[0, -1], rtol=0.01, atol=0)
        assert weight[0, :-1].count_nonzero() == 0 and atlas[0, :-1].count_nonzero() == 0
        (grad,) = torch.autograd.grad(atlas, image, torch.ones_like(atlas))
        assert grad.isfinite().all() and grad[0, -1].sum() >= 4


@over("mesh_raster")
def test_mesh_raster(backend):
    """Forty meshes; the triangle of the last one covers the last pixel, the others none."""
    side = 4300
    vertices = torch.full((40, 3, 3), -5.0, device="cuda")
    last = [[side - 9, side - 1, 1], [side + 9, side - 9, 1], [side + 9, side + 9, 1]]
    vertices[-1] = torch.tensor(last, dtype=torch.float32)
    with pk.use_backend(backend):
        face, bary = pk.mesh_raster(
            vertices, torch.tensor([[0, 1, 2]], device="cuda"), (side, side)
        )
        assert bary.numel() > 2**31
        assert face[-1, -1, -1] == 0 and face[0, 0, 0] == -1 and (face[:-1] == -1).all()
        torch.testing.assert_close(bary[-1, :, -1, -1].sum().item(), 1.0)
        assert bary[:-1].count_nonzero() == 0
