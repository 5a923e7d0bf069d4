# SPDX-License-Identifier: Apache-2.0
"""The operators in the dispatcher: schemas, kernels, and the private names of PyTorch relied on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import features

import pose_kernels as pk
from pose_kernels import autograd
from pose_kernels.testing import synthetic_iuv

# Frozen: a compiled library and a saved program of torch.export depend on these words.
SCHEMAS = {
    "heatmap": "pose_kernels::heatmap(Tensor points, SymInt[] size, float sigma, float[] stride, "
    "int kind) -> Tensor",
    "heatmap_backward": "pose_kernels::heatmap_backward(Tensor grad, Tensor points, float sigma, "
    "float[] stride) -> Tensor",
    "uv_splat": "pose_kernels::uv_splat(Tensor image, Tensor part, Tensor uv, SymInt num_parts, "
    "SymInt size, bool normalize, float min_weight, bool with_weight) "
    "-> (Tensor atlas, Tensor weight)",
    "uv_splat_backward": "pose_kernels::uv_splat_backward(Tensor grad_atlas, Tensor? grad_weight, "
    "Tensor? image, Tensor part, Tensor uv, Tensor? atlas, Tensor? weight, float min_weight, "
    "bool need_image, bool need_uv) -> (Tensor grad_image, Tensor grad_uv)",
    "uv_raster": "pose_kernels::uv_raster(Tensor image, Tensor part, Tensor uv, SymInt num_parts, "
    "SymInt size, float max_edge) -> (Tensor atlas, Tensor weight)",
    "uv_raster_backward": "pose_kernels::uv_raster_backward(Tensor grad_atlas, Tensor part, "
    "Tensor uv, Tensor weight, float max_edge) -> Tensor",
    "flow_warp": "pose_kernels::flow_warp(Tensor image, Tensor flow, Tensor? visibility, "
    "int mode, int padding) -> Tensor",
    "flow_warp_backward": "pose_kernels::flow_warp_backward(Tensor grad, Tensor image, "
    "Tensor flow, Tensor? visibility, int mode, int padding, bool need_image, bool need_flow) "
    "-> (Tensor grad_image, Tensor grad_flow)",
    "uv_gather": "pose_kernels::uv_gather(Tensor atlas, Tensor part, Tensor uv) -> Tensor",
    "helmert_fit": "pose_kernels::helmert_fit(Tensor source, Tensor target, Tensor weight, "
    "bool scale) -> Tensor",
    "helmert_fit_backward": "pose_kernels::helmert_fit_backward(Tensor grad, Tensor source, "
    "Tensor target, Tensor weight, bool scale) "
    "-> (Tensor grad_source, Tensor grad_target, Tensor grad_weight)",
    "helmert_warp": "pose_kernels::helmert_warp(Tensor volume, Tensor mask, Tensor transform) "
    "-> Tensor",
    "helmert_warp_backward": "pose_kernels::helmert_warp_backward(Tensor grad, Tensor volume, "
    "Tensor mask, Tensor transform, bool need_volume, bool need_mask, bool need_transform) "
    "-> (Tensor grad_volume, Tensor grad_mask, Tensor grad_transform)",
    "mesh_raster": "pose_kernels::mesh_raster(Tensor vertices, Tensor faces, SymInt[] size) "
    "-> (Tensor face, Tensor bary)",
    "push_pull": "pose_kernels::push_pull(Tensor atlas, Tensor weight, SymInt radius, "
    "float min_weight, bool adjoint) -> Tensor",
    "region_crop": "pose_kernels::region_crop(Tensor image, Tensor center, SymInt size) "
    "-> (Tensor crops, Tensor valid)",
    "region_crop_backward": "pose_kernels::region_crop_backward(Tensor grad, Tensor center, "
    "SymInt height, SymInt width) -> Tensor",
    "capsule_mask": "pose_kernels::capsule_mask(Tensor start, Tensor end, Tensor radius, "
    "Tensor part, SymInt[] size, SymInt num_parts, bool packed) -> Tensor",
    "capsule_soft_mask": "pose_kernels::capsule_soft_mask(Tensor start, Tensor end, "
    "Tensor radius, Tensor part, SymInt[] size, SymInt num_parts, float softness) -> Tensor",
    "capsule_soft_mask_backward": "pose_kernels::capsule_soft_mask_backward(Tensor grad, "
    "Tensor start, Tensor end, Tensor radius, Tensor part, float softness) "
    "-> (Tensor grad_start, Tensor grad_end, Tensor grad_radius)",
}
has = torch._C._dispatch_has_kernel_for_dispatch_key


def test_public_names_are_frozen():
    ops = [
        "capsule_mask", "flow_warp", "heatmap", "helmert_fit", "helmert_warp", "mesh_raster",
        "push_pull", "region_crop", "uv_gather", "uv_raster", "uv_splat",
    ]  # fmt: skip
    assert sorted(pk.reference.__all__) == ops
    rest = ["__version__", "body_parts", "flow_pyramid", "mesh_flow", "part_transforms"]
    rest += ["reference", "use_backend"]
    assert sorted(pk.__all__) == sorted(ops + rest)
    assert all(getattr(pk, name) is not None for name in pk.__all__)
    assert all(getattr(pk.reference, name).__doc__ for name in pk.reference.__all__)


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema(name):
    op = getattr(torch.ops.pose_kernels, name).default
    assert str(op._schema) == SCHEMAS[name]
    assert not op._schema.is_mutable
    assert torch.Tag.pt2_compliant_tag in op.tags
    assert torch.Tag.needs_fixed_stride_order in op.tags


@pytest.mark.parametrize("name", SCHEMAS)
def test_kernels(name):
    """A reference, a fake and a gradient; a compiled kernel where a library loaded."""
    qualified = f"pose_kernels::{name}"
    for key in ("CompositeExplicitAutograd", "Meta", "Autograd"):
        assert has(qualified, key), key
    assert not has(qualified, "CompositeImplicitAutograd")
    assert has(qualified, "CPU") == ("cpp" not in pk.backends.unavailable)
    assert has(qualified, "CUDA") == (
        "cuda" not in pk.backends.unavailable or (pk.backends.chosen(name, "cuda") == "triton")
    )


def test_no_other_operator():
    names = {n for n in torch._C._dispatch_get_all_op_names() if n.startswith("pose_kernels::")}
    assert names == {f"pose_kernels::{name}" for name in SCHEMAS}


def test_private_names_of_pytorch():
    """autograd.py asks PyTorch for its mode through two private names: fail here if they vanish."""
    assert autograd._functorch_active() is False
    assert autograd._forward_mode_active() is False
    seen = []

    def look(x):
        seen.append((autograd._functorch_active(), autograd._forward_mode_active()))
        return x.sum()

    x = torch.ones(2)
    torch.func.grad(look)(x)
    torch.func.vmap(look)(x[None])
    torch.func.jvp(look, (x,), (x,))
    with torch.autograd.forward_ad.dual_level():
        look(x)
    assert seen == [(True, False), (True, False), (True, True), (False, True)]
    assert autograd._functorch_active() is autograd._forward_mode_active() is False


# ---- the backward as an operator of its own


def backward_arguments(dtype=torch.float64, normalized=True):
    part = torch.randint(0, 4, (2, 4, 5))
    uv = torch.rand(2, 2, 4, 5, dtype=dtype) * 0.9 + 0.05
    image = features((2, 2, 4, 5), dtype)
    atlas, weight = torch.ops.pose_kernels.uv_splat(image, part, uv, 3, 4, normalized, 0.01, True)
    grad = features(tuple(atlas.shape), dtype, 3)
    grad_weight = features(tuple(weight.shape), dtype, 4)
    if not normalized:
        atlas = weight = None
    return [grad, grad_weight, image, part, uv, atlas, weight, 0.01]


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("need", [(True, False), (False, True), (True, True), (False, False)])
def test_backward_operator(place, normalized, need):
    """Only what is asked for is computed; an output that is not is empty."""
    args = backward_arguments(normalized=normalized)
    args = [x.to(place.device) if isinstance(x, torch.Tensor) else x for x in args]
    both = torch.ops.pose_kernels.uv_splat_backward(*args, True, True)
    some = torch.ops.pose_kernels.uv_splat_backward(*args, *need)
    for x, every, wanted in zip(some, both, need, strict=True):
        assert x.shape == (every.shape if wanted else (0,))
        assert x.dtype == every.dtype
        if wanted:
            torch.testing.assert_close(x, every, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("need", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("normalized", [True, False])
def test_backward_operator_passes_opcheck(device, need, normalized):
    args = backward_arguments(torch.float32, normalized)
    args = [x.to(device) if isinstance(x, torch.Tensor) else x for x in args]
    torch.library.opcheck(torch.ops.pose_kernels.uv_splat_backward.default, (*args, *need))


def test_splat_without_its_weight(device):
    """An empty second output, the same atlas and gradient; refused where the gradient needs it."""
    _, _, image, part, uv, *_ = backward_arguments()
    image, part, uv = image.to(device).requires_grad_(), part.to(device), uv.to(device)
    splat = torch.ops.pose_kernels.uv_splat
    atlas, weight = splat(image, part, uv, 3, 4, False, 0.01, True)
    alone, nothing = splat(image, part, uv, 3, 4, False, 0.01, False)
    assert nothing.shape == (0,)
    assert torch.equal(alone, atlas)
    (expected,) = torch.autograd.grad(atlas.sum(), image)
    assert torch.equal(torch.autograd.grad(alone.sum(), image)[0], expected)
    with pytest.raises((RuntimeError, ValueError), match="a normalized splat needs with_weight"):
        splat(image, part, uv, 3, 4, True, 0.01, False)


# ---- all of them together


def pipeline(image, part, uv, part2, uv2):
    atlas, weight = pk.uv_splat(image, part, uv, size=8)
    return pk.uv_gather(pk.push_pull(atlas, weight, radius=3), part2, uv2)


def pipeline_inputs(device: str, dtype=torch.float32):
    part, uv = synthetic_iuv(2, 24, 20, seed=1, device=device)
    part2, uv2 = synthetic_iuv(2, 28, 22, seed=2, device=device)
    return features((2, 3, 24, 20), dtype).to(device).requires_grad_(), part, uv, part2, uv2


def test_inductor(device):
    """The whole transfer compiled by inductor, forward and backward, in a trained net's company."""
    torch._dynamo.reset()
    inputs = pipeline_inputs(device)

    def loss(*inputs):
        return (pipeline(*inputs).tanh() * 2).pow(2).sum()

    expected = loss(*inputs)
    (grad,) = torch.autograd.grad(expected, inputs[0])
    got = torch.compile(loss, fullgraph=True)(*inputs)
    (compiled_grad,) = torch.autograd.grad(got, inputs[0])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(compiled_grad, grad, rtol=1e-4, atol=1e-5)
    assert grad.abs().max() > 0.1
    torch._dynamo.reset()


