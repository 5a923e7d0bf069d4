# SPDX-License-Identifier: Apache-2.0
"""Makes the release and uses it as a stranger would; arguments go to pytest.

sdist (nothing of the tree is missing) -> wheel out of that sdist (its tag, its files) -> a new
virtual environment -> the tests of the sdist there -> audit of what the libraries import.
Nothing is published. Run it in an environment with the development requirements.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from pathlib import Path

import toolchain

ROOT = Path(__file__).resolve().parent.parent
NOT_RELEASED = (".ci/", ".github/", ".gitignore")
PACKAGES = ("pose_kernels/", "models/")


def run(*command, **keywords):
    print("+", *command, flush=True)
    if subprocess.run([str(word) for word in command], check=False, **keywords).returncode:
        sys.exit(f"check_release: {Path(command[0]).name} failed, see above")


def tracked_files():
    listing = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(listing, capture_output=True, text=True, check=False)
    return [name for name in found.stdout.splitlines() if (ROOT / name).is_file()]


def make_sdist(folder):
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", code, folder, cwd=ROOT, stdout=subprocess.DEVNULL)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = [n for n in tracked_files() if n not in names and not n.startswith(NOT_RELEASED)]
    if missing:
        sys.exit(f"check_release: the sdist lacks {', '.join(missing)}")
    extra = [name for name in names if name.endswith((".so", "_build_info.json", ".pyc"))]
    if extra:
        sys.exit(f"check_release: the sdist holds build products: {', '.join(extra)}")
    print(f"{sdist.name}: {len(names)} names, {sdist.stat().st_size // 1024} KiB")
    return sdist


def make_wheel(sdist, folder):
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps")
    # Without isolation: an isolated build would fetch the newest torch to compile against.
    run(*pip, "--no-build-isolation", "--wheel-dir", folder, sdist, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    wanted = {"pose_kernels/py.typed", "pose_kernels/_build_info.json"}
    wanted |= {n for n in tracked_files() if n.startswith(PACKAGES) and n.endswith(".py")}
    try:
        toolchain.find_cxx()
        wanted.add("pose_kernels/_C_cpu.abi3.so")
        tag = "-cp310-abi3-linux_"
    except toolchain.Unavailable:
        tag = "-py3-none-any"
    if tag not in wheel.name:
        sys.exit(f"check_release: {wheel.name} is not tagged {tag}")
    if not wanted <= set(names):
        sys.exit(f"check_release: the wheel lacks {', '.join(wanted - set(names))}")
    stray = [n for n in names if not n.startswith((*PACKAGES, "pose_kernels-"))]
    if stray:
        sys.exit(f"check_release: the wheel holds {', '.join(stray)}")
    print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size // 1024} KiB")
    return wheel


def main():
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="pose_kernels_release_") as name:
        folder = Path(name)
        sdist = make_sdist(folder)
        wheel = make_wheel(sdist, folder)

        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv/bin/python"
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        run(
            *pip,
            "--constraint",
            ROOT / "constraints.txt",
            f"{wheel}[test,triton,models]",
            cwd=folder,
        )

        # The unpacked sdist without the packages: only the installed ones can be imported.
        shutil.unpack_archive(sdist, folder / "unpacked")
        (outside,) = (folder / "unpacked").iterdir()
        for package in PACKAGES:
            shutil.rmtree(outside / package)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        where = "import models.train, pose_kernels; print(pose_kernels.__file__)"
        found = subprocess.run(
            [python, "-c", where], cwd=outside, env=environment, capture_output=True, text=True
        )
        if not found.stdout.startswith(str(folder / "venv")):
            sys.exit(f"check_release: imported {found.stdout or found.stderr}")
        command = (python, "-m", "models.train", "dense_pose_transfer", "--help")
        run(*command, cwd=outside, env=environment, stdout=subprocess.DEVNULL)
        run(python, "-m", "pytest", *sys.argv[1:], cwd=outside, env=environment)

        libraries = sorted(Path(found.stdout).parent.glob("_C_*.so"))
        if (folder / "venv/bin/torch-abi-audit").exists() and libraries:
            run(folder / "venv/bin/torch-abi-audit", "--check", "torch", *libraries)
        else:
            print("ABI audit SKIPPED: no torch-abi-audit (Python 3.11 or newer), or no library")
    print(f"check_release: passed in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
