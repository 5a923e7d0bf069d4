# SPDX-License-Identifier: Apache-2.0
"""What every op promises about its gradients; part of ``contract.Contract``."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import Case, Inputs, assert_within, features, move, needs, tensors
from torch import Tensor


class Gradients:
    """How gradients are taken here, and the tests about them."""

    bounds: Callable[[Inputs, list[Tensor], list[Tensor]], dict[str, Tensor]]
    run: Callable[[Inputs], list[Tensor]]
    expect: Callable[[Inputs], list[Tensor]]
    tame: Case
    outputs: tuple[str, ...]
    fixed: tuple[str, ...]
    differentiable: tuple[str, ...]
    values: str | None

    def wanted(self, inputs: Inputs) -> list[str]:
        """The arguments that get a gradient: bits do not, nor does one that was left out."""
        given = [name for name in tensors(inputs) if inputs[name].is_floating_point()]
        return [name for name in self.differentiable if name in given]

    def leading(self, inputs: Inputs) -> str:
        """The argument that a test of one argument takes."""
        floating = (name for name in tensors(inputs) if inputs[name].is_floating_point())
        return self.values or next(iter(self.wanted(inputs)), None) or next(floating)

    def moving(self, outputs: list[Tensor]) -> list[Tensor]:
        """The outputs that carry a gradient."""
        named = zip(self.outputs, outputs, strict=True)
        return [y for name, y in named if name not in self.fixed]

    def incoming(self, inputs: Inputs, outputs: list[Tensor]) -> list[Tensor]:
        """Gradients that arrive at the outputs that carry one."""
        moving = enumerate(self.moving(outputs))
        return [features(tuple(y.shape), y.dtype, 10 + i) for i, y in moving]

    def with_grad(self, inputs: Inputs) -> Inputs:
        fresh = {name: inputs[name].detach().requires_grad_() for name in self.wanted(inputs)}
        return {**inputs, **fresh}

    def gradients(
        self, run: Callable[[Inputs], list[Tensor]], inputs: Inputs, incoming: list[Tensor]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Outputs, and the gradient to each of ``wanted``."""
        names = self.wanted(inputs)
        inputs = self.with_grad(inputs)
        outputs = run(inputs)
        if not names:
            return outputs, {}
        moving = self.moving(outputs)
        incoming = [g.to(y.device) for g, y in zip(incoming, moving, strict=True)]
        grads = torch.autograd.grad(moving, [inputs[name] for name in names], incoming)
        return outputs, dict(zip(names, grads, strict=True))

    @needs("differentiable")
    def test_gradcheck(self, place):
        """Reverse, forward and batched, against finite differences in float64."""
        inputs = move(self.tame.make(torch.float64), place.device)
        names = self.wanted(inputs)
        given = [inputs[name].detach().requires_grad_() for name in names]

        def run(*tensors: Tensor) -> tuple[Tensor, ...]:
            return tuple(self.moving(self.run({**inputs, **dict(zip(names, tensors))})))

        assert torch.autograd.gradcheck(
            run,
            given,
            check_forward_ad=True,
            check_batched_grad=True,
            check_batched_forward_grad=True,
        )

    @needs("values")
    def test_second_order_of_the_values(self, place):
        inputs = move(self.tame.make(torch.float64), place.device)
        given = inputs[self.values].detach().requires_grad_()

        def run(x: Tensor) -> Tensor:
            return self.run({**inputs, self.values: x})[0].pow(2)

        assert torch.autograd.gradgradcheck(run, given, check_fwd_over_rev=True)

    @needs("differentiable")
    def test_subset_of_inputs_requires_grad(self, place):
        inputs = move(self.tame.make(torch.float32), place.device)
        incoming = self.incoming(inputs, self.run(inputs))
        _, every = self.gradients(self.run, inputs, incoming)
        bounds = type(self).bounds(move(inputs, "cpu"), self.expect(move(inputs, "cpu")), incoming)
        for name in self.wanted(inputs):
            one = {**inputs, name: inputs[name].detach().requires_grad_()}
            moving = zip(self.moving(self.run(one)), incoming, strict=True)
            y, g = zip(*[(y, g) for y, g in moving if y.requires_grad], strict=True)
            (grad,) = torch.autograd.grad(y, one[name], [x.to(place.device) for x in g])
            assert_within(grad, every[name], bounds[name], name)
        assert not any(y.requires_grad for y in self.run(inputs))

    @needs("differentiable")
    @pytest.mark.parametrize("how", ["grad", "forward", "eager"])
    def test_nothing_is_kept_alive(self, device, how):
        """No cycle through the autograd graph outlives the result: nothing would collect it."""
        inputs = move(self.tame.make(torch.float32), device)
        name = self.leading(inputs)

        def loss(x: Tensor) -> Tensor:
            return self.run({**inputs, name: x})[0].pow(2).sum()

        def contexts() -> list[Any]:
            for _ in range(2):
                gc.collect()
            kind = torch.autograd.function.BackwardCFunction
            return [x for x in gc.get_objects() if isinstance(x, kind)]

        x = inputs[name]
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
