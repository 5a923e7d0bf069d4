# SPDX-License-Identifier: Apache-2.0
"""How people move: random motions of a few kinds, each a pose as a smooth function of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from .body import Array
from .pose import Arm, Leg, Pose

_TRUNK = ("turn", "lean", "tilt", "bend", "head_turn", "head_nod")
_ARM, _LEG = (tuple(f.name for f in fields(kind)) for kind in (Arm, Leg))
ANGLES = (
    *_TRUNK,
    *(f"{side}_arm.{name}" for side in ("left", "right") for name in _ARM),
    *(f"{side}_leg.{name}" for side in ("left", "right") for name in _LEG),
)
_PLACE = {name: i for i, name in enumerate(ANGLES)}

# What joints of a healthy adult reach, in degrees; no random pose goes beyond.
_LIMITS = {
    "turn": (-180, 180),
    "lean": (-15, 45),
    "tilt": (-20, 20),
    "bend": (-30, 30),
    "head_turn": (-60, 60),
    "head_nod": (-25, 35),
    "arm.swing": (-45, 170),
    "arm.raise_": (5, 165),
    "arm.twist": (-60, 95),
    "arm.elbow": (3, 140),
    "arm.wrist": (-40, 50),
    "leg.swing": (-28, 105),
    "leg.spread": (0, 40),
    "leg.twist": (-15, 45),
    "leg.knee": (0, 125),
    "leg.ankle": (-35, 25),
}
LIMITS = np.array(
    [_LIMITS[name.removeprefix("left_").removeprefix("right_")] for name in ANGLES], float
)

Ranges = Mapping[str, tuple[float, float]]
_HANGING: Ranges = {"swing": (-12, 18), "raise_": (8, 22), "twist": (-15, 20), "elbow": (6, 35)}
_ON_HIP: Ranges = {"swing": (-32, -18), "raise_": (38, 50), "twist": (-50, -38), "elbow": (92, 110)}
_BENT: Ranges = {"swing": (5, 40), "raise_": (8, 30), "twist": (-35, 15), "elbow": (60, 118)}
_WAVING: Ranges = {"swing": (-10, 15), "raise_": (85, 125), "twist": (70, 92), "elbow": (35, 85)}
_SPREAD: Ranges = {"swing": (-10, 30), "raise_": (40, 95), "twist": (0, 40), "elbow": (5, 40)}
_FORWARD: Ranges = {"swing": (55, 115), "raise_": (5, 30), "twist": (-20, 20), "elbow": (8, 70)}
_UP: Ranges = {"swing": (125, 165), "raise_": (8, 28), "twist": (-10, 25), "elbow": (5, 45)}
_ON_KNEE: Ranges = {"swing": (22, 48), "raise_": (8, 20), "twist": (-15, 10), "elbow": (25, 60)}
_EASY = (_HANGING, _HANGING, _HANGING, _ON_HIP, _BENT)
_KINDS = ("stand", "gesture", "walk", "reach", "sit")


def to_vector(pose: Pose) -> Array:
    """The angles of a pose in the order of `ANGLES`."""
    found = [getattr(pose, name) for name in _TRUNK]
    for limb in (pose.left_arm, pose.right_arm, pose.left_leg, pose.right_leg):
        found += [getattr(limb, field.name) for field in fields(limb)]
    return np.array(found, float)


def from_vector(angles: Array) -> Pose:
    """The inverse of `to_vector`."""
    values = [float(a) for a in angles]
    at = len(_TRUNK)
    limbs: list[Arm | Leg] = []
    for kind, names in ((Arm, _ARM), (Arm, _ARM), (Leg, _LEG), (Leg, _LEG)):
        limbs.append(kind(*values[at : at + len(names)]))
        at += len(names)
    return Pose(*values[: len(_TRUNK)], *limbs)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Motion:
    """keys (K, A): poses that follow each other in a circle, `beat` seconds apart. waves: sines on
    top, rows (angle, amplitude in degrees, cycles per second, phase, only the positive half)."""

    kind: str
    keys: Array
    beat: float
    waves: tuple[tuple[str, float, float, float, bool], ...]

    def at(self, seconds: float) -> Pose:
        """The pose at a time, within the limits of the joints."""
        place = seconds / self.beat
        first = int(np.floor(place))
        t = place - first
        t = t * t * (3 - 2 * t)
        K = len(self.keys)
        angles = (1 - t) * self.keys[first % K] + t * self.keys[(first + 1) % K]
        for name, amplitude, rate, phase, half in self.waves:
            wave = np.sin(2 * np.pi * (rate * seconds + phase))
            angles[_PLACE[name]] += amplitude * (max(wave, 0.0) ** 2 if half else wave)
        return from_vector(np.clip(angles, LIMITS[:, 0], LIMITS[:, 1]))


def random_motion(rng: np.random.Generator, kind: str | None = None) -> Motion:
    """A motion of a kind ("stand", "gesture", "walk", "reach", "sit"; None: any).

    Raises:
        ValueError: an unknown kind.
    """
    if kind is None:
        kind = str(rng.choice(_KINDS, p=(0.3, 0.24, 0.24, 0.12, 0.1)))
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {', '.join(_KINDS)}, got {kind!r}")
    rate = rng.uniform(0.2, 0.3)
    waves = [("tilt", 1.2, rate, rng.uniform(), False), ("head_turn", 4.0, rate, 0.3, False)]
    if kind == "walk":
        keys = _legs(rng, (4, 10), (0, 4))[None]
        waves += _walking(rng)
    else:
        seat = _seat(rng) if kind == "sit" else _legs(rng, (10, 26), (3, 11))
        keys = np.stack([_key(rng, kind, seat) for _ in range(4)])
    return Motion(kind, keys, rng.uniform(0.7, 1.3), tuple(waves))


def _draw(rng: np.random.Generator, angles: Array, limb: str, ranges: Ranges) -> None:
    for name, (low, high) in ranges.items():
        angles[_PLACE[f"{limb}.{name}"]] = rng.uniform(low, high)


def _legs(
    rng: np.random.Generator, twist: tuple[float, float], spread: tuple[float, float]
) -> Array:
    """Standing, with the weight on both legs or on one."""
    angles = to_vector(Pose())
    for side in ("left", "right"):
        _draw(rng, angles, f"{side}_leg", {"twist": twist, "spread": spread, "swing": (-5, 5)})
        _draw(rng, angles, f"{side}_arm", _HANGING)
    if rng.random() < 0.4:
        free = f"{rng.choice(('left', 'right'))}_leg"
        _draw(rng, angles, free, {"knee": (10, 30), "swing": (5, 22), "ankle": (-8, 6)})
    return angles


def _seat(rng: np.random.Generator) -> Array:
    angles = to_vector(Pose())
    low, high = (70, 95) if rng.random() < 0.6 else (35, 70)
    swing, knee = rng.uniform(low, high), rng.uniform(0, 15)
    for side in ("left", "right"):
        ranges = {"swing": (swing - 4, swing + 4), "spread": (3, 18), "twist": (0, 16)}
        _draw(rng, angles, f"{side}_leg", ranges)
        angles[_PLACE[f"{side}_leg.knee"]] = swing + knee + rng.uniform(-8, 4)
        angles[_PLACE[f"{side}_leg.ankle"]] = rng.uniform(-4, 6) + knee
    angles[_PLACE["lean"]] = rng.uniform(0, 12) + (95 - swing) * 0.3
    return angles


def _key(rng: np.random.Generator, kind: str, base: Array) -> Array:
    """One key pose over legs that stay."""
    angles = base.copy()
    easy = (_ON_KNEE, _ON_KNEE, _BENT) if kind == "sit" else _EASY
    lively = {
        "gesture": (_BENT, _WAVING, _SPREAD, _FORWARD, _ON_HIP),
        "reach": (_UP, _FORWARD, _SPREAD),
        "sit": (_ON_KNEE, _FORWARD, _BENT, _WAVING),
    }.get(kind, _EASY)
    first = int(rng.integers(2))
    for number, side in enumerate(("left", "right")):
        choice = lively if number == first else easy
        if kind == "gesture" and rng.random() < 0.4:
            choice = lively
        _draw(rng, angles, f"{side}_arm", choice[int(rng.integers(len(choice)))])
        angles[_PLACE[f"{side}_arm.wrist"]] = rng.uniform(-10, 20)
    reach = 1.6 if kind == "reach" else 1.0
    angles[_PLACE["bend"]] += reach * rng.uniform(-9, 9)
    angles[_PLACE["tilt"]] += reach * rng.uniform(-4, 4)
    angles[_PLACE["lean"]] += reach * rng.uniform(-2, 5)
    angles[_PLACE["head_turn"]] = rng.uniform(-32, 32)
    angles[_PLACE["head_nod"]] = rng.uniform(-8, 14)
    return angles


def _walking(rng: np.random.Generator) -> list[tuple[str, float, float, float, bool]]:
    """Strides: a leg swings, its knee bends while it comes forward, the other side's arm swings."""
    stride, rate, start = rng.uniform(16, 30), rng.uniform(0.75, 1.05), rng.uniform()
    arms = stride * rng.uniform(0.6, 1.2)
    waves = [("bend", 5.0, rate, start, False), ("lean", 3.0, 0.0, 0.25, False)]
    for side, phase in (("left", start), ("right", start + 0.5)):
        waves += [
            (f"{side}_leg.swing", stride, rate, phase, False),
            (f"{side}_leg.knee", rng.uniform(38, 55), rate, phase + 0.22, True),
            (f"{side}_leg.ankle", 12.0, rate, phase + 0.05, False),
            (f"{side}_arm.swing", arms, rate, phase + 0.5, False),
            (f"{side}_arm.elbow", 0.7 * arms, rate, phase + 0.5, True),
        ]
    return waves
