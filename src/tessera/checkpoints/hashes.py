"""The SHA-256 of large files, computed once.

A result is remembered by the file's path, size and time of change, in `tessera/hashes.json` of the user's cache: not in the
folder of the file, which may be shared and not writable.
"""

import json
import os
from pathlib import Path
from typing import Any

from tessera.atomic import write_file
from tessera.errors import TesseraError
from tessera.json_files import read_json
from tessera.model_folder import sha256

__all__ = ["cache_folder", "digest", "remember", "remembered"]


def digest(path: Path, again: bool = False) -> str:
    """The SHA-256 of a file in hexadecimal: what is remembered, or computed and then remembered; always computed with `again`.

    Raises:
        TesseraError: the file cannot be read.
    """
    known = None if again else remembered(path)
    if known is not None:
        return known
    try:
        found = sha256(path)
    except OSError as error:
        raise TesseraError(f"{path} cannot be read: {error.strerror or error}") from None
    remember(path, found)
    return found


def remembered(path: Path) -> str | None:
    """The SHA-256 that was once computed of this very file; None when there is none, or it has changed since."""
    entry = _memory().get(str(path.resolve()))
    return entry["sha256"] if entry is not None and entry["state"] == _state(path) else None


def remember(path: Path, found: str) -> None:
    """Notes the SHA-256 that was computed of a file."""
    memory = {known: entry for known, entry in _memory().items() if Path(known).exists()}
    memory[str(path.resolve())] = {"state": _state(path), "sha256": found}
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with write_file(_memory_file()) as part:
            part.write_text(json.dumps(memory, indent=1), encoding="utf-8")
    except OSError:
        pass  # no room or no permission there: it is computed again the next time


def cache_folder() -> Path:
    """Tessera's folder in the user's cache: `$XDG_CACHE_HOME/tessera`, or else `~/.cache/tessera`. It need not exist."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "tessera"


def _state(path: Path) -> list[int]:
    about = path.stat()
    return [about.st_size, about.st_mtime_ns]


def _memory() -> dict[str, dict[str, Any]]:
    try:
        memory = read_json(_memory_file())
    except (OSError, ValueError):
        return {}
    if not isinstance(memory, dict):
        return {}
    return {path: entry for path, entry in memory.items() if isinstance(entry, dict) and {"state", "sha256"} <= entry.keys()}


def _memory_file() -> Path:
    return cache_folder() / "hashes.json"
