"""Every flow of a model on the same pairs of pictures and words, in as many processes as there are.

flow             given       measured
text_to_image    words       FID against the pictures; CLIP score of picture and words
image_to_image   a picture   FID against the pictures; CLIP similarity: 100 · mean cosine of both pictures
image_to_text    a picture   BLEU against the words of the pair; CLIP score of picture and words
text_to_text     words       BLEU against them; share of texts that differ from them

Of the scenes world there are the shares of `scenes_flows` too. Pairs are dealt out in batches: process r makes numbers r, r + P, r + 2P, …
of them. What is made of pair i depends on (seed, i) only, so the numbers depend neither on P nor on the size of batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from tessera.atomic import write_file
from tessera.contexts.joint import JointEncoder
from tessera.data.dataset import Dataset
from tessera.data.scenes import Scenes
from tessera.errors import TesseraError, UsageError
from tessera.evaluation.extractors import FeatureExtractor
from tessera.evaluation.fid import RunningStatistics, frechet_distance
from tessera.evaluation.flow_calls import FlowCall
from tessera.evaluation.flow_rows import Row, measures
from tessera.evaluation.joint_features import inputs_of
from tessera.evaluation.picture_sets import as_levels
from tessera.evaluation.process_group import Processes
from tessera.evaluation.scenes_flows import FLOW_MEASURES, shown
from tessera.record import save_png

__all__ = ["FlowsEvaluation", "Measured", "Pair"]


@dataclass(frozen=True)
class Pair:
    """A picture and its words, number `index` of a dataset."""

    index: int
    image: UInt8[Tensor, "3 h w"]
    words: str

    @property
    def picture(self) -> Image.Image:
        return Image.fromarray(self.image.permute(1, 2, 0).numpy())


@dataclass(frozen=True)
class Measured:
    """values: `<flow>.<measure>` → the number, None where there was nothing to judge. count: pairs. skipped: what could not be read or had
    no words → reason. pixels, words: SHA-256 of both sides of the pairs, in order."""

    values: dict[str, float | None]
    count: int
    skipped: dict[str, str]
    pixels: str
    words: str


@dataclass
class _Made:
    """What one flow made, of this process's part or of all: rows by the number of their pair."""

    statistics: RunningStatistics
    rows: dict[int, Row] = field(default_factory=dict)


