# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of mesh_raster, executed on the CPU: see test_cuda_emulated.py."""

from __future__ import annotations

import pytest
import torch
from emulation import builder
from emulation.mesh_raster import MeshKernels
from meshes import soup

from pose_kernels.reference.mesh_raster import raster


@pytest.fixture
def kernels(request, tmp_path_factory):
    module = builder.emulated_module(request, tmp_path_factory)
    module.schedule(0)
    return MeshKernels(module)


def check(kernels, vertices, faces, size):
    face, bary = kernels.mesh_raster(vertices, faces, size)
    expected = raster(vertices, faces, size)
    assert torch.equal(face, expected[0]) and torch.equal(bary, expected[1])
    return face


# V, F, size, N: odd sizes, more than a block of faces, faces larger than a warp draws
CASES = [
    (40, 60, (23, 37), 2),
    (7, 9, (1, 1), 3),
    (30, 300, (5, 131), 1),
    (12, 12, (90, 101), 1),
    (4, 0, (6, 5), 2),
    (4, 3, (6, 5), 0),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_sizes(kernels, case, dtype):
    V, F, size, N = case
    vertices, faces = soup(V, F, size, dtype, 1, N)
    check(kernels, vertices, faces.expand(N, F, 3), size)


def test_offsets_and_strides(kernels):
    """Meshes apart in memory, faces of their own, 32-bit indices, unaligned outputs."""
    kernels.shift = 1
    vertices, faces = soup(30, 40, (17, 19), seed=2, N=4)
    own = torch.stack([faces, faces.flip(0)]).to(torch.int32)
    face = check(kernels, vertices[::2], own, (17, 19))
    assert (face[0] >= 0).any() and not torch.equal(face[0], face[1])


def test_large_faces_go_to_the_second_kernel(kernels):
    """Two that fill the image, needles across it, and small ones in front."""
    vertices, faces = soup(20, 30, (80, 90), seed=3, wild=False)
    vertices[0, :4] = torch.tensor([[-5.0, -5, 9], [200, -7, 9], [-9, 190, 9], [95, 80, -5]])
    vertices[0, 4] = torch.tensor([0.0, 0.25, -5])
    large = torch.tensor([[0, 1, 2], [2, 1, 0], [0, 3, 4]])
    faces = torch.cat([large, faces])[None]
    assert set(check(kernels, vertices, faces, (80, 90)).flatten().tolist()) > {0, 2}
    check(kernels, vertices, large[None], (80, 90))  # the list is full


def test_indices_out_of_range_are_left_out(kernels):
    vertices, faces = soup(10, 12, (9, 11), seed=4, wild=False)
    bad = faces.clone()
    bad[3, 1], bad[7, 2] = 10, -1
    kept = faces.clone()
    kept[[3, 7]] = 0  # no area
    face, bary = kernels.mesh_raster(vertices, bad[None], (9, 11))
    expected = raster(vertices, kept[None], (9, 11))
    assert torch.equal(face, expected[0]) and torch.equal(bary, expected[1])


def test_same_bits_in_every_order_of_threads(kernels):
    vertices, faces = soup(40, 400, (70, 75), seed=5)
    first = None
    for order in (0, 1, 2, 3):
        kernels.module.schedule(order)
        got = kernels.mesh_raster(vertices, faces[None], (70, 75))
        first = first or got
        assert all(torch.equal(a, b) for a, b in zip(got, first, strict=True))
