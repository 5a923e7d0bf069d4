# SPDX-License-Identifier: Apache-2.0
"""What a sweep does to the inputs that a contract draws, and how the results are then compared.

Every tensor gets a memory layout of its own, the part map may become one single part, and the
features, or the gradients that arrive, may hold numbers that are not finite. A result must be NaN,
or infinite, where the reference's is, and within the contract's bound everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from cases import DTYPES, INF, NAN, Inputs, channels_last, strided_copies, tensors
from contract import Contract
from hypothesis import strategies as st
from torch import Tensor

LAYOUTS = (
    "contiguous",
    "channels_last",
    "sliced",
    "transposed",
    "shifted",
    "repeated",
    "constant",
    "overlapping",
)


def lay_out(x: Tensor, kind: str, spatial: int = 2) -> Tensor:
    """x in another memory layout; the last three change its values, too."""
    if kind == "contiguous" or x.dim() == 0 or not x.numel():
        return x
    if kind == "channels_last":
        return channels_last(x, spatial) if x.dim() > spatial else x
    if kind in ("sliced", "transposed", "shifted"):
        return strided_copies(x)[kind]
    if kind == "repeated":  # one sample for the whole batch
        return x[:1].expand(x.shape)
    if kind == "constant":  # what sum().backward() sends
        return x.flatten()[:1].view([1] * x.dim()).expand(x.shape)
    reach = 1 + sum(side - 1 for side in x.shape)
    return x.flatten()[:reach].clone().as_strided(x.shape, [1] * x.dim())


def sprinkle(x: Tensor, values: Sequence[float], share: float, seed: int) -> Tensor:
    """A share of the elements of x, and at least one, is one of these values."""
    random = torch.Generator().manual_seed(seed)
    pick = torch.rand(x.shape, generator=random) < share
    if x.numel():
        pick.view(-1)[int(torch.randint(0, x.numel(), (), generator=random))] = True
    which = torch.randint(0, len(values), x.shape, generator=random)
    return torch.where(pick, torch.tensor(values, dtype=x.dtype)[which], x)


def finite(x: Any) -> Any:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return x
    return x.detach().nan_to_num(0, 0, 0)


def agree(
    actual: Tensor, expected: Tensor, bound: Tensor, what: str, *, exactly: bool = True
) -> None:
    """NaN and infinities where expected; elsewhere within the bound, and one rounding to dtype.

    Not ``exactly``: NaN and infinities nowhere else, but a number there is as good.
    """
    assert actual.shape == expected.shape, f"{what}: {actual.shape} is not {expected.shape}"
    assert actual.dtype == expected.dtype, f"{what}: {actual.dtype} is not {expected.dtype}"
    actual, expected, bound = actual.detach().cpu(), expected.detach().cpu(), bound.cpu()
    if not actual.is_floating_point():
        wrong = ((actual ^ expected) & ~bound) != 0
    else:
        store = torch.finfo(actual.dtype)
        actual, expected = actual.double(), expected.double()
        bound = finite(bound) + store.eps * expected.abs() + store.tiny
        alike = (actual == expected) | (actual.isnan() & expected.isnan())
        near = (actual - expected).abs() <= bound
        wrong = ~torch.where(actual.isfinite() & expected.isfinite(), near, alike)
        wrong = wrong & (expected.isfinite() | exactly)
    if wrong.any():
        at = tuple(wrong.nonzero()[0].tolist())
        raise AssertionError(
            f"{what}: {int(wrong.sum())} of {wrong.numel()} are wrong; the first, at {at}, is "
            f"{actual[at]} where {expected[at]} is right"
            + (f" within {bound[at]:.3g}" if bound.is_floating_point() else "")
        )


class Memory:
    """All bytes that some tensors lie in, those between and around their elements included."""

    def __init__(self, given: Sequence[Tensor]) -> None:
        self.storages = [x.untyped_storage() for x in given]
        self.before = [self.bytes(storage).clone() for storage in self.storages]

    @staticmethod
    def bytes(storage: torch.UntypedStorage) -> Tensor:
        return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)

    def addresses(self) -> set[int]:
        return {storage.data_ptr() for storage in self.storages if storage.nbytes()}

    def is_untouched(self) -> bool:
        pairs = zip(self.storages, self.before, strict=True)
        return all(torch.equal(self.bytes(storage), before) for storage, before in pairs)


# ---- drawing


class Swept(NamedTuple):
    """A contract, and how its inputs are made difficult."""

    contract: type[Contract]
    odd: dict[str, tuple[float, ...]] = {}  # by input: numbers that may be sprinkled over it
    recast: tuple[str, ...] = ()  # inputs of any floating dtype
    odd_incoming: bool = True  # gradients may arrive that are not finite
    reads_more: tuple[str, ...] = ()  # gradients made of features that the values leave out

    def clean(self, inputs: Inputs) -> Inputs:
        """The inputs with 0 for features that are not finite: what the bounds are made of."""
        names = (self.contract.values, "mask")
        return {k: finite(v) if k in names else v for k, v in inputs.items()}

    def draw_inputs(self, draw: Callable[..., Any]) -> Inputs:
        """One input of the contract's own sweep, made difficult."""
        inputs = draw(self.contract.sweep)
        if "part" in inputs:
            inputs["part"] = draw_parts(draw, inputs["part"])
        for name, values in self.odd.items():
            if inputs[name].is_floating_point() and draw(st.booleans()):
                share = draw(st.sampled_from([0.0, 0.05, 0.3]))
                inputs[name] = sprinkle(inputs[name], values, share, draw(st.integers(0, 99)))
        for name in self.recast:
            if draw(st.integers(0, 3)) == 0:
                inputs[name] = inputs[name].to(draw(st.sampled_from(DTYPES)))
        for name in tensors(inputs):
            kind = draw(st.sampled_from(LAYOUTS))
            if kind == "repeated" and name in self.contract.unbatched:
                kind = "contiguous"
            if kind == "channels_last" and name != self.contract.values:
                kind = "transposed"
            inputs[name] = lay_out(inputs[name], kind, self.contract.spatial)
        return inputs

    def draw_wanted(self, draw: Callable[..., Any], inputs: Inputs) -> list[str]:
        """Some of the inputs that may get a gradient."""
        odd = not all(inputs[name].isfinite().all() for name in self.odd)
        names = self.contract().wanted(inputs)
        return [n for n in names if draw(st.booleans()) and not (odd and n in self.reads_more)]

    def draw_incoming(
        self, draw: Callable[..., Any], plain: Inputs, outputs: list[Tensor]
    ) -> list[Tensor]:
        """Gradients as they arrive: of any layout, with odd numbers now and then."""
        contract = self.contract()
        incoming = contract.incoming(self.clean(plain), outputs)
        for i, (g, y) in enumerate(zip(incoming, contract.moving(outputs), strict=True)):
            g = g.where(y.isfinite(), 0)  # which of several NaN passes it on is nobody's promise
            if self.odd_incoming and draw(st.integers(0, 5)) == 0:
                g = sprinkle(g, (NAN, INF, -INF), 0.05, draw(st.integers(0, 99)))
            kinds = ["contiguous", "channels_last", "sliced", "transposed"]
            if (g != 0).all():  # a contract takes gradients away where rounding decides
                kinds += ["constant", "overlapping"]
            incoming[i] = lay_out(g, draw(st.sampled_from(kinds)), contract.spatial)
        return incoming


