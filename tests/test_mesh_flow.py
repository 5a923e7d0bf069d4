# SPDX-License-Identifier: Apache-2.0
"""mesh_flow: the flow between two poses of a mesh, and what of it one sees."""

from __future__ import annotations

import pytest
import torch
from meshes import NAN, sphere, turned

import pose_kernels as pk

SIZE = (64, 64)
MIDDLE = 31.5


def ball(place, *degrees, rings=13, segments=20):
    vertices, faces = sphere(rings, segments, 25, MIDDLE)
    return [turned(vertices, d, MIDDLE)[None].to(place.device) for d in degrees] + [
        faces.to(place.device)
    ]


@pytest.mark.parametrize("visibility", ["face", "zbuffer"])
def test_a_mesh_on_itself_does_not_move(place, visibility):
    pose, faces = ball(place, 20)
    flow, seen = pk.mesh_flow(pose, pose, faces, SIZE, visibility=visibility)
    assert (flow == 0).all()
    assert set(seen.unique().tolist()) == {0, 2} and (seen == 0).sum() > 1800


@pytest.mark.parametrize("visibility", ["face", "zbuffer"])
def test_a_half_turn_hides_what_it_shows(place, visibility):
    target, source, faces = ball(place, 180, 0)
    _, seen = pk.mesh_flow(target, source, faces, SIZE, visibility=visibility)
    assert (seen == 1).sum() > 0.8 * (seen < 2).sum() > 1400


@pytest.mark.parametrize("visibility", ["face", "zbuffer"])
def test_a_quarter_turn_of_a_ball(place, visibility):
    """Half of it stays in sight, and its points move as the sphere does."""
    rings, segments = (17, 32) if visibility == "face" else (41, 80)  # a face owns a pixel, or not
    target, source, faces = ball(place, 90, 0, rings=rings, segments=segments)
    flow, seen = pk.mesh_flow(target, source, faces, SIZE, visibility=visibility, tolerance=0.05)
    assert flow.shape == (1, 2, *SIZE) and seen.shape == (1, *SIZE) and seen.dtype == torch.uint8
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    dx, dy = x - MIDDLE, y - MIDDLE
    inner = dx**2 + dy**2 < 22**2
    z = -(625 - dx**2 - dy**2).clamp(min=0).sqrt()
    # turned() by 90 degrees takes (x, z) to (z, -x); back from the target: x = -z.
    expected = torch.stack([-z - dx, torch.zeros_like(x)])
    flow, seen = flow[0].cpu(), seen[0].cpu()
    assert (flow - expected).abs().amax(0)[inner].max() < (1.6 if visibility == "face" else 0.35)
    depth = dx  # in the source
    assert (seen[inner & (depth < -6)] == 0).all() and (seen[inner & (depth > 6)] == 1).all()
    assert (seen[dx**2 + dy**2 > 25.1**2] == 2).all()


def test_visibility_by_face_and_by_depth_differ_where_a_face_is_half_hidden(place):
    """A wall, a post in front of it in the source."""
    wall = torch.tensor([[0.0, 0, 5], [9, 0, 5], [0, 9, 5], [9, 9, 5]])
    post = torch.tensor([[3.0, -1, 1], [6, -1, 1], [3, 12, 1]])
    source = torch.cat([wall, post])[None].to(place.device)
    target = torch.cat([wall, post + torch.tensor([90.0, 0, 0])])[None].to(place.device)
    faces = torch.tensor([[0, 1, 2], [1, 3, 2], [4, 5, 6]]).to(place.device)
    by_face, by_depth = (
        pk.mesh_flow(target, source, faces, (10, 10), visibility=v)[1] for v in ("face", "zbuffer")
    )
    assert (by_face == 0).all()
    hidden = pk.mesh_raster(source, faces, (10, 10))[0] == 2
    assert hidden.any() and torch.equal(by_depth == 1, hidden)
    everything = pk.mesh_flow(target, source, faces, (10, 10), visibility="zbuffer", tolerance=1)
    assert (everything[1] == 0).all()


