# SPDX-License-Identifier: Apache-2.0
"""Body parts of 3D joints: literal capsules and points, named skeletons, gaps, transforms."""

from __future__ import annotations

import doctest
import math

import pytest
import torch

from pose_kernels import clip, skeleton
from pose_kernels.body import joints as person
from pose_kernels.clip import place_in_frame
from pose_kernels.person import POSES
from pose_kernels.skeleton import PARTS, SIZE, VOXEL, body_parts, part_transforms
from pose_kernels.skeleton_tables import JOINTS, SKELETONS, Head, Skeleton

# A T pose in pixels, x right, y down, z away; the person faces the viewer. Torso diagonal 50.
T_POSE = {
    "neck": (128, 60, 128),
    "nose": (128, 44, 114),
    "lsho": (148, 60, 128),
    "lelb": (168, 60, 128),
    "lwri": (188, 60, 128),
    "lhip": (138, 100, 128),
    "lkne": (138, 140, 128),
    "lank": (138, 180, 128),
    "rsho": (108, 60, 128),
    "relb": (88, 60, 128),
    "rwri": (68, 60, 128),
    "rhip": (118, 100, 128),
    "rkne": (118, 140, 128),
    "rank": (118, 180, 128),
    "leye": (132, 38, 116),
    "lear": (136, 40, 128),
    "reye": (124, 38, 116),
    "rear": (120, 40, 128),
    "pelv": (128, 100, 128),
}
TORSO, HEAD, LUA, LLA, RUA, RLA, LUL, LLL, RUL, RLL = range(10)
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
NAMES = SKELETONS["reposing19"].joints


def t_pose(dtype: torch.dtype = torch.float64, **changes: object) -> torch.Tensor:
    """The T pose with some joints elsewhere; None is missing."""
    where = {**T_POSE, **changes}
    rows = [(math.nan,) * 3 if where[name] is None else where[name] for name in NAMES]
    return torch.tensor(rows, dtype=dtype)


def bent_pose(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """A pose in which no limb is straight and every point has a weight."""
    return place_in_frame(torch.from_numpy(person(POSES["lunge"]))).to(dtype)


def rotation(*degrees: float) -> torch.Tensor:
    out = torch.eye(3, dtype=torch.float64)
    for axis, angle in enumerate(degrees):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = torch.eye(3, dtype=torch.float64)
        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
        out = turn @ out
    return out


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


@pytest.mark.parametrize("name", SKELETONS)
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

    def test_indices_are_the_published_ones(self, name):
        where = torch.arange(len(SKELETONS[name].joints)).double()[:, None].expand(-1, 3)
        found, _ = SKELETONS[name].canonical_joints(where)
        for joint, index in PUBLISHED[name].items():
            assert found[JOINTS.index(joint)].tolist() == [index] * 3, joint

    def test_derived_face(self, name):
        """h = 20: the ears at c +- 8.4, the eyes and the nose in front of them, toward -z."""
        if SKELETONS[name].head is None:
            pytest.skip("its face is among its joints")
        found, known = SKELETONS[name].canonical_joints(self.joints_of(name))
        face = {joint: found[JOINTS.index(joint)].tolist() for joint in JOINTS}
        assert known.all()
        assert face["lear"] == pytest.approx([136.4, 40, 128])
        assert face["rear"] == pytest.approx([119.6, 40, 128])
        assert face["leye"] == pytest.approx([131.6, 38, 119])
        assert face["reye"] == pytest.approx([124.4, 38, 119])
        assert face["nose"] == pytest.approx([128, 42.4, 116])


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
