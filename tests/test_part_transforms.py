# SPDX-License-Identifier: Apache-2.0
"""Transforms of the ten body parts: what is missing, what is exact, what flows back."""

from __future__ import annotations

import math

import pytest
import torch
from poses import (
    HEAD,
    LLA,
    LLL,
    LUA,
    LUL,
    NAMES,
    RLA,
    RLL,
    RUA,
    RUL,
    T_POSE,
    TORSO,
    bent_pose,
    rotation,
    t_pose,
)

from pose_kernels.clip import place_in_frame
from pose_kernels.people.person import POSES
from pose_kernels.people.pose import joints as person
from pose_kernels.skeleton import VOXEL, body_parts, part_transforms
from pose_kernels.skeleton_tables import JOINTS, SKELETONS


class TestMissingJoints:
    # joint: (capsules that vanish, points without a weight as (part, point), parts without a fit)
    LOST = {
        "lsho": (
            {1, 3, 5, 7, 13},
            {(TORSO, 2), (HEAD, 6), (LUA, 0), (LUA, 1), (LUA, 2), (LLA, 2)},
            {LUA},
        ),
        "relb": ({10, 11, 12}, {(p, i) for p in (RUA, RLA) for i in range(3)}, {RUA, RLA}),
        "lwri": ({8, 9}, {(LLA, 0), (LLA, 1), (LLA, 2), (LUA, 2)}, {LLA}),
        "rank": ({17, 18}, {(RLL, 0), (RLL, 1), (RLL, 2), (RUL, 2)}, {RLL}),
        "lhip": (
            {0, 3, 4, 13},
            {(TORSO, 1), (LUL, 0), (LUL, 1), (LUL, 2), (LLL, 2)},
            {LUL},
        ),
        "nose": (set(), {(HEAD, 3)}, set()),
        "lear": ({6}, {(HEAD, 4)}, set()),
        "pelv": (set(), set(), set()),
    }

    @pytest.mark.parametrize("joint", LOST)
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_leave_a_gap_and_nothing_else_changes(self, joint, value):
        joints = bent_pose()
        whole = body_parts(joints)
        # the torso diagonal is kept, so that nothing else depends on the joint
        joints[NAMES.index(joint), 1] = value
        parts = body_parts(joints, scale=whole.scale)
        capsules, points, unfit = self.LOST[joint]
        for k in range(19):
            if k in capsules:
                assert parts.start[k].isnan().all() and parts.end[k].isnan().all()
            else:
                assert torch.equal(parts.start[k], whole.start[k])
                assert torch.equal(parts.end[k], whole.end[k])
        gone = {(p, i) for p, i in (whole.weight - parts.weight).nonzero().tolist()}
        assert gone == points
        kept = parts.weight > 0
        assert torch.equal(parts.points[kept], whole.points[kept])
        assert (parts.points[~kept] == 0).all()

        for pair in ((parts, whole), (whole, parts), (parts, parts)):
            moved = part_transforms(*pair)
            assert set((~moved.isfinite().all(2).all(1)).nonzero().flatten().tolist()) == unfit
            assert moved[list(unfit)].isnan().all()

    def test_everything_missing(self):
        nothing = body_parts(torch.full((19, 3), math.nan))
        assert nothing.start.isnan().all() and nothing.radius.isnan().all()
        assert (nothing.weight == 0).all() and nothing.scale.isnan()
        assert part_transforms(nothing, body_parts(t_pose(torch.float32))).isnan().all()

    def test_different_joints_missing_in_both_poses(self):
        """Each pose has three torso points, two in common: not enough."""
        a, b = body_parts(t_pose(lsho=None)), body_parts(t_pose(rhip=None))
        assert body_parts(t_pose(lsho=None)).weight[TORSO].sum() == 3
        assert part_transforms(a, a)[TORSO].isfinite().all()
        assert part_transforms(a, b)[TORSO].isnan().all()

    def test_points_on_a_line_turn_no_head(self):
        """Neck between the shoulders: a fit to these three would be free to nod."""
        faceless = dict(leye=None, reye=None, nose=None, lear=None, rear=None)
        a = body_parts(t_pose(**faceless))
        assert a.weight[HEAD].sum() == 3
        assert part_transforms(a, body_parts(bent_pose()))[HEAD].isnan().all()
        assert part_transforms(body_parts(bent_pose()), a)[HEAD].isnan().all()

    @pytest.mark.parametrize("where", ["source", "target"])
    def test_a_bone_without_length_has_no_direction(self, where):
        point, whole = body_parts(t_pose(lelb=T_POSE["lsho"])), body_parts(t_pose())
        assert (point.weight[LUA] == 0).all()
        pair = (point, whole) if where == "source" else (whole, point)
        moved = part_transforms(*pair)
        assert moved[LUA].isnan().all() and moved[LLA].isfinite().all()

    def test_a_body_without_size(self):
        point = body_parts(torch.full((19, 3), 100.1))
        assert part_transforms(point, body_parts(t_pose(torch.float32))).isnan().all()
        assert part_transforms(body_parts(t_pose(torch.float32)), point).isnan().all()


