# SPDX-License-Identifier: Apache-2.0
"""MVC, folders of one's own, and the check that goes through the files of a data set."""

import pickle

import numpy as np
import pytest
import torch
from photo_trees import NAMES, annotation, fashion, iuv_tree, pair_list, png
from PIL import Image

from models.data import open_data
from models.data.__main__ import main
from models.data.check import check
from pose_kernels import io


def shades(folder, names, size=(40, 30)):
    for i, name in enumerate(names):
        png(folder / name, np.full((*size, 3), 20 * (i % 12), np.uint8))


# --- MVC ----------------------------------------------------------------------------------------


def test_mvc_is_letterboxed_with_white(tmp_path):
    names = ["12_front.png", "12_back.png", "7_front.png", "7_left.png"]
    shades(tmp_path / "test", names, (56, 48))
    annotation(tmp_path / "mvc-annotation-test.csv", {name: [(0, 0), (47, 55)] for name in names})
    data = open_data("mvc", split="test", size=28, root=tmp_path)  # all pairs of an item
    assert [data.names(i) for i in range(len(data))] == [
        *(("12_back.png", "12_front.png"), ("12_front.png", "12_back.png")),
        *(("7_front.png", "7_left.png"), ("7_left.png", "7_front.png")),
    ]
    item = data[1]
    image = (item["source_image"] + 1) / 2
    assert image[:, :, 2:26].abs().max() < 1e-6 and (image[:, :, :2] == 1).all()
    assert image[:, :, 26:].min() == 1 and item["identity"] != data[2]["identity"]
    assert item["source_joints18"][:2].tolist() == [[1.75, -0.25], [25.25, 27.25]]
    pair_list(tmp_path / "mvc-pairs-test.csv", [(names[2], names[3])])
    assert len(open_data("mvc", split="test", size=28, root=tmp_path)) == 1


# --- a folder of one's own ------------------------------------------------------------------------


def test_folder_with_everything(tmp_path):
    names = [f"{who}{i}.png" for who in "abc" for i in range(3)]
    shades(tmp_path / "images", names)
    for name in names:
        iuv = np.zeros((20, 15, 3), np.uint8)  # half as large: of the same aspect
        iuv[5:, 4:, 0], iuv[..., 1:] = 2, 100  # uv beside the body too, as some maps have it
        png(tmp_path / "iuv" / name.replace(".png", "_IUV.png"), iuv)
        png(tmp_path / "masks" / name, np.full((40, 30), 255, np.uint8))
    annotation(tmp_path / "joints.csv", {name: [(15, 39), (30, 3)] for name in names})
    rows = [("a0", "a1", "train"), ("a1", "a2", "train"), ("b0", "b1", "validation")]
    rows += [("c0", "c1", "test"), ("c2", "c1", "test")]
    lines = [f"{a}.png,{b}.png,{split}" for a, b, split in rows]
    (tmp_path / "pairs.csv").write_text("\n".join(["from,to,split", *lines]))
    sets = {
        split: open_data("folder", split=split, size=(40, 40), root=tmp_path, views=3)
        for split in ("train", "validation", "test")
    }
    assert {split: len(data) for split, data in sets.items()} == {
        **{"train": 2, "validation": 1, "test": 2}
    }
    item = sets["train"][0]
    assert item["source_part"][10:, 13:35].unique().tolist() == [2]
    assert int((item["source_part"] > 0).sum()) == 30 * 22
    assert torch.equal(item["source_uv"][0] > 0, item["source_part"] > 0)
    assert item["source_mask"][0, 0].tolist() == [0.0] * 5 + [1.0] * 30 + [0.0] * 5
    assert item["source_joints18"][:3].tolist() == [[20, 39], [-1, -1], [-1, -1]]
    assert item["view_part"][2].any()  # a2 is the same person through a1
    assert not sets["validation"][0]["view_part"][2].any()
    lines[1] = "a1.png,a2.png,test"
    (tmp_path / "pairs.csv").write_text("\n".join(["from,to,split", *lines]))
    with pytest.raises(ValueError, match=r"a1.png is in train and in test .*one split"):
        open_data("folder", split="train", size=8, root=tmp_path)
    png(tmp_path / "iuv" / "b0_IUV.png", np.zeros((20, 18, 3), np.uint8))
    with pytest.raises(ValueError, match=r"b0_IUV.png is 18 x 20 .* its picture b0.png is 30 x 40"):
        sets["validation"][0]


