"""Checkpoints that survive being killed at any moment, and the claim of one process on a run folder.

A checkpoint appears whole or not at all, and only then does the pointer `latest.json` name it. The checkpoint before the newest is
kept, for the case that the newest cannot be read.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from tessera.atomic import write_file
from tessera.errors import TesseraError, UsageError
from tessera.json_files import read_json

__all__ = ["Checkpointer", "claim"]

NAME = re.compile(r"step-(\d+)\.pt")


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Hold the run folder; UsageError when another process does. The claim ends with the process, however it ends."""
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "run.lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise UsageError(f"the run folder {folder} is in use by another process: wait for it, or set another `out`") from None
    except OSError as error:
        raise UsageError(f"cannot use the run folder {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


class Checkpointer:
    """The checkpoints of one run folder, in `checkpoints/`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkpoints"
        self.pointer = self.folder / "latest.json"

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write the state after `step`; afterwards it is the latest, and the one before is kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:08d}.pt"
        previous = self._latest()
        if previous == path.name:
            previous = max((name for name in self._names() if name < path.name), default=None)
        try:
            with write_file(path) as part:
                torch.save(dict(state), part)
            with write_file(self.pointer) as part:
                part.write_text(json.dumps({"file": path.name}))
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            raise TesseraError(f"cannot write the checkpoint {path}: {getattr(error, 'strerror', None) or error}") from error
        for old in self.folder.iterdir():  # earlier checkpoints, and what a killed process left half-written
            if old.name not in (path.name, previous, self.pointer.name):
                old.unlink(missing_ok=True)
        return path

    def load(self, holds: Mapping[str, type | tuple[type, ...]] | None = None) -> dict[str, Any] | None:
        """The latest state that can be read (tensors on the CPU), or None when there is none.

        holds: the keys that a state must have, and what they hold; another one counts as damaged.
        """
        names = [name for name in dict.fromkeys([self._latest(), *reversed(self._names())]) if name]
        for name in names:
            with suppress(Exception):  # a damaged file; the one before it is the answer
                state = torch.load(self.folder / name, map_location="cpu", weights_only=True)
                if isinstance(state, dict) and all(isinstance(state.get(key), kind) for key, kind in (holds or {}).items()):
                    return state
        if names:
            raise TesseraError(f"none of the checkpoints in {self.folder} can be read: remove the folder to start anew")
        return None

    def latest_step(self) -> int | None:
        """The step after which the latest checkpoint was saved; None when there is none."""
        found = NAME.fullmatch(self._latest() or "")
        return None if found is None else int(found[1])

    def _latest(self) -> str | None:
        try:
            name = read_json(self.pointer)["file"]
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return name if isinstance(name, str) and NAME.fullmatch(name) and (self.folder / name).is_file() else None

    def _names(self) -> list[str]:
        """File names, oldest first. Only numbered files: a half-written one has another name, and opening a pipe may never end."""
        return sorted(path.name for path in self.folder.glob("step-*.pt") if NAME.fullmatch(path.name) and path.is_file())
