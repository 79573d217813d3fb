"""YAML of strangers: keys stand once, aliases do not multiply, and nothing but plain values is made."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tessera.yaml_files import DEEPEST, LARGEST, MOST_VALUES, parse_yaml, read_yaml

KEYS = st.text(st.characters(codec="ascii", categories=["L"]), min_size=1, max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | KEYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
)


@given(VALUES)
def test_a_value_comes_back(value: Any) -> None:
    text = yaml.safe_dump(value)
    assert parse_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("-1.5E+3", -1500.0), (".5", 0.5), ("1.", 1.0), ("on", "on"), ("no", "no"), ("true", True),
        ("null: 1", {"null": 1}), ("on: 1", {"on": 1}), ("1: a", {"1": "a"}), ("", None), ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
    ],
)  # fmt: skip
def test_plain_words_and_numbers(text: str, value: Any) -> None:
    found = parse_yaml(text)
    assert found == value
    assert type(found) is type(value)


def bomb(levels: int) -> str:
    """Lists of nine of the lists before."""
    lines = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 9)}]" for i in range(levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\na: 2", "'a' stands twice"),
        ("a: {b: 1, 'b': 2}", "'b' stands twice"),
        (bomb(12), f"more than {MOST_VALUES} values"),
        ("&a [*a]", "contains itself"),
        ("&a {a: *a}", "contains itself"),
        ("[" * (DEEPEST + 2) + "]" * (DEEPEST + 2), "nested too deeply"),
        ("[" * 10**5, "nested too deeply"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("!!python/name:os.system", "not YAML"),
        ("a: [", "not YAML"),
        ("a: \x1b[31m", "not YAML"),
        ('a: "x\\0y"', "NUL"),
        ("1: 1\n---\n2: 2", "not YAML"),
        ("2001-99-99", "month"),
        ("9" * 5000, "digits"),
    ],
)
def test_what_is_refused_is_a_value_error_with_a_reason(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as error:
        parse_yaml(text)
    assert "\n" not in str(error.value)


def test_aliases_that_do_not_multiply_are_used(tmp_path: Path) -> None:
    assert len(parse_yaml(bomb(4))["a3"]) == 9


def test_large_files_pipes_and_folders_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("\ufeffa: 1", encoding="utf-8")
    assert read_yaml(path) == {"a": 1}
    os.truncate(path, LARGEST + 1)
    with pytest.raises(ValueError, match=f"at most {LARGEST}"):
        read_yaml(path)
    with pytest.raises(ValueError, match="regular"):
        read_yaml(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="regular"):
        read_yaml(tmp_path / "pipe")
