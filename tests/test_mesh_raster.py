# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 (a row is one line: the mistake and the whole message)
"""mesh_raster: the face of every pixel on every backend, and what the contract promises."""

from __future__ import annotations

import pytest
import torch
from cases import Case
from contract import Contract
from contract_modes import Modes
from hypothesis import strategies as st
from meshes import INF, NAN, scalar_raster, soup, sphere

import pose_kernels as pk

ops = torch.ops.pose_kernels


def inputs_of(V, F, size, N=1, seed=0, wild=True, index=torch.int64):
    def make(dtype):
        vertices, faces = soup(V, F, size, dtype, seed, N, wild)
        return {"vertices": vertices, "faces": faces.to(index), "size": size}

    return make


@st.composite
def sweep(draw):
    size = (draw(st.integers(1, 24)), draw(st.integers(1, 70)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.float16]))
    index = draw(st.sampled_from([torch.int16, torch.int32, torch.int64]))
    counts = draw(st.integers(1, 30)), draw(st.integers(0, 15))
    return inputs_of(*counts, size, draw(st.integers(0, 2)), draw(st.integers(0, 99)), index=index)(
        dtype
    )


def exact(inputs, expected, incoming):
    """The same face everywhere; barycentrics but for how the last step to float32 is rounded."""
    face, bary = expected
    return {"face": torch.zeros_like(face), "bary": torch.zeros_like(bary).double()}


class TestMeshRaster(Contract, Modes):
    op = staticmethod(pk.mesh_raster)
    reference = staticmethod(pk.reference.mesh_raster)
    bounds = staticmethod(exact)
    outputs = ("face", "bary")
    fixed = ("face", "bary")
    differentiable = ()
    unbatched = ("faces",)
    CASES = [
        Case("soup", inputs_of(40, 60, (23, 37), N=2, index=torch.int32)),
        Case("wide", inputs_of(30, 40, (5, 131), seed=2, index=torch.uint8)),
        Case("one pixel", inputs_of(7, 9, (1, 1), N=3, seed=1)),
        Case("body", lambda dtype: ball(24, 48, (50, 50), 1, dtype)),  # several lists of faces
        Case("no faces", inputs_of(4, 0, (6, 5), N=2)),
        Case("no batch", inputs_of(4, 3, (6, 5), N=0)),
    ]
    in_every_dtype = 2
    tame = Case("tame", inputs_of(9, 12, (7, 8), N=2, seed=5, wild=False))
    collide = Case("collide", inputs_of(50, 200, (20, 36), seed=6))
    realistic = [Case("body", lambda dtype: ball(83, 84, (512, 512), 4, dtype))]
    sweep = sweep()

    def dispatched(self, inputs):
        vertices, faces = inputs["vertices"], inputs["faces"]
        return ops.mesh_raster.default, (
            vertices,
            faces.expand(vertices.shape[0], *faces.shape),
            list(inputs["size"]),
        )

    def grown(self, more):
        return inputs_of(9 + more, 12 + more, (7 + more, 8 + more), N=2 + more, wild=False)(
            torch.float32
        )


def ball(rings, segments, size, N=1, dtype=torch.float32):
    middle = (size[0] - 1) / 2
    vertices, faces = sphere(rings, segments, 0.8 * middle, middle)
    return {
        "vertices": vertices.to(dtype).expand(N, *vertices.shape),
        "faces": faces,
        "size": size,
    }


# ---- values


