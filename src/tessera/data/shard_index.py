"""Where the pictures of a tar archive lie: found in one pass over its headers, kept in the user's cache.

Members whose names are equal up to their suffix are one picture's: `0/000.jpg`, `0/000.txt` and `0/000.json`. Of these only the .json is
read here, for its numbers (original_width, similarity, …); pictures are stepped over.

An index is two files named by the archive's path, size and time of change, so one that has changed is indexed anew:
NAME.npy, the table of places, which is mapped into memory; NAME.npz, names and numbers, which only a selection needs.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from posixpath import dirname, join, normpath
from typing import IO, Any, NamedTuple

import numpy as np
from filelock import FileLock

from tessera.atomic import write_file
from tessera.checkpoints.hashes import cache_folder
from tessera.data.tar_members import Damaged, Member, members
from tessera.errors import TesseraError
from tessera.json_files import parse_json
from tessera.pictures import SUFFIXES, UNREAD_SUFFIXES

__all__ = ["JSON", "PICTURE", "TEXT", "Index", "index_archives", "member_name", "read_index", "read_member", "readable", "rows_again"]

FORMAT = 2
PICTURE, TEXT, JSON = 0, 2, 4
"""Columns of a table of places: the offset of this member's bytes; the next column is their number, 0 where there is no such member."""
KINDS = {".txt": TEXT, ".json": JSON}
"""Columns by the names' ends; those of pictures are `PICTURE`."""
MOST_FIELDS = 64
MOST_LINKS = 40
"""Links that lead on to a link, as many as Linux follows."""
LARGEST_JSON = 1 << 20
SHOWN = 10
"""Archives from which on a bar shows how far indexing is."""
BLOCK = tarfile.BLOCKSIZE


class Index(NamedTuple):
    """rows: int64 [N, 6], see `PICTURE`; in the order of the pictures in the archive. names: of the pictures' members.

    fields: names of the numbers in the .json files. values: float64 [N, F], NaN where a file does not say.
    left_out: members that look like a picture, its text or its numbers and are not used → why. damage: what is wrong with the archive
    itself, "" where nothing is.
    """

    rows: np.ndarray
    names: list[str]
    fields: list[str]
    values: np.ndarray
    left_out: dict[str, str]
    damage: str


def read_index(path: Path) -> Index:
    """The index of an archive, from its headers. Of a damaged one it has what lies before the damage."""
    found = _Found()
    damage = ""
    try:
        with path.open("rb") as file:
            end = os.fstat(file.fileno()).st_size
            try:
                for member in members(file, end):
                    found.add(member)
            except Damaged as error:
                damage = error.reason if error.offset == 0 else f"nothing is read after byte {error.offset} of {end}: {error.reason}"
            found.follow_links()
            names = found.pictures()
            numbers = [_numbers_of(file, found.places[key]) for key in names]
    except OSError as error:
        return Index(np.zeros((0, 6), np.int64), [], [], np.zeros((0, 0)), {}, f"it cannot be read ({error.strerror or error})")
    fields = list(dict.fromkeys(name for known in numbers for name in known))[:MOST_FIELDS]
    values = np.full((len(names), len(fields)), np.nan)
    for place, known in enumerate(numbers):
        values[place] = [known.get(name, np.nan) for name in fields]
    rows = np.array([found.places[key] for key in names], np.int64).reshape(-1, 6)
    return Index(rows, list(names.values()), fields, values, found.left_out, damage)


