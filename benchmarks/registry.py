# SPDX-License-Identifier: Apache-2.0
"""What a benchmark of an op consists of.

``bench_<op>.py`` is a module with

    CASES               what is timed; those with main=True also under --quick
    DIFFERENTIABLE      names of the inputs that gradients are taken for, the features first
    inputs(case, device)        the op's tensors by name, in order
    providers(case, device)     who computes it: ours, plain PyTorch, peers
    reference(case, **inputs)   the specification, pk.reference
    bytes_moved(case), flops(case)
                        what any implementation has to move and to calculate: each needed input
                        byte read once, each output byte written once, whatever the caches do

and a line in MODULES. A provider is timed only after it has been found to agree with the
specification (agreement.py).
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

import pose_kernels as pk

MODULES = {
    "uv_splat": "benchmarks.bench_uv_splat",
    "uv_raster": "benchmarks.bench_uv_raster",
    "uv_gather": "benchmarks.bench_uv_gather",
    "push_pull": "benchmarks.bench_push_pull",
    "capsule_mask": "benchmarks.bench_capsule_mask",
    "helmert_fit": "benchmarks.bench_helmert_fit",
    "helmert_warp": "benchmarks.bench_helmert_warp",
    "heatmap": "benchmarks.bench_heatmap",
    "region_crop": "benchmarks.bench_region_crop",
    "mesh_raster": "benchmarks.bench_mesh_raster",
    "flow_warp": "benchmarks.bench_flow_warp",
}
DIRECTIONS = ("forward", "backward", "both")
KINDS = ("ours", "eager", "smart", "compiled", "peer", "earlier")  # earlier: run.py --compare


class Case(Protocol):
    """One problem to be timed: sizes, layout, data, and the direction."""

    direction: str  # one of DIRECTIONS
    dtype: torch.dtype
    main: bool

    @property
    def title(self) -> str: ...

    def small(self) -> Case:
        """The same problem at a size where everything takes milliseconds, in float64."""
        ...


def _same(x: Any) -> Any:
    return x


@dataclasses.dataclass(frozen=True)
class Provider:
    """One way to compute an op.

    call takes the op's inputs in order and returns its outputs, the differentiable one first.
    Baselines may return any strides: what suits them best is not held against them.
    """

    name: str
    kind: str  # one of KINDS; the speed-up over a kind is the one over its fastest provider
    call: Callable[..., tuple[Any, ...]]
    gradients: bool = True
    float64: bool = True  # False: the formula is checked in float32
    note: str = ""  # a deviation from the op, shown under the table
    available: str | None = None  # the module it needs
    synchronizes: bool = False  # reads a size back (nonzero): no CUDA graph can hold it
    specification: bool = False  # at full size, what the others are held against
    coordinate_scale: float = 1.0  # texels of its coordinate system per texel of a tile's side
    # Layouts of its own, converted outside the clock: inputs to what call takes, its outputs back,
    # the gradients of what call takes back.
    prepare: Callable[[tuple[Any, ...]], tuple[Any, ...]] = _same
    finish: Callable[[tuple[Any, ...]], tuple[Tensor, ...]] = _same
    restore: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]] = _same
    active: Callable[[], AbstractContextManager[None]] = nullcontext  # entered around every block


def load(op: str) -> ModuleType:
    return importlib.import_module(MODULES[op])


def unavailable(provider: Provider) -> str | None:
    if provider.available and importlib.util.find_spec(provider.available) is None:
        return f"{provider.available} is not installed"
    return None


def ours(op: str, call: Callable[..., tuple[Any, ...]], device: str) -> list[Provider]:
    """Every backend of the package that runs on this device; the reference where none does."""
    running, found = pk.backends.chosen(op, device), []
    for backend in ("cpp",) if device == "cpu" else ("cuda", "triton"):
        if backend in pk.backends.unavailable:
            continue
        with pk.use_backend(backend):
            if pk.backends.chosen(op, device) != backend:
                continue  # this backend leaves the op to another one
        # Switching costs milliseconds and evicts caches; what runs anyway needs none.
        active = nullcontext if backend == running else partial(pk.use_backend, backend)
        found.append(Provider(f"ours, {backend}", "ours", call, active=active))
    return found or [Provider("ours, reference", "ours", call)]


def compiled(providers: Sequence[Provider]) -> list[Provider]:
    """torch.compile of the pure PyTorch providers."""
    return [
        dataclasses.replace(
            provider,
            name=f"torch.compile({provider.name})",
            kind="compiled",
            call=torch.compile(provider.call, dynamic=False),
        )
        for provider in providers
        if provider.kind in ("eager", "smart")
    ]


def leaves(module: ModuleType, provider: Provider, tensors: dict[str, Tensor]) -> tuple[Any, ...]:
    """The provider's own arguments, those that gradients are taken for as leaves of the graph."""
    arguments = provider.prepare(tuple(tensors.values()))
    return tuple(
        x.detach().requires_grad_(name in module.DIFFERENTIABLE) if isinstance(x, Tensor) else x
        for name, x in zip(tensors, arguments, strict=True)
    )


def differentiated(module: ModuleType, tensors: dict[str, Tensor], arguments: tuple) -> list:
    return [x for name, x in zip(tensors, arguments, strict=True) if name in module.DIFFERENTIABLE]


def workload(
    module: ModuleType, case: Case, provider: Provider, tensors: dict[str, Tensor]
) -> Callable[[], Any]:
    """What the clock runs, without arguments. The result is dropped, and freed, on the clock.

    "backward" is the gradient of the first output for all of DIFFERENTIABLE, from a graph built
    beforehand; "both" builds the graph each time.
    """
    if case.direction == "forward":
        arguments = provider.prepare(tuple(tensors.values()))

        def forward() -> Any:
            with torch.no_grad():
                return provider.call(*arguments)

        return forward

    arguments = leaves(module, provider, tensors)
    wanted = differentiated(module, tensors, arguments)
    with provider.active():
        output = provider.call(*arguments)[0]
    cotangent = torch.empty_like(output).normal_()

    def backward() -> Any:
        return torch.autograd.grad(output, wanted, cotangent, retain_graph=True)

    def both() -> Any:
        return torch.autograd.grad(provider.call(*arguments)[0], wanted, cotangent)

    if case.direction == "both":
        del output  # or its graph would stay in memory
        return both
    return backward
