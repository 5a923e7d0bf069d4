# SPDX-License-Identifier: Apache-2.0
"""Looks of the synthetic people: anybody's atlas is whole, the same again, and unlike the next;
patterns go on over the seams; backgrounds come from their generator alone."""

from dataclasses import replace

import numpy as np
import pytest

from pose_kernels.people import cloth, fabrics, face, prints, wardrobe
from pose_kernels.people.backdrop import paint_backdrop
from pose_kernels.people.body import chart_surface
from pose_kernels.people.cloth import PATTERNS, WHOLE, Fabric, dye
from pose_kernels.people.looks import Top
from pose_kernels.people.palette import Dice
from pose_kernels.people.prints import EMBLEMS, SIGNS, Print
from pose_kernels.people.tailoring import Canvas

COLORS = ((0.9, 0.85, 0.8), (0.1, 0.2, 0.5), (0.7, 0.2, 0.2), (0.2, 0.6, 0.3))
SIZE = 48
# Pairs of (back, front) tiles of one limb, parts - 1.
HALVES = ((0, 1), (6, 8), (7, 9), (10, 12), (11, 13), (14, 16), (15, 17), (18, 20), (19, 21))
HEIGHTS = {1: 0.0, 16: 0.466, 20: 0.181, 8: -0.025, 12: -0.455}  # of a tile's y = 0


def dyed(fabric, size=SIZE):
    atlas = np.empty((24, 3, size, size), np.float32)
    for name in ("torso", "upper_arms", "lower_arms", "upper_legs", "lower_legs"):
        canvas = Canvas(atlas, name)
        canvas.color[:] = dye(fabric, canvas)
    return atlas


def seams(atlas):
    """Greatest difference of color across each limb's two seams."""
    return max(
        np.abs(atlas[front, :, :, end] - atlas[back, :, :, -1 - end]).max()
        for back, front in HALVES
        for end in (0, -1)
    )


def test_atlas_is_whole_and_the_same_again():
    for seed in range(24):
        person = wardrobe.identity(seed)
        assert person == wardrobe.identity(seed)
        atlas = wardrobe.paint(person, 32)
        assert atlas.shape == (24, 3, 32, 32) and atlas.dtype == np.float32
        assert np.isfinite(atlas).all() and atlas.min() >= 0 and atlas.max() <= 1
        cloth.swatch.cache_clear()  # nothing that is kept between calls may matter
        assert np.array_equal(atlas, wardrobe.paint(person, 32))


def test_sizes_agree():
    """A larger atlas is the same picture, finer."""
    for seed in (0, 3, 8):
        person = wardrobe.identity(seed)
        small, large = wardrobe.paint(person, 33), wardrobe.paint(person, 129)
        coarse = large[:22, :, ::4, ::4]  # the same places
        assert np.abs(coarse - small[:22]).mean() < 0.03
    assert wardrobe.paint(wardrobe.identity(1), 2).shape == (24, 3, 2, 2)


def test_hundreds_of_different_people():
    people = [wardrobe.identity(seed) for seed in range(200)]
    means = np.stack([wardrobe.paint(person, 8).mean((2, 3)) for person in people])
    places = means[:, [0, 1, 8, 12, 16, 20, 4, 22]].reshape(200, -1)
    apart = np.abs(places[:, None] - places[None]).max(-1) + np.eye(200)
    assert (apart.min(1) > 0.06).sum() > 150  # somebody else is at least this far in some place
    looks = {(p.style, p.top.fabric.pattern, p.bottom.kind, p.shoes.kind) for p in people}
    assert len(looks) > 150


def test_everything_in_the_wardrobe_is_worn():
    people = [wardrobe.identity(seed) for seed in range(1, 3000)]
    fabrics_worn = {
        fabric.pattern
        for p in people
        for fabric in (p.top.fabric, p.bottom.fabric, p.jacket and p.jacket.fabric)
        if fabric
    }
    assert fabrics_worn == {*PATTERNS, *WHOLE}
    assert {p.style for p in people} == set(wardrobe.STYLES)
    assert {p.face.cut for p in people} == set(face.HAIRLINES)
    assert {print_.motif for p in people for print_ in p.top.prints} == {*EMBLEMS, "text"}
    assert {p.shoes.kind for p in people} == {"sneakers", "boots", "sandals", "loafers", "pumps"}
    assert {p.face.hat for p in people} == {"", "cap", "beanie", "band", "scarf"}
    worn = [p.extras for p in people]
    for name in ("tie", "bow_tie", "scarf", "watch", "bracelet", "necklace", "gloves", "nails"):
        share = np.mean([bool(getattr(extras, name)) for extras in worn])
        assert 0.005 < share < 0.5, name


