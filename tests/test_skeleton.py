# SPDX-License-Identifier: Apache-2.0
"""Body parts of 3D joints: literal capsules and points, named skeletons, bad input."""

from __future__ import annotations

import doctest
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

from pose_kernels import clip, skeleton
from pose_kernels.skeleton import PARTS, SIZE, VOXEL, body_parts, part_transforms
from pose_kernels.skeleton_tables import JOINTS, SKELETONS, Head, Skeleton

# (start, end in pixels, thickness, part) in the order of the capsules
T_CAPSULES = [
    ((118, 100, 128), (138, 100, 128), 15, TORSO),
    ((118, 100, 128), (148, 60, 128), 15, TORSO),
    ((118, 100, 128), (108, 60, 128), 15, TORSO),
    ((138, 100, 128), (148, 60, 128), 15, TORSO),
    ((138, 100, 128), (108, 60, 128), 15, TORSO),
    ((148, 60, 128), (108, 60, 128), 15, TORSO),
    ((128, 34, 128), (128, 46, 128), 25, HEAD),
    ((148, 60, 128), (168, 60, 128), 10, LUA),
    ((168, 60, 128), (192, 60, 128), 10, LLA),
    ((192, 60, 128), (192, 60, 128), 20, LLA),
    ((108, 60, 128), (88, 60, 128), 10, RUA),
    ((88, 60, 128), (64, 60, 128), 10, RLA),
    ((64, 60, 128), (64, 60, 128), 20, RLA),
    ((137, 104, 128), (138, 140, 128), 10, LUL),
    ((138, 140, 128), (138, 188, 128), 10, LLL),
    ((138, 188, 128), (138, 188, 128), 20, LLL),
    ((119, 104, 128), (118, 140, 128), 10, RUL),
    ((118, 140, 128), (118, 188, 128), 10, RLL),
    ((118, 188, 128), (118, 188, 128), 20, RLL),
]


class TestCapsules:
    def test_of_a_t_pose(self):
        parts = body_parts(t_pose(), "reposing19")
        assert parts.scale == 50
        start, end, thick, part = zip(*T_CAPSULES, strict=True)
        voxel = torch.tensor(VOXEL, dtype=torch.float64)
        exact = dict(rtol=0, atol=1e-12)
        torch.testing.assert_close(parts.start * voxel, torch.tensor(start).double(), **exact)
        torch.testing.assert_close(parts.end * voxel, torch.tensor(end).double(), **exact)
        half = torch.tensor([(t / 8 + 1, t / 8 + 1, t / 16 + 1) for t in thick]).double()
        torch.testing.assert_close(parts.radius, half, **exact)
        assert parts.part.tolist() == list(part) and parts.part.dtype == torch.int32

    def test_in_voxels(self):
        """The left hand's ball, written out: at (192, 60, 128) pixels, 20 pixels thick."""
        parts = body_parts(t_pose())
        assert parts.start[9].tolist() == pytest.approx([48, 15, 16])
        assert parts.radius[9].tolist() == pytest.approx([3.5, 3.5, 2.25])
        fine = body_parts(t_pose(), voxel=(2, 2, 4))
        assert fine.start[9].tolist() == pytest.approx([96, 30, 32])
        assert fine.radius[9].tolist() == pytest.approx([6, 6, 3.5])  # one voxel more, as before
        assert torch.equal(fine.points, parts.points)

    def test_order_is_that_of_capsule_mask(self):
        parts = body_parts(t_pose())
        assert parts.capsules._fields == ("start", "end", "radius", "part")
        assert all(torch.equal(a, b) for a, b in zip(parts.capsules, parts))

    def test_scale_is_the_longer_diagonal(self):
        assert body_parts(t_pose(rsho=(98, 60, 128))).scale.item() == pytest.approx(
            math.hypot(40, 40)
        )
        assert body_parts(t_pose(lsho=None)).scale == 50
        assert body_parts(t_pose(lsho=None, lhip=None)).scale.isnan()

    def test_scale_of_another_pose(self):
        other = body_parts(t_pose(), scale=torch.tensor(100.0, dtype=torch.float64))
        own = body_parts(t_pose())
        torch.testing.assert_close(other.radius - 1, 2 * (own.radius - 1))
        assert torch.equal(other.start, own.start) and torch.equal(other.points, own.points)


