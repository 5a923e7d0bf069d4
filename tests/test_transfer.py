# SPDX-License-Identifier: Apache-2.0
"""Texture transfer on tensors: what is painted, what counts as covered, and how it is scored."""

import math
import os
from pathlib import Path

import pytest
import torch

import pose_kernels as pk
from pose_kernels import io, metrics, silhouette
from pose_kernels.commands import transfer_report as report
from pose_kernels.io import IUV
from pose_kernels.people.person import render_person
from pose_kernels.transfer import BACKGROUND, default_radius, paint, transfer_texture


def plane(part: int, height: int = 20, width: int = 30, border: int = 4) -> IUV:
    """One part, u to the right and v upwards over all of [0, 1], in a background border."""
    labels = torch.zeros(height, width, dtype=torch.uint8)
    labels[border:-border, border:-border] = part
    rows, columns = height - 2 * border, width - 2 * border
    uv = torch.zeros(2, height, width)
    uv[0, border:-border, border:-border] = torch.linspace(0, 1, columns)
    uv[1, border:-border, border:-border] = torch.linspace(1, 0, rows)[:, None]
    return IUV(labels, uv)


def test_same_pose_returns_the_photo():
    iuv = plane(3)
    image = torch.rand(3, *iuv.part.shape)
    result = transfer_texture(image, iuv, iuv, 256, samples=1, lift="splat")
    body = iuv.part > 0
    # several pixels can share a texel only where tiles are coarser than the photo: not here
    torch.testing.assert_close(result.image[:, body], image[:, body], rtol=0, atol=2e-3)
    assert (result.image[:, ~body] == BACKGROUND).all()
    assert torch.equal(result.covered(), body) and torch.equal(result.covered(1), body)
    assert result.partial.shape == result.atlas.shape == (24, 3, 256, 256)
    assert [stage.name for stage in result.stages] == ["splat", "fill", "gather"]
    assert {stage.backend for stage in result.stages} == {pk.backends.chosen("uv_splat", "cpu")}


def test_raster_interpolates_where_the_splat_leaves_holes():
    """A coarse photo on a fine tile: most texels are between its pixels."""
    iuv = plane(3)
    image = torch.rand(3, *iuv.part.shape)
    results = {
        lift: transfer_texture(image, iuv, iuv, 256, samples=1, lift=lift)
        for lift in ("splat", "raster")
    }
    body = iuv.part > 0
    splat, raster = results["splat"], results["raster"]
    # peaks at pixels between texels are cut: the pixels lie 11 texels apart
    torch.testing.assert_close(raster.image[:, body], image[:, body], rtol=0, atol=0.1)
    assert torch.equal(raster.covered(0), body)
    assert (raster.weight[2] > 0).all() and (splat.weight[2] > 1e-3).float().mean() < 0.05
    assert raster.hit[2].all() and torch.equal(raster.hit | splat.hit, raster.hit)
    assert not raster.hit[[0, 1, *range(3, 24)]].any()
    assert [stage.name for stage in raster.stages] == ["raster", "fill", "gather"]
    assert (splat.lift, raster.lift) == ("splat", "raster")


def test_target_of_another_size_and_part_is_not_covered():
    image = torch.rand(3, 20, 30)
    result = transfer_texture(image, plane(3), plane(4, 15, 17), 16)
    assert result.image.shape == (3, 15, 17) and not result.covered().any()
    inside = result.foreground
    assert inside.sum() == 7 * 9 and (result.image[:, inside] == 0).all()  # an empty tile stays 0