class _Found:
    """Members by their key, and what is left out.

    A key is a member's name without its last suffix. But where webdataset's key, which ends at the first dot, has a picture of its own, a
    picture with more dots (`b.seg.png` beside `b.jpg`) belongs to that one.
    """

    def __init__(self) -> None:
        self.places: dict[str, list[int]] = {}
        self.left_out: dict[str, str] = {}
        self._names: dict[str, str] = {}  # of pictures, by key
        self._files: dict[str, tuple[int, int]] = {}
        self._links: dict[str, Member] = {}

    def add(self, member: Member) -> None:
        named = PurePosixPath(member.name)
        suffix = named.suffix.lower()
        if not suffix or named.name.startswith((".", "__")):
            return
        if suffix in UNREAD_SUFFIXES:
            self.left_out[readable(member.name)] = f"pictures that end in {suffix} are not read"
        kind = PICTURE if suffix in SUFFIXES else KINDS.get(suffix)
        if kind is None:
            return
        if not member.of_use:
            self.left_out[readable(member.name)] = "it is a sparse file or no file at all"
        elif member.target:
            self._links[normpath(member.name)] = member
            self.places.setdefault(str(named.with_suffix("")), [0] * 6)
        else:
            self._files[normpath(member.name)] = member.offset, member.size
            self._put(member.name, kind, member.offset, member.size)

    def follow_links(self) -> None:
        """Gives links the bytes of the members that they lead to."""
        for member in self._links.values():
            name, steps = member.name, 0
            while (link := self._links.get(normpath(name))) is not None and steps < MOST_LINKS:
                name, steps = (join(dirname(link.name), link.target) if link.symbolic else link.target), steps + 1
            place = self._files.get(normpath(name))
            if place is None:
                self.left_out[readable(member.name)] = "it is a link to what is not in the archive"
            else:
                suffix = PurePosixPath(member.name).suffix.lower()
                self._put(member.name, KINDS.get(suffix, PICTURE), *place)

    def pictures(self) -> dict[str, str]:
        """The names of the members that are pictures, by their keys, in order."""
        kept = {}
        for key, row in self.places.items():
            if not row[PICTURE + 1]:
                continue
            named = PurePosixPath(key)
            first = str(named.with_name(named.name.partition(".")[0] or named.name))
            if first != key and self.places.get(first, [0] * 6)[PICTURE + 1]:
                self.left_out[readable(self._names[key])] = f"{PurePosixPath(first).name!r} has a picture of its own"
            else:
                kept[key] = self._names[key]
        return kept

    def _put(self, name: str, kind: int, offset: int, size: int) -> None:
        key = str(PurePosixPath(name).with_suffix(""))
        row = self.places.setdefault(key, [0] * 6)
        if row[kind + 1]:
            again = readable(name)
            while again in self.left_out or again == readable(self._names.get(key, "")):
                again += " again"
            self.left_out[again] = "another member of the same key and kind came before"
        elif size:
            row[kind : kind + 2] = offset, size
            if kind == PICTURE:
                self._names[key] = name
        elif kind == PICTURE:
            self.left_out[readable(name)] = "it is empty"


def _numbers_of(file: IO[bytes], row: Sequence[int]) -> dict[str, float]:
    """What the .json file of a picture says in numbers."""
    if not 0 < row[JSON + 1] <= LARGEST_JSON:
        return {}
    file.seek(row[JSON])
    return _numbers(file.read(row[JSON + 1]))


def _numbers(content: bytes) -> dict[str, float]:
    """The numbers in a .json file; none of a broken one."""
    try:
        said = parse_json(content)
        return {name: float(value) for name, value in said.items() if isinstance(value, int | float)}
    except (ValueError, AttributeError, OverflowError):
        return {}


def read_member(path: Path, offset: int, size: int) -> tuple[str, bytes]:
    """Name and content of the member whose bytes are there. TesseraError when the archive has changed since it was indexed."""
    try:
        with path.open("rb", buffering=0) as file:
            member = _header(file, offset)
            content = file.read(size)
    except OSError as error:
        raise TesseraError(f"{path} cannot be read: {error.strerror or error}") from error
    except tarfile.TarError as error:
        raise _changed(path) from error
    if member.size != size or len(content) != size:
        raise _changed(path)
    return readable(member.name), content


