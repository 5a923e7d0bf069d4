# SPDX-License-Identifier: Apache-2.0
"""The synthetic people: meshes, charts, skinning, motion, and pictures that agree with all that."""

import numpy as np
import pytest
import torch

import pose_kernels as pk
from pose_kernels.people.body import chart_surface, tubes
from pose_kernels.people.camera import EVEN, Camera, Light
from pose_kernels.people.mesh import body, topology
from pose_kernels.people.motion import ANGLES, LIMITS, from_vector, random_motion, to_vector
from pose_kernels.people.person import POSES
from pose_kernels.people.pose import Leg, Pose, joints
from pose_kernels.people.render import TOLERANCE, flow, render
from pose_kernels.people.scene import random_camera, random_light
from pose_kernels.people.shape import Shape
from pose_kernels.skeleton_tables import SKELETONS

KINDS = ("stand", "gesture", "walk", "reach", "sit")
SHAPES = (Shape(), Shape.of(3), Shape.of(8))
SIDE = 64


def random_poses(count):
    rng = np.random.default_rng(5)
    return [random_motion(rng, KINDS[n % 5]).at(rng.uniform(0, 5)) for n in range(count)]


def smooth_atlas(side=32):
    """Colors that change slowly along u and v and from part to part: little to interpolate."""
    grid = torch.linspace(0, 1, side)
    u, v = grid.expand(side, side), grid[:, None].expand(side, side)
    shade = torch.linspace(0.1, 0.5, 24)[:, None, None]
    return torch.stack((shade + 0.4 * u, 0.9 - shade - 0.3 * v, 0.3 + 0.3 * u * v + 0 * shade), 1)


def cross(p, q):
    return p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]


@pytest.fixture(scope="module")
def pictures():
    """A person in four poses from four sides, one of them near, without light."""
    cameras = [
        Camera(),
        Camera(yaw=40, pitch=3, roll=4, distance=4.0),
        Camera(yaw=-70, distance=6.0, zoom=1.6, at=(0.4, 0.75)),
        Camera(yaw=165, pitch=12),
    ]
    poses = [POSES["stand"], *random_poses(3)]
    wall = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return render(body(Shape.of(4)), poses, cameras, [EVEN] * 4, smooth_atlas(), wall)


@pytest.mark.parametrize("shape", SHAPES, ids=("reference", "third", "eighth"))
def test_every_tube_is_closed_and_faces_outward(shape):
    mesh = topology()
    vertices, normals, _ = body(shape).posed([Pose(), *random_poses(5)])
    assert vertices.shape[1] == mesh.faces.max() + 1 and 3000 < len(mesh.faces) < 12000
    assert np.abs(np.linalg.norm(normals, axis=2) - 1).max() < 1e-9
    for number in range(len(tubes())):
        faces = mesh.faces[mesh.tube == number]
        edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
        there = set(map(tuple, edges.tolist()))
        assert len(there) == len(edges)  # each edge once in each direction: closed and oriented
        assert there == {(b, a) for a, b in there}
        used = np.unique(faces)
        assert len(used) - len(edges) // 2 + len(faces) == 2  # a sphere
        for points in vertices:
            a, b, c = (points[faces[:, i]] for i in range(3))
            assert (a * np.cross(b, c)).sum() > 0
    a, b, c = (vertices[0][mesh.faces[:, i]] for i in range(3))
    outward = np.cross(b - a, c - a)
    agree = (outward * normals[0][mesh.faces].mean(1)).sum(1)
    assert (agree > 0).mean() > 0.995