def test_views_differ_by_epoch_and_are_the_same_in_a_worker(tmp_path):
    names = [f"{i}.png" for i in range(6)]
    shades(tmp_path / "images", names, (4, 4))
    for name in names:
        png(tmp_path / "iuv" / name, np.zeros((4, 4, 3), np.uint8))
    lines = [f"{a},{b},train" for a, b in zip(names, names[1:])]
    (tmp_path / "pairs.csv").write_text("\n".join(["from,to,split", *lines]))
    data = open_data("folder", split="train", size=4, root=tmp_path, views=3, seed=5)
    worker = pickle.loads(pickle.dumps(data))
    seen = set()
    for epoch in range(8):
        for one in (data, worker):
            one.set_epoch(epoch)
        views = data[1]["view_image"]
        assert torch.equal(views, worker[1]["view_image"])
        seen.add(tuple(((views[:, 0, 0, 0] + 1) * 127.5 / 20).round().int().tolist()))
    assert all(views[0] == 1 and len({*views, 2}) == 4 for views in seen) and len(seen) > 3


def test_synthetic_people_come_back_from_files(tmp_path):
    drawn = open_data("synthetic", split="test", size=32, length=1, flow=False)[0]
    joints = {}
    for side in ("source", "target"):
        io.write_iuv(tmp_path / f"{side}_IUV.png", drawn[f"{side}_part"], drawn[f"{side}_uv"])
        for folder in ("images", "iuv", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / f"{side}_IUV.png").rename(tmp_path / "iuv" / f"{side}_IUV.png")
        io.write_image(tmp_path / "images" / f"{side}.png", drawn[f"{side}_image"] / 2 + 0.5)
        io.write_image(tmp_path / "masks" / f"{side}.png", drawn[f"{side}_mask"].repeat(3, 1, 1))
        joints[f"{side}.png"] = drawn[f"{side}_joints18"].tolist()
    annotation(tmp_path / "joints.csv", joints)
    pair_list(tmp_path / "pairs.csv", [("source.png", "target.png")])
    read = open_data("folder", split="train", size=32, root=tmp_path)[0]
    assert set(read) == set(drawn) - {"source_joints19", "target_joints19"}
    for key in set(read) - {"identity"}:
        torch.testing.assert_close(read[key], drawn[key], atol=0.5 / 127 + 1e-5, rtol=0, msg=key)


def test_folder_without_a_column_of_splits(tmp_path):
    people = [f"p{i}" for i in range(20)]
    shades(tmp_path / "images", ["x.png"])
    pairs = [(f"{p}_a.png", f"{p}_b.png") for p in people]
    pair_list(tmp_path / "pairs.csv", pairs)
    shades(tmp_path / "images", [name for pair in pairs for name in pair], (4, 4))
    seen = {}
    for split in ("train", "validation", "test"):
        data = open_data("folder", split=split, size=4, root=tmp_path)
        seen[split] = {data.names(i)[0] for i in range(len(data))}
    assert {split: len(names) for split, names in seen.items()} == {
        **{"train": 16, "validation": 2, "test": 2}
    }
    assert len(set.union(*seen.values())) == 20
    pair_list(tmp_path / "pairs.csv", pairs[:2])
    with pytest.raises(ValueError, match="has 2 people: too few .* column split"):
        open_data("folder", split="test", size=4, root=tmp_path)


# --- the check -----------------------------------------------------------------------------------


