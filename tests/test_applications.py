"""Variations, captions, rewritings, blends and editing by words, of a tiny model of four flows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from tessera.contexts.prompt_warnings import PromptTruncated
from tessera.model import Model
from tessera.record import Record, Written
from tessera.registry import FLOAT_SAMPLERS
from tests.tiny_versatile import tiny_versatile

pytestmark = pytest.mark.filterwarnings(f"ignore::{PromptTruncated.__module__}.{PromptTruncated.__name__}")

FIRST = Image.effect_mandelbrot((20, 16), (-2, -1, 1, 1), 20).convert("RGB")
SECOND = Image.new("RGB", (16, 16), (200, 30, 40))
MASK = Image.new("L", (20, 16), 0)
MASK.paste(255, (0, 0, 9, 16))


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_versatile()


def same(first: Image.Image, second: Image.Image) -> bool:
    return first.tobytes() == second.tobytes()


CALLS: dict[str, Callable[..., Any]] = {
    "image_variation": lambda model, **how: model.image_variation(FIRST, **how),
    "blend": lambda model, **how: model.blend([FIRST, SECOND], "a red circle", masks=[MASK, None], **how),
    "edit": lambda model, **how: model.edit(FIRST, "red", "a red circle", **how),
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
    assert same(again, one) if isinstance(one, Image.Image) else again == one
    assert [record_of(made).index for made in many] == [0, 1, 2]
    assert record_of(one).index == 2


def record_of(made: Image.Image | str) -> Record:
    record = made.record if isinstance(made, Written) else Record.of(made)  # type: ignore[arg-type]
    assert record is not None
    return record
