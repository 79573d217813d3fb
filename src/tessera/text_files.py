"""Text as files and other programs give it: UTF-8, with or without a byte-order mark; lines end at \\n, \\r\\n or \\r and nowhere else.

`str.splitlines` ends lines at U+2028, U+0085, \\f and more too, which stand in captions, in JSON and in CSV.
"""

import gzip
import io
import re
import zlib
from pathlib import Path

from tessera.errors import TesseraError, UsageError

__all__ = ["decode_text", "gunzip", "lines_of", "read_regular", "read_text"]

LINE_END = re.compile(r"\r\n|\n|\r")
OPENED = Path("/dev/fd")
MARK = "\ufeff"
UNPACKED = 2**26
"""Bytes that a compressed text may have: the largest that is read, CLIP's merges, has 3 MB."""


def read_regular(path: Path) -> bytes:
    """The bytes of a file, or of a pipe that the shell has opened for this process, as in `--prompts <(command)`.

    Any other pipe or device is not opened, because reading one may never end.

    Raises UsageError when there is no such file or it is none, TesseraError when it cannot be read.
    """
    if path.exists() and not path.is_file() and not (path.parent == OPENED and path.is_fifo()):
        what = "a folder" if path.is_dir() else "a pipe or a device"
        raise UsageError(f"{path} is {what}: give a file")
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"there is no file {path}: check the path") from None
    except OSError as error:
        raise TesseraError(f"{path} cannot be read ({error.strerror or error})") from None


def gunzip(content: bytes, name: str, largest: int = UNPACKED) -> bytes:
    """What is compressed in a gzip file called `name`, no more of it than `largest` bytes in memory.

    Raises TesseraError when it is damaged, or holds more.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            found = file.read(largest + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise TesseraError(f"{name} is no gzip file, or a damaged one ({error}): get it again") from None
    if len(found) > largest:
        raise TesseraError(f"{name} holds more than {largest} bytes once it is unpacked: it is no text that is read here")
    return found


def decode_text(content: bytes, name: str) -> str:
    """The text in bytes that are called `name` in errors. TesseraError when they are not UTF-8."""
    try:
        return content.decode("utf-8").removeprefix(MARK)
    except UnicodeDecodeError as error:
        raise TesseraError(f"{name} is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8") from None


def read_text(path: Path) -> str:
    """The text of a file. Raises as `read_regular` and `decode_text` do."""
    return decode_text(read_regular(path), str(path))


def lines_of(text: str) -> list[str]:
    """The lines of a text without their ends."""
    lines = LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]
