# SPDX-License-Identifier: Apache-2.0
"""Reposing by warping 3D features: where parts and joints lie, and where the warps take them."""

from dataclasses import replace

import pytest
import torch
from poses import NAMES, bent_pose, placed_poses
from torch import Tensor

import pose_kernels as pk
from models.volume_reposing import Config
from models.volume_reposing.augmentation import MIRRORED, augmented, mirrored, moved
from models.volume_reposing.body import Body, Grid, flattened, transforms
from models.volume_reposing.planar import nearest_warp, planar_transforms
from models.volume_reposing.warping import warped


def scaled(joints: Tensor, side: int) -> Tensor:
    """From the cube to a picture of that side."""
    return joints.float() * (side / 256)


def body(joints: Tensor, side: int = 256, grid: str = "node65", depth: int = 32) -> Body:
    return Body.of(joints, Grid(grid, side, depth))


@pytest.mark.parametrize("grid", ["node65", "cell64"])
@pytest.mark.parametrize("side", [256, 64])
def test_parts_are_where_the_joints_are(grid, side):
    """Limbs cover the middle of their bones in the picture; little else."""
    joints = scaled(placed_poses("lunge"), side)
    outline = body(joints, side, grid, depth=32 * side // 256).outline()[0]
    assert outline.shape == (10, side, side)
    bones = {2: ("lsho", "lelb"), 4: ("rsho", "relb"), 6: ("lhip", "lkne"), 8: ("rhip", "rkne")}
    for part, (a, b) in bones.items():
        x, y = (joints[0, NAMES.index(a), :2] + joints[0, NAMES.index(b), :2]).div(2).round().int()
        assert outline[part, y, x], part
        middle = outline[part].nonzero().float().mean(0).flip(0)
        ends = joints[0, [NAMES.index(a), NAMES.index(b)], :2]
        assert (middle - ends.mean(0)).norm() < 0.04 * side, part
    shifted = joints + torch.tensor([0, 0, 50.0])  # an estimator's origin of z is its own
    assert body(shifted, side, grid, 32 * side // 256).outline()[0].equal(outline)


def test_heatmaps_peak_at_the_joints():
    joints = placed_poses("lunge")
    pose = body(joints)
    heat = pose.heat(6.0)
    assert heat.shape == (1, 19, 33, 65, 65)
    for j in range(19):
        z, y, x = torch.unravel_index(heat[0, j].argmax(), heat.shape[2:])
        peak = torch.stack([4 * x, 4 * y, 8 * z])
        assert ((peak - pose.joints[0, j]).abs() <= torch.tensor([2.0, 2.0, 4.0]) + 1e-3).all()
    pixels = pose.heat_on_pixels(6.0, 32).unflatten(1, (19, 32))
    assert pixels.shape == (1, 19, 32, 256, 256)
    assert pixels[:, :, ::4, ::8, ::8].equal(heat[:, :, :32:4, :64:2, :64:2])


def test_in_its_own_pose_a_volume_is_masked():
    """§ where it is not negative; what is negative survives only under all ten parts."""
    pose = body(bent_pose()[None])
    volume = torch.randn(1, 3, 33, 65, 65, generator=torch.Generator().manual_seed(0))
    moves = transforms(pose, pose, Config())
    torch.testing.assert_close(moves, torch.eye(3, 4).expand_as(moves), rtol=0, atol=1e-4)
    masks = pose.masks
    union, common = (masks != 0)[:, None], (masks == 2**10 - 1)[:, None]
    assert 0 < union.float().mean() < 0.2 and not common.any()
    found = warped(volume, pose, pose, Config())
    torch.testing.assert_close(found, volume.clamp(min=0) * union, rtol=0, atol=2e-3)
    flat = warped(volume, pose, pose, replace(Config(), warp="2d"))
    shadow = (flattened(masks) != 0)[:, None, None]
    torch.testing.assert_close(flat, volume.clamp(min=0) * shadow, rtol=0, atol=2e-3)


@pytest.mark.parametrize("warp", ["3d", "2d"])
def test_the_encoder_learns_through_the_warp(warp):
    """From what lies inside of the parts, and from nothing else."""
    source, target = (body(j[None], 64, depth=8) for j in scaled(placed_poses("walk", "wave"), 64))
    volume = torch.rand(1, 2, *source.grid.size, requires_grad=True)
    warped(volume, source, target, replace(Config(), warp=warp)).sum().backward()
    inside = (source.masks != 0)[:, None].expand_as(volume)
    if warp == "2d":
        inside = (flattened(source.masks) != 0)[:, None, None].expand_as(volume)
    assert volume.grad[inside].ne(0).float().mean() > 0.2
    assert not volume.grad[~inside].any()


@pytest.mark.parametrize("warp", ["3d", "2d"])
def test_parts_land_on_the_target(warp):
    """The source's occupancy, moved, lies on the target's parts in the picture; unmoved it does
    not."""
    source, target = (body(j[None]) for j in placed_poses("stand", "lunge"))
    occupied = (source.masks != 0)[:, None].float()
    wanted = flattened(target.masks) != 0

    def share(kind: str) -> float:
        shadow = warped(occupied, source, target, replace(Config(), warp=kind)).amax(2)[:, 0]
        return float((shadow * wanted).sum() / shadow.sum())

    assert share(warp) > 0.85 > share("none") + 0.05


@pytest.mark.parametrize("grid", ["node65", "cell64"])
def test_a_mirrored_pair_has_mirrored_parts(grid):
    """Left for right: of nodes about x = 128, of cells about the picture's middle."""
    joints = placed_poses("lunge", "walk")
    width = 257 if grid == "node65" else 256
    plain, other = body(joints, grid=grid), body(mirrored(joints, width), grid=grid)
    swapped = [0, 1, 4, 5, 2, 3, 8, 9, 6, 7]
    bits = torch.arange(10).view(10, 1, 1, 1)
    parts, flipped = ((b.masks[:, None] >> bits) & 1 for b in (plain, other))
    wrong = flipped.flip(-1)[:, swapped] != parts
    assert wrong.float().mean() < 1e-4 and parts.float().mean() > 1e-3
    order = [NAMES[i] for i in MIRRORED]
    assert order == [
        {"l": "r", "r": "l"}.get(n[0], n[0]) + n[1:] if n[0] in "lr" else n for n in NAMES
    ]
    heat = plain.heat(6.0)
    torch.testing.assert_close(other.heat(6.0).flip(-1)[:, list(MIRRORED)], heat, rtol=0, atol=1e-4)


def test_affine_maps_of_the_plane():
    """Points moved by one map: all parts find it, at the right place in voxels."""
    target = bent_pose()[None]
    matrix = torch.tensor([[0.9, -0.2], [0.2, 0.9]], dtype=torch.float64)
    shift = torch.tensor([12.0, -8.0], dtype=torch.float64)
    source = target.clone()
    source[..., :2] = target[..., :2] @ matrix.T + shift
    moves = planar_transforms(source, target, 4.0)
    expected = torch.eye(3, 4)
    expected[:2, :2], expected[:2, 3] = matrix, shift / 4
    torch.testing.assert_close(moves, expected.expand_as(moves), rtol=0, atol=1e-4)
    source[0, NAMES.index("lwri"), 0] = torch.nan
    lost = planar_transforms(source, target, 4.0).isnan().all((2, 3))[0]
    assert lost.nonzero().flatten().tolist() == [3]


def test_nearest_warp_is_the_warp_at_whole_shifts():
    random = torch.Generator().manual_seed(0)
    volume = torch.randn(1, 2, 3, 7, 8, generator=random)
    mask = torch.randint(0, 4, (1, 7, 8), generator=random, dtype=torch.int32)
    moves = torch.eye(3, 4).repeat(1, 2, 1, 1)
    moves[0, 0, :2, 3] = torch.tensor([2.0, -1.0])
    moves[0, 1, :2, 3] = torch.tensor([-3.0, 2.0])
    masks = mask[:, None].expand(1, 3, 7, 8).contiguous()
    exact = pk.helmert_warp(volume, masks, moves)
    assert nearest_warp(volume, mask, moves).equal(exact)
    near = moves + torch.tensor([0, 0, 0, 0.3]) * torch.tensor([1, -1, 0])[:, None]
    assert nearest_warp(volume, mask, near).equal(exact)
    moves[0, 1] = torch.nan
    alone = pk.helmert_warp(volume, masks & 1, moves[:, :1])
    assert nearest_warp(volume, mask, moves).equal(alone.clamp(min=0))


def test_augmentation_moves_joints_with_the_picture():
    """A light patch at a joint stays at it; source and target get one draw."""
    side = 64
    torch.manual_seed(3)
    joints = scaled(placed_poses("stand", "walk", "wave", "lunge"), side).repeat(4, 1, 1)
    at = NAMES.index("lank")
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    place = joints[:, at, :2].round()
    joints[:, at, :2] = place
    distance = (x - place[:, :1, None]).square() + (y - place[:, 1:, None]).square()
    image = 2 * torch.exp(-distance / 18)[:, None].expand(-1, 3, -1, -1) - 1
    batch = {f"{which}_image": image for which in ("source", "target")}
    batch |= {f"{which}_joints19": joints for which in ("source", "target")}
    results = augmented({**batch, "source_part": torch.zeros(1)})
    assert set(results) == set(batch)
    assert results["source_image"].equal(results["target_image"])
    assert results["source_joints19"].equal(results["target_joints19"])
    new = results["source_joints19"]
    flips = 0
    for n in range(16):
        row, column = divmod(int(results["source_image"][n].mean(0).argmax()), side)
        spot = torch.tensor([column, row])
        found = [(new[n, j, :2] - spot).abs().amax() < 1.5 for j in (at, MIRRORED[at])]
        assert any(found)
        flips += int(found[1] and not found[0])
    assert 2 < flips < 14
    lengths = (
        (new[:, at] - new[:, at - 1]).norm(dim=-1),
        (joints[:, at] - joints[:, at - 1]).norm(dim=-1),
    )
    assert ((lengths[0] / lengths[1] - 1).abs() < 0.35).all()
    still = moved(image, joints, torch.eye(2).expand(16, 2, 2), torch.zeros(16, 2))
    torch.testing.assert_close(still, (image, joints))
