# SPDX-License-Identifier: Apache-2.0
"""helmert_fit in PyTorch's modes: strides, compile, export, torch.func, autocast, threads."""

from __future__ import annotations

import itertools
import threading

import pytest
import torch
from point_pairs import NAN, random_pairs

import pose_kernels as pk

F = torch.func
NAMES = ("source", "target", "weight")
close = torch.testing.assert_close


def pairs(device, N=3, K=4, dtype=torch.float64, seed=0):
    return [x.to(device) for x in random_pairs(N, K, dtype, seed)]


def gradients(run, inputs, seed=0):
    given = [x.detach().requires_grad_() for x in inputs]
    out = run(*given)
    generator = torch.Generator().manual_seed(seed)
    grad = torch.randn(out.shape, generator=generator).to(out)
    return [out.detach(), *torch.autograd.grad(out, given, grad)]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ---- shapes and strides


@pytest.mark.parametrize("lead", [(), (6,), (2, 3), (1, 2, 1, 3), (0,), (2, 0)])
def test_leading_axes(place, lead):
    source, target, weight = pairs(place.device, 6)
    expected = pk.helmert_fit(source, target, weight)
    take = 6 if 0 not in lead else 0
    if lead == ():
        take, expected = 1, expected[:1]
    source, target, weight = (
        x[:take].reshape(*lead, *x.shape[1:]) for x in (source, target, weight)
    )
    out = pk.helmert_fit(source, target, weight)
    assert out.shape == (*lead, 3, 4)
    assert torch.equal(out.reshape(-1, 3, 4), expected[:take])
    reference = pk.reference.helmert_fit(source, target, weight)
    assert reference.shape == out.shape
    given = [x.requires_grad_() for x in (source, target, weight)]
    grads = torch.autograd.grad(pk.helmert_fit(*given).sum(), given)
    assert [x.shape for x in grads] == [x.shape for x in given]


def test_no_weight_is_equal_weights(place):
    source, target, weight = pairs(place.device)
    expected = pk.helmert_fit(source, target, torch.ones_like(weight))
    assert torch.equal(pk.helmert_fit(source, target), expected)
    assert torch.equal(pk.helmert_fit(source, target, weight=None), expected)
    close(pk.helmert_fit(source, target, torch.full_like(weight, 7)), expected)
    close(pk.reference.helmert_fit(source, target), expected)


def test_strides(place):
    inputs = pairs(place.device, 20, 6, torch.float32)
    expected = gradients(pk.helmert_fit, inputs)
    swapped = [x.transpose(0, -1).contiguous().transpose(0, -1) for x in inputs]
    sliced = [torch.stack([x, x * NAN], -1).flatten(-2)[..., ::2] for x in inputs]
    shifted = [torch.cat([x[:1], x])[1:] for x in inputs]
    for other in (swapped, sliced, shifted):
        assert same(gradients(pk.helmert_fit, other), expected)
    one = [x[:1].expand_as(x) for x in inputs]
    many = [x.contiguous() for x in one]
    assert same(gradients(pk.helmert_fit, one), gradients(pk.helmert_fit, many))


def test_inputs_stay_and_outputs_are_no_views(place):
    inputs = pairs(place.device, 20, 6, torch.float32)
    before = [x.clone() for x in inputs]
    gradients(pk.helmert_fit, inputs)
    assert same(inputs, before)
    out = pk.helmert_fit(*(x.requires_grad_() for x in inputs))
    expected = 2 * out.detach()
    assert torch.equal(out.mul_(2).detach(), expected)


def test_some_inputs_require_grad(place):
    inputs = pairs(place.device)
    every = gradients(pk.helmert_fit, inputs)[1:]
    for i, grad in enumerate(every):
        given = [x.requires_grad_() if i == j else x for j, x in enumerate(pairs(place.device))]
        out = pk.helmert_fit(*given)
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out)
        assert torch.equal(torch.autograd.grad(out, given[i], upstream)[0], grad)
    assert not pk.helmert_fit(*pairs(place.device)).requires_grad


def test_same_bits_for_any_number_of_threads(place):
    inputs = pairs(place.device, 5000, 7, torch.float32)
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            runs.append(gradients(pk.helmert_fit, inputs))
    finally:
        torch.set_num_threads(before)
    assert same(runs[0], runs[1]) and same(runs[0], runs[2])


def test_eight_threads_at_once(place):
    inputs = pairs(place.device, 300, 6, torch.float32)
    expected, wrong = gradients(pk.helmert_fit, inputs), []

    def work():
        for _ in range(3):
            if not same(gradients(pk.helmert_fit, inputs), expected):
                wrong.append(threading.get_ident())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- dispatcher, compile, export


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("name", ["helmert_fit", "helmert_fit_backward"])
def test_opcheck(device, name, scale):
    inputs = pairs(device, dtype=torch.float32)
    grad = (torch.ones(3, 3, 4, device=device),) if name.endswith("backward") else ()
    op = getattr(torch.ops.pose_kernels, name).default
    kinds = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    for odd in (inputs, [x[:1].expand_as(x) for x in inputs]):
        if not grad:
            odd = [x.detach().requires_grad_() for x in odd]
            torch.library.opcheck(op, (*odd, scale))
        else:  # it has no gradient of its own
            torch.library.opcheck(op, (*grad, *odd, scale), test_utils=kinds)


@pytest.mark.parametrize("weighted", [True, False])
def test_compile_with_dynamic_shapes(device, weighted):
    torch._dynamo.reset()

    def run(source, target, weight):
        return pk.helmert_fit(source, target, weight if weighted else None) + 0 * weight.sum()

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True, dynamic=True)
    for grow in (0, 1, 3):
        inputs = pairs(device, 5 + grow, 7 + grow)  # no size is 3, or it would stay 3
        with torch._dynamo.config.patch(error_on_recompile=grow > 0):
            got = gradients(compiled, inputs)
        assert same(got, gradients(run, inputs))


