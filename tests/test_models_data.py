# SPDX-License-Identifier: Apache-2.0
"""Readers of real data: layouts, lists, geometry, and the words about bad files."""

import sys

import numpy as np
import pytest
import torch
from photo_trees import CLOTHES, NAMES, annotation, fashion, iuv_tree, pair_list, person, png
from torch.utils.data import default_collate

from models import data as models_data
from models.data import deepfashion, lists, open_data, placement
from pose_kernels import io


def gray(item, key="source_image") -> int:
    """Which of NAMES it is."""
    image = (item[key] + 1) * 127.5
    return round(float(image[:, image.shape[1] // 2, image.shape[2] // 2].mean()) / 20)


# --- geometry -----------------------------------------------------------------------------------


def test_resizing_is_that_of_pytorch_and_of_resize_iuv():
    image = torch.rand(3, 50, 40)
    for size in ((25, 20), (70, 33), (50, 40)):
        ours = placement.stretch((50, 40), size).image(image)
        truth = torch.nn.functional.interpolate(image[None], size, mode="bilinear", antialias=True)
        torch.testing.assert_close(ours, truth[0], atol=2e-5, rtol=0)
        labels = torch.randint(0, 25, (50, 40), dtype=torch.uint8)
        ours = placement.stretch((50, 40), size).nearest(labels[None])[0]
        assert torch.equal(ours, io.resize_iuv(io.IUV(labels, image[:2]), size).part)


def test_letterbox_and_crop_cover_exactly_what_they_should():
    black = torch.zeros(1, 20, 10)
    boxed = placement.letterbox((20, 10), (8, 8)).image(black)[0]
    assert (boxed[:, 2:6] == 0).all() and (boxed[:, :2] == 1).all() and (boxed[:, 6:] == 1).all()
    odd = placement.letterbox((20, 10), (7, 7)).image(black)[0]  # columns 1.75 to 5.25
    torch.testing.assert_close(odd[3], torch.tensor([1, 0.75, 0, 0, 0, 0.75, 1]))
    ramp = torch.arange(12.0).expand(1, 3, 12)
    moved = placement.shift(-4, (3, 5)).then(placement.shift(1, (3, 7)))
    assert moved.image(ramp)[0, 0].tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert placement.shift(2, (3, 4)).image(ramp)[0, 0].tolist() == [1, 1, 0, 1]


SPOT = (97, 60)  # of the whole frame, 256 x 256


@pytest.mark.parametrize(
    "variant, picture, list_name",
    [
        ("full256", (256, 256), "fasion-annotation"),
        ("full256", (256, 176), "fasion-resize-annotation"),
        ("full256", (1101, 750), "fashion-annotation"),
        ("crop176", (256, 256), "fasion-resize-annotation"),
        ("crop176", (256, 256), "fashion-annotation"),
        ("crop176", (256, 176), "fashion-resize-annotation"),
        ("resize176", (256, 176), "fasion-resize-annotation"),
        ("resize176", (1101, 750), "fasion-annotation"),
    ],
)
def test_joints_stay_on_the_picture(tmp_path, variant, picture, list_name):
    """A dark spot under a joint, in every frame a picture and a list can have."""
    x, y = SPOT
    scale = picture[0] / 256
    left = (picture[1] - 256 * scale) / 2  # of the whole frame in the picture
    center = ((x + 0.5) * scale + left, (y + 0.5) * scale)
    rows, columns = np.mgrid[: picture[0], : picture[1]] + 0.5
    spot = np.hypot(columns - center[0], rows - center[1]) < 4 * scale
    pixels = np.where(spot[..., None], 0, 255).astype(np.uint8).repeat(3, -1)
    for name in NAMES[:2]:
        png(tmp_path / "train" / name, pixels)
    pair_list(tmp_path / "fasion-pairs-train.csv", [NAMES[:2]])
    in_list = x - 40 if "resize" in list_name else x
    points = [(in_list, y), (in_list - 80, y)]  # the second left of the crop, but in the full frame
    joints = {name: points for name in NAMES[:2]}
    annotation(tmp_path / f"{list_name}-train.csv", joints)
    for size in ((256, 256), (64, 96)):
        data = open_data(
            "deepfashion", split="train", size=size, root=tmp_path, variant=variant, validation=0
        )
        item = data[0]
        dark = 1 - item["source_image"].mean(0)
        grid = torch.meshgrid(*(torch.arange(float(s)) for s in size), indexing="ij")
        found = torch.stack([(dark * g).sum() / dark.sum() for g in grid[::-1]])
        joint = item["source_joints18"][0]
        assert (found - joint).abs().max() < 0.3 * size[0] / 256 + 0.02, (found, joint)
        beside = item["target_joints18"][1].tolist()
        assert (beside == [-1, -1]) == (variant != "full256")
        assert (item["target_joints18"][2:] == -1).all()


@pytest.mark.parametrize(
    "variant, picture, message",
    [
        ("crop176", (1101, 750), "crop176 takes 256 x 256 and 176 x 256; for these: .*resize176"),
        ("resize176", (256, 256), "resize176 takes 750 x 1101 .* for these: .*variant=crop176"),
        ("full256", (256, 200), "the picture is 200 x 256 .*; full256 takes 256 x 256"),
    ],
)
def test_pictures_of_a_wrong_size(tmp_path, variant, picture, message):
    fashion(tmp_path, size=picture, phases=("train",))
    data = open_data("deepfashion", split="train", size=64, root=tmp_path, variant=variant)
    with pytest.raises(ValueError, match=rf"1front.png: .*{message}"):
        data[0]


# --- DeepFashion --------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["fasion-resize-{}", "fashion-{}"])
@pytest.mark.parametrize("below", ["", "fashion_data"])
def test_spellings_and_places(tmp_path, spelling, below):
    fashion(tmp_path / below, spelling=spelling, phases=("test",), size=(256, 176))
    data = open_data("deepfashion", split="test", size=(64, 64), root=tmp_path)
    assert len(data) == 12 and data.names(1) == (NAMES[0], NAMES[2])
    item = data[1]
    assert (
        set(item)
        == data.keys
        == {*("source_image", "target_image", "source_joints18", "target_joints18", "identity")}
    )
    assert (gray(item), gray(item, "target_image")) == (0, 2)
    shift = 40 if "resize" in spelling else 0
    expected = (80 + shift + 0.5) / 4 - 0.5, (60 + 0.5) / 4 - 0.5
    assert item["source_joints18"][0].tolist() == pytest.approx(expected)
    batch = default_collate([data[0], data[7]])
    assert batch["source_image"].shape == (2, 3, 64, 64) and batch["identity"].shape == (2,)
    assert batch["identity"][0] != batch["identity"][1] == data[11]["identity"]


def test_the_raw_tree_split_by_its_lists(tmp_path):
    for i, name in enumerate(NAMES):
        pixels = np.full((256, 256, 3), 20 * i, np.uint8)
        png(tmp_path / "img" / deepfashion.raw_name(name).replace(".jpg", ".png"), pixels)
    (tmp_path / "test.lst").write_text("\r\n".join(NAMES))
    data = open_data("deepfashion", split="test", size=32, root=str(tmp_path))
    assert len(data) == 12 and gray(data[11]) == 5
    with pytest.raises(FileNotFoundError, match=r"no fasion-resize-pairs-train.csv and no train.l"):
        open_data("deepfashion", split="train", size=32, root=tmp_path)


def test_validation_clothes_are_not_trained_on(tmp_path):
    fashion(tmp_path, phases=("train",))
    data = {
        s: open_data("deepfashion", split=s, size=8, root=tmp_path) for s in models_data.SPLITS[:2]
    }
    people = {
        split: {lists.clothes_key(name) for i in range(len(d)) for name in d.names(i)}
        for split, d in data.items()
    }
    assert people["train"] | people["validation"] == set(CLOTHES)
    assert len(people["train"]) == len(people["validation"]) == 1
    everything = open_data("deepfashion", split="train", size=8, root=tmp_path, validation=0)
    assert len(everything) == 12 == len(data["train"]) + len(data["validation"])
    fashion(tmp_path, phases=("test",))
    (tmp_path / "fasion-resize-pairs-test.csv").write_text(f"from,to\n{NAMES[0]},{NAMES[1]}\n")
    monitored = open_data("deepfashion", split="validation", size=8, root=tmp_path, validation=0)
    assert len(monitored) == 1 and monitored.split == "validation"


def test_joint_rules(tmp_path):
    fashion(tmp_path, phases=("test",))
    (tmp_path / "fasion-resize-pairs-test.csv").unlink()
    torso = [(-1, -1), (-1, -1), (9, 9), (-1, -1), (-1, -1), (9, 9), (-1, -1), (-1, -1), (9, 9)]
    joints = {
        name: [*torso, (-1, -1), (-1, -1), (-1 if name == NAMES[5] else -20, 9)] for name in NAMES
    }
    joints |= {NAMES[0]: [], NAMES[1]: torso}
    annotation(tmp_path / "fasion-resize-annotation-test.csv", joints)
    counts = {
        rule: len(open_data("deepfashion", split="test", size=8, root=tmp_path, joint_rule=rule))
        for rule in ("none", "any", "torso")
    }
    assert counts == {"none": 12, "any": 8, "torso": 6}  # x = -20 is beside the crop, not missing


# --- IUV, masks, views --------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["cv2", "rgb"])
def test_maps_of_a_person(tmp_path, order):
    iuv_tree(tmp_path, order)
    options = dict(split="test", root=tmp_path, variant="crop176")
    item = open_data("deepfashion", size=(256, 176), **options)[0]
    _, part, uv = person("stand")
    assert torch.equal(item["source_part"], part[:, 40:216])
    assert (item["source_uv"] - uv[..., 40:216]).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(item["source_mask"][0], (item["source_part"] > 0).float())
    small = open_data("deepfashion", size=64, **options)[0]
    assert small["target_part"].dtype == torch.uint8 and small["target_uv"].shape == (2, 64, 64)
    exact = {(int(p), *u) for p, u in zip(*pairs_of(*person("walk")[1:]))}
    taken = {(int(p), *u) for p, u in zip(*pairs_of(small["target_part"], small["target_uv"]))}
    assert taken <= exact and len(taken) > 200  # whole old pixels, never a mean of two
    assert not small["target_uv"][:, small["target_part"] == 0].any()


def pairs_of(part, uv):
    """Labels of the body, and u, v as bytes."""
    body = part > 0
    return part[body].tolist(), (uv[:, body] * 255).round().int().T.tolist()


def test_mask_files_count_more_than_maps(tmp_path):
    iuv_tree(tmp_path)
    half = np.zeros((256, 256), np.uint8)
    half[:, 128:] = 255
    for name in NAMES:
        png(tmp_path / "test_masks" / name.replace(".jpg", ".png"), half)
    mask = open_data("deepfashion", split="test", size=64, root=tmp_path)[0]["source_mask"]
    assert mask.shape == (1, 64, 64) and mask[:, :, 32:].all() and not mask[:, :, :32].any()


def test_views_of_the_same_clothes(tmp_path):
    iuv_tree(tmp_path)
    data = open_data("deepfashion", split="test", size=32, root=tmp_path, views=5)
    item = data[7]  # of the second clothes
    levels = [gray({"view": view}, "view") for view in item["view_image"][:3]]
    assert levels == [gray(item), 4, gray(item, "target_image")] == [3, 4, 5]
    assert item["view_part"].shape == (5, 32, 32) and item["view_uv"].shape == (5, 2, 32, 32)
    assert torch.equal(item["view_part"][0], item["source_part"]) and item["view_part"][2].any()
    assert not item["view_part"][3:].any()


def test_views_need_maps(tmp_path):
    with pytest.raises(ValueError, match=r"views=2 needs IUV maps; IUV maps: run DensePose"):
        open_data("deepfashion", split="test", size=8, root=fashion(tmp_path), views=2)


# --- files that are not well --------------------------------------------------------------------


def test_missing_files_are_named_or_skipped(tmp_path):
    iuv_tree(tmp_path)
    first = tmp_path / "test_iuv" / NAMES[1].replace(".jpg", "_IUV.png")
    first.unlink()
    (tmp_path / "test_iuv" / NAMES[4].replace(".jpg", "_IUV.png")).unlink()
    with pytest.raises(FileNotFoundError) as error:
        open_data("deepfashion", split="test", size=8, root=tmp_path)
    message = str(error.value)
    assert message.startswith(f"{first}: no such file, nor for 1 more of 6 deepfashion test")
    assert "run DensePose" in message and "missing=skip" in message and "\n" not in message
    rest = open_data("deepfashion", split="test", size=8, root=tmp_path, missing="skip")
    assert len(rest) == 4 and {NAMES[1], NAMES[4]}.isdisjoint(
        n for i in range(4) for n in rest.names(i)
    )


def test_damaged_files_are_named(tmp_path):
    iuv_tree(tmp_path)
    data = open_data("deepfashion", split="test", size=8, root=tmp_path)
    picture = tmp_path / "test" / NAMES[0].replace(".jpg", ".png")
    whole = picture.read_bytes()
    picture.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match="1front.png is damaged or cut short"):
        data[0]
    picture.write_bytes(whole)
    png(
        tmp_path / "test_iuv" / NAMES[0].replace(".jpg", "_IUV.png"),
        np.full((256, 256, 3), 90, np.uint8),
    )
    with pytest.raises(ValueError, match=r"1front_IUV.png cannot be read either way"):
        data[0]
    with pytest.raises(IndexError, match="has 12 pairs, asked for 12"):
        data[12]


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("deepfashoin", {}, "got 'deepfashoin'; is it deepfashion?"),
        (
            "deepfashion",
            {"varaint": "full256"},
            "deepfashion has no option varaint; it has",
        ),
        ("deepfashion", {"variant": "crop"}, "variant must be one of full256, crop176, resize176"),
        (
            "deepfashion",
            {"split": "val"},
            "split must be one of train, validation, test, got",
        ),
        ("deepfashion", {"size": (8, 0)}, "size must be one or two positive integers"),
        ("deepfashion", {"views": -1}, "views must be an integer of at least 0, got -1"),
        ("deepfashion", {"root": None}, "deepfashion needs its folder: --data-root DIR"),
        ("deepfashion", {"root": "/nowhere"}, "/nowhere: no such folder; pictures: In-shop"),
        ("deepfashion", {}, "has none of train/, img/, img_highres/"),
        ("mvc", {}, "train: no such folder; pictures: the MVC data set"),
        ("folder", {}, "images: no such file or folder; a folder of your own has images/"),
        ("synthetic", {}, "synthetic people are drawn, not read: leave out --data-root"),
        ("models.data:nothing", {}, "data 'models.data:nothing' cannot be imported"),
        ("models.data:SPLITS", {}, "data 'models.data:SPLITS' must name a function, got tuple"),
    ],
)
def test_what_cannot_be_opened(tmp_path, name, options, message):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        open_data(name, **{"split": "train", "size": 8, "root": tmp_path, **options})
    assert message in str(error.value)


def opener(*, split, size, root, views, seed, answer=0):
    return (split, size, root, views, seed, answer)


def test_data_sets_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "my_people", sys.modules[__name__])
    given = dict(split="test", size=8, root=tmp_path, views=1, seed=2, answer=42)
    expected = ("test", (8, 8), str(tmp_path), 1, 2, 42)
    assert open_data("my_people:opener", **given) == expected
    monkeypatch.setattr(models_data, "_OPENERS", dict(models_data._OPENERS))
    models_data.register("mine", opener)
    assert open_data("mine", **given) == expected and "mine" in models_data.names()
    with pytest.raises(ValueError, match="name must be new and without a colon, got 'mine'"):
        models_data.register("mine", opener)
    assert models_data.read_options(["a=1", "b=0.5", "c=null", "d=x=y"]) == {
        **{"a": 1, "b": 0.5, "c": None, "d": "x=y"}
    }
