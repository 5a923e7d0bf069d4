# SPDX-License-Identifier: Apache-2.0
"""What every op promises about its values; a test file per op fills in the class.

``contract_gradients.py`` holds what it promises about gradients, ``contract_modes.py`` about
PyTorch's modes (compile, export, func, ...). A test that makes no sense for an op, such as memory
formats for one without features, is not there: see ``needs``.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import threading
from collections.abc import Callable
from typing import Any

import peak_memory
import pytest
import torch
from cases import (
    DTYPES,
    Case,
    Inputs,
    assert_within,
    channels_last,
    move,
    needs,
    strided_copies,
    tensors,
)
from contract_gradients import Gradients
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import pose_kernels as pk


class Contract(Gradients):
    """Fill in what has no default; the rest where the op differs."""

    op: Callable[..., Any]  # the public function
    reference: Callable[..., Any]  # pure PyTorch, the same signature
    # (inputs, expected outputs, incoming gradients) -> by name of output and argument: how far
    # a value or a gradient may be off (of integers and booleans: the bits that may differ)
    bounds: Callable[[Inputs, list[Tensor], list[Tensor]], dict[str, Tensor]]
    CASES: list[Case]
    slow_reference: bool = False  # the reference itself only where POSE_KERNELS_SLOW_TESTS=1
    in_every_dtype: int | None = None  # how many of CASES; the others in float32 only. None: all
    tame: Case  # tiny and away from kinks: what gradcheck gets
    collide: Case  # many float32 terms per sum: their order shows in the bits
    outputs: tuple[str, ...]
    differentiable: tuple[str, ...]  # the arguments that get a gradient where they are floating
    sweep: st.SearchStrategy[Inputs]  # random inputs
    realistic: list[Case]  # of the size of a training step: peak memory

    # The one of them that the op is linear in, at least piecewise: features (N, ..., C, <spatial>).
    values: str | None = None
    spatial: int = 2  # how many axes follow its channels
    twice: tuple[str, ...] = ()  # beside the values: arguments with a second derivative
    fixed: tuple[str, ...] = ()  # outputs that carry no gradient
    may_be_nan: bool = False  # outputs and gradients are NaN exactly where the reference's are
    unbatched: tuple[str, ...] = ()  # tensor arguments without the batch as first axis
    dtypes: tuple[torch.dtype, ...] = DTYPES

    geometry: tuple[str, ...]  # derived: what is differentiable beside the values
    once: tuple[str, ...]  # derived: arguments whose second derivative is an error

    def __init_subclass__(cls) -> None:
        if not hasattr(cls, "differentiable"):
            return  # a base that several contracts share
        assert cls.values is None or cls.values in cls.differentiable
        cls.geometry = tuple(name for name in cls.differentiable if name != cls.values)
        cls.once = tuple(name for name in cls.geometry if name not in cls.twice)
        for name in dir(cls):
            needed = getattr(getattr(cls, name), "needs", None)
            if needed is not None and not getattr(cls, needed):
                setattr(cls, name, None)

    # ---- how the class is used below

    @classmethod
    def parameters(cls) -> dict[str, tuple[list[Any], list[str]]]:
        """Values and ids of the parameters that tests of the contract have."""
        cases, large = cls.CASES, cls.realistic
        formats = ["contiguous", *(["channels_last"] if cls.values else [])]
        pairs = [
            (case, dtype)
            for i, case in enumerate(cases)
            for dtype in cls.dtypes
            if dtype == torch.float32 or cls.in_every_dtype is None or i < cls.in_every_dtype
        ]
        names = [f"{case.id}-{str(dtype).removeprefix('torch.')}" for case, dtype in pairs]
        return {
            "case": (cases, [case.id for case in cases]),
            "large": (large, [case.id for case in large]),
            "case, dtype": (pairs, names),
            "dtype": (list(cls.dtypes), [str(d).removeprefix("torch.") for d in cls.dtypes]),
            "last": ([name == "channels_last" for name in formats], formats),
            "layout": (layouts := [*formats, "expanded", "sliced"], layouts),
        }

    def run(self, inputs: Inputs) -> list[Tensor]:
        out = type(self).op(**inputs)
        return [out] if isinstance(out, Tensor) else list(out)

    def expect(self, inputs: Inputs) -> list[Tensor]:
        out = type(self).reference(**inputs)
        return [out] if isinstance(out, Tensor) else list(out)

    def last(self, x: Tensor) -> Tensor:
        return channels_last(x, self.spatial)

    def is_last(self, x: Tensor) -> bool:
        return x.movedim(-1 - self.spatial, -1).is_contiguous()

    def same(self, a: Tensor, b: Tensor) -> bool:
        """Bit for bit, but for the sign of 0 and what a NaN holds."""
        if self.may_be_nan and a.is_floating_point():
            nan = a.isnan()
            return torch.equal(nan, b.isnan()) and torch.equal(a.where(~nan, 0), b.where(~nan, 0))
        return torch.equal(a, b)

    def within(self, actual: Tensor, expected: Tensor, bound: Tensor, what: str) -> None:
        assert_within(actual, expected, bound, what, may_be_nan=self.may_be_nan)

    def room(self, inputs: Inputs, megabytes: float) -> float:
        """How much memory a pass may need beside its results; ``megabytes``: all it touches."""
        return 0.1 * megabytes

    def check(self, inputs: Inputs, device: str) -> None:
        """Outputs and gradients lie within the bounds around the reference's."""
        incoming = self.incoming(inputs, self.expect(inputs))
        expected, expected_grads = self.gradients(self.expect, inputs, incoming)
        bounds = type(self).bounds(inputs, expected, incoming)
        outputs, grads = self.gradients(self.run, move(inputs, device), incoming)
        for name, y, want in zip(self.outputs, outputs, expected, strict=True):
            self.within(y, want, bounds[name], name)
            assert not (name in self.fixed and y.requires_grad), f"{name} carries a gradient"
        assert set(grads) == set(expected_grads)
        for name, grad in grads.items():
            self.within(grad, expected_grads[name], bounds[name], f"gradient to {name}")
        with torch.no_grad():  # the path without autograd gives the same bits
            for name, y, again in zip(
                self.outputs, outputs, self.run(move(inputs, device)), strict=True
            ):
                assert self.same(y, again), f"{name} differs under no_grad"

    # ---- values

    def test_matches_the_reference(self, case, dtype, place):
        self.check(case.make(dtype), place.device)

    def test_strides(self, case, place):
        """Sliced, transposed and shifted inputs give the bits that contiguous ones give."""
        inputs = move(case.make(torch.float32), place.device)
        expected = self.run(inputs)
        for kind in ("sliced", "transposed", "shifted"):
            odd = {name: strided_copies(inputs[name])[kind] for name in tensors(inputs)}
            for name, y, want in zip(self.outputs, self.run({**inputs, **odd}), expected):
                assert self.same(y, want), f"{name} of {kind} inputs"

    def test_expanded(self, place):
        """One image or atlas repeated along the batch without memory, and its gradient."""
        inputs = move(self.tame.make(torch.float32), place.device)
        names = [name for name in tensors(inputs) if name not in self.unbatched]
        dense = {**inputs, **{name: inputs[name][:1].repeat_interleave(3, 0) for name in names}}
        stretched = {name: inputs[name][:1].expand(3, *inputs[name].shape[1:]) for name in names}
        incoming = self.incoming(dense, self.expect(move(dense, "cpu")))
        stretched = [g[:1].expand_as(g) for g in incoming], {**inputs, **stretched}
        repeated = [g.contiguous() for g in stretched[0]]
        y, grads = self.gradients(self.run, dense, repeated)
        y_expanded, grads_expanded = self.gradients(self.run, stretched[1], stretched[0])
        for a, b in zip([*y, *grads.values()], [*y_expanded, *grads_expanded.values()]):
            assert self.same(a, b)

    def test_inputs_stay_as_they_are(self, place):
        inputs = move(self.tame.make(torch.float32), place.device)
        before = {k: v.clone() if isinstance(v, Tensor) else v for k, v in inputs.items()}
        self.gradients(self.run, inputs, self.incoming(inputs, self.run(inputs)))
        for name in tensors(before):
            assert torch.equal(inputs[name], before[name]), name

    def test_outputs_can_be_modified_in_place(self, place, last):
        inputs = self.with_grad(move(self.tame.make(torch.float32), place.device))
        if last:
            inputs[self.values] = self.last(inputs[self.values].detach()).requires_grad_()
        for i, name in enumerate(self.outputs):
            y = self.run(inputs)[i]
            changed = ~y if y.dtype == torch.bool else y.detach() * 2
            try:
                y.logical_not_() if y.dtype == torch.bool else y.mul_(2)
            except RuntimeError as error:
                pytest.fail(f"{name}: {error}")
            assert torch.equal(y, changed)

    # ---- memory formats of the features

    @needs("values")
    def test_memory_formats(self, case, dtype, place):
        """Channels last in, channels last out (and in the gradients); the values stay the same."""
        inputs = case.make(dtype)
        incoming = self.incoming(inputs, self.expect(inputs))
        plain = move(inputs, place.device)
        last = {**plain, self.values: self.last(plain[self.values])}
        bounds = type(self).bounds(inputs, self.expect(inputs), incoming)
        y, grads = self.gradients(self.run, plain, incoming)
        y_last, grads_last = self.gradients(self.run, last, [self.last(incoming[0]), *incoming[1:]])
        assert y[0].is_contiguous()
        assert grads[self.values].is_contiguous()
        if not last[self.values].is_contiguous():  # one channel or one texel is both formats
            assert self.is_last(y_last[0])
        if not self.last(incoming[0]).is_contiguous():
            assert self.is_last(grads_last[self.values])
        for name, a, b in zip(self.outputs, y, y_last, strict=True):
            self.within(b, a, bounds[name], name)
        for name, grad in grads.items():
            self.within(grads_last[name], grad, bounds[name], f"gradient to {name}")

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
            assert all(self.same(a, b) for a, b in zip(results[0], again, strict=True))

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
                        torch.testing.assert_close(
                            a, b, rtol=1e-3, atol=1e-3, equal_nan=self.may_be_nan
                        )
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures[0]

    # ---- everything else

    def test_peak_memory(self, place, large):
        """Beyond its inputs and results, forward and backward stay within ``room``."""
        if place.backend == "reference":
            pytest.skip("a bound on kernels: the reference may take several times its results")
        measured = peak_memory.of(type(self), large, *place)
        if measured is None:
            pytest.skip("this system cannot reset the peak of a process")
        assert set(measured) == {"forward", *(["backward"] if self.differentiable else [])}
        for phase, (extra, results, room) in measured.items():
            assert extra >= 0.9 * results, f"{phase}: {extra:.0f} MB is not a measurement"
            assert extra <= results + room, (
                f"{phase}: {extra:.0f} MB for {results:.0f} MB of results and {room:.0f} MB of room"
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
