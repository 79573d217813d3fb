"""What datasets of picture files share: reading by index, counting what cannot be read, a fingerprint."""

import hashlib
import os
import random
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from tessera.data.dataset import Example
from tessera.data.images import Crop
from tessera.errors import TesseraError, UsageError, suggest
from tessera.pictures import read_rgb
from tessera.randomness import derive_seed
from tessera.text_files import lines_of, read_text

__all__ = ["Collection", "draw", "one_of", "read_captions"]


class Collection:
    """Picture files under a folder, in a fixed order. A subclass finds the files and knows their prompts.

    Args:
        root: the dataset's folder.
        files: paths of the pictures, relative to `root`.
        crop: how a picture becomes a square of pixels.
        skipped: files already known to be of no use: path → reason.
    """

    def __init__(self, root: Path, files: Sequence[str], crop: Crop, skipped: dict[str, str] | None = None) -> None:
        if not files:
            reasons = f": {len(skipped)} were left out, the first because {next(iter(skipped.values()))}" if skipped else ""
            raise UsageError(f"no usable picture was found in {root}{reasons}")
        self.root, self.files, self.crop = root, list(files), crop
        self.skipped = dict(skipped or {})

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> Path:
        return self.root / self.files[index]

    def prompt(self, index: int, seed: int) -> str | int | None:
        """The prompt alone, the same as in `example(index, seed)`. Raises TesseraError when its file cannot be read."""
        raise NotImplementedError

    def example(self, index: int, seed: int) -> Example | None:
        """The picture and its prompt, or None (and an entry in `skipped`) when a file cannot be read."""
        path = self.path(index)
        try:
            prompt = self.prompt(index, seed)
            return Example(self.crop(read_rgb(path), derive_seed("crop", seed, index)), prompt)
        except TesseraError as error:
            self.skipped[str(path)] = str(error)
            return None

    @cached_property
    def fingerprint(self) -> str:
        """Names and sizes of the files, prompts, and the way of cropping."""
        digest = hashlib.sha256(f"{type(self).__name__} {self.crop}".encode())
        for index, name in enumerate(self.files):
            digest.update(b"\n" + os.fsencode(name) + f" {_size(self.path(index))}".encode())
        for line in self._prompt_identity():
            digest.update(f"\n{line}".encode())
        return digest.hexdigest()

    def _prompt_identity(self) -> Iterator[str]:
        """Lines that change when the prompts do."""
        raise NotImplementedError


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def draw(captions: Sequence[str], index: int, seed: int) -> str:
    """One of a picture's captions, chosen by `seed`."""
    return captions[int(random.Random(derive_seed("caption", seed, index)).random() * len(captions))]


def one_of(kind: str, value: str, known: Sequence[str]) -> str:
    """`value`, or UsageError when it is not among the known ones."""
    if value not in known:
        raise UsageError(suggest(kind, value, known))
    return value


def read_captions(path: Path) -> list[str]:
    """The captions in a text file, one a line. Raises TesseraError when it has none or is not UTF-8 text."""
    captions = [line.strip() for line in lines_of(read_text(path)) if line.strip()]
    if not captions:
        raise TesseraError(f"{path} is empty: expected captions, one a line")
    return captions
