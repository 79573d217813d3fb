"""`tessera verify`: whether a model computes what the original, the port or another model computes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tessera.apps.console import print_json, progress_bar, say, show, shown_warnings
from tessera.apps.loading_options import LoadingOptions
from tessera.apps.option_lists import takes
from tessera.apps.options import AsJSON, Debug, Device
from tessera.errors import UsageError

if TYPE_CHECKING:
    from tessera.checkpoints.verify import Verification

__all__ = ["verify"]


@takes(LoadingOptions)
def verify(
    source: Annotated[str, typer.Argument(metavar="DIR", help="The model: a folder, a bundled name or a released file.")],
    against: Annotated[
        str,
        typer.Option(metavar="PATH", help="A recording of an original, a diffusers folder, or another model (folder, name, file)."),
    ],
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write a report with pictures: .html or .md.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Words or label of the run; not with a recording.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Picture for the codec; not with a recording.")] = None,
    steps: Annotated[int | None, typer.Option(help="Follow only the first steps of the run; all unless given.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the shared noise, 0 unless given; not with a recording.")] = None,
    accept: Annotated[
        list[str] | None, typer.Option(metavar="ROW=VALUE", help="Accept a discrepancy of a row up to VALUE; may be repeated.")
    ] = None,
    device: Device = "auto",
    as_json: AsJSON = False,
    debug: Debug = False,
    *,
    options: LoadingOptions,
) -> int:
    """Compares every stage of a model with another implementation of it, with the same noise. Leaves with 0 if all rows hold, else 1."""
    accepted = parse_accepted(accept or [])
    from tessera.checkpoints.verification.report import check_report_path, write_report
    from tessera.checkpoints.verify import Inputs
    from tessera.checkpoints.verify import verify as run

    if report is not None:
        check_report_path(report)
    with shown_warnings(), progress_bar("verifying", 1, "runs") as bar:
        result = run(
            source, against, Inputs(prompt, picture, seed), steps=steps, accept=accepted, device=device,
            after_step=lambda done, total: bar.set(done / total), **options.extras,
        )  # fmt: skip
    if report is not None:
        say(f"the report is in {', '.join(map(str, write_report(result, report)))}")
    if as_json:
        print_json(result.as_json())
    else:
        show_table(result)
    return 0 if result.holds else 1


def parse_accepted(words: Sequence[str]) -> dict[str, float]:
    """["row=value", …] → the values by row. Raises UsageError for a word of another form."""
    accepted = {}
    for word in words:
        row, sign, value = word.partition("=")
        try:
            accepted[row.strip()] = float(value)
        except ValueError:
            sign = ""
        if not sign:
            raise UsageError(f"--accept {word!r} is not ROW=VALUE, such as run_tokens=3")
    return accepted


def show_table(result: "Verification") -> None:
    """The table, on standard output."""
    from tessera.checkpoints.verification.report import number

    lines = [("row", "measured", "accepted", "verdict", "")]
    lines += [(row.name, number(row.measured), number(row.accepted), row.verdict, row.detail) for row in result.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    for line in lines:
        show("  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[4]]).rstrip())
    show("verified" if result.holds else "NOT verified")