def test_check_of_a_good_tree(tmp_path, capsys):
    iuv_tree(tmp_path)
    assert (
        main([*"--check-data deepfashion --data-root".split(), str(tmp_path), "--splits", "test"])
        == 0
    )
    assert capsys.readouterr().out.splitlines() == [
        f"deepfashion in {tmp_path}",
        "  test: 12 pairs, 12 with all files; 6 pictures of 2 people in their clothes; "
        "with IUV maps, joints",
        "nothing is wrong",
    ]
    both = fashion(tmp_path / "both", size=(256, 176))
    report = check("deepfashion", both, splits=["train", "test"], validation=0)
    assert report.counts == {"shared": 2}  # the tree has the same clothes in train and test
    assert [split.pairs for split in report.splits] == [12, 12]


@pytest.mark.parametrize("thorough", [False, True])
def test_check_counts_what_is_wrong(tmp_path, thorough):
    iuv_tree(tmp_path)
    pictures = [tmp_path / "test" / name.replace(".jpg", ".png") for name in NAMES]
    maps = [tmp_path / "test_iuv" / name.replace(".jpg", "_IUV.png") for name in NAMES]
    pictures[0].write_bytes(pictures[0].read_bytes()[:-30])
    png(pictures[1], np.zeros((256, 100, 3), np.uint8))
    maps[2].unlink()
    png(maps[3], np.full((256, 256, 3), 90, np.uint8))  # no labels: only decoding shows it
    pictures[4].unlink()
    joints = {name: [(230 if name == NAMES[5] else 5, 5)] for name in NAMES}
    lines = annotation(tmp_path / "fasion-resize-annotation-test.csv", joints)
    lines.write_text(lines.read_text() + "bad line\n")
    pairs = tmp_path / "fasion-resize-pairs-test.csv"
    pairs.write_text(pairs.read_text() + f"{NAMES[3]},{NAMES[5]}\n" * 2 + "one\n")
    report = check("deepfashion", tmp_path, splits=["test"], thorough=thorough)
    expected = {"unreadable": 1, "size": 1, "iuv": 1, "images": 1, "range": 1, "lines": 2}
    if thorough:
        expected["unreadable"] = 2
    assert report.counts == expected and not report.ok
    (split,) = report.splits
    assert (split.pairs, split.duplicates, split.images) == (14, 2, 6)
    assert split.usable == (0 if thorough else 4)
    text = str(report)
    assert "1front.png is damaged or cut short" in text and "bad lines in the lists: 2\n" in text
    assert f"missing IUV maps: 1\n  {maps[2]}\n" in text and "2side.png: the picture is" in text
    assert f"pictures with joints out of range: 1\n  {NAMES[5]}: 1, the first at (230, 5)" in text


def test_check_shows_ten_of_a_kind(tmp_path):
    names = [f"p{i:02}_{view}.jpg" for i in range(15) for view in "ab"]
    (tmp_path / "images").mkdir()
    pair_list(tmp_path / "pairs.csv", zip(names[::2], names[1::2]))
    for name in names[:6]:
        Image.new("RGB", (8, 6)).save(tmp_path / "images" / name, exif=turned())
        png(tmp_path / "iuv" / name.replace(".jpg", "_IUV.png"), np.zeros((8, 6, 3), np.uint8))
    report = check("folder", tmp_path)
    assert report.counts == {"images": 24}
    text = str(report)
    assert text.count(".jpg") == 10 and "missing pictures: 24" in text and "and 14 more" in text


def turned() -> Image.Exif:
    """A photo taken with the camera on its side: its maps are upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("synthetic", "data 'synthetic' has no files that could be checked"),
        ("foldr", "is it folder?"),
        ("folder --data-options variant=crop176", "folder has no option variant; it has iuv_order"),
        ("folder --data-options crop", "a data option must be KEY=VALUE, got 'crop'"),
    ],
)
def test_what_the_check_refuses(tmp_path, capsys, arguments, message):
    assert main(["--data-root", str(tmp_path), "--check-data", *arguments.split()]) == 1
    out, err = capsys.readouterr()
    assert message in err and err.startswith("error: ") and err.count("\n") == 1 and not out


def test_the_check_says_which_split_is_not_there(tmp_path, capsys):
    fashion(tmp_path, size=(256, 256), phases=("train",))
    assert main(["--check-data", "deepfashion", "--data-root", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "splits that cannot be opened: 1\n  test: " in text and "has none of test/" in text
    assert text.endswith("not all is well: see above\n")
