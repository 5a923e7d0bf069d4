# SPDX-License-Identifier: Apache-2.0
"""Losses and the features they compare."""

import doctest
import math
import urllib.error

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from models import losses
from models.features import vgg16, vgg19


@pytest.fixture(scope="module")
def small():
    return vgg19(width_mult=1 / 16)


def weights_of(features):
    """A state dict as torchvision writes it, with the classifier that is not needed."""
    found = {name: p.clone() for name, p in features.named_parameters()}
    return {**found, "classifier.0.weight": torch.zeros(2, 2)}


class TestFeatures:
    def test_layout_of_torchvision(self):
        with torch.device("meta"):
            features = vgg19()
            assert sum(p.numel() for p in vgg16().parameters()) == 14_714_688
        shapes = {name: tuple(p.shape) for name, p in features.named_parameters()}
        assert sum(math.prod(shape) for shape in shapes.values()) == 20_024_384
        at = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
        assert [name for name in shapes if "weight" in name] == [f"features.{i}.weight" for i in at]
        assert shapes["features.0.weight"] == (64, 3, 3, 3)
        assert shapes["features.34.weight"] == (512, 512, 3, 3)
        assert features.names[0] == "relu1_1" and features.names[-1] == "relu5_4"

    def test_gives_what_was_asked_and_computes_no_more(self, small):
        ran = []
        hooks = [
            layer.register_forward_hook(lambda *_, i=i: ran.append(i))
            for i, layer in enumerate(small.features)
        ]
        found = small(torch.randn(1, 3, 32, 48), ["relu3_1", "relu1_2"])
        for hook in hooks:
            hook.remove()
        assert {name: tuple(x.shape) for name, x in found.items()} == {
            "relu3_1": (1, 16, 8, 12),
            "relu1_2": (1, 4, 32, 48),
        }
        assert list(found) == ["relu3_1", "relu1_2"] and ran == list(range(12))
        assert all(x.min() == 0 and x.max() > 0 for x in found.values())

    def test_deepest_layer_stands_on_its_own(self, small):
        """A layer's activations do not depend on what else is asked for: nothing is overwritten."""
        x = torch.randn(1, 3, 32, 32)
        everything = small(x, small.names)
        for name in ("relu1_1", "relu5_4"):
            torch.testing.assert_close(everything[name], small(x, [name])[name], rtol=0, atol=0)

    def test_gradient_goes_to_the_picture_only(self, small):
        x = torch.randn(1, 3, 16, 16, requires_grad=True)
        small(x, ["relu5_4"])["relu5_4"].sum().backward()
        assert x.grad.abs().max() > 0
        assert not any(p.requires_grad or p.grad is not None for p in small.parameters())

    def test_random_features_are_the_same_in_every_run(self, small):
        state = torch.get_rng_state()
        twin = vgg19(width_mult=1 / 16)
        assert torch.equal(torch.get_rng_state(), state)  # and whatever else is drawn stays so
        assert torch.equal(twin.features[34].weight, small.features[34].weight)
        assert twin.source == "VGG-19, random features, seed 0, widths x 0.0625"

    def test_random_layers_are_comparable(self):
        found = vgg19(width_mult=0.5)(torch.randn(1, 3, 64, 64), vgg19(width_mult=0.1).names)
        size = [x.square().mean().sqrt().item() for x in found.values()]
        assert max(size) < 6 * min(size)

    def test_pixels(self):
        red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
        for pixels, expected in (
            ("torch", [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]),
            ("caffe", [-103.939, -116.779, 255 - 123.68]),
        ):
            features = vgg19(width_mult=0.1, pixels=pixels)
            seen = []
            features.features[0].register_forward_hook(
                lambda _, inputs, __, seen=seen: seen.append(inputs[0])
            )
            features(red, ["relu1_1"])
            torch.testing.assert_close(seen[0][0, :, 0, 0], torch.tensor(expected))

    def test_no_checkpoint_contains_them(self, small):
        system = nn.ModuleDict({"head": nn.Linear(2, 2), "loss": losses.Perceptual(small)})
        assert set(system.state_dict()) == {"head.weight", "head.bias"}
        system.load_state_dict(system.state_dict())

    @pytest.mark.parametrize("ending", ["pth", "safetensors"])
    def test_weights_from_a_file(self, tmp_path, ending, monkeypatch):
        widths = (2, 3, 4, 5, 6)
        monkeypatch.setattr("models.features._WIDTHS", widths)
        given = vgg19(seed=5)
        path = tmp_path / f"vgg19.{ending}"
        if ending == "pth":
            torch.save(weights_of(given), path)
        else:
            pytest.importorskip("safetensors.torch").save_file(weights_of(given), path)
        read = vgg19(path)
        x = torch.randn(1, 3, 16, 16)
        expected = given(x, ["relu5_4"])["relu5_4"]
        torch.testing.assert_close(read(x, ["relu5_4"])["relu5_4"], expected, rtol=0, atol=0)
        assert read.source == f"VGG-19, torchvision weights {path.name}"
        with pytest.raises(ValueError, match="have no features.17.weight: not torchvision's VGG"):
            vgg16(path)
        monkeypatch.setattr("models.features._WIDTHS", (2, 3, 4, 5, 7))
        with pytest.raises(ValueError, match=r"features.28.weight must be \(7, 5, 3, 3\), got \(6"):
            vgg19(path)

    def test_bad_files(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no weights file .*none.pth: name torchvision"):
            vgg19(tmp_path / "none.pth")
        for name in ("damaged.pth", "damaged.safetensors"):
            (tmp_path / name).write_bytes(b"not a file of weights")
            with pytest.raises(ValueError, match=f"{name} are no file of tensors"):
                vgg19(tmp_path / name)
        torch.save([1, 2], tmp_path / "list.pth")
        with pytest.raises(ValueError, match="list.pth are no file of tensors"):
            vgg19(tmp_path / "list.pth")

    @pytest.mark.parametrize(
        "error, message",
        [
            (urllib.error.URLError("no route"), r"cannot download https.*\(no route\): fetch it"),
            (OSError(28, "No space left"), r"cannot download https.*\(No space left\): fetch it"),
            (RuntimeError("invalid hash value"), "dcbb9e9d.pth came damaged: invalid hash value"),
        ],
    )
    def test_download_that_fails(self, monkeypatch, error, message):
        def fail(address, **options):
            assert address.endswith("/vgg19-dcbb9e9d.pth") and options["check_hash"]
            raise error

        monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
        monkeypatch.setattr("models.features._WIDTHS", (1, 1, 1, 1, 1))
        with pytest.raises(OSError, match=message):
            vgg19("download")

    @pytest.mark.parametrize(
        "call, message",
        [
            (lambda f: vgg19(width_mult=2), "width_mult must be above 0 and at most 1, got 2"),
            (lambda f: vgg19("a.pth", width_mult=0.5), "weights a.pth are for width_mult=1"),
            (lambda f: vgg19(pixels="bgr"), "pixels must be torch or caffe"),
            (lambda f: f(torch.zeros(1, 3, 8, 8), ["relu6_1"]), "layers must be of relu1_1 ... r"),
            (lambda f: f(torch.zeros(1, 3, 8, 8), ["relu5_1"]), "relu5_1 needs .* 16 x 16 pixels"),
            (lambda f: f(torch.zeros(3, 8, 8), ["relu1_1"]), r"must be \(N, 3, H, W\)"),
        ],
    )
    def test_bad_arguments(self, small, call, message):
        with pytest.raises(ValueError, match=message):
            call(small)


class TestMasked:
    def test_masked_l1(self):
        a, b = torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2)
        b[0, :, 0, 0] = torch.tensor([1.0, 2.0, 6.0])
        mask = torch.zeros(2, 1, 2, 2)
        mask[0, :, 0, 0] = 1
        # 3 in the one pixel of the first picture, nothing in the second
        assert losses.masked_l1(a, b, mask) == 1.5
        assert losses.masked_l1(a, b, torch.ones(2, 1, 1, 1)) == losses.l1(a, b)
        assert losses.masked_l1(a, b, mask.bool()) == 1.5

    def test_outside_of_the_mask_anything_may_lie(self):
        a = torch.tensor([[[[1.0, float("nan"), float("inf")]]]], requires_grad=True)
        loss = losses.masked_l1(a, torch.zeros(1, 1, 1, 3), torch.tensor([1.0, 0.0, 0.0]))
        loss.backward()
        assert loss == 1 and a.grad.flatten().tolist() == [1, 0, 0]

    @pytest.mark.parametrize(
        "loss",
        [
            losses.masked_l1,
            losses.epe,
            lambda a, b, mask: losses.multi_scale_flow(
                [a], b.repeat(1, 1, 2, 2), mask[..., :1, :1]
            ),
            lambda a, b, mask: losses.multi_scale_flow(
                [a], b.repeat(1, 1, 2, 2), mask[..., :1, :1], masked=True
            ),
        ],
    )
    def test_empty_mask(self, loss):
        a = torch.randn(2, 2, 4, 4, requires_grad=True)
        value = loss(a, torch.randn(2, 2, 4, 4), torch.zeros(2, 1, 4, 4))
        value.backward()
        assert value == 0 and torch.equal(a.grad, torch.zeros_like(a))

    def test_epe(self):
        flow, truth = torch.zeros(1, 2, 1, 3), torch.zeros(1, 2, 1, 3)
        flow[0, :, 0, 0] = torch.tensor([3.0, -4.0])
        flow[0, :, 0, 2] = 99
        mask = torch.tensor([[[1, 1, 0]]], dtype=torch.uint8)
        flow.requires_grad_()
        loss = losses.epe(flow, truth, mask)
        loss.backward()
        assert loss == 2.5
        # of a pixel without error it is 0, not NaN
        assert flow.grad[0, 0, 0].tolist() == pytest.approx([0.3, 0, 0])
        assert losses.epe(flow, truth, mask, "l1") == 3.5

    def test_multi_scale_flow(self):
        flow, mask = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4)
        flow[0, 0, 0, 0], mask[0, 0, 0] = 80.0, 1
        pyramid = [torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 1, 1)]
        # 0.05 * 80 over one of 4 and of 16 pixels
        assert losses.multi_scale_flow(pyramid, flow, mask) == pytest.approx(0.32 + 0.16 / 4)
        masked = losses.multi_scale_flow(pyramid, flow, mask, masked=True)
        assert masked == pytest.approx(0.32 * 4 + 0.16 * 4)

    def test_gradients(self):
        mask = (torch.rand(2, 1, 4, 4) > 0.4).double()
        truth = torch.randn(2, 2, 8, 8).double()
        a = torch.randn(2, 2, 4, 4).double().requires_grad_()
        assert gradcheck(lambda x: losses.masked_l1(x, truth[..., :4, :4], mask), a)
        assert gradcheck(lambda x: losses.epe(x, truth[..., :4, :4], mask), a)
        wide = mask.repeat(1, 1, 2, 2)
        assert gradcheck(lambda x: losses.multi_scale_flow([x], truth, wide, masked=True), a)