def test_first_person_wears_stripes_light_against_dark():
    person = wardrobe.identity(0)
    assert person.top.fabric.pattern == "stripes"
    chest = wardrobe.paint(person, 128)[1, :, :, 64].mean(0)
    y, _ = chart_surface(2, 1 - np.linspace(0, 1, 128))
    chest = chest[(y > 0.08) & (y < 0.48)]
    light = chest > (chest.min() + chest.max()) / 2
    assert 10 <= np.abs(np.diff(light.astype(int))).sum() <= 14  # twelve edges of six stripes
    assert chest.max() - chest.min() > 0.3


@pytest.mark.parametrize("pattern", [*PATTERNS, *WHOLE])
def test_patterns_meet_at_the_seams(pattern):
    atlas = dyed(Fabric(pattern, COLORS, 0.11, 5))
    assert seams(atlas) < 1e-6
    # Arms and legs are one tube, cut at elbow and knee: the last row of one tile is the first row
    # of the next.
    for above, below in ((14, 18), (17, 21), (6, 10), (9, 13)):
        assert np.abs(atlas[above, :, -1] - atlas[below, :, 0]).max() < 0.25
        assert np.abs(atlas[above, :, -1] - atlas[below, :, 0]).mean() < 0.02
    if pattern not in WHOLE:
        assert atlas[:2].std() > 0.01  # control: there is something to see


def test_seams_of_dressed_people():
    """Also with folds and shade: the cloth at the sides of the torso is one."""
    measured = []
    for seed in range(40):
        atlas = wardrobe.paint(wardrobe.identity(seed), SIZE)
        y, _ = chart_surface(1, 1 - np.linspace(0, 1, SIZE))
        rows = (y > 0.14) & (y < 0.30)
        pairs = [(atlas[1, :, rows, end], atlas[0, :, rows, -1 - end]) for end in (0, -1)]
        measured.append(max(np.abs(a - b).max() for a, b in pairs))
    assert np.max(measured) < 0.02


@pytest.mark.parametrize("pattern", ["stripes", "breton", "triple"])
def test_stripes_are_equally_high_on_torso_sleeves_and_legs(pattern):
    atlas = dyed(Fabric(pattern, COLORS, 0.09), 128)
    y, _ = chart_surface(1, 1 - np.linspace(0, 1, 128))
    for part in (16, 20, 8):
        own, _ = chart_surface(part, 1 - np.linspace(0, 1, 128))
        height = own + HEIGHTS[part]
        inside = (height > y.min() + 0.02) & (height < y.max() - 0.02)
        assert inside.sum() > 20
        sleeve = atlas[part - 1, 0, inside, 40]
        for lift, alike in ((0.0, True), (0.03, False)):  # control: a third of a period off
            torso = np.interp(height[inside] + lift, y[::-1], atlas[0, 0, ::-1, 40])
            assert ((np.abs(torso - sleeve) < 0.25).mean() > 0.92) == alike


def test_prints_read_from_outside():
    """An L's upright is at its left, on the chest and on the back."""
    plain = Fabric("plain", ((1.0, 1.0, 1.0),))
    for back in (False, True):
        atlas = dyed(plain, 96)
        letter = Print("text", ((0.0, 0.0, 0.0),), 0.0, 0.33, 0.20, "L", back=back)
        prints.apply(letter, Canvas(atlas, "torso"))
        ink = 1 - atlas[0 if back else 1, 0]
        assert ink.max() > 0.9 and not (1 - atlas[1 if back else 0]).any()
        rows, columns = np.nonzero(ink > 0.5)
        high = rows < (rows.min() + rows.max()) / 2
        assert columns[high].mean() < columns.mean() - 2
        assert np.ptp(columns[~high]) > 2 * np.ptp(columns[high])


