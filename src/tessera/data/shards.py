"""Tar archives of pictures with captions: img2dataset's, or any of webdataset's.

    00000.tar        000000012.jpg, 000000012.txt (its caption), 000000012.json (original_width, similarity, …), …
    00000.parquet    the same numbers as a table; read only where a selection asks for one that the .json files lack

The library webdataset reads archives as streams, in an order of its own buffers: it cannot give example i, nor go on exactly where a
killed run stopped. Here an index says where each picture lies (`data.shard_index`), so that an example depends on (index, seed) alone.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tessera.data.collection import draw, one_of
from tessera.data.dataset import Example
from tessera.data.images import Crop
from tessera.data.shard_files import find_archives, read_table
from tessera.data.shard_index import JSON, PICTURE, TEXT, Index, index_archives, member_name, read_member, readable, rows_again
from tessera.errors import TesseraError, UsageError, suggest
from tessera.json_files import parse_json
from tessera.pictures import LIMITS, read_rgb
from tessera.randomness import derive_seed

__all__ = ["Shards"]

LARGEST_TEXT = 1 << 20


class Shards:
    """Pictures in tar archives, in the order of the archives' names and of their members.

    Args:
        root: a folder, whose archives and those of its subfolders are taken; an archive; a pattern of archives such as
            `data/{00000..00331}.tar` or `data/*/0*.tar`; or a list of these.
        size: side of the pictures in pixels.
        captions: "txt" (KEY.txt, all of it one caption), the name of a text or a list of texts in KEY.json, or None for pictures alone.
        where: numbers that a picture must have, [least, most] by name, null where there is no bound:
            {original_width: [256, null], similarity: [0.3, null]}. What does not say its number is left out.
        split: "all", "train" (the first `train_share` of the pictures) or "val" (the rest).
        crop: "random" or "centre" (see `data.images`); by default random unless the split is "val".
        flip: mirror every second picture, by chance.

    What is wrong with an archive, and its pictures without a caption or a number that was asked for, stand in `skipped` from the beginning;
    pictures that cannot be read come later. UsageError when nothing is left or an argument is wrong.
    """

    def __init__(
        self,
        root: str | Sequence[str],
        size: int = 256,
        captions: str | None = "txt",
        where: Mapping[str, Any] | None = None,
        split: str = "all",
        train_share: float = 0.95,
        crop: str | None = None,
        flip: bool = False,
    ) -> None:
        one_of("split", split, ("all", "train", "val"))
        if not 0 < train_share < 1:
            raise UsageError(f"train_share must lie between 0 and 1, not be {train_share}")
        self.crop = Crop(size, crop or ("centre" if split == "val" else "random"), flip)
        self.captions, self.where = captions, _bounds(where or {})
        self.skipped: dict[str, str] = {}
        self.archives = find_archives([root] if isinstance(root, str) else root, self.skipped)
        self._rows: list[np.ndarray | Path] = []  # tables of places, or where they are kept
        self._chosen: list[np.ndarray | slice] = []
        self._known: set[str] = set()
        counts, pictures = [], 0
        for archive, index in zip(self.archives, index_archives(self.archives), strict=True):
            pictures += len(index.rows)
            chosen = self._select(archive, index)
            counts.append(len(chosen))
            self._chosen.append(slice(None) if len(chosen) == len(index.rows) else chosen)
            self._rows.append(index.rows)
        self._ends = np.cumsum(counts)
        total = int(self._ends[-1])
        if not total:
            raise UsageError(self._nothing(root, pictures))
        border = int(total * train_share)
        self._first, last = {"all": (0, total), "train": (0, border), "val": (border, total)}[split]
        self._length = last - self._first
        if not self._length:
            raise UsageError(f"the split {split!r} of {root} is empty: {total} pictures are too few for train_share {train_share}")

    def __len__(self) -> int:
        return self._length

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the tables itself: a pickled map would carry all of them.
        return {
            **self.__dict__,
            "_rows": [Path(rows.filename) if isinstance(rows, np.memmap) and rows.filename else rows for rows in self._rows],
        }

    def path(self, index: int) -> Path:
        """The archive with the picture's name in it."""
        number, row = self._locate(index)
        try:
            archive, places = self._place(index)
        except TesseraError:
            return self.archives[number] / f"picture {row}"
        return archive / member_name(archive, int(places[PICTURE]))

    def prompt(self, index: int, seed: int) -> str | None:
        """The caption alone, the same as in `example(index, seed)`. Raises TesseraError when it cannot be read."""
        if self.captions is None:
            return None
        archive, row = self._place(index)
        kind = TEXT if self.captions == "txt" else JSON
        if row[kind + 1] > LARGEST_TEXT:
            raise TesseraError(f"the text of {row[kind + 1]} bytes at byte {row[kind]} of {archive} is too long to be a caption")
        name, content = read_member(archive, int(row[kind]), int(row[kind + 1]))
        try:
            text = content.decode("utf-8-sig")
            said: Any = text if kind == TEXT else parse_json(text)[self.captions]
        except UnicodeDecodeError as error:
            raise TesseraError(f"{archive / name} is not UTF-8 text ({error})") from error
        except (ValueError, KeyError, TypeError) as error:
            raise TesseraError(f"{archive / name} has no text {self.captions!r} ({type(error).__name__}: {error})") from error
        listed = said if isinstance(said, list) else [said]
        captions = [" ".join(one.split()) for one in listed if isinstance(one, str) and one.strip()]
        if not captions:
            raise TesseraError(f"the caption in {archive / name} is empty")
        return draw(captions, index, seed)

    def example(self, index: int, seed: int) -> Example | None:
        """The picture and its caption, or None (and an entry in `skipped`) when one of them cannot be read."""
        try:
            archive, row = self._place(index)
            offset, size = int(row[PICTURE]), int(row[PICTURE + 1])
            if size > LIMITS.bytes:
                raise TesseraError(f"a picture of {size >> 20} MiB is too large: at most {LIMITS.bytes >> 20} are read")
            name, content = read_member(archive, offset, size)
            prompt = self.prompt(index, seed)
            return Example(self.crop(read_rgb(archive / name, content), derive_seed("crop", seed, index)), prompt)
        except TesseraError as error:
            self.skipped[str(self.path(index))] = str(error)
            return None

    @cached_property
    def fingerprint(self) -> str:
        """Names of the archives, places and sizes of the chosen members, and the way of reading and cropping them."""
        digest = hashlib.sha256(f"{type(self).__name__} {self.crop} {self.captions} {self._first} {self._length}".encode())
        for number, archive in enumerate(self.archives):
            digest.update(f"\n{archive.name}\n".encode("utf-8", "surrogateescape"))
            digest.update(np.ascontiguousarray(self._table(number)[self._chosen[number]]).data)
        return digest.hexdigest()

    def _locate(self, index: int) -> tuple[int, int]:
        """The number of a picture's archive, and that of its row in the table."""
        position = self._first + index
        number = int(np.searchsorted(self._ends, position, side="right"))
        place = position - (int(self._ends[number - 1]) if number else 0)
        chosen = self._chosen[number]
        return number, place if isinstance(chosen, slice) else int(chosen[place])

    def _place(self, index: int) -> tuple[Path, np.ndarray]:
        """The archive of a picture and its row of the table."""
        number, row = self._locate(index)
        rows = self._table(number)
        if row >= len(rows):
            raise TesseraError(f"{self.archives[number]} has changed since it was indexed: start again to index it anew")
        return self.archives[number], rows[row]

    def _table(self, number: int) -> np.ndarray:
        rows = self._rows[number]
        if isinstance(rows, Path):
            rows = self._rows[number] = rows_again(self.archives[number], rows)
        return rows

    def _select(self, archive: Path, index: Index) -> np.ndarray:
        """The rows of an archive that are wanted, int32; what is wrong with it or others of its rows goes to `skipped`."""
        if index.damage:
            self.skipped[str(archive)] = index.damage
        self.skipped.update({str(archive / name): reason for name, reason in index.left_out.items()})
        chosen = np.ones(len(index.rows), bool)
        if self.captions is not None:
            kind, suffix = (TEXT, ".txt") if self.captions == "txt" else (JSON, ".json")
            chosen = index.rows[:, kind + 1] > 0
            self._leave_out(archive, index, ~chosen, f"it has no {suffix} with a caption")
        for name, (least, most) in self.where.items():
            values = self._values(archive, index, name)
            silent = np.isnan(values)
            self._leave_out(archive, index, silent & chosen, f"it does not say {name!r}")
            chosen &= ~silent & (values >= least) & (values <= most)
        return np.flatnonzero(chosen).astype(np.int32)

    def _leave_out(self, archive: Path, index: Index, rows: np.ndarray, reason: str) -> None:
        for row in np.flatnonzero(rows):
            self.skipped[str(archive / readable(index.names[row]))] = reason

    def _values(self, archive: Path, index: Index, name: str) -> np.ndarray:
        """float64 [N], what the .json files say of a name, else the table beside the archive, else NaN."""
        self._known.update(index.fields)
        values = index.values[:, index.fields.index(name)].copy() if name in index.fields else np.full(len(index.rows), np.nan)
        beside = archive.with_suffix(".parquet")
        if np.isnan(values).any() and beside.is_file():
            try:
                table = read_table(beside, name, {_key(index.names[row]) for row in np.flatnonzero(np.isnan(values))})
            except UsageError:
                raise
            except TesseraError as error:
                self.skipped[str(beside)] = str(error)
            else:
                for row in np.flatnonzero(np.isnan(values)):
                    values[row] = table.get(_key(index.names[row]), math.nan)
        return values

    def _nothing(self, root: str | Sequence[str], pictures: int) -> str:
        """Why there is no picture."""
        place = root if isinstance(root, str) else ", ".join(root)
        reason = f": {next(iter(self.skipped.values()))}" if self.skipped else ""
        if not pictures:
            return f"no picture was found in the {len(self.archives)} tar archives of {place}{reason}"
        unknown = [name for name in self.where if name not in self._known]
        if unknown and self._known:
            reason = f"{reason}; {suggest('number', unknown[0], self._known)}"
        return f"none of the {pictures} pictures in {place} has what `captions` and `where` ask for{reason}"


def _key(name: str) -> str:
    """What a table calls the picture with this member's name."""
    return PurePosixPath(name).stem


def _bounds(where: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Least and most by name. UsageError for anything but two numbers or nulls in order."""
    bounds = {}
    for name, given in where.items():
        pair = list(given) if isinstance(given, list | tuple) else []
        numbers = [one for one in pair if one is not None]
        if len(pair) != 2 or not all(isinstance(one, int | float) and not math.isnan(one) for one in numbers):
            raise UsageError(f"where.{name} must be [least, most], two numbers or null, such as [256, null], not {given!r}")
        least, most = (-math.inf if pair[0] is None else pair[0]), (math.inf if pair[1] is None else pair[1])
        if least > most:
            raise UsageError(f"where.{name} asks for at least {least} and at most {most}, which nothing has: exchange them")
        bounds[str(name)] = (float(least), float(most))
    return bounds
