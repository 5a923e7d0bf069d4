# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 (a row is one line: the mistake and the whole message)
"""capsule_mask under PyTorch's modes, its dispatcher operators, and what wrong arguments are told."""

from __future__ import annotations

import itertools

import pytest
import torch
from capsules import capsules
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils.checkpoint import checkpoint

import pose_kernels as pk

F = torch.func
NAMES = ("start", "end", "radius")
SOFT = {"packed": False, "softness": 0.7}
FORMS = ({}, {"packed": False}, SOFT)
forms = pytest.mark.parametrize("options", FORMS, ids=["bits", "bool", "soft"])


def sample(device, dtype=torch.float64, N=2, size=(3, 4, 5), seed=1):
    """Away from kinks: no ball, and no end that two capsules share."""
    inputs = capsules(N, 5, size, 2, dtype, seed=seed)
    inputs["end"] = inputs["end"] + torch.linspace(0.3, 0.7, 5, dtype=dtype)[:, None]
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}


def points_of(inputs):
    return tuple(inputs[name] for name in NAMES)


def function(inputs, options, op=pk.capsule_mask):
    return lambda *points: op(**{**inputs, **dict(zip(NAMES, points))}, **options)


def dispatched(inputs):
    part = inputs["part"].to(torch.int32).expand(inputs["start"].shape[:2])
    return (*points_of(inputs), part, list(inputs["size"]), inputs["num_parts"])


ops = torch.ops.pose_kernels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_opcheck(device, dtype):
    inputs = sample(device, dtype)
    inputs["start"] = inputs["start"].transpose(0, 1).contiguous().transpose(0, 1)
    for name in NAMES:
        inputs[name].requires_grad_()
    args = dispatched(inputs)
    torch.library.opcheck(ops.capsule_mask.default, (*args, True))
    torch.library.opcheck(ops.capsule_mask.default, (*args, False))
    torch.library.opcheck(ops.capsule_soft_mask.default, (*args, 0.7))
    grad = torch.randn(2, 2, 3, 4, 5, dtype=dtype, device=device)
    points = [x.detach() for x in args[:3]]
    backward = ops.capsule_soft_mask_backward.default
    torch.library.opcheck(backward, (grad, *points, args[3], 0.7))
    torch.library.opcheck(backward, (grad.transpose(3, 4).contiguous().mT, *points, args[3], 0.7))


@forms
def test_fake_and_meta_tensors_tell_the_truth(device, options):
    inputs = sample(device, torch.float16)
    real = pk.capsule_mask(**inputs, **options)
    meta = {k: v.to("meta") if isinstance(v, Tensor) else v for k, v in inputs.items()}
    with FakeTensorMode() as mode:
        fakes = {k: mode.from_tensor(v) if isinstance(v, Tensor) else v for k, v in inputs.items()}
        fake = pk.capsule_mask(**fakes, **options)
    for y in (fake, pk.capsule_mask(**meta, **options)):
        assert (y.shape, y.dtype, y.stride()) == (real.shape, real.dtype, real.stride())


@forms
def test_compile_with_dynamic_shapes(device, options):
    torch._dynamo.reset()

    def run(inputs, size):
        return pk.capsule_mask(**{**inputs, "size": size}, **options)

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True, dynamic=True)
    for step, (N, size) in enumerate([(2, (3, 4, 5)), (3, (4, 6, 7)), (5, (6, 5, 9))]):
        inputs = sample(device, torch.float32, N, size)
        inputs["start"].requires_grad_()
        del inputs["size"]
        with torch._dynamo.config.patch(error_on_recompile=step > 1):
            got = compiled(inputs, size)
        expected = run(inputs, size)
        assert torch.equal(got, expected)
        if options is SOFT:
            grads = (
                torch.autograd.grad(y.square().sum(), inputs["start"])[0] for y in (got, expected)
            )
            assert torch.equal(*grads)
    torch._dynamo.reset()


