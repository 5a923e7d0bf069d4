# SPDX-License-Identifier: Apache-2.0
"""Pictures of a pair moved and mirrored with all that lies on them."""

import numpy as np
import pytest
import torch

from models.data import augment
from models.data.augment import Affine, Augmented, about_center, mirror, move_source, move_target

H, W = 24, 32
JOINTS19 = (
    "neck nose lsho lelb lwri lhip lkne lank rsho relb rwri rhip rkne rank leye lear reye rear pelv"
).split()


def pair(seed: int = 0) -> dict[str, torch.Tensor]:
    """Target = source shifted by (3, 2): pixel (x, y) of the target shows (x + 3, y + 2)."""
    random = torch.Generator().manual_seed(seed)
    source = torch.rand(3, H, W, generator=random) * 2 - 1
    x, y = torch.meshgrid(torch.arange(W), torch.arange(H), indexing="xy")
    seen = (x + 3 < W) & (y + 2 < H)
    target = torch.zeros(3, H, W)
    target[:, : H - 2, : W - 3] = source[:, 2:, 3:]
    part = ((x // 4 + y // 4 * 8) % 25).to(torch.uint8)
    uv = torch.stack((x / W, y / H)) * (part > 0)
    joints = torch.full((18, 2), -1.0)
    joints[:4] = torch.tensor([[10.0, 9], [4, 5], [31, 23], [20.5, 11]])
    item = {"identity": torch.tensor(7)}
    for side, image in (("source", source), ("target", target)):
        item |= {f"{side}_image": image, f"{side}_part": part, f"{side}_uv": uv}
        item |= {f"{side}_mask": (part > 0).float()[None], f"{side}_joints18": joints.clone()}
    item["flow"] = torch.tensor([3.0, 2.0])[:, None, None] * seen
    item["visibility"] = torch.where(seen, 0, 2).to(torch.uint8)
    item["view_image"] = torch.stack((source, target))
    item["view_part"], item["view_uv"] = torch.stack((part, part)), torch.stack((uv, uv))
    return item


def explained(item) -> torch.Tensor:
    """Where the target is what the flow fetches from the source, of the visible pixels."""
    x, y = torch.meshgrid(torch.arange(W), torch.arange(H), indexing="xy")
    at = (torch.stack((x, y)) + item["flow"]).round().long()
    fetched = item["source_image"][:, at[1].clamp(0, H - 1), at[0].clamp(0, W - 1)]
    visible = item["visibility"] == 0
    assert visible.sum() > 100
    return (fetched - item["target_image"]).abs().amax(0)[visible]


WHOLE = {
    "shift": Affine(np.eye(2), np.array([-4.0, 5.0])),
    "half turn": about_center((H, W), turn=180),
    "mirror": Affine(np.diag([-1.0, 1.0]), np.array([W - 1.0, 0.0])),
}


@pytest.mark.parametrize("move", [move_source, move_target])
@pytest.mark.parametrize("affine", WHOLE.values(), ids=WHOLE)
def test_moves_by_whole_pixels_are_exact(move, affine):
    item = pair()
    side = move.__name__[5:]
    out = move(item, affine)
    assert set(out) == set(item)
    assert explained(out).max() < 1e-6
    for y, x in ((9, 10), (5, 4), (12, 20)):
        (nx, ny) = np.rint(affine.matrix @ (x, y) + affine.shift).astype(int)
        assert torch.equal(out[f"{side}_image"][:, ny, nx], item[f"{side}_image"][:, y, x])
        assert out[f"{side}_part"][ny, nx] == item[f"{side}_part"][y, x]
        assert torch.equal(out[f"{side}_uv"][:, ny, nx], item[f"{side}_uv"][:, y, x])
    moved = affine.matrix @ (10, 9) + affine.shift
    assert out[f"{side}_joints18"][0].tolist() == pytest.approx(moved, abs=1e-5)
    assert (out[f"{side}_joints18"][4:] == -1).all()
    other = "target" if side == "source" else "source"
    assert torch.equal(out[f"{other}_image"], item[f"{other}_image"])
    if side == "source":
        assert torch.equal(out["view_image"][0], out["source_image"])
        assert torch.equal(out["view_part"][0], out["source_part"])
        assert torch.equal(out["view_image"][1], item["view_image"][1])


def test_what_leaves_the_picture():
    item = pair()
    affine = Affine(np.eye(2), np.array([-6.0, 0.0]))
    source, target = move_source(item, affine), move_target(item, affine)
    assert source["source_joints18"][:4].tolist() == [[4, 9], [-1, -1], [25, 23], [14.5, 11]]
    assert not source["source_part"][:, W - 6 :].any() and not source["source_mask"][..., -6:].any()
    border = item["source_image"][:, :, -1:].expand(3, H, 6)
    torch.testing.assert_close(source["source_image"][:, :, W - 6 :], border)
    # pixels that came from source columns 3..5 have no source any more
    assert (source["visibility"][: H - 2, :3] == 1).all()
    assert (source["visibility"] == 1).sum() == 3 * (H - 2)
    assert (target["visibility"][:, W - 9 :] == 2).all() and not target["flow"][:, :, W - 9 :].any()


def test_turned_and_scaled_flow_meets_its_point():
    """F' of any affine, at the points it was made from: target pixel p' shows source p + F(p)."""
    item = pair()
    affine = about_center((H, W), turn=17, scale=1.3, move=(1, -2))
    out = move_target(item, affine)
    points = affine.positions(H, W)
    x, y = np.meshgrid(np.arange(W), np.arange(H))
    found = out["flow"].numpy().transpose(1, 2, 0) + np.stack((x, y), -1)
    body = (out["visibility"] != 2).numpy()
    assert body.sum() > 300
    np.testing.assert_allclose(found[body], points[body] + (3, 2), atol=1e-4)
    back = affine.matrix @ points[5, 6] + affine.shift
    np.testing.assert_allclose(back, (6, 5), atol=1e-9)
    out = move_source(item, affine)
    body = (item["visibility"] == 0).numpy()
    expected = (np.stack((x, y), -1) + (3, 2)) @ affine.matrix.T + affine.shift
    found = out["flow"].numpy().transpose(1, 2, 0) + np.stack((x, y), -1)
    np.testing.assert_allclose(found[body], expected[body], atol=1e-4)
    z = torch.rand(19, 3) * 20
    moved = move_source({**item, "source_joints19": z}, affine)["source_joints19"]
    length = (z[3] - z[8]).norm()
    assert (moved[3] - moved[8]).norm() == pytest.approx(float(1.3 * length), rel=1e-4)


def test_mirror():
    item = pair()
    item["source_joints19"] = torch.arange(57.0).reshape(19, 3)
    with pytest.raises(ValueError, match=r"flip: source_uv, target_uv, view_uv cannot be mirrored"):
        mirror(item)
    out = mirror(item, "approximate")
    assert explained(out).max() == 0
    assert torch.equal(out["source_image"], item["source_image"].flip(-1))
    assert out["source_joints18"][[0, 1, 5, 6]].tolist() == [[21, 9], [27, 5], [0, 23], [10.5, 11]]
    assert (out["source_joints18"][[2, 3, 4]] == -1).all()
    part, was = out["target_part"].flip(-1), item["target_part"]
    for left, right in ((1, 1), (0, 0), (3, 4), (4, 3), (7, 8), (15, 16), (20, 19), (24, 23)):
        assert (part[was == left] == right).all() and (was == left).any()
    again = mirror(out, "approximate")
    for key, value in item.items():
        torch.testing.assert_close(again[key], value, rtol=0, atol=1e-6, msg=key)
    other = {"l": "r", "r": "l"}
    sided = {name: other[name[0]] + name[1:] for name in JOINTS19 if name[0] in other}
    assert [JOINTS19[i] for i in augment.FLIP19] == [sided.get(n, n) for n in JOINTS19]


class Pairs:
    name, split, size = "pairs", "train", (H, W)
    keys = frozenset(pair())

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return pair(index)

    def set_epoch(self, epoch):
        self.epoch = epoch


def test_augmented_data():
    data = Augmented(Pairs(), rotate=10, scale=0.1, shift=0.1, flip=0.5, charts="approximate")
    first = data[1]
    assert set(first) == data.keys and len(data) == 2
    assert torch.equal(data[1]["source_image"], first["source_image"])
    assert torch.equal(data[-1]["target_image"], first["target_image"])
    data.set_epoch(1)
    assert not torch.equal(data[1]["source_image"], first["source_image"])
    still = Augmented(Pairs())[0]
    assert all(torch.equal(still[key], value) for key, value in pair(0).items())
    mirrored = Augmented(Pairs(), flip=1, charts="approximate")[0]
    assert torch.equal(mirrored["flow"], mirror(pair(0), "approximate")["flow"])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rotate": 200}, "rotate must be in 0..180, got 200"),
        ({"flip": 1.5}, "flip must be in 0..1, got 1.5"),
        ({"flip": 0.5}, "cannot be mirrored exactly"),
        ({"flip": 0.5, "charts": "any"}, "charts must be refuse or approximate, got 'any'"),
    ],
)
def test_what_augmented_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        Augmented(Pairs(), **options)
