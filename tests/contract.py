# SPDX-License-Identifier: Apache-2.0
"""What every op promises about its values; a test file per op fills in the class.

``contract_modes.py`` holds what an op promises about PyTorch's modes (compile, export, func, ...).
"""

from __future__ import annotations

import doctest
import gc
import importlib
import inspect
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import peak_memory
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from surface import Inputs, features
from torch import Tensor

import pose_kernels as pk

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
DTYPE_IDS = [str(dtype).removeprefix("torch.") for dtype in DTYPES]


@dataclass(frozen=True)
class Case:
    """One input: ``make(dtype)`` returns the op's keyword arguments on the CPU."""

    id: str
    make: Callable[[torch.dtype], Inputs]


def move(inputs: Inputs, device: str) -> Inputs:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}


def channels_last(x: Tensor) -> Tensor:
    """The same (..., C, H, W) values with the channels innermost in memory."""
    return x.movedim(-3, -1).contiguous().movedim(-1, -3)


def strided_copies(x: Tensor) -> dict[str, Tensor]:
    """The values of x in tensors that are neither contiguous nor channels last."""
    padded = x.new_full((*x.shape[:-1], 2 * x.shape[-1] + 3), 77)
    padded[..., 2:-1:2] = x
    swapped = x.transpose(0, -1).contiguous().transpose(0, -1)
    shifted = torch.cat([x.new_full((1, *x.shape[1:]), 77), x])[1:]  # an offset into its storage
    return {"sliced": padded[..., 2:-1:2], "transposed": swapped, "shifted": shifted}


def assert_within(actual: Tensor, expected: Tensor, bound: Tensor, what: str) -> None:
    """|actual - expected| <= bound for each element, all finite, same shape and dtype."""
    assert actual.shape == expected.shape, f"{what}: {actual.shape} is not {expected.shape}"
    assert actual.dtype == expected.dtype, f"{what}: {actual.dtype} is not {expected.dtype}"
    if actual.numel() == 0:
        return
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    assert expected.isfinite().all(), f"{what}: the expected values are not finite"
    assert actual.isfinite().all(), f"{what}: {(~actual.isfinite()).sum()} values are not finite"
    error = (actual - expected).abs()
    wrong = error > bound
    if wrong.any():
        worst = int((error - bound).argmax())
        raise AssertionError(
            f"{what}: {int(wrong.sum())} of {wrong.numel()} differ; the worst, at flat index "
            f"{worst}, is {actual.flatten()[worst]:.9g} where {expected.flatten()[worst]:.9g} +- "
            f"{bound.expand_as(error).flatten()[worst]:.3g} is right"
        )


