# SPDX-License-Identifier: Apache-2.0
"""MVC, multi-view clothing (Liu, Chen, Chen, ICMR 2016): ITEM_VIEW.jpg, letterboxed with white.

The layout of the files is in docs/data.md. Joints, where there are any, are in pixels of the
picture files.
"""

from __future__ import annotations

import os

from . import lists
from .pairs import PairFiles
from .tree import Missing, Tree, first_file, first_folder, given, open_root

GET = {
    "images": "pictures: the MVC data set, from its authors; docs/data.md says how to name them",
    "iuv": "IUV maps: run DensePose on the pictures, docs/data.md says how to name its output",
    "masks": "masks: NAME.png beside the pictures' folder, docs/data.md",
    "joints": "joints: mvc-annotation-*.csv from a pose detector, docs/data.md",
}


def tree(
    root: str | os.PathLike[str] | None,
    split: str,
    *,
    pairs: str | None = None,
    annotation: str | None = None,
    iuv_order: str = "auto",
    validation: float = 0.01,
    problems: list[str] | None = None,
) -> Tree:
    """Read the lists of a split and find the folders; see :func:`open_pairs` for the options."""
    base = open_root(root, "mvc", GET["images"])
    if not 0 <= validation < 1:
        raise ValueError(f"validation must be a share of the items, 0 to below 1, got {validation}")
    phase = "test" if split == "test" or (split == "validation" and not validation) else "train"
    image_folder = first_folder([base], [phase])
    if image_folder is None:
        raise FileNotFoundError(f"{base / phase}: no such folder; {GET['images']}")
    pairs_file = given(pairs, base, "pairs") or first_file([base], [f"mvc-pairs-{phase}.csv"])
    joints_file = given(annotation, base, "annotation") or first_file(
        [base], [f"mvc-annotation-{phase}.csv"]
    )
    if pairs_file is not None:
        found = [(row.source, row.target) for row in lists.read_pairs(pairs_file, problems)]
    else:
        found = lists.same_clothes_pairs(
            sorted(path.name for path in image_folder.iterdir() if path.is_file())
        )
    if phase == "train":
        found = lists.side_of_validation(found, split, validation)
    return Tree(
        "mvc",
        split,
        base,
        found,
        None if joints_file is None else lists.read_annotation(joints_file, problems),
        image_folder,
        first_folder([base], [f"{phase}_iuv"]),
        first_folder([base], [f"{phase}_masks"]),
        GET,
        iuv_order,
        files=[file for file in (pairs_file, joints_file) if file is not None],
    )


def open_pairs(
    *,
    split: str,
    size: tuple[int, int],
    root: str | None,
    views: int = 0,
    seed: int = 0,
    pairs: str | None = None,
    annotation: str | None = None,
    iuv_order: str = "auto",
    validation: float = 0.01,
    missing: Missing = "error",
) -> PairFiles:
    """Pairs of MVC, letterboxed into `size` with white.

    pairs, annotation: files, where they are not mvc-pairs-*.csv and mvc-annotation-*.csv; without a
    list, all pairs of an item. iuv_order: "auto", "cv2" or "rgb". validation: share of the training
    items held out as the split "validation"; at 0 all is trained on, and that split is the test's.
    missing: "error", or "skip" for pairs without a file.
    """
    found = tree(
        root,
        split,
        pairs=pairs,
        annotation=annotation,
        iuv_order=iuv_order,
        validation=validation,
    )
    return PairFiles(found, size, views=views, seed=seed, missing=missing)
