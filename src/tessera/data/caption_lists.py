"""Lists of pictures and their captions: .jsonl with an object a line, or .csv with a header and a row for each caption.

A row that says nothing usable is left out and named, whatever is wrong with it; only a list without any usable row is an error.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tessera.errors import TesseraError, UsageError
from tessera.json_files import parse_json
from tessera.text_files import lines_of, read_text

__all__ = ["read_list"]

FILE_COLUMNS = ("file", "file_name", "filename", "file_path", "image", "image_path", "path")
CAPTION_COLUMNS = ("caption", "captions", "text")
KNOWN = f"the file's is one of {', '.join(FILE_COLUMNS)}, the caption's one of {', '.join(CAPTION_COLUMNS)}, in any case"

Row = tuple[str, dict[str, Any] | str]
"""Where it stands ("line 3"), and its values by column, or what is wrong with it."""


def read_list(path: Path, skipped: dict[str, str]) -> dict[str, list[str]]:
    """Captions by file name, from a .jsonl or .csv list; rows without a file name or a caption go to `skipped`.

    Raises UsageError when there is no such list, it lacks the columns, or nothing in it is of use; TesseraError when it is not UTF-8.
    """
    readers = {".jsonl": _json_rows, ".csv": _csv_rows}
    if path.suffix.lower() not in readers:
        raise UsageError(f"captions {path.name!r}: expected 'txt', a .jsonl or .csv list, or null")
    captions: dict[str, list[str]] = {}
    bad: dict[str, str] = {}
    for place, row in readers[path.suffix.lower()](path, read_text(path)):
        try:
            file, listed = _pair(row)
        except ValueError as error:
            bad[f"{path}, {place}"] = str(error)
        else:
            captions.setdefault(file, []).extend(listed)
    if not captions:
        first = f"; {next(iter(bad))}: {next(iter(bad.values()))}" if bad else ""
        raise UsageError(f"{path} names no picture with a caption{first}; of its columns {KNOWN}")
    skipped.update(bad)
    return captions


def _pair(row: dict[str, Any] | str) -> tuple[str, list[str]]:
    """File name and captions of a row. ValueError with the reason when one of them is missing."""
    if isinstance(row, str):
        raise ValueError(row)
    named = {str(column).strip().casefold(): value for column, value in reversed(row.items())}
    file, caption = (next((named[name] for name in known if name in named), None) for known in (FILE_COLUMNS, CAPTION_COLUMNS))
    if not isinstance(file, str) or not file.strip() or "\0" in file or not any(name in named for name in CAPTION_COLUMNS):
        raise ValueError(f"expected a file name under 'file' and a caption under 'caption', found {_listed(list(row))}")
    captions = [one.strip() for one in (caption if isinstance(caption, list) else [caption]) if isinstance(one, str) and one.strip()]
    if not captions:
        raise ValueError(f"{file.strip()} has no caption")
    return file.strip(), captions


def _listed(columns: Sequence[Any]) -> str:
    """The columns' names, as far as a sentence can hold them."""
    return ", ".join(repr(str(column)[:40]) for column in columns[:12]) or "nothing"


def _json_rows(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(lines_of(text), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            yield f"line {number}", f"it is not JSON ({error})"
            continue
        yield f"line {number}", row if isinstance(row, dict) else "expected an object with 'file' and 'caption'"


def _csv_rows(path: Path, text: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = next(reader, [])
    except csv.Error as error:
        raise TesseraError(f"{path}, line 1 is not CSV: {error}") from None
    known = {column.strip().casefold() for column in columns}
    if not known & set(FILE_COLUMNS) or not known & set(CAPTION_COLUMNS):
        raise UsageError(f"{path} has the columns {_listed(columns)}, separated by commas, but no file or no caption: {KNOWN}")
    while True:
        before = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield _lines(before, reader.line_num), f"it is not CSV ({error})"
            continue
        if len(row) > len(columns):
            reason = f"it has {len(row)} fields where the header has {len(columns)}: put a caption with commas in double quotes"
            yield _lines(before, reader.line_num), reason
        elif row:
            yield _lines(before, reader.line_num), dict(zip(columns, row, strict=False))


def _lines(first: int, last: int) -> str:
    return f"line {first}" if last <= first else f"lines {first} to {last}"