class TestGram:
    def test_values_and_gradient(self):
        x = torch.randn(2, 3, 4, 5).double().requires_grad_()
        rows = x.flatten(2)
        expected = torch.einsum("nip,njp->nij", rows, rows)
        torch.testing.assert_close(losses.gram(x, "none"), expected)
        torch.testing.assert_close(losses.gram(x), expected / 60)
        assert gradcheck(losses.gram, x)

    def test_shifted(self):
        x = torch.randn(1, 3, 4, 5).double().requires_grad_()
        torch.testing.assert_close(losses.shifted_gram(x, 0, 0), losses.gram(x))
        expected = torch.einsum("niyx,njyx->nij", x[..., 1:, 2:], x[..., :-1, :-2])
        torch.testing.assert_close(losses.shifted_gram(x, 2, 1, "none"), expected)
        assert gradcheck(lambda x: losses.shifted_gram(x, 2, 1), x)
        with pytest.raises(ValueError, match=r"shifts must be in \[0, 5\) and \[0, 4\), got 5"):
            losses.shifted_gram(x, 5, 0)

    def test_half_types_do_not_overflow(self):
        x = torch.full((1, 2, 64, 64), 8.0)
        with torch.autocast("cpu", torch.bfloat16):
            assert losses.gram(x, "none")[0, 0, 1] == 64 * 64 * 64
            assert losses.gram(x.half(), "none").dtype == torch.float32


