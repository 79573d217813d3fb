"""`tessera grid`: a sheet of pictures."""

import math
from pathlib import Path
from typing import Annotated

import typer

from tessera.apps.console import say, show
from tessera.apps.options import Debug
from tessera.errors import TesseraError, UsageError

__all__ = ["grid"]

MOST = 10_000  # pictures of a sheet


def grid(
    pictures: Annotated[list[Path], typer.Argument(metavar="PATH…", help="Pictures, and folders of them, in order of names.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The sheet, a .png.")] = Path("grid.png"),
    columns: Annotated[int | None, typer.Option("--columns", "-c", help="Pictures in a row; about as many as rows unless given.")] = None,
    rows: Annotated[int | None, typer.Option("--rows", "-r", help="Rows: the first pictures that fill them; all unless given.")] = None,
    names: Annotated[bool, typer.Option("--names", help="The name of each under it.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    debug: Debug = False,
) -> None:
    """Puts pictures side by side on one sheet, rows times columns."""
    from tessera.apps.output import contact_sheet
    from tessera.atomic import new_file, write_file
    from tessera.pictures import SUFFIXES, open_picture

    for what, value in (("columns", columns), ("rows", rows)):
        if value is not None and not 1 <= value <= MOST:
            raise UsageError(f"--{what} must be 1 to {MOST}, not {value}")
    if output.suffix.lower() != ".png":
        raise UsageError(f"--output {output} must end in .png")
    if output.exists() and not overwrite:
        raise UsageError(f"{output} already exists: choose another name, or give --overwrite")
    found: list[Path] = []
    for path in pictures:
        if path.is_dir():
            found += sorted(one for one in path.iterdir() if one.suffix.lower() in SUFFIXES and one.is_file())
        elif path.is_file():
            found.append(path)
        else:
            raise UsageError(f"there is no picture or folder {path}: check the path")
    readable: list[Path] = []
    for path in found[:MOST]:
        try:
            open_picture(path)
        except TesseraError as error:
            say(f"warning: left out: {error}")
        else:
            readable.append(path)
    if not readable:
        raise UsageError("no picture was found: give pictures, or folders that hold some")
    wide = columns or (math.ceil(len(readable) / rows) if rows else math.ceil(math.sqrt(len(readable))))
    shown = readable[: wide * rows] if rows else readable
    if len(found) > len(readable) + (len(found[:MOST]) - len(readable)):
        say(f"warning: {len(found) - MOST} pictures beyond the first {MOST} are left out")
    sheet = contact_sheet(shown, [path.name if names else "" for path in shown], wide)
    with (write_file if overwrite else new_file)(output) as part:
        sheet.save(part, format="PNG")
    show(str(output))
    say(f"{len(shown)} of {len(found)} pictures in {math.ceil(len(shown) / wide)} rows of {wide}")
