# SPDX-License-Identifier: Apache-2.0
"""The built-in person: exact IUV, injective charts, and a picture that is its atlas, shaded."""

import pytest
import torch

import pose_kernels as pk
from pose_kernels.people.person import POSES, SHADE_RANGE, Pose, render_person, true_atlas

SIDE = 128

# Per pose: parts that must be seen, and pairs (a, b) where much more is seen of a than of b.
FRONT = {2, 3, 4, 5, 6, 9, 10, 13, 14, 17, 18, 21, 22, 23, 24}
FACING = ((2, 1), (9, 7), (10, 8), (13, 11), (17, 15))
EXPECTED = {
    "stand": (FRONT, FACING),
    "walk": (FRONT - {4, 21} | {1, 7, 8, 16}, ((2, 1), (9, 7), (22, 19), (23, 24))),
    "wave": (FRONT | {16, 20}, FACING),
    "turned": (FRONT | {1, 7, 16}, ((2, 1), (18, 15), (23, 24))),
    "back": (
        {1, 3, 4, 5, 6, 7, 8, 11, 12, 15, 16, 19, 20, 23, 24},
        ((1, 2), (7, 9), (8, 10), (11, 13), (12, 14), (15, 17), (16, 18), (19, 21), (20, 22)),
    ),
    "lunge": (FRONT | {1}, FACING[:2]),
}


@pytest.fixture(scope="module")
def people():
    return {name: render_person(name, 0, SIDE) for name in POSES}


def gathered(atlas, person):
    return pk.reference.uv_gather(atlas[None], person.part[None].long(), person.uv[None])[0]


def psnr(a, b):
    return float(-10 * torch.log10((a - b).square().mean()))


def test_every_pose_has_an_expectation():
    assert set(EXPECTED) == set(POSES)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_types_and_ranges(people, name):
    image, part, uv = people[name]
    assert (image.shape, image.dtype) == ((3, SIDE, SIDE), torch.float32)
    assert (part.shape, part.dtype) == ((SIDE, SIDE), torch.uint8)
    assert (uv.shape, uv.dtype) == ((2, SIDE, SIDE), torch.float32)
    assert image.isfinite().all() and image.min() >= 0 and image.max() <= 1
    assert part.max() <= 24
    assert uv.isfinite().all() and uv.min() >= 0 and uv.max() <= 1
    assert not uv[:, part == 0].any()


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_parts_seen(people, name):
    part = people[name].part
    seen = set(part.unique().tolist()) - {0}
    required, dominant = EXPECTED[name]
    assert required <= seen
    for more, less in dominant:
        assert (part == more).sum() > 2 * (part == less).sum()
    # A whole person in the frame: tall, inside the borders, a plausible share of the picture.
    body = part > 0
    rows = body.any(1).nonzero()
    assert 0.75 * SIDE < rows.max() - rows.min() < SIDE
    assert not (body[0].any() or body[-1].any() or body[:, 0].any() or body[:, -1].any())
    assert 0.08 < body.float().mean() < 0.3


def test_frame_of_the_charts(people):
    """From outside, u grows to the right and v upward; a body's left is at the picture's right."""
    front, back = people["stand"], people["back"]
    for person, number in ((front, 2), (front, 9), (front, 10), (back, 1), (back, 7), (back, 8)):
        row, column = (person.part == number).nonzero().float().T
        u, v = person.uv[:, person.part == number]
        assert torch.corrcoef(torch.stack((u, column)))[0, 1] > 0.8
        assert torch.corrcoef(torch.stack((v, row)))[0, 1] < -0.95
    for left, right in ((4, 3), (5, 6), (10, 9), (14, 13), (17, 18), (21, 22), (24, 23)):
        column = [(front.part == p).nonzero()[:, 1].float().mean() for p in (left, right)]
        assert column[0] > column[1]


