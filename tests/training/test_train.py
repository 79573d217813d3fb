"""Whole runs on tiny models: each loss learns, and what goes wrong reads well."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tessera.data.scenes import Scenes
from tessera.errors import TesseraError, UsageError
from tessera.loading import load
from tessera.part_folder import load_part, save_part
from tessera.randomness import BatchDraws
from tessera.registry import CODECS
from tessera.training.checkpointing import Checkpointer, claim
from tessera.training.run import train
from tessera.training.task import to_picture
from tests.training.tiny import CODEC, FLOW, metrics, write


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec overfitted to eight scenes, as a folder."""
    folder = tmp_path_factory.mktemp("codec")
    changes = {"data": {"kind": "scenes", "length": 8}, "steps": 120, "log_every": 20}
    return train(write(folder, CODEC, **changes))


@pytest.fixture(scope="module")
def flow(codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flow overfitted to the same scenes."""
    folder = tmp_path_factory.mktemp("flow")
    scenes = {"kind": "scenes", "length": 8}
    changes: dict[str, Any] = {
        "codec": str(codec / "model"), "data": scenes, "steps": 150, "log_every": 10, "tracker": "tensorboard",
        "optimizer": {"rate": 5e-3, "weight_decay": 0.0}, "ema": {"decay": 0.95, "every": 1},
        "validation": {"data": scenes, "examples": 8, "every": 150}, "panel": {"every": 150, "pictures": 4},
    }  # fmt: skip
    return train(write(folder, FLOW, **changes))


def test_codec_overfits(codec: Path) -> None:
    lines = metrics(codec)
    assert lines[-1]["mse"] < 0.7 * lines[0]["mse"]
    assert lines[-1]["psnr"] > 30
    trained: Any = load_part("codec", CODECS, codec / "model")
    assert trained.config["classes"] == 48


def test_flow_overfits(flow: Path) -> None:
    lines = metrics(flow)
    assert lines[-1]["nll"] < 0.45 * lines[0]["nll"]
    assert lines[-1]["images"] == 150 * 8
    [validation] = metrics(flow, "validation")
    assert validation["nll"] < 0.6 * lines[0]["nll"]


def test_flow_is_exported_as_a_model(flow: Path) -> None:
    model = load(flow / "model", device="cpu")
    assert model.size == (64, 64)
    assert model.card["images"] == 150 * 8
    assert model.card["validation_loss"] > 0
    assert len(list(model.text_to_image("a red circle", n=2, seed=0, steps=2))) == 2


def test_panel_answers_in_numbers_and_pictures(flow: Path) -> None:
    raw, averaged = metrics(flow, "panel")
    assert (raw["weights"], averaged["weights"]) == ("raw", "ema")
    assert 0 < raw["token_accuracy"] <= 1
    assert raw["code_perplexity"] > 1
    assert len(raw["accuracy_by_masked_share"]) == 5
    assert "t 1" in raw["loss_by_time"]
    names = {path.name for path in (flow / "panel").iterdir()}
    prefix = "00000150-"
    wanted = ("samples-raw", "samples-ema", "loss_by_time", "accuracy_by_masked_share", "root_mean_square_of_the_loss")
    assert names == {f"{prefix}{name}.png" for name in wanted}
    with Image.open(flow / "panel" / f"{prefix}samples-ema.png") as picture:
        assert picture.size == (2 * 66 + 2, 2 * 66 + 2)
    assert list((flow / "tracker").glob("events*"))


def test_codec_panel_shows_reconstructions(tmp_path: Path) -> None:
    changes = {"validation": {"data": {"kind": "scenes", "length": 6}, "examples": 6}, "panel": {"pictures": 4}, "steps": 2}
    run = train(write(tmp_path, CODEC, **changes))
    [panel] = metrics(run, "panel")
    assert panel["codes_used"] >= 1
    assert panel["psnr"] > 0
    with Image.open(run / "panel" / "00000002-originals_and_reconstructions-raw.png") as picture:
        assert picture.size == (8 * 66 + 2, 66 + 2)


@pytest.mark.parametrize(("what", "rate"), [("all", 3e-3), ("null", 0.1)])
def test_null_prompt_learns(flow: Path, tmp_path: Path, what: str, rate: float) -> None:
    base = {key: value for key, value in FLOW.items() if key not in ("codec", "model")}
    changes = {"task": "null-prompt", "init": str(flow / "model"), "train": what, "drop_prompt": 0.5, "steps": 30, "log_every": 10}
    run = train(write(tmp_path, base, **changes, optimizer={"rate": rate, "weight_decay": 0.0}, data={"kind": "scenes", "length": 8}))
    before, after = (load(folder / "model", device="cpu").flows["text_to_image"].state_dict() for folder in (flow, run))
    changed = {name for name in before if name in after and not torch.equal(before[name], after[name]) and "loss." not in name}
    assert "context_encoder.null_embedding" in changed
    assert not any(name.startswith("codec.") for name in changed)
    assert any(name.startswith("network.") for name in changed) == (what == "all")
    assert not any(name.startswith("context_encoder.blocks") for name in changed)
    assert unprompted_loss(run) < unprompted_loss(flow)


def unprompted_loss(run: Path) -> float:
    """Cross-entropy of the eight scenes without their prompts, with the same noise every time."""
    made: Any = load(run / "model", device="cpu").flows["text_to_image"]
    image, _ = Scenes(length=8).batch(range(8), 0)
    context = made.context_encoder([None] * 8)
    with torch.no_grad():
        tokens = made.codec.encode(to_picture(image))
        out = made.loss(lambda x_t, t: made.network(x_t, t - 1, context), tokens, BatchDraws(0, 8), t=torch.full((8,), 8))
    return float(out.auxiliary.mean())


def test_accumulated_parts_equal_one_batch(tmp_path: Path) -> None:
    runs = [train(write(tmp_path / str(parts), FLOW, accumulate=parts, steps=4)) for parts in (1, 4)]
    whole, parts = (metrics(run) for run in runs)
    for a, b in zip(whole, parts, strict=True):
        assert b == pytest.approx(a, rel=2e-4)
    models = [load(run / "model", device="cpu").flows["text_to_image"].state_dict() for run in runs]
    for name, value in models[0].items():
        assert torch.allclose(value, models[1][name], atol=2e-4), name


def test_bfloat16_muon_and_workers_train(tmp_path: Path) -> None:
    optimizer = {"kind": "muon", "rate": 1e-3, "muon_rate": 0.01}
    run = train(write(tmp_path, FLOW, precision="bfloat16", optimizer=optimizer, workers=1, steps=3))
    assert len(metrics(run)) == 3


def pictures(folder: Path, broken: int = 0) -> dict[str, Any]:
    """A folder of eight captioned scenes, `broken` of them cut short, as a dataset."""
    folder.mkdir()
    scenes = Scenes(length=8)
    for i in range(8):
        image, caption = scenes.example(i, 0)
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(str(caption))
        if i < broken:
            (folder / f"{i}.png").write_bytes((folder / f"{i}.png").read_bytes()[:60])
    return {"kind": "folder", "root": str(folder), "size": 64, "crop": "centre"}


def test_cached_tokens_change_nothing(codec: Path, tmp_path: Path) -> None:
    changes = {"codec": str(codec / "model"), "data": pictures(tmp_path / "pictures"), "steps": 4}
    plain = train(write(tmp_path / "plain", FLOW, **changes))
    for _ in range(2):  # made, then read
        cached = train(write(tmp_path / "cached", FLOW, **changes, token_cache=str(tmp_path / "tokens")))
        assert metrics(cached) == metrics(plain)
        shutil.rmtree(cached)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_pictures_are_counted_and_named(tmp_path: Path, workers: int) -> None:
    data = pictures(tmp_path / "pictures", broken=2)
    run = train(write(tmp_path, CODEC, data=data, steps=3, workers=workers))
    assert metrics(run)[-1]["skipped"] == 2
    lines = (run / "skipped-0.txt").read_text().splitlines()
    assert sorted(Path(line.split("\t")[1]).name for line in lines) == ["0.png", "1.png"]
    again = train(write(tmp_path, CODEC, data=data, steps=6))
    assert metrics(again)[-1]["skipped"] == 2
    assert (run / "skipped-0.txt").read_text().splitlines() == lines


def test_divergence_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    path = write(tmp_path, FLOW, optimizer={"rate": 1e25, "clip": None}, checkpoint={"every": 1}, steps=5, ema=None)
    with pytest.raises(TesseraError, match=r"diverged at step \d+: loss"):
        train(path)
    state = Checkpointer(tmp_path / "run").load()
    assert state is not None
    assert all(value.isfinite().all() for value in state["model"].values())


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with claim(tmp_path / "run"), pytest.raises(UsageError, match="in use by another process"):
        train(write(tmp_path, CODEC))


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match=r"holds other things than a run \(thesis\.txt\)"):
        train(write(tmp_path, CODEC))
    with pytest.raises(UsageError, match="is a file"):
        train(write(tmp_path, CODEC, out=str(tmp_path / "run" / "thesis.txt")))


def test_a_finished_run_started_again_does_nothing_and_a_longer_one_goes_on(tmp_path: Path) -> None:
    run = train(write(tmp_path, CODEC))
    before = metrics(run)
    (run / ".model-0a1b.part").mkdir()  # as a kill leaves it
    train(write(tmp_path, CODEC))
    assert metrics(run) == before
    assert not list(run.glob(".*.part"))
    train(write(tmp_path, CODEC, steps=10))
    assert [line["step"] for line in metrics(run)] == list(range(1, 11))


def test_another_recipe_or_codec_does_not_go_on(codec: Path, tmp_path: Path) -> None:
    train(write(tmp_path, FLOW, codec=str(codec / "model"), steps=2))
    with pytest.raises(UsageError, match="started with another 'batch_size'"):
        train(write(tmp_path, FLOW, codec=str(codec / "model"), steps=4, batch_size=4))
    other: Any = load_part("codec", CODECS, codec / "model")
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    save_part(other, tmp_path / "codec")
    path = write(tmp_path / "2", FLOW, codec=str(tmp_path / "codec"), steps=2)
    train(path)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    save_part(other, tmp_path / "codec")
    with pytest.raises(UsageError, match="another codec or text encoder"):
        train(write(tmp_path / "2", FLOW, codec=str(tmp_path / "codec"), steps=4))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch_size": 8, "accumulate": 3}, "cannot be divided into 3 equal parts"),
        ({"codec": "nowhere"}, "nowhere is not a trained codec"),
        ({"data": {"kind": "scnes"}}, "unknown dataset 'scnes': did you mean 'scenes'"),
        ({"sampling": {"sampler": "ancestrl"}}, "unknown sampler 'ancestrl'"),
        ({"sampling": {"steps": 50}}, "sampling.steps is 50"),
        ({"model": {**FLOW["model"], "context": {"kind": "none"}}, "drop_prompt": 0.1}, "learned null prompt"),
    ],
)
def test_misfits_are_one_sentence(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        train(write(tmp_path, FLOW, **changes))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_recipe_is_kept_with_the_run(tmp_path: Path) -> None:
    from tessera.training.recipe_files import load_recipe

    run = train(write(tmp_path, CODEC, steps=1))
    assert load_recipe(run / "recipe.yaml") == load_recipe(tmp_path / "recipe-in.yaml", ["steps=1"])
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["step"] == 1