def test_out_of_the_image_and_not_finite(place):
    target = torch.tensor([[[0.0, 0, 1], [4, 0, 1], [0, 4, 1]]]).repeat(3, 1, 1)
    source = target.clone()
    source[0, :, 0] += 2.5
    source[1, 2, 1] = NAN
    faces = torch.tensor([[0, 1, 2]])
    for visibility in ("face", "zbuffer"):
        flow, seen = pk.mesh_flow(
            target.to(place.device),
            source.to(place.device),
            faces.to(place.device),
            (5, 5),
            visibility=visibility,
        )
        shown = seen[2] == 0
        assert shown.sum() == 15 and (seen[2][~shown] == 2).all()
        assert (flow[0, 0][shown] - 2.5).abs().max() < 1e-6
        assert seen[0, 0].tolist() == [0, 0, 1, 1, 1]  # 2.5, 3.5, then beyond 4
        assert (seen[1][shown] == 1).all() and (flow[1:] == 0).all()
        assert (flow[:, :, ~shown] == 0).all()


def test_dtypes_empty_inputs_and_gradients(place):
    pose, faces = ball(place, 0)
    for dtype, expected in ((torch.float64, torch.float64), (torch.float16, torch.float32)):
        moving = pose.to(dtype).requires_grad_()
        flow, seen = pk.mesh_flow(moving, pose.to(dtype), faces.int(), SIZE)
        assert flow.dtype == expected and not flow.requires_grad and (seen == 0).any()
    empty = pose.new_zeros(2, 0, 3)
    for visibility in ("face", "zbuffer"):
        flow, seen = pk.mesh_flow(empty, empty, faces[:0], (3, 4), visibility=visibility)
        assert flow.shape == (2, 2, 3, 4) and (seen == 2).all() and (flow == 0).all()
        flow, seen = pk.mesh_flow(pose[:0], pose[:0], faces, (3, 4), visibility=visibility)
        assert flow.shape == (0, 2, 3, 4) and seen.shape == (0, 3, 4)


def test_compile(device):
    torch._dynamo.reset()
    vertices, faces = sphere(5, 8, 25, MIDDLE)
    vertices, faces = vertices[None].to(device), faces.to(device)
    moved = vertices + 2

    def run(a, b, f):
        options = ({"visibility": "face"}, {"visibility": "zbuffer"})
        return [x for more in options for x in pk.mesh_flow(a, b, f, (20, 30), **more)]

    got = torch.compile(run, backend="aot_eager", fullgraph=True)(moved, vertices, faces)
    expected = run(moved, vertices, faces)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


RIGHT = {
    "vertices_target": torch.zeros(2, 5, 3),
    "vertices_source": torch.zeros(2, 5, 3),
    "faces": torch.tensor([[0, 1, 2]]),
    "size": (4, 6),
}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"vertices_source": torch.zeros(2, 4, 3)},
            "vertices_source must be (N, V, 3) = (2, 5, 3) as in vertices_target, "
            "got (2, 4, 3) float32",
        ),
        (
            {"vertices_target": torch.zeros(2, 5, 2)},
            "vertices_target must be (N, V, 3) = (2, 5, 3), got (2, 5, 2) float32",
        ),
        (
            {"faces": torch.tensor([[0, 1, 5]])},
            "faces must hold indices of the V = 5 vertices, from 0, got 0..5",
        ),
        ({"size": 4}, "size must be (H, W), two ints of at least 1, got 4"),
        ({"visibility": "all"}, "visibility must be one of 'face', 'zbuffer', got 'all'"),
        ({"tolerance": -1}, "tolerance must be a number of at least 0, got -1"),
    ],
)
def test_bad_input(wrong, message):
    pk.mesh_flow(**RIGHT)
    with pytest.raises(ValueError) as error:
        pk.mesh_flow(**{**RIGHT, **wrong})
    assert str(error.value) == message
