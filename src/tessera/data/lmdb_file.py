"""Where the values of an LMDB environment lie: its B+ tree, read as plain bytes (`MDB_page`, `MDB_meta` and `MDB_node` of LMDB 0.9).

    page    number u64, pad u16, flags u16, lower u16, upper u16 (of an overflow page: pages u32), then pointers u16 to nodes
    node    low u16, high u16, flags u16, key's length u16, key, value; or of a branch, whose low, high and flags are a page's number
    meta    in the pages 0 and 1, of which the later transaction counts

The library maps the file into memory and trusts it, so that a page which is cut off or all zeros ends the whole process. Here every place
is checked against the size of the file before it is read.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from tessera.errors import TesseraError

__all__ = ["Entry", "entries"]

MAGIC, VERSION = 0xBEEFC0DE, 1
HEADER = struct.Struct("<QHHHH")
NODE = struct.Struct("<HHHH")
META = struct.Struct("<II16x48xI2xH32xQQQ")  # magic, version; of the main tree: pad, depth, root; the last page, the transaction
PAGE_SIZE = struct.Struct("<I")
BRANCH, LEAF = 1, 2
BIG, NOT_PLAIN = 1, 6
"""Flags of a node: its value lies in overflow pages; it is a tree or a list of its own."""
NO_ROOT = 2**64 - 1
DEEPEST = 32
"""Levels of a tree; LMDB itself allows no more."""


class Entry(NamedTuple):
    """A key, and where its value lies in the file."""

    key: bytes
    offset: int
    size: int


class _Meta(NamedTuple):
    page_size: int
    root: int
    last: int


def entries(path: Path, skipped: dict[str, str]) -> Iterator[Entry]:
    """The entries of the main database in the order of their keys; damaged pages, and nodes in them, go to `skipped`.

    TesseraError for a file that is none of LMDB's, or was cut.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        meta = _meta(path, file)
        needed = (meta.last + 1) * meta.page_size
        if size < needed:
            raise TesseraError(f"{path} is cut: {size} of {needed} bytes are there; unpack its archive again")
        if meta.root != NO_ROOT:
            yield from _Tree(path, file, meta, skipped).below(meta.root)


def _meta(path: Path, file: IO[bytes]) -> _Meta:
    start = file.read(HEADER.size + META.size)
    found: list[tuple[int, _Meta]] = []
    if len(start) == HEADER.size + META.size:
        (page_size,) = PAGE_SIZE.unpack_from(start, HEADER.size + 24)
        for number in (0, 1):
            file.seek(number * page_size + HEADER.size)
            content = file.read(META.size)
            if len(content) == META.size:
                magic, version, _, _, root, last, transaction = META.unpack(content)
                if (magic, version) == (MAGIC, VERSION):
                    found.append((transaction, _Meta(page_size, root, last)))
    meta = max(found, default=(0, _Meta(0, 0, 0)))[1]
    if meta.page_size < 512 or meta.page_size & (meta.page_size - 1):
        raise TesseraError(f"{path} is no LMDB file of a 64-bit system: unpack its archive again")
    return meta


class _Tree:
    def __init__(self, path: Path, file: IO[bytes], meta: _Meta, skipped: dict[str, str]) -> None:
        self.path, self.file, self.meta, self.skipped = path, file, meta, skipped
        self._seen: set[int] = set()

    def below(self, number: int, depth: int = 0) -> Iterator[Entry]:
        """The entries below page `number`, which has `depth` pages above it."""
        page = self._page(number)
        if page is None:
            return
        flags, lower = HEADER.unpack_from(page)[2:4]
        if not flags & (BRANCH | LEAF) or depth > DEEPEST or not HEADER.size <= lower <= len(page):
            self.skipped[f"{self.path}, page {number}"] = "it is damaged, and the pictures in it are lost"
            return
        for place in struct.unpack_from(f"<{(lower - HEADER.size) // 2}H", page, HEADER.size):
            if place + NODE.size > len(page):
                self.skipped[f"{self.path}, page {number}, node at {place}"] = "it is damaged"
                continue
            low, high, node, length = NODE.unpack_from(page, place)
            if flags & BRANCH:
                yield from self.below(low | high << 16 | node << 32, depth + 1)
            elif (entry := self._entry(page, number, place, low | high << 16, node, length)) is not None:
                yield entry

    def _page(self, number: int) -> bytes | None:
        if number > self.meta.last or number in self._seen:
            self.skipped[f"{self.path}, page {number}"] = "a damaged page leads there"
            return None
        self._seen.add(number)
        self.file.seek(number * self.meta.page_size)
        page = self.file.read(self.meta.page_size)
        if len(page) < self.meta.page_size or HEADER.unpack_from(page)[0] != number:
            self.skipped[f"{self.path}, page {number}"] = "it is damaged, and the pictures in it are lost"
            return None
        return page

    def _entry(self, page: bytes, number: int, place: int, size: int, flags: int, length: int) -> Entry | None:
        value = place + NODE.size + length
        key = page[place + NODE.size : value]
        offset = number * self.meta.page_size + value
        fits = value + size <= len(page)
        if flags & BIG and value + 8 <= len(page):
            first = int.from_bytes(page[value : value + 8], "little")
            offset = first * self.meta.page_size + HEADER.size
            fits = offset + size <= (self.meta.last + 1) * self.meta.page_size
        if flags & NOT_PLAIN or not fits or len(key) < length:
            self.skipped[f"{self.path}, page {number}, node at {place}"] = "it is damaged"
            return None
        return Entry(key, offset, size)
