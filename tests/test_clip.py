# SPDX-License-Identifier: Apache-2.0
"""Clips of 3D joints: matched to skeletons, placed in the 256-pixel cube."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from poses import NAMES, metric, placed_poses

from pose_kernels.clip import load_clip, place_in_frame
from pose_kernels.skeleton_tables import SKELETONS


@pytest.fixture
def clip(tmp_path) -> Path:
    return tmp_path / "clip.npz"


class TestClips:
    def test_joints_are_taken_by_name(self, clip):
        order = np.random.default_rng(0).permutation(19)
        names = np.array([*np.array(NAMES)[order], "tail"])
        joints = np.concatenate((metric()[:, order], np.zeros((6, 1, 3))), 1)
        np.savez(clip, joints=joints, names=names)
        for asked in ("auto", "reposing19"):
            loaded = load_clip(clip, asked)
            assert loaded.skeleton.name == "reposing19"
            assert np.array_equal(loaded.joints.numpy(), metric())

    @pytest.mark.parametrize("name", SKELETONS)
    def test_skeleton_by_number_or_by_names(self, clip, name):
        joints = SKELETONS[name].joints
        values = np.random.default_rng(0).random((2, len(joints), 3)).astype(np.float32)
        for names in (
            {},
            {"names": np.array(joints)},
            {"names": np.arange(len(joints)).astype(str)},
        ):
            np.savez(clip, joints=values, **names)
            loaded = load_clip(clip)
            assert loaded.skeleton.name == name and loaded.joints.dtype == torch.float32
            assert np.array_equal(loaded.joints.numpy(), values)


class TestPlaceInFrame:
    def test_literal(self):
        """Two meters high, one wide: 2 m become 128 pixels at margin 1/4. Up is -y, front is -z."""
        pose = torch.tensor([[5.0, 0, 7], [6, 2, 7], [5.5, 1, 7.25]])
        expected = [[96, 192, 136], [160, 64, 136], [128, 128, 120]]
        assert place_in_frame(pose, margin=0.25).tolist() == expected

    def test_one_scale_and_each_pose_in_the_middle(self):
        joints = torch.from_numpy(metric())
        placed = place_in_frame(joints)
        box = torch.stack((placed.amin(1), placed.amax(1)))
        torch.testing.assert_close(box.mean(0), torch.full((6, 3), 128.0))
        assert (box[1] - box[0]).amax().item() == pytest.approx(256 * 0.76, rel=1e-5)
        ratio = (placed[:, 0] - placed[:, 1]).norm(dim=-1) / (joints[:, 0] - joints[:, 1]).norm(
            dim=-1
        )
        torch.testing.assert_close(ratio, ratio[:1].expand(6), rtol=1e-4, atol=0)
        assert torch.allclose(place_in_frame(joints * 1000), placed, atol=1e-2)  # millimeters

    def test_it_is_no_mirror(self):
        """The left hand of a person who faces the viewer is on the right of the picture."""
        where = dict(zip(NAMES, placed_poses("stand")[0], strict=True))
        assert where["lwri"][0] > where["rwri"][0] and where["nose"][1] < where["pelv"][1]
        assert where["nose"][2] < where["lear"][2]  # nearer

    def test_missing_joints(self):
        joints = torch.from_numpy(metric())
        whole = place_in_frame(joints)
        hole = joints.clone()
        inner = NAMES.index("lear")  # not on the bounding box
        hole[2, inner, 0] = math.nan
        placed = place_in_frame(hole)
        assert placed[2, inner].isnan().all()
        placed[2, inner] = whole[2, inner]
        assert torch.equal(placed, whole)

    @pytest.mark.parametrize(
        ("joints", "margin", "message"),
        [
            (torch.zeros(3, 2), 0.1, "joints must be"),
            (torch.zeros(2, 3, dtype=torch.int32), 0.1, "joints must be"),
            (torch.rand(2, 3), 0.5, "margin must be in"),
            (torch.zeros(2, 3), 0.1, "joints must spread"),
            (torch.zeros(0, 5, 3), 0.1, "joints must spread"),
            (torch.full((2, 3), math.nan), 0.1, "joints must spread"),
        ],
    )
    def test_bad_input(self, joints, margin, message):
        with pytest.raises(ValueError, match=message):
            place_in_frame(joints, margin=margin)
