"""Variations, captions, rewritings, blends and editing by words, of a tiny model of four flows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tessera.contexts.blend import Blend, Seen
from tessera.contexts.prompt_warnings import PromptTruncated
from tessera.errors import TesseraError, UsageError
from tessera.model import Model, settings_of
from tessera.pictures import to_picture, to_tensor
from tessera.record import Record, Written
from tessera.registry import FLOAT_SAMPLERS
from tests.closeness import alike
from tests.tiny import tiny_model
from tests.tiny_versatile import ending, tiny_versatile

pytestmark = pytest.mark.filterwarnings(f"ignore::{PromptTruncated.__module__}.{PromptTruncated.__name__}")

WORDS = "a red circle"
FIRST = Image.effect_mandelbrot((20, 16), (-2, -1, 1, 1), 20).convert("RGB")
SECOND = Image.new("RGB", (16, 16), (200, 30, 40))
MASK = Image.new("L", (20, 16), 0)
MASK.paste(255, (0, 0, 9, 16))


@pytest.fixture(scope="module")
def model() -> Model:
    return ending(tiny_versatile(), by=-10)


def first(made: Iterator[Image.Image]) -> Image.Image:
    return next(iter(made))


CALLS: dict[str, Callable[..., Any]] = {
    "image_variation": lambda model, **how: model.image_variation(FIRST, **how),
    "blend": lambda model, **how: model.blend([FIRST, SECOND], WORDS, masks=[MASK, None], **how),
    "edit": lambda model, **how: model.edit(FIRST, "red", "circle", **how),
    "image_to_text": lambda model, **how: model.image_to_text(FIRST, **how),
    "text_variation": lambda model, **how: model.text_variation("red circle", **how),
}


@pytest.mark.parametrize("sampler", [*FLOAT_SAMPLERS, "ddim:eta=1"])
@pytest.mark.parametrize("name", CALLS)
def test_every_application_runs_with_every_sampler(name: str, sampler: str, model: Model) -> None:
    (made,) = CALLS[name](model, seed=1, sampler=sampler, steps=5)
    assert isinstance(made, str if "text" in name else Image.Image)


@pytest.mark.parametrize("name", CALLS)
def test_result_depends_on_seed_and_number_alone(name: str, model: Model) -> None:
    many, (one,) = CALLS[name](model, n=3, seed=4, batch_size=2), CALLS[name](model, seed=4, index=2)
    again = many[2]
    assert alike(again, one) if isinstance(one, Image.Image) else again == one
    assert [record_of(made).index for made in many] == [0, 1, 2]
    assert record_of(one).index == 2


def record_of(made: Image.Image | str) -> Record:
    record = made.record if isinstance(made, Written) else Record.of(made)  # type: ignore[arg-type]
    assert record is not None
    return record


def test_pictures_and_words_matter(model: Model) -> None:
    base = model.blend([FIRST, SECOND], WORDS, seed=0)[0]
    changes: list[dict[str, Any]] = [
        {"pictures": [FIRST, FIRST]}, {"text": "above"}, {"mix": 0.2}, {"masks": [MASK, None]}, {"focus": [0.2, 0.5]}, {"focus": 1.0},
        {"strengths": [1.0, 0.5]}, {"level": [1, 0]}, {"level": -2}, {"by": "layer"}, {"colour": "match"}, {"colour": "half"},
        {"colour": "histogram"}, {"seed": 1},
    ]  # fmt: skip
    for change in changes:
        given = {"pictures": [FIRST, SECOND], "text": WORDS, "seed": 0, **change}
        assert model.blend(**given)[0].tobytes() != base.tobytes(), change
    assert alike(model.blend([FIRST, SECOND], WORDS, seed=0, mix=(1.4, 0.6), masks=[None, None], focus=[0.5, 0.5])[0], base)


def test_special_cases_are_one_another(model: Model) -> None:
    """Words alone are text-to-image, a picture alone is its variation, and hiding nothing hides nothing."""
    drawn = model.text_to_image("red", seed=3)[0]
    assert alike(model.blend(FIRST, "red", seed=3, mix=1.0)[0], drawn)
    varied = model.image_variation(FIRST, seed=3)[0]
    assert alike(model.blend(FIRST, seed=3)[0], varied)
    assert alike(model.blend(FIRST, "red", seed=3, mix=0)[0], varied)
    nothing = Image.new("L", FIRST.size, 0)
    difference = np.abs(np.subtract(model.blend(FIRST, seed=3, masks=nothing)[0], varied, dtype=np.int16))
    assert difference.max() <= 1
    other = Seen(SECOND, weight=0.0)
    assert not alike(first(model.stream(Blend((Seen(FIRST), other)), 1, 3, model.defaults)), varied)  # tokens of no weight are there


def test_a_palette_without_a_share_needs_no_flow_of_palettes(model: Model) -> None:
    assert alike(model.blend(FIRST, palette="red", palette_share=0.0, seed=3)[0], model.blend(FIRST, seed=3)[0])


def test_blends_of_different_makings_share_a_batch(model: Model) -> None:
    blends = [
        Blend((Seen(FIRST),)), Blend((Seen(FIRST), Seen(SECOND, focus=0.1)), ("red",)), Blend((Seen(FIRST),)),
        Blend((Seen(SECOND),), ("red",), (1, 3), by="layer"), Blend(texts=("red", "blue")),
    ]  # fmt: skip
    together = list(model.stream(blends, 1, 5, model.defaults))
    for index, blend in enumerate(blends):
        (alone,) = model.stream(blend, 1, 5, model.defaults, index=index)
        assert np.abs(np.subtract(together[index], alone, dtype=np.int16)).max() <= 1


def test_fidelity_starts_from_the_picture(model: Model) -> None:
    distances = []
    picture = model.image_variation(SECOND, fidelity=1.0)[0]
    codec = model.flows["image_to_image"].codec
    with torch.no_grad():  # a random decoder gives nothing back
        back = to_picture(codec.decode(codec.encode(to_tensor(SECOND, (16, 16))[None]))[0])
    for fidelity in (0.0, 0.5, 0.9):
        made = model.image_variation([FIRST, SECOND], seed=2, fidelity=fidelity, steps=20)
        record = record_of(made[1])
        assert (record.index, record.start) == (1, pytest.approx(1 - fidelity))
        assert alike(model.image_variation(SECOND, seed=2, fidelity=fidelity, steps=20, index=1)[0], made[1])
        distances.append(np.abs(np.subtract(made[1], back, dtype=np.float64)).mean())
    assert alike(picture, SECOND)
    assert distances[2] < distances[0]


def test_lists_give_one_result_of_each(model: Model) -> None:
    assert len(model.image_variation([FIRST, SECOND], n=2, seed=0)) == 4
    texts = model.image_to_text([FIRST, SECOND], seed=0)
    assert [text.record.blend["pictures"][0]["sha256"] for text in texts] == [  # type: ignore[attr-defined]
        Seen(picture).description["sha256"] for picture in (FIRST, SECOND)
    ]  # fmt: skip
    assert len(model.text_variation(["red", "blue"], n=3, seed=0)) == 6
    both = model.blend([FIRST, SECOND], ["red", "blue"], seed=0)
    assert (record_of(both[0]).prompt, record_of(both[1]).prompt) == ("red", "blue")


def test_a_path_is_a_picture(model: Model, tmp_path: Path) -> None:
    FIRST.save(tmp_path / "first.png")
    for name in (tmp_path / "first.png", str(tmp_path / "first.png")):
        assert alike(model.image_variation(name, seed=0)[0], model.image_variation(FIRST, seed=0)[0])


def test_records_make_results_again(model: Model) -> None:
    made = model.blend([FIRST, SECOND], WORDS, seed=7, mix=0.3, masks=[MASK, None], focus=[0.5, 0.9], colour="match", sampler="plms")[0]
    record = record_of(made)
    assert record.prompt == WORDS
    assert record.blend is not None
    again = Blend.again(record.blend, [FIRST, SECOND], [MASK, None])
    assert alike(first(model.stream(again, 1, record.seed, settings_of(record))), made)
    edited = model.edit(FIRST, "red", "blue", seed=7)[0]
    blend = Blend.again(record_of(edited).blend or {}, [FIRST], [None])
    assert blend.texts[1] == "blue"
    assert alike(first(model.stream(blend, 1, 7, model.defaults)), edited)
    with pytest.raises(UsageError, match="made from 2 pictures, but 1 are given"):
        Blend.again(record.blend, [FIRST], [MASK])
    with pytest.raises(UsageError, match="picture 1 had a mask"):
        Blend.again(record.blend, [FIRST, SECOND], [None, None])


def test_how_words_are_written(model: Model) -> None:
    plain = model.image_to_text(FIRST, seed=0)
    assert model.image_to_text(FIRST, seed=0, beams=1) == plain
    drawn = model.image_to_text(FIRST, seed=0, temperature=5.0)
    assert drawn != plain
    assert record_of(drawn[0]).beams == 0
    assert model.image_to_text(FIRST, seed=0, truncation=1) == plain  # of one class there is no choice
    assert model.image_to_text(FIRST, seed=0, temperature=5.0, truncation=0.001) == plain
    assert model.image_to_text(FIRST, seed=0, beams=3)
    with pytest.raises(UsageError, match="temperature and truncation are for words that are drawn"):
        model.image_to_text(FIRST, temperature=2.0, beams=1)
    (changed,) = model.text_variation("red", seed=0, add="circle", remove="above")
    blend = record_of(changed).blend
    assert blend is not None
    assert (blend["texts"], blend["remove"], blend["add"]) == (["red"], "above", "circle")


def test_part_of_a_picture_is_drawn_from_a_blend(model: Model) -> None:
    hole = Image.new("L", (16, 16), 0)
    hole.paste(255, (0, 0, 6, 16))
    made = model.inpaint(SECOND, hole, Blend((Seen(FIRST),), ("red",)), seed=0)[0]
    kept = np.asarray(hole) == 0
    assert (np.asarray(made)[kept] == np.asarray(SECOND)[kept]).all()
    assert not alike(made, SECOND)


def test_no_words() -> None:
    mute = ending(tiny_versatile(), by=10)
    assert mute.image_to_text([FIRST, SECOND], seed=0) == ["", ""]
    with pytest.raises(TesseraError, match="decoded to no words"):
        mute.edit(FIRST, "red", seed=0)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda model: model.image_variation(FIRST, fidelity=1.5), "fidelity must be between 0"),
        (lambda model: model.image_variation(FIRST, focus=-0.1), "the focus must be between 0"),
        (lambda model: model.image_variation(FIRST, level=3), "the level must be one of"),
        (lambda model: model.image_variation(FIRST, focus=0.2, level=1), "leave one of them out"),
        (lambda model: model.image_variation(FIRST, colour="blue"), "unknown colour adjustment 'blue'"),
        (lambda model: model.image_variation(FIRST, stepps=3), "unknown setting 'stepps'"),
        (lambda model: model.image_variation(FIRST, clip_guidance=5.0), "CLIP"),
        (lambda model: model.image_variation(FIRST, temperature=0.5), "temperature is for models of tokens"),
        (lambda model: model.image_variation([]), "the prompt is empty"),
        (lambda model: model.image_variation("none.png"), "there is no picture none.png"),
        (lambda model: model.image_variation(7), "this takes pictures, not 7"),
        (lambda model: model.blend(FIRST, WORDS, masks=SECOND), "the mask has 16x16 pixels, its picture 20x16"),
        (lambda model: model.blend([FIRST, SECOND], masks=MASK), "2 pictures, but one of masks"),
        (lambda model: model.blend([FIRST, SECOND], masks=[MASK]), "2 pictures, but 1 of masks"),
        (lambda model: model.blend(FIRST, WORDS, mix=1.5), "shares of words and pictures"),
        (lambda model: model.blend(FIRST, WORDS, mix=(0, 0)), "whose sum is above 0"),
        (lambda model: model.blend(FIRST, WORDS, mix=(-1, 2)), "numbers from 0"),
        (lambda model: model.blend([FIRST, SECOND], strengths=0), "strengths of the pictures sum to 0"),
        (lambda model: model.blend([FIRST, SECOND], strengths=[1, -1]), "a number from 0"),
        (lambda model: model.blend([], WORDS), "a blend needs a picture"),
        (lambda model: model.blend(palette="red"), "needs the flow palette_to_image, which the model has not"),
        (lambda model: model.blend(FIRST, palette="rouge"), "'rouge' is no colour of a palette"),
        (lambda model: model.blend(FIRST, palette="red", palette_share=1.5), "share of the palette must be between 0 and 1"),
        (lambda model: model.blend(FIRST, SECOND), "this takes words, not a picture"),
        (lambda model: model.blend(FIRST, " "), "the prompt is empty"),
        (lambda model: model.blend(FIRST, WORDS, by="layers"), "unknown mixing 'layers'"),
        (lambda model: model.edit(FIRST, "red", mix=3.0), "shares of words and pictures"),
        (lambda model: model.image_to_text("a red circle"), "there is no picture a red circle"),
        (lambda model: model.text_variation(FIRST), "this takes words, not a picture"),
        (lambda model: model.text_variation("  "), "the prompt is empty"),
        (lambda model: model.text_variation("a \udcff"), "not valid Unicode"),
        (lambda model: model.text_variation("red", beams=-1), "beams must be 0 to"),
        (lambda model: list(model.stream(["red", Blend(texts=("red",))], 1, 0, model.defaults)), "words, not 'red'"),
        (lambda model: list(model.stream(Blend(texts=("red",), add="blue"), 1, 0, model.defaults)), "Model.edit"),
        (lambda model: list(model.write(Blend((Seen(FIRST),), colour="match"), 1, 0, model.defaults)), "words have no colours"),
    ],
)  # fmt: skip
def test_what_is_refused(call: Callable[[Model], Any], says: str, model: Model) -> None:
    with pytest.raises(UsageError, match=says):
        call(model)


def test_models_without_the_flow(model: Model) -> None:
    with pytest.raises(UsageError, match="neither the flow text_to_image nor image_to_image"):
        tiny_model().image_variation(FIRST)
    some = Model("some", "versatile", {name: model.flows[name] for name in ("text_to_image", "image_to_text")}, (16, 16), model.defaults)
    assert some.image_to_text(FIRST, seed=0) == model.image_to_text(FIRST, seed=0)
    with pytest.raises(UsageError, match="needs the flow image_to_image"):
        some.image_variation(FIRST)
    with pytest.raises(UsageError, match="needs the flow text_to_text"):
        some.text_variation("red")
