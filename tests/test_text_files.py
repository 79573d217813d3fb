"""Compressed text is unpacked as far as it may be, whatever its file claims; of pipes, only the shell's are read."""

import gzip
import os
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.errors import TesseraError, UsageError
from tessera.text_files import gunzip, read_text


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=3))
def test_what_was_compressed_comes_back(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    assert gunzip(b"".join(map(gzip.compress, parts)), "x", largest=len(whole)) == whole


def test_more_than_the_limit_is_refused() -> None:
    packed = gzip.compress(bytes(10**7), 1, mtime=0)
    with pytest.raises(TesseraError, match="x holds more than 1000 bytes"):
        gunzip(packed, "x", largest=1000)
    assert len(gunzip(packed, "x", largest=10**7)) == 10**7


@given(st.integers(0, 200), st.integers(0, 255))
def test_damage_is_one_sentence(place: int, value: int) -> None:
    packed = bytearray(gzip.compress(bytes(range(256)) * 2))
    changed = bytes([*packed[:place], value, *packed[place + 1 :]])
    sentence = ""
    try:
        gunzip(changed, "x")
    except TesseraError as error:
        sentence = str(error)
    assert not sentence or sentence.startswith("x is no gzip file, or a damaged one")


@pytest.mark.parametrize("content", [b"", b"PK", zlib.compress(b"a"), gzip.compress(b"a" * 100, mtime=0)[:-9], b"\x1f\x8b" + bytes(20)])
def test_what_is_no_gzip_is_said(content: bytes) -> None:
    if content:
        with pytest.raises(TesseraError, match="no gzip file, or a damaged one"):
            gunzip(content, "x")
    else:
        assert gunzip(content, "x") == b""


def test_a_pipe_of_the_shell_is_read_and_no_other(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer, "wb") as end:
        end.write("é\n".encode())
        end.close()
        assert read_text(Path(f"/dev/fd/{reader}")) == "é\n"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is a pipe or a device: give a file"):
        read_text(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is a pipe or a device: give a file"):
        read_text(Path("/dev/null"))
