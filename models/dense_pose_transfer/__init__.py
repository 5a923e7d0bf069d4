# SPDX-License-Identifier: Apache-2.0
"""Dense Pose Transfer: Neverova, Güler, Kokkinos, ECCV 2018.

predictive.py and blending.py are networks on pictures, warping.py leads to the texture of the body
and back, inpainting.py completes it there; system.py puts them together and trains them.
"""

from .config import Config
from .system import DensePoseTransfer

__all__ = ["Config", "DensePoseTransfer"]
