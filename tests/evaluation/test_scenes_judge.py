"""The judge: right on true pictures, and strict on damaged ones."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from tessera.data.scenes import COLOURS, LATTICE, Scenes, render
from tessera.data.scenes_language import Caption, Mention, Relation
from tessera.evaluation.scenes_judge import judge, judge_pictures, read_picture

COUNT = 150
_described = [Scenes("held-out", seed=77).describe(index) for index in range(COUNT)]
PICTURES = np.stack([render(scene) for scene, _ in _described])
CAPTIONS = [caption for _, caption in _described]


def share_right(damage: Callable[[np.ndarray, int], np.ndarray]) -> float:
    damaged = np.stack([damage(picture, index) for index, picture in enumerate(PICTURES)])
    return float(np.mean([verdict.right for verdict in judge_pictures(damaged, CAPTIONS)]))


def test_true_pictures_are_right() -> None:
    assert share_right(lambda picture, index: picture) >= 0.995


def test_reading_names_every_thing_and_its_place() -> None:
    for (scene, _), picture in zip(_described[:40], PICTURES, strict=False):
        reading = read_picture(picture)
        assert reading.background == scene.background
        seen = sorted((thing.shape, thing.colour, thing.size) for thing in reading.things)
        assert seen == sorted((thing.shape, thing.colour, thing.size) for thing in scene.things)
        centres = sorted(thing.centre for thing in reading.things)
        assert np.allclose(centres, sorted(thing.centre for thing in scene.things), atol=1.5)


def test_slight_noise_is_forgiven() -> None:
    def noise(picture: np.ndarray, index: int) -> np.ndarray:
        return (picture + np.random.default_rng(index).normal(0, 4, picture.shape)).clip(0, 255).astype(np.uint8)

    assert share_right(noise) >= 0.97


def blur(picture: np.ndarray, index: int) -> np.ndarray:
    return ndimage.gaussian_filter(picture.astype(float), (0, 1, 1)).clip(0, 255).astype(np.uint8)


def shear(picture: np.ndarray, index: int) -> np.ndarray:
    rows = [np.roll(picture[:, y], round(2 * (y % 24) / 24), axis=1) for y in range(picture.shape[1])]
    return np.stack(rows, axis=1)


def specks(picture: np.ndarray, index: int) -> np.ndarray:
    rng, damaged = np.random.default_rng(index), picture.copy()
    for _ in range(12):
        y, x = rng.integers(0, 61, 2)
        damaged[:, y : y + 3, x : x + 3] = np.array(list(COLOURS.values())[rng.integers(8)])[:, None, None]
    return damaged


def foreign_token(picture: np.ndarray, index: int) -> np.ndarray:
    """One cell of a thing comes from a thing of another picture."""
    rng, damaged = np.random.default_rng(index), picture.copy()
    other = (index + 11) % COUNT
    (here, there) = (_described[i][0].things[0] for i in (index, other))
    y, x = ((start + rng.integers(here.cells)) * LATTICE for start in (here.row, here.column))
    v, u = ((start + rng.integers(there.cells)) * LATTICE for start in (there.row, there.column))
    damaged[:, y : y + LATTICE, x : x + LATTICE] = PICTURES[other][:, v : v + LATTICE, u : u + LATTICE]
    return damaged


def missing_thing(picture: np.ndarray, index: int) -> np.ndarray:
    damaged, thing = picture.copy(), _described[index][0].things[0]
    y, x, side = thing.row * LATTICE, thing.column * LATTICE, thing.cells * LATTICE
    empty = np.median(picture.reshape(3, -1), axis=1).astype(np.uint8)
    damaged[:, y : y + side, x : x + side] = empty[:, None, None]
    return damaged


@pytest.mark.parametrize("damage", [blur, shear, specks, foreign_token, missing_thing])
def test_damage_is_seen(damage: Callable[[np.ndarray, int], np.ndarray]) -> None:
    assert share_right(damage) <= 0.05


def test_the_picture_of_another_caption_is_wrong() -> None:
    moved = np.roll(PICTURES, 1, axis=0)
    assert np.mean([verdict.right for verdict in judge_pictures(moved, CAPTIONS)]) <= 0.02


@pytest.mark.parametrize("picture", [np.zeros((3, 64, 64), np.uint8), np.random.default_rng(0).integers(0, 256, (3, 64, 64), np.uint8)])
def test_an_empty_or_random_picture_is_wrong(picture: np.ndarray) -> None:
    assert not any(judge(read_picture(picture), caption).right for caption in CAPTIONS[:20])


def test_each_clause_is_judged_by_itself() -> None:
    index = next(i for i, caption in enumerate(CAPTIONS) if caption.relations and caption.background and len(caption.mentions) == 2)
    reading, caption = read_picture(PICTURES[index]), CAPTIONS[index]
    first, second = caption.mentions
    turned = Caption(caption.text, (first, second), (Relation(1, caption.relations[0].kind, 0),), None, caption.background)
    assert judge(reading, turned).relation is False
    assert judge(reading, turned).things
    assert not judge(reading, turned).right
    elsewhere = Caption(caption.text, (first, second), background=next(b for b in ("white", "black") if b != caption.background))
    assert judge(reading, elsewhere).background is False
    more = Caption(caption.text, (first, Mention(second.shape, second.colour, second.size, count=2)), caption.relations)
    assert not judge(reading, more).things
    assert judge(reading, more).relation is None