def test_charts_are_complete_and_injective():
    """No two triangles of a part's tile overlap: all run the same way, and a place is in one."""
    mesh = topology()
    assert mesh.uv.min() == 0 and mesh.uv.max() == 1
    assert set(mesh.part.tolist()) == set(range(1, 25))
    place = np.random.default_rng(0).uniform(0, 1, (400, 2))
    for part in range(1, 25):
        a, b, c = mesh.uv[mesh.part == part].astype(float).transpose(1, 0, 2)

        def area(p, q, r):
            return cross(q - p, r - p)

        whole = area(a, b, c)
        assert (whole > 0).all()
        sides = [area(p, q, place[:, None]) for p, q in ((a, b), (b, c), (c, a))]
        inside = (np.minimum.reduce(sides) > 1e-9).sum(1)
        assert inside.max() == 1
        assert abs(inside.mean() - whole.sum() / 2) < 0.06
        assert whole.sum() / 2 > (0.6 if part in (3, 4) else 0.75)
    folded = mesh.uv[mesh.part == 2].astype(float)  # control: the criterion sees a fold
    folded[..., 0] = np.abs(folded[..., 0] - 0.5)
    a, b, c = folded.transpose(1, 0, 2)
    assert not (cross(b - a, c - a) > 0).all()


def test_charts_are_where_the_wardrobe_paints():
    """Corners lie at the height along their limb that `chart_surface` tells for their v."""
    mesh = topology()
    pose = Pose(left_leg=Leg(spread=0, twist=0))
    vertices, _, _ = body(Shape()).posed([pose])
    knee = joints(pose)[SKELETONS["reposing19"].joints.index("lkne"), 1]
    hip = joints(pose)[SKELETONS["reposing19"].joints.index("lhip"), 1]
    for part, joint in ((10, hip), (8, hip), (14, knee), (12, knee)):
        chosen = mesh.part == part
        y = vertices[0][mesh.faces[chosen], 1] - joint
        expected, _ = chart_surface(part, mesh.uv[chosen][..., 1].astype(float))
        assert np.abs(y - expected).max() < 2e-3
    with pytest.raises(ValueError, match="part: expected 1..24, got 25"):
        chart_surface(25, np.zeros(1))


def test_joints_move_with_the_surface():
    """In every body and pose a joint is inside of its limb: the ring around it is around it."""
    mesh = topology()
    names = SKELETONS["reposing19"].joints
    for shape in SHAPES:
        vertices, _, places = body(shape).posed(random_poses(5))
        for joint, upper, lower, reach in (
            ("lelb", (15, 17), (19, 21), 0.03),
            ("relb", (16, 18), (20, 22), 0.03),
            ("lkne", (8, 10), (12, 14), 0.035),
            ("rkne", (7, 9), (11, 13), 0.035),
        ):
            shared = np.intersect1d(
                mesh.faces[np.isin(mesh.part, upper)], mesh.faces[np.isin(mesh.part, lower)]
            )
            assert len(shared) >= 12
            middle = vertices[:, shared].mean(1)
            away = np.linalg.norm(middle - places[:, names.index(joint)], axis=1)
            assert away.max() < reach * shape.height


def test_skin_stretches_but_never_tears():
    mesh = topology()
    vertices, _, _ = body(Shape()).posed([Pose(), *random_poses(15)])
    edges = np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]]])
    length = np.linalg.norm(vertices[:, edges[:, 0]] - vertices[:, edges[:, 1]], axis=2)
    assert length.max() < 0.09  # meters
    assert (length[1:] / length[0] < 3).mean() > 0.999


@pytest.mark.parametrize("kind", KINDS)
def test_motion_is_smooth_and_within_the_limits(kind):
    rng = np.random.default_rng(1)
    for _ in range(4):
        motion = random_motion(rng, kind)
        angles = np.stack([to_vector(motion.at(t)) for t in np.arange(0, 3, 1 / 30)])
        assert (angles >= LIMITS[:, 0]).all() and (angles <= LIMITS[:, 1]).all()
        steps = np.abs(np.diff(angles, axis=0)).max(1)
        assert steps.max() < 15 and angles.std(0).max() > 2  # degrees in a thirtieth of a second
        speed = np.diff(angles, axis=0)
        assert np.abs(np.diff(speed, axis=0)).max() < 4
    again = (
        random_motion(np.random.default_rng(7), kind),
        random_motion(np.random.default_rng(7), kind),
    )
    assert again[0].at(1.3) == again[1].at(1.3)


