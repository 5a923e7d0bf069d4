# SPDX-License-Identifier: Apache-2.0
"""Compiles pose_kernels/_C_cpu.abi3.so and pose_kernels/_C_cuda.abi3.so. Metadata: pyproject.toml.

Both are plain shared libraries on the LibTorch stable ABI, loaded with torch.ops.load_library.
g++ and nvcc are driven directly: torch.utils.cpp_extension refuses .cu files under a CPU torch.

Environment: POSE_KERNELS_CUDA = auto (built where there is an nvcc; a failure is told, not raised),
0 or 1 (a failure is raised); POSE_KERNELS_NVCC ("ccache nvcc" works), CUDA_HOME, NVCC_CCBIN,
TORCH_CUDA_ARCH_LIST ("8.0;9.0+PTX", "native"), CXX, CXXFLAGS, LDFLAGS, MAX_JOBS.
"""

import json
import os
import shlex
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import setuptools
from setuptools.command.build import build

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))
import toolchain  # noqa: E402
from incremental import digest, job_count, make  # noqa: E402
from toolchain import BuildFailed, Unavailable  # noqa: E402

# Relative to ROOT, like every source in a command: no path of this machine gets into a library.
OBJECTS = "build/kernels"


def host_command(device, torch, cxx):
    major, minor = toolchain.TORCH_TARGET
    return [
        *cxx,
        *toolchain.CXX_FLAGS,
        *(f"-DPOSE_KERNELS_DEVICE={device}", "-DTORCH_STABLE_ONLY"),
        f"-DTORCH_TARGET_VERSION=0x{major:02x}{minor:02x}000000000000",
        *("-isystem", f"{torch}/include", f"-fmacro-prefix-map={torch}/include/="),
        *shlex.split(os.environ.get("CXXFLAGS", "")),
    ]


