# SPDX-License-Identifier: Apache-2.0
"""Reposing by warping 3D features: counts, every switch, gradients, poses that are hard."""

from dataclasses import replace

import pytest
import torch
from poses import placed_poses, t_pose
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import pose_kernels as pk
from models import systems
from models.system import DISCRIMINATOR, GENERATOR
from models.volume_reposing import Config, VolumeReposing
from models.volume_reposing.body import Grid

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


def test_the_published_shapes():
    """256 x 256 pixels through all networks, without their numbers."""
    with FakeTensorMode():
        system = VolumeReposing(replace(Config(), augment=False, losses=("l1", "gan")))
        batch = {f"{which}_image": torch.rand(2, 3, 256, 256) for which in ("source", "target")}
        batch |= {f"{which}_joints19": torch.rand(2, 19, 3) for which in ("source", "target")}
        image, (source, target) = batch["source_image"], system.bodies(batch)
        assert system.volume(image, source.grid).shape == (2, 64, 33, 65, 65)
        assert target.heat(6.0).shape == (2, 19, 33, 65, 65)
        assert system(batch)["out"].shape == (2, 3, 256, 256)
        heat = target.heat_on_pixels(6.0, 32)
        assert system.discriminator(torch.cat([image, image, heat], 1)).shape == (2,)


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
    terms: dict[str, Tensor] = {}
    for player in stage.turns:
        losses = turn(system, batch, player)
        assert all(value.dim() == 0 and value.isfinite() for value in losses.values())
        for parameter in players[player]:
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all() and parameter.grad.any(), parameter.shape
        terms |= losses
    expected = set(SWITCHES[name].get("losses", ("l1",)))
    expected |= {"discriminator"} if "gan" in expected else set()
    expected |= {"weight_reg"} if "weight_reg" in SWITCHES[name] else set()
    assert set(terms) == expected
    trained = {id(p) for parameters in players.values() for p in parameters}
    assert trained == {id(p) for p in system.parameters() if p.requires_grad}
    system.eval()
    with torch.no_grad():
        lean = {key: batch[key] for key in system.needs if key != "target_image"}
        out = system(lean)["out"]
        assert out.shape == (2, 3, 32, 32)
        if name == "noise":
            assert out.equal(system(lean)["out"])
            assert not out.equal(system.train()(lean)["out"])


def test_the_published_terms():
    """Of logits that are 1: one-sided smoothing in the discriminator's, both halves summed."""
    config = replace(SMALL, losses=("l1", "gan"), weight_reg=1e-4, l1_weight=2.0)
    system, batch = VolumeReposing(config), batch_of()
    with torch.no_grad():
        system.discriminator.layers[-1].weight.zero_()
        system.discriminator.layers[-1].bias.fill_(1)
        terms = system(batch, "train", DISCRIMINATOR) | {
            key: value
            for key, value in system(batch, "train", GENERATOR).items()
            if key != "weight_reg"
        }
        soft = torch.tensor(1.0).exp().log1p()
        kernels = [p for p in system.discriminator.parameters() if p.dim() == 4]
        expected = {
            "discriminator": (soft - 0.875) + soft,
            "weight_reg": 0.5e-4 * sum(kernel.square().sum() for kernel in kernels),
            "gan": torch.tensor(-1.0).exp().log1p(),
            "l1": 2 * (system(batch)["out"] - batch["target_image"]).abs().mean(),
        }
    torch.testing.assert_close(terms, expected)


def test_pictures_and_the_crop():
    system, batch = VolumeReposing(SMALL), batch_of()
    with torch.no_grad():
        columns = system.pictures(batch)
        plain = system(batch)
        system.config = replace(SMALL, legacy_crop=True)
        moved = system(batch)
    assert all(picture.shape == (2, 3, 32, 32) for picture in columns.values())
    assert columns["target parts"].max() > 0.5 and columns["target parts"].min() == -1
    for key in ("out", "fg_mask", "bg"):
        assert moved[key][..., :-1, :-1].equal(plain[key][..., 1:, 1:])


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


def test_where_the_outline_is_empty_there_is_background():
    system = VolumeReposing(SMALL)
    with torch.no_grad():
        system.picture_decoder.head[-1].bias[3] = -1e4
        results = system(batch_of())
    assert not results["fg_mask"].any() and results["out"].equal(results["bg"])
    known = results["known"]
    assert set(known.unique().tolist()) == {0.0, 1.0}


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
    for warp, which, player in (
        ("3d", "source", GENERATOR),
        ("3d", "target", GENERATOR),
        ("2d", "source", GENERATOR),
        ("2d", "target", DISCRIMINATOR),
    ):
        system = VolumeReposing(replace(SMALL, warp=warp, losses=("l1", "gan"), augment=True))
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
                    found = turn(system, batch_of(1, seed=seed), player)
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
    for _ in range(30):
        history.append(turn(system, batch)["l1"].item())
        optimizer.step()
    assert history[-1] < 0.5 * history[0]
