# SPDX-License-Identifier: Apache-2.0
"""Compiles every .cu for every architecture (or those of TORCH_CUDA_ARCH_LIST), links the library,
and reads what ptxas said.

Exits 1 when a kernel spills registers to memory or a compiler warns. Needs nvcc, no GPU.
`--find` only tells whether there is an nvcc.
"""

import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import toolchain

ROOT = Path(__file__).resolve().parent.parent


def read_log(log):
    """({architecture: [registers of each kernel]}, [faults]) of the output of nvcc -Xptxas=-v."""
    registers, faults, function, arch = defaultdict(list), [], "?", "?"
    for line in log.splitlines():
        if found := re.search(r"Compiling entry function '(\S+)' for '(\S+)'", line):
            function, arch = found.groups()
        elif found := re.search(r"Function properties for (\S+)", line):
            function = found[1]
        elif re.search(r"\b[1-9]\d* bytes spill", line):
            faults.append(f"{function} for {arch} spills: {line.strip()}")
        elif found := re.search(r"Used (\d+) registers", line):
            registers[arch].append(int(found[1]))
        elif "warning" in line:
            faults.append(line)
    return registers, faults or ([] if registers else ["ptxas named no kernel"])


def demangle(text):
    filtered = shutil.which("c++filt")
    if filtered is None:
        return text
    return subprocess.run([filtered], input=text, capture_output=True, text=True).stdout


def main():
    try:
        nvcc = toolchain.find_nvcc()
    except toolchain.Unavailable as why:
        sys.exit(f"check_cuda: {why}")
    if "--find" in sys.argv[1:]:
        print(*nvcc)
        return
    environment = {**os.environ, "POSE_KERNELS_CUDA": "1"}
    command = [sys.executable, "setup.py", "--quiet", "build_kernels", "--inplace"]
    if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
        sys.exit("check_cuda: the build failed")

    count = 0
    for source in sorted(ROOT.glob("csrc/cuda/*.cu")):
        log = ROOT / f"build/kernels/cuda/csrc/cuda/{source.name}.o.log"
        registers, faults = read_log(log.read_text())
        for arch, used in registers.items():
            print(f"{source.name:24} {arch:7} {len(used):4} kernels, at most {max(used)} registers")
        for fault in faults:
            print(f"{source.name}: {demangle(fault).strip()}")
        count += len(faults)
    sys.exit(f"check_cuda: {count} faults" if count else 0)


if __name__ == "__main__":
    main()