class TestOnFeatures:
    def test_perceptual(self, small):
        a, b = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
        layers = ("relu1_2", "relu4_2")
        found, wanted = small(a, layers), small(b, layers)
        for criterion, distance in (
            ("rms", lambda d: d.square().mean((1, 2, 3)).sqrt().mean()),
            ("mse", lambda d: d.square().mean()),
            ("l1", lambda d: d.abs().mean()),
        ):
            loss = losses.Perceptual(small, layers, (1, 0.25), criterion)
            terms = [distance(found[layer] - wanted[layer]) for layer in layers]
            torch.testing.assert_close(loss(a, b), terms[0] + 0.25 * terms[1])

    def test_style(self, small):
        a, b = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
        found, wanted = (small(one, ["relu2_2"])["relu2_2"] for one in (a, b))
        for norm in ("chw", "none"):
            difference = losses.gram(found, norm) - losses.gram(wanted, norm)
            expected = difference.square().sum((1, 2)).sqrt().mean()
            torch.testing.assert_close(losses.Style(small, ["relu2_2"], norm)(a, b), expected)

    @pytest.mark.parametrize("kind", [losses.Perceptual, losses.Style])
    def test_equal_pictures(self, small, kind):
        a = torch.rand(1, 3, 32, 32, requires_grad=True)
        loss = kind(small)(a, a.detach())
        loss.backward()
        assert loss == 0 and torch.equal(a.grad, torch.zeros_like(a))

    @pytest.mark.parametrize("kind", [losses.Perceptual, losses.Style])
    def test_a_split_batch_adds_up(self, small, kind):
        a, b = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
        loss = kind(small)
        halves = (loss(a[:1], b[:1]) + loss(a[1:], b[1:])) / 2
        torch.testing.assert_close(loss(a, b), halves)

    def test_features_run_once_per_picture(self, small):
        terms = {"perceptual": losses.Perceptual(small), "style": losses.Style(small, ["relu1_1"])}
        together = losses.FeatureLosses(small, **terms)
        a, b = torch.rand(1, 3, 32, 32, requires_grad=True), torch.rand(1, 3, 32, 32)
        runs = []
        hook = small.register_forward_hook(lambda *_: runs.append(1))
        found = together(a, b)
        hook.remove()
        assert len(runs) == 2 and list(found) == ["perceptual", "style"]
        for name, term in terms.items():
            torch.testing.assert_close(found[name], term(a, b))
        sum(found.values()).backward()
        assert a.grad.isfinite().all() and a.grad.abs().max() > 0

    def test_autocast(self, small):
        a, b = torch.rand(1, 3, 32, 32, requires_grad=True), torch.rand(1, 3, 32, 32)
        both = losses.FeatureLosses(small, p=losses.Perceptual(small), s=losses.Style(small))
        plain = both(a, b)
        with torch.autocast("cpu", torch.bfloat16):
            half = both(a, b)
        for name, loss in half.items():
            assert loss.dtype == torch.float32
            assert loss.item() == pytest.approx(plain[name].item(), rel=0.1)
        sum(half.values()).backward()
        assert a.grad.isfinite().all() and a.grad.abs().max() > 0

    def test_bad_arguments(self, small):
        for make, message in (
            (lambda: losses.Perceptual(small, ["relu9_1"]), "layers must be of relu1_1"),
            (lambda: losses.Perceptual(small, criterion="l3"), "criterion must be rms, mse or l1"),
            (lambda: losses.Perceptual(small, weights=[1]), "one per layer, got 1 for 5"),
            (lambda: losses.Style(small, norm="hw"), "norm must be chw or none"),
            (
                lambda: losses.FeatureLosses(small, style=losses.Style(vgg19(width_mult=0.1))),
                "style must be made with the same features",
            ),
        ):
            with pytest.raises(ValueError, match=message):
                make()