def test_every_sign_and_emblem_is_its_own():
    plain = Fabric("plain", ((1.0, 1.0, 1.0),))
    seen = {}
    motifs = [Print("text", ((0.0, 0.0, 0.0),), text=sign, height=0.3) for sign in SIGNS]
    motifs += [Print(name, COLORS[1:], height=0.3) for name in EMBLEMS]
    for motif in motifs:
        atlas = dyed(plain, 64)
        prints.apply(motif, Canvas(atlas, "torso"))
        ink = 1 - atlas[1]
        assert ink.max() > 0.5 and 0.001 < ink.mean() < 0.2, motif
        seen[motif.text or motif.motif] = ink
    names = [name for name in seen if name != "0"]  # drawn like the letter O
    for k, one in enumerate(names):
        for other in names[:k]:
            assert np.abs(seen[one] - seen[other]).max() > 0.3, (one, other)


def test_sleeves_and_hems_end_where_they_say():
    base = wardrobe.identity(0)
    skin = np.array(base.face.skin, np.float32)
    for sleeve in (0.03, 0.12, 0.40):
        person = replace(
            base, top=Top(base.top.fabric, sleeve), extras=replace(base.extras, watch=None)
        )
        atlas = wardrobe.paint(person, 96)
        for part in (16, 20):
            y, _ = chart_surface(part, 1 - np.linspace(0, 1, 96))
            down = 0.466 - (y + HEIGHTS[part])  # from the shoulder
            bare = (np.abs(atlas[part - 1] - skin[:, None, None]) < 0.02).all((0, 2))
            assert bare[down > sleeve + 0.03].all()
            assert not bare[(down < sleeve - 0.02) & (down > -0.05)].any()


def test_halves_of_a_face_mirror_each_other():
    for seed in range(12):
        person = wardrobe.identity(seed)
        atlas = wardrobe.paint(person, 32)
        same = np.array_equal(atlas[22], atlas[23, :, :, ::-1])
        assert same or person.face.cut == "parted"


def test_dice_are_those_of_every_machine():
    dice = Dice(7)
    assert [dice.below(1000) for _ in range(4)] == [323, 150, 650, 72]
    color = dice.cloth()
    for _ in range(20):
        other = dice.against(color, apart=0.2)
        assert sum(abs(a - b) for a, b in zip(color, other, strict=True)) > 0.1
    assert fabrics.fabric(Dice(3), only=("tartan",)).pattern == "tartan"


@pytest.mark.parametrize("kind", ["plain", "cluttered"])
def test_backdrops(kind):
    pictures = []
    for seed in range(30):
        picture = paint_backdrop(np.random.default_rng(seed), 32, 24, kind)
        assert picture.shape == (3, 32, 24) and picture.dtype == np.float32
        assert np.isfinite(picture).all() and picture.min() >= 0 and picture.max() <= 1
        assert np.array_equal(picture, paint_backdrop(np.random.default_rng(seed), 32, 24, kind))
        pictures.append(picture)
    pictures = np.stack(pictures)
    apart = np.abs(pictures[:, None] - pictures[None]).mean((2, 3, 4)) + np.eye(30)
    assert apart.min() > 0.005
    for size in ((1, 1), (1, 7), (9, 2), (20, 90)):
        for seed in range(10):
            assert paint_backdrop(np.random.default_rng(seed), *size, kind).shape == (3, *size)


def test_clutter_is_cluttered_and_walls_are_not():
    def busy(kind):
        drawn = [paint_backdrop(np.random.default_rng(k), 48, 48, kind) for k in range(20)]
        return np.median([np.abs(np.diff(picture)).mean() for picture in drawn])

    assert busy("cluttered") > 2 * busy("plain")


def test_bad_arguments():
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        wardrobe.identity(-1)
    with pytest.raises(ValueError, match="size must be at least 2 texels, got 1"):
        wardrobe.paint(wardrobe.identity(1), 1)
    with pytest.raises(ValueError, match="kind must be one of plain, cluttered, got 'forest'"):
        paint_backdrop(np.random.default_rng(0), 8, 8, "forest")
    with pytest.raises(ValueError, match="height and width must be at least 1, got 0 and 8"):
        paint_backdrop(np.random.default_rng(0), 0, 8, "plain")