def test_walkers_walk():
    """Legs swing against each other, and the lower foot stays on the ground."""
    motion = random_motion(np.random.default_rng(2), "walk")
    angles = np.stack([to_vector(motion.at(t)) for t in np.arange(0, 4, 0.05)])
    left, right = (angles[:, ANGLES.index(f"{side}_leg.swing")] for side in ("left", "right"))
    assert np.corrcoef(left, right)[0, 1] < -0.95 and left.max() - left.min() > 25
    ankles = np.stack([joints(motion.at(t))[[7, 13], 1] for t in np.arange(0, 2, 0.1)])
    assert (ankles.min(1) < 0.17).all() and ankles.max() > 0.2


def test_angles_go_to_a_vector_and_back():
    for pose in POSES.values():
        assert from_vector(to_vector(pose)) == pose
    with pytest.raises(ValueError, match="kind must be one of stand, .* got 'fly'"):
        random_motion(np.random.default_rng(0), "fly")


def test_cameras():
    """Pixels of known points; what lies nearer is larger and has less depth."""
    points = np.array([[0.0, 0.9, 0.0], [0.0, 0.9, 0.5], [0.3, 0.9, 0.0], [0.3, 1.2, 0.5]])
    flat = Camera(pitch=0, at=(0.5, 0.5)).project(points, 103, 103)
    assert np.allclose(flat[0], (51, 51, 0))
    assert np.allclose(flat[:, 2], (0, -0.5, 0, -0.5))
    assert np.allclose(flat[3, :2], (51 + 15, 51 - 15))  # 50 pixels to the meter
    assert np.allclose(Camera(pitch=0, yaw=90, at=(0.5, 0.5)).project(points, 103, 103)[1, 0], 26)
    assert (
        Camera(pitch=10).project(points, 103, 103)[1, 1]
        > Camera(pitch=0).project(points, 103, 103)[1, 1]
    )
    turned = Camera(pitch=0, roll=10, at=(0.5, 0.5)).project(points, 103, 103)
    assert turned[2, 1] > 51  # clockwise
    near = Camera(pitch=0, distance=2.0, at=(0.5, 0.5)).project(points, 103, 103)
    assert np.allclose(near[3, :2], (51 + 20, 51 - 20)) and near[1, 2] < near[0, 2] == 0
    # Depth stays linear along the picture of a line, as a depth buffer needs it.
    line = points[0] + np.linspace(0, 1, 5)[:, None] * np.array([0.4, 0.2, 0.9])
    x, _, z = Camera(distance=2.0).project(line, 103, 103).T
    assert np.abs(np.polyval(np.polyfit(x, z, 1), x) - z).max() < 1e-9
    skeleton = Camera(pitch=0).skeleton(joints(Pose()), 256, 256)
    assert np.allclose((skeleton[:, 2].min() + skeleton[:, 2].max()) / 2, 128)
    assert skeleton[1, 2] < skeleton[0, 2]  # the nose is nearer than the neck


def test_the_unlit_picture_is_the_atlas(pictures):
    """At one sample a pixel, to the last bit; the middle one of nine has the same part and uv."""
    cameras = [Camera(yaw=30, distance=5.0), Camera(yaw=200)]
    wall = torch.full((1, 3, SIDE, SIDE), 0.25)
    args = body(Shape.of(1)), random_poses(2), cameras, [EVEN] * 2, smooth_atlas(), wall
    views = render(*args, samples=1)
    expected = pk.uv_gather(smooth_atlas().expand(2, -1, -1, -1, -1), views.part, views.uv)
    inside = (views.part > 0)[:, None]
    assert torch.equal(views.image, torch.where(inside, expected, wall))
    assert 300 < inside.sum() < 4000 and not views.uv[~inside.expand(-1, 2, -1, -1)].any()
    fine = render(*args, samples=3)
    same = fine.part == views.part
    assert same.float().mean() > 0.9995
    assert (fine.uv - views.uv).abs().amax(1)[same].max() < 1e-3
    assert (fine.image - views.image).abs().mean() < 0.02  # the mean of what lies around


