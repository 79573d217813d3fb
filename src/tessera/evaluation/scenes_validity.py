"""Unconditional samples of the built-in world: how many are scenes at all, and how much of the world they reach.

A sample is valid when the judge reads it as a scene: a background, one to three things, and nothing else. Coverage (`prdc`) is that of
held-out scenes by the included feature network; since held-out combinations never occur in training, even scenes drawn by the world itself
from its training combinations do not reach 1 - 2^-k: theirs is the ceiling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tessera.data.scenes import Scenes
from tessera.evaluation.fid import RunningStatistics, frechet_distance
from tessera.evaluation.measuring import Measurer
from tessera.evaluation.picture_sets import DatasetPictures, PictureSet, Shown
from tessera.evaluation.prdc import PRDC, prdc
from tessera.evaluation.scenes_flows import HELD_OUT_SEED
from tessera.evaluation.scenes_judge import Reading, read_picture

__all__ = ["Validity", "evaluate_unconditional", "held_out_pictures", "is_scene"]


@dataclass(frozen=True)
class Validity:
    """count: samples. valid: share of scenes. standard_error: of it. fid, prdc: against held-out scenes. ceiling: see the module."""

    count: int
    valid: float
    standard_error: float
    fid: float
    prdc: PRDC
    ceiling: float


def is_scene(reading: Reading) -> bool:
    """Whether a picture shows a background, one to three things, and nothing else."""
    return reading.background is not None and reading.clean and 1 <= len(reading.things) <= 3


class Judged(PictureSet):
    """The same pictures, each judged on its way."""

    def __init__(self, pictures: PictureSet) -> None:
        self.pictures, self.verdicts = pictures, list[bool]()
        self.about, self.count, self.skipped = pictures.about, pictures.count, pictures.skipped
        self.identity = None  # every picture has to pass

    def shown(self, limit: int | None) -> Iterator[Shown]:
        self.verdicts.clear()
        for image, prompt in self.pictures.shown(limit):
            self.verdicts.append(is_scene(read_picture(image.numpy())))
            yield image, prompt


def held_out_pictures(split: str = "held-out", seed: int = HELD_OUT_SEED) -> DatasetPictures:
    """Scenes of a split that no training run sees in this order."""
    return DatasetPictures(Scenes(split, seed), {"kind": "scenes", "split": split, "seed": seed})


def evaluate_unconditional(
    samples: PictureSet, measurer: Measurer, count: int, k: int = 5, progress: Callable[[int], None] | None = None
) -> Validity:
    """Judges the first `count` samples and compares them with as many held-out scenes."""
    judged = Judged(samples)
    fake = measurer.features(judged, count, progress).values
    real = measurer.features(held_out_pictures(), count).values
    trained = measurer.features(held_out_pictures("train"), count).values
    statistics = []
    for features in (fake, real):
        running = RunningStatistics(features.shape[1])
        running.add(features)
        statistics.append(running.result())
    valid = sum(judged.verdicts) / count
    return Validity(
        count=count,
        valid=valid,
        standard_error=(valid * (1 - valid) / count) ** 0.5,
        fid=frechet_distance(*statistics).distance,
        prdc=prdc(real, fake, k),
        ceiling=prdc(real, trained, k).coverage,
    )