def test_export_then_backward(device):
    class Module(torch.nn.Module):
        def forward(self, source, target, weight):
            return pk.helmert_fit(source, target, weight, scale=False)

    inputs = pairs(device)
    program = torch.export.export(Module(), tuple(inputs))
    targets = [str(node.target) for node in program.graph.nodes]
    assert any(target.startswith("pose_kernels.helmert_fit") for target in targets)
    assert same(gradients(program.module(), inputs), gradients(Module(), inputs))


def test_fake_and_meta_tensors_tell_the_truth(device):
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        inputs = pairs(device, dtype=dtype)
        real = pk.helmert_fit(*inputs)
        meta = pk.helmert_fit(*(x.to("meta") for x in inputs))
        with torch._subclasses.FakeTensorMode() as mode:
            fake = pk.helmert_fit(*(mode.from_tensor(x) for x in inputs))
        for other in (meta, fake):
            assert (other.shape, other.dtype) == (real.shape, real.dtype)
            assert other.stride() == real.stride()


# ---- torch.func


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("argnum", [0, 1, 2])
def test_func_first_order(device, argnum, scale):
    inputs = pairs(device, 2)

    def of(op):
        return lambda x: op(*inputs[:argnum], x, *inputs[argnum + 1 :], scale=scale)

    f, g, x = of(pk.helmert_fit), of(pk.reference.helmert_fit), inputs[argnum]
    jacobian = F.jacrev(g)(x)
    assert jacobian.abs().max() > 0.1
    close(F.jacrev(f)(x), jacobian)
    close(F.jacfwd(f)(x), jacobian)
    close(F.jacfwd(g)(x), jacobian)
    tangent = x.flip(0)
    close(F.jvp(f, (x,), (tangent,))[1], F.jvp(g, (x,), (tangent,))[1])
    close(F.grad(lambda x: f(x).pow(2).sum())(x), F.grad(lambda x: g(x).pow(2).sum())(x))


def test_func_vmap(device):
    source, target, weight = pairs(device)
    many = torch.stack([source, 2 * source, source.flip(1)], 1)
    out = F.vmap(lambda x: pk.helmert_fit(x, target, weight), in_dims=1, out_dims=-1)(many)
    expected = [pk.helmert_fit(x, target, weight) for x in many.unbind(1)]
    assert torch.equal(out, torch.stack(expected, -1))
    single = F.vmap(pk.helmert_fit)(source, target, weight)  # no leading axis is left inside
    assert torch.equal(single, pk.helmert_fit(source, target, weight))

    def loss(x):
        return pk.helmert_fit(x, target, weight).pow(2).sum()

    grads = F.vmap(F.grad(loss), in_dims=1)(many)
    assert torch.equal(grads, torch.stack([F.grad(loss)(x) for x in many.unbind(1)]))
    close(F.vmap(pk.reference.helmert_fit)(source, target, weight), single)


def test_second_order_is_right_or_an_error(device):
    """Never a silently wrong number, under any composition of torch.func."""
    inputs = pairs(device, 2)

    def loss(run):
        return lambda *t: run(*t).pow(2).sum()

    known = "second derivatives through the points", "forward mode inside forward mode"
    raised = 0
    for first, second in itertools.product(range(3), repeat=2):
        for outer, inner in itertools.product((F.jacfwd, F.jacrev), repeat=2):

            def twice(run, first=first, second=second, outer=outer, inner=inner):
                return outer(inner(loss(run), argnums=first), argnums=second)(*inputs)

            try:
                got = twice(pk.helmert_fit)
            except RuntimeError as error:
                assert any(reason in str(error) for reason in known)
                raised += 1
                continue
            assert torch.allclose(got, twice(pk.reference.helmert_fit), rtol=1e-8, atol=1e-8)
    assert 0 < raised < 36  # reverse over forward mode works, the others do not


def test_eager_second_order_is_an_error(device):
    source, target, weight = pairs(device)
    out = pk.helmert_fit(source.requires_grad_(), target, weight)
    (grad,) = torch.autograd.grad(out.pow(2).sum(), source, create_graph=True)
    message = "second derivatives through the points and weights are not implemented"
    with pytest.raises(RuntimeError, match=message):
        grad.sum().backward()


# ---- everything else


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_autocast_computes_as_without(device, low):
    for dtype in (low, torch.float32):
        inputs = pairs(device, 20, 6, dtype)
        expected = gradients(pk.helmert_fit, inputs)
        assert expected[0].dtype == torch.float32
        with torch.autocast(device, dtype=low):
            assert same(gradients(pk.helmert_fit, inputs), expected)


def test_checkpoint(device):
    from torch.utils.checkpoint import checkpoint

    inputs = pairs(device)
    expected = gradients(pk.helmert_fit, inputs)
    for reentrant in (False, True):

        def run(*t, reentrant=reentrant):
            return checkpoint(pk.helmert_fit, *t, use_reentrant=reentrant)

        given = [x.detach().requires_grad_() for x in inputs]
        out = run(*given)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out)
        out.backward(grad)
        assert same([out.detach(), *(x.grad for x in given)], expected)


def test_inference_mode(device):
    inputs = pairs(device)
    expected = pk.helmert_fit(*inputs)
    with torch.inference_mode():
        out = pk.helmert_fit(*inputs)
        assert out.is_inference() and torch.equal(out, expected)
