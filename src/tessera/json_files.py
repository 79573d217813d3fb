"""The one way in for JSON, whoever wrote it: files are whole and of a bounded size, values of a bounded depth."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["DESCRIPTION_BYTES", "parse_json", "read_json"]

DESCRIPTION_BYTES = 2**25
"""The largest file that describes something. Lists of captions may be larger: their readers say so."""
MOST_VALUES = 10_000_000
"""Values of a text. An empty list of two bytes takes 64 in memory."""


def read_json(path: Path, largest: int = DESCRIPTION_BYTES) -> Any:
    """The value of a JSON file in UTF-8, with or without a byte order mark.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a regular file, larger than `largest` bytes, not UTF-8, not JSON, or nested too deeply.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    if path.stat().st_size > largest:
        raise ValueError(f"it has {path.stat().st_size} bytes, and at most {largest} are expected")
    return parse_json(path.read_text(encoding="utf-8-sig"))


def parse_json(text: str | bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The value of a JSON text.

    Args:
        pairs: what makes an object of its keys and values; a dict without.

    Raises:
        ValueError: it is not JSON (bytes: in UTF-8, with or without a mark), nested too deeply, or of more than ten million values.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    if len(text) > MOST_VALUES and sum(map(text.count, ",[{")) > MOST_VALUES:
        raise ValueError(f"it has more than {MOST_VALUES} values")
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
