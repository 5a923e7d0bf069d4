# SPDX-License-Identifier: Apache-2.0
"""LPIPS, FID and Inception Score: metrics of trained networks, through torchmetrics.

They need torchmetrics, its own needs (torchvision for LPIPS, torch-fidelity for FID and IS) and
weights that these download. What is not there is `Unavailable`, with the reason; nothing else is
measured in its place.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .ssim import check_pictures

Name = Literal["LPIPS", "FID", "IS"]

# name -> torchmetrics' module and class, what it needs, protocol, weights
_METRICS = {
    "LPIPS": (
        "torchmetrics.image.lpip",
        "LearnedPerceptualImagePatchSimilarity",
        "torchvision",
        "AlexNet",
        "torchvision AlexNet, linear heads of torchmetrics",
    ),
    "FID": (
        "torchmetrics.image.fid",
        "FrechetInceptionDistance",
        "torch_fidelity",
        "pool3 2048, white-padded, against the truth of the pairs",
        "torch-fidelity's Inception of 2015",
    ),
    "IS": (
        "torchmetrics.image.inception",
        "InceptionScore",
        "torch_fidelity",
        "10 splits, shuffled, white-padded",
        "torch-fidelity's Inception of 2015",
    ),
}


class Unavailable(OSError):
    """A metric that cannot be measured here; its text is the reason, in one line."""


class Learned:
    """One learned metric: `update` with every batch; `compute` once, for those of whole sets.

    name, preset, weights: for the report.
    """

    def __init__(self, name: Name, metric: Any, preset: str, weights: str) -> None:
        self.name: Name = name
        self.preset, self.weights = preset, weights
        self.pictures = 0
        self._metric = metric

    @property
    def of_set(self) -> bool:
        """Whether there is one value of the whole set, rather than one per picture."""
        return self.name != "LPIPS"

    @torch.no_grad()
    def update(self, generated: Tensor, truth: Tensor) -> Tensor | None:
        """Take a batch (N, 3, H, W) of uint8 pictures.

        Returns LPIPS (N,), lower is better; None for FID and IS.

        Raises ValueError for other shapes or types.
        """
        check_pictures(generated, truth)
        self.pictures += len(generated)
        if self.name == "LPIPS":
            pairs = zip(generated.float() / 127.5 - 1, truth.float() / 127.5 - 1)
            values = [self._metric(a[None], b[None]).reshape(1) for a, b in pairs]
            return torch.cat(values) if values else generated.new_zeros(0, dtype=torch.float32)
        if not len(generated):
            return None
        if self.name == "FID":
            self._metric.update(_padded(truth), real=True)
            self._metric.update(_padded(generated), real=False)
        else:
            self._metric.update(_padded(generated))
        return None

    @torch.no_grad()
    def compute(self) -> float:
        """FID, lower is better, or the mean Inception Score of the splits, higher is better.

        Raises ValueError with fewer than 2 pictures, for IS fewer than 10.
        """
        if not self.of_set:
            raise ValueError("LPIPS is a mean over pictures: update returns its values")
        least = 2 if self.name == "FID" else 10
        if self.pictures < least:
            raise ValueError(f"{self.name} needs at least {least} pictures, got {self.pictures}")
        value = self._metric.compute()
        return float(value[0] if self.name == "IS" else value)


def learned(
    name: Name, device: torch.device | str = "cpu", *, network: nn.Module | None = None
) -> Learned:
    """The metric LPIPS, FID or IS on a device.

    network: instead of Inception, for FID and IS: uint8 pictures (N, 3, H, W) to features (N, F) or
    logits. Such values compare with none that were published, and their preset says so.

    Raises ValueError for an unknown name, Unavailable with the reason where it cannot be measured.
    """
    if name not in _METRICS:
        raise ValueError(f"metric must be one of {', '.join(_METRICS)}, got {name!r}")
    if network is not None and name == "LPIPS":
        raise ValueError("network is for FID and IS only, got one for LPIPS")
    module, kind, needs, preset, weights = _METRICS[name]
    options: dict[str, Any] = {"net_type": "alex"} if name == "LPIPS" else {}
    if network is not None:
        options["feature"] = network
        preset, weights = f"{preset}, other network", type(network).__name__
    else:
        _import(needs, f"{name} needs {needs.replace('_', '-')}")
    _import("torchmetrics", f"{name} needs torchmetrics")
    try:
        metric = getattr(importlib.import_module(module), kind)(**options)
    except Exception as error:  # whatever a download or an installation that does not fit raises
        raise Unavailable(f"{name}: {_one_line(error)}") from None
    return Learned(name, metric.to(device), preset, weights)


def _import(package: str, what: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError as error:
        name = package.replace("_", "-")
        gone = isinstance(error, ModuleNotFoundError) and error.name == package
        why = f"pip install {name}" if gone else _one_line(error)
        raise Unavailable(f"{what}: {why}") from None
    except Exception as error:  # torchvision beside another torch raises RuntimeError
        logging.getLogger(__name__).debug("import of %s failed", package, exc_info=True)
        raise Unavailable(f"{what}, which does not load: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 300 else text[:297] + "..."


def _padded(pictures: Tensor) -> Tensor:
    """White columns beside pictures that are higher than wide, to a square, as for the SSIM."""
    missing = max(0, pictures.shape[2] - pictures.shape[3])
    return F.pad(pictures, (missing // 2, missing - missing // 2), value=255)