def repeated(part, uv, apart=4.0, near=0.03):
    """Pairs of pixels of one part more than `apart` pixels apart whose uv lie within `near`."""
    count = 0
    for number in part.unique().tolist():
        if number:
            place = (part == number).nonzero().float()
            coordinates = uv[:, part == number].T
            far = torch.cdist(place, place) > apart
            count += int((far & (torch.cdist(coordinates, coordinates) < near)).sum())
    return count


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_charts_are_injective(people, name):
    _, part, uv = people[name]
    assert repeated(part, uv) == 0
    folded = torch.stack(((uv[0] - 0.5).abs(), uv[1]))  # control: a chart folded in the middle
    assert repeated(part, folded) > 0


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_image_is_the_shaded_atlas(people, name):
    person = people[name]
    body = person.part > 0
    albedo = gathered(true_atlas(0), person)[:, body]
    shade = person.image[:, body] / albedo.clamp_min(1e-6)
    assert (shade.amax(0) - shade.amin(0)).max() < 1e-4  # gray: one factor for all channels
    assert shade.min() > SHADE_RANGE[0] - 1e-4
    assert shade.max() < SHADE_RANGE[1] + 1e-4
    assert shade.std() > 0.02  # and not a flat drawing


@pytest.mark.parametrize(
    ("source", "target", "shaded_db", "albedo_db", "share"),
    [
        ("stand", "wave", 24, 23, 0.5),
        ("walk", "turned", 24, 25, 0.45),
    ],
)
def test_texture_transfer(source, target, shaded_db, albedo_db, share):
    """Splat one pose, gather in another: right where all texels of a target pixel were seen."""
    a, b = (render_person(name, 0, 256) for name in (source, target))
    part, uv = a.part[None].long(), a.uv[None]
    atlas, weight = pk.uv_splat(a.image[None], part, uv, size=64)
    texture = true_atlas(0)
    plain, _ = pk.uv_splat(gathered(texture, a)[None], part, uv, size=64)
    covered = gathered((weight[0] > 1e-3).float()[:, None], b)[0] > 0.999
    assert covered.sum() > share * (b.part > 0).sum()
    assert psnr(gathered(atlas[0], b)[:, covered], b.image[:, covered]) > shaded_db
    assert psnr(gathered(plain[0], b)[:, covered], gathered(texture, b)[:, covered]) > albedo_db
    # Control: the texture of somebody else is no match.
    other = render_person(source, 1, 256)
    wrong, _ = pk.uv_splat(other.image[None], part, uv, size=64)
    assert psnr(gathered(wrong[0], b)[:, covered], b.image[:, covered]) < shaded_db - 6


def test_same_seed_same_person():
    first, again, other = (render_person("wave", seed, 64) for seed in (5, 5, 6))
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.part, again.part) and torch.equal(first.uv, again.uv)
    assert not torch.equal(first.part, other.part)  # somebody else has another body
    assert not torch.equal(first.image, other.image)
    assert torch.equal(true_atlas(5), true_atlas(5))
    true_atlas(5).zero_()  # a copy: nobody can spoil the cached one
    assert true_atlas(5).max() > 0.5


def test_sizes_and_custom_pose():
    image, part, uv = render_person(Pose(turn=90), 2, (96, 40))
    assert image.shape == (3, 96, 40) and part.shape == (96, 40) and uv.shape == (2, 96, 40)
    assert {16, 18, 23} <= set(part.unique().tolist())
    assert render_person("stand", 0, 1).image.shape == (3, 1, 1)


def test_bad_arguments():
    with pytest.raises(ValueError, match="pose must be one of stand, walk, .* got 'fly'"):
        render_person("fly")
    with pytest.raises(ValueError, match=r"size must be .* got 0"):
        render_person("stand", 0, 0)
    with pytest.raises(ValueError, match=r"size must be .* got \(64, 2.5\)"):
        render_person("stand", 0, (64, 2.5))
    with pytest.raises(ValueError, match="identity must be .* got -1"):
        render_person("stand", -1)
