"""Which files a folder holds, for datasets and for sets that are measured: what is found is given or named in `skipped`."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from tessera.errors import UsageError
from tessera.pictures import SUFFIXES, UNREAD_SUFFIXES

__all__ = ["existing_folder", "holds_pictures", "pictures_of", "walk"]

MOST_ENTRIES = 100
"""Ways into one folder through links that are followed; links between folders can make more of them than there are atoms."""
DEEPEST = 200
"""Folders within each other that are entered."""

Identity = tuple[int, int]
"""Device and number of a folder, whatever it is called."""


def existing_folder(root: str | Path, what: str) -> Path:
    """The dataset's folder. Raises UsageError when there is none."""
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}: give the folder of {what} as `root`")
    return folder


def pictures_of(root: Path, found: Iterable[str], skipped: dict[str, str]) -> list[str]:
    """Those of the files below `root` that are called like pictures; pictures of kinds that are not read go to `skipped`."""
    pictures = []
    for name in found:
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in SUFFIXES:
            pictures.append(name)
        elif suffix in UNREAD_SUFFIXES:
            skipped[str(root / name)] = f"pictures that end in {suffix} are not read: save it as PNG or JPEG"
    return pictures


def walk(root: Path, skipped: dict[str, str]) -> list[str]:
    """Every file below `root` but hidden ones, as sorted relative paths with "/". Links to files and folders are followed.

    To `skipped` go folders that cannot be listed, links that lead nowhere or in a circle, and what is no regular file, such as a pipe.
    """
    return sorted(_Walk(skipped).files(root))


def holds_pictures(folder: Path) -> bool:
    """Whether a picture lies somewhere below `folder`."""
    return folder.is_dir() and any(PurePosixPath(name).suffix.lower() in SUFFIXES for name in _Walk({}).files(folder))


class _Walk:
    """One walk. skipped: as of `walk`."""

    def __init__(self, skipped: dict[str, str]) -> None:
        self.skipped = skipped
        self._entries: Counter[Identity] = Counter()

    def files(self, folder: Path, above: str = "", ancestors: tuple[Identity, ...] = (), linked: bool = False) -> Iterator[str]:
        """The files below `folder`, whose own path is `above`. linked: a link leads here."""
        try:
            about = folder.stat()
            with os.scandir(folder) as listed:
                found = sorted((entry for entry in listed if not entry.name.startswith(".")), key=lambda entry: entry.name)
        except OSError as error:
            self.skipped[str(folder)] = f"the folder cannot be read ({error.strerror})"
            return
        identity = about.st_dev, about.st_ino
        self._entries[identity] += linked
        if identity in ancestors:
            self.skipped[str(folder)] = "the link leads back to a folder that it lies in, so it was not followed"
        elif linked and self._entries[identity] > MOST_ENTRIES:
            self.skipped[str(folder)] = f"more than {MOST_ENTRIES} links lead to this folder, so this one was not followed"
        elif len(ancestors) > DEEPEST:
            self.skipped[str(folder)] = f"it lies more than {DEEPEST} folders deep"
        else:
            for entry in found:
                yield from self._below(folder / entry.name, entry, above, (*ancestors, identity), linked)

    def _below(self, path: Path, entry: "os.DirEntry[str]", above: str, ancestors: tuple[Identity, ...], linked: bool) -> Iterator[str]:
        try:
            if entry.is_dir():
                yield from self.files(path, f"{above}{entry.name}/", ancestors, linked or entry.is_symlink())
            elif entry.is_file():
                yield f"{above}{entry.name}"
            elif entry.is_symlink() and not path.exists():
                self.skipped[str(path)] = "the link leads nowhere"
            else:
                self.skipped[str(path)] = "it is no file but a pipe, a socket or a device"
        except OSError as error:
            self.skipped[str(path)] = f"it cannot be read ({error.strerror})"
