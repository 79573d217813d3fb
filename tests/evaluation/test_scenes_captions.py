"""The judge of captions: what the world says of its scenes is right, one wrong word is found, and no sentence is never right."""

import random
from dataclasses import replace
from itertools import permutations

import pytest

from tessera.data.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, Scene, Scenes, Thing, render
from tessera.data.scenes_language import NUMBERS, REGIONS, RELATIONS, VOCABULARY, relation_holds, reword
from tessera.evaluation.scenes_captions import (
    CaptionVerdict,
    clauses_of,
    judge_caption,
    parse_caption,
    reading_of,
    same_meaning,
    same_wording,
)
from tessera.evaluation.scenes_judge import SLACK, read_picture

COUNT = 400
DESCRIBED = [Scenes("held-out", seed=31).describe(index) for index in range(COUNT)]
SCENE = Scene("white", (Thing("circle", "red", "small", 0, 3), Thing("square", "blue", "large", 5, 3)))
LONE = Scene("gray", (Thing("ring", "orange", "large", 0, 5),))
ALIKE = Scene("black", (Thing("cross", "pink", "small", 0, 0), Thing("cross", "pink", "small", 5, 5)))


def test_every_caption_of_the_world_is_read_as_it_was_meant_and_right() -> None:
    for scene, caption in DESCRIBED:
        assert parse_caption(caption.text) == caption
        verdict = judge_caption(caption.text, scene)
        assert verdict.right, caption.text
        assert all(holds for _, holds in verdict.clauses)


def test_captions_are_judged_by_pictures_as_by_scenes() -> None:
    for scene, caption in DESCRIBED[:40]:
        picture = read_picture(render(scene))
        assert judge_caption(caption.text, picture).right
        other = DESCRIBED[40][1].text
        assert judge_caption(other, picture).right == judge_caption(other, scene).right


def swapped(text: str, words: list[str]) -> list[tuple[str, str, str]]:
    """(word, other word, the text with the other at one of its places) for each place and other word of one kind."""
    found = []
    for word in words:
        start = f" {text} ".find(f" {word} ")
        while start >= 0:
            for other in words:
                if other != word:
                    changed = f" {text} "[:start] + f" {other} " + f" {text} "[start + len(word) + 2 :]
                    found.append((word, other, changed.strip()))
            start = f" {text} ".find(f" {word} ", start + 1)
    return found


PLURALS = ["circles", "squares", "triangles", "stars", "rings", "crosses"]


@pytest.mark.parametrize(
    "words", [list(SHAPES), PLURALS, list(COLOURS), list(SIZES), list(BACKGROUNDS), list(NUMBERS.values()), list(REGIONS.values())],
    ids=["shape", "shapes", "colour", "size", "background", "number", "place"],
)  # fmt: skip
def test_one_word_changed_is_wrong(words: list[str]) -> None:
    """Things of a scene that are not alike differ in shape or colour, so that every such change contradicts it."""
    checked = 0
    for scene, caption in DESCRIBED:
        for _, other, changed in swapped(caption.text.replace(",", " ,"), words):
            # The article has to go with the colour, or the sentence would be none for that reason alone.
            changed = changed.replace("a orange", "an orange")
            if other != "orange":
                changed = changed.replace(f"an {other}", f"a {other}")
            if changed.startswith(("two picture", "three picture")):
                continue
            assert not judge_caption(changed, scene).right, changed
            checked += 1
    assert checked > 100


def test_a_relation_changed_is_wrong_unless_it_means_the_same_or_holds_too() -> None:
    kinds = {words: kind for kind, ways in RELATIONS.items() for words in ways}
    wrong = right = 0
    for scene, caption in DESCRIBED:
        for relation in caption.relations:
            ends = [caption.mentions[number] for number in (relation.first, relation.second)]
            first, second = (next(t for t in scene.things if (t.shape, t.colour) == (m.shape, m.colour)) for m in ends)
            for before, other, changed in swapped(caption.text, list(kinds)):
                if kinds[before] != relation.kind or f"to the {before}" in caption.text:
                    continue  # "left of" is a part of "to the left of"
                holds = relation_holds(kinds[other], first.centre, second.centre)
                assert judge_caption(changed, scene).right == holds, changed
                right, wrong = right + holds, wrong + (not holds)
    assert wrong > 100
    assert right > 50


def test_true_places_need_no_slack() -> None:
    for scene, _ in DESCRIBED:
        for a, b in permutations(scene.things, 2):
            for kind in RELATIONS:
                assert relation_holds(kind, a.centre, b.centre) == relation_holds(kind, a.centre, b.centre, SLACK)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", ".", "a", "red", "a circle", "red circle", "a red", "the red circle", "a red circle a blue square",
        "a small red circle above", "above a large blue square", "a red circle above a blue square on white background",
        "a red circle above a blue square on a white", "a red circle above a blue square on white white",
        "a red circle above above a blue square", "a red circle a red circle above a blue square", "a red circle, a blue square",
        "two red circle and a blue square", "a red circles and a blue square", "an red circle and a blue square",
        "a red circle and a blue square in the middle", "there is two red circles", "there are a red circle",
        "two red circles above a blue square", "a red small circle and a blue square", "a red circle and a blue square !",
        "a red circle and a blue square?", "a red-circle and a blue square", "1 red circle and a blue square",
        "a red circle\0 and a blue square",
        "a red circle above a blue square below a green star", "a picture of", "there is", "a white circle and a blue square",
        "a red circle and a blue square on red", "RED CIRCLE ABOVE BLUE SQUARE", "какой-то текст", "a réd circle and a blue square",
        "a red circle above a blue square.. ",
    ],
)  # fmt: skip
def test_what_is_no_sentence_is_not_understood_and_never_right(text: str) -> None:
    assert parse_caption(text) is None
    assert judge_caption(text, SCENE) == CaptionVerdict(None)
    assert not judge_caption(text, SCENE).right
    assert not same_meaning(text, text)


