import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.contexts.labels import Labels
from tessera.errors import UsageError
from tessera.registry import CONTEXTS, build


@given(st.integers(1, 2000), st.data())
def test_numbers_and_numeric_strings(count, data):
    numbers = data.draw(st.lists(st.integers(0, count - 1), max_size=5))
    assert Labels(count)(numbers).labels.tolist() == numbers
    assert Labels(count)([f" {number} " for number in numbers]).labels.tolist() == numbers


@pytest.mark.parametrize("null", ["learned", "mean"])
def test_no_label_is_one_past_the_classes(null):
    labels = Labels(10, null=null)
    assert labels.unconditional(3).labels.tolist() == [10, 10, 10]
    assert labels([2, None]).labels.tolist() == [2, 10]


def test_rows_the_network_needs():
    assert [Labels(10, null=null).rows for null in ("learned", "mean", None)] == [11, 10, 10]


def test_names():
    labels = Labels(3, names=["tench, Tinca tinca", "crane, bird", "crane, machine"])
    assert labels(["Tench", "tinca tinca", "tench, tinca tinca", "Bird", "crane, machine", "1"]).labels.tolist() == [0, 0, 0, 1, 2, 1]
    with pytest.raises(UsageError, match="did you mean 'tench'"):
        labels(["tensh"])
    with pytest.raises(UsageError, match="unknown class 'crane'"):
        labels(["crane"])


@pytest.mark.parametrize("prompt", [-1, 10, 11, "10", "-1", "", "a cat", "1.5"])
def test_wrong_prompts(prompt):
    with pytest.raises(UsageError, match="0 to 9"):
        Labels(10, null="learned")([prompt])


def test_no_null():
    with pytest.raises(UsageError, match="guidance"):
        Labels(10).unconditional(1)
    with pytest.raises(UsageError, match="guidance"):
        Labels(10)([None])


@pytest.mark.parametrize("wrong", [{"count": 0}, {"count": 2, "names": ["a"]}])
def test_wrong_configuration(wrong):
    with pytest.raises(UsageError, match="labels"):
        Labels(**wrong)


def test_configuration_makes_the_same_part():
    labels = Labels(2, null="mean", names=["cat", "dog"])
    twin = build("context encoder", CONTEXTS, json.loads(json.dumps(labels.config)))
    assert twin.config == labels.config
    assert twin(["dog"]).labels.tolist() == [1]
