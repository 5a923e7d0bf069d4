# SPDX-License-Identifier: Apache-2.0
"""One dispatcher operator: schema, kernels, and a gradient that holds in every PyTorch mode.

PyTorch has two ways to give an operator a gradient, and neither covers everything:
``torch.library.register_autograd`` works in eager mode, ``torch.compile`` and ``torch.export``, but
raises under ``torch.func`` and silently returns zero tangents in forward mode;
``torch.autograd.Function`` works under ``torch.func`` and forward mode, but does not compile.
:class:`Operator` attaches one pair ``setup_context`` / ``backward`` to both and picks per call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

NAMESPACE = "pose_kernels"
LIBRARY = torch.library.Library(NAMESPACE, "DEF")

OPERATORS: dict[str, Operator] = {}  # every one there is, by name

_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)


def _functorch_active() -> bool:
    """True inside ``torch.func`` transforms (vmap, grad, jvp, ...)."""
    return torch._C._are_functorch_transforms_active()


def _forward_mode_active() -> bool:
    """True inside ``torch.autograd.forward_ad.dual_level`` or ``torch.func.jvp``."""
    return forward_ad._current_level >= 0


def _without_views(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel with outputs that are no views, which autograd would let nobody modify."""

    def run(*args: Any) -> Any:
        outputs = kernel(*args)
        if isinstance(outputs, torch.Tensor):
            return outputs.clone() if outputs._is_view() else outputs
        return tuple(x.clone() if x._is_view() else x for x in outputs)

    return run


def _nested_forward_mode() -> bool:
    """True inside ``torch.func`` forward mode within forward mode."""
    from torch._functorch import pyfunctorch

    levels = pyfunctorch.retrieve_all_functorch_interpreters()
    return sum(level.key() == torch._C._functorch.TransformType.Jvp for level in levels) > 1