def member_name(path: Path, offset: int) -> str:
    """The name of the member whose bytes are there; where it cannot be read, the place."""
    try:
        with path.open("rb", buffering=0) as file:
            return readable(_header(file, offset).name)
    except (OSError, tarfile.TarError):
        return f"byte {offset}"


def _changed(path: Path) -> TesseraError:
    return TesseraError(f"{path} has changed since it was indexed: start again to index it anew")


def _header(file: IO[bytes], offset: int) -> tarfile.TarInfo:
    file.seek(offset - BLOCK)
    return tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "surrogateescape")


def readable(name: str) -> str:
    """A member's name as text that can be written anywhere."""
    return name.encode("utf-8", "replace").decode()


def index_archives(paths: Sequence[Path]) -> Iterator[Index]:
    """The index of each archive, from the cache or made now. One process makes them, others that need the same ones wait for it.

    Where the cache cannot be written every process makes its own.
    """
    if any(_is_missing(path) for path in paths):
        _make(paths)
    for path in paths:
        yield _stored(path) or read_index(path)


def rows_again(path: Path, table: Path) -> np.ndarray:
    """The rows of an archive that were kept in the file `table`. TesseraError when the archive is another since."""
    rows = _load_rows(table)
    if rows is not None:
        return rows
    names = _names(path)
    if names is None or names[0] != table:
        raise _changed(path)
    return read_index(path).rows


def _make(paths: Sequence[Path]) -> None:
    from rich.console import Console
    from rich.progress import track

    folder = _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{_digest(*paths)}.lock"):
            missing = [path for path in paths if _is_missing(path)]
            for path in track(missing, "index", console=Console(stderr=True), transient=True, disable=len(missing) < SHOWN):
                _store(path)
    except (OSError, NotImplementedError):
        pass  # no room, no permission, or no locks there


def _digest(*parts: object) -> str:
    return hashlib.sha256(os.fsencode("\n".join(map(str, parts)))).hexdigest()[:40]


def _folder() -> Path:
    return cache_folder() / "shards"


def _names(path: Path) -> tuple[Path, Path] | None:
    """The two files of the index of an archive, or None when there is no such archive."""
    try:
        about = path.stat()
    except OSError:
        return None
    name = _digest(FORMAT, path.absolute(), about.st_size, about.st_mtime_ns)
    return _folder() / f"{name}.npy", _folder() / f"{name}.npz"


def _store(path: Path) -> None:
    names = _names(path)
    if names is None:
        return
    made = read_index(path)
    if names != _names(path):
        return  # it changed meanwhile
    about = json.dumps({"fields": made.fields, "damage": made.damage, "left_out": made.left_out, "names": made.names})
    with write_file(names[1]) as part, part.open("wb") as file:
        np.savez(file, values=made.values, about=np.frombuffer(about.encode(), np.uint8))
    with write_file(names[0]) as part, part.open("wb") as file:
        np.save(file, made.rows)


def _is_missing(path: Path) -> bool:
    names = _names(path)
    return names is not None and not all(name.is_file() for name in names)


def _load_rows(table: Path) -> np.ndarray | None:
    try:
        rows: Any = np.load(table, mmap_mode="r", allow_pickle=False)
    except Exception:  # absent, or damaged: a header can then raise nearly anything
        return None
    return rows if rows.dtype == np.int64 and rows.ndim == 2 and rows.shape[1] == 6 else None


def _stored(path: Path) -> Index | None:
    names = _names(path)
    rows = None if names is None else _load_rows(names[0])
    if rows is None or names is None:
        return None
    try:
        with np.load(names[1], allow_pickle=False) as beside:
            about = parse_json(beside["about"].tobytes())
            found = Index(
                rows, list(about["names"]), list(about["fields"]), beside["values"], dict(about["left_out"]), str(about["damage"])
            )
    except Exception:  # as above
        return None
    return found if len(found.names) == len(rows) and found.values.shape == (len(rows), len(found.fields)) else None
