"""LSUN as it is distributed: one LMDB environment per category and part, such as `church_outdoor_train_lmdb/data.mdb`.

Values are picture files under keys of hash digits; a picture's number is its place in the order of keys. There are no captions. Pictures
exported as files are read by `data.folder`.
"""

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np

from tessera.data.dataset import Example
from tessera.data.finding import existing_folder
from tessera.data.images import Crop
from tessera.data.lmdb_file import entries
from tessera.errors import TesseraError, UsageError
from tessera.pictures import LIMITS, read_rgb
from tessera.randomness import derive_seed

__all__ = ["LSUN"]

FILE = "data.mdb"


class LSUN:
    """The pictures of one category and part.

    Args:
        root: the folder with `data.mdb`.
        size: side of the pictures in pixels.
        crop: "centre" or "random" (see `data.images`).
        flip: mirror every second picture, by chance.

    UsageError when the folder holds none; TesseraError when its file was cut or is none of LMDB's. Damaged pages stand in `skipped`.
    """

    def __init__(self, root: str, size: int = 256, crop: str = "centre", flip: bool = False) -> None:
        self.root, self.crop = existing_folder(root, "an LSUN category, with data.mdb"), Crop(size, crop, flip)
        if not (self.root / FILE).is_file():
            raise UsageError(f"there is no {FILE} in {self.root}: give the folder that an LSUN archive unpacks to, as `root`")
        self.skipped: dict[str, str] = {}
        found = list(entries(self.root / FILE, self.skipped))
        if not found:
            reason = f": {next(iter(self.skipped.values()))}" if self.skipped else ""
            raise UsageError(f"no picture was found in {self.root / FILE}{reason}")
        self.keys = [entry.key for entry in found]
        self._places = np.array([entry[1:] for entry in found], np.int64)

    def __len__(self) -> int:
        return len(self.keys)

    def path(self, index: int) -> Path:
        """What names the picture in errors."""
        return self.root / FILE / self.keys[index].decode(errors="replace")

    def prompt(self, index: int, seed: int) -> None:
        return None

    def example(self, index: int, seed: int) -> Example | None:
        """See `data.dataset`."""
        path = self.path(index)
        try:
            offset, size = self._places[index].tolist()
            if size > LIMITS.bytes:
                raise TesseraError(f"{path} is too large: {size >> 20} MiB, where at most {LIMITS.bytes >> 20} are read")
            with (self.root / FILE).open("rb") as file:
                file.seek(offset)
                content = file.read(size)
            return Example(self.crop(read_rgb(path, content), derive_seed("crop", seed, index)), None)
        except (TesseraError, OSError) as error:
            self.skipped[str(path)] = str(error)
            return None

    @cached_property
    def fingerprint(self) -> str:
        """Keys and size of the file, and the way of cropping."""
        digest = hashlib.sha256(f"LSUN {self.crop} {(self.root / FILE).stat().st_size} {len(self.keys)}".encode())
        for key in self.keys:
            digest.update(key)
        return digest.hexdigest()