class TestPoints:
    def test_of_a_t_pose(self):
        """Straight limbs: the third point has no weight."""
        parts = body_parts(t_pose())
        used = [4, 8] + [2] * 8
        assert parts.weight.tolist() == [[1.0] * n + [0.0] * (8 - n) for n in used]
        names = [
            "rhip lhip lsho rsho",
            "neck leye reye nose lear rear lsho rsho",
            *("lsho lelb", "lwri lelb", "rsho relb", "rwri relb"),
            *("lhip lkne", "lank lkne", "rhip rkne", "rank rkne"),
        ]
        for p, row in enumerate(names):
            expected = torch.tensor([T_POSE[name] for name in row.split()]).double()
            assert torch.equal(parts.points[p, : len(expected)], expected), PARTS[p]
            assert (parts.points[p, len(expected) :] == 0).all()

    def test_third_points(self):
        """Upper arm: bone (20, 0, 0), r (0, 10, 0): 10 along z from the elbow. Lower arm: bone
        (0, -10, 0), r (-20, 0, 0): bone x r = (0, 0, -200), 20 along -z."""
        parts = body_parts(t_pose(lwri=(168, 70, 128), rank=(118, 140, 98)))
        assert parts.points[LUA, 2].tolist() == [168, 60, 138]
        assert parts.points[LLA, 2].tolist() == [168, 60, 108]
        # bone (0, 40, 0), r (0, 0, -30): -x by 30; bone (0, 0, 30), r (0, -40, 0): +x by 40
        assert parts.points[RUL, 2].tolist() == [88, 140, 128]
        assert parts.points[RLL, 2].tolist() == [158, 140, 128]
        assert (parts.weight[[LUA, LLA, RUL, RLL], 2] == 1).all()

    def test_third_point_turns_with_the_body(self):
        joints = bent_pose()
        turn = rotation(30, -70, 110)
        turned, plain = body_parts(joints @ turn.T), body_parts(joints)
        torch.testing.assert_close(turned.points, plain.points @ turn.T)
        assert torch.equal(turned.weight, plain.weight) and (plain.weight[2:, 2] == 1).all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_straight_limbs_in_any_direction(self, dtype):
        """Rounding of the joints alone never makes a third point."""
        generator = torch.Generator().manual_seed(0)
        joints = t_pose(dtype).expand(2000, -1, -1).clone()
        step = torch.randn(2000, 3, generator=generator, dtype=dtype)
        step *= 25 / step.norm(dim=-1, keepdim=True)
        first, second = (NAMES.index(name) for name in ("lelb", "lwri"))
        start = joints[:, NAMES.index("lsho")]
        joints[:, first], joints[:, second] = start + step, start + 2 * step
        weight = body_parts(joints).weight[:, [LUA, LLA]]
        assert (weight[..., :2] == 1).all() and (weight[..., 2] == 0).all()

    def test_a_slight_bend_counts(self):
        weight = body_parts(t_pose(torch.float32, lwri=(188, 60.01, 128))).weight
        assert weight[LUA, 2] == 1 and weight[LLA, 2] == 1


class TestShapes:
    def test_leading_axes(self):
        joints = torch.stack([t_pose(), bent_pose()])
        many = body_parts(joints.reshape(1, 2, 19, 3))
        for n in range(2):
            one = body_parts(joints[n])
            for name, a, b in zip(many._fields, many, one, strict=True):
                assert torch.equal(a if name == "part" else a[0, n], b), name
        assert many.start.shape == (1, 2, 19, 3) and many.points.shape == (1, 2, 10, 8, 3)
        assert body_parts(joints[:0]).weight.shape == (0, 10, 8)
        batch = body_parts(joints), body_parts(joints.flip(0))
        moved = part_transforms(*batch)
        assert moved.shape == (2, 10, 3, 4)
        torch.testing.assert_close(moved[0], part_transforms(*map(body_parts, joints)))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_dtypes(self, dtype):
        parts = body_parts(t_pose(dtype))
        wanted = torch.float64 if dtype == torch.float64 else torch.float32
        assert {x.dtype for x in parts} == {wanted, torch.int32}
        assert part_transforms(parts, parts).dtype == wanted


# Indices as their sources publish them: left and right shoulder, wrist, knee.
PUBLISHED = {
    "reposing19": dict(neck=0, nose=1, lsho=2, lwri=4, lkne=6, rsho=8, rwri=10, rkne=12, rear=17),
    "h36m17": dict(lsho=11, lwri=13, lkne=5, rsho=14, rwri=16, rkne=2, lank=6, rank=3),
    "coco18": dict(
        neck=1, nose=0, lsho=5, lwri=7, lkne=12, rsho=2, rwri=4, rkne=9, reye=14, lear=17
    ),
    "mediapipe33": dict(
        nose=0, lsho=11, lwri=15, lkne=25, rsho=12, rwri=16, rkne=26, leye=2, rear=8
    ),
    "cmu38": dict(lsho=21, lwri=23, lkne=3, rsho=30, rwri=32, rkne=9, lank=4, rank=10),
}


