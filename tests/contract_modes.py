# SPDX-License-Identifier: Apache-2.0
"""What every op promises about PyTorch's modes: compile, export, func, AMP, checkpoint."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from cases import Inputs, features, move, needs, strided_copies, tensors
from torch import Tensor
from torch.utils.checkpoint import checkpoint

F = torch.func


class Modes:
    """Mixed into a Contract. ``dispatched(inputs)`` returns the overload and its arguments."""

    tame: Any
    values: str | None
    geometry: tuple[str, ...]
    once: tuple[str, ...]
    unbatched: tuple[str, ...]

    def dispatched(self, inputs: Inputs) -> tuple[Any, tuple[Any, ...]]:
        raise NotImplementedError  # every op of the contract says which

    # ---- dispatcher

    def test_opcheck(self, device, layout):
        inputs = move(self.tame.make(torch.float32), device)
        names = self.wanted(inputs)
        for name in names or [self.leading(inputs)]:
            x = inputs[name]
            if layout == "channels_last" and name == self.values:
                x = self.last(x)
            elif layout == "expanded":
                x = x[:1].expand_as(x)
            elif layout == "sliced":
                x = strided_copies(x)["sliced"]
            inputs[name] = x.detach().requires_grad_(name in names)
        op, args = self.dispatched(inputs)
        torch.library.opcheck(op, args)

    def test_fake_and_meta_tensors_tell_the_truth(self, device, last):
        """Shape, dtype, strides and device are those of what a kernel returns."""
        inputs = move(self.tame.make(torch.bfloat16), device)
        if last:
            inputs[self.values] = self.last(inputs[self.values])
        real = self.run(inputs)
        for y, meta in zip(real, self.run(move(inputs, "meta")), strict=True):
            assert meta.is_meta
            assert (y.shape, y.dtype, y.stride()) == (meta.shape, meta.dtype, meta.stride())
        with torch._subclasses.FakeTensorMode() as mode:
            fakes = {
                k: mode.from_tensor(v) if isinstance(v, Tensor) else v for k, v in inputs.items()
            }
            for y, fake in zip(real, self.run(fakes), strict=True):
                assert (y.shape, y.dtype, y.stride()) == (fake.shape, fake.dtype, fake.stride())
                assert y.device == fake.device

    # ---- compile and export

    def test_compile_with_dynamic_shapes(self, device):
        """One graph for all shapes; outputs and gradients bit for bit as in eager mode."""
        torch._dynamo.reset()
        compiled = torch.compile(
            lambda **inputs: self.run(inputs), backend="aot_eager", fullgraph=True, dynamic=True
        )
        for grow in (0, 1, 3):
            inputs = move(self.grown(grow), device)
            incoming = self.incoming(move(inputs, "cpu"), self.expect(move(inputs, "cpu")))
            expected = self.gradients(self.run, inputs, incoming)
            with torch._dynamo.config.patch(error_on_recompile=grow > 0):
                got = self.gradients(lambda i: compiled(**i), inputs, incoming)
            for a, b in zip([*got[0], *got[1].values()], [*expected[0], *expected[1].values()]):
                assert self.same(a, b)
                assert a.stride() == b.stride()

    @needs("values")
    def test_compile_in_channels_last(self, device):
        torch._dynamo.reset()
        inputs = move(self.tame.make(torch.float32), device)
        inputs[self.values] = self.last(inputs[self.values])
        compiled = torch.compile(
            lambda inputs: self.run(inputs), backend="aot_eager", fullgraph=True
        )
        incoming = self.incoming(move(inputs, "cpu"), self.expect(move(inputs, "cpu")))
        incoming[0] = self.last(incoming[0])  # the format in which it is compiled to arrive
        expected = self.gradients(self.run, inputs, incoming)
        got = self.gradients(compiled, inputs, incoming)
        for a, b in zip([*got[0], *got[1].values()], [*expected[0], *expected[1].values()]):
            assert self.same(a, b)
            assert a.stride() == b.stride()

    def test_export_then_backward(self, device):
        inputs = move(self.tame.make(torch.float32), device)
        incoming = self.incoming(move(inputs, "cpu"), self.expect(move(inputs, "cpu")))
        contract = self

        class Module(torch.nn.Module):
            def forward(self, inputs: Inputs) -> list[Tensor]:
                return contract.run(inputs)

        program = torch.export.export(Module(), (inputs,))
        targets = [str(node.target) for node in program.graph.nodes]
        assert any(target.startswith("pose_kernels.") for target in targets)
        expected = self.gradients(self.run, inputs, incoming)
        got = self.gradients(program.module(), inputs, incoming)
        for a, b in zip([*got[0], *got[1].values()], [*expected[0], *expected[1].values()]):
            assert self.same(a, b)

    # ---- torch.func

    def function(self, inputs: Inputs, name: str):
        return lambda x: self.run({**inputs, name: x})[0]

    def reference_function(self, inputs: Inputs, name: str):
        return lambda x: self.expect({**inputs, name: x})[0]

    @needs("differentiable")
    def test_func_first_order(self, device):
        """grad, jvp, jacrev and jacfwd with respect to each input."""
        inputs = move(self.tame.make(torch.float64), device)
        close = torch.testing.assert_close
        for name in self.wanted(inputs):
            x, f = inputs[name], self.function(inputs, name)
            g = self.reference_function(inputs, name)
            tangent = features(tuple(x.shape), x.dtype, 5).to(device)
            jacobian = F.jacrev(g)(x)
            assert jacobian.abs().max() > 0.1
            close(F.jacrev(f)(x), jacobian)
            close(F.jacfwd(f)(x), jacobian)
            moved = (jacobian * tangent).flatten(f(x).dim()).sum(-1)
            close(F.jvp(f, (x,), (tangent,))[1], moved)
            close(F.grad(lambda x: f(x).pow(2).sum())(x), F.grad(lambda x: g(x).pow(2).sum())(x))

    def test_func_vmap(self, device):
        """vmap over one argument, over everything, and vmap(grad): equal to a loop."""
        inputs = move(self.tame.make(torch.float64), device)
        name = self.leading(inputs)
        x = inputs[name]
        many = torch.stack([x, 2 * x, -x], 1)
        f = self.function(inputs, name)
        out = F.vmap(f, in_dims=1, out_dims=-1)(many)
        assert self.same(out, torch.stack([f(each) for each in many.unbind(1)], -1))

        def loss(x: Tensor) -> Tensor:
            return f(x).pow(2).sum()

        if self.wanted(inputs):
            grads = F.vmap(F.grad(loss), in_dims=1)(many)
            assert self.same(grads, torch.stack([F.grad(loss)(each) for each in many.unbind(1)]))
        names = [name for name in tensors(inputs) if name not in self.unbatched]
        rolled = [torch.stack([inputs[k], inputs[k].flip(0)]) for k in names]
        out = F.vmap(lambda *t: self.run({**inputs, **dict(zip(names, t))})[0])(*rolled)
        assert self.same(out[0], self.run(inputs)[0])
        assert self.same(out[1], self.run(inputs)[0].flip(0))

    @needs("values")
    @pytest.mark.parametrize("power", [1, 2])
    def test_func_hessian_of_the_values(self, device, power):
        """Compositions of two derivatives; a linear loss has none, not an error."""
        inputs = move(self.tame.make(torch.float64), device)
        x = inputs[self.values]

        def loss(x: Tensor) -> Tensor:
            return self.function(inputs, self.values)(x).pow(power).sum()

        def reference_loss(x: Tensor) -> Tensor:
            return self.reference_function(inputs, self.values)(x).pow(power).sum()

        if power == 1:
            expected = x.new_zeros((*x.shape, *x.shape))
        else:
            expected = F.jacrev(F.jacrev(reference_loss))(x)
            assert expected.abs().max() > 0.1
        for outer in (F.jacfwd, F.jacrev):
            for inner in (F.jacfwd, F.jacrev):
                if self.geometry and outer is inner is F.jacfwd:
                    with pytest.raises(RuntimeError, match="forward mode inside forward mode"):
                        outer(inner(loss))(x)
                    continue
                torch.testing.assert_close(outer(inner(loss))(x), expected)

    @needs("geometry")
    def test_second_order_through_geometry_is_right_or_an_error(self, device):
        """Never a silently wrong number, under any composition of torch.func."""
        inputs = move(self.tame.make(torch.float64), device)
        jacobians = list(itertools.product((F.jacfwd, F.jacrev), repeat=2))
        pairs = itertools.product(self.wanted(inputs), repeat=2)
        pairs = [pair for pair in pairs if pair != (self.values, self.values)]
        moving = [i for i, name in enumerate(self.outputs) if name not in self.fixed]
        wrong = []
        for (first, second), out in itertools.product(pairs, moving):

            def loss(run, x: Tensor, y: Tensor, names=(first, second), out=out) -> Tensor:
                return run({**inputs, **dict(zip(reversed(names), (y, x)))})[out].pow(2).sum()

            x, y = inputs[first], inputs[second]
            for outer, inner in jacobians:

                def twice(run, outer=outer, inner=inner, loss=loss, same=first == second):
                    gradient = inner(lambda x, y: loss(run, x, y), argnums=0)
                    return outer(gradient, argnums=0 if same else 1)(x, y)

                name = f"{outer.__name__}({inner.__name__}) {self.outputs[out]}: {first}, {second}"
                try:
                    got = twice(self.run)
                except RuntimeError as error:
                    known = "second derivatives through", "forward mode inside forward mode"
                    assert any(reason in str(error) for reason in known), name
                    continue
                if not torch.allclose(got, twice(self.expect), rtol=1e-9, atol=1e-9):
                    wrong.append(name)
        assert not wrong

    @needs("once")
    def test_eager_second_order_through_geometry_is_an_error(self, device):
        plain = move(self.tame.make(torch.float64), device)
        message = "second derivatives through (.+) are not implemented; detach (.+) where"
        for name in self.once:
            alone = {**plain, name: plain[name].detach().requires_grad_()}
            for inputs in (alone, self.with_grad(plain)):
                y = self.run(inputs)[0].pow(2).sum()
                (grad,) = torch.autograd.grad(y, inputs[name], create_graph=True)
                with pytest.raises(RuntimeError, match=message) as error:
                    grad.sum().backward()
                assert inputs is not alone or name in str(error.value)

    @needs("differentiable")
    def test_forward_mode_in_compile_is_right_or_an_error(self, device):
        """PyTorch alone would return zeros."""
        inputs = move(self.tame.make(torch.float64), device)
        name = self.leading(inputs)
        x, f = inputs[name], self.function(inputs, name)
        expected = F.jvp(f, (x,), (x,))[1]
        assert expected.abs().max() > 0.1

        def dual(x: Tensor) -> Tensor:
            with torch.autograd.forward_ad.dual_level():
                y = f(torch.autograd.forward_ad.make_dual(x, x))
                return torch.autograd.forward_ad.unpack_dual(y).tangent

        for inside in (lambda x: F.jvp(f, (x,), (x,))[1], dual):
            for fullgraph in (True, False):
                torch._dynamo.reset()
                try:
                    got = torch.compile(inside, backend="aot_eager", fullgraph=fullgraph)(x)
                except Exception as error:
                    assert str(error)
                    continue
                torch.testing.assert_close(got, expected)

    # ---- everything else

    @pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
    def test_autocast_keeps_the_geometry(self, device, low):
        """Under autocast nothing is cast: neither features nor geometry, of whatever dtype."""
        for dtype in (low, torch.float32):
            inputs = move(self.tame.make(dtype), device)
            incoming = self.incoming(move(inputs, "cpu"), self.expect(move(inputs, "cpu")))
            plain = self.gradients(self.run, inputs, incoming)
            with torch.autocast(device, dtype=low):
                cast = self.gradients(self.run, inputs, incoming)
            for a, b in zip([*plain[0], *plain[1].values()], [*cast[0], *cast[1].values()]):
                assert a.dtype == b.dtype
                assert self.same(a, b)
            if self.values is None:  # points in half precision are computed with in float32
                floating = [y for y in cast[0] if y.is_floating_point()]
                assert all(y.dtype == torch.float32 for y in floating)
            else:
                kept = [cast[1][name] for name in self.geometry if name in cast[1]]
                assert all(grad.dtype == torch.float32 for grad in kept)

    @needs("differentiable")
    def test_scaled_loss(self, device):
        """Gradients of a loss scaled by 2^12, in float16, unscale to those of the loss."""
        inputs = move(self.tame.make(torch.float16), device)
        incoming = self.incoming(move(inputs, "cpu"), self.expect(move(inputs, "cpu")))
        _, grads = self.gradients(self.run, inputs, [g / 4 for g in incoming])
        _, scaled = self.gradients(self.run, inputs, [g * 1024 for g in incoming])
        for name, grad in grads.items():
            assert scaled[name].isfinite().all()
            torch.testing.assert_close(
                scaled[name].float() / 4096, grad.float(), rtol=2e-3, atol=1e-4
            )

    @needs("differentiable")
    def test_checkpoint(self, device):
        inputs = self.with_grad(move(self.tame.make(torch.float32), device))
        names = self.wanted(inputs)
        wanted = [inputs[name] for name in names]
        plain = torch.autograd.grad(self.run(inputs)[0].pow(2).sum(), wanted)
        for reentrant in (False, True):
            y = checkpoint(
                lambda *t: self.run({**inputs, **dict(zip(names, t))})[0],
                *wanted,
                use_reentrant=reentrant,
            )
            loss = y.pow(2).sum()
            for x in wanted:
                x.grad = None
            loss.backward()
            assert all(torch.equal(x.grad, g) for x, g in zip(wanted, plain, strict=True))

    def test_inference_mode_and_no_grad(self, device):
        inputs = self.with_grad(move(self.tame.make(torch.float32), device))
        expected = [y.detach() for y in self.run(inputs)]
        with torch.inference_mode():
            outputs = self.run(inputs)
            assert all(y.is_inference() for y in outputs)
            assert all(self.same(a, b) for a, b in zip(outputs, expected, strict=True))
        with torch.no_grad():
            assert not any(y.requires_grad for y in self.run(inputs))
