"""From a set of pictures to its features, or to their statistics alone, computed once and kept on disk.

Features are a file of float32 [N, D] that is mapped into memory, so N is bounded by the disk; statistics (`fid`) are running sums, for
which no features are kept. Both say which extractor they are of and which pictures they were made from: `pixels` is the SHA-256 of the
pictures' sizes and values in their order, whatever files they came from.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tessera.atomic import write_file, write_folder
from tessera.errors import TesseraError
from tessera.evaluation.extractors import FeatureExtractor
from tessera.evaluation.fid import RunningStatistics, Statistics
from tessera.evaluation.picture_sets import PictureSet
from tessera.json_files import parse_json, read_json

__all__ = ["Features", "MeasuredStatistics", "Measurer", "Origin", "read_statistics"]

Progress = Callable[[int], None]
"""Called with the number of pictures whose features are known."""
KIND = "tessera statistics"


@dataclass(frozen=True)
class Origin:
    """What features are of. extractor: its `about`. pictures: the set's `about`. count: N. pixels: see the module. skipped: of the set."""

    extractor: dict[str, Any]
    pictures: dict[str, Any]
    count: int
    pixels: str
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def account(self) -> dict[str, Any]:
        """As of `PictureSet`."""
        return {**self.pictures, "skipped": self.skipped}


@dataclass(frozen=True)
class Features:
    """values: of every picture in order, mapped from a file."""

    values: Float[Tensor, "n d"]
    origin: Origin


@dataclass(frozen=True)
class MeasuredStatistics:
    """Statistics with where they come from."""

    values: Statistics
    origin: Origin

    def save(self, path: Path) -> None:
        """Writes them to a file, for `read_statistics`."""
        tensors = {"mean": self.values.mean, "covariance": self.values.covariance.contiguous()}
        with write_file(path) as part:
            save_file(tensors, part, {"kind": KIND, "origin": json.dumps(asdict(self.origin))})


def read_statistics(path: Path, extractor: FeatureExtractor | None = None) -> MeasuredStatistics:
    """Statistics from a file. Raises TesseraError when it is damaged or none, or holds statistics from another extractor."""
    try:
        with safe_open(path, framework="pt") as file:
            written = file.metadata() or {}
            if written.get("kind") != KIND:
                raise TesseraError(f"{path} holds no statistics: expected a file that `tessera evaluate statistics` wrote")
            origin = Origin(**parse_json(written["origin"]))
            mean, covariance = file.get_tensor("mean"), file.get_tensor("covariance")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise TesseraError(f"the statistics in {path} cannot be read ({error}): make them again") from None
    if extractor is not None:
        _check(origin, extractor, f"the statistics in {path}")
    return MeasuredStatistics(Statistics(origin.count, mean, covariance), origin)


def _check(origin: Origin, extractor: FeatureExtractor, what: str) -> None:
    """Raises TesseraError unless `what` comes from this very extractor."""
    theirs, ours = origin.extractor, extractor.about()
    if theirs["sha256"] != ours["sha256"]:
        names = f"{theirs['name']} ({theirs['sha256'][:12]})", f"{ours['name']} ({ours['sha256'][:12]})"
        raise TesseraError(f"{what} come from the extractor {names[0]}, but this measures with {names[1]}: make them again with it")