class TestNamedSkeletons:
    def joints_of(self, name: str) -> torch.Tensor:
        """The T pose in that skeleton; joints that no part needs are missing, a head is upright."""
        skeleton = SKELETONS[name]
        out = torch.full((len(skeleton.joints), 3), math.nan, dtype=torch.float64)
        for joint in JOINTS:
            sources = skeleton.canonical.get(joint, (joint,))
            if len(sources) == 1 and sources[0] in skeleton.joints:
                out[skeleton.joints.index(sources[0])] = torch.tensor(T_POSE[joint]).double()
        if skeleton.head is not None:  # 10 above and 10 below the ears
            for joint, y in zip(skeleton.head.center, (50, 30), strict=True):
                out[skeleton.joints.index(joint)] = torch.tensor([128, y, 128]).double()
        return out

    @pytest.mark.parametrize("name", SKELETONS)
    def test_gives_the_same_parts(self, name):
        parts, expected = body_parts(self.joints_of(name), name), body_parts(t_pose())
        torch.testing.assert_close(parts.start, expected.start)
        torch.testing.assert_close(parts.end, expected.end)
        torch.testing.assert_close(parts.radius, expected.radius)
        assert torch.equal(parts.weight, expected.weight)
        limbs = [p for p in range(10) if p != HEAD]
        assert torch.equal(parts.points[limbs], expected.points[limbs])
        if SKELETONS[name].head is None:
            assert torch.equal(parts.points[HEAD], expected.points[HEAD])

    @pytest.mark.parametrize("name", SKELETONS)
    def test_indices_are_the_published_ones(self, name):
        where = torch.arange(len(SKELETONS[name].joints)).double()[:, None].expand(-1, 3)
        found, _ = SKELETONS[name].canonical_joints(where)
        for joint, index in PUBLISHED[name].items():
            assert found[JOINTS.index(joint)].tolist() == [index] * 3, joint

    @pytest.mark.parametrize("name", [s.name for s in SKELETONS.values() if s.head])
    def test_derived_face(self, name):
        """h = 20: the ears at c +- 8.4, the eyes and the nose in front of them, toward -z."""
        found, known = SKELETONS[name].canonical_joints(self.joints_of(name))
        face = {joint: found[JOINTS.index(joint)].tolist() for joint in JOINTS}
        assert known.all()
        assert face["lear"] == pytest.approx([136.4, 40, 128])
        assert face["rear"] == pytest.approx([119.6, 40, 128])
        assert face["leye"] == pytest.approx([131.6, 38, 119])
        assert face["reye"] == pytest.approx([124.4, 38, 119])
        assert face["nose"] == pytest.approx([128, 42.4, 116])


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                (torch.zeros(19, 3), "openpose"),
                "skeleton must be one of reposing19, h36m17, coco18, mediapipe33, cmu38, "
                "got 'openpose'",
            ),
            (
                (torch.zeros(2, 18, 3), "reposing19"),
                "joints must be (..., 19, 3) for skeleton 'reposing19', got (2, 18, 3) float32",
            ),
            (
                (torch.zeros(17, 2), "h36m17"),
                "joints must be (..., 17, 3) for skeleton 'h36m17', got (17, 2) float32",
            ),
            (
                (torch.zeros(19, 3, dtype=torch.int64),),
                "joints must be a floating point tensor, got (19, 3) int64",
            ),
        ],
    )
    def test_joints(self, arguments, message):
        with pytest.raises(ValueError) as caught:
            body_parts(*arguments)
        assert str(caught.value) == message

    def test_no_tensor(self):
        with pytest.raises(TypeError, match="joints must be a torch.Tensor, got list"):
            body_parts([[0.0, 0.0, 0.0]] * 19)

    @pytest.mark.parametrize("voxel", [(4, 4), (4, 0, 8), (4, 4, math.nan), (4, 4, -8)])
    def test_voxel(self, voxel):
        with pytest.raises(ValueError, match="voxel must be three positive numbers of pixels"):
            body_parts(t_pose(), voxel=voxel)
        with pytest.raises(ValueError, match="voxel must be three positive numbers of pixels"):
            part_transforms(body_parts(t_pose()), body_parts(t_pose()), voxel=voxel)

    def test_scale(self):
        with pytest.raises(ValueError, match=r"scale must be \(\) as joints, got \(2\) float32"):
            body_parts(t_pose(), scale=torch.ones(2))

    def test_poses_of_another_number(self):
        one = body_parts(t_pose())
        with pytest.raises(ValueError, match="target must have the leading axes of source"):
            part_transforms(one, body_parts(t_pose()[None]))

    def test_a_skeleton_of_ones_own(self):
        mine = Skeleton("mine", (*JOINTS[::-1],))
        parts = body_parts(t_pose()[: len(JOINTS)].flip(0), mine)
        assert torch.equal(parts.start, body_parts(t_pose()).start)
        with pytest.raises(ValueError, match="skeleton 'mine' has no joint 'rear'"):
            Skeleton("mine", JOINTS[:-1])
        with pytest.raises(ValueError, match="skeleton 'mine' has no joint 'top'"):
            Skeleton("mine", JOINTS, head=Head(("lear", "rear"), ("neck", "top")))


@pytest.mark.parametrize("module", [skeleton, clip])
def test_docstring_examples(module):
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder().find(module, extraglobs={"torch": torch}):
        runner.run(test)
    assert runner.tries > 0 and runner.failures == 0


def test_the_grid_holds_the_frame():
    assert tuple(256 / v + 1 for v in VOXEL) == SIZE[::-1]
