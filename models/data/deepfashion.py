# SPDX-License-Identifier: Apache-2.0
"""DeepFashion In-shop Clothes Retrieval (Liu et al., CVPR 2016) as pose transfer uses it.

The lists are those of *Progressive Pose Attention Transfer* (Zhu et al., CVPR 2019), in all their
spellings; the layout of the files is in docs/data.md. Joints are in the frame of 256 x 256, or of
its columns 40..215 in the "resize" lists, where a joint beside the crop may have any x.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from . import lists
from .pairs import PairFiles
from .placement import Placement, letterbox, shift, stretch
from .tree import Missing, Tree, first_file, first_folder, given, open_root

Variant = Literal["full256", "crop176", "resize176"]
JointRule = Literal["none", "any", "torso"]

FULL, CROP = (256, 256), (256, 176)
CROP_LEFT = 40  # columns of the full frame left of the cropped one
TEST_PAIRS = 12_000
GET = {
    "images": "pictures: In-shop Clothes Retrieval of DeepFashion, from its authors on request; "
    "docs/data.md says where to put them",
    "iuv": "IUV maps: run DensePose on the pictures, docs/data.md says how to name its output",
    "masks": "masks: NAME.png beside the pictures' folder, docs/data.md",
    "joints": "joints: fasion-resize-annotation-*.csv of the Pose-Transfer (PATN) release",
}
_LISTS = "the lists of the Pose-Transfer (PATN) release, fasion-resize-pairs-*.csv; docs/data.md"
# The high-resolution release is 750 x 1101; other sizes of the same aspect are its resizings.
_TALL_ASPECT, _ASPECT_TOLERANCE = 750 / 1101, 0.03
_RAW = re.compile(r"(?:.*/)?(MEN|WOMEN)/([^/]+)/id_(\d{8})/(\d{2})_([^/]+?)(\.\w+)?")
_FLAT = re.compile(r"fashion(MEN|WOMEN)(.+?)id(\d{8})(\d{2})_(\d+)([^/]*?)(\.\w+)?")


def flat_name(name: str) -> str:
    """The name in one folder that the lists use; another name stays as it is.

    >>> flat_name("img/WOMEN/Blouses_Shirts/id_00000693/02_3_back.jpg")
    'fashionWOMENBlouses_Shirtsid0000069302_3back.jpg'
    """
    match = _RAW.fullmatch(name)
    if match is None:
        return name
    gender, category, number, color, view, ending = match.groups()
    view = view.replace("_", "")
    return f"fashion{gender}{category}id{number}{color}_{view}{ending or ''}"


def raw_name(name: str) -> str:
    """The path below `img` of DeepFashion itself; another name stays as it is.

    >>> raw_name("fashionMENTees_Tanksid0000730104_7additional.jpg")
    'MEN/Tees_Tanks/id_00007301/04_7_additional.jpg'
    """
    match = _FLAT.fullmatch(name)
    if match is None:
        return name
    gender, category, number, color, digits, view, ending = match.groups()
    return f"{gender}/{category}/id_{number}/{color}_{digits}_{view}{ending or ''}"


@dataclass
class DeepFashion(Tree):
    """variant: the frame of the pictures. nested: the raw tree. joint_width: 176 or 256."""

    variant: Variant = "full256"
    nested: bool = False
    joint_width: int = 256

    def image_files(self, name: str) -> Iterator[Path]:
        return super().image_files(raw_name(name) if self.nested else name)

    def frame(self, picture: tuple[int, int]) -> tuple[int, int]:
        return FULL if self.variant == "full256" else CROP

    def place(self, picture: tuple[int, int], size: tuple[int, int]) -> Placement:
        return _to_frame(picture, self.variant).then(letterbox(self.frame(picture), size))

    def place_joints(self, picture: tuple[int, int], size: tuple[int, int]) -> Placement:
        full = _joints_to_full(self.joint_width).then(self._from_full())
        return full.then(letterbox(self.frame(picture), size))

    def _from_full(self) -> Placement:
        if self.variant == "full256":
            return stretch(FULL, FULL)
        if self.variant == "crop176" or self.joint_width == 176:
            return shift(-CROP_LEFT, CROP)
        # the high-resolution picture in the full frame, stretched to the width of the narrow one
        inner = letterbox((1101, 750), FULL)
        scale = CROP[1] / (750 * inner.scale[0])
        return Placement((scale, 1.0), (-inner.offset[0] * scale, 0.0), CROP)

    def joint_range(self, picture: tuple[int, int]) -> tuple[float, float, float, float]:
        left = -CROP_LEFT if self.joint_width == 176 else 0
        return left - 0.5, -0.5, left + FULL[1] - 0.5, FULL[0] - 0.5

    def agree(self, picture: tuple[int, int], other: tuple[int, int]) -> bool:
        return True  # any that its own size can place


def _joints_to_full(width: int) -> Placement:
    return shift(CROP_LEFT if width == 176 else 0, FULL)


def _to_frame(picture: tuple[int, int], variant: Variant) -> Placement:
    height, width = picture
    tall = abs(width / height - _TALL_ASPECT) <= _ASPECT_TOLERANCE * _TALL_ASPECT
    size = f"the picture is {width} x {height} (width x height)"
    if variant == "full256":
        if picture == FULL:
            return stretch(FULL, FULL)
        if picture == CROP:
            return shift(CROP_LEFT, FULL)
        if tall:
            return letterbox(picture, FULL)
        raise ValueError(f"{size}; full256 takes 256 x 256, 176 x 256, or 750 x 1101 and its like")
    if picture == CROP:
        return stretch(CROP, CROP)
    if variant == "crop176":
        if picture == FULL:
            return shift(-CROP_LEFT, CROP)
        raise ValueError(
            f"{size}; crop176 takes 256 x 256 and 176 x 256"
            + ("; for these: --data-options variant=resize176" if tall else "")
        )
    if tall:
        return stretch(picture, CROP)
    raise ValueError(
        f"{size}; resize176 takes 750 x 1101 and its like, and 176 x 256"
        + ("; for these: --data-options variant=crop176" if picture == FULL else "")
    )


def tree(
    root: str | os.PathLike[str] | None,
    split: str,
    *,
    variant: Variant = "full256",
    pairs: str | None = None,
    annotation: str | None = None,
    images: str | None = None,
    iuv: str | None = None,
    masks: str | None = None,
    iuv_order: str = "auto",
    annotation_width: int | None = None,
    joint_rule: JointRule = "none",
    validation: float = 0.01,
    problems: list[str] | None = None,
) -> DeepFashion:
    """Read the lists of a split and find the folders; see :func:`open_pairs` for the options.

    problems: collects bad lines instead of raising.
    """
    base = open_root(root, "deepfashion", GET["images"])
    _one_of("variant", variant, ("full256", "crop176", "resize176"))
    _one_of("joint_rule", joint_rule, ("none", "any", "torso"))
    _one_of("annotation_width", annotation_width, (None, 176, 256))
    if not 0 <= validation < 1:
        raise ValueError(
            f"validation must be a share of the clothes, 0 to below 1, got {validation}"
        )
    phase = "test" if split == "test" or (split == "validation" and not validation) else "train"
    bases = [base, base / "fashion_data"]
    pairs_file = given(pairs, base, "pairs") or first_file(bases, _spellings("pairs", phase))
    joints_file = given(annotation, base, "annotation") or first_file(
        bases, _spellings("annotation", phase)
    )
    image_folder = given(images, base, "images", folder=True)
    if image_folder is None:
        tall = ["img_highres", "img"] if variant == "resize176" else ["img", "img_highres"]
        image_folder = first_folder(bases, [phase, *tall])
    if image_folder is None:
        raise FileNotFoundError(
            f"{base} has none of {phase}/, img/, img_highres/, nor has its fashion_data/; "
            f"{GET['images']}"
        )
    joints = None if joints_file is None else lists.read_annotation(joints_file, problems)
    width = annotation_width or _joint_width(joints_file, joints)
    if joints is not None:
        joints = {flat_name(name): points for name, points in joints.items()}
    found, files = _pairs(bases, phase, pairs_file, joints, image_folder, problems)
    if joint_rule != "none":
        if joints is None:
            raise FileNotFoundError(f"joint_rule={joint_rule} needs joints; {GET['joints']}")
        found = [p for p in found if all(_passes(joints.get(name), joint_rule) for name in p)]
    if phase == "train":
        found = lists.side_of_validation(found, split, validation)
    return DeepFashion(
        "deepfashion",
        split,
        base,
        found,
        joints,
        image_folder,
        given(iuv, base, "iuv", folder=True) or first_folder(bases, [f"{phase}_iuv"]),
        given(masks, base, "masks", folder=True) or first_folder(bases, [f"{phase}_masks"]),
        GET,
        iuv_order,
        files=[file for file in (files, joints_file) if file is not None],
        variant=variant,
        nested=any((image_folder / gender).is_dir() for gender in ("MEN", "WOMEN")),
        joint_width=width,
    )


def open_pairs(
    *,
    split: str,
    size: tuple[int, int],
    root: str | None,
    views: int = 0,
    seed: int = 0,
    variant: Variant = "full256",
    pairs: str | None = None,
    annotation: str | None = None,
    images: str | None = None,
    iuv: str | None = None,
    masks: str | None = None,
    iuv_order: str = "auto",
    annotation_width: int | None = None,
    joint_rule: JointRule = "none",
    validation: float = 0.01,
    missing: Missing = "error",
) -> PairFiles:
    """Pairs of DeepFashion; the frame of the variant is letterboxed into `size`.

    variant: "full256", 256 x 256 with white sides; "crop176", its columns 40..215; "resize176", the
    high-resolution pictures squeezed to 256 x 176. pairs, annotation: files; images, iuv, masks:
    folders, where they are not found by their names. iuv_order: "auto", "cv2" or "rgb".
    annotation_width: 176 or 256, the frame of the joints; None: 176 when the file is called
    "resize" or has an x below -1. joint_rule: keep pairs whose pictures have "any" joint, or both
    shoulders and hips ("torso"). validation: share of the training clothes held out as the split
    "validation"; at 0 all is trained on, and that split is the test's. missing: "error", or "skip"
    for pairs without a file.
    """
    found = tree(
        root,
        split,
        variant=variant,
        pairs=pairs,
        annotation=annotation,
        images=images,
        iuv=iuv,
        masks=masks,
        iuv_order=iuv_order,
        annotation_width=annotation_width,
        joint_rule=joint_rule,
        validation=validation,
    )
    return PairFiles(found, size, views=views, seed=seed, missing=missing)


def _spellings(what: str, phase: str) -> list[str]:
    return [
        f"{fashion}-{resize}{what}-{phase}.csv"
        for resize in ("resize-", "")
        for fashion in ("fasion", "fashion")
    ]


def _joint_width(file: Path | None, joints: dict[str, NDArray[np.float32]] | None) -> int:
    """A crop leaves x below -1, which no joint of a whole picture has."""
    if file is None or joints is None:
        return 256
    beside = any((points[:, 0] < -1).any() for points in joints.values())
    return 176 if "resize" in file.name or beside else 256


def _pairs(
    bases: list[Path],
    phase: str,
    file: Path | None,
    joints: dict[str, NDArray[np.float32]] | None,
    image_folder: Path,
    problems: list[str] | None,
) -> tuple[list[tuple[str, str]], Path | None]:
    """The list of pairs, else all pairs of the same clothes; and the file they come from."""
    if file is not None:
        rows = lists.read_pairs(file, problems)
        return [(flat_name(row.source), flat_name(row.target)) for row in rows], file
    names = first_file(bases, [f"{phase}.lst"])
    if names is not None:
        known = [flat_name(name) for name in lists.read_names(names)]
    elif joints is not None:
        known = list(joints)
    elif image_folder.name == phase:
        known = sorted(path.name for path in image_folder.iterdir() if path.is_file())
    else:
        raise FileNotFoundError(
            f"{bases[0]} has no {_spellings('pairs', phase)[0]} and no {phase}.lst, so that the "
            f"split is not known; {_LISTS}"
        )
    most = TEST_PAIRS if phase == "test" else None
    return lists.same_clothes_pairs(known, most), names


def _passes(points: NDArray[np.float32] | None, rule: JointRule) -> bool:
    if points is None:
        return False
    there = ~np.isnan(points[:, 1])
    return bool(there[list(lists.TORSO)].all() if rule == "torso" else there.any())


def _one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        words = ", ".join(str(choice).lower() for choice in choices)
        raise ValueError(f"{name} must be one of {words}, got {value!r}")
