"""The network that reads scenes: its questions have the true answers, and it learns them."""

import random
from pathlib import Path

import pytest
import torch

from tessera.data.scene_labels import SceneLabels, parse_scene
from tessera.data.scenes import COLOURS, Scene, Scenes, Thing, draw_scene
from tessera.errors import UsageError
from tessera.evaluation.scenes_reader import ABSENT, QUESTIONS, ScenesReader, answers
from tessera.part_folder import load_part
from tessera.registry import READERS
from tessera.training.loader import Batch
from tessera.training.recipe_files import parse_recipe
from tessera.training.run import train
from tessera.training.scenes_reader import ScenesReaderTask

RECIPE = {
    "task": "scenes-reader", "out": "unused", "data": {"kind": "scene-labels"},
    "reader": {"kind": "scenes-reader", "width": 16, "blocks": 1},
    "steps": 1, "batch_size": 8, "optimizer": {"rate": 3e-3},
}  # fmt: skip


def test_labels_are_the_scenes_of_the_same_pictures() -> None:
    labels, scenes = SceneLabels("held-out", seed=3), Scenes("held-out", seed=3)
    image, text = labels.example(5, 0)
    assert torch.equal(image, scenes.example(5, 0).image)
    assert parse_scene(str(text)) == scenes.describe(5)[0]
    assert labels.fingerprint != scenes.fingerprint


def test_answers_of_a_known_scene() -> None:
    made = dict(zip(QUESTIONS, answers(Scene("black", (Thing("star", "blue", "small", 2, 5),))), strict=True))
    assert (made["background"] == 1).all()
    assert made["thing"].sum() == 4
    assert made["thing"][2:4, 5:7].all()
    assert (made["colour"][2:4, 5:7] == list(COLOURS).index("blue")).all()
    assert made["row"][2:4, 5:7].tolist() == [[0, 0], [1, 1]]
    assert made["column"][2:4, 5:7].tolist() == [[0, 1], [0, 1]]
    assert (made["shape"] == ABSENT).sum() == 60


def test_every_answer_is_one_of_those_offered() -> None:
    rng = random.Random(0)
    for _ in range(50):
        for values, offered in zip(answers(draw_scene(rng)), QUESTIONS.values(), strict=True):
            stated = values[values != ABSENT]
            assert ((stated >= 0) & (stated < offered)).all()


def test_it_learns_a_few_pictures_by_heart() -> None:
    torch.manual_seed(0)
    task = ScenesReaderTask(parse_recipe(RECIPE, "test"), 64)
    image, prompts = SceneLabels().batch(range(4), 0)
    batch = Batch(image, None, prompts, [0, 1, 2, 3], {})
    optimizer = torch.optim.AdamW(task.parameters(), 5e-3)
    for _ in range(140):
        loss, report = task(batch, 0, 4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1
    assert min(float(share) for question, share in report.items() if question != "damage") > 0.9


def test_training_writes_a_reader(tmp_path: Path) -> None:
    recipe = tmp_path / "reader.yaml"
    recipe.write_text(
        "task: scenes-reader\nout: unused\ndata: {kind: scene-labels}\nreader: {kind: scenes-reader, width: 16, blocks: 1}\n"
        "steps: 2\nbatch_size: 4\ntracker: none\nema: null\noptimizer: {rate: 1.0e-3}\n"
        "validation: {data: {kind: scene-labels, split: held-out}, examples: 4}\n"
    )
    reader = load_part("reader", READERS, train(recipe, [f"out={tmp_path / 'run'}"]) / "model")
    assert isinstance(reader, ScenesReader)
    assert reader.features(torch.zeros(2, 3, 64, 64)).shape == (2, reader.width)


def test_captions_are_no_labels() -> None:
    with pytest.raises(UsageError, match="scene-labels"):
        ScenesReaderTask(parse_recipe({**RECIPE, "data": {"kind": "scenes"}}, "test"), 64)


def test_a_width_that_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="multiple of 16"):
        ScenesReader(width=20)
