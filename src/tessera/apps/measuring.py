"""What the commands that measure sets of pictures share: options, both sides, progress, reports."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tessera.apps.console import print_json, progress_bar, say, show, shown_warnings
from tessera.apps.loading_options import LoadingOptions
from tessera.apps.options import AsJSON, Debug, Device, Precision
from tessera.apps.picture_sets import Named
from tessera.errors import UsageError

if TYPE_CHECKING:
    from tessera.evaluation.measuring import Features, MeasuredStatistics, Measurer
    from tessera.evaluation.picture_sets import PictureSet
    from tessera.evaluation.reports import Report

__all__ = [
    "DEFAULT", "SETS", "Bench", "Count", "FeatureOptions", "Output", "Reference", "ReferenceCount", "Samples", "SetOptions", "against",
    "finish", "make_bench", "progress_of",
]  # fmt: skip

DEFAULT = 5000
SETS = "a folder of pictures, data:KIND,key=value,… or model:NAME,setting=value,…"

Samples = Annotated[str, typer.Argument(help=f"What is measured: {SETS}.")]
Reference = Annotated[str, typer.Argument(help="What it is measured against: the same, or a file of statistics (FID).")]
Count = Annotated[
    int | None,
    typer.Option("--count", "-n", help=f"Pictures of either side; all unless given, and {DEFAULT} where neither side has an end."),
]
ReferenceCount = Annotated[int | None, typer.Option(help="Pictures of the reference, where it is to have another number.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write the number and its recipe to this JSON file.")]


@dataclass(frozen=True)
class SetOptions(LoadingOptions):
    """Of every command that measures sets of pictures: how they are made, see `Named`."""

    size: Annotated[
        int | None,
        typer.Option(help="Side in pixels that pictures of folders are resized and cropped to first; as they are unless given."),
    ] = None
    prompts: Annotated[
        str | None,
        typer.Option(metavar="FILE|data:…", help="What a model draws; the captions of a dataset on the other side unless given."),
    ] = None
    batch_size: Annotated[int, typer.Option(help="Pictures computed together: speed and memory.")] = 50
    device: Device = "auto"
    precision: Precision = "auto"
    as_json: AsJSON = False
    debug: Debug = False

    @property
    def named(self) -> Named:
        return Named(self.size, self.prompts, self.device, self.precision, self.batch_size, self)


@dataclass(frozen=True)
class FeatureOptions(SetOptions):
    """Of those that compare features too."""

    extractor: Annotated[
        str,
        typer.Option(metavar="NAME[:WEIGHTS]", help="Whose features count: scenes (included), inception:FILE, dinov2:FOLDER, clip:FILE."),
    ] = "scenes"
    cache: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where features are kept; tessera/features in the user's cache unless given.")
    ] = None
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no features.")] = False

    def measurer(self) -> "Measurer":
        """Raises UsageError for options that mean nothing together."""
        from tessera.checkpoints.hashes import cache_folder
        from tessera.evaluation.extractors import make_extractor
        from tessera.evaluation.measuring import Measurer
        from tessera.model import torch_device, whole_number

        whole_number("batch_size", self.batch_size, 1)
        if self.no_cache and self.cache is not None:
            raise UsageError("--no-cache keeps no features, so --cache has no meaning: leave one of them out")
        place = None if self.no_cache else self.cache or cache_folder() / "features"
        return Measurer(make_extractor(self.extractor, torch_device(self.device)), place, self.batch_size)


@dataclass(frozen=True)
class Bench:
    """What measures, and how many pictures of each side."""

    measurer: "Measurer"
    samples: "PictureSet"
    reference: "PictureSet"
    counts: tuple[int | None, int | None]

    def features(self) -> "tuple[Features, Features]":
        """Of samples and reference."""
        with progress_of(self.samples, self.counts[0]) as step:
            fake = self.measurer.features(self.samples, self.counts[0], step)
        with progress_of(self.reference, self.counts[1]) as step:
            return fake, self.measurer.features(self.reference, self.counts[1], step)

    def statistics(self) -> "tuple[MeasuredStatistics, MeasuredStatistics]":
        """Of samples and reference."""
        with progress_of(self.samples, self.counts[0]) as step:
            fake = self.measurer.statistics(self.samples, self.counts[0], step)
        with progress_of(self.reference, self.counts[1]) as step:
            return fake, self.measurer.statistics(self.reference, self.counts[1], step)


@contextmanager
def progress_of(pictures: "PictureSet", count: int | None) -> Iterator[Callable[[int], None]]:
    """A bar that the pictures of a set are counted on; at its end it is said how many of them could not be used."""
    with shown_warnings(), progress_bar(f"measuring {pictures.name}", count or pictures.count or 0, "pictures") as bar:
        yield lambda done: bar.set(done)
    if pictures.skipped:
        path, reason = next(iter(pictures.skipped.items()))
        say(f"warning: {len(pictures.skipped)} of what was found in {pictures.name} could not be used, the first, {path}, because {reason}")


def _counts(
    samples: "PictureSet", reference: "PictureSet", count: int | None, reference_count: int | None, least: int, equal: bool = False
) -> tuple[int | None, int | None]:
    """How many pictures of each side. `equal`: both the same number, where neither is given."""
    for given in (count, reference_count):
        if given is not None and given < least:
            raise UsageError(f"at least {least} pictures are needed on each side, not {given}: raise -n")
    ends = [side.count for side in (samples, reference) if side.count is not None]
    fewest = min(ends, default=DEFAULT)
    usual = [fewest if equal or side.count is None else None for side in (samples, reference)]
    return count or usual[0], reference_count or count or usual[1]


def make_bench(
    samples: str, reference: str, options: SetOptions, measurer: "Measurer", count: int | None, reference_count: int | None, least: int = 2,
    equal: bool = False,
) -> Bench:  # fmt: skip
    """Both sides and how many of each."""
    against = options.named.pictures(reference, samples)
    measured = options.named.pictures(samples, reference)
    return Bench(measurer, measured, against, _counts(measured, against, count, reference_count, least, equal))


def finish(report: "Report", sentence: str, output: Path | None, as_json: bool) -> None:
    """Saves and says a report, and where its features know nothing of its pictures."""
    names = [str(report.samples.get("name")), str(report.recipe.get("reference", {}).get("name"))]
    if report.recipe.get("extractor", {}).get("name") == "scenes" and not any("scene" in name for name in names):
        say(
            "warning: the features of `scenes` tell the pictures of the built-in world apart; for photographs give --extractor "
            "inception:FILE or dinov2:FOLDER"
        )
    if output is not None:
        report.save(output)
    if as_json:
        print_json(report.as_dict())
    else:
        show(sentence)


def against(report: "Report") -> str:
    """The recipe in words, for the console."""
    recipe = report.recipe
    return (
        f"({recipe['pictures']} pictures of {report.samples['name']} against {recipe['reference']['pictures']} of "
        f"{recipe['reference']['name']}; extractor {recipe['extractor']['name']} {recipe['extractor']['sha256'][:12]})"
    )