def test_light():
    """Ambient where the light does not reach, ambient and diffuse where it falls straight on."""
    light = Light((0.0, 0.0, 2.0), (0.3, 0.2, 0.1), (0.5, 0.5, 0.5))
    white, wall = torch.ones(24, 3, 8, 8), torch.zeros(1, 3, SIDE, SIDE)
    views = render(body(Shape()), [Pose()], [Camera()], [light], white, wall, samples=1)
    lit = views.image[0][:, views.part[0] > 0]
    assert torch.allclose(
        lit - lit[:1], torch.tensor([[0.0], [-0.1], [-0.2]]).expand_as(lit), atol=1e-6
    )
    assert lit[0].max() > 0.78 and lit[0].max() < 0.8 + 1e-6 and 0.3 <= lit[0].min() < 0.5


def test_flow_carries_the_surface(pictures):
    """The source at p + flow is the target at p, wherever that is visible."""
    drawn = pictures.drawn
    for target, source in ((1, 0), (0, 1), (2, 0), (1, 2)):
        moved, visibility = flow(drawn, target, source)
        assert torch.equal(visibility == 2, pictures.part[target] == 0)
        assert not moved[:, visibility == 2].any()
        faces = torch.from_numpy(topology().faces)
        own = drawn.vertices[[target]], drawn.vertices[[source]], faces, (SIDE, SIDE)
        expected, coarse = pk.mesh_flow(*own, visibility="zbuffer", tolerance=0.05)
        assert (moved - expected[0]).abs().max() < 2e-3
        assert (visibility == coarse[0]).float().mean() > 0.97
        # Where all four neighbors show the part, uv and color are those of the target.
        part = pictures.part[source].long()
        onehot = torch.nn.functional.one_hot(part, 25).movedim(-1, 0).float()
        around = pk.flow_warp(onehot[None], moved[None])[0]
        whole = around.gather(0, pictures.part[target].long()[None])[0] > 0.999
        seen = (visibility == 0) & whole
        assert seen.sum() > 60
        uv = pk.flow_warp(pictures.uv[[source]], moved[None])[0]
        wrong = (uv - pictures.uv[target]).abs().amax(0)[seen]
        assert wrong.median() < 0.004 and (wrong < 0.06).float().mean() > 0.95
        colors = pk.uv_gather(smooth_atlas().expand(4, -1, -1, -1, -1), pictures.part, pictures.uv)
        wrong = pk.flow_warp(colors[[source]], moved[None])[0] - colors[target]
        wrong = wrong.abs().amax(0)[seen]
        assert wrong.median() < 0.003 and (wrong < 0.05).float().mean() > 0.95


def test_a_pose_sees_all_of_itself(pictures):
    for n in range(4):
        moved, visibility = flow(pictures.drawn, n, n)
        assert not moved.any() and set(visibility.unique().tolist()) == {0, 2}