def build_library(device, output, entry):
    """Compile and link one library; what it was built for goes into `entry`."""
    torch, torch_version = toolchain.find_torch()
    cxx, cxx_version = toolchain.find_cxx()
    identity = f"{cxx_version}, torch {torch_version}"
    host, needs = host_command(device, torch, cxx), [f"-L{torch}/lib", "-ltorch_cpu"]
    kernel, extension, strict = host, "cpp", ["-Wl,-z,defs"]  # nothing undefined
    if device == "cuda":
        nvcc = toolchain.find_nvcc()
        includes, folders, version = toolchain.nvcc_layout(nvcc)
        known = toolchain.run([*nvcc, "--list-gpu-arch"]).stdout
        entry["archs"] = toolchain.select_archs(os.environ.get("TORCH_CUDA_ARCH_LIST", ""), known)
        entry["nvcc"] = f"{shlex.join(nvcc)} {version}"
        identity += f", nvcc {version}"
        host += ["-DUSE_CUDA", *(word.replace("-I", "-isystem", 1) for word in includes)]
        kernel = [*nvcc, *toolchain.NVCC_FLAGS, *toolchain.arch_flags(entry["archs"])]
        extension, strict = "cu", []
        # The library must name libtorch_cuda.so as a need, or its symbols are undefined when it is
        # loaded. A CPU build of torch has none to link with: an empty one of that name will do.
        stub = f"{OBJECTS}/libtorch_cuda.so"
        empty = [*cxx, "-shared", "-Wl,-soname,libtorch_cuda.so", "-x", "c++", os.devnull]
        make(ROOT, stub, [*empty, "-o", stub], [], identity)
        needs += [*folders, f"-L{OBJECTS}", "-Wl,--no-as-needed", "-ltorch_cuda"]
        needs += ["-Wl,--as-needed,--exclude-libs,ALL", "-lcudart_static", "-lrt", "-ldl"]

    steps = []
    for pattern, command in (
        (f"csrc/{device}/*.{extension}", kernel),
        ("csrc/binding/*.cpp", host),
    ):
        paths = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern))
        if not paths:
            raise Unavailable(f"there is no {pattern}")
        steps += [(path, command) for path in paths]
    objects = [f"{OBJECTS}/{device}/{path}.o" for path, _ in steps]
    jobs = job_count()
    spare = [f"--threads={max(1, jobs // len(steps))}"]  # nvcc: architectures side by side

    def compile_one(step, obj):
        path, command = step
        depends = ["-MD", "-MF", f"{obj}.d"]
        quick = spare if path.endswith(".cu") else ()
        make(ROOT, obj, [*command, "-c", path, "-o", obj, *depends], [path], identity, quick)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(compile_one, steps, objects))
    linked = f"{OBJECTS}/{output.name}"
    needs += [*strict, *shlex.split(os.environ.get("LDFLAGS", ""))]
    make(ROOT, linked, [*cxx, "-shared", *objects, *needs, "-o", linked], objects, identity)
    if digest(ROOT / linked) != digest(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        output.unlink(missing_ok=True)  # a running process may have the old one mapped
        shutil.copy(ROOT / linked, output)


def build_all(folder):
    """Build what can be built into `folder`, and write down there what was not, and why."""
    mode = os.environ.get("POSE_KERNELS_CUDA", "auto")
    if mode not in ("auto", "0", "1"):
        raise SystemExit(f"pose_kernels: POSE_KERNELS_CUDA must be auto, 0 or 1, not {mode!r}")
    built, missing = {}, {}
    for device in ("cpu", "cuda"):
        name, entry = f"_C_{device}", {}
        output = folder / f"{name}.abi3.so"
        try:
            if device == "cuda" and mode == "0":
                raise Unavailable("POSE_KERNELS_CUDA=0")
            build_library(device, output, entry)
            built[name] = entry
        except (Unavailable, BuildFailed) as why:
            output.unlink(missing_ok=True)  # one of an earlier build
            missing[name] = str(why)
            # No compiler is a way to install; a compiler that rejects our sources is a fault.
            if mode == "1" if device == "cuda" else isinstance(why, BuildFailed):
                raise SystemExit(f"pose_kernels: {name} could not be built: {why}") from why
    info = {"built": built, "missing": missing, **toolchain.describe(ROOT)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "_build_info.json").write_text(json.dumps(info, indent=1) + "\n")
    print("=" * 78)
    for name, entry in built.items():
        print(f"pose_kernels: built {name}", *entry.get("archs", ()))
    for name, why in missing.items():
        print(f"pose_kernels: WITHOUT {name}: {why}")
    if not built:
        print("pose_kernels: PURE PYTHON, nothing compiled: ops run on plain PyTorch (or Triton)")
    print("=" * 78, flush=True)


class BuildKernels(setuptools.Command):
    """python setup.py build_kernels --inplace: what `pip install` runs, without pip."""

    user_options = [("inplace", "i", "put the libraries beside the Python sources")]
    boolean_options = ["inplace"]
    editable_mode = False  # set by setuptools

    def initialize_options(self):
        self.build_lib, self.inplace = None, False

    def finalize_options(self):
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self):
        in_place = self.inplace or self.editable_mode
        build_all(ROOT / ("" if in_place else self.build_lib) / "pose_kernels")

    def get_outputs(self):
        return [str(path) for path in Path(self.build_lib, "pose_kernels").glob("_*.*")]

    def get_output_mapping(self):
        return {}

    def get_source_files(self):
        return [str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/**/*.*")]


class Distribution(setuptools.Distribution):
    def has_ext_modules(self):
        """Whether the wheel is for this platform only."""
        try:
            return bool(toolchain.find_torch() and toolchain.find_cxx())
        except Unavailable:
            return False


if __name__ == "__main__":
    build.sub_commands.append(("build_kernels", None))
    setuptools.setup(
        distclass=Distribution,
        cmdclass={"build_kernels": BuildKernels},
        # cp310-abi3, not py3-none: both are true of a library without Python symbols, and this one
        # states the oldest Python in the file name and keeps 3.9 from picking it up.
        options={"bdist_wheel": {"py_limited_api": "cp310"}},
    )
