"""Descriptions against signatures: names, types and ranges are known before anything is made."""

import re
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.errors import UsageError
from tessera.schema import Depth, Positive, check_arguments, shown


class Inner:
    def __init__(self, rate: float = 1.0) -> None:
        self.rate = rate


class Part(Inner):
    def __init__(self, width: Positive, depth: Depth = 1, sides: Sequence[int] = (), kind: Literal["a", "b"] = "a", **others: Any) -> None:
        super().__init__(**others)


RIGHT = {"width": 4, "depth": 2, "sides": [1, 2], "kind": "b", "rate": 0.5}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


def test_what_the_constructor_takes_is_right() -> None:
    check_arguments("part", "p", Part, RIGHT)
    check_arguments("part", "p", Part, {"rate": 1}, whole=False)  # a whole number is a float too


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"widht": 4}, "unknown argument 'widht': did you mean 'width'?"),
        ({"rates": 4}, "did you mean 'rate'?"),
        ({"width": 0}, "width is 0: input should be greater than 0"),
        ({"width": 4.0}, "width is 4.0"),
        ({"width": True}, "width is True"),
        ({"width": "4"}, "width is '4'"),
        ({"width": None}, "width is None"),
        ({"depth": 10**8}, "depth is 100000000"),
        ({"sides": [1, "2"]}, "sides is"),
        ({"sides": 5}, "sides is 5"),
        ({"kind": "c"}, "kind is 'c'"),
        ({"rate": float("nan")}, "give a finite number"),
        ({"rate": [[float("inf")]]}, "give a finite number"),
        ({"width": 2**63}, "give a number of at most"),
        ({"sides": [-(2**64)]}, "give a number of at most"),
    ],
)
def test_everything_else_is_a_sentence_about_its_argument(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match="part 'p'") as error:
        check_arguments("part", "p", Part, RIGHT | changes)
    assert sentence in str(error.value)


def test_what_is_required_must_be_there_unless_the_part_is_not_whole() -> None:
    with pytest.raises(UsageError, match="part 'p' needs the argument 'width'"):
        check_arguments("part", "p", Part, {})
    check_arguments("part", "p", Part, {}, whole=False)


@given(st.sampled_from(list(RIGHT)), JSON)
def test_any_json_value_is_taken_or_named(key: str, value: Any) -> None:
    sentence = ""
    try:
        check_arguments("part", "p", Part, RIGHT | {key: value})
    except UsageError as error:
        sentence = str(error)
    assert not sentence or re.match(rf"part 'p': {re.escape(key)}(\.| is)", sentence)  # itself, or what is in it
    assert len(sentence) < 500


def test_deep_and_long_values_are_shown_shortly() -> None:
    deep: Any = []
    for _ in range(1000):
        deep = [deep]
    with pytest.raises(UsageError, match="nested too deeply"):
        check_arguments("part", "p", Part, {"width": 1, "sides": deep})
    assert len(shown("x" * 10**6)) <= 60
    assert shown(10**5000) == "a number of thousands of digits"
