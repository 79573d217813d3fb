"""JSON of strangers: whole, of a bounded size and depth, and from regular files alone."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.json_files import parse_json, read_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(VALUES)
def test_a_value_comes_back(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_file_may_begin_with_a_mark(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(mark + '{"é": [1]}', encoding="utf-8")
    assert read_json(path) == {"é": [1]}
    assert parse_json(path.read_bytes()) == {"é": [1]}  # of members of archives


@pytest.mark.parametrize("text", ["", "{", "[1,]", "{'a': 1}", "[" * 10**5, '{"a":' * 10**5, "[" * 10**5 + "]" * 10**5, "1" * 10**5])
def test_anything_else_is_a_value_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 the reason is json's own
        parse_json(text)
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError):  # noqa: PT011
        read_json(path)


def test_large_files_pipes_and_folders_are_not_read(tmp_path: Path) -> None:
    large = tmp_path / "large.json"
    large.write_text("[]")
    assert read_json(large, 2) == []
    with pytest.raises(ValueError, match="2 bytes, and at most 1"):
        read_json(large, 1)
    with pytest.raises(ValueError, match="no"):
        read_json(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        read_json(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none")