class TestTransforms:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_same_pose_is_the_identity(self, dtype):
        for joints in (t_pose(dtype), bent_pose(dtype)):
            parts = body_parts(joints)
            moved = part_transforms(parts, parts)
            expected = torch.eye(3, 4, dtype=dtype).expand(10, 3, 4)
            # rounding of pixel coordinates near 200 in float32, over 4 pixels a voxel
            tolerance = 1e-6 if dtype == torch.float64 else 1e-4
            torch.testing.assert_close(moved, expected, rtol=0, atol=tolerance)

    def test_rigid_motion_and_scale_are_recovered(self):
        """source = 1.3 R target + t in pixels, for every part; then S T S^-1 in voxels."""
        target = bent_pose()
        turn, shift = rotation(20, -50, 75), torch.tensor([12.0, -30.0, 7.0], dtype=torch.float64)
        source = 1.3 * target @ turn.T + shift
        voxel = torch.tensor(VOXEL, dtype=torch.float64)
        moved = part_transforms(body_parts(source), body_parts(target))
        to_voxels = torch.diag(1 / voxel)
        expected = torch.cat(
            (1.3 * to_voxels @ turn @ torch.diag(voxel), (to_voxels @ shift)[:, None]), 1
        )
        torch.testing.assert_close(moved, expected.expand(10, 3, 4), rtol=0, atol=1e-6)

    def test_voxels_map_as_pixels_do(self):
        """A limb whose bones keep their lengths is fitted exactly: points go where they were."""
        poses = [place_in_frame(torch.from_numpy(person(POSES[p]))) for p in ("lunge", "walk")]
        length = torch.stack([(p[2] - p[3]).norm() for p in poses])
        source, target = (body_parts(p * (100 / n)) for p, n in zip(poses, length))
        for voxel in (VOXEL, (2.0, 2.0, 4.0), (1.0, 3.0, 5.0)):
            moved = part_transforms(source, target, voxel=voxel)
            pitch = torch.tensor(voxel, dtype=torch.float64)
            points, wanted = target.points / pitch, source.points / pitch
            found = torch.einsum("pij,pkj->pki", moved[..., :3], points) + moved[:, None, :, 3]
            used = (source.weight * target.weight)[2:] > 0
            assert used[:, :2].all()
            torch.testing.assert_close(found[2:][used], wanted[2:][used], rtol=0, atol=1e-6)

    def test_straight_limbs_take_the_smallest_rotation(self):
        """The left arm of a T pose, lowered in the picture plane: z stays where it is."""
        lowered = t_pose(lelb=(148, 80, 128), lwri=(148, 100, 128))
        moved = part_transforms(body_parts(t_pose()), body_parts(lowered))
        quarter = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]], dtype=torch.float64)
        for p in (LUA, LLA):
            torch.testing.assert_close(moved[p, :, :3], quarter, rtol=0, atol=1e-6)
        elbow = moved[LUA] @ torch.tensor([37.0, 20, 16, 1], dtype=torch.float64)
        torch.testing.assert_close(elbow, torch.tensor([42.0, 15, 16], dtype=torch.float64))

    def test_no_part_is_mirrored(self):
        joints = torch.rand(500, 19, 3, dtype=torch.float64) * 256
        parts, others = body_parts(joints), body_parts(joints.flip(0) + torch.rand(500, 19, 3) * 9)
        moved = part_transforms(parts, others)
        assert moved.isfinite().all() and (torch.linalg.det(moved[..., :3]) > 0).all()


class TestGradients:
    def test_gradcheck(self):
        joints = bent_pose().requires_grad_()
        assert torch.autograd.gradcheck(
            lambda j: tuple(x for x in body_parts(j) if x.requires_grad), joints
        )

    @pytest.mark.parametrize("name", SKELETONS)
    def test_missing_joints_leave_the_others_finite(self, name):
        count = len(SKELETONS[name].joints)
        generator = torch.Generator().manual_seed(1)
        joints = (torch.rand(count, count, 3, generator=generator) * 256).double()
        index = torch.arange(count)
        joints[index, index] = math.nan  # pose j lacks joint j
        joints.requires_grad_()
        parts = body_parts(joints, name)
        loss = sum(x.nan_to_num().sum() for x in (parts.start, parts.end, parts.radius))
        loss = loss + (parts.points * parts.weight[..., None]).sum()
        loss = loss + part_transforms(parts, body_parts(joints.flip(1), name)).nan_to_num().sum()
        (grad,) = torch.autograd.grad(loss, joints)
        assert grad.isfinite().all()
        assert (grad[index, index] == 0).all() and (grad != 0).any()

    def test_straight_limbs_and_bones_without_length(self):
        joints = t_pose(relb=T_POSE["rsho"]).requires_grad_()
        parts = body_parts(joints)
        moved = part_transforms(parts, body_parts(bent_pose()))
        loss = moved.nan_to_num().sum() + parts.points.sum() + parts.radius.sum()
        (grad,) = torch.autograd.grad(loss, joints)
        assert grad.isfinite().all() and (grad[NAMES.index("lelb")] != 0).any()

    def test_transforms_pull_both_poses(self):
        a, b = bent_pose().requires_grad_(), t_pose().requires_grad_()
        loss = part_transforms(body_parts(a), body_parts(b)).square().sum()
        for grad in torch.autograd.grad(loss, (a, b)):
            assert grad.isfinite().all() and (grad[: len(JOINTS)] != 0).any(1).sum() >= 16