def test_inductor_with_channels_last_features(device):
    torch._dynamo.reset()
    image, *rest = pipeline_inputs(device)
    image = image.detach().contiguous(memory_format=torch.channels_last).requires_grad_()

    def loss(image, *rest):
        return (pipeline((image * 1.5).relu(), *rest) + 1).pow(2).sum()

    (grad,) = torch.autograd.grad(loss(image, *rest), image)
    compiled = torch.compile(loss, fullgraph=True)
    (compiled_grad,) = torch.autograd.grad(compiled(image, *rest), image)
    torch.testing.assert_close(compiled_grad, grad, rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()


# ---- tensors of more than 2^31 elements


def test_fake_outputs_of_more_than_two_billion_elements():
    with torch._subclasses.FakeTensorMode():
        image, part = torch.empty(1, 64, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8)
        uv = torch.empty(1, 2, 4, 4)
        atlas, weight = pk.uv_splat(image, part, uv, size=2048)
        assert atlas.numel() == 24 * 64 * 2048**2 > 2**32
        assert atlas.stride(1) == 64 * 2048**2
        assert pk.uv_gather(atlas, part, uv).shape == image.shape
        assert pk.push_pull(atlas, weight).stride() == atlas.stride()


def lazily_zero(shape: tuple[int, ...]) -> torch.Tensor:
    """float16 zeros whose pages the system provides when they are touched."""
    return torch.from_numpy(np.zeros(shape, dtype=np.float16))


@pytest.mark.skipif("cpp" in pk.backends.unavailable, reason="_C_cpu is not loaded")
def test_offsets_beyond_32_bits_on_the_cpu():
    """5 GB of atlas, of which one texel per channel is touched: the last tile's last one."""
    P, C, S = 24, 100, 1024
    atlas = lazily_zero((1, P, C, S, S))
    assert atlas.numel() > 2**31
    atlas[0, -1, -1, -1, -1] = 7
    atlas[0, -1, 0, -1, -1] = 3
    part = torch.full((1, 1, 1), P)
    uv = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    with pk.use_backend("cpp"):
        read = pk.uv_gather(atlas, part, uv).flatten()
        assert (read[0], read[-1], read.float().sum()) == (3, 7, 10)
        arguments = (atlas, None, None, part, uv, None, None, 0.0, True, False)
        grad, _ = torch.ops.pose_kernels.uv_splat_backward(*arguments)
        assert torch.equal(grad.flatten(), read)
        last = lazily_zero((1, P, S, S, C))
        last[0, -1, -1, -1, -1] = 5
        assert pk.uv_gather(last.movedim(-1, -3), part, uv).flatten()[-1] == 5
        image = lazily_zero((1, 1500, 1200, 1200))
        assert image.numel() > 2**31
        image[0, -1, -1, -1] = 9
        foreground = torch.zeros(1, 1200, 1200, dtype=torch.uint8)
        foreground[0, -1, -1] = 1
        corner = torch.zeros(1, 2, 1200, 1200)
        splatted, _ = pk.uv_splat(image, foreground, corner, num_parts=1, size=2)
        assert splatted[0, 0, -1].tolist() == [[0, 0], [9, 0]]
        assert splatted.abs().sum() == 9


@pytest.mark.large
def test_offsets_beyond_32_bits_on_a_gpu():
    """Forward and backward of all three, on 2.5 billion elements of float16."""
    P, C, S = 24, 100, 1024
    with torch.device("cuda"):
        image = torch.zeros(1, C, 2, 2, dtype=torch.float16)
        image[0, -1] = 7
        part, uv = torch.full((1, 2, 2), P), torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    uv = uv.expand(1, 2, 2, 2).contiguous()
    image.requires_grad_()
    atlas, weight = pk.uv_splat(image, part, uv, size=S)
    assert atlas.numel() > 2**31
    assert atlas[0, -1, -1, -1, -1] == 7 and weight[0, -1, -1, -1] == 4
    assert atlas[0, :-1].count_nonzero() == 0
    filled = pk.push_pull(atlas, weight)
    assert (filled[0, -1, -1] == 7).all()
    back = pk.uv_gather(filled, part, uv)
    assert torch.equal(back, image)
    (grad,) = torch.autograd.grad(back.sum(), image)
    assert grad.sum() > 0 and torch.isfinite(grad).all()
