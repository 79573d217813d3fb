import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera.codecs.remap import Remap
from tessera.errors import UsageError


@given(st.data())
def test_classes_survive_the_round_trip_and_use_their_smallest_code(data: st.DataObject) -> None:
    classes = data.draw(st.integers(1, 20))
    rest = data.draw(st.lists(st.integers(0, classes - 1), max_size=30))
    table = data.draw(st.permutations([*range(classes), *rest]))
    remap = Remap(len(table), classes)
    remap.use(table)
    tokens = torch.arange(classes)[None]
    assert torch.equal(remap.reduce(remap.restore(tokens)), tokens)
    assert remap.restore(tokens)[0].tolist() == [table.index(c) for c in range(classes)]
    assert remap.reduce(torch.arange(len(table))[None])[0].tolist() == table


def test_the_mapping_is_saved_with_the_model() -> None:
    remap, other = Remap(6, 3), Remap(6, 3)
    remap.use([0, 2, 0, 0, 1, 2])
    other.load_state_dict(remap.state_dict())
    assert other.restore(torch.tensor([[0, 1, 2]])).tolist() == [[0, 4, 1]]


def test_without_a_mapping_the_first_codes_are_the_subset() -> None:
    assert Remap(5, 3).reduce(torch.arange(5)[None]).tolist() == [[0, 1, 2, 0, 0]]


@pytest.mark.parametrize("table", [[0, 1, 2], [0, 1, 2, 3, 0], [0, 1, 1, 0, 0], [0, 1, 2, -1, 0]])
def test_a_mapping_that_does_not_fit_is_refused(table: list[int]) -> None:
    with pytest.raises(UsageError, match="code mapping"):
        Remap(5, 3).use(table)


def test_more_classes_than_codes_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot give 6 classes"):
        Remap(5, 6)