class Operator:
    """``pose_kernels::<name>``: callable, differentiable, overridable per device.

    schema: the dispatcher signature, e.g. ``"uv_gather(Tensor atlas, ...) -> Tensor"``. Every
        tensor argument and every non-empty output has the batch as its first axis.
    reference: pure PyTorch kernel for any device; compiled and Triton kernels override it.
    fake: returns empty outputs with the shapes, dtypes and strides that the kernels produce.
    setup_context: ``(ctx, inputs, output)``, saves what ``backward`` reads.
    backward: ``(ctx, *output_grads) -> {argument name: gradient}``.
    tangent: ``(inputs, outputs, {argument name: tangent}) -> output tangents``, forward mode.
    linear: the op is linear in all that it differentiates, jointly.
    fixed: floating outputs, by position, that ``setup_context`` marks as non-differentiable.
    """

    def __init__(
        self,
        schema: str,
        *,
        reference: Callable[..., Any],
        fake: Callable[..., Any],
        setup_context: Callable[..., None],
        backward: Callable[..., dict[str, torch.Tensor | None]],
        tangent: Callable[..., Any],
        linear: bool = False,
        fixed: tuple[int, ...] = (),
    ) -> None:
        self.name = schema.split("(", 1)[0]
        self.linear, self.fixed = linear, fixed
        OPERATORS[self.name] = self
        self.reference = _without_views(reference)
        LIBRARY.define(schema, tags=_TAGS)
        LIBRARY.impl(self.name, self.reference, "CompositeExplicitAutograd")
        qualified = f"{NAMESPACE}::{self.name}"
        torch.library.register_fake(qualified, fake, lib=LIBRARY)
        self._op = getattr(getattr(torch.ops, NAMESPACE), self.name).default
        self._arguments = tuple(a.name for a in self._op._schema.arguments)
        self._setup_context = setup_context
        self._backward = backward
        self._tangent = tangent
        torch.library.register_autograd(
            qualified, self._gradients, setup_context=self._save, lib=LIBRARY
        )
        self._function = _make_function(self)

    def __call__(self, *args: Any) -> Any:
        if torch.compiler.is_compiling():
            if _forward_mode_active():
                raise RuntimeError(
                    f"{self.name}: forward-mode AD inside torch.compile is not supported; "
                    "call torch.func.jvp outside the compiled region"
                )
            return self._op(*args)
        if _functorch_active():
            if not self.linear and _nested_forward_mode():
                # PyTorch loses the outer tangent of every autograd.Function. Where an op is
                # linear, nothing is lost.
                raise RuntimeError(
                    f"{self.name}: forward mode inside forward mode is not supported; "
                    "take one of the two derivatives in reverse mode"
                )
            return self._function.apply(*args)
        if _forward_mode_active():
            return self._function.apply(*args)
        if torch.is_grad_enabled():
            for x in args:
                if isinstance(x, torch.Tensor) and x.requires_grad:
                    return self._op(*args)
        with torch._C._AutoDispatchBelowAutograd():  # its Python costs as much as a small kernel
            return self._op(*args)

    # The pair shared by both registrations; gradients are named here and ordered once.
    def _save(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        self._setup_context(ctx, inputs, output)

    def _gradients(self, ctx: Any, *grads: Any) -> tuple[Any, ...]:
        named = self._backward(ctx, *grads)
        return tuple(named.get(argument) for argument in self._arguments)


def _make_function(operator: Operator) -> type[torch.autograd.Function]:
    class OperatorFunction(torch.autograd.Function):
        @staticmethod
        def forward(*args: Any) -> Any:
            # The next transform out, if there is one, must see the differentiable call again.
            return operator(*args) if _functorch_active() else operator._op(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            operator._save(ctx, inputs, output)
            # Kept through save_for_forward: an attribute would be a cycle that is never freed.
            ctx.constants = [None if isinstance(x, torch.Tensor) else x for x in inputs]
            ctx.is_tensor = [isinstance(x, torch.Tensor) for x in inputs]
            outputs = output if isinstance(output, tuple) else (output,)
            tensors = [x for x in inputs if isinstance(x, torch.Tensor)]
            ctx.save_for_forward(*tensors, *outputs)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
            return operator._gradients(ctx, *grads)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            named = {
                argument: tangent
                for argument, tangent in zip(operator._arguments, tangents, strict=True)
                if tangent is not None
            }
            saved = list(ctx.saved_tensors)
            pairs = zip(ctx.is_tensor, ctx.constants, strict=True)
            primals = tuple(saved.pop(0) if is_tensor else value for is_tensor, value in pairs)
            results = tuple(saved) if len(saved) > 1 else saved[0]
            moved = operator._tangent(primals, results, named)
            if isinstance(moved, tuple):  # PyTorch takes no None for "does not move"
                still = [not y.is_floating_point() for y in saved]
                for i in operator.fixed:
                    still[i] = True
                moved = tuple(
                    torch.zeros_like(y) if t is None and not at_rest else t
                    for t, y, at_rest in zip(moved, saved, still, strict=True)
                )
            return moved

        @staticmethod
        def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
            """Fold the mapped axis into the batch, which every tensor has first."""
            size = info.batch_size
            folded = []
            for arg, dim in zip(args, in_dims, strict=True):
                if isinstance(arg, torch.Tensor):
                    if dim is None:
                        arg = arg.unsqueeze(0).expand(size, *arg.shape)
                    else:
                        arg = arg.movedim(dim, 0)
                    arg = arg.reshape(size * arg.shape[1], *arg.shape[2:])
                folded.append(arg)
            outputs = operator(*folded)
            single = isinstance(outputs, torch.Tensor)
            unfolded, dims = [], []
            for output in (outputs,) if single else outputs:
                wanted = output.dim() > 1  # an output that was not asked for is a (0,) tensor
                unfolded.append(output.unflatten(0, (size, -1)) if wanted else output)
                dims.append(0 if wanted else None)
            return (unfolded[0], dims[0]) if single else (tuple(unfolded), tuple(dims))

    OperatorFunction.__name__ = OperatorFunction.__qualname__ = operator.name
    return OperatorFunction


def no_second_order(name: str, through: str) -> RuntimeError:
    """The error where upstream PyTorch would silently return zeros."""
    return RuntimeError(
        f"{name}: second derivatives through {through} are not implemented; "
        f"detach {through} where a higher-order gradient is taken"
    )
