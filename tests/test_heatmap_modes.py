# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 (a row is one line: the mistake and the whole message)
"""heatmap under PyTorch's modes (compile, export, func, autocast), and with wrong arguments."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils.checkpoint import checkpoint

import pose_kernels as pk

F = torch.func
OP, BACKWARD = torch.ops.pose_kernels.heatmap, torch.ops.pose_kernels.heatmap_backward
SIZES = [(4, 5), (3, 4, 2)]


def joints(size: tuple[int, ...], dtype: torch.dtype, device: str, N: int = 2) -> Tensor:
    random = torch.Generator().manual_seed(3)
    return (torch.rand(N, 3, len(size), generator=random) * 4).to(device, dtype)


def maps(points: Tensor, size: tuple[int, ...], op=pk.heatmap) -> Tensor:
    return op(points, size, 1.7, stride=1.5)


# ---- dispatcher


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_opcheck(device, size, kind):
    points = joints(size, torch.float32, device)
    stride = [1.0, 2.0, 0.5][: len(size)]
    odd = points.transpose(0, 1).contiguous().transpose(0, 1)
    for x in (points, odd, points[:1].expand(2, *points.shape[1:])):
        x = x.detach().requires_grad_(kind == 0)
        torch.library.opcheck(OP.default, (x, size, 1.5, stride, kind))


@pytest.mark.parametrize("size", SIZES)
def test_opcheck_of_the_backward(device, size):
    points = joints(size, torch.float64, device).requires_grad_()
    g = torch.rand(2, 3, *size, dtype=torch.float64, device=device).requires_grad_()
    stride = [1.0, 2.0, 0.5][: len(size)]
    torch.library.opcheck(BACKWARD.default, (g, points, 1.5, stride))


def test_fake_and_meta_tensors_tell_the_truth(device):
    for size, dtype in itertools.product(SIZES, (torch.float16, torch.float64)):
        points = joints(size, dtype, device)
        real = maps(points, size)
        meta = maps(points.to("meta"), size)
        with FakeTensorMode() as mode:
            fake = maps(mode.from_tensor(points), size)
        for y in (meta, fake):
            assert (y.shape, y.dtype, y.stride()) == (real.shape, real.dtype, real.stride())
        assert meta.is_meta and fake.device == real.device


# ---- compile and export


def with_gradient(run, points: Tensor) -> tuple[Tensor, Tensor]:
    points = points.detach().requires_grad_()
    y = run(points)
    g = torch.linspace(-1, 2, y.numel(), dtype=y.dtype, device=y.device).view_as(y)
    return y, torch.autograd.grad(y, points, g)[0]


@pytest.mark.parametrize("axes", [2, 3])
def test_compile_with_dynamic_shapes(device, axes):
    """One graph for all numbers of joints and all sizes; the bits of eager mode."""
    torch._dynamo.reset()

    def run(points: Tensor, like: Tensor) -> Tensor:
        return pk.heatmap(points, like.shape, 2.0, stride=1.5)

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True, dynamic=True)
    for grow in (0, 1, 3):
        size = (4 + grow, 6 + grow, 9 + grow)[:axes]
        points, like = joints(size, torch.float32, device, 5 + grow), torch.empty(size)
        expected = with_gradient(lambda x, like=like: run(x, like), points)
        with torch._dynamo.config.patch(error_on_recompile=grow > 0):
            got = with_gradient(lambda x, like=like: compiled(x, like), points)
        for a, b in zip(got, expected, strict=True):
            assert torch.equal(a, b) and a.stride() == b.stride()


def test_compile_of_everything_the_wrapper_does(device):
    torch._dynamo.reset()

    def run(points: Tensor, valid: Tensor) -> Tensor:
        soft = pk.heatmap(points, (5, 6), 2, stride=(1, 2), valid=valid)
        disc = pk.heatmap(points, [5, 6], 2.5, kind="disc", valid=valid)
        return soft + disc * pk.heatmap(points, (5, 6), 0, kind="impulse")

    points = joints((5, 6), torch.float32, device)
    valid = torch.tensor([[1, 0, 1], [0, 1, 1]], device=device)
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    got = with_gradient(lambda x: compiled(x, valid), points)
    expected = with_gradient(lambda x: run(x, valid), points)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_export_then_backward(device):
    class Module(torch.nn.Module):
        def forward(self, points: Tensor) -> Tensor:
            return maps(points, (4, 5))

    points = joints((4, 5), torch.float32, device)
    batch = torch.export.Dim("N", min=1, max=64)
    program = torch.export.export(Module(), (points,), dynamic_shapes=({0: batch},))
    targets = [str(node.target) for node in program.graph.nodes]
    assert "pose_kernels.heatmap.default" in targets
    bigger = joints((4, 5), torch.float32, device, 5)
    got = with_gradient(program.module(), bigger)
    expected = with_gradient(Module(), bigger)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_forward_mode_in_compile_is_right_or_an_error(device):
    """PyTorch alone would return zeros."""
    points = joints((4, 5), torch.float64, device)
    expected = F.jvp(lambda x: maps(x, (4, 5)), (points,), (points,))[1]
    assert expected.abs().max() > 0.1
    torch._dynamo.reset()
    try:
        run = torch.compile(
            lambda x: F.jvp(lambda x: maps(x, (4, 5)), (x,), (x,))[1], backend="aot_eager"
        )
        got = run(points)
    except Exception as error:
        assert str(error)
    else:
        torch.testing.assert_close(got, expected)


# ---- torch.func


@pytest.mark.parametrize("size", SIZES)
def test_func_first_order(device, size):
    points = joints(size, torch.float64, device)
    tangent = torch.randn_like(points)

    def ours(x):
        return maps(x, size)

    def reference(x):
        return maps(x, size, pk.reference.heatmap)

    close = torch.testing.assert_close
    jacobian = F.jacrev(reference)(points)
    assert jacobian.abs().max() > 0.1
    close(F.jacrev(ours)(points), jacobian)
    close(F.jacfwd(ours)(points), jacobian)
    close(F.jvp(ours, (points,), (tangent,))[1], F.jvp(reference, (points,), (tangent,))[1])
    close(F.grad(lambda x: ours(x).pow(2).sum())(points),
          F.grad(lambda x: reference(x).pow(2).sum())(points))  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
def test_func_vmap(device, size):
    points = joints(size, torch.float64, device)
    many = torch.stack([points, points + 1, points * 0.5], 1)
    out = F.vmap(lambda x: maps(x, size), in_dims=1, out_dims=-1)(many)
    assert torch.equal(out, torch.stack([maps(x, size) for x in many.unbind(1)], -1))

    def loss(x):
        return maps(x, size).pow(2).sum()

    grads = F.vmap(F.grad(loss), in_dims=1)(many)
    assert torch.equal(grads, torch.stack([F.grad(loss)(x) for x in many.unbind(1)]))
    valid = torch.tensor([[[1, 0, 1]] * 2, [[0, 1, 1]] * 2], device=device)
    out = F.vmap(lambda v: pk.heatmap(points, size, 2.0, valid=v))(valid)
    for each, v in zip(out, valid, strict=True):
        assert torch.equal(each, pk.heatmap(points, size, 2.0, valid=v))


def test_func_second_order_is_right_or_an_error(device):
    points = joints((3, 4), torch.float64, device, 1)

    def twice(op, outer, inner):
        return outer(inner(lambda x: maps(x, (3, 4), op).pow(2).sum()))(points)

    expected = twice(pk.reference.heatmap, F.jacrev, F.jacrev)
    assert expected.abs().max() > 0.1
    for outer, inner in itertools.product((F.jacfwd, F.jacrev), repeat=2):
        if outer is inner is F.jacfwd:
            with pytest.raises(RuntimeError, match="forward mode inside forward mode"):
                twice(pk.heatmap, outer, inner)
        else:
            torch.testing.assert_close(twice(pk.heatmap, outer, inner), expected)


def test_forward_mode_of_discs_is_zero(device):
    points = joints((4, 5), torch.float32, device)

    def disc(x):
        return pk.heatmap(x, (4, 5), 2.0, kind="disc")

    y, tangent = F.jvp(disc, (points,), (points,))
    assert torch.equal(y, disc(points)) and tangent.abs().max() == 0


# ---- everything else


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_autocast_keeps_the_coordinates(device, low):
    points = joints((4, 5), torch.float32, device)
    expected = with_gradient(lambda x: maps(x, (4, 5)), points)
    with torch.autocast(device, dtype=low):
        got = with_gradient(lambda x: maps(x, (4, 5)), points)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b)


def test_checkpoint_inference_and_no_grad(device):
    points = joints((4, 5), torch.float32, device).requires_grad_()
    (plain,) = torch.autograd.grad(maps(points, (4, 5)).pow(2).sum(), points)
    for reentrant in (False, True):
        y = checkpoint(lambda x: maps(x, (4, 5)), points, use_reentrant=reentrant)
        points.grad = None
        y.pow(2).sum().backward()
        assert torch.equal(points.grad, plain)
    expected = maps(points, (4, 5)).detach()
    with torch.inference_mode():
        y = maps(points, (4, 5))
        assert y.is_inference() and torch.equal(y, expected)
    with torch.no_grad():
        assert not maps(points, (4, 5)).requires_grad


# ---- wrong arguments

plane, space = torch.zeros(2, 5, 2), torch.zeros(2, 5, 3)
floats = "must be float32, float64, float16 or bfloat16"
pair = "points must be (N, J, 2) for size (H, W) and (N, J, 3) for size (D, H, W), got"
ROWS: list[tuple[dict[str, Any], str]] = [
    ({"points": plane[0]}, "points must be (N, J, A), got (5, 2) float32"),
    ({"points": plane.int()}, f"points {floats}, got (2, 5, 2) int32"),
    ({"points": plane.to(torch.complex64)}, f"points {floats}, got (2, 5, 2) complex64"),
    ({"points": plane.to_sparse()}, "points must be a dense (strided) tensor, got layout torch.sparse_coo"),
    ({"points": space}, f"{pair} (2, 5, 3) float32 and size (8, 9)"),
    ({"size": (4, 8, 9)}, f"{pair} (2, 5, 2) float32 and size (4, 8, 9)"),
    ({"points": plane[..., :1]}, f"{pair} (2, 5, 1) float32 and size (8, 9)"),
    ({"size": 8}, "size must be (H, W) or (D, H, W), got 8"),
    ({"size": (8,)}, "size must be (H, W) or (D, H, W), got (8,)"),
    ({"size": (1, 2, 3, 4)}, "size must be (H, W) or (D, H, W), got (1, 2, 3, 4)"),
    ({"size": (0, 9)}, "H of size must be an int of at least 1, got 0"),
    ({"size": (8, -9)}, "W of size must be an int of at least 1, got -9"),
    ({"size": (8, 9.0)}, "W of size must be an int of at least 1, got 9.0"),
    ({"points": space, "size": (True, 8, 9)}, "D of size must be an int of at least 1, got True"),
    ({"size": (np.int64(8), 9)}, "H of size must be an int of at least 1, got np.int64(8)"),
    ({"size": (8, 2**25)}, "W of size must be at most 16777216, got 33554432"),
    ({"sigma": 0}, "sigma must be a number from 1e-18 to 1e+18, got 0"),
    ({"sigma": -1.0}, "sigma must be a number from 1e-18 to 1e+18, got -1.0"),
    ({"sigma": float("inf")}, "sigma must be a number from 1e-18 to 1e+18, got inf"),
    ({"sigma": float("nan")}, "sigma must be a number from 1e-18 to 1e+18, got nan"),
    ({"sigma": None}, "sigma must be a number from 1e-18 to 1e+18, got None"),
    ({"sigma": (1, 2)}, "sigma must be a number from 1e-18 to 1e+18, got (1, 2)"),
    ({"sigma": True}, "sigma must be a number from 1e-18 to 1e+18, got True"),
    ({"sigma": -1.0, "kind": "disc"}, "sigma must be a number from 0 to 1e+18, got -1.0"),
    ({"stride": 0}, "stride must be a number from 1e-18 to 1e+18, got 0"),
    ({"stride": (1, -2)}, "stride must be a number from 1e-18 to 1e+18, got -2"),
    ({"stride": (1, 2, 3)}, "stride must be a number or 2 numbers in the order (x, y), got (1, 2, 3)"),
    ({"points": space, "size": (4, 8, 9), "stride": [1, 2]}, "stride must be a number or 3 numbers in the order (x, y, z), got [1, 2]"),
    ({"stride": "4"}, "stride must be a number from 1e-18 to 1e+18, got '4'"),
    ({"kind": "square"}, "kind must be one of 'gaussian', 'disc', 'impulse', got 'square'"),
    ({"kind": 0}, "kind must be one of 'gaussian', 'disc', 'impulse', got 0"),
    ({"valid": torch.ones(2, 4)}, "valid must be (N, J) = (2, 5) as in points, got (2, 4) float32"),
    ({"valid": torch.ones(2, 5, 1)}, "valid must be (N, J), got (2, 5, 1) float32"),
    ({"valid": torch.ones(2, 5, device="meta")}, "valid must be on cpu as points is, got meta"),
    ({"valid": torch.ones(2, 5).to(torch.complex64)}, "valid must be bool or real numbers, got (2, 5) complex64"),
]  # fmt: skip
TYPE_ROWS = [
    ({"points": [[1.0, 2.0]]}, "points must be a torch.Tensor, got list [[1.0, 2.0]]"),
    ({"points": plane.numpy()[:0]}, "points must be a torch.Tensor, got ndarray array([], shape=(0, 5, 2), dtype=float32)"),
    ({"valid": [True]}, "valid must be a torch.Tensor, got list [True]"),
]  # fmt: skip
RIGHT = {"points": plane, "size": (8, 9), "sigma": 2.0}


@pytest.mark.parametrize(
    ("error", "wrong", "message"),
    [(ValueError, *row) for row in ROWS] + [(TypeError, *row) for row in TYPE_ROWS],
)
def test_wrong_arguments(error, wrong, message):
    pk.heatmap(**RIGHT)
    with pytest.raises(error) as told:
        pk.heatmap(**{**RIGHT, **wrong})
    assert type(told.value) is error and str(told.value) == message


@pytest.mark.parametrize(("wrong", "message"), ROWS)
def test_fake_tensors_are_told_the_same(wrong, message):
    tensors = [x for x in wrong.values() if isinstance(x, Tensor)]
    if any(x.is_sparse or x.is_meta for x in tensors):
        pytest.skip("FakeTensorMode makes no fake of a sparse or a meta tensor")
    with FakeTensorMode() as mode:
        fakes = {
            k: mode.from_tensor(v) if isinstance(v, Tensor) else v
            for k, v in {**RIGHT, **wrong}.items()
        }
        with pytest.raises(ValueError) as told:
            pk.heatmap(**fakes)
    assert str(told.value) == message


DIRECT = [
    (OP, (plane[0], (8, 9), 2.0, (1.0, 1.0), 0), "points must be"),
    (OP, (plane.half(), (8, 9), 2.0, (1.0, 1.0), 0), "float32 or float64"),
    (OP, (plane, (8,), 2.0, (1.0, 1.0), 0), "size must be"),
    (OP, (plane, (4, 8, 9), 2.0, (1.0, 1.0, 1.0), 0), "points must be"),
    (OP, (plane, (8, 0), 2.0, (1.0, 1.0), 0), "sizes must be"),
    (OP, (plane, (8, 9), 2.0, (1.0,), 0), "stride must have"),
    (OP, (plane, (8, 9), 2.0, (1.0, 0.0), 0), "strides must be positive"),
    (OP, (plane, (8, 9), 0.0, (1.0, 1.0), 0), "sigma must be positive"),
    (OP, (plane, (8, 9), -1.0, (1.0, 1.0), 1), "sigma must be"),
    (OP, (plane, (8, 9), 2.0, (1.0, 1.0), 3), "kind must be"),
    (BACKWARD, (torch.zeros(2, 5, 9), plane, 2.0, (1.0, 1.0)), "grad must be"),
    (BACKWARD, (torch.zeros(2, 4, 8, 9), plane, 2.0, (1.0, 1.0)), "agree in N and J"),
    (BACKWARD, (torch.zeros(2, 5, 8, 9, 9), plane, 2.0, (1.0, 1.0)), "points must be"),
    (BACKWARD, (torch.zeros(2, 5, 8, 9).double(), plane, 2.0, (1.0, 1.0)), "one dtype"),
    (BACKWARD, (torch.zeros(2, 5, 8, 9), plane, 0.0, (1.0, 1.0)), "sigma must be positive"),
]


@pytest.mark.parametrize(("op", "args", "message"), DIRECT)
def test_the_backstop(op, args, message):
    """What only a direct call of the dispatcher can get wrong."""
    if "cpp" in pk.backends.unavailable:
        pytest.skip("_C_cpu, which holds the check, is not loaded")
    with pk.use_backend("cpp"), pytest.raises(RuntimeError, match=message):
        op(*args)
