# SPDX-License-Identifier: Apache-2.0
"""setup.py and tools/: what is found, what is built, what is said when something cannot be."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pose_kernels

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = sorted(Path(pose_kernels.__file__).parent.glob("_C_*.so"))
KNOWN = "compute_75\ncompute_80\ncompute_90\ncompute_120\n"  # nvcc --list-gpu-arch

# An nvcc that knows where it is and what it knows, and fails to compile.
BROKEN_NVCC = r"""#!/bin/sh
case "$*" in
  *--dryrun*) printf '#$ INCLUDES="-I/toolkit/include"\n#$ LIBRARIES= "-L/toolkit/lib"\n' >&2 ;;
  *--version*) echo 'release 13.0, V13.0.88' ;;
  *--list-gpu-arch*) echo compute_80 ;;
  *) echo 'note: something first' >&2; echo 'warp.cu(3): error: no such thing' >&2; exit 2 ;;
esac
"""


@pytest.fixture(scope="module")
def setup():
    spec = importlib.util.spec_from_file_location("pose_kernels_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = path


@pytest.fixture
def tools(setup, monkeypatch):
    """tools/toolchain.py in an environment that asks for nothing."""
    for name in ("NVCC_APPEND_FLAGS", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CUDA_PATH", "CXX"):
        monkeypatch.delenv(name, raising=False)
    for name in ("POSE_KERNELS_NVCC", "POSE_KERNELS_CUDA", "CXXFLAGS", "LDFLAGS", "MAX_JOBS"):
        monkeypatch.delenv(name, raising=False)
    caches = (setup.toolchain.find_cxx, setup.toolchain.find_torch)
    for cached in caches:
        cached.cache_clear()
    yield setup.toolchain
    for cached in caches:
        cached.cache_clear()


def executable(path, text="#!/bin/sh\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


# ---------------------------------------------------------------- architectures


@pytest.mark.parametrize(
    ("requested", "archs"),
    [
        ("", ["7.5", "8.0", "9.0", "12.0+PTX"]),
        ("8.0;9.0+PTX", ["8.0", "9.0+PTX"]),
        ("8.0 9.0, 12.0", ["8.0", "9.0", "12.0"]),
        ("9.0a", ["9.0a"]),
        ("6.0;8.0+PTX", ["8.0+PTX"]),
    ],
)
def test_architectures(tools, requested, archs):
    assert tools.select_archs(requested, KNOWN) == archs


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        ("Ampere", "TORCH_CUDA_ARCH_LIST: 'Ampere' is not like 8.0, 9.0+PTX or native"),
        ("6.0", "nvcc knows none of the architectures 6.0"),
    ],
)
def test_architectures_that_cannot_be(tools, requested, message):
    with pytest.raises(tools.Unavailable, match=re.escape(message)):
        tools.select_archs(requested, KNOWN)


def test_native_architecture_is_what_the_driver_reports(tools, tmp_path, monkeypatch):
    executable(tmp_path / "nvidia-smi", "#!/bin/sh\necho 9.0\necho 9.0\necho 8.0\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tools.select_archs("native", KNOWN) == ["8.0", "9.0"]
    executable(tmp_path / "nvidia-smi", "#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    with pytest.raises(tools.Unavailable, match="nvidia-smi shows no GPU"):
        tools.select_archs("native", KNOWN)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(tools.Unavailable, match="nvidia-smi does not run"):
        tools.select_archs("native", KNOWN)


def test_architecture_flags(tools):
    assert tools.arch_flags(["8.0", "12.0+PTX"]) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_120,code=sm_120",
        "-gencode=arch=compute_120,code=compute_120",
    ]


# ---------------------------------------------------------------- what there is to build with


def test_nvcc_is_looked_for_in_order(tools, tmp_path, monkeypatch):
    default = tmp_path / "usr local cuda"
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    with pytest.raises(tools.Unavailable, match="no nvcc in POSE_KERNELS_NVCC, CUDA_HOME, PATH"):
        tools.find_nvcc(default)
    last = executable(default / "bin/nvcc")
    assert tools.find_nvcc(default) == [last]
    third = executable(tmp_path / "path/nvcc")
    assert tools.find_nvcc(default) == [third]
    second = executable(tmp_path / "home/bin/nvcc")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    assert tools.find_nvcc(default) == [second]
    executable(tmp_path / "path/ccache")
    first = executable(tmp_path / "asked/nvcc")
    monkeypatch.setenv("POSE_KERNELS_NVCC", f"ccache {first}")
    assert tools.find_nvcc(default) == ["ccache", first]
    monkeypatch.setenv("POSE_KERNELS_NVCC", "/nowhere/nvcc")
    with pytest.raises(tools.Unavailable, match="POSE_KERNELS_NVCC=/nowhere/nvcc is not an exec"):
        tools.find_nvcc(default)


def test_toolkit_is_where_nvcc_says(tools, tmp_path):
    layout = tools.nvcc_layout([executable(tmp_path / "nvcc", BROKEN_NVCC)])
    assert layout == (["-I/toolkit/include"], ["-L/toolkit/lib"], "13.0.88")
    with pytest.raises(tools.BuildFailed, match="nvcc --dryrun names no toolkit: nvcc: sorry"):
        tools.nvcc_layout([executable(tmp_path / "nvcc", "#!/bin/sh\necho sorry\n")])


def test_old_or_absent_torch_is_told(tools, monkeypatch):
    monkeypatch.setattr(tools.importlib.metadata, "version", lambda name: "2.9.1+cu128")
    with pytest.raises(tools.Unavailable, match=r"torch 2\.9\.1\+cu128 is older than 2\.10"):
        tools.find_torch()
    monkeypatch.setattr(tools.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(tools.Unavailable, match="there is no torch to build against"):
        tools.find_torch()


def test_compiler_that_does_not_compile_is_no_compiler(tools, tmp_path, monkeypatch):
    if sys.platform != "linux":
        pytest.skip("compiled libraries are built on Linux only")
    broken = executable(tmp_path / "g++", "#!/bin/sh\necho 'error: no license' >&2\nexit 1\n")
    monkeypatch.setenv("CXX", broken)
    with pytest.raises(tools.Unavailable, match=r"does not work: g\+\+: error: no license"):
        tools.find_cxx()
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.raises(tools.Unavailable, match=r"no C\+\+ compiler \(/nowhere/g\+\+\) was found"):
        tools.find_cxx()


# ---------------------------------------------------------------- building a small project


@pytest.fixture
def project(setup, tools, tmp_path, monkeypatch):
    """A small project for setup.py, with an nvcc that fails; the folder of its package."""
    try:
        tools.find_cxx()
        tools.find_torch()
    except tools.Unavailable as why:
        pytest.skip(f"nothing to build with: {why}")
    root = tmp_path / "a project"
    sources = {"cpu": "one.cpp", "binding": "two.cpp", "cuda": "three.cu", "math": "four.h"}
    for folder, name in sources.items():
        (root / "csrc" / folder).mkdir(parents=True)
        (root / "csrc" / folder / name).write_text(f"int {name.partition('.')[0]}();\n")
    (root / "csrc/cpu/one.cpp").write_text('#include "../math/four.h"\nint one() { return 1; }\n')
    monkeypatch.setattr(setup, "ROOT", root)
    monkeypatch.setenv("POSE_KERNELS_NVCC", executable(tmp_path / "nvcc", BROKEN_NVCC))
    return root / "pose_kernels"


def info(folder):
    return json.loads((folder / "_build_info.json").read_text())


def test_auto_falls_back_and_records_the_first_error(setup, project, capsys):
    project.mkdir()
    stale = project / "_C_cuda.abi3.so"
    stale.write_text("of an earlier build")
    setup.build_all(project)
    reason = "nvcc: warp.cu(3): error: no such thing"
    assert (project / "_C_cpu.abi3.so").exists() and not stale.exists()
    assert info(project)["missing"] == {"_C_cuda": reason}
    assert info(project)["built"] == {"_C_cpu": {}}
    assert info(project)["torch_target"] == "2.10"
    assert f"pose_kernels: WITHOUT _C_cuda: {reason}" in capsys.readouterr().out


def test_cuda_that_was_asked_for_fails_loudly(setup, project, monkeypatch):
    monkeypatch.setenv("POSE_KERNELS_CUDA", "1")
    with pytest.raises(SystemExit, match=re.escape("_C_cuda could not be built: nvcc: warp.cu(3)")):
        setup.build_all(project)
    monkeypatch.setenv("POSE_KERNELS_NVCC", "/nowhere/nvcc")
    with pytest.raises(SystemExit, match="POSE_KERNELS_NVCC=/nowhere/nvcc is not an executable"):
        setup.build_all(project)


def test_cuda_that_is_not_wanted_is_not_looked_for(setup, project, monkeypatch):
    monkeypatch.setenv("POSE_KERNELS_CUDA", "0")
    monkeypatch.setattr(setup.toolchain, "find_nvcc", lambda: pytest.fail("looked for nvcc"))
    setup.build_all(project)
    assert info(project)["missing"] == {"_C_cuda": "POSE_KERNELS_CUDA=0"}
    monkeypatch.setenv("POSE_KERNELS_CUDA", "yes")
    with pytest.raises(SystemExit, match="POSE_KERNELS_CUDA must be auto, 0 or 1, not 'yes'"):
        setup.build_all(project)


def test_without_a_compiler_the_install_is_pure_python(setup, project, monkeypatch, capsys):
    assert setup.Distribution().has_ext_modules()
    setup.toolchain.find_cxx.cache_clear()
    monkeypatch.setenv("CXX", "/nowhere/g++")
    assert not setup.Distribution().has_ext_modules()
    setup.build_all(project)
    assert list(project.iterdir()) == [project / "_build_info.json"]
    reason = "no C++ compiler (/nowhere/g++) was found"
    assert info(project)["missing"] == {"_C_cpu": reason, "_C_cuda": reason}
    assert "PURE PYTHON" in capsys.readouterr().out


def test_source_that_does_not_compile_fails_loudly(setup, project):
    (setup.ROOT / "csrc/binding/two.cpp").write_text("int two() { return three; }\n")
    with pytest.raises(SystemExit, match=r"_C_cpu could not be built: .*error: .*three.*"):
        setup.build_all(project)


def test_only_what_changed_is_compiled_again(setup, project, monkeypatch, capsys):
    monkeypatch.setenv("POSE_KERNELS_CUDA", "0")

    def compiled():
        setup.build_all(project)
        return re.findall(r"^  (\S+)  [\d.]+ s$", capsys.readouterr().out, re.M)

    linked = "build/kernels/_C_cpu.abi3.so"
    assert sorted(compiled()) == [linked, "csrc/binding/two.cpp", "csrc/cpu/one.cpp"]
    os.utime(setup.ROOT / "csrc/math/four.h")  # a new time is no change
    assert compiled() == []
    (setup.ROOT / "csrc/math/four.h").write_text("inline int four() { return 4; }\n")
    assert "csrc/cpu/one.cpp" in (again := compiled()) and "csrc/binding/two.cpp" not in again
    monkeypatch.setenv("CXXFLAGS", "-g")
    assert sorted(compiled()) == [linked, "csrc/binding/two.cpp", "csrc/cpu/one.cpp"]
    (project / "_C_cpu.abi3.so").unlink()
    assert compiled() == [] and (project / "_C_cpu.abi3.so").exists()


def test_number_of_jobs(setup, tools, monkeypatch):
    assert 1 <= setup.job_count() <= os.cpu_count()
    monkeypatch.setenv("MAX_JOBS", "7")
    assert setup.job_count() == 7


# ---------------------------------------------------------------- what ptxas says


def test_spills_and_warnings_are_faults(setup):
    from check_cuda import read_log

    kernel = "ptxas info    : Compiling entry function '_Z4warpv' for 'sm_80'\n"
    kernel += "ptxas info    : Function properties for _Z4warpv\n"
    kernel += "    0 bytes stack frame, {} bytes spill stores, 0 bytes spill loads\n"
    kernel += "ptxas info    : Used 40 registers, used 0 barriers\n"
    assert read_log(kernel.format(0)) == ({"sm_80": [40]}, [])
    ((fault,), (warning,)) = (
        read_log(kernel.format(8))[1],
        read_log(kernel.format(0) + "warning")[1],
    )
    assert fault.startswith("_Z4warpv for sm_80 spills: ") and warning == "warning"
    assert read_log("")[1] == ["ptxas named no kernel"]


# ---------------------------------------------------------------- the libraries that are installed


def test_build_info_tells_what_is_there():
    folder = Path(pose_kernels.__file__).parent
    if not (folder / "_build_info.json").exists():
        pytest.skip("pose_kernels runs from its sources; nothing was built")
    told = info(folder)
    assert {path.name for path in LIBRARIES} == {f"{name}.abi3.so" for name in told["built"]}
    assert set(told["built"]) | set(told["missing"]) == {"_C_cpu", "_C_cuda"}
    assert all(told["missing"].values())


needs_library = pytest.mark.skipif(not LIBRARIES, reason="no compiled library is installed")


@needs_library
@pytest.mark.skipif(shutil.which("nm") is None, reason="binutils (nm) is not installed")
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_library_uses_only_the_stable_abi(library):
    listing = subprocess.run(["nm", "-D", library], capture_output=True, text=True, check=True)
    symbols = [line.split()[-2:] for line in listing.stdout.splitlines()]
    needed = {name.partition("@")[0] for kind, name in symbols if kind in "Uwv"}
    assert not {name for name in needed if re.match(r"_?Py", name)}
    assert not {name for name in needed if "pose_kernels" in name}  # declared, never compiled
    # A mangled name with at::, c10:: or torch:: in it belongs to a C++ interface that changes.
    assert not {n for n in needed if re.match(r"_Z\w*?(2at|3c10|5torch|6caffe2)\d", n)}
    assert any(name.startswith(("aoti_torch_", "torch_")) for name in needed)
    ours = {name for kind, name in symbols if kind in "TDBR" and "pose_kernels" in name}
    assert not ours  # hidden: two versions in one process do not meet


@needs_library
def test_torch_abi_audit_agrees():
    pytest.importorskip("torch_abi_audit", reason="torch-abi-audit is not installed")
    from torch_abi_audit.cli import main

    assert main(["--check", "torch", *map(str, LIBRARIES)]) == 0