def test_doctest():
    results = doctest.testmod(losses)
    assert results.attempted > 3 and results.failed == 0


class TestAdversarial:
    def test_least_squares(self):
        real, fake = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0])
        assert losses.lsgan_generator(fake) == 0.5
        assert losses.lsgan_discriminator(real, fake) == 0.5 * 2 + 0.5 * 2

    def test_logistic(self):
        real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5])
        chance = real.sigmoid()
        on_fake = -(1 - fake.sigmoid()).log().mean()
        torch.testing.assert_close(losses.bce_generator(fake), -fake.sigmoid().log().mean())
        for target in (1.0, 0.875):
            on_real = -(target * chance.log() + (1 - target) * (1 - chance).log()).mean()
            loss = losses.bce_discriminator(real, fake, real_target=target)
            torch.testing.assert_close(loss, (on_real + on_fake) / 2)
        assert losses.bce_generator(torch.tensor([-1e4])) == 1e4


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda a: losses.l1(a, a[:, :1]), "a and b must have one shape"),
        (lambda a: losses.masked_l1(a, a, torch.ones(1, 2, 8, 8)), "mask must fit .* broadcasting"),
        (lambda a: losses.epe(a, a, a[:, :1], "l3"), "norm must be l2 or l1, got 'l3'"),
        (lambda a: losses.multi_scale_flow([a[..., :3]], a, a[:, :1]), "must divide the flow's"),
        (lambda a: losses.multi_scale_flow([], a, a[:, :1]), "one per level, got 0 for 0"),
        (lambda a: losses.gram(a, "hw"), "norm must be chw or none"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.randn(1, 2, 4, 4))
