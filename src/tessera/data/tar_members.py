"""The members of an uncompressed tar archive, one header after another (POSIX.1-2001, pax and ustar; GNU's long names and sparse files).

The library tarfile reads single headers here, and no more: its own walk believes whatever sizes extended headers state, follows chains of
them by recursion, waits for the end of a sparse map that has none, and stops at the first mark of an end, behind which a joined archive
goes on.
"""

import re
import tarfile
from collections.abc import Iterator
from typing import IO, NamedTuple

__all__ = ["Damaged", "Member", "members"]

BLOCK = tarfile.BLOCKSIZE
LONGEST = 1 << 20
"""Bytes of an extended header that are read; a path is at most 4096 bytes long."""
CHUNK = 1 << 16
FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
LINKS = (tarfile.LNKTYPE, tarfile.SYMTYPE)
EXTENSIONS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)


class Member(NamedTuple):
    """offset, size: of its bytes in the archive. target: what a link names, "" of a file. of_use: a regular file, or a link."""

    name: str
    offset: int
    size: int
    target: str
    of_use: bool
    symbolic: bool


class Damaged(Exception):
    """Where an archive cannot be read further, and why."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.offset, self.reason = offset, reason


def members(file: IO[bytes], end: int) -> Iterator[Member]:
    """Every member of an archive of `end` bytes. Raises `Damaged` where it goes on no more, or ends without the mark of an end."""
    offset, marked = 0, False
    extended: dict[str, str] = {}
    while True:
        header = _header(file, offset)
        if header is None:
            if not marked and offset + BLOCK > end:
                raise Damaged(offset, "it ends without the mark of its end, so it was cut or is being written")
            marked = True
            offset = _behind_zeros(file, offset, end)
            if offset >= end:
                return
            continue
        data = offset + BLOCK
        if header.type == tarfile.GNUTYPE_SPARSE:
            data = _behind_map(file, offset, end)
        size = _size(header, extended, offset)
        holds = header.type in FILES or header.type not in tarfile.SUPPORTED_TYPES or header.type in (*EXTENSIONS, tarfile.GNUTYPE_SPARSE)
        length = size if holds else 0
        name = extended.get("GNU.sparse.name") or extended.get("path") or header.name
        if data + length > end:
            raise Damaged(offset, f"{name[:100]!r} does not end before the archive does")
        if header.type in EXTENSIONS:
            _extend(extended, header.type, file, data, length, offset)
        else:
            target = (extended.get("linkpath") or header.linkname) if header.type in LINKS else ""
            sparse = any(key.startswith("GNU.sparse.") for key in extended)
            of_use = (header.type in FILES and not sparse) or bool(target)
            if header.type != tarfile.DIRTYPE and not name.endswith("/"):
                yield Member(name, data, length, target, of_use, header.type == tarfile.SYMTYPE)
            extended = {}
        offset = data + -(-length // BLOCK) * BLOCK


def _header(file: IO[bytes], offset: int) -> tarfile.TarInfo | None:
    """The header that is there, None for a block of zeros or the end of the file."""
    file.seek(offset)
    block = file.read(BLOCK)
    if not block.strip(b"\0") and len(block) in (0, BLOCK):
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        reason = "it is no uncompressed tar archive" if offset == 0 else f"a header is damaged there ({error})"
        raise Damaged(offset, reason) from None


def _size(header: tarfile.TarInfo, extended: dict[str, str], offset: int) -> int:
    size = header.size
    if header.type not in EXTENSIONS and "size" in extended:
        size = int(extended["size"]) if re.fullmatch(r"[0-9]{1,18}", extended["size"]) else -1
    if size < 0:
        raise Damaged(offset, "a header states a size that is none")
    return size


def _behind_zeros(file: IO[bytes], offset: int, end: int) -> int:
    """The first block after `offset` that is not all zeros; at or behind `end` where there is none."""
    file.seek(offset)
    while chunk := file.read(CHUNK):
        if rest := chunk.lstrip(b"\0"):
            return (offset + len(chunk) - len(rest)) // BLOCK * BLOCK
        offset += len(chunk)
    return end


def _behind_map(file: IO[bytes], offset: int, end: int) -> int:
    """Where the bytes of a sparse file of GNU's old format begin: blocks that continue its map say whether another follows."""
    file.seek(offset)
    more, place = file.read(BLOCK)[482], offset + BLOCK
    while more:
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            raise Damaged(offset, "the map of a sparse file does not end before the archive does")
        more, place = block[504], place + BLOCK
    return place


def _extend(extended: dict[str, str], kind: bytes, file: IO[bytes], data: int, length: int, offset: int) -> None:
    """Takes in what an extended header says of the next member."""
    if kind == tarfile.XGLTYPE:
        return  # of all members: owners, comments; paths there have no meaning
    if length > LONGEST:
        raise Damaged(offset, f"a header of {length} bytes is too long to hold a name")
    file.seek(data)
    content = file.read(length)
    if kind in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
        key = "path" if kind == tarfile.GNUTYPE_LONGNAME else "linkpath"
        extended[key] = content.partition(b"\0")[0].decode("utf-8", "surrogateescape")
    else:
        extended.update(_records(content, offset))


def _records(content: bytes, offset: int) -> dict[str, str]:
    """The records "LENGTH KEY=VALUE\\n" of a pax header."""
    records: dict[str, str] = {}
    place = 0
    while place < len(content) and content[place]:
        told, space, _ = content[place : place + 20].partition(b" ")
        length = int(told) if space and told.isdigit() else 0
        record = content[place + len(told) + 1 : place + length]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise Damaged(offset, "an extended header is damaged")
        records[key.decode("utf-8", "surrogateescape")] = value[:-1].decode("utf-8", "surrogateescape")
        place += length
    return records
