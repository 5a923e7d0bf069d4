# SPDX-License-Identifier: Apache-2.0
"""Pairs of synthetic people: what is in an item, and that it depends on nothing but its number."""

import json
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import pose_kernels as pk
from models.data.synthetic import SPLITS, SyntheticPairs, atlas_side

SHAPES = {
    "image": ((3, 48, 40), torch.float32),
    "part": ((48, 40), torch.uint8),
    "uv": ((2, 48, 40), torch.float32),
    "joints18": ((18, 2), torch.float32),
    "joints19": ((19, 3), torch.float32),
    "mask": ((1, 48, 40), torch.float32),
}
ROOT = Path(__file__).resolve().parents[1]
PAINTED = OrderedDict()


def pairs(split="train", **options):
    options = {"length": 6, "views": 3, "people": 4, "background": "plain", **options}
    found = SyntheticPairs(split, (48, 40), **options)
    found._atlases = PAINTED  # the same for all, or the tests would mostly paint
    return found


@pytest.fixture(scope="module")
def data():
    return pairs()


@pytest.fixture(scope="module")
def items(data):
    return [data[n] for n in range(6)]


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) for key, value in one.items()
    )


def test_items(data, items):
    expected = {f"{w}_{k}": v for w in ("source", "target") for k, v in SHAPES.items()}
    expected |= {f"view_{k}": ((3, *SHAPES[k][0]), SHAPES[k][1]) for k in ("image", "part", "uv")}
    expected |= {"flow": ((2, 48, 40), torch.float32), "visibility": ((48, 40), torch.uint8)}
    expected |= {"identity": ((), torch.int64)}
    assert data.keys == set(expected) and (data.name, data.split) == ("synthetic", "train")
    assert data.size == (48, 40) and len(data) == 6
    for item in items:
        assert {k: (tuple(v.shape), v.dtype) for k, v in item.items()} == expected
        for key, value in item.items():
            assert value.isfinite().all(), key
        for who in ("source", "target"):
            image, part, uv, mask = (item[f"{who}_{k}"] for k in ("image", "part", "uv", "mask"))
            assert image.min() >= -1 and image.max() <= 1 and image.std() > 0.05
            assert torch.equal(mask[0], (part > 0).float()) and 0.03 < mask.mean() < 0.8
            assert part.max() <= 24 and not uv[:, part == 0].any()
            assert uv.min() >= 0 and uv.max() <= 1
        assert torch.equal(item["visibility"] == 2, item["target_part"] == 0)
        assert not item["flow"][:, item["visibility"] == 2].any()
        for key in ("image", "part", "uv"):
            assert torch.equal(item[f"view_{key}"][0], item[f"source_{key}"])
        assert not torch.equal(item["view_image"][1], item["view_image"][2])
    bare = pairs(views=0, flow=False)
    assert bare.keys == {k for k in expected if k.startswith(("source", "target", "identity"))}
    assert bare[0].keys() == bare.keys


def test_flow_leads_to_the_same_place_of_the_surface(items):
    checked = 0
    for item in items:
        flow, part = item["flow"][None], item["target_part"].long()
        onehot = torch.nn.functional.one_hot(item["source_part"].long(), 25).movedim(-1, 0)
        whole = pk.flow_warp(onehot[None].float(), flow)[0].gather(0, part[None])[0] > 0.999
        seen = whole & (item["visibility"] == 0)
        uv = pk.flow_warp(item["source_uv"][None], flow)[0]
        wrong = (uv - item["target_uv"]).abs().amax(0)[seen]
        checked += len(wrong)
        assert (wrong > 0.08).sum() <= 0.05 * len(wrong)
    assert checked > 200


def test_pictures_are_the_atlas_in_the_light(data, items):
    """Inside of the body, color over atlas is about gray and varies slowly."""
    for item in items:
        part, uv = item["source_part"][None], item["source_uv"][None]
        atlas = data.atlas(int(item["identity"]))
        albedo = pk.uv_gather(atlas[None], part, uv)[0]
        image = (item["source_image"] + 1) / 2
        inside = torch.nn.functional.avg_pool2d(item["source_mask"], 3, 1, 1)[0] > 0.999
        error = (image - albedo)[:, inside].abs().mean()
        other = data.atlas((int(item["identity"]) + 3) % 12)
        control = (image - pk.uv_gather(other[None], part, uv)[0])[:, inside].abs().mean()
        assert error < 0.16 and error < control


