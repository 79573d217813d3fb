"""`tessera evaluate fid`, `kid`, `prdc`, `statistics` and `compare`: how far a set of pictures is from another."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import tessera
from tessera.apps.console import print_json, say, show
from tessera.apps.measuring import (
    Count,
    FeatureOptions,
    Output,
    Reference,
    ReferenceCount,
    Samples,
    against,
    finish,
    make_bench,
    progress_of,
)
from tessera.apps.option_lists import takes
from tessera.apps.options import AsJSON, Debug
from tessera.errors import TesseraError, UsageError

__all__ = ["compare", "fid", "kid", "prdc", "statistics"]


def _warn_of_few(count: int, width: int) -> None:
    if count <= width:
        say(f"warning: {count} pictures are few for features of {width} values: FID of so few is much too high, and only comparable at "
            "the same number; kid has no such bias")  # fmt: skip


@takes(FeatureOptions)
def fid(
    samples: Samples,
    reference: Reference,
    count: Count = None,
    reference_count: ReferenceCount = None,
    output: Output = None,
    *,
    options: FeatureOptions,
) -> None:
    """Fréchet distance of features: 0 is the same distribution. The reference may be a file that `evaluate statistics` wrote."""
    from tessera.evaluation.fid import frechet_distance
    from tessera.evaluation.measuring import read_statistics
    from tessera.evaluation.reports import Report, recipe_of

    measurer = options.measurer()
    if Path(reference).is_file():
        known = read_statistics(Path(reference), measurer.extractor)
        if reference_count not in (None, known.origin.count):
            raise UsageError(f"the statistics in {reference} are of {known.origin.count} pictures, not of {reference_count}")
        measured = options.named.pictures(samples)
        wanted = count or (known.origin.count if measured.count is None else None)
        with progress_of(measured, wanted) as step:
            made = measurer.statistics(measured, wanted, step)
    else:
        made, known = make_bench(samples, reference, options, measurer, count, reference_count).statistics()
    _warn_of_few(min(made.origin.count, known.origin.count), measurer.extractor.width)
    found = frechet_distance(made.values, known.values)
    report = Report(
        "fid", {"fid": found.distance, **{name: value for name, value in asdict(found).items() if name != "distance"}},
        recipe_of(known.origin, made.origin), made.origin.account, tessera.__version__,
    )  # fmt: skip
    finish(report, f"FID {found.distance:.4f} {against(report)}", output, options.as_json)


@takes(FeatureOptions)
def kid(
    samples: Samples,
    reference: Reference,
    count: Count = None,
    reference_count: ReferenceCount = None,
    subsets: Annotated[int, typer.Option(help="Random subsets that are averaged over.")] = 100,
    subset_size: Annotated[int, typer.Option(help="Pictures in a subset.")] = 1000,
    output: Output = None,
    *,
    options: FeatureOptions,
) -> None:
    """Kernel distance of features: 0 is the same distribution, whatever the number of pictures."""
    from tessera.evaluation.kid import SEED, kernel_distance
    from tessera.evaluation.reports import Report, recipe_of

    measurer = options.measurer()
    fake, real = make_bench(samples, reference, options, measurer, count, reference_count).features()
    found = kernel_distance(fake.values, real.values, subsets, subset_size)
    recipe = recipe_of(real.origin, fake.origin, subsets=subsets, subset_size=subset_size, seed=SEED)
    report = Report("kid", {"kid": found.mean, "deviation": found.deviation}, recipe, fake.origin.account, tessera.__version__)
    finish(report, f"KID {found.mean:.6f} (deviation over subsets {found.deviation:.6f}) {against(report)}", output, options.as_json)


@takes(FeatureOptions)
def prdc(
    samples: Samples,
    reference: Reference,
    k: Annotated[int, typer.Option("-k", help="Neighbours that make a ball; 3 in Unleashing Transformers.")] = 5,
    count: Count = None,
    reference_count: ReferenceCount = None,
    output: Output = None,
    *,
    options: FeatureOptions,
) -> None:
    """Precision, recall, density and coverage of features: are the samples like the reference, and do they reach all of it?"""
    from tessera.evaluation.prdc import prdc as measure
    from tessera.evaluation.reports import Report, recipe_of

    measurer = options.measurer()
    fake, real = make_bench(samples, reference, options, measurer, count, reference_count, equal=True).features()
    found = asdict(measure(real.values, fake.values, k))
    report = Report("prdc", found, recipe_of(real.origin, fake.origin, k=k), fake.origin.account, tessera.__version__)
    numbers = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
    finish(report, f"{numbers} {against(report)}, k = {k}", output, options.as_json)


@takes(FeatureOptions)
def statistics(
    pictures: Samples,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where they go: a .safetensors file.")],
    count: Count = None,
    *,
    options: FeatureOptions,
) -> None:
    """Mean and covariance of the features of pictures, to measure FID against without the pictures."""
    measurer = options.measurer()
    measured = options.named.pictures(pictures)
    with progress_of(measured, count) as step:
        made = measurer.statistics(measured, count, step)
    made.save(output)
    if options.as_json:
        print_json(asdict(made.origin))
    else:
        show(f"{output}: statistics of {made.origin.count} pictures of {measured.name}")


def compare(
    first: Annotated[Path, typer.Argument(help="A report that `tessera evaluate … -o` wrote.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    as_json: AsJSON = False,
    debug: Debug = False,
) -> None:
    """Two numbers beside each other, if they were measured alike; otherwise what differs, and exit code 1."""
    from tessera.evaluation.reports import difference, read_report

    one, two = read_report(first), read_report(second)
    reason = difference(one, two)
    if reason is not None:
        raise TesseraError(f"{first} and {second} cannot be compared: {reason}")
    names = [name for name in one.values if name in two.values]
    changes = {name: (a, b) for name in names if (a := one.values[name]) is not None and (b := two.values[name]) is not None}
    if as_json:
        print_json({"metric": one.metric, "values": {name: {"first": a, "second": b} for name, (a, b) in changes.items()}})
        return
    for name, (a, b) in changes.items():
        show(f"{name}: {a:.6g} → {b:.6g} ({b - a:+.6g})")
