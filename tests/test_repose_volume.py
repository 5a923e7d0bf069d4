# SPDX-License-Identifier: Apache-2.0
"""`python -m pose_kernels repose-volume`: every part lands, files, pictures, bad input."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from poses import NAMES, metric, placed_poses

from pose_kernels import backends, repose_volume
from pose_kernels.__main__ import main
from pose_kernels.clip import load_clip, place_in_frame
from pose_kernels.commands import repose_report
from pose_kernels.skeleton import PARTS, body_parts, part_transforms


@pytest.fixture
def clip(tmp_path) -> Path:
    np.savez(tmp_path / "clip.npz", joints=metric(), names=np.array(NAMES), fps=30.0)
    return tmp_path / "clip.npz"


def command(clip: Path, *more: object, **changes: object) -> list[str]:
    options = {"joints": clip, "from": 0, "to": 5, "out": clip.parent / "out", "size": 32}
    line = ["repose-volume"]
    for name, value in {**options, **changes}.items():
        line += [f"--{name}", str(value)]
    return line + [str(word) for word in more]


class TestCommand:
    def test_writes_everything(self, clip, capsys):
        assert main(command(clip, size=64)) == 0
        out = clip.parent / "out"
        assert sorted(os.listdir(out)) == ["masks.png", "repose.json", "repose.png"]
        report = json.loads((out / "repose.json").read_text())
        assert report["frames"] == [0, 5] and report["skeleton"] == "reposing19"
        assert report["grid"] == {"depth": 33, "height": 65, "width": 65}
        assert [part["part"] for part in report["parts"]] == list(PARTS)
        for part in report["parts"]:
            assert part["moved"] and part["inside"] > 0.97 and part["filled"] > 0.7, part
            assert np.array(part["transform"]).shape == (3, 4)
        named = {stage["name"]: stage["backend"] for stage in report["stages"]}
        assert list(named) == ["parts and fits", "masks", "draw", "warp", "measure"]
        assert named["warp"] and not named["draw"]
        assert all(stage["seconds"] > 0 for stage in report["stages"])

        masks, picture = (Image.open(out / name) for name in ("masks.png", "repose.png"))
        assert picture.width > 3 * 65 * 6 and picture.height > 2 * 65 * 6
        assert masks.width > 800 and masks.height > 600
        printed = capsys.readouterr()
        assert printed.err == ""
        for words in (
            "65 x 65 x 33 voxels, skeleton reposing19, frame 0 to 5",
            "10 parts moved",
            str(out / "repose.png"),
        ):
            assert words in printed.out

    @pytest.mark.parametrize("size", [16, 32, 50])
    def test_grids(self, clip, size):
        assert main(command(clip, size=size)) == 0
        report = json.loads((clip.parent / "out" / "repose.json").read_text())
        assert report["grid"] == {"depth": size // 2 + 1, "height": size + 1, "width": size + 1}
        assert min(part["inside"] for part in report["parts"]) > 0.95

    def test_same_frame_stays(self, clip):
        assert main(command(clip, to=0)) == 0
        for part in json.loads((clip.parent / "out" / "repose.json").read_text())["parts"]:
            assert part["inside"] == pytest.approx(1, abs=1e-4)
            assert part["filled"] == pytest.approx(1, abs=1e-4)

    def test_placed_joints_are_taken_as_they_are(self, clip):
        pair = place_in_frame(torch.from_numpy(metric()[[0, 5]])).numpy()
        np.savez(clip.parent / "placed.npz", joints=pair)
        reports = []
        for line in (
            command(clip),
            command(clip.parent / "placed.npz", "--placed", to=1, skeleton="reposing19"),
        ):
            assert main(line) == 0
            reports.append(json.loads((clip.parent / "out" / "repose.json").read_text())["parts"])
        assert reports[0] == reports[1]

    def test_missing_joints_are_named_and_their_parts_vanish(self, clip, capsys):
        joints = metric()
        joints[5, NAMES.index("lwri")] = np.nan
        joints[0, NAMES.index("rkne"), 2] = np.inf
        np.savez(clip, joints=joints, names=np.array(NAMES))
        assert main(command(clip)) == 0
        report = json.loads((clip.parent / "out" / "repose.json").read_text())
        lost = {part["part"] for part in report["parts"] if not part["moved"]}
        assert lost == {"left lower arm", "right upper leg", "right lower leg"}
        for part in report["parts"]:
            gone = part["part"] in lost
            assert (part["transform"] is None) == (part["inside"] is None) == gone
            assert gone or part["inside"] > 0.95
        printed = capsys.readouterr().out
        for words in (
            "frame 0 lacks rkne (not finite)",
            "frame 5 lacks lwri (not finite)",
            "7 parts moved",
            "nothing of: left lower arm, right upper leg, right lower leg",
        ):
            assert words in printed


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"from": 6}, "error: --from must be 0..5, the frames of the clip, got 6"),
            ({"to": -1}, "error: --to must be 0..5, the frames of the clip, got -1"),
            (
                {"skeleton": "smpl24"},
                "error: skeleton must be one of reposing19, h36m17, coco18, mediapipe33, cmu38, "
                "got 'smpl24'",
            ),
            ({"skeleton": "h36m17"}, "error: {clip}: skeleton h36m17 has 17 joints, got 19"),
            ({"size": 33}, "error: --size must be even, 16..128, got 33"),
            ({"size": 8}, "error: --size must be even, 16..128, got 8"),
            ({"size": 256}, "error: --size must be even, 16..128, got 256"),
            ({"joints": "/nowhere/c.npz"}, "error: clip /nowhere/c.npz: no such file"),
        ],
    )
    def test_options(self, clip, capsys, changes, message):
        assert main(command(clip, **changes)) == 2
        assert capsys.readouterr().err.splitlines() == [message.format(clip=clip)]
        assert not (clip.parent / "out").exists()

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            (
                {"pose": np.zeros((2, 19, 3)), "fps": 30},
                "clip {clip} must hold an array named joints, (T, J, 3); it holds pose, fps",
            ),
            ({}, "clip {clip} must hold an array named joints, (T, J, 3); it holds nothing"),
            (
                {"joints": np.zeros((2, 19, 2))},
                "clip {clip}: joints must be numbers (T, J, 3), got (2, 19, 2) float64",
            ),
            (
                {"joints": np.full((2, 19, 3), "x")},
                "clip {clip}: joints must be numbers (T, J, 3), got (2, 19, 3) <U1",
            ),
            (
                {"joints": np.zeros((2, 25, 3))},
                "{clip}: no skeleton of 25 joints is known, only reposing19 (19), h36m17 (17), "
                "coco18 (18), mediapipe33 (33), cmu38 (38)",
            ),
            (
                {"joints": np.zeros((2, 19, 3)), "names": np.array(["a", "b"])},
                "clip {clip}: names must be 19 strings as joints, got (2,) <U1",
            ),
            (
                {"joints": np.zeros((6, 19, 3))},
                "joints must spread over some length; these poses have none",
            ),
        ],
    )
    def test_clips(self, clip, capsys, arrays, message):
        np.savez(clip, **arrays)
        assert main(command(clip)) == 2
        assert capsys.readouterr().err.splitlines() == ["error: " + message.format(clip=clip)]

    @pytest.mark.parametrize("data", [b"", b"PK\x03\x04 no archive", b"text"])
    def test_damaged_clips(self, clip, capsys, data):
        clip.write_bytes(data)
        assert main(command(clip)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: clip {clip} is damaged or no .npz of plain arrays: ")

    def test_plain_array(self, clip, capsys):
        np.save(clip.parent / "a.npy", metric())
        assert main(command(clip, joints=clip.parent / "a.npy")) == 2
        assert "it holds one array without a name" in capsys.readouterr().err

    def test_pickled_objects_are_not_loaded(self, clip, capsys):
        np.savez(clip, joints=np.array([{"a": 1}], dtype=object))
        assert main(command(clip)) == 2
        assert "damaged or no .npz of plain arrays" in capsys.readouterr().err

    def test_too_little_is_known_of_a_pose(self, clip, capsys):
        joints = metric()
        joints[5, [NAMES.index(name) for name in ("lsho", "lhip")]] = np.nan
        np.savez(clip, joints=joints)
        assert main(command(clip)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line == (
            "error: the target pose has neither a left shoulder and right hip nor a right "
            "shoulder and left hip: its size is not known; frame 5 lacks lsho, lhip (not finite)"
        )

    def test_output_would_replace_the_input(self, clip, capsys):
        clip.rename(clip.parent / "repose.json")
        assert main(command(clip.parent / "repose.json", out=clip.parent)) == 2
        assert "is an input, it would be overwritten" in capsys.readouterr().err
        assert os.listdir(clip.parent) == ["repose.json"]

    def test_folder_that_cannot_be_written(self, clip, capsys):
        assert main(command(clip, out=clip / "below")) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: cannot write into folder ")


class TestJob:
    def test_every_backend(self, place):
        """The same parts land at the same places, whatever computes them; stages say what did."""
        pair = placed_poses("stand", "lunge")
        result = repose_volume.repose_volume(*pair.to(place.device), "reposing19", 16)
        named = {stage.name: stage.backend for stage in result.stages}
        for stage, op in (("masks", "capsule_mask"), ("warp", "helmert_warp")):
            assert named[stage] == backends.chosen(op, place.device)
        with backends.use_backend("auto"):
            other = repose_volume.repose_volume(*pair, "reposing19", 16)
        assert torch.equal(result.source_mask.cpu(), other.source_mask)
        torch.testing.assert_close(result.warped.cpu(), other.warped, rtol=0, atol=1e-3)
        for found, expected in zip(result.parts, other.parts, strict=True):
            for value in ("energy", "inside", "filled"):
                assert found[value] == pytest.approx(expected[value], rel=1e-3), found["part"]

    def test_every_part_lands_and_a_wrong_transform_does_not(self):
        source, target = placed_poses("stand", "lunge")
        result = repose_volume.repose_volume(source, target, "reposing19")
        assert min(part["inside"] for part in result.parts) > 0.97
        still = torch.eye(3, 4).expand(10, 3, 4)
        unmoved = repose_volume.coverage(result.source_mask, result.target_mask, still)
        shares = {part["part"]: part["inside"] for part in unmoved}
        assert shares["left lower arm"] < 0.1 and shares["left lower leg"] < 0.5
        swapped = result.transform[[0, 1, 4, 5, 2, 3, 8, 9, 6, 7]]  # left for right
        mixed = repose_volume.coverage(result.source_mask, result.target_mask, swapped)
        assert max(part["inside"] for part in mixed[2:]) < 0.6

    def test_the_whole_is_the_union_of_the_parts(self):
        """What covers a part alone is what the command's volume shows: occupancy is the maximum."""
        source, target = placed_poses("stand", "walk")
        result = repose_volume.repose_volume(source, target, "reposing19", 32)
        assert result.volume.shape == (4, 17, 33, 33)
        assert torch.equal(result.volume[3], (result.source_mask != 0).float())
        inside = result.volume[3] > 0
        assert (result.volume[:3][:, ~inside] == 0).all()
        assert (result.volume[:3][:, inside].amax(0) > 0.2).all()
        occupancy = result.warped[3]
        energies = torch.tensor([part["energy"] for part in result.parts])
        assert energies.max() < occupancy.sum() < energies.sum()

    def test_the_pattern_moves_with_the_part(self):
        """Warping the drawn volume shows the same colors as drawing on the turned pose."""
        (source,) = placed_poses("lunge")
        turn = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # a quarter about x
        target = (source - 128) @ turn.T + 128
        result = repose_volume.repose_volume(source, target, "reposing19")
        parts = body_parts(target)
        drawn = repose_volume.patterned_volume(parts, result.target_mask, (4.0, 4.0, 8.0))
        both = (result.warped[3] > 0.99) & (drawn[3] > 0)
        difference = (result.warped[:3] - drawn[:3])[:, both].abs().mean()
        shuffled = drawn[:3][:, both][:, torch.randperm(int(both.sum()))]
        control = (result.warped[:3][:, both] - shuffled).abs().mean()
        assert both.sum() > 2000 and difference < 0.4 * control

    def test_a_part_outside_of_the_volume(self):
        source, target = placed_poses("stand", "walk")
        target = target + torch.tensor([0.0, 150.0, 0.0])  # the legs leave the cube below
        result = repose_volume.repose_volume(source, target, "reposing19", 32)
        by_name = {part["part"]: part for part in result.parts}
        assert by_name["left lower leg"]["inside"] is None and by_name["left lower leg"]["moved"]
        assert by_name["head"]["inside"] > 0.95

    @pytest.mark.parametrize("side", [0, 31, -2])
    def test_odd_sides(self, side):
        source, target = placed_poses("stand", "walk")
        with pytest.raises(ValueError, match="side must be even and at least 2"):
            repose_volume.repose_volume(source, target, "reposing19", side)

    def test_no_common_part(self):
        source, target = placed_poses("stand", "walk")
        source[[NAMES.index(n) for n in NAMES if n[1:] in ("elb", "kne")]] = math.nan
        target[[NAMES.index(n) for n in NAMES if n[1:] in ("eye", "ear")]] = math.nan
        source[[NAMES.index(n) for n in ("nose", "neck", "lhip", "rsho")]] = math.nan
        with pytest.raises(ValueError, match="no part of the body has enough joints in both"):
            repose_volume.repose_volume(source, target, "reposing19", 32)