def test_joints(items):
    """The 18 are the 19 in OpenPose's order where they are there; z is centered, away."""
    order = [1, 0, 8, 9, 10, 2, 3, 4, 11, 12, 13, 5, 6, 7, 16, 14, 17, 15]
    there = 0
    for item in items:
        for who in ("source", "target"):
            flat, deep = item[f"{who}_joints18"], item[f"{who}_joints19"]
            known = (flat != -1).any(1)
            assert torch.equal(flat[known], deep[order][known, :2])
            assert (flat[known] > -0.51).all() and (
                flat[known] < torch.tensor([39.51, 47.51])
            ).all()
            gone = deep[order][~known][:, :2]
            outside = (gone < -0.5).any(1) | (gone > torch.tensor([39.5, 47.5])).any(1)
            face = torch.tensor([n in (0, 14, 15, 16, 17) for n in range(18)])[~known]
            assert (outside | face).all()
            assert deep[:, 2].min() + deep[:, 2].max() == pytest.approx(48, abs=1e-3)
            there += int(known.sum())
    assert there > 100


def test_an_item_depends_on_its_number_alone(items):
    again = pairs()
    assert all(same(again[n], items[n]) for n in (5, 2, 0))
    assert same(again[-1], items[5])
    loader = DataLoader(pairs(), batch_size=3, num_workers=2)
    for start, batch in zip((0, 3), loader):
        expected = torch.utils.data.default_collate(items[start : start + 3])
        assert same(batch, expected)
    # In a process of its own, where nothing is painted yet.
    code = (
        "import json\nfrom models.data.synthetic import SyntheticPairs as S\n"
        "d = S('train', (48, 40), length=6, views=3, people=4, background='plain')\n"
        "print(json.dumps([float(v.double().sum()) for v in d[1].values()]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [float(v.double().sum()) for v in items[1].values()]


def test_epochs_seeds_and_splits_differ(items):
    data = pairs()
    data.set_epoch(1)
    assert not same(data[0], items[0])
    data.set_epoch(0)
    assert same(data[0], items[0])
    assert not same(pairs(seed=1)[0], items[0])
    people = {}
    for split in SPLITS:
        own = pairs(split, length=8, flow=False, views=0, people=2)
        people[split] = {int(own[n]["identity"]) for n in range(8)}
        assert len(people[split]) == 2
    assert not people["train"] & people["validation"] and not people["train"] & people["test"]
    assert not people["validation"] & people["test"]


def test_workers_see_the_epoch_begin(items):
    """Also those that outlive an epoch."""
    data = pairs(length=2, views=0, flow=False)
    loader = DataLoader(data, num_workers=1, persistent_workers=True)
    first = [batch["source_image"] for batch in loader]
    data.set_epoch(3)
    second = [batch["source_image"] for batch in loader]
    assert not torch.equal(first[0], second[0])
    assert torch.equal(second[0][0], data[0]["source_image"])


def test_backgrounds():
    plain, cluttered = (
        torch.stack([pairs(background=kind)[n]["source_image"] for n in range(3)])
        for kind in ("plain", "cluttered")
    )
    part = torch.stack([pairs()[n]["source_part"] for n in range(3)])
    wall = (torch.nn.functional.max_pool2d(part.float()[:, None], 3, 1, 1) == 0).expand_as(plain)
    steps = [(image[..., 1:] - image[..., :-1])[wall[..., 1:] & wall[..., :-1]].abs().mean()
             for image in (plain, cluttered)]  # fmt: skip
    assert steps[1] > 2 * steps[0]


def test_atlas_sides():
    sides = [atlas_side(height) for height in (16, 64, 65, 256, 512, 2000)]
    assert sides == [32, 32, 64, 128, 256, 256]
    assert pairs().atlas(5).shape == (24, 3, 32, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "split must be one of train, validation, test, got 'dev'"),
        ({"size": (8, 64)}, r"size must be \(H, W\), integers of at least 16, got \(8, 64\)"),
        ({"size": (64.0, 64)}, r"size must be \(H, W\), integers of at least 16, got"),
        ({"background": "blue"}, "background must be one of studio, .*, got 'blue'"),
        ({"length": -1}, "length must be an integer of at least 0, got -1"),
        ({"views": 1.5}, "views must be an integer of at least 0, got 1.5"),
        ({"people": 0}, "people must be an integer of at least 1, got 0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        SyntheticPairs(**{"split": "train", **options})


def test_no_such_item():
    with pytest.raises(IndexError, match="index 6 of 6 pairs"):
        pairs()[6]
