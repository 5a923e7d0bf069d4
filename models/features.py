# SPDX-License-Identifier: Apache-2.0
"""VGG-19 and VGG-16 as fixed feature extractors for losses and metrics.

Trained weights come from a file in torchvision's format, or are downloaded on request. Without
them the features are random: a loss on them still compares local structure, but it is not the
published one, and `Features.source` says so wherever a result is printed.
"""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

PathLike = str | os.PathLike[str]

# Convolutions per block; widths are 64, 128, 256, 512, 512. And torchvision's file, whose name
# ends in the first digits of its SHA-256.
_BLOCKS = {
    "VGG-19": ((2, 2, 4, 4, 4), "vgg19-dcbb9e9d.pth"),
    "VGG-16": ((2, 2, 3, 3, 3), "vgg16-397923af.pth"),
}
_WIDTHS = (64, 128, 256, 512, 512)
_ADDRESS = "https://download.pytorch.org/models/"

DOWNLOAD = "download"  # as a value of `weights`


class _FrozenConv(nn.Conv2d):
    """A convolution that no checkpoint contains: its weights are no result of a training."""

    def reset_parameters(self) -> None:
        pass  # set by Features, and without a draw from the global generator

    def _save_to_state_dict(self, *_: Any) -> None:
        pass

    def _load_from_state_dict(self, *_: Any) -> None:
        pass