def draw_parts(draw: Callable[..., Any], part: Tensor) -> Tensor:
    """The part map as it is, or one value everywhere: background, a part, or none there is."""
    info = torch.iinfo(part.dtype)
    kind = draw(st.sampled_from(["as drawn", "as drawn", 0, 1, 2, info.max, info.min]))
    return part if kind == "as drawn" else torch.full_like(part, kind)


# ---- running


def plain_copies(inputs: Inputs) -> Inputs:
    return {k: v.contiguous().clone() if isinstance(v, Tensor) else v for k, v in inputs.items()}


def passes(
    run: Callable[[Inputs], list[Tensor]],
    contract: Contract,
    inputs: Inputs,
    incoming: list[Tensor],
    names: list[str],
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Outputs, and the gradients to ``names`` alone."""
    inputs = {**inputs, **{name: inputs[name].detach().requires_grad_() for name in names}}
    outputs = run(inputs)
    if not names:
        return outputs, {}
    pairs = zip(contract.moving(outputs), incoming, strict=True)
    y, g = zip(*[(y, g.to(y.device)) for y, g in pairs if y.requires_grad], strict=True)
    grads = torch.autograd.grad(y, [inputs[name] for name in names], g, allow_unused=True)
    given = {name: x for name, x in zip(names, grads, strict=True) if x is not None}
    return outputs, given
