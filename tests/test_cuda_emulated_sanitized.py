# SPDX-License-Identifier: Apache-2.0
"""The emulated CUDA kernels of all test_cuda_emulated*.py once more, under AddressSanitizer.

It sees all loads and stores of the kernels, and tensors have redzones.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from emulation import builder

# Every kernel, size and alignment, in half precision and in double.
TESTS = "(dtypes or size or sizes or offsets) and not float32 and not bfloat16"


@pytest.mark.skipif(
    "POSE_KERNELS_SLOW_TESTS" not in os.environ,
    reason="all kernels are compiled again, for minutes: set POSE_KERNELS_SLOW_TESTS=1",
)
def test_no_access_out_of_bounds():
    try:
        libraries = builder.sanitizer_libraries()
    except builder.CannotBuild as reason:
        pytest.skip(f"the CUDA kernels cannot be emulated: {reason}")
    if libraries is None:
        pytest.skip("the compiler has no AddressSanitizer library")
    options = {builder.SANITIZE: "1", "LD_PRELOAD": libraries, "ASAN_OPTIONS": "detect_leaks=0"}
    environment = {**os.environ, **options}  # the leaks would be Python's own
    files = sorted(set(Path(__file__).parent.glob("test_cuda_emulated*.py")) - {Path(__file__)})
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", TESTS, *map(str, files)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    assert " passed" in done.stdout and " skipped" not in done.stdout.splitlines()[-1]
