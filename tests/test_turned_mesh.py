# SPDX-License-Identifier: Apache-2.0
"""`python -m pose_kernels mesh-flow`: OBJ files, what is written, bad input."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from meshes import sphere
from PIL import Image

from pose_kernels import turned_mesh
from pose_kernels.__main__ import main
from pose_kernels.commands import mesh_report
from pose_kernels.obj import read_obj
from pose_kernels.people.person import POSES, person_mesh

CUBE = """# two sides of a box, in two groups, every way to write a corner
mtllib nothing.mtl
v 0 0 0
v 1 0 0 1.0
v 1 1 0
vt 0.5 0.5
vn 0 0 1
v 0 1 0
o box
g front most
f 1 2/1 3/1/1 4//1   # a quad
g side
usemtl red
v 1 0 -1
v 1 1 -1
f -5 -2 \\
  -1
f 2 6 3
v 9 9 9
"""


@pytest.fixture
def obj(tmp_path) -> Path:
    (tmp_path / "box.obj").write_text(CUBE)
    return tmp_path / "box.obj"


def test_reads_faces_of_every_kind(obj):
    mesh = read_obj(obj)
    assert mesh.groups == ("front", "most", "side")
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3], [1, 4, 5], [1, 5, 2]]
    assert mesh.vertices.tolist()[4:] == [[1, 0, -1], [1, 1, -1]]  # the last one is not used
    side = read_obj(obj, "side")
    assert side.faces.tolist() == [[0, 2, 3], [0, 3, 1]] and len(side.vertices) == 4
    assert torch.equal(side.vertices[0], mesh.vertices[1])
    assert read_obj(obj, "most").faces.tolist() == read_obj(obj, "front").faces.tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v 0 0 0\n", "mesh {} has no faces"),
        ("", "mesh {} has no faces"),
        ("v 0 0\n", "mesh {}, line 1: a vertex needs three finite numbers, got '0 0'"),
        ("v 0 0 nan\n", "mesh {}, line 1: a vertex needs three finite numbers, got '0 0 nan'"),
        ("v 0 0 x\n", "mesh {}, line 1: a vertex needs three finite numbers, got '0 0 x'"),
        ("\nhello world\n", "mesh {}, line 2: 'hello world' is no statement of Wavefront OBJ"),
        ("v 0 0 0\nf 1 1\n", "mesh {}, line 2: a face needs at least 3 corners, got 2"),
        ("v 0 0 0\nf 1 1 2\n", "mesh {}, line 2: a face names vertex 2 of 1"),
        ("v 0 0 0\nf 1 1 0\n", "mesh {}, line 2: '0' names no vertex; there are 1 so far"),
        ("v 0 0 0\nf 1 1 -2\n", "mesh {}, line 2: '-2' names no vertex; there are 1 so far"),
        ("v 0 0 0\nf 1 1 /1\n", "mesh {}, line 2: '/1' names no vertex; there are 1 so far"),
        ("v 1 2 3\nf 1 1 1\n", "the vertices of the mesh must spread over some length"),
    ],
)
def test_bad_files(obj, capsys, text, message):
    obj.write_text(text)
    assert main(["mesh-flow", "--mesh", str(obj), "--out", str(obj.parent / "out")]) == 2
    assert capsys.readouterr().err.splitlines() == ["error: " + message.format(obj)]
    assert not (obj.parent / "out" / "source.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mesh", "/nowhere/a.obj"], "error: mesh /nowhere/a.obj: no such file"),
        (["--group", "hair"], "error: mesh {} has no group 'hair', only front, most, side"),
        (["--size", "8"], "error: --size must be 16..4096, got 8"),
        (["--turn", "nan"], "error: --turn must be a finite number of degrees, got nan"),
    ],
)
def test_bad_options(obj, capsys, words, message):
    line = ["mesh-flow", "--mesh", str(obj), "--out", str(obj.parent / "out"), *words]
    assert main(line) == 2
    assert capsys.readouterr().err.splitlines() == [message.format(obj)]
    assert not (obj.parent / "out").exists()


def test_output_would_replace_the_input(obj, capsys):
    obj.rename(obj.parent / "mesh_flow.json")
    line = ["mesh-flow", "--mesh", str(obj.parent / "mesh_flow.json"), "--out", str(obj.parent)]
    assert main(line) == 2
    assert "is an input, it would be overwritten" in capsys.readouterr().err


def write_ball(path: Path) -> None:
    vertices, faces = sphere(18, 30, 1.0, 0.0)
    vertices[:, 1] *= -1.6  # y up, taller than wide
    lines = [f"v {x} {y} {z}" for x, y, z in vertices.tolist()]
    lines += [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in faces.tolist()]
    path.write_text("\n".join(lines))


@pytest.mark.parametrize("visibility", ["face", "zbuffer"])
def test_writes_everything(tmp_path, capsys, visibility):
    write_ball(tmp_path / "ball.obj")
    out = tmp_path / "out"
    line = ["mesh-flow", "--mesh", str(tmp_path / "ball.obj"), "--out", str(out)]
    assert main([*line, "--size", "96", "--turn", "40", "--visibility", visibility]) == 0
    assert sorted(os.listdir(out)) == sorted(mesh_report.FILES)
    report = json.loads((out / "mesh_flow.json").read_text())
    assert report["turn"] == 40 and report["faces"] == 1020 and report["visibility"] == visibility
    assert 0.6 < report["visible"] < 0.95 and report["mean_error"] < 0.02 and report["close"] > 0.95
    assert 2 < report["mean_flow"] < report["max_flow"] < 40
    for name in mesh_report.FILES[:5]:
        assert Image.open(out / name).size == (96, 96)
    warped, target = (
        np.asarray(Image.open(out / name)).astype(float) for name in ("warped.png", "target.png")
    )
    seen = np.asarray(Image.open(out / "visibility.png"))
    visible = (seen == seen[48, 40]).all(2)
    assert np.abs(warped - target)[visible].mean() < 4  # of 255
    source = np.asarray(Image.open(out / "source.png")).astype(float)
    assert np.abs(source - target)[visible].mean() > 8  # without the flow
    printed = capsys.readouterr().out
    assert "1020 triangles, 512 vertices, turned by 40 degrees, 96 x 96 pixels, on cpu" in printed
    assert "visible in the source" in printed and str(out / "mesh_flow.png") in printed


def test_a_mesh_that_does_not_turn_stays(tmp_path):
    vertices, faces = sphere(18, 30, 1.0, 0.0)
    found = turned_mesh.turned_flow(vertices, faces, 0.0, 48).numbers()
    assert found["visible"] == 1 and found["max_flow"] == 0 and found["mean_error"] < 1e-6


def test_frame():
    """x right, y up, z towards the viewer; a quarter turn takes the front to the right."""
    vertices = torch.tensor([[1.0, 2, 3], [-1, -2, -3]])
    still, quarter = turned_mesh.place_views(vertices, (0.0, 90.0), 101)
    scale = 50 * (1 - 2 * turned_mesh.MARGIN) / 3
    expected = torch.tensor([[1.0, -2, -3], [-1, 2, 3]]) * scale + torch.tensor([50.0, 50, 0])
    torch.testing.assert_close(still, expected)
    expected = torch.tensor([[3.0, -2, 1], [-3, 2, -1]]) * scale + torch.tensor([50.0, 50, 0])
    torch.testing.assert_close(quarter, expected)


def test_flow_wheel():
    """Red to the right, cyan to the left, white where nothing moves."""
    flow = torch.tensor([[[2.0, -2.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 4.0]]])
    right, left, still, down = mesh_report.flow_wheel(flow, 2.0)[:, 0].T
    torch.testing.assert_close(right, torch.tensor([1.0, 0, 0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(left, torch.tensor([0.0, 1, 1]), atol=1e-5, rtol=0)
    assert still.tolist() == [1, 1, 1] and down.argmax() == 1


def test_the_built_in_person_is_closed_and_faces_outward():
    vertices, faces = person_mesh(POSES["walk"])
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    there, back = (e[:, 0] * len(vertices) + e[:, 1] for e in (edges, edges.flip(1)))
    assert torch.equal(there.sort().values, back.sort().values) and len(there.unique()) == len(
        there
    )
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    volume = (a * torch.linalg.cross(b, c)).sum(1) / 6
    assert 0.04 < float(volume.sum()) < 0.12  # cubic meters


def test_without_a_mesh_it_is_the_built_in_person(tmp_path, capsys):
    assert main(["mesh-flow", "--size", "64", "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out/mesh_flow.json").read_text())["mesh"] is None
    assert main(["mesh-flow", "--group", "body", "--out", str(tmp_path / "no")]) == 2
    assert capsys.readouterr().err == "error: --group needs a --mesh\n"
    assert not (tmp_path / "no").exists()