@dataclass(frozen=True)
class FlowsEvaluation:
    """What is measured, and how.

    calls: the flows. data: pairs. count: the first so many of its examples. extractor: whose features FID compares. clip: without one
    there are no CLIP scores. batch_size: pairs whose pictures or words are made together. folder: where these are kept, if anywhere.
    """

    calls: Sequence[FlowCall]
    data: Dataset
    count: int
    extractor: FeatureExtractor
    clip: JointEncoder | None = None
    seed: int = 0
    batch_size: int = 16
    folder: Path | None = None
    processes: Processes = field(default_factory=Processes)

    def run(self, progress: Callable[[int], None] | None = None) -> Measured:
        """Makes and measures. progress: called with the number of pairs that all processes have done, if they are equally fast.

        Raises:
            UsageError: no pair was found; fewer than two of them, where pictures are compared.
            TesseraError: what was made cannot be written.
        """
        made = {call.flow: _Made(RunningStatistics(self.extractor.width)) for call in self.calls}
        real = RunningStatistics(self.extractor.width)
        digests: dict[int, tuple[str, str]] = {}
        missing: dict[str, str] = {}
        for number, first in enumerate(range(self.processes.rank * self.batch_size, self.count, self.processes.count * self.batch_size), 1):
            pairs = list(self._pairs(first, missing))
            if pairs:
                digests |= {pair.index: _digests(pair) for pair in pairs}
                if self._draws:
                    self._add(real, [pair.image for pair in pairs])
                for call in self.calls:
                    for together in _without_gaps(pairs):
                        self._make(call, together, made[call.flow])
            if progress is not None:
                progress(min(self.count, number * self.processes.count * self.batch_size))
        return self._whole(made, real, digests, missing | dict(self.data.skipped))

    @property
    def _draws(self) -> bool:
        return not all(call.writes_words for call in self.calls)

    def _pairs(self, first: int, missing: dict[str, str]) -> Iterator[Pair]:
        """Those of a batch that can be read and have words."""
        for index in range(first, min(first + self.batch_size, self.count)):
            example = self.data.example(index, 0)
            if example is None:
                continue  # the dataset has noted why
            if not isinstance(example.prompt, str) or not example.prompt.strip():
                missing[f"example {index}"] = f"example {index} comes without words"
                continue
            yield Pair(index, example.image, example.prompt)

    def _make(self, call: FlowCall, pairs: Sequence[Pair], made: _Made) -> None:
        """Of pairs whose numbers follow each other."""
        given: list[Any] = [pair.words if call.reads_words else pair.picture for pair in pairs]
        results = call(given, self.seed, pairs[0].index)
        rows = [Row(pair.words) for pair in pairs]
        made.rows |= {pair.index: row for pair, row in zip(pairs, rows, strict=True)}
        images = [pair.image for pair in pairs]
        if call.writes_words:
            for row, text in zip(rows, results, strict=True):
                row.text = text
        else:
            drawn = [as_levels(picture) for picture in results]
            self._add(made.statistics, drawn)
        if self.clip is not None and call.flow != "text_to_text":
            seen = self._seen(images if call.writes_words else drawn)
            beside = self._seen(images) if call.flow == "image_to_image" else self._read(results if call.writes_words else given)
            for row, cosine in zip(rows, F.cosine_similarity(seen, beside, dim=-1).tolist(), strict=True):
                row.cosine = cosine
        if isinstance(self.data, Scenes):
            judge = FLOW_MEASURES[call.flow].judge
            for row, pair, result in zip(rows, pairs, results, strict=True):
                row.verdict = judge(shown(self.data, pair.index), result)
        if self.folder is not None:
            for pair, result in zip(pairs, results, strict=True):
                _keep(self.folder / call.flow, pair.index, result)

    def _add(self, statistics: RunningStatistics, images: Sequence[UInt8[Tensor, "3 h w"]]) -> None:
        for batch in _of_one_size(images):
            statistics.add(self.extractor(batch))

    def _seen(self, images: Sequence[UInt8[Tensor, "3 h w"]]) -> Tensor:
        assert self.clip is not None
        with torch.inference_mode():
            inputs = torch.cat([inputs_of(image[None], self.clip.size) for image in images])
            return self.clip.encode_image(inputs.to(self.clip.device)).float()

    def _read(self, words: Sequence[str]) -> Tensor:
        assert self.clip is not None
        with torch.inference_mode():
            return self.clip.encode_text(list(words)).float()

    def _whole(
        self, made: Mapping[str, _Made], real: RunningStatistics, digests: dict[int, tuple[str, str]], skipped: dict[str, str]
    ) -> Measured:
        """From the parts of all processes."""
        parts = self.processes.gather((made, real, digests, skipped))
        digests = {index: both for part in parts for index, both in sorted(part[2].items())}
        skipped = {what: reason for part in parts for what, reason in part[3].items()}
        if not digests:
            raise UsageError(
                f"none of the {self.count} examples has a picture and words: {next(iter(skipped.values()), 'no reason known')}"
            )
        values: dict[str, float | None] = {}
        pictures = _joined([part[1] for part in parts])
        for call in self.calls:
            rows = {index: row for part in parts for index, row in part[0][call.flow].rows.items()}
            found = measures(call.flow, [rows[index] for index in sorted(rows)])
            if not call.writes_words:
                own = _joined([part[0][call.flow].statistics for part in parts])
                found["fid"] = frechet_distance(own.result(), pictures.result()).distance
            values |= {f"{call.flow}.{name}": value for name, value in sorted(found.items())}
        ordered = [digests[index] for index in sorted(digests)]
        pixels, words = (hashlib.sha256("".join(side).encode()).hexdigest() for side in zip(*ordered, strict=True))
        return Measured(values, len(digests), skipped, pixels, words)


def _without_gaps(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Parted wherever a number is missing."""
    parts: list[list[Pair]] = []
    for pair in pairs:
        if parts and parts[-1][-1].index + 1 == pair.index:
            parts[-1].append(pair)
        else:
            parts.append([pair])
    return parts


def _digests(pair: Pair) -> tuple[str, str]:
    pixels = hashlib.sha256(f"{list(pair.image.shape)}".encode() + pair.image.contiguous().numpy().tobytes())
    return pixels.hexdigest(), hashlib.sha256(pair.words.encode()).hexdigest()


def _of_one_size(images: Sequence[UInt8[Tensor, "3 h w"]]) -> list[UInt8[Tensor, "b 3 h w"]]:
    shapes = dict.fromkeys(image.shape for image in images)
    return [torch.stack([image for image in images if image.shape == shape]) for shape in shapes]


def _joined(parts: Sequence[RunningStatistics]) -> RunningStatistics:
    whole = parts[0]
    for other in parts[1:]:
        whole.join(other)
    return whole


def _keep(folder: Path, index: int, made: Any) -> None:
    """Writes a picture or a text as a file."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(made, str):
            with write_file(folder / f"{index:06}.txt") as part:
                part.write_text(made + "\n", encoding="utf-8")
        else:
            with write_file(folder / f"{index:06}.png") as part:
                save_png(made, part)
    except OSError as error:
        raise TesseraError(f"{folder} cannot be written ({error.strerror or error}): free some space, or give another --keep") from None
