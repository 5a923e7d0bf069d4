# SPDX-License-Identifier: Apache-2.0
"""Metrics of pictures: agreement with scikit-image, closed forms, and what cannot be measured."""

import math

import numpy as np
import pytest
import torch

from models import metrics

PRESETS = ("dsc", "diaf", "warp3d", "lwb", "gfla51")


def pictures(n=2, height=64, width=56, seed=0, noise=30.0):
    """Smooth colors, and the same with noise; not the whole range of values."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 6, 5, generator=generator) * 180 + 30
    truth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    generated = truth + noise * torch.randn(truth.shape, generator=generator)
    return tuple(one.round().clamp(0, 255).to(torch.uint8) for one in (generated, truth))


def images(pictures):
    return pictures.permute(0, 2, 3, 1).numpy()


def of_skimage(a, b, preset, **options):
    """Of two (H, W, 3) uint8 images by the parameters that the evaluation scripts name."""
    structural_similarity = pytest.importorskip("skimage.metrics").structural_similarity
    unit = (a / 255.0, b / 255.0)
    if preset == "dsc":
        given = (a, b)
        options |= {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        options["data_range"] = int(a.max()) - int(a.min())
    elif preset == "diaf":
        given, options["data_range"] = (a, b), 255
    elif preset == "lwb":
        given, options["data_range"] = (unit[0] * 2 - 1, unit[1] * 2 - 1), 2
    elif preset == "gfla51":
        given, options["data_range"], options["win_size"] = unit, 1, 51
    else:
        given = unit
    return structural_similarity(*given, channel_axis=2, **options)


class TestSsim:
    @pytest.mark.parametrize("preset", PRESETS)
    def test_is_that_of_skimage(self, preset):
        generated, truth = pictures()
        whole = {"data_range": metrics.joint_range(generated, truth)} if preset == "warp3d" else {}
        expected = [
            of_skimage(a, b, preset, **whole) for a, b in zip(images(generated), images(truth))
        ]
        assert 0.1 < min(expected) and max(expected) < 0.95
        found = metrics.ssim(generated, truth, preset)
        assert found.tolist() == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("preset", PRESETS)
    def test_of_equal_pictures_is_1(self, preset):
        picture, _ = pictures()
        picture[0] = 77  # flat
        found = metrics.ssim(picture, picture, preset)
        assert found.tolist() == pytest.approx([1, 1], abs=1e-9)

    def test_dsc_pads_with_white(self):
        generated, truth = pictures(1, 256, 176)
        wide = [
            np.pad(images(one)[0], ((0, 0), (40, 40), (0, 0)), constant_values=255)
            for one in (generated, truth)
        ]
        expected = of_skimage(*wide, "dsc")
        assert metrics.ssim(generated, truth, "dsc").item() == pytest.approx(expected, abs=1e-6)
        assert metrics.ssim(generated, truth, "diaf").item() == pytest.approx(
            of_skimage(images(generated)[0], images(truth)[0], "diaf"), abs=1e-6
        )

    def test_range_of_warp3d_is_that_of_the_set(self):
        generated, truth = pictures(3)
        whole = metrics.ssim(generated, truth, "warp3d")
        apart = [
            metrics.ssim(
                a[None], b[None], "warp3d", data_range=metrics.joint_range(generated, truth)
            )
            for a, b in zip(generated, truth)
        ]
        assert torch.equal(whole, torch.cat(apart))
        narrow = metrics.ssim(generated, truth, "warp3d", data_range=0.5)
        assert (narrow < whole).all()

    def test_map_is_that_of_skimage(self):
        generated, truth = pictures(1)
        for preset in ("warp3d", "diaf", "dsc"):
            whole = {}
            if preset == "warp3d":
                whole["data_range"] = metrics.joint_range(generated, truth)
            _, expected = of_skimage(
                images(generated)[0], images(truth)[0], preset, full=True, **whole
            )
            found = images(metrics.ssim_map(generated, truth, preset))[0]
            np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_masked(self):
        generated, truth = pictures(3)
        generated[..., :28] = truth[..., :28]
        mask = torch.zeros(3, 64, 56)
        mask[0], mask[1, :, :20] = 1, 1
        values = metrics.ssim_map(generated, truth)
        found = metrics.masked_ssim(generated, truth, mask)
        assert found[0].item() == pytest.approx(values[0].mean().item())
        assert found[1].item() == pytest.approx(1)
        assert found[2].isnan()  # nothing to measure
        other = metrics.masked_ssim(generated, truth, 1 - mask[:, None])
        assert other[0].isnan() and 0 < other[1] < other[2] < 1

    def test_is_the_same_on_a_batch_and_one_by_one(self):
        generated, truth = pictures(3)
        one = [metrics.ssim(a[None], b[None], "dsc") for a, b in zip(generated, truth)]
        torch.testing.assert_close(metrics.ssim(generated, truth, "dsc"), torch.cat(one))
        assert metrics.ssim(generated[:0], truth[:0], "warp3d").shape == (0,)


class TestMultiScale:
    def test_of_equal_pictures_is_1(self):
        picture, _ = pictures(2, 161, 170)
        assert metrics.ms_ssim(picture, picture).tolist() == pytest.approx([1, 1], abs=1e-9)

    def test_flat_pictures_differ_in_luminance_only(self):
        a = torch.full((1, 3, 176, 176), 100, dtype=torch.uint8)
        c1 = (0.01 * 255) ** 2
        expected = ((2 * 100 * 50 + c1) / (100**2 + 50**2 + c1)) ** 0.1333
        assert metrics.ms_ssim(a, a // 2).item() == pytest.approx(expected, abs=1e-6)

    def test_finest_stripes_are_seen_at_the_finest_scale_only(self):
        flat = torch.full((1, 3, 176, 176), 100, dtype=torch.uint8)
        striped = flat.clone()
        striped[..., ::2] += 20
        flat += 10
        kernel = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
        kernel /= kernel.sum()
        mean = kernel[::2].sum() * 10 - kernel[1::2].sum() * 10  # about 110
        c2 = (0.03 * 255) ** 2
        expected = (c2 / (100 - mean**2 + c2)) ** 0.0448
        assert metrics.ms_ssim(striped, flat).item() == pytest.approx(expected, abs=1e-5)

    def test_small_pictures(self):
        a, b = pictures(1, 160, 200)
        with pytest.raises(ValueError, match=r"at least 161 x 161 pixels, got \(160, 200\)"):
            metrics.ms_ssim(a, b)


def test_psnr_and_l1():
    truth = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    generated = truth.clone()
    generated[1] += 51
    generated[2, 0, 0, 0] = 255
    assert metrics.l1(generated, truth).tolist() == pytest.approx([0, 0.2, 1 / 48])
    expected = [math.inf, 20 * math.log10(5), 10 * math.log10(48)]
    assert metrics.psnr(generated, truth).tolist() == pytest.approx(expected)


def test_bad_arguments():
    a, b = pictures(1)
    for call, message in (
        (lambda: metrics.ssim(a, b, "ssim"), "preset must be one of dsc, diaf, warp3d, lwb, gfla5"),
        (lambda: metrics.ssim(a, b, "dsc", data_range=1.0), "data_range is for warp3d only"),
        (
            lambda: metrics.ssim(a.float(), b),
            r"generated must be \(N, 3, H, W\) uint8, got .*float",
        ),
        (lambda: metrics.psnr(a, b[:, :, :5]), "generated and truth must have one shape"),
        (lambda: metrics.l1(a[0], b[0]), r"generated must be \(N, 3, H, W\) uint8, got \(3, 64"),
        (lambda: metrics.ssim(a[..., :50], b[..., :50], "gfla51"), "at least 51 x 51 pixels"),
        (lambda: metrics.masked_ssim(a, b, torch.ones(1, 9, 9)), r"mask must be \(N, H, W\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