@forms
def test_export(device, options):
    inputs = sample(device, torch.float32)

    class Module(torch.nn.Module):
        def forward(self, start, end, radius):
            return function(inputs, options)(start, end, radius)

    program = torch.export.export(Module(), points_of(inputs))
    assert any(str(node.target).startswith("pose_kernels.") for node in program.graph.nodes)
    assert torch.equal(
        program.module()(*points_of(inputs)), function(inputs, options)(*points_of(inputs))
    )


def test_func_first_order(device):
    """grad, jvp, jacrev and jacfwd with respect to each input, against plain autograd."""
    inputs = sample(device, N=1)
    points, f = points_of(inputs), function(inputs, SOFT)
    g = function(inputs, SOFT, pk.reference.capsule_mask)
    close = torch.testing.assert_close
    for i in range(3):
        jacobian = F.jacrev(g, argnums=i)(*points)
        assert jacobian.abs().max() > 0.05
        close(F.jacrev(f, argnums=i)(*points), jacobian)
        close(F.jacfwd(f, argnums=i)(*points), jacobian)
    tangents = tuple(torch.randn_like(x) for x in points)
    moved = F.jvp(f, points, tangents)[1]
    close(moved, F.jvp(g, points, tangents)[1])
    loss, same = (lambda *p, h=h: h(*p).pow(2).sum() for h in (f, g))
    for a, b in zip(F.grad(loss, (0, 1, 2))(*points), F.grad(same, (0, 1, 2))(*points)):
        close(a, b)


@forms
def test_func_vmap(device, options):
    """Over the batch, over the parts' numbers, and vmap(grad): equal to a loop."""
    inputs = sample(device, N=3)
    points = points_of(inputs)
    f = function(inputs, options)
    many = tuple(torch.stack([x, x.flip(0)], 1) for x in points)
    out = F.vmap(f, in_dims=1)(*many)
    assert torch.equal(out[0], f(*points)) and torch.equal(out[1], f(*points).flip(0))
    shared = F.vmap(lambda start: f(start, *points[1:]))(torch.stack([points[0], points[0] + 1]))
    assert torch.equal(shared[1], f(points[0] + 1, *points[1:]))
    parts = torch.stack([inputs["part"], 1 - inputs["part"]])
    swapped = F.vmap(lambda part: pk.capsule_mask(**{**inputs, "part": part}, **options))(parts)
    assert torch.equal(swapped[1], pk.capsule_mask(**{**inputs, "part": parts[1]}, **options))
    if options is SOFT:
        grads = F.vmap(F.grad(lambda *p: f(*p).pow(2).sum()), in_dims=1)(*many)
        alone = F.grad(lambda *p: f(*p).pow(2).sum())(*points)
        assert torch.equal(grads[0], alone) and torch.equal(grads[1], alone.flip(0))


@pytest.mark.parametrize("options", FORMS[:2], ids=["bits", "bool"])
def test_hard_masks_have_no_gradient(device, options):
    """Neither an error nor a zero: they are constants, in every mode."""
    inputs = sample(device)
    points = points_of(inputs)
    expected = pk.capsule_mask(**inputs, **options)
    for name in NAMES:
        moved = {**inputs, name: inputs[name].clone().requires_grad_()}
        assert not pk.capsule_mask(**moved, **options).requires_grad
    f = function(inputs, options)
    mask, tangent = F.jvp(f, points, points)
    assert torch.equal(mask, expected) and not tangent.any()

    def loss(start):
        return (f(start, *points[1:]) * start.sum()).sum().double()

    assert (F.grad(loss)(points[0]) == expected.sum()).all()
    args = [x.clone().requires_grad_() if i < 3 else x for i, x in enumerate(dispatched(inputs))]
    assert not ops.capsule_mask(*args, not options).requires_grad


