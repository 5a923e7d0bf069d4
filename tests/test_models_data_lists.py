# SPDX-License-Identifier: Apache-2.0
"""The text files of pose transfer data: spellings, encodings, bad lines, and the real ones."""

import doctest
import json
import os
from pathlib import Path

import numpy as np
import pytest
from photo_trees import NAMES

import models.data
from models.data import deepfashion, lists


@pytest.mark.parametrize("module", [models.data, lists, deepfashion], ids=lambda m: m.__name__)
def test_docstring_examples(module):
    done = doctest.testmod(module)
    assert done.attempted > 0 and done.failed == 0


@pytest.mark.parametrize(
    "raw, flat",
    [
        ("WOMEN/Blouses_Shirts/id_00000693/02_3_back.jpg", NAMES[2]),
        (
            "MEN/Tees_Tanks/id_00007301/04_7_additional.jpg",
            "fashionMENTees_Tanksid0000730104_7additional.jpg",
        ),
    ],
)
def test_names_of_both_trees(raw, flat):
    assert deepfashion.flat_name(raw) == deepfashion.flat_name("img/" + raw) == flat
    assert deepfashion.raw_name(flat) == raw
    assert deepfashion.flat_name(flat) == flat and deepfashion.raw_name("a_1.jpg") == "a_1.jpg"


@pytest.mark.parametrize(
    "encoding, ending", [("utf-8", "\n"), ("utf-8-sig", "\r\n"), ("utf-16", "\r\n")]
)
def test_encodings_of_lists(tmp_path, encoding, ending):
    path = tmp_path / "pairs.csv"
    text = ending.join(["From, To", "ä_1.jpg , ä_2.jpg", "", '"b,_1.jpg",b_2.jpg', "   "])
    path.write_bytes(text.encode(encoding))
    rows = lists.read_pairs(path)
    assert [row[:2] for row in rows] == [("ä_1.jpg", "ä_2.jpg"), ("b,_1.jpg", "b_2.jpg")]


EIGHTEEN = json.dumps([5] * 18)


@pytest.mark.parametrize(
    "reader, lines, message",
    [
        ("pairs", ["a,b"], "line 1: must be from,to or from,to,split, got 'a,b'"),
        ("pairs", ["from,to", "a.jpg"], "line 2: must have 2 names, got 'a.jpg'"),
        ("pairs", ["from,to", "a,b", "a,"], "line 3: must have 2 names, got 'a,'"),
        ("annotation", ["name,y,x"], "line 1: must be name:keypoints_y:keypoints_x"),
        ("annotation", ["a:[1, 2"], "line 2: must be name:keypoints_y:keypoints_x"),
        ("annotation", ["a:[1, 2:[3"], "line 2: the joints of a are no JSON list"),
        ("annotation", [f"a:{EIGHTEEN}:[1, 2]"], "line 2: a must have 18 joints, got 2 values"),
        ("annotation", [f"a:7:{EIGHTEEN}"], "line 2: a must have 18 joints, got no list"),
        ("annotation", [f"a:{EIGHTEEN}:{EIGHTEEN.replace('5', 'NaN')}"], "finite numbers"),
        (
            "annotation",
            [f"a:{EIGHTEEN}:{EIGHTEEN}", f"a:{EIGHTEEN}:{EIGHTEEN.replace('5', '6')}"],
            "line 3: a is there twice, with other joints",
        ),
    ],
)
def test_bad_lines(tmp_path, reader, lines, message):
    if reader == "annotation" and lines[0] != "name,y,x":
        lines = ["name:keypoints_y:keypoints_x", *lines]
    path = tmp_path / "list.csv"
    path.write_text("\n".join(lines))
    read = lists.read_pairs if reader == "pairs" else lists.read_annotation
    with pytest.raises(ValueError) as error:
        read(path)
    assert message in str(error.value) and str(path) in str(error.value)
    if "line 1" not in message:
        problems: list[str] = []
        read(path, problems)
        assert problems == [str(error.value)]


def test_a_list_in_another_encoding_or_none(tmp_path):
    (tmp_path / "p.csv").write_bytes("from,to\nä,b".encode("latin-1"))
    with pytest.raises(ValueError, match=r"p.csv is no UTF-8 text: byte 8 is 0xe4"):
        lists.read_pairs(tmp_path / "p.csv")
    with pytest.raises(FileNotFoundError, match=r"q.csv: no such file"):
        lists.read_names(tmp_path / "q.csv")


def test_pairs_of_the_same_clothes():
    pairs = lists.same_clothes_pairs(["a_1", "b_1", "a_2", "a_3", "c_1", "b_2"])
    a = [("a_1", "a_2"), ("a_1", "a_3"), ("a_2", "a_1"), ("a_2", "a_3"), ("a_3", "a_1")]
    assert pairs == [*a, ("a_3", "a_2"), ("b_1", "b_2"), ("b_2", "b_1")]
    drawn = lists.same_clothes_pairs(["a_1", "b_1", "a_2", "a_3", "c_1", "b_2"], 5)
    assert len(set(drawn)) == 5 and set(drawn) < set(pairs)


REAL = Path(os.environ.get("POSE_KERNELS_DATA", "/nowhere"), "deepfashion_lists")


@pytest.mark.skipif(not REAL.is_dir(), reason="real lists: set POSE_KERNELS_DATA to their folder")
def test_first_lines_of_the_real_lists():
    pairs = lists.read_pairs(REAL / "fasion-resize-pairs-test.head200.csv")
    joints = lists.read_annotation(REAL / "fasion-resize-annotation-test.head200.csv")
    assert len(pairs) == 200 and len(joints) == 200
    assert all(lists.clothes_key(a) == lists.clothes_key(b) for a, b, _ in pairs)
    for name in (*joints, *(row.target for row in pairs)):
        assert deepfashion.flat_name(deepfashion.raw_name(name)) == name
    xy = np.stack(list(joints.values()))
    assert np.nanmin(xy[..., 0]) == -20 and np.nanmax(xy[..., 0]) == 199  # beside the crop, not bad
    assert np.nanmin(xy[..., 1]) == 0 and np.nanmax(xy[..., 1]) == 254


@pytest.mark.skipif(
    not (REAL / "fasion-resize-pairs-train.csv").is_file(),
    reason="the whole lists are not there",
)
def test_counts_of_the_whole_lists():
    count = {
        p: len(lists.read_pairs(REAL / f"fasion-resize-pairs-{p}.csv")) for p in ("train", "test")
    }
    assert count == {"train": 101_966, "test": 8_570}
    every = {p: lists.read_names(REAL / f"{p}.lst") for p in ("train", "test")}
    assert len(lists.same_clothes_pairs(every["train"])) == 154_758
    assert len(lists.same_clothes_pairs(every["test"])) == 12_860
