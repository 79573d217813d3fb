"""Prompt fidelity: the share of held-out prompts for which every clause is right in the picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from tessera.data.scenes import Scenes
from tessera.data.scenes_language import Caption
from tessera.errors import UsageError
from tessera.evaluation.scenes_judge import Verdict, judge_pictures

__all__ = ["Fidelity", "evaluate_scenes", "held_out_captions", "summarise"]

HELD_OUT_SEED = 1000
"""The seed of the prompts that every model is measured on."""


Draw = Callable[[list[str], int], list[Image.Image]]
"""(prompts, seed) → a picture of each prompt."""


@dataclass(frozen=True)
class Fidelity:
    """Shares in 0..1 over `count` prompts. A clause's share counts only the prompts that state it; NaN when none does.

    right: every clause holds. things: exactly the mentioned things. clean: no damage and nothing else. relation and region
    count only the pictures whose things are right (they have no meaning otherwise). `standard_error` is that of `right`.
    """

    count: int
    right: float
    standard_error: float
    things: float
    clean: float
    relation: float
    region: float
    background: float

    def as_dict(self) -> dict[str, Any]:
        """JSON values; a share without any prompt is None."""
        return {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in asdict(self).items()}


def held_out_captions(count: int, seed: int = HELD_OUT_SEED) -> list[Caption]:
    """Captions of held-out scenes: combinations of things and background that training never shows."""
    if count < 1:
        raise UsageError(f"the number of prompts must be at least 1, not {count}")
    scenes = Scenes("held-out", seed=seed)
    return [scenes.describe(index)[1] for index in range(count)]


def _share(values: Sequence[bool | None]) -> float:
    stated = [value for value in values if value is not None]
    return float(np.mean(stated)) if stated else float("nan")


def summarise(verdicts: Sequence[Verdict]) -> Fidelity:
    """The shares over verdicts."""
    right = _share([verdict.right for verdict in verdicts])
    return Fidelity(
        count=len(verdicts),
        right=right,
        standard_error=float(np.sqrt(right * (1 - right) / len(verdicts))),
        things=_share([verdict.things for verdict in verdicts]),
        clean=_share([verdict.clean for verdict in verdicts]),
        relation=_share([verdict.relation for verdict in verdicts]),
        region=_share([verdict.region for verdict in verdicts]),
        background=_share([verdict.background for verdict in verdicts]),
    )


def evaluate_scenes(
    draw: Draw, count: int = 500, seed: int = 0, batch: int = 50, progress: Callable[[int, int], None] | None = None
) -> tuple[Fidelity, list[tuple[Caption, Image.Image, Verdict]]]:
    """Draws a picture for each of `count` held-out prompts and judges it.

    Args:
        draw: makes one picture per prompt from a seed; batch k is asked for with seed + k.
        progress: called with (pictures judged, count) after every batch.

    Returns:
        The shares, and every caption with its picture and verdict.
    """
    captions = held_out_captions(count)
    judged: list[tuple[Caption, Image.Image, Verdict]] = []
    for first in range(0, count, batch):
        part = captions[first : first + batch]
        pictures = draw([caption.text for caption in part], seed + first // batch)
        arrays = np.stack([np.asarray(picture.convert("RGB")).transpose(2, 0, 1) for picture in pictures])
        judged += list(zip(part, pictures, judge_pictures(arrays, part), strict=True))
        if progress is not None:
            progress(len(judged), count)
    return summarise([verdict for _, _, verdict in judged]), judged
