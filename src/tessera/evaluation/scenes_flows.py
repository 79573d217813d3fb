"""Each kind of flow on the scenes world: what it is given of a scene, how what it makes is judged, and the shares of what is right.

flow             given          right
text_to_image    a caption      every clause of the caption holds in the picture                `scenes_fidelity`
image_to_image   the picture    the same things and background are in the new picture           `scenes_variations`
image_to_text    the picture    every thing is named and every clause of the words holds        `scenes_writing`
text_to_text     a caption      every clause is kept and none added; do the words differ?       `scenes_writing`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tessera.data.scenes import Scene, Scenes, render
from tessera.data.scenes_language import Caption
from tessera.errors import UsageError
from tessera.evaluation.scenes_captions import judge_caption
from tessera.evaluation.scenes_fidelity import summarise_fidelity
from tessera.evaluation.scenes_judge import Reading, judge, read_picture
from tessera.evaluation.scenes_variations import compare, summarise_variations
from tessera.evaluation.scenes_writing import compare_wording, summarise_captions, summarise_rewrites
from tessera.evaluation.shares import Shares

__all__ = ["FLOW_MEASURES", "HELD_OUT_SEED", "FlowMeasure", "Shown", "evaluate_flow", "held_out", "shown"]

HELD_OUT_SEED = 1000
"""The seed of the scenes that every model is measured on."""


@dataclass(frozen=True)
class Shown:
    """A scene of a dataset, as number `index`, with one of its captions."""

    index: int
    scene: Scene
    caption: Caption

    @cached_property
    def picture(self) -> Image.Image:
        return Image.fromarray(render(self.scene).transpose(1, 2, 0))


class FlowMeasure(NamedTuple):
    """judge: (scene, what was made of it) → verdict. summarise: verdicts → shares. headline: the share that counts."""

    judge: Callable[[Shown, Any], Any]
    summarise: Callable[[Sequence[Any]], Shares]
    headline: str


def _read(picture: Image.Image) -> Reading:
    return read_picture(np.ascontiguousarray(np.asarray(picture.convert("RGB")).transpose(2, 0, 1)))


FLOW_MEASURES = {
    "text_to_image": FlowMeasure(lambda given, made: judge(_read(made), given.caption, made.width), summarise_fidelity, "right"),
    "image_to_image": FlowMeasure(lambda given, made: compare(_read(made), given.scene), summarise_variations, "same"),
    "image_to_text": FlowMeasure(lambda given, made: judge_caption(made, given.scene), summarise_captions, "right"),
    "text_to_text": FlowMeasure(lambda given, made: compare_wording(given.caption.text, made), summarise_rewrites, "same"),
}
"""Flow → how it is measured."""

Make = Callable[[Sequence[Shown], int], Sequence[Any]]
"""(scenes, seed) → a picture or a text of each."""


def shown(scenes: Scenes, index: int) -> Shown:
    """Number `index` of a dataset, with the caption that `example(index, 0)` has."""
    return Shown(index, *scenes.describe(index))


def held_out(count: int) -> list[Shown]:
    """Held-out scenes: combinations of things and background that training never shows."""
    if count < 1:
        raise UsageError(f"the number of scenes must be at least 1, not {count}")
    scenes = Scenes("held-out", seed=HELD_OUT_SEED)
    return [shown(scenes, index) for index in range(count)]


def evaluate_flow(
    flow: str, make: Make, count: int = 500, seed: int = 0, batch: int = 50, progress: Callable[[int, int], None] | None = None
) -> tuple[Any, list[tuple[Shown, Any, Any]]]:
    """Has something made of each of `count` held-out scenes, and judges it.

    Args:
        flow: a name of `FLOW_MEASURES`.
        make: makes a picture, or a text, of each scene from a seed; batch k is asked for with seed + k.
        progress: called with (judged ones, count) after every batch.

    Returns:
        The shares, and every scene with what was made of it and the verdict.
    """
    measure, given = FLOW_MEASURES[flow], held_out(count)
    judged: list[tuple[Shown, Any, Any]] = []
    for first in range(0, count, batch):
        part = given[first : first + batch]
        judged += [(one, made, measure.judge(one, made)) for one, made in zip(part, make(part, seed + first // batch), strict=True)]
        if progress is not None:
            progress(len(judged), count)
    return measure.summarise([verdict for _, _, verdict in judged]), judged