def test_words_of_the_language_in_any_order_are_rarely_sentences_and_never_wrongly_right() -> None:
    """A sentence of random order that is understood says what its words say: it is right only if it means a true caption."""
    rng = random.Random(5)
    understood = 0
    for scene, caption in DESCRIBED:
        words = caption.text.replace(",", " ,").split()
        rng.shuffle(words)
        verdict = judge_caption(" ".join(words), scene)
        understood += verdict.caption is not None
        assert not verdict.right or all(holds for _, holds in verdict.clauses)
    assert understood < COUNT / 4


@pytest.mark.parametrize(
    ("text", "scene"),
    [
        ("A small red circle over a big blue square.", SCENE),
        ("there are a red circle and a blue square", SCENE),
        ("a blue square under one red circle on a white background", SCENE),
        ("an image of a blue square and a little red circle", SCENE),
        ("a photo of a blue square , and a red circle on white", SCENE),
        ("a  red  circle on top of a\nblue square", SCENE),
        ("an orange ring at the upper right on a grey background", LONE),
        ("a big orange ring in the top right", LONE),
        ("two pink crosses", ALIKE),
        ("a pink cross and a pink cross", ALIKE),
        ("there are two little pink crosses on black", ALIKE),
    ],
)
def test_other_words_and_orders_mean_the_same(text: str, scene: Scene) -> None:
    assert judge_caption(text, scene).right


@pytest.mark.parametrize(
    ("text", "scene"),
    [
        ("a red circle", SCENE),  # what about the square?
        ("a red circle above a blue square and a green star", SCENE),
        ("a red circle and a red circle", SCENE),
        ("a blue square above a red circle", SCENE),
        ("a large red circle and a small blue square", SCENE),
        ("a pink cross", ALIKE),
        ("three pink crosses", ALIKE),
        ("a small pink cross and a large pink cross", ALIKE),
    ],
)
def test_too_little_too_much_and_exchanged_words_are_wrong(text: str, scene: Scene) -> None:
    verdict = judge_caption(text, scene)
    assert verdict.caption is not None
    assert not verdict.right


def test_each_clause_is_judged_by_itself() -> None:
    verdict = judge_caption("a large red circle above a blue square on a brown background", SCENE)
    # Where the things lie is not known as long as one of them is not there.
    assert {str(clause): holds for clause, holds in verdict.clauses} == {
        "a large red circle": False,
        "a blue square": True,
        "a large red circle above a blue square": False,
        "on a brown background": False,
    }
    placed = judge_caption("a red circle in the bottom left on gray", LONE)
    assert [holds for _, holds in placed.clauses] == [False, False, True]


def test_all_things_clauses_hold_exactly_when_the_judge_finds_the_things() -> None:
    """Of any caption about any scene, where it names as many things as there are."""
    agreed = {True: 0, False: 0}
    for scene, _ in DESCRIBED[:60]:
        for _, caption in DESCRIBED[:60]:
            verdict = judge_caption(caption.text, scene)
            if sum(mention.count for mention in caption.mentions) == len(scene.things):
                of_things = [holds for clause, holds in verdict.clauses if clause.relation is None and clause.mentions]
                assert verdict.verdict is not None
                assert verdict.verdict.things == all(of_things)
                agreed[all(of_things)] += 1
    assert min(agreed.values()) >= 20


def test_meaning_is_kept_by_other_wordings_and_lost_by_other_facts() -> None:
    rng = random.Random(2)
    for index, (_, caption) in enumerate(DESCRIBED):
        again = reword(caption, rng)
        assert same_meaning(caption.text, again), (caption.text, again)
        assert not same_wording(caption.text, again)
        different = DESCRIBED[index - 1][1]
        if set(clauses_of(different)) != set(clauses_of(caption)):
            assert not same_meaning(caption.text, different.text)
        if caption.background is not None:
            assert not same_meaning(caption.text, caption.text.rpartition(" on ")[0])


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("a red circle above a blue square", "a blue square below a red circle", True),
        ("a red circle above a blue square", "there is a blue square beneath a red circle", True),
        ("a red circle above a blue square", "a red circle below a blue square", False),
        ("a red circle above a blue square", "a red circle and a blue square", False),
        ("a red circle to the left of a blue square", "a blue square right of a red circle", True),
        ("a red circle, a blue square and a green star", "a green star, a red circle and a blue square", True),
        ("two red circles", "a red circle and a red circle", True),
        ("two red circles", "three red circles", False),
        ("two small red circles", "two red circles", False),
        ("a red circle on white", "a picture of a red circle on a white background", True),
        ("a red circle in the middle", "a red circle on the left", False),
    ],
)
def test_meaning(first: str, second: str, same: bool) -> None:
    assert same_meaning(first, second) == same_meaning(second, first) == same


def test_wording_ignores_case_and_spacing_only() -> None:
    assert same_wording("A red circle , on white", "a red  circle, on white")
    assert not same_wording("a red circle above a blue square", "a red circle over a blue square")


def test_every_word_of_the_language_can_be_read() -> None:
    said = {word for _, caption in DESCRIBED for word in caption.text.replace(",", " ,").split()}
    assert said <= set(VOCABULARY)


def test_an_unclean_picture_shows_no_caption_right() -> None:
    reading = reading_of(SCENE)
    assert judge_caption("a red circle above a blue square", reading).right
    assert not judge_caption("a red circle above a blue square", replace(reading, clean=False)).right
