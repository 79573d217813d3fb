"""`tessera download`: a released file, into the store or a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tessera.apps.console import say, show
from tessera.apps.options import Debug
from tessera.errors import UsageError

if TYPE_CHECKING:
    from tessera.checkpoints.cards import Card
    from tessera.checkpoints.download import Progress

__all__ = ["download"]


def download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A released file of `tessera models`, such as coco_learnable.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for it; the first of TESSERA_MODELS, or the cache, unless given.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Gets a released file: goes on after an interruption, checks the hash where one is known."""
    from tessera.checkpoints.cards import card
    from tessera.checkpoints.registry import find_local, folders

    wanted = card(name)
    if output is not None and output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file, but -o takes a folder")
    there = None if output is not None else find_local(wanted)
    if there is not None and wanted.hub is not None:
        show(str(there))
        return
    folder = output or (there.parents[wanted.on_disk.count("/")] if there is not None else folders()[0])
    if wanted.hub is not None:
        from tessera.checkpoints.hub import download_repository

        path = download_repository(wanted, output)
    else:
        from tessera.checkpoints.download import download as fetch

        if there is None:
            say(f"downloading {wanted.on_disk} into {folder}")
        with _bar(wanted) as progress:
            path = fetch(wanted, folder, progress)
    show(str(path))
    _say_what_else(wanted, output)


def _say_what_else(wanted: "Card", output: Path | None) -> None:
    """What is still needed, and how it is found."""
    from tessera.checkpoints.cards import card
    from tessera.checkpoints.registry import find_local, folders

    missing = [need for need in wanted.needs if find_local(card(need)) is None]
    if missing:
        say(f"needed beside it: {', '.join(f'tessera download {need}' for need in missing)}")
    if output is not None and output.resolve() not in [folder.resolve() for folder in folders()]:
        say(f"found by its name once TESSERA_MODELS names {output}")


@contextmanager
def _bar(wanted: "Card") -> Iterator["Progress"]:
    """A bar on standard error with speed and time left; nothing where standard error is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(wanted.on_disk, total=wanted.size)
        yield lambda done, total: bar.update(task, completed=done, total=total)