class TestPictures:
    def test_near_voxels_hide_far_ones(self):
        volume = torch.zeros(4, 3, 4, 5)
        volume[:, 0, 1, 2] = torch.tensor([1.0, 0, 0, 1])  # red, nearest to the front
        volume[:, 2, 1, 2] = torch.tensor([0, 1.0, 0, 1])  # green, behind it
        volume[:, 2, 1, 4] = torch.tensor([0, 0, 1.0, 1])  # blue, behind both seen from the side
        front = repose_report._view(volume, "front", (2, 4))
        side = repose_report._view(volume, "side", (2, 4))
        paper = round(0.955 * 255)
        assert front.shape == (8, 10, 3) and side.shape == (8, 12, 3)
        assert front[2, 4].tolist() == [255, 0, 0] == front[3, 5].tolist()
        assert front[2, 8, 2] > 100 and front[2, 8, :2].tolist() == [0, 0]
        # the front is on the right
        assert (
            side[2, 8:, 0].min() > 100 and side[2, :4, 1].min() > 100 and side[2, :4, 2].max() == 0
        )
        assert (side[2, 4:8] == paper).all() and (front[:2] == paper).all()

    @pytest.mark.parametrize("view", repose_report.VIEWS)
    def test_outlines_enclose_the_masks(self, view):
        """Filled, an outline covers the blocks of its mask's voxels, less a rim of one block."""
        (source,) = placed_poses("lunge")
        result = repose_volume.repose_volume(source, source, "reposing19")
        shape = result.source_mask.shape
        edges = repose_report._outlines(result.source, view, shape, (6, 12))
        solid = (result.source_mask >> torch.arange(10).view(-1, 1, 1, 1)) & 1
        shadow = solid.amax(1) if view == "front" else solid.amax(3).permute(0, 2, 1).flip(2)
        across = 6 if view == "front" else 12
        for p in range(10):
            rows, columns = np.nonzero(edges[p])
            at = shadow[p].nonzero()
            for spread, block, low, high in (
                (rows, 6, at[:, 0].min(), at[:, 0].max()),
                (columns, across, at[:, 1].min(), at[:, 1].max()),
            ):
                # centers of the outermost voxels lie inside, those of the next ones outside
                assert (
                    spread.min() <= low * block + block / 2
                    and spread.min() > (low - 1) * block + block / 2 - 1
                )
                assert (
                    spread.max() >= high * block + block / 2 - 1
                    and spread.max() < (high + 1) * block + block / 2
                )

    def test_masks_picture_shows_every_part_in_its_color(self):
        (source,) = placed_poses("stand")
        result = repose_volume.repose_volume(source, source, "reposing19", 32)
        page = repose_report.masks_picture(result, "a pose").astype(float)
        for hue in repose_volume.COLORS:
            # lit by depth only: the direction of the color stays
            tint = np.array(hue) / np.linalg.norm(hue)
            length = np.linalg.norm(page, axis=2)
            near = (page @ tint > 0.9995 * length) & (length < 255)
            assert near.sum() > 100, hue


