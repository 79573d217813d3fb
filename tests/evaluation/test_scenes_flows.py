"""The four kinds of flow on held-out scenes: what is made perfectly is all right, and what is not is not."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from tessera.data.scenes_language import reword
from tessera.errors import UsageError
from tessera.evaluation.scenes_flows import FLOW_MEASURES, HELD_OUT_SEED, Make, Shown, evaluate_flow, held_out

PICTURES, WORDS = ("text_to_image", "image_to_image"), ("image_to_text", "text_to_text")


def perfect(flow: str) -> Make:
    return lambda given, seed: [one.picture if flow in PICTURES else one.caption.text for one in given]


def of_the_next(flow: str) -> Make:
    """What was made of another scene."""
    return lambda given, seed: perfect(flow)([*given[1:], given[0]], seed)


@pytest.mark.parametrize("flow", FLOW_MEASURES)
def test_what_is_right_and_what_is_of_another_scene(flow: str) -> None:
    headline = FLOW_MEASURES[flow].headline
    right, judged = evaluate_flow(flow, perfect(flow), count=30, batch=20)
    assert getattr(right, headline) >= 0.95
    assert right.count == 30
    assert [one.index for one, _, _ in judged] == list(range(30))
    wrong, _ = evaluate_flow(flow, of_the_next(flow), count=30)
    assert getattr(wrong, headline) <= 0.1
    assert wrong.standard_error == pytest.approx((getattr(wrong, headline) * (1 - getattr(wrong, headline)) / 30) ** 0.5)


def test_batches_have_seeds_of_their_own_and_progress_is_told() -> None:
    asked: list[tuple[int, int]] = []
    told: list[tuple[int, int]] = []

    def make(given: Sequence[Shown], seed: int) -> list[Any]:
        asked.append((len(given), seed))
        return [Image.new("RGB", (64, 64), "white") for _ in given]

    shares, _ = evaluate_flow("text_to_image", make, 45, seed=7, batch=20, progress=lambda done, total: told.append((done, total)))
    assert asked == [(20, 7), (20, 8), (5, 9)]
    assert told == [(20, 45), (40, 45), (45, 45)]
    assert shares.right == shares.things == 0
    assert shares.as_dict()["relation"] is None  # no picture has the things that could be related


def test_nonsense_is_neither_understood_nor_right() -> None:
    captions, judged = evaluate_flow("image_to_text", lambda given, seed: ["red red circle a"] * len(given), 12)
    assert (captions.right, captions.understood, captions.things) == (0, 0, 0)
    assert captions.as_dict()["clauses"] is None
    assert judged[0][2].as_dict() == {"right": False, "understood": False, "clauses": {}}
    rewrites, _ = evaluate_flow("text_to_text", lambda given, seed: [""] * len(given), 12)
    assert (rewrites.same, rewrites.both, rewrites.understood, rewrites.clauses, rewrites.differs) == (0, 0, 0, 0, 1)


def test_rewrites_count_other_words_and_lost_clauses() -> None:
    given = held_out(40)
    copied, _ = evaluate_flow("text_to_text", lambda part, seed: [one.caption.text for one in part], 40)
    assert (copied.same, copied.differs, copied.both) == (1, 0, 0)
    rng = random.Random(1)
    other, _ = evaluate_flow("text_to_text", lambda part, seed: [reword(one.caption, rng) for one in part], 40)
    assert (other.same, other.differs, other.both) == (1, 1, 1)
    lost, _ = evaluate_flow(
        "text_to_text", lambda part, seed: [one.caption.text.rpartition(" on ")[0] or one.caption.text for one in part], 40
    )
    stated = sum(one.caption.background is not None for one in given) / 40
    assert 1 - stated <= lost.same < 1
    assert lost.same < lost.clauses < 1


def test_scenes_are_those_that_every_model_is_measured_on() -> None:
    assert HELD_OUT_SEED == 1000
    assert held_out(3)[1].caption.text == held_out(2)[1].caption.text
    with pytest.raises(UsageError, match="at least 1"):
        held_out(0)