class Measurer:
    """Measures with one extractor.

    Args:
        extractor: makes the features.
        cache: folder where features and statistics are kept; None: nowhere (features then live in a temporary file).
        batch_size: pictures that go through the extractor together.
    """

    def __init__(self, extractor: FeatureExtractor, cache: Path | None = None, batch_size: int = 50) -> None:
        self.extractor, self.cache, self.batch_size = extractor, cache, batch_size
        self.about = extractor.about()

    def features(self, pictures: PictureSet, count: int | None = None, progress: Progress | None = None) -> Features:
        """Features of the first `count` pictures (None: of all). Raises UsageError when there are fewer."""
        place = self._place(pictures, count, "features")
        if place is not None and (found := self._kept_features(place)) is not None:
            pictures.skipped.update(found.origin.skipped)
            return found
        if place is None:
            # Nobody else needs it: the file goes when the last tensor that maps it does.
            with tempfile.TemporaryFile() as file:
                origin = self._write(pictures, count, file, progress)
                file.flush()
                return Features(_mapped(file, origin.count, self.extractor.width), origin)
        with write_folder(place) as folder:
            with (folder / "features.f32").open("wb") as file:
                origin = self._write(pictures, count, file, progress)
            (folder / "origin.json").write_text(json.dumps(asdict(origin), indent=1), encoding="utf-8")
        return Features(_mapped(place / "features.f32", origin.count, self.extractor.width), origin)

    def statistics(self, pictures: PictureSet, count: int | None = None, progress: Progress | None = None) -> MeasuredStatistics:
        """Mean and covariance of the same features; these themselves are not kept."""
        place = self._place(pictures, count, "statistics")
        if place is not None and place.is_file():
            with suppress(TesseraError):  # a damaged or foreign one is made again
                known = read_statistics(place, self.extractor)
                pictures.skipped.update(known.origin.skipped)
                return known
        kept = self._place(pictures, count, "features")
        running = RunningStatistics(self.extractor.width)
        if kept is not None and (features := self._kept_features(kept)) is not None:
            pictures.skipped.update(features.origin.skipped)
            for batch in features.values.split(1024):
                running.add(batch)
            made = MeasuredStatistics(running.result(), features.origin)
        else:
            origin = self._extract(pictures, count, running.add, progress)
            made = MeasuredStatistics(running.result(), origin)
        if place is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            made.save(place)
        return made

    def _place(self, pictures: PictureSet, count: int | None, kind: str) -> Path | None:
        if self.cache is None or pictures.identity is None:
            return None
        key = hashlib.sha256(json.dumps([self.about["sha256"], pictures.identity, count or pictures.count]).encode()).hexdigest()
        return self.cache / (f"{key[:32]}.{kind}" + (".safetensors" if kind == "statistics" else ""))

    def _kept_features(self, folder: Path) -> Features | None:
        """Those in a folder; None when it is not there, not whole, or not of this extractor."""
        try:
            origin = Origin(**read_json(folder / "origin.json"))
            _check(origin, self.extractor, "the features")
            if (folder / "features.f32").stat().st_size != origin.count * self.extractor.width * 4:
                return None
            return Features(_mapped(folder / "features.f32", origin.count, self.extractor.width), origin)
        except (OSError, ValueError, KeyError, TypeError, TesseraError):
            return None

    def _write(self, pictures: PictureSet, count: int | None, file: Any, progress: Progress | None) -> Origin:
        return self._extract(pictures, count, lambda batch: file.write(batch.contiguous().numpy().tobytes()), progress)

    def _extract(self, pictures: PictureSet, count: int | None, take: Callable[[Tensor], object], progress: Progress | None) -> Origin:
        """Gives every batch's features to `take`."""
        digest, done = hashlib.sha256(), 0
        for image, _ in pictures.batches(count, self.batch_size):
            digest.update(f"{list(image.shape[1:])}".encode() * len(image))
            digest.update(image.contiguous().numpy().tobytes())
            features = self.extractor(image)
            if not torch.isfinite(features).all():
                raise TesseraError(f"the extractor {self.extractor.name} gives features that are not finite: its weights are damaged")
            take(features)
            done += len(image)
            if progress is not None:
                progress(done)
        return Origin(self.about, pictures.about, done, digest.hexdigest(), dict(pictures.skipped))


def _mapped(file: Any, count: int, width: int) -> Float[Tensor, "n d"]:
    """float32 [count, width] of a file, read as it is needed. Writing to the tensor does not reach the file."""
    return torch.from_numpy(np.memmap(file, np.float32, "c", shape=(count, width)))