class Features(nn.Module):
    """The layers of a VGG net up to its last ReLU, by name: relu1_1, relu1_2, ... relu5_4.

    Parameters are named as torchvision's (`features.0.weight`, ...), take no gradient and are in
    no state dict. Gradient flows to the pictures only.

    source: what the features are, for printing beside every result.
    """

    mean: Tensor  # (3, 1, 1), as `std`, in the scale of `pixels`
    std: Tensor

    def __init__(
        self,
        name: str,
        weights: PathLike | None = None,
        *,
        width_mult: float = 1.0,
        pixels: Literal["torch", "caffe"] = "torch",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if pixels not in ("torch", "caffe"):
            raise ValueError(f"pixels must be torch or caffe, got {pixels!r}")
        if not 0 < width_mult <= 1:
            raise ValueError(f"width_mult must be above 0 and at most 1, got {width_mult}")
        if weights is not None and width_mult != 1:
            raise ValueError(f"weights {weights} are for width_mult=1, got {width_mult}")
        blocks, file = _BLOCKS[name]
        self.pixels = pixels
        self._at: dict[str, int] = {}  # name -> index of its layer
        layers: list[nn.Module] = []
        channels = 3
        for block, (count, width) in enumerate(zip(blocks, _WIDTHS), start=1):
            width = max(1, round(width * width_mult))
            for number in range(1, count + 1):
                layers.append(_FrozenConv(channels, width, 3, padding=1))
                self._at[f"relu{block}_{number}"] = len(layers)
                layers.append(nn.ReLU(inplace=True))
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-1])  # nothing asks for the last pooling
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        if pixels == "caffe":
            mean, std = (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

        if weights is None:
            self._randomize(seed)
            width_text = "" if width_mult == 1 else f", widths x {width_mult:g}"
            self.source = f"{name}, random features, seed {seed}{width_text}"
        elif weights == DOWNLOAD:
            self._set(_downloaded(file), file)
            self.source = f"{name}, downloaded torchvision weights {file}"
        else:
            self._set(_read(Path(weights)), str(weights))
            self.source = f"{name}, torchvision weights {Path(weights).name}"
        if pixels == "caffe":
            self.source += ", caffe pixels"
        self.requires_grad_(False)
        self.eval()

    @property
    def names(self) -> tuple[str, ...]:
        """The layers that there are, from the first to the deepest."""
        return tuple(self._at)

    def check(self, layers: Iterable[str]) -> None:
        """Raises ValueError for a layer that there is not."""
        for layer in layers:
            if layer not in self._at:
                raise ValueError(
                    f"layers must be of {self.names[0]} ... {self.names[-1]}, got {layer!r}"
                )

    def forward(self, x: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """Activations (N, C, h, w) after the named ReLUs, by name; nothing deeper is computed.

        x: pictures (N, 3, H, W), RGB in [-1, 1]. "torch" pixels are scaled to the mean and
        deviation of ImageNet; "caffe" ones are BGR in 0..255 less their mean, for weights that
        were trained so.

        Raises ValueError for an unknown layer, or pictures that are too small for it.
        """
        wanted = list(layers)
        self.check(wanted)
        if x.dim() != 4 or x.shape[1] != 3:
            raise ValueError(f"pictures must be (N, 3, H, W), got {tuple(x.shape)}")
        places = {self._at[name]: name for name in wanted}
        deepest = max(places, default=-1)
        smallest = 2 ** sum(
            isinstance(one, nn.MaxPool2d) for one in list(self.features)[: deepest + 1]
        )
        if min(x.shape[2:]) < smallest:
            raise ValueError(
                f"{places[deepest]} needs pictures of at least {smallest} x {smallest} pixels, "
                f"got {tuple(x.shape[2:])}"
            )
        x = (x.flip(1) + 1) * 127.5 if self.pixels == "caffe" else (x + 1) / 2
        x = (x - self.mean) / self.std
        found: dict[str, Tensor] = {}
        for index, layer in enumerate(list(self.features)[: deepest + 1]):
            x = layer(x)
            if index in places:
                found[places[index]] = x
        return {name: found[name] for name in wanted}

    def _randomize(self, seed: int) -> None:
        """He's initialization without bias: it keeps the activations of all layers about equal."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in self.features:
                if isinstance(layer, nn.Conv2d):
                    assert layer.bias is not None
                    deviation = math.sqrt(2 / layer.weight[0].numel())
                    layer.weight.normal_(0, deviation, generator=generator)
                    layer.bias.zero_()

    def _set(self, weights: Mapping[str, Any], file: str) -> None:
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                value = weights.get(name)
                if not isinstance(value, Tensor):
                    raise ValueError(f"weights {file} have no {name}: not torchvision's VGG file")
                if value.shape != parameter.shape:
                    raise ValueError(
                        f"weights {file}: {name} must be {tuple(parameter.shape)}, "
                        f"got {tuple(value.shape)}: another network's file"
                    )
                parameter.copy_(value)


def vgg19(
    weights: PathLike | None = None,
    *,
    width_mult: float = 1.0,
    pixels: Literal["torch", "caffe"] = "torch",
    seed: int = 0,
) -> Features:
    """VGG-19: 16 convolutions, relu1_1 to relu5_4.

    Args:
        weights: a .pth or .safetensors file in torchvision's format; "download" for torchvision's
            own (548 MB, into the cache of torch.hub, checked against its SHA-256); None for
            random features, drawn with `seed` and equal in every run.
        width_mult: factor of all widths, for tests; random features only.
        pixels: "torch" for weights trained by torchvision, "caffe" for BGR pixels in 0..255.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
        OSError: it cannot be read, or not be downloaded.

    Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", 2015, table 1, E.
    """
    return Features("VGG-19", weights, width_mult=width_mult, pixels=pixels, seed=seed)


def vgg16(
    weights: PathLike | None = None,
    *,
    width_mult: float = 1.0,
    pixels: Literal["torch", "caffe"] = "torch",
    seed: int = 0,
) -> Features:
    """VGG-16: 13 convolutions, relu1_1 to relu5_3; table 1, D. Else as `vgg19` (528 MB)."""
    return Features("VGG-16", weights, width_mult=width_mult, pixels=pixels, seed=seed)


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights file {path}: name torchvision's .pth, or leave it out for random features"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise OSError(f"cannot read {path}: pip install safetensors") from None
    except OSError as error:
        raise OSError(f"cannot read weights {path}: {error.strerror or error}") from None
    except (RuntimeError, EOFError, pickle.UnpicklingError):
        found = None
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        found = None
    if not isinstance(found, Mapping):
        raise ValueError(f"weights {path} are no file of tensors by name, or a damaged one")
    return found


def _downloaded(file: str) -> Mapping[str, Any]:
    try:
        return torch.hub.load_state_dict_from_url(
            _ADDRESS + file, map_location="cpu", check_hash=True, weights_only=True
        )
    except OSError as error:  # of URLError it is the reason that says something
        reason = getattr(error, "reason", None) or error.strerror or error
        raise OSError(
            f"cannot download {_ADDRESS}{file} ({reason}): fetch it elsewhere and name the file as "
            "weights"
        ) from None
    except RuntimeError as error:  # a wrong checksum
        raise OSError(f"{_ADDRESS}{file} came damaged: {str(error).splitlines()[0]}") from None
