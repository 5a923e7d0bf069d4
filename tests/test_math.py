# SPDX-License-Identifier: Apache-2.0
"""csrc/math: the formulas that every compiled kernel shares, called from Python through NumPy."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

from pose_kernels.reference.bilinear import tile_points

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "math_module.cpp"
HEADERS = sorted((HERE.parent / "csrc" / "math").glob("*.h"))


@pytest.fixture(scope="session")
def module(request, tmp_path_factory):
    """math_module.cpp compiled, once per state of the sources."""
    pybind11 = pytest.importorskip("pybind11")
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    if not shutil.which(compiler[0]):
        pytest.skip(f"no C++ compiler: {compiler[0]} was not found")
    if not HEADERS:
        pytest.skip("csrc/math is not here")
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Wno-unknown-pragmas"]
    state = [path.read_bytes() for path in (SOURCE, *HEADERS)]
    state.append(" ".join([*compiler, *flags, suffix, pybind11.__version__]).encode())
    cache = getattr(request.config, "cache", None)
    root = Path(cache.mkdir("math_module")) if cache else tmp_path_factory.mktemp("math_module")
    folder = root / hashlib.sha256(b"\0".join(state)).hexdigest()[:16]
    library = folder / f"math_module{suffix}"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        made = library.with_suffix(f".{os.getpid()}")
        includes = [f"-I{sysconfig.get_path('include')}", f"-I{pybind11.get_include()}"]
        command = [*compiler, *flags, *includes, str(SOURCE), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:4000]
        os.replace(made, library)
    spec = importlib.util.spec_from_file_location("math_module", library)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


EVERY = np.arange(2**16, dtype=np.uint16)
HALVES = {
    "half": torch.float16,
    "half_portable": torch.float16,
    "bfloat16": torch.bfloat16,
}


def floats() -> np.ndarray:
    """A million floats of every kind: all exponents, ties, overflow, subnormals, NaN payloads."""
    random = np.random.default_rng(0)
    bits = random.integers(0, 2**32, 600_000, dtype=np.uint64).astype(np.uint32)
    exponents = np.arange(256, dtype=np.uint32) << 23
    mantissas = np.array(
        [m << shift for shift in (0, 11, 12, 13, 14, 15, 16) for m in (0, 1, 2, 3, 5)]
        + [2**23 - 1, 0x1000, 0x0FFF, 0x1001, 0x3000, 0x8000, 0x7FFF, 0x8001, 0x18000, 0x400000],
        dtype=np.uint32,
    )
    grid = (exponents[:, None] | (mantissas & 0x7FFFFF)).ravel()
    half = torch.from_numpy(EVERY.view(np.int16)).view(torch.float16).float().numpy()
    near = half.view(np.uint32).astype(np.int64)
    near = np.concatenate([near + d for d in (-1, 0, 1, 0x1000, 0xFFF, 0x1001)]) % 2**32
    subnormal = random.integers(0x33000000 - 2**23, 0x38800000, 200_000).astype(np.uint32)
    unsigned = np.concatenate([bits, grid, near.astype(np.uint32), subnormal])
    return np.concatenate([unsigned, unsigned ^ np.uint32(2**31)]).view(np.float32)


@pytest.mark.parametrize("name", HALVES)
def test_widen_every_half(module, name):
    bits = torch.from_numpy(EVERY.view(np.int16)).view(HALVES[name])
    expected = bits.float().numpy()
    got = getattr(module, f"widen_{name}")(EVERY)
    nan = np.isnan(expected)
    assert np.array_equal(np.isnan(got), nan)
    assert np.array_equal(got.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])


@pytest.mark.parametrize("name", HALVES)
def test_narrow(module, name):
    """Round to nearest even as torch does; NaN stays NaN; signs of zero survive."""
    values = floats()
    expected = torch.from_numpy(values).to(HALVES[name]).view(torch.int16).numpy().view(np.uint16)
    got = getattr(module, f"narrow_{name}")(values)
    nan = np.isnan(values)
    wrong = (got != expected) & ~nan
    assert not wrong.any(), [hex(x) for x in values[wrong].view(np.uint32)[:5]]
    assert np.isnan(getattr(module, f"widen_{name}")(got[nan])).all()
    assert nan.sum() > 1000


@pytest.mark.parametrize("name", HALVES)
def test_narrow_undoes_widen(module, name):
    values = getattr(module, f"widen_{name}")(EVERY)
    number = ~np.isnan(values)
    assert np.array_equal(getattr(module, f"narrow_{name}")(values)[number], EVERY[number])


@pytest.mark.parametrize("size", [1, 2, 3, 16, 200, 4096])
@pytest.mark.parametrize("bits", [32, 64])
def test_tile_point(module, bits, size):
    """Texels, weights and gradients of the reference, for coordinates of every kind."""
    dtype = {32: np.float32, 64: np.float64}[bits]
    random = np.random.default_rng(size)
    exact = np.arange(min(size, 40)) / max(size - 1, 1)
    special = [0, 1, -0.0, np.nan, np.inf, -np.inf, 1e30, -1e30, 1e-40, 0.5, 1 - 2**-24, 1 + 2**-23]
    values = np.concatenate([random.random(3000) * 1.4 - 0.2, exact, special]).astype(dtype)
    u, v = random.permutation(values), random.permutation(values)
    weights = random.standard_normal((len(u), 4)).astype(dtype)
    finite, texels, w, gradient = getattr(module, f"sample{bits}")(u, v, size, weights)

    uv = torch.from_numpy(np.stack([u, v]))[None, :, None].requires_grad_()
    points = tile_points(torch.ones(1, 1, len(u), dtype=torch.int64), uv, 1, size)
    assert np.array_equal(finite, points.inside[0].numpy())
    assert np.array_equal(texels, points.texel[:, 0].T.numpy())
    # Each operation is rounded the same; a compiler may fuse one product into a sum.
    tolerance = size * np.finfo(dtype).eps
    np.testing.assert_allclose(w, points.weight[:, 0].T.detach().numpy(), rtol=0, atol=tolerance)
    np.testing.assert_allclose(w[finite].sum(1), 1, rtol=0, atol=4 * np.finfo(dtype).eps)
    (points.weight[:, 0].T * torch.from_numpy(weights)).sum().backward()
    np.testing.assert_allclose(
        gradient, uv.grad[0, :, 0].T.numpy(), rtol=1e-5, atol=size * 20 * tolerance
    )
    clamped = finite & ((u <= 0) | (u >= 1))
    assert clamped.sum() > 100
    assert (gradient[clamped, 0] == 0).all()
    if size > 1:
        assert (gradient[finite & ~clamped, 0] != 0).all()


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (32, np.int32), (64, np.int64)])
def test_part_at(module, bits, dtype):
    info = np.iinfo(dtype)
    values = [0, 1, 2, 24, 25, 127, info.max, info.min, info.max - 1]
    if bits > 8:
        values += [-1, 256 + 3, -(2**31)]
    if bits > 32:
        values += [2**32 + 1, 2**32 + 24, 2**40, -(2**40) + 5]
    values = np.array(values, dtype=dtype)
    for P in (1, 24, 255, 2**31 - 1):
        expected = np.where((values >= 1) & (values <= P), values, 0)
        assert np.array_equal(getattr(module, f"parts{bits}")(values, P), expected), P


def test_pyramid(module):
    """Sides halve, rounded up, to 1; the second parent is the neighbor on the child's side."""
    for side in range(1, 70):
        parents = module.parent_side(side)
        assert parents == -(-side // 2)
        nodes, height = 0, side
        while height > 1:
            height = -(-height // 2)
            nodes += height * 1
        assert module.pyramid_nodes(side, 1) == nodes
        for child in range(side):
            # Centers at (i + 1/2) / 2 in units of parents: the nearest but one lies on that side.
            position = (child + 0.5) / 2 - 0.5
            own = child // 2
            expected = own + (1 if position > own else -1)
            assert module.side_parent(child, parents) == min(max(expected, 0), parents - 1)
    assert module.pyramid_nodes(5, 4) == 3 * 2 + 2 * 1 + 1
    assert module.pyramid_nodes(1, 1) == 0
    assert module.pyramid_nodes(256, 256) == sum(4**k for k in range(8))