class Contract:
    """Fill in: op, reference, CASES, values, coordinates, outputs, bounds."""

    op: Callable[..., Any]  # the public function
    reference: Callable[..., Any]  # pure PyTorch, the same signature
    bounds: Callable[[Inputs, list[Tensor], list[Tensor]], dict[str, Tensor]]
    CASES: list[Case]
    tame: Case  # tiny and away from kinks: what gradcheck gets
    collide: Case  # many float32 terms per sum: their order shows in the bits
    values: str  # name of the argument the op is linear in (at least without normalization)
    coordinates: str | None  # name of the other differentiable argument
    outputs: tuple[str, ...]
    sweep: st.SearchStrategy[Inputs]  # random inputs
    realistic: Case  # of the size of a training step: peak memory

    # ---- how the class is used below

    def run(self, inputs: Inputs) -> list[Tensor]:
        out = type(self).op(**inputs)
        return [out] if isinstance(out, Tensor) else list(out)

    def expect(self, inputs: Inputs) -> list[Tensor]:
        out = type(self).reference(**inputs)
        return [out] if isinstance(out, Tensor) else list(out)

    @property
    def differentiable(self) -> list[str]:
        return [self.values, *([self.coordinates] if self.coordinates else [])]

    def incoming(self, inputs: Inputs, outputs: list[Tensor]) -> list[Tensor]:
        """Gradients that arrive at the outputs."""
        return [features(tuple(y.shape), y.dtype, 10 + i) for i, y in enumerate(outputs)]

    def with_grad(self, inputs: Inputs) -> Inputs:
        fresh = {name: inputs[name].detach().requires_grad_() for name in self.differentiable}
        return {**inputs, **fresh}

    def gradients(
        self, run: Callable[[Inputs], list[Tensor]], inputs: Inputs, incoming: list[Tensor]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        inputs = self.with_grad(inputs)
        outputs = run(inputs)
        incoming = [g.to(y.device) for g, y in zip(incoming, outputs, strict=True)]
        wanted = [inputs[name] for name in self.differentiable]
        grads = torch.autograd.grad(outputs, wanted, incoming)
        return outputs, dict(zip(self.differentiable, grads, strict=True))

    def check(self, inputs: Inputs, device: str) -> None:
        """Outputs and gradients lie within the bounds around the reference's."""
        incoming = self.incoming(inputs, self.expect(inputs))
        expected, expected_grads = self.gradients(self.expect, inputs, incoming)
        bounds = type(self).bounds(inputs, expected, incoming)
        outputs, grads = self.gradients(self.run, move(inputs, device), incoming)
        for name, y, want in zip(self.outputs, outputs, expected, strict=True):
            assert_within(y, want, bounds[name], name)
        for name in self.differentiable:
            assert_within(grads[name], expected_grads[name], bounds[name], f"gradient to {name}")
        with torch.no_grad():  # the path without autograd gives the same bits
            for name, y, again in zip(
                self.outputs, outputs, self.run(move(inputs, device)), strict=True
            ):
                assert torch.equal(y, again), f"{name} differs under no_grad"

    # ---- values

    @pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
    def test_matches_the_reference(self, case, dtype, place):
        self.check(case.make(dtype), place.device)

    @pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
    def test_memory_formats(self, case, dtype, place):
        """Channels last in, channels last out (and in the gradients); the values stay the same."""
        inputs = case.make(dtype)
        incoming = self.incoming(inputs, self.expect(inputs))
        plain = move(inputs, place.device)
        last = {**plain, self.values: channels_last(plain[self.values])}
        bounds = type(self).bounds(inputs, self.expect(inputs), incoming)
        y, grads = self.gradients(self.run, plain, incoming)
        y_last, grads_last = self.gradients(
            self.run, last, [channels_last(incoming[0]), *incoming[1:]]
        )
        assert y[0].is_contiguous()
        assert grads[self.values].is_contiguous()
        if not last[self.values].is_contiguous():  # one channel or one texel is both formats
            assert y_last[0].movedim(-3, -1).is_contiguous()
        if not channels_last(incoming[0]).is_contiguous():
            assert grads_last[self.values].movedim(-3, -1).is_contiguous()
        for name, a, b in zip(self.outputs, y, y_last, strict=True):
            assert_within(b, a, bounds[name], name)
        for name in self.differentiable:
            assert_within(grads_last[name], grads[name], bounds[name], f"gradient to {name}")

    def test_strides(self, case, place):
        """Sliced, transposed and shifted inputs give the bits that contiguous ones give."""
        inputs = move(case.make(torch.float32), place.device)
        expected = self.run(inputs)
        tensors = [name for name, value in inputs.items() if isinstance(value, Tensor)]
        for kind in ("sliced", "transposed", "shifted"):
            odd = {name: strided_copies(inputs[name])[kind] for name in tensors}
            for name, y, want in zip(self.outputs, self.run({**inputs, **odd}), expected):
                assert torch.equal(y, want), f"{name} of {kind} inputs"

    def test_expanded(self, place):
        """One image or atlas repeated along the batch without memory, and its gradient."""
        inputs = move(self.tame.make(torch.float32), place.device)
        tensors = [name for name, value in inputs.items() if isinstance(value, Tensor)]
        dense = {**inputs, **{name: inputs[name][:1].repeat_interleave(3, 0) for name in tensors}}
        stretched = {name: inputs[name][:1].expand(3, *inputs[name].shape[1:]) for name in tensors}
        incoming = self.incoming(dense, self.expect(move(dense, "cpu")))
        stretched = [g[:1].expand_as(g) for g in incoming], {**inputs, **stretched}
        repeated = [g.contiguous() for g in stretched[0]]
        y, grads = self.gradients(self.run, dense, repeated)
        y_expanded, grads_expanded = self.gradients(self.run, stretched[1], stretched[0])
        for a, b in zip([*y, *grads.values()], [*y_expanded, *grads_expanded.values()]):
            assert torch.equal(a, b)

    def test_inputs_stay_as_they_are(self, place):
        inputs = move(self.tame.make(torch.float32), place.device)
        before = {k: v.clone() if isinstance(v, Tensor) else v for k, v in inputs.items()}
        self.gradients(self.run, inputs, self.incoming(inputs, self.run(inputs)))
        for name, value in before.items():
            if isinstance(value, Tensor):
                assert torch.equal(inputs[name], value), name

    @pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
    def test_outputs_can_be_modified_in_place(self, place, last):
        inputs = self.with_grad(move(self.tame.make(torch.float32), place.device))
        if last:
            inputs[self.values] = channels_last(inputs[self.values].detach()).requires_grad_()
        for i, name in enumerate(self.outputs):
            y = self.run(inputs)[i]
            doubled = y.detach() * 2
            try:
                y.mul_(2)
            except RuntimeError as error:
                pytest.fail(f"{name}: {error}")
            assert torch.equal(y, doubled)

    # ---- gradients

    def test_gradcheck(self, place):
        """Reverse, forward and batched, against finite differences in float64."""
        inputs = move(self.tame.make(torch.float64), place.device)
        given = [inputs[name].detach().requires_grad_() for name in self.differentiable]

        def run(*tensors: Tensor) -> tuple[Tensor, ...]:
            return tuple(self.run({**inputs, **dict(zip(self.differentiable, tensors))}))

        assert torch.autograd.gradcheck(
            run,
            given,
            check_forward_ad=True,
            check_batched_grad=True,
            check_batched_forward_grad=True,
        )

    def test_second_order_of_the_values(self, place):
        inputs = move(self.tame.make(torch.float64), place.device)
        given = inputs[self.values].detach().requires_grad_()

        def run(x: Tensor) -> Tensor:
            return self.run({**inputs, self.values: x})[0].pow(2)

        assert torch.autograd.gradgradcheck(run, given, check_fwd_over_rev=True)

    def test_subset_of_inputs_requires_grad(self, place):
        inputs = move(self.tame.make(torch.float32), place.device)
        incoming = self.incoming(inputs, self.run(inputs))
        _, every = self.gradients(self.run, inputs, incoming)
        bounds = type(self).bounds(move(inputs, "cpu"), self.expect(move(inputs, "cpu")), incoming)
        for name in self.differentiable:
            one = {**inputs, name: inputs[name].detach().requires_grad_()}
            outputs = [(y, g) for y, g in zip(self.run(one), incoming) if y.requires_grad]
            y, g = zip(*outputs, strict=True)
            (grad,) = torch.autograd.grad(y, one[name], [x.to(place.device) for x in g])
            assert_within(grad, every[name], bounds[name], name)
        assert not any(y.requires_grad for y in self.run(inputs))

    # ---- determinism

    def test_same_bits_in_every_run(self, place):
        inputs = move(self.collide.make(torch.float32), place.device)
        incoming = self.incoming(inputs, self.run(inputs))
        before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            results = []
            for threads in (1, 1, 2, 2):
                torch.set_num_threads(threads)
                y, grads = self.gradients(self.run, inputs, incoming)
                results.append([*y, *grads.values()])
        finally:
            torch.set_num_threads(before[0])
            torch.use_deterministic_algorithms(before[1], warn_only=True)
        for again in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], again, strict=True))

    def test_eight_threads_at_once(self, place):
        inputs = move(self.collide.make(torch.float32), place.device)
        incoming = self.incoming(inputs, self.run(inputs))
        expected = self.gradients(self.run, inputs, incoming)
        failures: list[object] = []

        def work() -> None:
            try:
                for _ in range(3):
                    y, grads = self.gradients(self.run, inputs, incoming)
                    same = zip([*y, *grads.values()], [*expected[0], *expected[1].values()])
                    for a, b in same:
                        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures[0]

    # ---- everything else

    @pytest.mark.parametrize("how", ["grad", "forward", "eager"])
    def test_nothing_is_kept_alive(self, device, how):
        """No cycle through the autograd graph outlives the result: nothing would collect it."""
        inputs = move(self.tame.make(torch.float32), device)

        def loss(x: Tensor) -> Tensor:
            return self.run({**inputs, self.values: x})[0].pow(2).sum()

        def contexts() -> list[object]:
            for _ in range(2):
                gc.collect()
            kind = torch.autograd.function.BackwardCFunction
            return [x for x in gc.get_objects() if isinstance(x, kind)]

        x = inputs[self.values]
        before = contexts()  # held, so that no new one takes the place of an old one
        if how == "grad":
            torch.func.grad(loss)(x)
        elif how == "forward":
            with torch.autograd.forward_ad.dual_level():
                given = x.detach().requires_grad_()
                loss(torch.autograd.forward_ad.make_dual(given, x))
                del given
        else:
            loss(x.detach().requires_grad_()).backward()
        old = {id(x) for x in before}
        assert [x for x in contexts() if id(x) not in old] == []

    def test_peak_memory(self, place):
        """Beyond its inputs and outputs, forward and backward need less than 10 % of the two."""
        if place.backend == "reference":
            pytest.skip("the reference is not bound")
        measured = peak_memory.of(type(self), *place)
        if measured is None:
            pytest.skip("this system cannot reset the peak of a process")
        assert set(measured) == {"forward", "backward"}
        for phase, (extra, results, everything) in measured.items():
            assert extra >= 0.9 * results, f"{phase}: {extra:.0f} MB is not a measurement"
            assert extra <= results + 0.1 * everything, (
                f"{phase}: {extra:.0f} MB for {results:.0f} MB of results; "
                f"with the inputs {everything:.0f} MB"
            )

    @settings(
        max_examples=int(os.environ.get("POSE_KERNELS_SWEEP", 40)),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[  # `place` and the class do not change from example to example
            HealthCheck.function_scoped_fixture,
            HealthCheck.differing_executors,
            HealthCheck.too_slow,
        ],
    )
    @given(data=st.data())
    def test_sweep(self, place, data):
        """Random shapes, dtypes, strides and options against the reference."""
        inputs = data.draw(type(self).sweep)
        kind = data.draw(st.sampled_from(["contiguous", "sliced", "transposed", "shifted"]))
        if kind != "contiguous":
            for name, value in inputs.items():
                if isinstance(value, Tensor):
                    inputs[name] = strided_copies(value)[kind]
        self.check(inputs, place.device)

    def test_signature_is_the_reference_s(self):
        ours, theirs = inspect.signature(type(self).op), inspect.signature(type(self).reference)
        assert ours == theirs

    def test_docstring_examples(self):
        module = importlib.import_module(type(self).op.__module__)
        names = {"torch": torch, **{name: getattr(pk, name) for name in pk.__all__}}
        result = doctest.testmod(module, extraglobs=names)
        assert result.attempted > 0
        assert result.failed == 0
