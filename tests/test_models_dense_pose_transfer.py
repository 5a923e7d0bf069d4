# SPDX-License-Identifier: Apache-2.0
"""Dense Pose Transfer: layer counts, every switch, gradients, and what the warping stream keeps."""

import resource
import time
from dataclasses import replace

import pytest
import torch
from conftest import SLOW_TESTS
from torch import Tensor

import pose_kernels as pk
from models.dense_pose_transfer import Config, DensePoseTransfer
from models.dense_pose_transfer.inpainting import inpainting_loss
from models.dense_pose_transfer.pose import planes, pose_planes
from models.dense_pose_transfer.warping import lift, paint
from models.system import DISCRIMINATOR, GENERATOR

SMALL = Config.preset(
    "tiny",
    width=4,
    blocks=1,
    blend_width=4,
    blend_blocks=1,
    tile_size=16,
    fill_radius=0,  # the pixels' own texels: some are left to the inpainting
    inpaint_width=2,
    global_code=8,
    discriminator_width=4,
    keypoint_sigma=24.0,
)


def boxes(N: int, H: int, W: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Part maps of 24 boxes side by side in a background border, smooth uv in each."""
    random = torch.Generator().manual_seed(seed)
    part = torch.zeros(N, H, W, dtype=torch.uint8)
    uv = torch.zeros(N, 2, H, W)
    rows, columns = (H - 2) // 6, (W - 2) // 4
    for n in range(N):
        order = torch.randperm(24, generator=random)
        for i, where in enumerate(order.tolist()):
            y, x = 1 + where // 4 * rows, 1 + where % 4 * columns
            box = (n, slice(y, y + rows), slice(x, x + columns))
            part[box] = i + 1
            uv[n, 0, y : y + rows, x : x + columns] = torch.linspace(0.05, 0.95, columns)
            uv[n, 1, y : y + rows, x : x + columns] = torch.linspace(0.9, 0.1, rows)[:, None]
    return part, uv


def batch_of(N: int = 2, H: int = 32, W: int = 32, views: int = 0, seed: int = 0) -> dict:
    random = torch.Generator().manual_seed(seed)
    batch = {}
    for which, offset in (("source", 0), ("target", 1)):
        batch[f"{which}_image"] = torch.rand(N, 3, H, W, generator=random) * 2 - 1
        batch[f"{which}_part"], batch[f"{which}_uv"] = boxes(N, H, W, seed=2 * seed + offset)
        joints = torch.rand(N, 18, 2, generator=random) * torch.tensor([W - 1.0, H - 1.0])
        joints[:, 3] = -1
        batch[f"{which}_joints18"] = joints
    if views:
        others = [boxes(N, H, W, seed=10 + k) for k in range(views - 1)]
        image = torch.rand(N, views, 3, H, W, generator=random) * 2 - 1
        batch["view_image"] = image
        batch["view_part"] = torch.stack([batch["source_part"], *(o[0] for o in others)], 1)
        batch["view_uv"] = torch.stack([batch["source_uv"], *(o[1] for o in others)], 1)
    return batch


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def turn(system: DensePoseTransfer, batch: dict, stage: str, player: str) -> dict[str, Tensor]:
    """Losses and gradients of one turn."""
    system.zero_grad()
    losses = system(batch, stage, player)
    torch.stack(list(losses.values())).sum().backward()
    return losses


def step(system: DensePoseTransfer, batch: dict, stage: str, player: str) -> None:
    parameters = system.players(stage)[player]
    optimizer = system.optimizer(player, parameters)
    turn(system, batch, stage, player)
    optimizer.step()


def test_the_published_sizes():
    with torch.device("meta"):
        system = DensePoseTransfer(replace(Config(), losses=("l1", "gan")))
    # The published count, 7.83 M, has the 3,712 biases that instance normalization cancels.
    assert count(system.predictive) == 7_822_083 == 7_825_795 - 3_712
    inpainting = system.inpainting
    assert inpainting is not None and inpainting.fusion is not None
    assert round(count(inpainting.encoders) / 1e6, 1) == 12.0
    assert count(inpainting.fusion) == 12_649_984
    assert round(count(inpainting.decoders) / 1e6, 1) == 29.3
    assert round(count(system.blending) / 1e6, 2) == 0.23
    weight = system.discriminator.body[0].weight
    assert tuple(weight.shape[:2]) == (64, 9)
    assert [stage.name for stage in system.stages] == ["predictive", "inpainting", "finetune"]
    assert len({stage.steps for stage in system.stages}) == 1  # 40 epochs each


SWITCHES = {
    "iuv": {},
    "onehot_iuv": {"pose_repr": "onehot_iuv", "modules": "pred"},
    "segm": {"pose_repr": "segm", "modules": "pred"},
    "keypoints": {"pose_repr": "keypoints", "modules": "pred"},
    "mask": {"pose_repr": "mask", "modules": "pred"},
    "mask on the source": {"pose_repr": "mask", "pose_on_source": "true"},
    "iuv of the target only": {"pose_on_source": "false"},
    "pred_blend": {"modules": "pred_blend"},
    "pred_warp_blend": {"modules": "pred_warp_blend"},
    "realism": {"losses": ("realism",), "modules": "pred"},
    "balanced": {"losses": ("balanced",), "gram_norm": "none", "perc_norm": "mse"},
    "l1 gan": {"losses": ("l1", "gan"), "perc_norm": "l1"},
    "l1 perceptual": {"losses": ("l1", "perceptual"), "perc_norm": "l1", "modules": "pred"},
    "quad": {"uv_encode": "quad"},
    "delaunay": {"uv_encode": "delaunay"},
    "six levels": {"tile_size": 64, "inpaint_levels": 6, "inpaint_width": 1},
    "no shared code": {"inpaint_global": False},
    "instance norm": {"inpaint_norm": "instance", "blend_norm": "instance"},
    "autoencoder's texels": {"keep_observed": False},
    "without the inpainting loss": {"finetune_inp_loss": False},
    "four views": {"inpaint_views": 4},
}


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_trains_every_tensor(name):
    if name == "delaunay":
        pytest.importorskip("scipy")
    system = DensePoseTransfer(replace(SMALL, **SWITCHES[name]))
    batch = batch_of(views=4 if name == "four views" else 0)
    trained: set[int] = set()
    for stage in system.stages:
        players = system.players(stage.name)
        assert set(players) == set(stage.turns)
        if stage.name == "finetune" and system.blending is not None:
            # from its start at zero only the last convolution learns: one step on
            step(system, batch, stage.name, GENERATOR)
        for player in stage.turns:
            losses = turn(system, batch, stage.name, player)
            assert all(value.dim() == 0 and value.isfinite() for value in losses.values())
            for parameter in players[player]:
                assert parameter.grad is not None
                assert parameter.grad.isfinite().all() and parameter.grad.any(), parameter.shape
            trained |= {id(parameter) for parameter in players[player]}
    assert trained == {id(p) for p in system.parameters() if p.requires_grad}
    assert trained == {id(p) for p in system.trained()}
    with torch.no_grad():
        lean = {key: batch[key] for key in system.needs if key != "target_image"}
        assert system(lean)["out"].shape == (2, 3, 32, 32)


def test_the_terms_of_the_last_stage():
    assert Config().terms == ("l1", "perceptual", "style", "gan")
    assert replace(SMALL, losses=("realism",)).terms == ("l1", "style")
    for losses in ((), ("gan",), ("l1", "structure"), ("l1", "l1")):
        with pytest.raises(ValueError, match="^--losses must be l1 with any of"):
            replace(SMALL, losses=losses)
    with pytest.raises(ValueError, match="^--tile-size must be a multiple of 16 .*, got 24$"):
        replace(SMALL, tile_size=24)
    with pytest.raises(ValueError, match="^--inpaint-views must be at least 1, got 0$"):
        replace(SMALL, inpaint_views=0)
    with pytest.raises(ValueError, match="multiples of 4, got 30 x 32$"):
        DensePoseTransfer(SMALL)(batch_of(H=30))


def test_pose_planes():
    """Numbers of planes as published, background and missing joints."""
    batch = batch_of(1)
    for kind, total in (("mask", 4), ("segm", 27), ("keypoints", 21), ("iuv", 9)):
        config = replace(SMALL, pose_repr=kind, modules="pred")
        system = DensePoseTransfer(config)
        assert system.predictive.layers[0][0].weight.shape[1] == total
        assert pose_planes(batch, "target", kind).shape == (1, planes(kind), 32, 32)
    batch["target_part"][0, 5, 5] = 6
    batch["target_uv"][0, :, 5, 5] = torch.tensor([0.25, 1.0])
    iuv = pose_planes(batch, "target", "iuv")
    assert iuv[0, :, 5, 5].tolist() == [-0.5, -0.5, 1.0] and iuv[0, :, 0, 0].tolist() == [-1] * 3
    one_hot = pose_planes(batch, "target", "onehot_iuv")
    assert one_hot[0, :24].sum(0).equal((batch["target_part"][0] > 0).float())
    assert one_hot[0, 5, 5, 5] == 1 and one_hot[0, 24:, 5, 5].tolist() == [-0.5, 1.0]
    maps = pose_planes(batch, "target", "keypoints", sigma=24.0)
    assert not maps[0, 3].any() and (maps[0].flatten(1).amax(1) > 0.9).sum() == 17


def test_blending_starts_at_the_predicted_picture():
    results = DensePoseTransfer(SMALL)(batch_of())
    assert results["out"].equal(results["pred"])


def smooth(N: int, H: int, W: int) -> Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, H), torch.linspace(-1, 1, W), indexing="ij")
    return torch.stack([x, y, (x + y) / 2]).expand(N, 3, H, W).contiguous()


@pytest.mark.parametrize("encode", ["quad", "splat", "delaunay"])
def test_texture_returns_to_its_own_pose(encode):
    """Lifted and painted in the same pose, a picture is itself where its texels are known."""
    if encode == "delaunay":
        pytest.importorskip("scipy")
    part, uv = boxes(2, 50, 50)
    image = smooth(2, 50, 50)
    body = (part > 0)[:, None]
    texture, mask = lift(image, part, uv, size=48, encode=encode, max_edge=0.4)
    assert texture.shape == (2, 24, 3, 48, 48) and mask.shape == (2, 24, 1, 48, 48)
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert not texture[mask.expand_as(texture) == 0].any()
    # texels past a part's outermost pixels are not known: they belong to no pixel's color alone
    warp, known = paint(texture, part, uv, mask)
    inside = known.expand_as(warp) > 0.999
    assert inside.any(1).float().sum() > 0.55 * body.sum() and not known[~body].any()
    torch.testing.assert_close(warp[inside], image[inside], rtol=0, atol=0.05)
    flat, _ = lift(torch.full_like(image, 0.25), part, uv, size=48, encode=encode, max_edge=0.4)
    assert (flat[mask.expand_as(flat) > 0] - 0.25).abs().max() < 1e-5


def test_the_full_stream_keeps_the_source_in_its_own_pose():
    """Also between the inpainted texels; the pictures differ only where the source shows none."""
    batch = batch_of(H=48, W=48)
    batch["source_image"] = smooth(2, 48, 48)
    for key in ("part", "uv"):
        batch[f"target_{key}"] = batch[f"source_{key}"]
    system = DensePoseTransfer(replace(SMALL, tile_size=48))
    results = system(batch)
    known = pk.uv_gather(results["tex_mask"], batch["source_part"], batch["source_uv"]) > 0.999
    assert known.float().mean() > 0.4
    known = known.expand_as(results["warp"])
    torch.testing.assert_close(
        results["warp"][known], batch["source_image"][known], rtol=0, atol=0.05
    )
    assert results["warp_mask"].equal((batch["source_part"] > 0)[:, None].float())
    assert not results["warp"][:, :, 0].any()  # the border is background
    assert (results["tex_full"] != results["tex"]).any()


def test_tiles_never_mix():
    colors = torch.arange(1.0, 25).view(1, 24, 1, 1, 1).expand(2, 24, 1, 8, 8).contiguous()
    part, uv = boxes(2, 32, 32)
    labels, body = paint(colors, part, uv)
    torch.testing.assert_close(labels[:, 0], part.float(), rtol=0, atol=1e-5)
    assert body[:, 0].equal((part > 0).float())


def test_inpainting_loss_counts_what_a_view_shows():
    predicted = torch.zeros(2, 24, 3, 4, 4)
    textures = torch.ones(2, 3, 24, 3, 4, 4)
    masks = torch.zeros(2, 3, 24, 1, 4, 4)
    textures[0, 0] = 3.0
    masks[0, 0, 5, 0, 1, 2] = 1  # one texel, off by 3
    masks[0, 1] = 1  # all of them, off by 1; the third view and the second person show nothing
    assert float(inpainting_loss(predicted, textures, masks)) == pytest.approx((3 + 1) / 2 / 2)


def test_further_views_supervise_the_inpainting():
    """The views after the first, which is the source again, count up to the number asked for."""
    batch = batch_of(views=4)
    system = DensePoseTransfer(SMALL)
    losses = {}
    for number in (1, 2, 3, 4, 9):
        system.config = replace(SMALL, inpaint_views=number)
        losses[number] = system(batch, "inpainting", GENERATOR)["inpaint"].item()
    assert len(set(losses.values())) == 5
    batch["view_part"][:, 1:] = 0  # and none that shows nobody
    system.config = replace(SMALL, inpaint_views=9)
    assert system(batch, "inpainting", GENERATOR)["inpaint"].item() == pytest.approx(losses[2])


def test_our_kernels_and_the_reference_train_alike():
    losses = {}
    for backend in ("auto", "reference"):
        torch.manual_seed(0)
        system = DensePoseTransfer(replace(SMALL, losses=("l1", "gan")))
        with pk.use_backend(backend):
            losses[backend] = []
            batch = batch_of()
            for stage in system.stages:
                for player in stage.turns:
                    step(system, batch, stage.name, player)
                    found = turn(system, batch, stage.name, player)
                    losses[backend] += [value.item() for value in found.values()]
    assert len(losses["auto"]) == 6
    torch.testing.assert_close(losses["auto"], losses["reference"], rtol=1e-3, atol=1e-4)


def test_autocast_leaves_the_geometry_alone():
    """In bfloat16 uv would be off by a texel: the painted picture would show it."""
    batch = batch_of(H=48, W=48)
    batch["source_image"] = smooth(2, 48, 48)
    system = DensePoseTransfer(replace(SMALL, modules="pred_warp_blend", tile_size=48))
    plain = system(batch)["warp"]
    with torch.autocast("cpu", torch.bfloat16):
        results = system(batch)
        assert results["pred"].dtype == torch.bfloat16
        losses = turn(system, batch, "finetune", GENERATOR)
    torch.testing.assert_close(results["warp"].float(), plain, rtol=0, atol=0.01)
    assert all(value.dtype == torch.float32 for value in losses.values())


def test_overfits_one_pair():
    """To 25 dB, within few steps of the last stage."""
    batch = batch_of(1)
    batch["source_image"], batch["target_image"] = smooth(1, 32, 32), -smooth(1, 32, 32)
    system = DensePoseTransfer(replace(SMALL, width=8, blend_width=8, learning_rate=5e-3))
    parameters = system.players("finetune")[GENERATOR]
    optimizer = system.optimizer(GENERATOR, parameters)
    for _ in range(40):
        turn(system, batch, "finetune", GENERATOR)
        optimizer.step()
    error = (system(batch)["out"] - batch["target_image"]).square().mean() / 4
    assert -10 * error.log10() > 25


@pytest.mark.skipif(not SLOW_TESTS, reason="slow: POSE_KERNELS_SLOW_TESTS=1")
def test_the_paper_preset_takes_a_step():
    """At 256 x 256, all losses, both turns of the last stage, one pair."""
    torch.manual_seed(0)
    system = DensePoseTransfer(Config())
    batch = batch_of(1, 256, 256)
    before = {name: value.clone() for name, value in system.state_dict().items()}
    start = time.perf_counter()
    for player in (GENERATOR, DISCRIMINATOR):
        step(system, batch, "finetune", player)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"a step took {time.perf_counter() - start:.1f} s; peak memory {peak:.1f} GiB")
    changed = [name for name, value in system.state_dict().items() if not value.equal(before[name])]
    for module in ("predictive", "inpainting", "blending", "discriminator"):
        assert any(name.startswith(module) for name in changed), module