REAL = [(0, 379), (379, 0), (0, 300), (120, 460), (330, 430), (200, 687)]


@pytest.mark.parametrize(("first", "second"), REAL)
def test_real_clip(first, second, tmp_path):
    path = Path(os.environ.get("POSE_KERNELS_DATA", "/nowhere"), "mocap", "01_01_joints.npz")
    if not path.exists():
        pytest.skip("real joints: set POSE_KERNELS_DATA to their folder")
    line = ["repose-volume", "--joints", path, "--from", first, "--to", second, "--out", tmp_path]
    assert main([str(word) for word in line]) == 0
    report = json.loads((tmp_path / "repose.json").read_text())
    assert report["skeleton"] == "cmu38" and report["missing"] == []
    for part in report["parts"]:
        assert part["inside"] > 0.95 and part["filled"] > 0.7, part


def test_real_limbs_are_fitted_to_the_millimeter():
    path = Path(os.environ.get("POSE_KERNELS_DATA", "/nowhere"), "mocap", "01_01_joints.npz")
    if not path.exists():
        pytest.skip("real joints: set POSE_KERNELS_DATA to their folder")
    clip = load_clip(path)
    placed = place_in_frame(clip.joints[::29].double())
    parts = body_parts(placed, clip.skeleton)
    others = body_parts(placed.flip(0), clip.skeleton)
    moved = part_transforms(parts, others)
    pitch = torch.tensor([4.0, 4, 8], dtype=torch.float64)
    found = torch.einsum("npij,npkj->npki", moved[..., :3], others.points / pitch)
    found = (found + moved[..., None, :, 3]) * pitch
    error = (found - parts.points).norm(dim=-1)[:, 2:, :2]
    assert moved.isfinite().all() and error.max() < 0.12  # pixels; one is 8 mm