def test_covered_is_the_distance_to_a_hit_texel():
    """One source pixel at a corner of the tile: coverage grows by squares of texels."""
    size = 9
    source = IUV(torch.tensor([[5]]), torch.tensor([[[0.0]], [[1.0]]]))
    texel = torch.arange(size) / (size - 1)
    target = IUV(
        torch.full((size, size), 5), torch.stack(torch.meshgrid(texel, 1 - texel, indexing="xy"))
    )
    result = transfer_texture(torch.rand(3, 1, 1), source, target, size, radius=2)
    for radius in (0, 1, 5, 8, 100):
        side = min(radius + 1, size)
        expected = torch.zeros(size, size, dtype=torch.bool)
        expected[:side, :side] = True
        assert torch.equal(result.covered(radius), expected)
    assert torch.equal(result.covered(), result.covered(2)) and result.radius == 2
    # between texels, all that are read must be near: here the farther is not
    between = IUV(target.part[:1, :1], torch.tensor([[[2.5 / 8]], [[1.0]]]))
    assert (
        not transfer_texture(torch.rand(3, 1, 1), source, between, size, radius=2).covered().any()
    )


def test_default_radius_is_the_same_share_of_any_tile():
    assert [default_radius(size) for size in (256, 128, 512, 200, 1)] == [12, 6, 24, 9, 0]


