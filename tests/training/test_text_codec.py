"""The text autoencoder's training: its loss over a run, a tiny overfit, its panel, and what it refuses."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tessera.codecs.text_vae import TextVAE
from tessera.data.scenes import Scenes
from tessera.data.scenes_language import VOCABULARY
from tessera.errors import UsageError
from tessera.part_folder import load_part
from tessera.registry import CODECS
from tessera.training.loader import Batch, Batches
from tessera.training.recipe_files import load_recipe, parse_recipe
from tessera.training.run import make_task, train
from tessera.training.text_codec import cyclic
from tests.training.tiny import COMMON, metrics, write

SIZES = {"length": 28, "layers": 1, "width": 32, "heads": 2}
TEXT: dict[str, Any] = COMMON | {
    "task": "text-codec",
    "codec": {
        "kind": "text-vae", "latent": 16, "words": list(VOCABULARY), "encoder": SIZES, "decoder": SIZES, "pieces": 26, "dropout": 0.0,
    },
    "steps": 3,
    "optimizer": {"rate": 3e-3, "betas": [0.9, 0.98], "weight_decay": 0.0, "clip": 1.0},
    "ema": None,
}  # fmt: skip
ALL: dict[str, Any] = TEXT["codec"] | {"pooling": "all", "normalised": True, "memories": 3}
RECIPE = Path(__file__).parents[2] / "recipes" / "scenes_text_vae.yaml"


def test_beta_of_a_cycle():
    assert [cyclic(step, 8) for step in range(9)] == [0, 0, 0, 0, 0, 0.5, 1, 1, 0]
    assert cyclic(12345, None) == 1


def test_a_run_writes_a_codec_and_says_how_much_comes_back(tmp_path):
    validation = {"data": {"kind": "scenes", "split": "held-out"}, "examples": 6, "every": 3}
    run = train(write(tmp_path, TEXT, validation=validation, panel={"every": 3}))
    assert {"loss", "reconstruction", "divergence", "numbers_used"} <= metrics(run)[-1].keys()
    (panel,) = metrics(run, "panel")
    assert 0 <= panel["captions_right"] <= panel["words_right"] <= 1
    codec = load_part("codec", CODECS, run / "model")
    assert isinstance(codec, TextVAE)
    assert codec.config == ALL | {"pooling": "first", "normalised": False, "memories": 1, "variance": True}


def test_it_learns_captions_by_heart():
    task = make_task(parse_recipe(TEXT | {"out": "nowhere", "beta": 0.01}, "here"), 64).train()
    texts = ["a red circle above a blue square", "two small stars", "there is a ring on white", "a cross"]
    optimizer = torch.optim.Adam(task.parameters(), 6e-3)
    losses = []
    for step in range(200):
        loss, report = task(Batch(None, None, texts, list(range(4 * step, 4 * step + 4)), {}), step, 4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(report["reconstruction"]))
    assert losses[-1] < losses[0] / 20
    task.eval()
    batch = Batch(None, None, texts, [0, 1, 2, 3], {})
    assert task.panel([batch], [], 0).scalars == {"captions_right": 1.0, "words_right": 1.0}


def test_a_step_is_the_same_in_parts():
    """Loss and noise of a step of eight captions are those of its halves."""
    task = make_task(load_recipe(RECIPE), 64)
    whole = Batches(Scenes(), 0, 8)[3]
    parts = [Batches(Scenes(), 0, 4, stride=8, offset=offset)[3] for offset in (0, 4)]
    with torch.no_grad():
        halves = torch.stack([task(part, 5, 8)[0] for part in parts])
        torch.testing.assert_close(halves.mean(), task(whole, 5, 8)[0])


def test_beta_counts_in_training_as_the_cycle_says_and_fully_in_validation():
    task = make_task(parse_recipe(TEXT | {"out": "nowhere", "beta": 2.0, "beta_cycle": 8}, "here"), 64)
    for step, share in ((0, 0.0), (5, 0.5), (6, 1.0)):
        batch = Batches(Scenes(), 0, 4)[step]
        with torch.no_grad():
            loss, report = task.train()(batch, 1, 4)
            torch.testing.assert_close(loss, report["reconstruction"] + 2 * share * report["divergence"])
            loss, report = task.eval()(batch, 1, 4)
            torch.testing.assert_close(loss, report["reconstruction"] + 2 * report["divergence"])


def test_the_scenes_recipe_is_whole():
    task = make_task(load_recipe(RECIPE), 64)
    assert set(VOCABULARY) <= set(task.codec.config["words"])
    assert sum(value.numel() for value in task.parameters()) <= 2_000_000
    texts = Scenes("held-out").batch(range(500), 0)[1]
    assert all(len(task.codec.writer.encode(text)) <= task.codec.pieces + 2 for text in texts)
    assert [task.codec.respelt(text) for text in texts] == texts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codec": {"kind": "patch", "classes": 8, "factor": 16, "dim": 4}}, "'patch' is not for texts: use text-vae"),
        ({"codec": TEXT["codec"] | {"words": ["a", "red"]}}, "a word that the decoder cannot write"),
        ({"codec": TEXT["codec"] | {"pieces": 27}}, "pieces 27 with 2 markers fit length 28"),
        ({"codec": TEXT["codec"] | {"pooling": "some"}}, "pooling must be first or all"),
        ({"codec": TEXT["codec"] | {"memories": 0}}, "memories at least 1"),
        ({"deviation": 0.0}, "'deviation' is 0.0"),
        ({"init": "nowhere"}, "nowhere is not a trained codec"),
        ({"beta": -1.0}, "'beta' is -1.0"),
        ({"free_bit": 0.1}, "did you mean 'free_bits'"),
    ],
)
@pytest.mark.filterwarnings("ignore::tessera.contexts.prompt_warnings.UnknownWords")
def test_wrong_recipes(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        train(write(tmp_path, TEXT, **changes))


def test_a_given_deviation_is_that_of_the_noise():
    """Of normalised vectors, whose own numbers have mean square 1 whatever the text."""
    task = make_task(parse_recipe(TEXT | {"out": "nowhere", "beta": 0.0, "deviation": 0.5, "codec": ALL}, "here"), 64)
    batch = Batches(Scenes(), 0, 4)[0]
    with torch.no_grad():
        _, report = task(batch, 1, 4)
        mean = task.codec.means(batch.prompts)
        torch.testing.assert_close(mean.square().mean(1), torch.ones(4))
        expected = 16 * (1 + 0.25 - 2 * math.log(0.5) - 1) / 2
        assert float(report["divergence"]) == pytest.approx(expected, rel=1e-4)
        torch.testing.assert_close(task.codec.encode(batch.prompts), mean, atol=1e-5, rtol=1e-5)


def test_it_learns_captions_by_heart_from_all_words_states():
    task = make_task(parse_recipe(TEXT | {"out": "nowhere", "beta": 0.0, "deviation": 0.1, "codec": ALL}, "here"), 64).train()
    texts = ["a red circle above a blue square", "two small stars", "there is a ring on white", "a cross"]
    optimizer = torch.optim.Adam(task.parameters(), 1e-2)
    for step in range(120):
        loss, _ = task(Batch(None, None, texts, list(range(4 * step, 4 * step + 4)), {}), step, 4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert task.eval().panel([Batch(None, None, texts, [0, 1, 2, 3], {})], [], 0).scalars["captions_right"] == 1.0


def test_without_a_variance_nothing_but_the_mean_is_made():
    task = make_task(parse_recipe(TEXT | {"out": "nowhere", "beta": 0.0, "deviation": 0.5, "codec": ALL | {"variance": False}}, "here"), 64)
    whole = make_task(parse_recipe(TEXT | {"out": "nowhere", "beta": 0.0, "deviation": 0.5, "codec": ALL}, "here"), 64)
    state = whole.state_dict()
    state["codec.encoder.linear.weight"] = state["codec.encoder.linear.weight"][:16]
    task.load_state_dict(state)
    batch = Batches(Scenes(), 0, 4)[0]
    with torch.no_grad():
        torch.testing.assert_close(task(batch, 1, 4), whole(batch, 1, 4))
    with pytest.raises(UsageError, match="give training a `deviation`"):
        make_task(parse_recipe(TEXT | {"out": "nowhere", "codec": ALL | {"variance": False}}, "here"), 64)(batch, 1, 4)


def test_labels_are_no_captions():
    task = make_task(parse_recipe(TEXT | {"out": "nowhere"}, "here"), 64)
    with pytest.raises(UsageError, match="learns captions, but the dataset gives 3"):
        task(Batch(None, None, ["a", 3], [0, 1], {}), 0, 2)
