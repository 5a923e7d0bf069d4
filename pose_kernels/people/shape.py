# SPDX-License-Identifier: Apache-2.0
"""How bodies differ: proportions that stretch the reference body, joints and surface together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .body import Array, smooth


@dataclass(frozen=True)
class Shape:
    """Factors on the reference body (1.76 m tall), and `bust` in meters.

    height: of everything; legs, arms, torso: lengths; shoulders, hips, waist: widths and depths of
    the trunk; limbs: girth of arms and legs; head: size of the head.
    """

    height: float = 1.0
    legs: float = 1.0
    arms: float = 1.0
    torso: float = 1.0
    shoulders: float = 1.0
    hips: float = 1.0
    waist: float = 1.0
    limbs: float = 1.0
    head: float = 1.0
    bust: float = 0.0

    def trunk(self, y: Array) -> Array:
        """Factor of the torso's width at height y of the reference body."""
        upper = self.waist + (self.shoulders - self.waist) * smooth(y, 0.18, 0.40)
        factor = upper + (self.hips - self.waist) * smooth(y, 0.14, 0.0)
        return 1 + (factor - 1) * (1 - smooth(y, 0.53, 0.58))  # the neck stays

    @classmethod
    def of(cls, seed: int) -> Shape:
        """The body of an identity; the same seed gives the same body on every machine."""
        rng = np.random.default_rng([seed, 1])
        frame = rng.uniform(-1, 1)  # from broad hips to broad shoulders
        build = float(np.clip(rng.normal(0, 0.09), -0.15, 0.24))  # slender to stout
        return cls(
            height=float(np.clip(1 + 0.035 * frame + rng.normal(0, 0.035), 0.88, 1.12)),
            legs=rng.uniform(0.96, 1.05),
            arms=rng.uniform(0.95, 1.04),
            torso=rng.uniform(0.97, 1.03),
            shoulders=1 + 0.055 * frame + 0.35 * build + rng.uniform(-0.02, 0.02),
            hips=1 - 0.04 * frame + 0.6 * build,
            waist=1 - 0.02 + 0.05 * frame + 1.1 * build,
            limbs=1 + 0.04 * frame + 0.6 * build,
            head=rng.uniform(0.96, 1.04),
            bust=0.026 * max(0.0, -frame) * rng.uniform(0.6, 1.2),
        )
