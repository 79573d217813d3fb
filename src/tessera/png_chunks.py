"""A PNG file without whatever is not needed to see its pixels (PNG specification, third edition, section 5).

Pillow refuses a sound picture for its text (more of it than it cares to keep) or for a damaged chunk of a colour profile, a time, a size
in inches.
"""

import io
import zlib

__all__ = ["SIGNATURE", "pixels_alone"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
WANTED = {b"eXIf": b"", b"iTXt": b"tessera\0\0"}
"""Chunks that are kept where they are whole and begin like this: which way is up, and how Tessera drew the picture."""
LARGEST_WANTED = 1 << 20
LARGEST = 1 << 30
"""Bytes that are read at most."""


def pixels_alone(file: io.BufferedReader | io.BytesIO) -> io.BytesIO:
    """The file's chunks that are needed, and what Tessera reads besides, as a file."""
    file.seek(0)
    kept = io.BytesIO(SIGNATURE)
    kept.seek(0, io.SEEK_END)
    file.seek(len(SIGNATURE))
    while len(head := file.read(8)) == 8 and kept.tell() < LARGEST:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind in NEEDED or (kind in WANTED and length <= LARGEST_WANTED):
            content, check = file.read(min(length, LARGEST)), file.read(4)
            whole = zlib.crc32(kind + content).to_bytes(4, "big") == check
            if kind in NEEDED or (whole and content.startswith(WANTED[kind])):
                kept.write(head + content + check)
        else:
            file.seek(length + 4, io.SEEK_CUR)
        if kind == b"IEND":
            break
    kept.seek(0)
    return kept