def test_second_order_is_right_or_an_error(device):
    """Never a silent zero."""
    inputs = sample(device)
    points = [x.requires_grad_() for x in points_of(inputs)]
    loss = function(inputs, SOFT)(*points).pow(2).sum()
    (grad,) = torch.autograd.grad(loss, points[0], create_graph=True)
    message = "second derivatives through start, end and radius are not implemented"
    with pytest.raises(RuntimeError, match=message):
        grad.sum().backward()
    points = points_of(sample(device, N=1, size=(2, 2, 3)))
    inputs = sample(device, N=1, size=(2, 2, 3))
    raised = 0
    for outer, inner in itertools.product((F.jacfwd, F.jacrev), repeat=2):

        def hessian(op, outer=outer, inner=inner):
            return outer(inner(lambda *p: function(inputs, SOFT, op)(*p).pow(2).sum()))(*points)

        try:
            got = hessian(pk.capsule_mask)
        except RuntimeError as error:
            known = "second derivatives", "forward mode inside forward mode"
            assert any(reason in str(error) for reason in known)
            raised += 1
        else:  # forward mode inside, whose formula is plain PyTorch
            torch.testing.assert_close(got, hessian(pk.reference.capsule_mask))
    assert raised == 3


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
@forms
def test_autocast_and_half_types(device, low, options):
    """Autocast changes nothing; half types are exactly their float32 values."""
    inputs = sample(device, torch.float32)
    plain = pk.capsule_mask(**inputs, **options)
    with torch.autocast(device, dtype=low):
        assert torch.equal(pk.capsule_mask(**inputs, **options), plain)
    half = {k: v.to(low) if k in NAMES else v for k, v in inputs.items()}
    wide = {k: v.float() if k in NAMES else v for k, v in half.items()}
    mask = pk.capsule_mask(**half, **options)
    assert torch.equal(mask, pk.capsule_mask(**wide, **options)) and mask.dtype == plain.dtype
    if options is SOFT:
        start = half["start"].requires_grad_()
        (g,) = torch.autograd.grad(
            pk.capsule_mask(**{**half, "start": start}, **options).sum(), start
        )
        assert g.dtype == low and g.abs().max() > 0


def test_checkpoint(device):
    inputs = sample(device, torch.float32)
    points = [x.requires_grad_() for x in points_of(inputs)]
    plain = torch.autograd.grad(function(inputs, SOFT)(*points).pow(2).sum(), points)
    again = checkpoint(function(inputs, SOFT), *points, use_reentrant=False)
    grads = torch.autograd.grad(again.pow(2).sum(), points)
    assert all(torch.equal(a, b) for a, b in zip(grads, plain, strict=True))


def test_one_radius_for_all_axes(place):
    """(N, K) is (N, K, 3) three times, and its gradient their sum."""
    inputs = sample(place.device)
    radius = inputs["radius"][..., 0].clone().requires_grad_()
    wide = radius.detach()[..., None].repeat(1, 1, 3).requires_grad_()
    grads = []
    for r in (radius, wide):
        for options in FORMS[:2]:
            narrow = pk.capsule_mask(**{**inputs, "radius": r}, **options)
            assert torch.equal(narrow, pk.capsule_mask(**{**inputs, "radius": wide}, **options))
        mask = pk.capsule_mask(**{**inputs, "radius": r}, **SOFT)
        grads += torch.autograd.grad(mask.pow(2).sum(), r)
    torch.testing.assert_close(grads[0], grads[1].sum(-1), rtol=1e-12, atol=1e-12)


@pytest.mark.skipif("cpp" in pk.backends.unavailable, reason="_C_cpu is not loaded")
def test_same_bits_for_any_number_of_threads():
    inputs = sample("cpu", torch.float32, N=3, size=(20, 24, 40))
    points = [x.requires_grad_() for x in points_of(inputs)]
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            soft = function(inputs, SOFT)(*points)
            grads = torch.autograd.grad(soft.pow(2).sum(), points)
            runs.append([pk.capsule_mask(**inputs), soft, *grads])
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


