# SPDX-License-Identifier: Apache-2.0
"""``python -m pose_kernels``: what is installed, what runs where, and why. Made to be pasted."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import time
from collections.abc import Iterator
from importlib import metadata

import torch
from torch import Tensor

import pose_kernels as pk

from .. import backends
from ..autograd import OPERATORS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def run(args: argparse.Namespace) -> int:
    """Print the report; 0 when the self test passed on every device, 1 when it did not."""
    print("pose_kernels doctor - paste this into an issue\n")
    _versions()
    _libraries()
    _backend_table()
    return 0 if _self_test() else 1


def _row(name: str, value: object) -> None:
    print(f"  {name:<28}{value}")


def _versions() -> None:
    print("versions")
    _row("pose_kernels", f"{pk.__version__} in {os.path.dirname(pk.__file__)}")
    _row("python", f"{platform.python_version()} on {platform.platform()}")
    _row("torch", f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})")
    _row("triton", _version_of("triton"))
    _row("threads", torch.get_num_threads())
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(index)
            _row(f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, sm_{major}{minor}")
    else:
        _row("cuda devices", "none")


def _version_of(package: str) -> str:
    if importlib.util.find_spec(package) is None:
        return "not installed"
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "installed, version unknown"


def _libraries() -> None:
    print("\ncompiled libraries")
    info = backends.build_info()
    for backend, library in (("cpp", "_C_cpu"), ("cuda", "_C_cuda")):
        entry = (info.get("built") or {}).get(library) or {}
        archs = f", architectures {' '.join(entry['archs'])}" if entry.get("archs") else ""
        loaded = backends.unavailable.get(backend)
        _row(library, f"not loaded: {loaded}" if loaded else f"loaded{archs}")
    for name, value in info.items():
        if name not in ("built", "missing") and value:
            _row(name, value)


def _backend_table() -> None:
    print("\nbackends")
    asked = os.environ.get("POSE_KERNELS_BACKEND")
    _row("in force", backends.current() + (f" (POSE_KERNELS_BACKEND={asked})" if asked else ""))
    for name, why in backends.unavailable.items():
        _row(f"no {name}", why)
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    _row("op", "  ".join(f"on {device:<9}" for device in devices))
    for op in OPERATORS:
        _row(op, "  ".join(f"{backends.chosen(op, device):<12}" for device in devices))


def _self_test() -> bool:
    """Every op against its reference on small random data, and one gradient, per device."""
    print("\nself test")
    passed = True
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    for device in devices:
        start = time.perf_counter()
        try:
            error = _largest_error(torch.device(device))
            fine = error < 1e-5
            outcome = f"largest difference to the reference {error:.1e}"
        except Exception as failure:  # the report must reach the reader whatever broke
            fine, outcome = False, f"{type(failure).__name__}: {failure}"
        seconds = time.perf_counter() - start
        _row(device, f"{'ok' if fine else 'FAILED'}: {outcome} ({seconds:.2f} s)")
        passed = passed and fine
    return passed


def _largest_error(device: torch.device) -> float:
    pairs = [*_surface(device), *_image(device), *_volume(device)]
    return max(float((a.double() - b.double()).detach().abs().max()) for a, b in pairs)


def _surface(device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 24, 24, generator=generator).to(device).requires_grad_()
    part = torch.randint(0, 5, (2, 24, 24), generator=generator).to(device)
    uv = torch.rand(2, 2, 24, 24, generator=generator).to(device)
    results = []
    for ops in (pk, pk.reference):
        atlas, weight = ops.uv_splat(image, part, uv, num_parts=4, size=16)
        filled = ops.push_pull(atlas, weight)
        painted = ops.uv_gather(filled, part, uv)
        (gradient,) = torch.autograd.grad(painted.square().sum(), image)
        results.append((atlas, weight, filled, painted, gradient))
    return zip(*results, strict=True)


def _image(device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 24, 24, generator=generator).to(device).requires_grad_()
    flow = torch.randn(2, 2, 24, 24, generator=generator).to(device) * 3
    center = torch.tensor([[0.2, 9.4], [12.1, 23.7]], device=device).expand(2, 2, 2)
    part = torch.ones(2, 24, 24, dtype=torch.int64, device=device)
    grid = (torch.arange(24, device=device) + 0.5) / 24
    uv = torch.stack(torch.meshgrid(grid, grid, indexing="ij")).expand(2, 2, 24, 24)
    results = []
    for ops in (pk, pk.reference):
        warped = ops.flow_warp(image, flow)
        crops, origin = ops.region_crop(image, center, 8)
        atlas, mask = ops.uv_raster(image, part, uv, num_parts=2, size=16)
        loss = warped.square().sum() + crops.square().sum() + atlas.square().sum()
        (gradient,) = torch.autograd.grad(loss, image)
        results.append((warped, crops, origin, atlas, mask, gradient))
    return zip(*results, strict=True)


def _volume(device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    start, end = (torch.rand(2, 6, 3, generator=generator).to(device) * 9 for _ in range(2))
    radius = torch.full((2, 6), 2.5, device=device)
    part = torch.arange(6, device=device) % 3
    volume = torch.randn(2, 8, 10, 11, 12, generator=generator).to(device).requires_grad_()
    moved = start + torch.rand(2, 6, 3, generator=generator).to(device)
    results = []
    for ops in (pk, pk.reference):
        mask = ops.capsule_mask(
            start, end, radius, part, size=(10, 11, 12), num_parts=3, packed=False, softness=0.3
        )
        fits = ops.helmert_fit(moved.reshape(2, 3, 2, 3), start.reshape(2, 3, 2, 3))
        warped = ops.helmert_warp(volume, mask, fits)
        maps = ops.heatmap(start, (10, 11, 12), 1.5)
        drawn = ops.mesh_raster(start, torch.arange(6, device=device).view(2, 3), (10, 11))
        (gradient,) = torch.autograd.grad(warped.square().sum(), volume)
        results.append((mask, fits, warped, maps, *drawn, gradient))
    return zip(*results, strict=True)