def test_visibility_is_the_depth_test(pictures):
    """Against all triangles that lie over each point in the source."""
    drawn, faces = pictures.drawn, topology().faces
    for target, source in ((1, 0), (2, 1)):
        moved, visibility = flow(drawn, target, source)
        y, x = (pictures.part[target] > 0).nonzero().numpy().T
        middle = drawn.center
        face = drawn.face[target, middle, middle][y, x].numpy()
        weight = drawn.bary[target, :, middle, middle][:, y, x].numpy().astype(float)
        there = drawn.vertices[source].numpy().astype(float)
        depth = (there[faces[face], 2] * weight.T).sum(1)
        place = np.stack((x, y)) + moved[:, y, x].numpy()
        front = np.full(len(x), np.inf)
        a, b, c = (there[faces[:, i]] for i in range(3))
        for start in range(0, len(x), 100):
            own = slice(start, start + 100)
            p = place[:, own].T[:, None]
            sides = [cross(s[:, :2] - p, t[:, :2] - p) for s, t in ((b, c), (c, a), (a, b))]
            total = sum(sides)
            with np.errstate(all="ignore"):
                share = np.stack(sides) / total
                z = share[0] * a[:, 2] + share[1] * b[:, 2] + share[2] * c[:, 2]
            front[own] = np.where((share >= -1e-9).all(0), z, np.inf).min(1)
        inside = ((place >= 0) & (place <= SIDE - 1)).all(0)
        p, q = np.diff(there[faces[face], :2], axis=1).swapaxes(0, 1)
        facing = cross(p, q) < 0  # rows grow downward
        expected = np.where(inside & facing & (depth <= front + TOLERANCE), 0, 1)
        got = visibility[y, x].numpy()
        assert 0.2 < expected.mean() < 0.8
        assert (got == expected).mean() > 0.985


def test_joints_show_on_their_parts(pictures):
    """Where nothing hides a joint, the picture shows one of the parts that meet there."""
    parts = {
        "lelb": (15, 17, 19, 21), "relb": (16, 18, 20, 22), "lkne": (8, 10, 12, 14),
        "rkne": (7, 9, 11, 13), "lank": (5, 12, 14), "rank": (6, 11, 13), "nose": (23, 24),
        "lwri": (4, 19, 21), "rwri": (3, 20, 22), "leye": (24,), "reye": (23,),
        "lhip": (1, 2, 8, 10), "rhip": (1, 2, 7, 9), "lsho": (1, 2, 15, 17), "rsho": (1, 2, 16, 18),
    }  # fmt: skip
    checked = set()
    for n in range(4):
        for number, name in enumerate(SKELETONS["reposing19"].joints):
            x, y = np.round(pictures.joints[n, number, :2]).astype(int)
            near = pictures.behind[n, number] < (0.03 if name in ("nose", "leye", "reye") else 0.10)
            if name not in parts or not near or not (0 <= x < SIDE and 0 <= y < SIDE):
                continue
            around = pictures.part[n, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            assert set(parts[name]) & set(around.unique().tolist()), (n, name)
            checked.add(name)
    assert len(checked) >= 13


def test_random_scenes():
    """Cameras find the person, whole or at least the upper body; lights are of this world."""
    rng = np.random.default_rng(3)
    for pose in random_poses(10):
        places = joints(pose)
        for yaw in (0, 90):
            camera = random_camera(rng, places, 96, 64, yaw=yaw)
            x, y = camera.project(places, 96, 64)[:, :2].T
            assert y[1] > 0 and y[1] < 48  # the nose
            assert -8 < x[0] < 72 and y[18] < 110
        light = random_light(rng)
        assert light.direction[1] > 0 and light.direction[2] > 0
        assert 0.85 < light.ambient[1] + light.diffuse[1] < 1.15


def test_bodies_differ():
    seen = [Shape.of(n) for n in range(40)]
    assert len(set(seen)) == 40 and Shape.of(5) == Shape.of(5)
    for field in ("height", "legs", "waist", "shoulders", "limbs"):
        values = [getattr(shape, field) for shape in seen]
        assert max(values) - min(values) > 0.05 and 0.75 < min(values) and max(values) < 1.35
    tall, small = (body(Shape(height=h)).posed([Pose()])[0][0, :, 1].max() for h in (1.1, 0.9))
    assert tall / small == pytest.approx(1.1 / 0.9)


def test_bad_arguments():
    wall, args = torch.zeros(1, 3, 8, 8), (body(Shape()), [Pose()], [Camera()])
    with pytest.raises(ValueError, match="samples must be an odd number of at least 1, got 2"):
        render(*args, [EVEN], smooth_atlas(), wall, samples=2)
    with pytest.raises(ValueError, match="must be as many, got 1, 1, 2"):
        render(*args, [EVEN] * 2, smooth_atlas(), wall)