def test_an_atlas_is_painted_as_the_official_rule_says():
    """column = u (N-1), row = (1-v) (N-1): sampling at texel centers is plain indexing."""
    side = 20
    atlas = torch.rand(24, 3, side, side)
    part = torch.randint(0, 25, (40, 50))
    column, row = torch.randint(0, side, (2, 40, 50))
    target = IUV(part, torch.stack((column, side - 1 - row)) / (side - 1))
    result = transfer_texture(None, None, target, side, atlas=atlas, samples=1)
    expected = atlas[(part - 1).clamp(min=0), :, row, column].permute(2, 0, 1)
    body = part > 0
    torch.testing.assert_close(result.image[:, body], expected[:, body], rtol=0, atol=1e-5)
    assert torch.equal(result.covered(0), body) and result.partial is None
    mosaic = io.atlas_mosaic(atlas)  # the same texel of the picture of 4 x 6 tiles
    p = (part - 1).clamp(min=0)
    assert torch.equal(mosaic[:, p % 6 * side + row, p // 6 * side + column], expected)


def test_a_given_atlas_fills_only_what_the_photo_does_not_show():
    left = plane(2)
    left.part[:, 15:] = 0
    atlas = torch.full((24, 3, 8, 8), 0.25)
    result = transfer_texture(torch.ones(3, 20, 30), left, plane(2), 64, atlas=atlas, radius=3)
    shown = result.image[0, 10, 4:-4]
    assert (shown[:11] > 0.999).all() and torch.allclose(shown[12:], torch.tensor(0.25))
    assert torch.equal(result.covered(), result.foreground)  # everything has a source now
    other = transfer_texture(torch.ones(3, 20, 30), left, plane(7), 64, atlas=atlas, radius=3)
    torch.testing.assert_close(other.image[:, other.foreground], torch.full((3, 264), 0.25))


def test_background_is_not_lifted_nor_the_mixed_pixels_beside_it():
    iuv = plane(1)
    image = torch.full((3, 20, 30), 0.2)
    background = torch.zeros(20, 30, dtype=torch.bool)
    background[:, 20:] = True
    image[:, :, 19] = 0.6  # half person, half wall
    image[:, :, 20:] = 1.0
    kept = transfer_texture(image, iuv, iuv, 64)
    assert kept.image[:, kept.foreground].max() > 0.9
    result = transfer_texture(image, iuv, iuv, 64, background=background)
    torch.testing.assert_close(result.image[:, result.foreground], torch.full((3, 264), 0.2))
    # the mixed column is evidence of the surface, the wall behind is not
    assert result.covered(0)[10].nonzero().flatten().tolist() == list(range(4, 20))


def test_tears_are_found_at_the_scale_of_the_part():
    iuv = plane(6, 40, 60)
    assert not silhouette.torn(*iuv).any()
    iuv.uv[0, :, 30:-4] -= 0.5  # between columns 29 and 30 the surface hides half of itself
    columns = silhouette.torn(*iuv).any(0).nonzero().flatten().tolist()
    assert columns == list(range(29 - 2, 30 + 3))
    coarse = plane(6, 12, 12)  # steps of a third: large, but this is how far its pixels lie apart
    assert not silhouette.torn(*coarse).any()
    empty = IUV(torch.zeros(1, 1, dtype=torch.uint8), torch.zeros(2, 1, 1))
    assert not silhouette.torn(*empty).any()


@pytest.mark.parametrize("reach", [0, 1, 3, 50])
def test_grow_is_a_square_dilation(reach):
    mask = torch.rand(2, 13, 17) > 0.97
    y, x = torch.meshgrid(torch.arange(13), torch.arange(17), indexing="ij")
    expected = torch.zeros_like(mask)
    for n, i, j in mask.nonzero().tolist():
        expected[n] |= ((y - i).abs() <= reach) & ((x - j).abs() <= reach)
    assert torch.equal(silhouette.grow(mask, reach), expected)


def test_plain_background_is_found_by_color_and_connection():
    iuv = plane(1, 40, 40, 8)
    image = torch.ones(3, 40, 40)
    image[:, 9:31, 9:31] = 0.3  # the person is smaller than the map says
    image[:, 15:20, 15:20] = 1.0  # and has a white patch: not connected, so it is the person's
    expected = torch.ones(40, 40, dtype=torch.bool)
    expected[9:31, 9:31] = False
    assert torch.equal(silhouette.plain_background(image, iuv.part), expected)
    image[:, 17, 12:16] = image[:, 10:18, 12] = image[:, 10, :13] = 1.0  # a winding way in
    expected[17, 12:16] = expected[10:18, 12] = expected[10, 9:13] = expected[15:20, 15:20] = True
    assert torch.equal(silhouette.plain_background(image, iuv.part), expected)
    assert silhouette.plain_background(torch.rand(3, 40, 40), iuv.part) is None
    image[:, 10:22] = 1.0  # half of the body would go: that color is no background
    assert silhouette.plain_background(image, iuv.part) is None
    assert silhouette.plain_background(image, torch.ones(40, 40)) is None  # body up to the border


def test_paint_averages_inside_a_pixel_but_not_across_seams():
    ramp = torch.linspace(0, 1, 64).expand(24, 3, 64, 64).clone()
    iuv = plane(1, 20, 30)
    for samples in (1, 2, 3, 5):  # the mean of a linear function is its value at the center
        inner = paint(ramp, iuv, samples)[0, 5:-5, 5:-5]
        torch.testing.assert_close(inner, iuv.uv[0, 5:-5, 5:-5], rtol=0, atol=1e-5)
    ramp[1] = 9  # a tile that nothing of part 1 may touch
    iuv.part[:, 15:26] = 2
    painted = paint(ramp, iuv, 4)
    assert painted[:, :, :15].max() < 1 and painted[:, 4:-4, 15:26].min() == 9


def test_odd_maps_are_valid_inputs():
    pixel = IUV(torch.tensor([[24]]), torch.tensor([[[0.3]], [[float("nan")]]]))
    for source in (pixel, IUV(torch.zeros(1, 1, dtype=torch.uint8), torch.zeros(2, 1, 1))):
        for size in (1, 2, 7):
            result = transfer_texture(torch.ones(3, 1, 1), source, plane(24), size)
            assert not result.covered().any() and (result.image[:, result.foreground] == 0).all()
            scores = report.score(result, torch.zeros(3, 20, 30))
            assert math.isnan(scores["psnr"]) and scores["coverage"] == 0
    assert not transfer_texture(torch.ones(3, 20, 30), plane(24), pixel, 8).foreground.any()
    beyond = IUV(torch.full((1, 1), 25), torch.zeros(2, 1, 1))  # a label that is no part
    assert not transfer_texture(torch.ones(3, 20, 30), plane(24), beyond, 8).foreground.any()


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(image=None), "image and source must be given together"),
        (dict(image=None, source=None), "an image with its map, or an atlas, must be given"),
        (dict(image=torch.rand(3, 20, 31)), "image is 31 x 20 but its IUV map is 30 x 20 pixels"),
        (dict(atlas=torch.rand(3, 60, 40)), r"atlas must be \(24, 3, S, S\), got \(3, 60, 40\)"),
        (dict(lift="quad"), "lift must be one of 'raster', 'splat', got 'quad'"),
        (dict(samples=0), "samples must be at least 1, got 0"),
        (dict(size=0), "size must be an int of at least 1, got 0"),
    ],
)
def test_bad_input(change, words):
    good = dict(image=torch.rand(3, 20, 30), source=plane(1), target=plane(1), size=8)
    with pytest.raises(ValueError, match=words):
        transfer_texture(**(good | change))