def test_inductor(device):
    torch._dynamo.reset()
    inputs = sample(device, torch.float32)

    def loss(start):
        soft = pk.capsule_mask(**{**inputs, "start": start * 1.01}, **SOFT)
        bits = pk.capsule_mask(**{**inputs, "start": start})
        return (soft * (bits != 0)[:, None]).pow(2).sum()

    start = inputs["start"].clone().requires_grad_()
    expected = torch.autograd.grad(loss(start), start)[0]
    got = torch.autograd.grad(torch.compile(loss, fullgraph=True)(start), start)[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


# ---- wrong arguments

start, radius, part = torch.zeros(2, 4, 3), torch.ones(2, 4), torch.zeros(4, dtype=torch.int64)
RIGHT = {
    "start": start,
    "end": start,
    "radius": radius,
    "part": part,
    "size": (3, 4, 5),
    "num_parts": 3,
}
floats = "must be float32, float64, float16 or bfloat16"
ROWS = [
    ({"start": start[0]}, "start must be (N, K, 3), got (4, 3) float32"),
    ({"start": torch.zeros(2, 4, 2)}, "start must be (N, K, 3) = (2, 4, 3), got (2, 4, 2) float32"),
    ({"end": start[:1]}, "end must be (N, K, 3) = (2, 4, 3) as in start, got (1, 4, 3) float32"),
    ({"end": start[:, :3]}, "end must be (N, K, 3) = (2, 4, 3) as in start, got (2, 3, 3) float32"),
    ({"radius": radius[:, :3]}, "radius must be (N, K) = (2, 4) as in start, got (2, 3) float32"),
    ({"radius": radius[0]}, "radius must be (N, K), got (4) float32"),
    ({"radius": torch.ones(2, 4, 1)}, "radius must be (N, K, 3) = (2, 4, 3) as in start, got (2, 4, 1) float32"),
    ({"part": part[:3]}, "part must be (K) = (4) as in start, got (3) int64"),
    ({"part": part.expand(2, 4)}, "part must be (K), got (2, 4) int64"),
    ({"start": start[:, :0], "end": start[:, :0], "radius": radius[:, :0], "part": part[:0]}, "start must have at least one capsule, got K = 0"),
    ({"start": start.int()}, f"start {floats}, got (2, 4, 3) int32"),
    ({"end": start.to(torch.complex64)}, f"end {floats}, got (2, 4, 3) complex64"),
    ({"radius": radius.long()}, f"radius {floats}, got (2, 4) int64"),
    ({"part": part.float()}, "part must have an integer dtype, got (4) float32"),
    ({"part": part.bool()}, "part must have an integer dtype, got (4) bool"),
    ({"end": start.to("meta")}, "end must be on cpu as start is, got meta"),
    ({"part": part.to("meta")}, "part must be on cpu as start is, got meta"),
    ({"radius": radius.to_sparse()}, "radius must be a dense (strided) tensor, got layout torch.sparse_coo"),
    ({"size": (4, 5)}, "size must be (D, H, W), three ints of at least 1, got (4, 5)"),
    ({"size": (3, 0, 5)}, "size must be (D, H, W), three ints of at least 1, got (3, 0, 5)"),
    ({"size": (3, 4.0, 5)}, "size must be (D, H, W), three ints of at least 1, got (3, 4.0, 5)"),
    ({"size": (3, True, 5)}, "size must be (D, H, W), three ints of at least 1, got (3, True, 5)"),
    ({"size": 64}, "size must be (D, H, W), three ints of at least 1, got 64"),
    ({"size": (2048, 1024, 1024)}, "size must have fewer than 2^31 voxels, got (2048, 1024, 1024)"),
    ({"num_parts": 0}, "num_parts must be an int of at least 1, got 0"),
    ({"num_parts": 3.0}, "num_parts must be an int of at least 1, got 3.0"),
    ({"num_parts": 32}, "num_parts must be at most 31 in a packed mask, one bit each of an int32, got 32; packed=False has no limit"),
    ({"softness": 0.5}, "softness must be None for a packed mask, which holds one bit a part, got 0.5"),
    ({"packed": False, "softness": 0}, "softness must be None or a finite number of at least 1e-06, got 0"),
    ({"packed": False, "softness": float("inf")}, "softness must be None or a finite number of at least 1e-06, got inf"),
    ({"packed": False, "softness": float("nan")}, "softness must be None or a finite number of at least 1e-06, got nan"),
    ({"packed": False, "softness": "soft"}, "softness must be None or a finite number of at least 1e-06, got 'soft'"),
]  # fmt: skip
TYPE_ROWS = [
    ({"start": [0.0]}, "start must be a torch.Tensor, got list [0.0]"),
    ({"end": None}, "end must be a torch.Tensor, got NoneType None"),
    ({"radius": 2.0}, "radius must be a torch.Tensor, got float 2.0"),
    ({"part": (0, 1)}, "part must be a torch.Tensor, got tuple (0, 1)"),
]


@pytest.mark.parametrize(("wrong", "message"), ROWS, ids=[row[1] for row in ROWS])
def test_value_error(wrong, message):
    pk.capsule_mask(**RIGHT)
    with pytest.raises(ValueError) as error:
        pk.capsule_mask(**{**RIGHT, **wrong})
    assert type(error.value) is ValueError and str(error.value) == message


@pytest.mark.parametrize(("wrong", "message"), TYPE_ROWS, ids=[row[1] for row in TYPE_ROWS])
def test_type_error(wrong, message):
    with pytest.raises(TypeError) as error:
        pk.capsule_mask(**{**RIGHT, **wrong})
    assert str(error.value) == message


wide, int32 = torch.ones(2, 4, 3), part.to(torch.int32).expand(2, 4)
size = [3, 4, 5]
DIRECT = [
    ("capsule_mask", (start[0], start, wide, int32, size, 3, True), "start must be (N, K, 3)"),
    ("capsule_mask", (start[:, :0], start[:, :0], wide[:, :0], int32[:, :0], size, 3, True), "K >= 1"),
    ("capsule_mask", (start, start[:1], wide, int32, size, 3, True), "must be (N, K, 3)"),
    ("capsule_mask", (start, start, radius, int32, size, 3, True), "must be (N, K, 3)"),
    ("capsule_mask", (start, start, wide, part.expand(2, 4), size, 3, True), "part must be (N, K) int32"),
    ("capsule_mask", (start, start.double(), wide, int32, size, 3, True), "all the same"),
    ("capsule_mask", (start.half(), start.half(), wide.half(), int32, size, 3, True), "float32 or float64"),
    ("capsule_mask", (start, start, wide, int32, size[:2], 3, True), "size must be (D, H, W)"),
    ("capsule_mask", (start, start, wide, int32, [2**20, 2**20, 2**20], 3, True), "fewer than 2^31"),
    ("capsule_mask", (start, start, wide, int32, size, 32, True), "at most 31 parts"),
    ("capsule_mask", (start, start, wide, int32, size, 0, True), "num_parts must be"),
    ("capsule_soft_mask", (start, start, wide, int32, size, 3, 0.0), "softness must be positive"),
    ("capsule_soft_mask_backward", (torch.zeros(2, 3, 3, 4), start, start, wide, int32, 0.5), "grad must be"),
    ("capsule_soft_mask_backward", (torch.zeros(1, 3, 3, 4, 5), start, start, wide, int32, 0.5), "grad must be"),
    ("capsule_soft_mask_backward", (torch.zeros(2, 3, 3, 4, 5).double(), start, start, wide, int32, 0.5), "grad must be"),
]  # fmt: skip


@pytest.mark.skipif("cpp" in pk.backends.unavailable, reason="_C_cpu is not loaded")
@pytest.mark.parametrize(("name", "args", "message"), DIRECT, ids=[row[2] for row in DIRECT])
def test_compiled_kernels_check_again(name, args, message):
    with pk.use_backend("cpp"), pytest.raises(RuntimeError) as error:
        getattr(torch.ops.pose_kernels, name)(*args)
    assert message in str(error.value)
