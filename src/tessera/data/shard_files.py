"""Which tar archives a name means, and the table beside one of them."""

import glob
import math
import re
from collections.abc import Collection, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from tessera.data.finding import walk
from tessera.errors import TesseraError, UsageError
from tessera.text_files import lines_of

__all__ = ["expand", "find_archives", "read_table"]

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
MOST = 1_000_000
"""Names that one pattern may mean."""
MOST_ROWS = 2_000_000
LARGEST_TABLE = 256 << 20
"""Rows, and bytes of the columns that are read when they are unpacked, of a table beside an archive."""
BATCH = 1 << 14
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def find_archives(roots: Sequence[str], skipped: dict[str, str]) -> list[Path]:
    """The archives in folders, by name and by pattern, each once: in the order of `roots`, those of one of them sorted.

    Archives that braces name and that are not there, and folders that cannot be listed, go to `skipped`. UsageError when there are none.
    """
    found: dict[Path, None] = {}
    for root in roots:
        found.update(dict.fromkeys(_archives(root, skipped)))
    if not found:
        raise UsageError(
            f"there is no tar archive in {', '.join(roots) or 'an empty list'}: give as `root` a folder of 00000.tar, 00001.tar, …, "
            "an archive, or a pattern such as data/{00000..00331}.tar"
        )
    return list(found)


def _archives(root: str, skipped: dict[str, str]) -> list[Path]:
    place = Path(root).expanduser()
    if place.is_dir():
        found = walk(place, skipped)
        skipped.update({str(place / name): "it is packed: unpack it to a .tar" for name in found if name.lower().endswith(PACKED)})
        return [place / name for name in found if name.lower().endswith(".tar")]
    if place.is_file():
        return [place]
    archives: list[Path] = []
    for name in expand(str(place)):
        if glob.has_magic(name):
            archives += [Path(file) for file in sorted(glob.glob(name, recursive=True)) if Path(file).is_file()]  # noqa: PTH207  absolute ones too
        elif Path(name).is_file():
            archives.append(Path(name))
        else:
            skipped[name] = "there is no such archive"
    return archives


def expand(pattern: str) -> list[str]:
    """What a pattern with braces stands for: `{a,b}` for a and b, `{008..011}` for numbers of that width. UsageError for too many."""
    pieces = BRACES.split(pattern)  # text and contents of braces in turn
    choices = [_options(piece) if number % 2 else [piece] for number, piece in enumerate(pieces)]
    if math.prod(map(len, choices)) > MOST:
        raise UsageError(f"the pattern {pattern!r} stands for more than {MOST} names: give folders instead")
    return ["".join(chosen) for chosen in product(*choices)]


def _options(braces: str) -> Sequence[str]:
    numbers = RANGE.fullmatch(braces)
    if numbers is None:
        return braces.split(",")
    first, last = int(numbers[1]), int(numbers[2])
    if last - first >= MOST:
        raise UsageError(f"{{{braces}}} stands for more than {MOST} names: give folders instead")
    return [f"{number:0{len(numbers[1])}}" for number in range(first, last + 1)]


def read_table(path: Path, name: str, wanted: Collection[str]) -> dict[str, float]:
    """The column `name` of img2dataset's table for the keys in `wanted`, without what is no number. It is read in small batches.

    Raises:
        UsageError: pyarrow is not there to read it.
        TesseraError: it is damaged, has no such column, or is far larger than a table of an archive is.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError:
        raise UsageError(f"reading {name!r} from {path} needs the package pyarrow: pip install 'tessera[shards]'") from None
    known: dict[str, float] = {}
    try:
        with parquet.ParquetFile(path, memory_map=True) as table:
            _check_size(path, table.metadata, name)
            for batch in table.iter_batches(BATCH, columns=["key", name], use_threads=False):
                columns = batch.to_pydict()
                for key, value in zip(columns["key"], columns[name], strict=True):
                    if str(key) in wanted and isinstance(value, int | float):
                        known[str(key)] = float(value)
    except (ArrowException, OSError, KeyError, ValueError, MemoryError) as error:
        raise TesseraError(f"{path} is no table with 'key' and {name!r} ({(lines_of(str(error)) or ['?'])[0]})") from error
    return known


def _check_size(path: Path, about: Any, name: str) -> None:
    """A few kilobytes can claim to be billions of rows, or a text of gigabytes; an archive has some 10,000."""
    columns = [about.row_group(group).column(number) for group in range(about.num_row_groups) for number in range(about.num_columns)]
    wide = sum(column.total_uncompressed_size for column in columns if column.path_in_schema in ("key", name))
    if about.num_rows > MOST_ROWS or wide > LARGEST_TABLE:
        raise TesseraError(
            f"{path} has {about.num_rows} rows and {wide} bytes of 'key' and {name!r}: at most {MOST_ROWS} and {LARGEST_TABLE} are read"
        )
