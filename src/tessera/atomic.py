"""Files and folders that appear whole or not at all: written under a temporary name, flushed to the disk, renamed.

A temporary name starts with a dot and ends in `.part`, so that what a killed process left is recognised.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["new_file", "write_file", "write_folder"]


@contextmanager
def write_file(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write to; on leaving, that file takes the place of `path`. On an error nothing is left."""
    part = _beside(path)
    try:
        yield part
        _flush(part)
        part.replace(path)
        _flush_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Like `write_file`, but never in the place of an existing file: FileExistsError instead, also when two processes race."""
    part = _beside(path)
    try:
        yield part
        _flush(part)
        try:
            path.hardlink_to(part)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if path.exists():
                raise FileExistsError(path) from None
            part.replace(path)
        _flush_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def write_folder(folder: Path) -> Iterator[Path]:
    """Gives a temporary folder to fill; on leaving, it takes the place of `folder`. On an error nothing is left and an old one stays.

    An old folder is moved aside first: a process killed between the two renames leaves both whole, under `.part` names.
    """
    part, aside = _beside(folder), _beside(folder)
    part.mkdir(parents=True)
    try:
        yield part
        for path in part.rglob("*"):
            if path.is_file():
                _flush(path)
        if folder.exists():
            folder.rename(aside)
        part.rename(folder)
        _flush_folder(folder.parent)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}-{secrets.token_hex(4)}.part")


def _flush_folder(path: Path) -> None:
    with suppress(OSError):  # some systems cannot flush a folder
        _flush(path)


def _flush(path: Path) -> None:
    """To the disk, so that a power cut after the rename does not leave an empty file under the final name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
