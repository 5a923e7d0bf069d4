# SPDX-License-Identifier: Apache-2.0
"""`python -m pose_kernels demo`, its panel and its race."""

import re
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest
import torch

import pose_kernels as pk
from pose_kernels import io, panel
from pose_kernels.__main__ import main
from pose_kernels.clip import place_in_frame
from pose_kernels.commands import comparison, demo
from pose_kernels.people.person import POSES, render_person
from pose_kernels.people.pose import joints
from pose_kernels.skeleton import SIZE, body_parts, part_transforms

FILES = {
    "source.png",
    "source_iuv.png",
    "target_true.png",
    "target_iuv.png",
    "partial_atlas.png",
    "filled_atlas.png",
    "transferred.png",
    "panel.png",
    "part_masks.png",
    "reposed_volume.png",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder and standard output of one quick run."""
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    with redirect_stdout(StringIO()) as text:
        assert main(["demo", "--quick", "--out", str(out)]) == 0
    return out, text.getvalue()


def test_files(finished):
    out, _ = finished
    assert {path.name for path in out.iterdir()} == FILES
    assert io.read_image(out / "source.png").shape == (3, 128, 128)
    assert io.read_atlas(out / "filled_atlas.png").shape == (24, 3, 64, 64)
    for name, pose in (("source_iuv.png", demo.SOURCE), ("target_iuv.png", demo.TARGET)):
        part, uv = io.read_iuv(out / name)
        truth = render_person(pose, 0, 128)
        assert torch.equal(part, truth.part)
        assert (uv - truth.uv)[:, part > 0].abs().max() <= 0.5 / 255 + 1e-6


def test_transferred_is_the_target(finished):
    out, _ = finished
    truth = render_person(demo.TARGET, 0, 128)
    body = truth.part > 0
    painted = io.read_image(out / "transferred.png")
    error = (painted - truth.image)[:, body].square().mean()
    source = io.read_image(out / "source.png")
    plain = source[:, render_person(demo.SOURCE, 0, 128).part > 0].mean(1)
    assert -10 * torch.log10(error) > 19
    assert error < 0.5 * (plain[:, None] - truth.image[:, body]).square().mean()
    assert (painted[:, ~body] - 0.93).abs().max() < 0.003


def test_report(finished):
    out, text = finished
    backend = pk.backends.chosen("uv_splat", "cpu")
    for stage in ("raster", "fill", "gather"):
        line = next(line for line in text.splitlines() if line.split()[:1] == [stage])
        assert backend in line and " ms " in line
    for name, _ in (*comparison.JOBS, comparison.PART_WARP):
        line = next(line for line in text.splitlines() if line.startswith(name + " "))
        assert line.count(" ms") == 2 and line.endswith("x")
    for stage in ("masks", "warp"):
        line = next(line for line in text.splitlines() if line.split()[:1] == [stage])
        assert pk.backends.chosen("helmert_warp", "cpu") in line and " ms " in line
    landed = re.search(r"10 parts moved; .* ([0-9.]+) % of the .* at least", text)
    assert landed and float(landed[1]) > 97
    assert "PSNR" in text and "covered" in text and "allocator:" in text
    assert f"{torch.get_num_threads()} threads" in text
    assert str(out / "panel.png") in text


def test_the_rival_of_the_part_warp_does_the_same():
    """The plain PyTorch that the table times computes helmert_warp."""
    stand, walk = (
        body_parts(place_in_frame(torch.from_numpy(joints(POSES[p])).float()))
        for p in ("stand", "walk")
    )
    transform = part_transforms(stand, walk)[None]
    start, end, radius = (x[None] for x in stand.capsules[:3])
    mask = pk.capsule_mask(start, end, radius, stand.part, size=SIZE, num_parts=10)
    volume = torch.rand(1, 2, *SIZE)
    ours = pk.helmert_warp(volume, mask, transform)
    assert (ours > 0).sum() > 5000
    rival = comparison._grid_sampled_parts(volume, mask, transform)
    torch.testing.assert_close(rival, ours, rtol=0, atol=1e-4)


def test_written_files_feed_the_transfer_command(finished, tmp_path):
    out, _ = finished
    arguments = ["transfer", "--image", out / "source.png", "--iuv", out / "source_iuv.png"]
    arguments += ["--target-iuv", out / "target_iuv.png", "--size", "64", "--out", tmp_path]
    assert main([str(argument) for argument in arguments]) == 0
    assert (tmp_path / "transferred.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "8"], "error: --size must be 16..1024, got 8"),
        (["--identity", "-1"], "error: --identity must be at least 0, got -1"),
    ],
)
def test_bad_options(arguments, message, tmp_path, capsys):
    assert main(["demo", "--quick", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert capsys.readouterr().err.splitlines() == [message]
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main(["demo", "--quick", "--out", str(tmp_path / "file" / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: cannot write into folder ") and "file/out" in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda_device(tmp_path, capsys):
    assert main(["demo", "--quick", "--out", str(tmp_path), "--device", "cuda"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --device cuda: torch ") and line.endswith("no CUDA device")


def test_measure_takes_turns_and_reports_medians(monkeypatch):
    clock, calls = [0.0], []

    def contender(name, seconds):
        pace = iter(seconds)

        def work():
            calls.append(name)
            clock[0] += next(pace)

        return work

    monkeypatch.setattr(comparison.time, "perf_counter", lambda: clock[0])
    slow_start = contender("a", [9, 1, 3, 2]), contender("b", [9, 4, 4, 40])
    times, runs = comparison.measure(list(slow_start), torch.device("cpu"), 3, 1e9)
    assert calls == ["a", "b"] * 4
    assert times == pytest.approx([2000, 4000]) and runs == 3
    impatient = [contender("a", [1] * 9), contender("b", [1] * 9)]
    assert comparison.measure(impatient, torch.device("cpu"), 8, 0.0)[1] == 3


@pytest.mark.parametrize("side", [4, 16, 20])
def test_atlas_picture_keeps_colors_and_shows_holes(side):
    """Tile i - 1 lies at column (i - 1) // 6, row (i - 1) % 6; sparse texels are not darkened."""
    atlas, weight = torch.zeros(24, 3, side, side), torch.zeros(24, side, side)
    atlas[7, :, ::2, ::2] = torch.tensor([1.0, 0.5, 0.0])[:, None, None]
    weight[7, ::2, ::2] = 0.3
    picture = panel.atlas_picture(atlas, weight, side=8)
    assert picture.shape == (48, 32, 3)
    tile = picture[8:16, 8:16]  # part 8
    colored = (tile == (255, 128, 0)).all(-1)
    assert colored[1::2, 1::2].any() and tile[1:, 1:].reshape(-1, 3).max() == 255
    picture[8:16, 8:16] = panel._EMPTY
    inner = picture.reshape(6, 8, 4, 8, 3)[:, 1:, :, 1:]  # without the hairlines
    assert (inner == panel._EMPTY).all()


def test_iuv_picture_tells_parts_apart():
    part = torch.arange(25, dtype=torch.uint8).repeat(4, 1)
    picture = panel.iuv_picture(part, torch.full((2, 4, 25), 0.4))
    assert len(np.unique(picture[0], axis=0)) == 25
    assert (picture[0, 0] == panel._EMPTY).all()


def test_compose_sets_cards_in_a_row():
    red, blue = (np.full((30, 40, 3), color, np.uint8) for color in ((200, 0, 0), (0, 0, 200)))
    page = panel.compose([panel.Card(red, "one"), panel.Card(blue, "two", "2", "step")], "end", 90)
    is_red, is_blue = (page == (200, 0, 0)).all(-1), (page == (0, 0, 200)).all(-1)
    assert is_red.sum() == is_blue.sum() == 90 * 60
    assert np.nonzero(is_red)[1].max() < np.nonzero(is_blue)[1].min()
