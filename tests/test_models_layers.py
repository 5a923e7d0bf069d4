# SPDX-License-Identifier: Apache-2.0
"""Building blocks: published sizes and counts, gradients, and what the normalizations cancel."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from models import layers


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_patchgan_has_the_published_size():
    # the discriminator of Dense Intrinsic Appearance Flow, as released
    net = layers.PatchGAN(24, norm="batch")
    assert count(net) == 2_787_137
    with torch.device("meta"):
        assert layers.PatchGAN(9)(torch.empty(1, 9, 256, 256)).shape == (1, 1, 30, 30)
    assert layers.PatchGAN(3, base=4)(torch.randn(2, 3, 24, 40)).shape == (2, 1, 1, 3)
    with pytest.raises(ValueError, match=r"at least 24 x 24 pixels, got \(16, 40\)"):
        layers.PatchGAN(3, base=4)(torch.randn(2, 3, 16, 40))


def test_patchgan_sees_70_pixels():
    net = layers.PatchGAN(1, base=2, norm="none")
    picture = torch.randn(1, 1, 128, 128, requires_grad=True)
    net(picture)[0, 0, 7, 7].backward()
    touched = picture.grad[0, 0].nonzero()
    assert (touched.amax(0) - touched.amin(0) + 1).tolist() == [70, 70]


@pytest.mark.parametrize("padding", ["reflect", "zeros"])
def test_residual_block_adds_to_its_input(padding):
    block = layers.ResidualBlock(4, padding=padding)
    x = torch.randn(2, 4, 8, 6)
    layers.init_weights(block)
    assert block(x).shape == x.shape
    assert not torch.equal(block(x), x)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    torch.testing.assert_close(block(x), x)


def test_reflection_padding_is_used():
    block = layers.conv_block(1, 1, norm="none", activation="none", bias=False)
    nn.init.ones_(block[0].weight)
    picture = torch.arange(9.0).reshape(1, 1, 3, 3)
    # the corner's window is [4 3 4; 1 0 1; 4 3 4]
    assert block(picture)[0, 0, 0, 0] == 24


@pytest.mark.parametrize("channels, groups", [(8, 1), (32, 32), (96, 32), (48, 16)])
def test_volume_block_has_32_groups(channels, groups):
    block = layers.VolumeResidualBlock(channels)
    assert [m.num_groups for m in block.modules() if isinstance(m, nn.GroupNorm)] == [groups] * 2
    x = torch.randn(1, channels, 3, 4, 4)
    before = x.clone()
    assert block(x).shape == x.shape
    assert torch.equal(x, before)


def test_sizes_of_blocks():
    x = torch.randn(1, 3, 16, 12)
    assert layers.conv_block(3, 5, 7)(x).shape == (1, 5, 16, 12)
    assert layers.conv_block(3, 5, 3, 2)(x).shape == (1, 5, 8, 6)
    assert layers.conv_block(3, 5, 4, 2, padding="zeros")(x).shape == (1, 5, 8, 6)
    assert layers.up_block(3, 5, 3)(x).shape == (1, 5, 32, 24)
    assert layers.up_block(3, 6, 4, groups=3)(x).shape == (1, 6, 32, 24)


@pytest.mark.parametrize("norm", ["instance", "batch", "group", "none"])
def test_every_parameter_gets_gradient(norm):
    net = nn.Sequential(
        layers.conv_block(3, 8, norm=norm, activation="leaky"),
        layers.ResidualBlock(8, norm),
        layers.up_block(8, 4, norm=norm),
        layers.conv_block(4, 3, norm="none", activation="tanh"),
    )
    net(torch.randn(2, 3, 8, 8)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad.abs().max() > 1e-6, name


def test_init_weights():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(64, 128, 3), nn.BatchNorm2d(128), nn.ConvTranspose2d(128, 64, 4, 2, groups=2)
    )
    frozen = nn.Conv2d(2, 2, 1).requires_grad_(False)
    before = frozen.weight.clone()
    net.append(frozen)
    layers.init_weights(net)
    assert net[0].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert net[1].weight.mean().item() == pytest.approx(1, abs=0.01)
    layers.init_weights(net, "he", slope=0.2)
    assert net[0].weight.var().item() == pytest.approx(2 / 1.04 / (64 * 9), rel=0.02)
    # each result of the transposed convolution sums 64 channels of 2 x 2 pixels
    assert net[2].weight.var().item() == pytest.approx(2 / 1.04 / (64 * 4), rel=0.02)
    assert net[0].bias.abs().max() == 0
    assert torch.equal(frozen.weight, before)


class TestPartialConvolution:
    def test_full_mask_is_a_convolution(self):
        conv = layers.PartialConv2d(3, 4, 3)
        nn.init.normal_(conv.bias)
        x, mask = torch.randn(2, 3, 6, 7), torch.ones(2, 1, 6, 7)
        plain = nn.functional.conv2d(x, conv.conv.weight, padding=1)
        y, known = conv(x, mask)
        bias = conv.bias.view(-1, 1, 1)
        inside = (..., slice(1, -1), slice(1, -1))
        torch.testing.assert_close(y[inside], (plain + bias)[inside])
        # at the border the window holds 6 of 9 pixels, in the corner 4
        torch.testing.assert_close(y[..., 0, 1:-1], (plain * 9 / 6 + bias)[..., 0, 1:-1])
        torch.testing.assert_close(y[..., 0, 0], (plain * 9 / 4 + bias)[..., 0, 0])
        assert known.min() == 1
        all_channels, _ = conv(x, mask.expand(-1, 3, -1, -1))
        torch.testing.assert_close(all_channels, y)

    def test_counts_are_exact_under_autocast(self):
        conv = layers.PartialConv2d(299, 1, 3, bias=False)
        x, mask = torch.randn(1, 299, 5, 5), torch.ones(1, 299, 5, 5)
        with torch.autocast("cpu", torch.bfloat16):
            inside = (..., slice(1, -1), slice(1, -1))  # where the ratio is 1
            assert torch.equal(conv(x, mask)[0][inside], conv.conv(x).float()[inside])

    def test_empty_mask_gives_nothing(self):
        conv = layers.PartialConv2d(3, 4, 3)
        nn.init.ones_(conv.bias)
        y, known = conv(torch.randn(1, 3, 6, 6), torch.zeros(1, 1, 6, 6))
        assert y.abs().max() == 0 and known.max() == 0

    def test_what_is_known_spreads(self):
        mask = torch.zeros(1, 1, 7, 7)
        mask[..., 3, 3] = 1
        _, known = layers.PartialConv2d(2, 2, 3)(torch.randn(1, 2, 7, 7), mask)
        assert known.sum() == 9
        _, known = layers.PartialConv2d(2, 2, 3, 2)(torch.randn(1, 2, 7, 7), mask)
        assert known.shape == (1, 1, 4, 4) and known.sum() == 4

    def test_ratio_of_the_reproduction(self):
        x, mask = torch.randn(1, 3, 5, 5), torch.ones(1, 3, 5, 5)
        conv = layers.PartialConv2d(3, 2, 3, ratio="ksq", bias=False)
        twin = layers.PartialConv2d(3, 2, 3, bias=False)
        twin.load_state_dict(conv.state_dict())
        torch.testing.assert_close(conv(x, mask)[0] * 3, twin(x, mask)[0])

    def test_gradient(self):
        conv = layers.PartialConv2d(2, 3, 3, 2).double()
        mask = (torch.rand(1, 2, 5, 5) > 0.5).double()

        def values(x, weight, bias):
            parts = {"conv.weight": weight, "bias": bias}
            return torch.func.functional_call(conv, parts, (x, mask))[0]

        inputs = (torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3), torch.randn(3))
        assert gradcheck(values, [one.double().requires_grad_() for one in inputs])

    def test_bad_mask(self):
        with pytest.raises(ValueError, match=r"mask must be \(N, 1 or C, H, W\)"):
            layers.PartialConv2d(3, 2)(torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 4, 4))


def test_adaptive_instance_norm_sets_mean_and_deviation():
    x = torch.randn(2, 3, 9, 8) * 5 + 7
    scale, bias = torch.rand(2, 3) + 1, torch.randn(2, 3)
    y = layers.adaptive_instance_norm(x, scale, bias)
    torch.testing.assert_close(y.mean((2, 3)), bias)
    torch.testing.assert_close(y.std((2, 3), correction=0), scale, rtol=1e-4, atol=0)
    inputs = (torch.randn(2, 2, 3, 3), torch.randn(2, 2), torch.randn(2, 2))
    assert gradcheck(
        layers.adaptive_instance_norm, [one.double().requires_grad_() for one in inputs]
    )


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: layers.norm_layer("layer", 3), "norm must be instance, batch, group or none"),
        (lambda: layers.activation_layer("elu"), "activation must be relu"),
        (lambda: layers.init_weights(nn.Conv2d(1, 1, 1), "xavier"), "scheme must be normal or he"),
        (lambda: layers.PartialConv2d(1, 1, ratio="c"), "ratio must be nvidia or ksq"),
    ],
)
def test_bad_names(make, message):
    with pytest.raises(ValueError, match=message):
        make()