def check_scalar(place, vertices, faces, size):
    face, bary = pk.mesh_raster(vertices.to(place.device), faces.to(place.device), size)
    for n, mesh in enumerate(vertices.double().tolist()):
        expected, where = scalar_raster(mesh, faces.tolist(), size)
        assert face[n].tolist() == expected
        for y, row in enumerate(where):
            for x, b in enumerate(row):
                want = torch.tensor(b or (0.0, 0.0, 0.0), dtype=torch.float64)
                error = (bary[n, :, y, x].cpu().double() - want).abs().max()
                assert error <= torch.finfo(bary.dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scalar_reference(place, seed, dtype):
    """Pixel for pixel: shared edges, needles, huge, off-screen and broken triangles."""
    size = [(19, 47), (33, 16), (9, 70)][seed]
    vertices, faces = soup(30, 45, size, dtype, seed, N=2)
    check_scalar(place, vertices, faces, size)


def test_by_hand(place):
    """Edges count, the nearer wins, of equal depths the lower face, whichever way round."""
    vertices = torch.tensor(
        [[[0, 0, 2], [3, 0, 2], [0, 3, 2], [3, 3, 2], [1, 1, 1], [9, 1, 1], [1, 9, 1.0]]]
    )
    faces = torch.tensor([[2, 1, 0], [1, 2, 3], [4, 5, 6]])
    face, bary = pk.mesh_raster(vertices.to(place.device), faces.to(place.device), (4, 5))
    assert face[0].tolist() == [[0, 0, 0, 0, -1], [0, 2, 2, 2, 2], [0, 2, 2, 2, 2], [0, 2, 2, 2, 2]]
    assert bary[0, :, 0, 3].tolist() == [0, 1, 0] and bary[0, :, 2, 0].tolist() == pytest.approx(
        [2 / 3, 0, 1 / 3]
    )
    assert (bary.sum(1)[face < 0] == 0).all()
    torch.testing.assert_close(bary.sum(1), (face >= 0).to(bary), rtol=0, atol=1e-6)


def test_no_cracks_and_no_culling(place):
    """A closed surface, turned inside out, covers each pixel of its disc; the two sides agree."""
    inputs = ball(17, 23, (65, 65))
    size = inputs["size"]
    vertices, faces = inputs["vertices"].to(place.device), inputs["faces"].to(place.device)
    face, bary = pk.mesh_raster(vertices, faces, size)
    back, _ = pk.mesh_raster(vertices, faces.flip(1), size)
    assert torch.equal(face, back)
    y, x = torch.meshgrid(torch.arange(65.0), torch.arange(65.0), indexing="ij")
    radius = ((x - 32) ** 2 + (y - 32) ** 2).sqrt()
    covered = face[0].cpu() >= 0
    assert covered[radius < 24].all() and not covered[radius > 25.61].any()
    corner = vertices[0][faces[face.clamp(min=0).long()]]  # (1, H, W, 3, 3)
    point = torch.einsum("nkhw,nhwkc->nchw", bary, corner).cpu()[0, :, covered]
    torch.testing.assert_close(point[0], x[covered], rtol=0, atol=1e-4)
    torch.testing.assert_close(point[1], y[covered], rtol=0, atol=1e-4)
    assert (point[2] < 0.5).all()  # the near half


def test_what_is_left_out(place):
    flat = [[0, 0, 1], [4, 4, 1], [2, 2, 1]]  # no area
    broken = [[0, 0, 1], [4, 0, value := NAN], [0, 4, 1]]
    rows = [flat, broken, [[0, INF, 1], *broken[1:]], [[0, 0, -INF], [4, 0, 1], [0, 4, 1]]]
    vertices = torch.tensor(rows).to(place.device)
    assert value != value
    face, bary = pk.mesh_raster(vertices, torch.tensor([[0, 1, 2]]).to(place.device), (5, 5))
    assert (face == -1).all() and (bary == 0).all()
    deep = torch.tensor([[[0, 0, 1e300], [4, 0, 1], [0, 4, 1]]], dtype=torch.float64)
    assert (pk.mesh_raster(deep.to(place.device), faces_of(place), (5, 5))[0] == -1).all()


def faces_of(place):
    return torch.tensor([[0, 1, 2]]).to(place.device)


def test_depth_is_compared_in_float32(place):
    """Also of float64 vertices; -0 and 0 are equal."""
    near = torch.tensor([[0, 0, 1], [4, 0, 1], [0, 4, 1]], dtype=torch.float64)
    step = torch.tensor([0, 0, 1.0])
    faces = torch.tensor([[0, 1, 2], [3, 4, 5]]).to(place.device)
    for other, winner in ((near - 1e-12 * step, 0), (near - 1e-6 * step, 1)):
        vertices = torch.cat([near, other])[None].to(place.device)
        assert pk.mesh_raster(vertices, faces, (3, 3))[0][0, 0, 0] == winner
    zero = near * torch.tensor([1, 1, 0.0])
    vertices = torch.cat([zero, zero * torch.tensor([1, 1, -1.0])])[None].to(place.device)
    assert (pk.mesh_raster(vertices, faces, (3, 3))[0] == 0).all()


def test_ten_runs(place):
    vertices, faces = soup(60, 40, (20, 61), seed=8)
    vertices, faces = vertices.to(place.device), faces.to(place.device)
    first = pk.mesh_raster(vertices, faces, (20, 61))
    for _ in range(9):
        again = pk.mesh_raster(vertices, faces, (20, 61))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_every_index_dtype(place):
    vertices, faces = soup(30, 40, (20, 20), seed=9)
    expected = pk.mesh_raster(vertices.to(place.device), faces.to(place.device), (20, 20))
    for index in (torch.uint8, torch.int8, torch.int16, torch.int32):
        moved = faces.to(place.device, index)
        got = pk.mesh_raster(vertices.to(place.device), moved, [20, 20])
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_gradients_are_none(place):
    inputs = inputs_of(9, 12, (7, 8), wild=False)(torch.float32)
    vertices = inputs["vertices"].to(place.device).requires_grad_()
    face, bary = pk.mesh_raster(vertices, inputs["faces"].to(place.device), (7, 8))
    assert not face.requires_grad and not bary.requires_grad
    moved = torch.func.jvp(
        lambda x: pk.mesh_raster(x, inputs["faces"].to(place.device), (7, 8))[1],
        (vertices.detach(),),
        (torch.ones_like(vertices),),
    )[1]
    assert (moved == 0).all()


# ---- wrong arguments

vertices, faces = torch.zeros(2, 5, 3), torch.tensor([[0, 1, 2], [2, 3, 4]])
RIGHT = {"vertices": vertices, "faces": faces, "size": (4, 6)}
ROWS = [
    ({"vertices": vertices[0]}, "vertices must be (N, V, 3), got (5, 3) float32"),
    ({"vertices": vertices[..., :2]}, "vertices must be (N, V, 3) = (2, 5, 3), got (2, 5, 2) float32"),
    ({"vertices": vertices.int()}, "vertices must be float32, float64, float16 or bfloat16, got (2, 5, 3) int32"),
    ({"vertices": vertices.to(torch.complex64)}, "vertices must be float32, float64, float16 or bfloat16, got (2, 5, 3) complex64"),
    ({"vertices": vertices.to_sparse()}, "vertices must be a dense (strided) tensor, got layout torch.sparse_coo"),
    ({"faces": faces[0]}, "faces must be (F, 3), got (3) int64"),
    ({"faces": faces.expand(2, 2, 3)}, "faces must be (F, 3), got (2, 2, 3) int64"),
    ({"faces": faces[:, :2]}, "faces must be (F, 3) = (2, 3), got (2, 2) int64"),
    ({"faces": faces.float()}, "faces must have an integer dtype, got (2, 3) float32"),
    ({"faces": faces.bool()}, "faces must have an integer dtype, got (2, 3) bool"),
    ({"faces": faces.to("meta")}, "faces must be on cpu as vertices is, got meta"),
    ({"faces": faces + 1}, "faces must hold indices of the V = 5 vertices, from 0, got 1..5"),
    ({"faces": faces - 1}, "faces must hold indices of the V = 5 vertices, from 0, got -1..3"),
    ({"vertices": vertices[:, :0]}, "faces must hold indices of the V = 0 vertices, from 0, got 0..4"),
    ({"size": 64}, "size must be (H, W), two ints of at least 1, got 64"),
    ({"size": (4, 5, 6)}, "size must be (H, W), two ints of at least 1, got (4, 5, 6)"),
    ({"size": (0, 5)}, "size must be (H, W), two ints of at least 1, got (0, 5)"),
    ({"size": (4.0, 5)}, "size must be (H, W), two ints of at least 1, got (4.0, 5)"),
    ({"size": (2**16, 2**15)}, "size must have fewer than 2^31 pixels, got (65536, 32768)"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "message"), ROWS, ids=[row[1] for row in ROWS])
def test_value_error(wrong, message):
    pk.mesh_raster(**RIGHT)
    with pytest.raises(ValueError) as error:
        pk.mesh_raster(**{**RIGHT, **wrong})
    assert str(error.value) == message


def test_type_error():
    with pytest.raises(TypeError, match=r"^vertices must be a torch.Tensor, got NoneType None$"):
        pk.mesh_raster(**{**RIGHT, "vertices": None})
    with pytest.raises(
        TypeError, match=r"^faces must be a torch.Tensor, got list \[\[0, 1, 2\]\]$"
    ):
        pk.mesh_raster(**{**RIGHT, "faces": [[0, 1, 2]]})


@pytest.mark.parametrize("wrong", [faces + 1, faces - 1])
def test_indices_where_they_cannot_be_looked_at_beforehand(wrong):
    """Inside torch.compile the kernel tells; it writes nothing out of bounds."""
    torch._dynamo.reset()
    run = torch.compile(
        lambda x, f: pk.mesh_raster(x, f, (4, 6)), backend="aot_eager", fullgraph=True
    )
    with pytest.raises((RuntimeError, ValueError), match="faces must hold indices of vertices"):
        run(vertices, wrong)


def test_indices_are_looked_at_in_debug_mode(device, monkeypatch):
    """On the CPU always."""
    monkeypatch.setenv("POSE_KERNELS_DEBUG", "1")
    with pytest.raises(ValueError, match="faces must hold indices of the V = 5 vertices"):
        pk.mesh_raster(vertices.to(device), faces.to(device) + 1, (4, 6))


wide = faces.expand(2, 2, 3)
DIRECT = [
    ((vertices[0], wide, [4, 6]), "vertices must be (N, V, 3)"),
    ((vertices[..., :2], wide, [4, 6]), "vertices must be (N, V, 3)"),
    ((vertices.half(), wide, [4, 6]), "vertices must be float32 or float64"),
    ((vertices, faces, [4, 6]), "faces must be (N, F, 3)"),
    ((vertices, wide[:1], [4, 6]), "faces must be (N, F, 3)"),
    ((vertices, wide.to(torch.int16), [4, 6]), "faces must be int32 or int64"),
    ((vertices, wide, [4]), "size must be (H, W)"),
    ((vertices, wide, [0, 4]), "size must be (H, W)"),
    ((vertices, wide, [2**16, 2**15]), "fewer than 2^31 pixels"),
    ((vertices, wide + 1, [4, 6]), "faces must hold indices of vertices"),
    ((vertices[:, :0], wide, [4, 6]), "faces must hold indices of vertices"),
]


@pytest.mark.skipif("cpp" in pk.backends.unavailable, reason="_C_cpu is not loaded")
@pytest.mark.parametrize(("args", "message"), DIRECT, ids=[row[1] for row in DIRECT])
def test_compiled_kernels_check_again(args, message):
    with pk.use_backend("cpp"), pytest.raises(RuntimeError) as error:
        ops.mesh_raster(*args)
    assert message in str(error.value)
