"""Variations of scenes: what counts as the same scene."""

from dataclasses import replace

import pytest

from tessera.data.scenes import Scene, Thing, render
from tessera.evaluation.scenes_judge import read_picture
from tessera.evaluation.scenes_variations import Kept, compare

SCENE = Scene("white", (Thing("circle", "red", "small", 0, 0), Thing("star", "blue", "large", 4, 4)))


def kept(drawn: Scene) -> Kept:
    return compare(read_picture(render(drawn)), SCENE)


def test_a_scene_is_the_same_wherever_its_things_lie():
    moved = Scene("white", (Thing("star", "blue", "large", 0, 4), Thing("circle", "red", "small", 6, 0)))
    assert kept(SCENE) == kept(moved) == Kept(True, True, True)
    assert kept(SCENE).same


@pytest.mark.parametrize("change", [{"shape": "ring"}, {"colour": "green"}, {"size": "large"}])
def test_another_thing_is_another_scene(change):
    first, second = SCENE.things
    assert kept(Scene("white", (replace(first, **change), second))) == Kept(False, True, True)


def test_a_missing_a_further_and_an_exchanged_thing_are_another_scene():
    first, second = SCENE.things
    assert not kept(Scene("white", (first,))).same
    assert not kept(Scene("white", (first, second, Thing("circle", "red", "small", 0, 5)))).same
    exchanged = Scene("white", (replace(first, colour="blue"), replace(second, colour="red")))
    assert not kept(exchanged).things


def test_another_background_and_damage_are_another_scene():
    assert kept(Scene("brown", SCENE.things)) == Kept(True, False, True)
    damaged = render(SCENE)
    damaged[:, 50:54, 4:8] = 0
    assert not compare(read_picture(damaged), SCENE).same
