"""The files of `torch.save` and of TorchScript.

Zip:     NAME/data.pkl describes everything, NAME/data/KEY holds the bytes of a storage, stored without compression.
         TorchScript adds NAME/code and NAME/constants.pkl; its data.pkl is one object per module.
Legacy:  (before PyTorch 1.6) five pickles: magic number, version, the machine's byte order, the contents, the storages' keys; then each
         storage as its number of elements, int64, and its bytes.
"""

import errno
import io
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from tessera.checkpoints.budget import MOST, Budget, TooCostly
from tessera.checkpoints.pickled_names import Names
from tessera.checkpoints.pickled_tensors import Storage, StorageType, storage_description
from tessera.checkpoints.stored import Deflated, FilePart
from tessera.checkpoints.unpickling import MalformedPickle, RunsCode, unpickle
from tessera.errors import TesseraError

__all__ = ["Contents", "join_hint", "read_legacy", "read_zip", "refuse_code"]

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
LARGEST_DEFLATION = 1040  # times: deflate cannot shrink anything more


class Contents(NamedTuple):
    format: str
    tree: Any
    foreign: frozenset[str]


def read_zip(path: Path) -> Contents:
    """What a zip file of torch describes.

    Raises:
        TesseraError: cut short, damaged, no file of torch, or one that tries to run code.
    """
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            return _Zip(path, archive, file).contents()
    except zipfile.BadZipFile as error:
        reason = "its end, with its directory, is missing" if "not a zip file" in str(error) else _plain(error)
        raise TesseraError(
            f"{path} is a zip file that is cut short or damaged ({reason}): download or copy it again{join_hint(path)}"
        ) from None
    except (NotImplementedError, RuntimeError, ValueError, struct.error, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a place before the file's begin, which it asked for
            raise
        raise TesseraError(f"{path} is a damaged zip file ({_plain(error)}): download or copy it again") from None


class _Zip:
    def __init__(self, path: Path, archive: zipfile.ZipFile, file: IO[bytes]) -> None:
        self.path, self.archive, self.file = path, archive, file
        self.size = path.stat().st_size
        names = archive.namelist()
        if len(set(names)) != len(names):
            raise TesseraError(f"{path} is a damaged zip file: it has two records of one name; download or copy it again")
        roots = {name.removesuffix("data.pkl") for name in names if name.rpartition("/")[2] == "data.pkl" and name.count("/") < 2}
        if len(roots) != 1:
            raise TesseraError(
                f"{path} is a zip file but no checkpoint of torch: it has {len(roots)} records data.pkl, not one; "
                "if it only packs checkpoints, unpack it"
            )
        self.root = roots.pop()
        self.storages: dict[str, tuple[FilePart | Deflated, int]] = {}

    def contents(self) -> Contents:
        if f"{self.root}byteorder" in self.archive.NameToInfo and self.bytes_of("byteorder", 16).strip() != b"little":
            raise TesseraError(f"{self.path} was written on a big-endian machine, which cannot be read: save it again on another")
        script = f"{self.root}constants.pkl" in self.archive.NameToInfo
        names = Names()
        budget = Budget(self.size)
        stream = io.BytesIO(self.bytes_of("data.pkl", budget.largest_description(self.size)))
        with refuse_code(self.path):
            tree = unpickle(stream, names.find, self.storage, budget)
        return Contents("torchscript" if script else "zip", tree, frozenset(names.foreign))

    def storage(self, identity: Any) -> Storage:
        kind, key, count = storage_description(identity)
        source, size = self.storages.get(key) or self.storages.setdefault(key, self.record(f"data/{key}"))
        if count * kind.itemsize > size:
            raise TesseraError(
                f"{self.path} is damaged: its record data/{_plain(key)} has {size} bytes, not {count * kind.itemsize}; copy it again"
            )
        return Storage(kind, count, source)

    def record(self, name: str) -> tuple[FilePart | Deflated, int]:
        """Where the bytes of a record are, and how many."""
        shown = _plain(name)
        info = self.archive.NameToInfo.get(self.root + name)
        if info is None:
            raise TesseraError(f"{self.path} is incomplete: it has no record {shown}; download or copy it again{join_hint(self.path)}")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise TesseraError(f"{self.path} has a record {shown} that is encrypted or compressed in an unusual way: pack it again")
        self.file.seek(max(info.header_offset, 0))
        header = self.file.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise TesseraError(
                f"{self.path} is a damaged zip file: its record {shown} is not where it should be; download or copy it again"
            )
        start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
        stored = info.compress_type == zipfile.ZIP_STORED
        if start + info.compress_size > self.size or info.file_size > info.compress_size * (1 if stored else LARGEST_DEFLATION):
            raise TesseraError(f"{self.path} is a damaged zip file: its record {shown} is shorter than it says; download or copy it again")
        return (FilePart(self.path, start) if stored else Deflated(self.path, info.filename)), info.file_size

    def bytes_of(self, name: str, largest: int) -> bytes:
        """The content of a small record. Checksums are not compared: torch can be told not to write them."""
        source, size = self.record(name)
        if size > largest:
            raise TesseraError(f"{self.path} is no checkpoint: its record {name} of {size} bytes is larger than any description")
        content = bytearray(size)
        source.fill(memoryview(content), 0)
        return bytes(content)


def read_legacy(path: Path) -> Contents:
    """What a legacy file of torch describes.

    Raises:
        TesseraError: cut short, damaged, a pickle of something else, or one that tries to run code.
    """
    size = path.stat().st_size
    with path.open("rb") as file, refuse_code(path):
        stream, budget = _Bounded(file, size), Budget(size)
        if unpickle(stream, Names().find, storage_description, budget) != MAGIC:
            raise TesseraError(f"{path} is a pickle but no checkpoint: torch.save writes another format; save its tensors with it")
        version, system = (unpickle(stream, Names().find, storage_description, budget) for _ in range(2))
        if version != VERSION or not isinstance(system, dict):
            raise TesseraError(f"{path} has another version of torch's legacy format, not {VERSION}: save it again with a later torch")
        if system.get("little_endian") is not True:
            raise TesseraError(f"{path} was written on a big-endian machine, which cannot be read: save it again on another")
        names, storages = Names(), _LegacyStorages(path)
        tree = unpickle(stream, names.find, storages.storage, budget)
        storages.place(unpickle(stream, Names().find, storages.storage, budget), stream, size)
    return Contents("legacy", tree, frozenset(names.foreign))


class _LegacyStorages:
    """The storages that the contents mention; where their bytes are is known only after all pickles."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, tuple[StorageType, int, FilePart]] = {}

    def storage(self, identity: Any) -> object:
        if isinstance(identity, tuple) and len(identity) >= 2 and identity[0] == "module":
            return identity[1]  # ("module", class, source file, source code): the class
        kind, key, count = storage_description(identity)
        first_kind, first_count, part = self.known.setdefault(key, (kind, count, FilePart(self.path)))
        if first_kind.itemsize * first_count != kind.itemsize * count:  # the same bytes can be there under two types
            raise MalformedPickle(f"tensor data {key[:40]!a} of two sizes")
        view = identity[5] if len(identity) > 5 else None
        if view is None:
            return Storage(kind, count, part)
        _view_key, first, length = view
        if type(first) is not int or type(length) is not int or not 0 <= first <= first + length <= count:
            raise MalformedPickle(f"a part of tensor data {key[:40]!a} that reaches past its end")
        return Storage(kind, length, part, first)

    def place(self, keys: Any, stream: "_Bounded", size: int) -> None:
        """Finds where each storage's bytes begin."""
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(self.known):
            raise MalformedPickle("its list of tensor data is not that of its contents")
        for key in keys:
            kind, count, part = self.known[key]
            length = stream.read(8)
            if len(length) == 8 and length != struct.pack("<q", count):
                raise TesseraError(f"{self.path} is damaged: tensor data {key[:40]!a} has another size than its tensors; copy it again")
            part.offset = stream.position
            stream.skip(count * kind.itemsize)
            if len(length) < 8 or stream.position > size:
                raise TesseraError(
                    f"{self.path} is cut short: {size} bytes end within its tensors; download or copy it again{join_hint(self.path)}"
                )


class _Bounded:
    """A file that knows its position and asks for no more than there is, whatever length the file itself claims."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.size, self.position = file, size, 0

    def read(self, count: int, /) -> bytes:
        content = self.file.read(max(min(count, self.size - self.position, MOST), 0))
        self.position += len(content)
        return content

    def readline(self) -> bytes:
        line = self.file.readline(1 << 20)
        self.position += len(line)
        return line

    def tell(self) -> int:
        return self.position

    def skip(self, count: int) -> None:
        self.position += count
        self.file.seek(self.position)


@contextmanager
def refuse_code(path: Path) -> Iterator[None]:
    """Turns what a pickle does wrongly into a sentence about the file."""
    try:
        yield
    except TooCostly as error:
        raise TesseraError(f"{path} is not read to its end: {error}") from None
    except RunsCode as error:
        raise TesseraError(f"{path} tries to run {_plain(error)}: a checkpoint holds no code; nothing was run") from None
    except MalformedPickle as error:
        raise TesseraError(f"{path} is cut short or damaged ({_plain(error)}): download or copy it again{join_hint(path)}") from None


def _plain(text: object) -> str:
    """What a file says, for a terminal: no control characters, and not a page of it."""
    return "".join(letter if " " <= letter <= "~" else ascii(letter)[1:-1] for letter in str(text)[:160])


def join_hint(path: Path) -> str:
    """Released checkpoints were published in parts `NAME_aa`, `NAME_ab`, …"""
    stem, _, part = path.name.rpartition("_")
    if len(part) == 2 and part[0] == "a" and part[1].isalpha() and stem:
        return f"; if it is one of several parts, join them first (cat {stem}_* > {stem})"
    return ""