def test_no_gradient_is_recorded():
    image = torch.rand(3, 20, 30, requires_grad=True)
    assert not transfer_texture(image, plane(1), plane(1), 8).image.requires_grad


def test_psnr_by_hand():
    truth = torch.zeros(3, 4, 4)
    image = torch.full((3, 4, 4), 0.1)
    image[:, 0] = 0.5
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[0] = False
    assert metrics.psnr(image, truth, mask) == pytest.approx(20, abs=1e-5)
    assert metrics.psnr(image, truth) == pytest.approx(-10 * math.log10(0.25 / 4 + 0.01 * 3 / 4))
    assert metrics.psnr(truth, truth) == math.inf
    assert math.isnan(metrics.psnr(image, truth, mask & False))
    assert math.isnan(metrics.ssim(image, truth, mask & False))


def test_ssim_by_hand_and_on_a_mask():
    x = torch.rand(3, 30, 40)
    assert metrics.ssim(x, x) == pytest.approx(1)
    a, b = torch.full((1, 9, 9), 0.5), torch.full((1, 9, 9), 0.25)  # constants: luminance only
    assert metrics.ssim(a, b) == pytest.approx((2 * 0.125 + 1e-4) / (0.3125 + 1e-4), abs=1e-6)
    mask = torch.zeros(30, 40, dtype=torch.bool)
    mask[3:20, 5:33] = True
    y = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
    inside = metrics.ssim(x, y, mask)
    y[:, ~mask] = torch.rand(3, int((~mask).sum()))  # what lies outside has no influence
    assert metrics.ssim(x, y, mask) == inside < 1


def test_ssim_equals_the_customary_one_away_from_the_border():
    skimage = pytest.importorskip("skimage.metrics")
    x = torch.rand(3, 30, 40)
    y = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
    ours = metrics.ssim_map(x, y, torch.ones(30, 40, dtype=torch.bool))
    options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0)
    _, theirs = skimage.structural_similarity(
        x.double().numpy(), y.double().numpy(), channel_axis=0, full=True, **options
    )
    assert abs(ours.numpy() - theirs)[:, 5:-5, 5:-5].max() < 1e-9


@pytest.mark.parametrize(
    "image, mask, words",
    [
        (torch.rand(3, 5, 4), None, r"must both be \(C, H, W\), got \(3, 5, 4\) and \(3, 4, 5\)"),
        (torch.rand(3, 4, 5), torch.ones(4, 5), r"mask must be \(H, W\) = \(4, 5\) bool"),
        (torch.rand(3, 4, 5), torch.ones(5, 4) > 0, r"mask must be \(H, W\) = \(4, 5\) bool"),
    ],
)
@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
def test_metrics_of_bad_input(metric, image, mask, words):
    with pytest.raises(ValueError, match=words):
        metric(image, torch.rand(3, 4, 5), mask)


