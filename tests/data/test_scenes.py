"""The scenes world: reproducible, split without leaks, and captions that tell the truth."""

import random

import numpy as np
import pytest

from tessera.contexts.words import split_words
from tessera.data.scenes import BACKGROUNDS, LATTICE, PICTURE, SHAPES, SIZES, Scenes, draw_scene, is_held_out, mask, render
from tessera.data.scenes_language import RELATIONS, VOCABULARY, region_of, relation_holds
from tessera.errors import UsageError
from tessera.evaluation.scenes_captions import same_meaning, same_wording


def test_the_same_index_is_the_same_example_in_any_order() -> None:
    first, second = Scenes(seed=3), Scenes(seed=3)
    second.example(9, 0)
    a, b = first.example(5, 1), second.example(5, 1)
    assert a.prompt == b.prompt
    assert (a.image == b.image).all()
    pictures, captions = first.batch([4, 5], 1)
    assert captions[1] == a.prompt
    assert (pictures[1] == a.image).all()


def test_another_seed_is_another_world_and_another_caption_the_same_scene() -> None:
    scenes = Scenes(seed=3)
    assert Scenes(seed=4).describe(5)[0] != scenes.describe(5)[0]
    captions = {scenes.describe(5, seed)[1].text for seed in range(20)}
    assert len(captions) > 1
    assert len({scenes.describe(5, seed)[0] for seed in range(20)}) == 1


@pytest.mark.parametrize(("split", "held_out"), [("train", False), ("held-out", True)])
def test_held_out_combinations_never_occur_in_training(split: str, held_out: bool) -> None:
    scenes = Scenes(split, seed=0)
    assert {is_held_out(scenes.describe(index)[0]) for index in range(400)} == {held_out}


def test_about_a_tenth_of_the_world_is_held_out() -> None:
    rng = random.Random(0)
    share = np.mean([is_held_out(draw_scene(rng)) for _ in range(4000)])
    assert 0.08 < share < 0.12


def test_things_lie_a_cell_apart_inside_the_picture() -> None:
    rng = random.Random(1)
    for _ in range(500):
        taken = np.zeros((PICTURE // LATTICE,) * 2, int)
        for thing in draw_scene(rng).things:
            assert thing.row >= 0
            assert thing.column >= 0
            assert max(thing.row, thing.column) + thing.cells <= len(taken)
            around = taken[
                max(thing.row - 1, 0) : thing.row + thing.cells + 1, max(thing.column - 1, 0) : thing.column + thing.cells + 1
            ]  # the box and one cell around it
            assert not around.any()
            taken[thing.row : thing.row + thing.cells, thing.column : thing.column + thing.cells] = 1


def test_captions_state_facts_of_their_scene_in_known_words() -> None:
    scenes = Scenes("held-out", seed=2)
    for index in range(500):
        scene, caption = scenes.describe(index, index)
        assert set(caption.text.replace(",", " ,").split()) <= set(VOCABULARY)
        assert sum(mention.count for mention in caption.mentions) == len(scene.things)
        for mention in caption.mentions:
            fitting = [t for t in scene.things if (t.shape, t.colour) == (mention.shape, mention.colour) and mention.size in (None, t.size)]
            assert len(fitting) >= mention.count
        for relation in caption.relations:
            first, second = (caption.mentions[i] for i in (relation.first, relation.second))
            centres = [
                next(t.centre for t in scene.things if (t.shape, t.colour) == (mention.shape, mention.colour))
                for mention in (first, second)
            ]
            assert relation_holds(relation.kind, centres[0], centres[1])
        assert caption.background in (None, scene.background)
        if caption.region is not None:
            assert region_of(scene.things[0].centre, PICTURE) == caption.region


def test_at_most_one_relation_holds_and_turning_round_gives_its_opposite() -> None:
    opposite = {"above": "below", "below": "above", "left": "right", "right": "left"}
    rng = random.Random(0)
    for _ in range(300):
        first, second = (rng.random() * 64, rng.random() * 64), (rng.random() * 64, rng.random() * 64)
        holding = [kind for kind in RELATIONS if relation_holds(kind, first, second)]
        assert len(holding) <= 1
        assert [opposite[kind] for kind in holding] == [kind for kind in RELATIONS if relation_holds(kind, second, first)]


def test_shapes_differ_and_fill_their_box() -> None:
    for size, cells in SIZES.items():
        masks = [mask(shape, size) for shape in SHAPES]
        for i, one in enumerate(masks):
            assert one.shape == (cells * LATTICE,) * 2
            assert 0.2 < one.mean() < 0.85
            assert all(np.abs(one - other).sum() > 0.15 * one.sum() for other in masks[i + 1 :])


def test_a_flat_cell_is_exactly_its_background() -> None:
    scene = Scenes(seed=0).describe(0)[0]
    corner_free = all(thing.row > 0 or thing.column > 0 for thing in scene.things)
    cell = render(scene)[:, :LATTICE, :LATTICE] if corner_free else render(scene)[:, -LATTICE:, -LATTICE:]
    assert {tuple(pixel) for pixel in cell.reshape(3, -1).T} == {BACKGROUNDS[scene.background]}


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UsageError, match="held-out"):
        Scenes("test")


def test_other_words_state_the_same_facts() -> None:
    scenes = Scenes("held-out", seed=1)
    indices = range(80)
    captions, others = scenes.batch(indices, 3)[1], scenes.reworded(indices, 3)
    assert others == scenes.reworded(indices, 3) != scenes.reworded(indices, 4)
    assert all(same_meaning(caption, other) for caption, other in zip(captions, others, strict=True))
    assert not any(same_wording(caption, other) for caption, other in zip(captions, others, strict=True))
    assert {word for text in others for word in split_words(text)} <= set(VOCABULARY)
