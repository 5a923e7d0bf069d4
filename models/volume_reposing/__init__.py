# SPDX-License-Identifier: Apache-2.0
"""Reposing Humans by Warping 3D Features: Knoche, Sárándi, Leibe, CVPR Workshops 2020.

encoder.py lifts a picture to a volume of features, body.py says where the parts of the body are in
it and where they go, warping.py moves them, decoder.py projects the result back to a picture;
background.py fills in what the person hid, and system.py puts all together and trains it.
"""

from .config import Config
from .system import VolumeReposing

__all__ = ["Config", "VolumeReposing"]
