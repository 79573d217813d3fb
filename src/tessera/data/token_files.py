"""Tokens of many pictures in a folder of files that can be mapped into memory.

File `NNNNN-CRC.npy` holds the tokens [examples, views, N] of the NNNNN-th run of `CHUNK` examples, its checksum in its name. Files
appear whole or not at all, so a build that was stopped goes on with the missing ones, and a damaged file is made again.

Place p is view p % views of example p // views.
"""

import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tessera.atomic import write_file
from tessera.errors import UsageError
from tessera.json_files import read_json

__all__ = ["CHUNK", "DIFFERENT_SIZES", "Part", "TokenFiles"]

CHUNK = 1024
DIFFERENT_SIZES = "the dataset gives pictures of different sizes: give it a size to crop to"
NAME = re.compile(r"(\d{5,})-([0-9a-f]{8})\.npy")

Part = tuple[list[int], np.ndarray | None]
"""Places of the readable pictures of a batch, and their tokens [B, N]."""


class TokenFiles:
    """The files of one cache.

    Args:
        folder: where they are.
        examples, views: how many pictures, and how many times each is there.
        missing: the token that stands for a picture that cannot be read; larger than any token.
    """

    def __init__(self, folder: Path, examples: int, views: int, missing: int) -> None:
        self.folder, self.examples, self.views, self.missing = folder, examples, views, missing
        self.dtype = np.dtype(np.uint16 if missing < 2**16 else np.int32)
        self.chunks = -(-examples // CHUNK)

    def number(self, place: int) -> int:
        return place // (CHUNK * self.views)

    def places(self, number: int) -> range:
        """The places that file `number` holds."""
        return range(number * CHUNK * self.views, min((number + 1) * CHUNK, self.examples) * self.views)

    def write(self, number: int, parts: Sequence[Part]) -> Path:
        """File `number` from the tokens of its pictures; places that no part has hold `missing`."""
        lengths = {tokens.shape[1] for _, tokens in parts if tokens is not None}
        if len(lengths) > 1:
            raise UsageError(DIFFERENT_SIZES)
        places = self.places(number)
        made = np.full((len(places), *(lengths or {1})), self.missing, self.dtype)
        for known, tokens in parts:
            if tokens is not None:
                made[np.array(known) - places.start] = tokens
        made = made.reshape(len(places) // self.views, self.views, -1)
        path = self.folder / f"{number:05}-{zlib.crc32(made.data):08x}.npy"
        with write_file(path) as part, part.open("wb") as file:
            np.save(file, made)
        return path

    def whole(self) -> dict[int, Path]:
        """Whole files by number; what is damaged or left over is removed."""
        whole: dict[int, Path] = {}
        for path in sorted(self.folder.iterdir()):
            name = NAME.fullmatch(path.name)
            if name is not None:
                number = int(name[1])
                if number < self.chunks and number not in whole and self._is_whole(path, number, int(name[2], 16)):
                    whole[number] = path
                    continue
            if name is not None or path.name.endswith(".part"):
                path.unlink(missing_ok=True)
        return whole

    def _is_whole(self, path: Path, number: int, checksum: int) -> bool:
        try:
            tokens = np.load(path, mmap_mode="r", allow_pickle=False)
            shape = (len(self.places(number)) // self.views, self.views)
            return tokens.ndim == 3 and tokens.shape[:2] == shape and tokens.dtype == self.dtype and zlib.crc32(tokens.data) == checksum
        except Exception:  # a damaged header can raise nearly anything
            return False

    def lengths(self, files: Sequence[Path]) -> set[int]:
        """The numbers of tokens that readable pictures have."""
        chunks = [np.load(file, mmap_mode="r") for file in files]
        return {chunk.shape[2] for chunk in chunks if (chunk[..., 0] != self.missing).any()}

    def read_skipped(self) -> dict[str, str]:
        try:
            skipped = read_json(self.folder / "skipped.json")
            return {str(path): str(reason) for path, reason in skipped.items()}
        except (OSError, ValueError, AttributeError):  # a report only: without it the cache serves as well
            return {}

    def write_skipped(self, skipped: dict[str, str]) -> None:
        with write_file(self.folder / "skipped.json") as part:
            part.write_text(json.dumps(skipped, indent=1), encoding="utf-8")
