"""The small CLIP: its loss, its wrong captions, and a tiny overfit through a whole run."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tessera.contexts.two_towers import TwoTowers
from tessera.data.scenes import Scenes
from tessera.data.scenes_language import VOCABULARY
from tessera.errors import UsageError
from tessera.part_folder import load_part
from tessera.registry import CONTEXTS
from tessera.training.clip import contrastive_loss, disturbed, retrieval
from tessera.training.recipe_files import load_recipe
from tessera.training.run import make_task, train
from tessera.training.task import to_picture
from tests.training.tiny import COMMON, metrics, write

GROUPS = [["red", "green", "blue"], ["circle", "square"], ["above", "below"]]
CLIP: dict[str, Any] = COMMON | {
    "task": "clip",
    "encoder": {
        "kind": "two-towers", "vocabulary": list(VOCABULARY), "text_width": 32, "text_depth": 1, "text_heads": 2, "image_width": 32,
        "image_depth": 1, "image_heads": 2, "width": 16,
    },
    "interchangeable": GROUPS,
    "steps": 4,
    "optimizer": {"rate": 3e-3, "weight_decay": 0.0, "clip": 1.0},
    "ema": None,
}  # fmt: skip


def test_loss_by_hand():
    image, text, wrong = torch.randn(3, 5), torch.randn(3, 5), torch.randn(2, 5)
    p = F.cosine_similarity(image[:, None], torch.cat([text, wrong])[None], dim=-1) * 4
    of_picture = -(p.diagonal() - p.logsumexp(1)).mean()
    of_text = -(p[:, :3].diagonal() - p[:, :3].logsumexp(0)).mean()
    torch.testing.assert_close(contrastive_loss(image, text, torch.tensor(4.0), wrong), (of_picture + of_text) / 2)


def test_loss_of_chance_and_of_certainty():
    e = torch.eye(4)
    assert float(contrastive_loss(e, torch.ones(4, 4), torch.tensor(10.0))) == pytest.approx(math.log(4))
    assert float(contrastive_loss(e, e, torch.tensor(100.0))) == pytest.approx(0, abs=1e-6)
    assert retrieval(e, e) == (1, 1)
    assert retrieval(e, e.roll(1, 0)) == (0, 0)


@given(st.integers(0, 10_000))
def test_a_disturbed_caption_differs_in_words_of_one_group(seed):
    text = "a red circle above a blue square"
    words, changed = text.split(), disturbed(text, GROUPS, seed).split()
    different = [i for i, pair in enumerate(zip(words, changed, strict=True)) if pair[0] != pair[1]]
    group = next(group for group in GROUPS if words[different[0]] in group)
    assert len(different) in (1, 2)
    assert all(words[i] in group and changed[i] in group for i in different)
    if len(different) == 2:
        assert [changed[i] for i in different] == [words[i] for i in different[::-1]]


def test_both_kinds_of_disturbance_occur_and_depend_on_the_seed_alone():
    made = [disturbed("a red circle above a blue square", GROUPS, seed) for seed in range(200)]
    assert made == [disturbed("a red circle above a blue square", GROUPS, seed) for seed in range(200)]
    assert {"a blue circle above a red square", "a red square above a blue circle", "a red circle below a blue square"} <= set(made)
    assert disturbed("two stars", GROUPS, 0) is None


def test_it_learns_which_words_belong_to_which_picture(tmp_path):
    """Eight scenes by heart, and the trained encoder is a part folder that says so."""
    scenes = {"kind": "scenes", "length": 8}
    run = train(write(tmp_path, CLIP, data=scenes, steps=120, log_every=40, validation={"data": scenes, "examples": 8, "every": 120}))
    first, *_, last = metrics(run)
    assert last["loss"] < first["loss"] / 4
    assert min(last["text_found"], last["picture_found"]) > 0.8  # captions vary, and some are true of two scenes; by chance: 1/8
    assert metrics(run, "validation")[-1]["text_found"] > 0.8
    encoder = load_part("context encoder", CONTEXTS, run / "model")
    assert isinstance(encoder, TwoTowers)
    image, prompts = Scenes("train", length=8).batch(range(8), 0)
    with torch.no_grad():
        assert min(retrieval(encoder.encode_image(to_picture(image)), encoder.encode_text(prompts))) > 0.8


def test_the_panel_tells_retrieval_among_all_and_wrong_captions(tmp_path):
    validation = {"data": {"kind": "scenes", "split": "held-out"}, "examples": 12, "every": 4}
    run = train(write(tmp_path, CLIP, validation=validation, panel={"every": 4}))
    (panel,) = metrics(run, "panel")
    assert 0 <= panel["text_found_among_all"] <= 1
    assert 0 <= panel["picture_found_among_all"] <= 1
    assert 0 <= panel["right_above_disturbed"] <= 1


def test_the_scenes_recipe_is_whole():
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / "scenes_clip.yaml")
    task = make_task(recipe, 64)
    assert set(VOCABULARY) <= set(task.encoder.config["vocabulary"])
    assert {word for group in recipe.interchangeable for word in group} <= set(VOCABULARY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interchangeable": [["red"]]}, "two different words"),
        ({"encoder": {"kind": "words", "vocabulary": ["a"], "length": 2, "width": 4, "depth": 0, "heads": 1}}, "use two-towers"),
        ({"encoder": {"kind": "two-tower"}}, "did you mean 'two-towers'"),
        ({"encoder": CLIP["encoder"] | {"size": 32}}, "32x32, but the data gives 64x64"),
        ({"interchangable": []}, "did you mean 'interchangeable'"),
        ({"init": "nowhere"}, "nowhere is not a trained context encoder"),
    ],
)
def test_wrong_recipes(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        train(write(tmp_path, CLIP, **changes))