def test_the_built_in_person_beats_the_baselines():
    source, target = (render_person(pose, size=160) for pose in ("stand", "walk"))
    maps = [IUV(rendering.part, rendering.uv) for rendering in (source, target)]
    result = transfer_texture(source.image, *maps, 128)
    scores = report.score(result, target.image, None, source.image, maps[0])
    assert scores["psnr"] > scores["baselines"]["mean_color"] + 3
    assert scores["psnr"] > scores["baselines"]["copy_of_source"] + 6
    assert 0.4 < scores["coverage"] < 1 and scores["ssim"] > 0.6
    reached = [row["coverage"] for row in scores["by_radius"]]
    assert reached == sorted(reached) and scores["whole_map"]["coverage"] == scores["coverage"]


def test_raster_beats_the_splat_where_texels_are_finer_than_the_photo():
    source, target = (render_person(pose, size=128) for pose in ("stand", "walk"))
    maps = [IUV(rendering.part, rendering.uv) for rendering in (source, target)]
    results = [transfer_texture(source.image, *maps, 128, lift=x) for x in ("splat", "raster")]
    both = results[0].covered() & results[1].covered()
    splat, raster = (metrics.psnr(result.image, target.image, both) for result in results)
    assert raster > splat + 0.2


def data(*names: str) -> Path:
    folder = Path(os.environ.get("POSE_KERNELS_DATA", "/nowhere"), *names)
    if not folder.exists():
        pytest.skip("real photos: set POSE_KERNELS_DATA to their folder")
    return folder


def test_real_photo_across_views():
    folder = data("avatar_views")
    images = [io.read_image(folder / f"000{i}.png") for i in (0, 1)]
    maps = [io.read_iuv(folder / f"000{i}_iuv.png") for i in (0, 1)]
    blank = [silhouette.plain_background(x, iuv.part) for x, iuv in zip(images, maps)]
    result = transfer_texture(images[0], *maps, 256, background=blank[0], lift="splat")
    scores = report.score(result, images[1], blank[1], images[0], maps[0])
    assert scores["psnr"] >= 23 and scores["coverage"] >= 0.84
    assert scores["baselines"]["mean_color"] < 18.5  # the mask is not an easy one


def test_raster_beats_the_splat_on_real_photos_of_256_pixels():
    folder, psnr = data("avatar_views"), {}
    images = [io.read_image(folder / f"000{i}.png") for i in (0, 1)]
    maps = [io.read_iuv(folder / f"000{i}_iuv.png") for i in (0, 1)]
    every = ((torch.arange(256) + 0.5) * 1080 / 256 - 0.5).round().long()
    images = [torch.nn.functional.interpolate(x[None], (256, 256), mode="area")[0] for x in images]
    maps = [IUV(part[every][:, every], uv[:, every][:, :, every]) for part, uv in maps]
    blank = [silhouette.plain_background(x, iuv.part) for x, iuv in zip(images, maps)]
    for lift in ("raster", "splat"):
        result = transfer_texture(images[0], *maps, 256, background=blank[0], lift=lift)
        psnr[lift] = report.score(result, images[1], blank[1], images[0], maps[0])["psnr"]
    assert psnr["raster"] > psnr["splat"] + 0.2 and psnr["splat"] > 25


def test_public_atlas_onto_every_person_of_a_street():
    folder = data("densepose_demo")
    atlas = io.read_atlas(folder / "texture_from_SURREAL.png")
    target = io.read_iuv(folder / "demo_im_IUV.png")
    assert atlas.shape == (24, 3, 200, 200)
    body = target.part > 0
    column, row = (target.uv * 199).round().long()
    centers = IUV(target.part, torch.stack((column, row)) / 199)
    painted = transfer_texture(None, None, centers, 200, atlas=atlas, samples=1).image
    official = atlas[(target.part.long() - 1).clamp(min=0), :, 199 - row, column].permute(2, 0, 1)
    torch.testing.assert_close(painted[:, body], official[:, body], rtol=0, atol=1e-4)
