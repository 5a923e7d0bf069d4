# SPDX-License-Identifier: Apache-2.0
"""Reposing by warping 3D features: counts, every switch, gradients, where the parts of it land."""

from dataclasses import replace

import pytest
import torch
from poses import NAMES, bent_pose, placed_poses, t_pose
from torch import Tensor

import pose_kernels as pk
from models import systems
from models.system import DISCRIMINATOR, GENERATOR
from models.volume_reposing import Config, VolumeReposing
from models.volume_reposing.augmentation import MIRRORED, augmented, mirrored, moved
from models.volume_reposing.body import Body, Grid, flattened, transforms
from models.volume_reposing.planar import nearest_warp, planar_transforms
from models.volume_reposing.warping import warped

SMALL = Config.preset(
    "tiny",
    depth=4,
    features=4,
    pose_features=4,
    encoder_widths=(4, 8, 16),
    encoder_units=(1, 1),
    decoder_width=64,
    background_width=4,
    background_levels=3,
    disc_widths=(4, 8, 8, 8),
    disc_depth_bins=2,
    pose_sigma=48.0,
)


def scaled(joints: Tensor, side: int) -> Tensor:
    """From the cube to a picture of that side."""
    return joints.float() * (side / 256)


def batch_of(N: int = 2, side: int = 32, seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    batch = {}
    for which, names in (("source", ("stand", "walk")), ("target", ("lunge", "wave"))):
        batch[f"{which}_image"] = torch.rand(N, 3, side, side, generator=random) * 2 - 1
        batch[f"{which}_joints19"] = scaled(placed_poses(*names)[:N], side)
    return batch


def body(joints: Tensor, side: int = 256, grid: str = "node65", depth: int = 32) -> Body:
    return Body.of(joints, Grid(grid, side, depth))


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def turn(system: VolumeReposing, batch: dict, player: str = GENERATOR) -> dict[str, Tensor]:
    """Losses and gradients of one turn."""
    system.zero_grad()
    losses = system(batch, "train", player)
    torch.stack(list(losses.values())).sum().backward()
    return losses


def test_the_published_sizes():
    with torch.device("meta"):
        system = VolumeReposing(replace(Config(), losses=("l1", "gan")))
    counts = {name: count(module) / 1e6 for name, module in system.named_children()}
    discriminator = counts.pop("discriminator")
    published = {
        "picture_encoder": 1.45,
        "lift": 9.74,
        "volume_encoder": 0.66,
        "pose_encoder": 0.18,
        "volume_decoder": 1.49,
        "picture_decoder": 7.69,
    }
    assert round(counts.pop("background"), 1) == 25.8
    assert {name: round(value, 2) for name, value in counts.items()} == published
    assert 10 < discriminator < 11
    assert tuple(system.discriminator.layers[0].conv.weight.shape[:2]) == (64, 614)
    assert Grid("node65", 256, 32).size == (33, 65, 65)
    assert Grid("node65", 64, 8).size == (9, 17, 17) and Grid("cell64", 64, 8).size == (8, 16, 16)
    assert Grid("node65", 256, 32).voxel == (4, 4, 8)
    assert systems.load("volume_reposing") is VolumeReposing


SWITCHES = {
    "3d, 3d": {},
    "3d, 2d": {"pose": "2d"},
    "2d, 3d": {"warp": "2d"},
    "2d, 2d": {"warp": "2d", "pose": "2d"},
    "no warp": {"warp": "none"},
    "nearest voxel": {"warp": "2d", "warp2d_interp": "nearest"},
    "cells": {"grid": "cell64", "losses": ("l1", "gan")},
    "legacy crop": {"legacy_crop": True},
    "the published losses": {"losses": ("perceptual", "gan"), "weight_reg": 1e-4},
    "legacy means": {"losses": ("perceptual",), "vgg_mode": "caffe_legacy_means"},
    "torch pixels": {"losses": ("l1", "perceptual"), "vgg_mode": "torch"},
    "score of the batch": {"losses": ("l1", "gan"), "d_reduce": "batch"},
    "three depths": {"losses": ("l1", "gan"), "disc_depth_bins": 3},
    "noise": {"noise_channel": True},
    "ksq": {"pconv_ratio": "ksq"},
    "augmented": {"augment": True},
}


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_trains_every_tensor(name):
    torch.manual_seed(0)
    system = VolumeReposing(replace(SMALL, **SWITCHES[name]))
    batch = batch_of()
    (stage,) = system.stages
    players = system.players(stage.name)
    assert set(players) == set(stage.turns)
    for player in stage.turns:
        losses = turn(system, batch, player)
        assert all(value.dim() == 0 and value.isfinite() for value in losses.values())
        for parameter in players[player]:
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all() and parameter.grad.any(), parameter.shape
    expected = set(SWITCHES[name].get("losses", ("l1",)))
    turns = {"gan", "perceptual", "l1"} & set(turn(system, batch))
    assert turns == expected and ("weight_reg" in losses) == (name == "the published losses")
    trained = {id(p) for parameters in players.values() for p in parameters}
    assert trained == {id(p) for p in system.parameters() if p.requires_grad}
    system.eval()
    with torch.no_grad():
        lean = {key: batch[key] for key in system.needs if key != "target_image"}
        results = system(lean)
        assert results["out"].shape == (2, 3, 32, 32)
        assert results["out"].equal(system(lean)["out"])
        assert all(picture.shape == (2, 3, 32, 32) for picture in system.pictures(batch).values())


def test_what_does_not_fit_is_said():
    for changes, message in (
        ({"losses": ("gan",)}, "^--losses must be l1, perceptual or both, with gan, got "),
        ({"grid": "cell64", "legacy_crop": True}, "^--legacy-crop must be false with cell64"),
        ({"disc_units": (1, 1)}, "^--disc-units must be 3 numbers of at least 1"),
        ({"encoder_widths": (6, 8, 8)}, "^--encoder-widths must be 3 multiples of 4"),
        ({"depth": 0}, "^--depth must be at least 1, got 0$"),
        ({"weight_reg": -1.0}, "^--weight-reg must be at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(SMALL, **changes)
    system, batch = VolumeReposing(SMALL), batch_of()
    for crop, message in (
        ((slice(None), slice(28)), "^source_image must be square, got 32 x 28$"),
        ((slice(30), slice(30)), "^source_image must have a side .* multiple of 4, got 30$"),
    ):
        image = batch["source_image"][..., crop[0], crop[1]]
        with pytest.raises(ValueError, match=message):
            system({**batch, "source_image": image})


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


def test_where_the_outline_is_empty_there_is_background():
    system = VolumeReposing(SMALL)
    with torch.no_grad():
        system.picture_decoder.head[-1].bias[3] = -1e4
        results = system(batch_of())
    assert not results["fg_mask"].any() and results["out"].equal(results["bg"])
    known = results["known"]
    assert set(known.unique().tolist()) == {0.0, 1.0}


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


def test_hard_poses_train():
    """Beyond the frame, missing, straight, all in one point, nobody at all: all stays finite."""
    torch.manual_seed(0)
    base = t_pose(torch.float32)
    poses = [
        base,  # every limb straight
        base + torch.tensor([110.0, -60.0, 0.0]),  # half out of the frame
        base + 1e4,
        t_pose(torch.float32, lwri=None, nose=None, rhip=None, lhip=None),
        torch.full((19, 3), torch.nan),
        torch.full((19, 3), 128.0),
        base * torch.tensor([1.0, 0.0, 1.0]),  # flat
    ]
    joints = scaled(torch.stack(poses), 32)
    N = len(poses)
    batch = batch_of(1)
    hard = {key: value.expand(N, *value.shape[1:]).contiguous() for key, value in batch.items()}
    for warp in ("3d", "2d"):
        system = VolumeReposing(replace(SMALL, warp=warp, losses=("l1", "gan"), augment=True))
        for which in ("source", "target"):
            for player in (GENERATOR, DISCRIMINATOR):
                losses = turn(system, {**hard, f"{which}_joints19": joints}, player)
                assert all(value.isfinite() for value in losses.values())
                for parameter in system.players("train")[player]:
                    assert parameter.grad.isfinite().all()


def test_our_kernels_and_the_reference_train_alike():
    losses = {}
    for backend in ("auto", "reference"):
        torch.manual_seed(0)
        system = VolumeReposing(replace(SMALL, losses=("l1", "gan")))
        players = system.players("train")
        optimizers = {name: system.optimizer(name, found) for name, found in players.items()}
        losses[backend] = []
        with pk.use_backend(backend):
            for seed in range(2):
                for player in system.stages[0].turns:
                    found = turn(system, batch_of(seed=seed), player)
                    losses[backend] += [value.item() for value in found.values()]
                    optimizers[player].step()
    assert len(losses["auto"]) == 2 * 3
    torch.testing.assert_close(losses["auto"], losses["reference"], rtol=1e-3, atol=1e-4)


def test_autocast_leaves_the_geometry_alone():
    torch.manual_seed(0)
    system = VolumeReposing(replace(SMALL, losses=("l1", "gan")))
    plain = system(batch_of())
    with torch.autocast("cpu", torch.bfloat16):
        results = system(batch_of())
        losses = turn(system, batch_of())
    assert results["known"].equal(plain["known"])
    torch.testing.assert_close(results["out"].float(), plain["out"], rtol=0, atol=0.1)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())


def test_overfits_one_pair():
    """A few steps on one pair bring the l1 distance down by more than half."""
    torch.manual_seed(0)
    system = VolumeReposing(replace(SMALL, learning_rate=5e-3))
    batch = batch_of(1)
    ramp = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32)
    batch["source_image"], batch["target_image"] = ramp, ramp.mT * 0.8
    optimizer = system.optimizer(GENERATOR, system.players("train")[GENERATOR])
    history = []
    for _ in range(40):
        history.append(turn(system, batch)["l1"].item())
        optimizer.step()
    assert history[-1] < 0.5 * history[0]
