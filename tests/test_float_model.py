"""A model of floats as it is used: its pictures, their records, its folder."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops

import tessera
from tessera.apps.catalogue import summary
from tessera.checkpoints.diffusers import export_diffusers
from tessera.checkpoints.verify import verify
from tessera.errors import TesseraError, UsageError
from tessera.flow import SamplingSettings
from tessera.model import Model, settings_of
from tessera.model_folder import DESCRIPTION
from tessera.record import Record
from tests.tiny import tiny_model
from tests.tiny_floats import tiny_clip, tiny_float_model

PROMPT = "a red circle:2 | a square:-0.5"


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_float_model()


@pytest.fixture(scope="module")
def saved(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.save(tmp_path_factory.mktemp("models") / "tiny-v")


def same(a: list[Image.Image], b: list[Image.Image]) -> bool:
    return [p.tobytes() for p in a] == [p.tobytes() for p in b]


def levels_apart(a: Image.Image, b: Image.Image) -> int:
    """Largest difference, in 8-bit levels: sums over a batch of another size round otherwise, which may carry a value to the next level."""
    return max(high for _, high in ImageChops.difference(a, b).getextrema())


@settings(max_examples=3, deadline=None, derandomize=True)
@given(batch_size=st.integers(1, 6), index=st.integers(0, 4), seed=st.integers(0, 2**63 - 1))
def test_picture_depends_on_seed_and_index_only(batch_size: int, index: int, seed: int) -> None:
    model = tiny_float_model()
    whole = model.text_to_image(PROMPT, n=5, seed=seed, sampler="ddpm")
    part = model.text_to_image(PROMPT, n=5 - index, seed=seed, sampler="ddpm", batch_size=batch_size, index=index)
    assert same(part, whole[index:])


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": "ddim:eta=0.5", "steps": 7, "guidance": 3.0, "spacing": "cosine", "size": (16, 32)},
        {"clip_guidance": 100.0, "cutouts": 2, "cut_power": 0.5},
    ],
)
def test_record_is_enough_to_make_the_picture_again(model: Model, options: dict) -> None:
    picture = model.text_to_image(PROMPT, n=3, **options)[2]
    record = Record.of(picture)
    again = model.stream(record.prompt, 1, record.seed, settings_of(record), size=record.size, index=record.index)
    assert levels_apart(next(again), picture) <= 1
    assert settings_of(record) == settings_of(Record.of(model.text_to_image(PROMPT, **options)[0]))


def test_records_of_before_have_the_usual_settings(model: Model) -> None:
    picture = model.text_to_image(PROMPT, seed=0)[0]
    values = json.loads(picture.info["tessera"])
    for name in ("spacing", "invert", "clip_guidance", "cutouts", "cut_power"):
        del values[name]
    picture.info["tessera"] = json.dumps(values)
    assert Record.of(picture) == Record.of(model.text_to_image(PROMPT, seed=0)[0])
    del values["steps"]
    picture.info["tessera"] = json.dumps(values)
    with pytest.raises(TesseraError, match="metadata"):
        Record.of(picture)


def test_image_to_image_keeps_more_of_the_picture_at_lower_strength(model: Model) -> None:
    start = Image.new("RGB", (40, 30), (20, 200, 90))

    def change(**options: object) -> float:
        made = model.text_to_image(PROMPT, n=2, seed=0, init=start, steps=20, **options)
        return sum(abs(a - b) for picture in made for a, b in zip(picture.tobytes(), start.resize((16, 16)).tobytes(), strict=True))

    assert change(strength=0.1) < change(strength=0.5) < change()
    record = Record.of(model.text_to_image(PROMPT, seed=1, init=start, steps=20)[0])
    assert record.start == 0.9
    assert record.init is not None


def test_editing_starts_from_the_picture_itself(model: Model) -> None:
    start = Image.effect_mandelbrot((16, 16), (-2, -1, 1, 1), 20)
    made = [model.text_to_image(PROMPT, seed=seed, init=start, invert=True, sampler="ddim", steps=5)[0] for seed in (0, 1)]
    assert same(made[:1], made[1:])  # no noise is drawn
    with pytest.raises(UsageError, match="give init too"):
        model.text_to_image(PROMPT, invert=True)


def test_without_a_prompt_it_draws_unconditionally(model: Model) -> None:
    assert Record.of(model.text_to_image(None, seed=0)[0]).prompt is None


def test_saved_model_is_the_same(model: Model, saved: Path) -> None:
    loaded = tessera.load(saved)
    assert same(loaded.text_to_image(PROMPT, n=2, seed=3), model.text_to_image(PROMPT, n=2, seed=3))
    assert (loaded.name, loaded.family, loaded.size, loaded.defaults, loaded.card) == (
        model.name, model.family, model.size, model.defaults, model.card,
    )  # fmt: skip
    assert json.loads((saved / DESCRIPTION).read_text())["flows"]["text_to_image"]["kind"] == "floats"
    assert summary(saved)["defaults"]["sampler"] == "plms"
    assert loaded.weights == Record.of(loaded.text_to_image(PROMPT, seed=0)[0]).weights


def test_settings_that_differ_from_the_usual_are_saved(tmp_path: Path) -> None:
    model = tiny_float_model("yfcc", tiny_clip())
    model.defaults = SamplingSettings("heun", steps=4, spacing="log-snr", clip_guidance=5.0, cutouts=3)
    assert tessera.load(model.save(tmp_path / "guided")).defaults == model.defaults


def describe(folder: Path, change) -> None:
    description = json.loads((folder / DESCRIPTION).read_text())
    change(description, description["flows"]["text_to_image"])
    (folder / DESCRIPTION).write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda _, flow: flow.update(kind="flots"), "did you mean 'floats'"),
        (lambda _, flow: flow.update(kind="tokens"), "'pixels' does not make the tokens"),
        (lambda _, flow: flow.update(codec={"kind": "patch"}), "'patch' does not make the floats"),
        (lambda _, flow: flow.update(context={"kind": "none"}), "needs a context of width 8"),
        (lambda _, flow: flow["context"].update(width=9), "needs a context of width 8 but the context encoder gives 9"),
        (lambda _, flow: flow["process"]["schedule"].update(kind="cosin"), "did you mean 'cosine'"),
        (lambda _, flow: flow["loss"].update(parametrisation="eps", objective="eps"), "predicts v"),
        (lambda about, _: about["defaults"].update(spacing="x"), "schedule"),
    ],
)
def test_description_does_not_fit(model: Model, tmp_path: Path, change, says: str) -> None:
    folder = model.save(tmp_path / "tiny-v")
    describe(folder, change)
    with pytest.raises(TesseraError, match=says) as error:
        tessera.load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"prompts": "a red circle:x"}, "no number"),
        ({"prompts": []}, "prompt is empty"),
        ({"size": (18, 16)}, "multiples of 4"),
        ({"size": (0, 0)}, "multiples"),
        ({"sampler": "purity"}, "continuous models"),
        ({"truncation": 0.5}, "truncation is for models of tokens"),
        ({"steps": 0}, "steps"),
        ({"strength": 1.5, "init": Image.new("RGB", (8, 8))}, "start"),
        ({"strength": 0.0, "init": Image.new("RGB", (8, 8))}, "start"),
        ({"strength": 0.5}, "strength"),
        ({"clip_guidance": float("nan")}, "CLIP guidance"),
        ({"cutouts": 0, "clip_guidance": 1.0}, "cutout"),
        ({"spacing": "x"}, "schedule"),
    ],
)
def test_bad_argument_is_one_sentence(model: Model, arguments: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says) as error:
        model.text_to_image(**{"prompts": PROMPT, "seed": 0} | arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("arguments", [{"spacing": "cosine"}, {"clip_guidance": 5.0}, {"sampler": "ddim"}])
def test_a_model_of_tokens_refuses_what_is_for_floats(arguments: dict) -> None:
    with pytest.raises(UsageError, match=r"floats|token models"):
        tiny_model().text_to_image("a red circle", **arguments)


def test_half_precision(model: Model) -> None:
    exact, rounded = (model.text_to_image("a red circle", seed=0, precision=precision)[0] for precision in ("float32", "bfloat16"))
    assert torch.tensor([abs(a - b) for a, b in zip(exact.tobytes(), rounded.tobytes(), strict=True)]).float().mean() < 8


def test_what_is_for_models_of_tokens_alone(model: Model, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="draws floats"):
        export_diffusers(model, tmp_path / "exported")
    with pytest.raises(UsageError, match="draws floats"):
        verify(saved, saved)
