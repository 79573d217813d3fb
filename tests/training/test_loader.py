"""Data by number: permutations, divisions of a step, unreadable pictures."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera.data.dataset import Example
from tessera.data.scenes import Scenes
from tessera.errors import TesseraError, UsageError
from tessera.training.loader import Batches, batches, fixed_batches, permute


class Numbered:
    """Picture i is filled with i; numbers in `broken` cannot be read."""

    def __init__(self, n: int, broken: tuple[int, ...] = (), sizes: tuple[int, ...] = (2,)) -> None:
        self.n, self.broken, self.sizes = n, broken, sizes
        self.skipped: dict[str, str] = {}
        self.fingerprint = "numbered"

    def __len__(self) -> int:
        return self.n

    def example(self, index: int, seed: int) -> Example | None:
        if index in self.broken:
            self.skipped[str(index)] = "broken"
            return None
        side = self.sizes[index % len(self.sizes)]
        return Example(torch.full((3, side, side), index, dtype=torch.uint8), str(seed))


@given(st.integers(1, 600), st.integers(0, 2**60))
def test_permute_is_a_permutation(n: int, seed: int) -> None:
    assert sorted(permute(np.arange(n), n, seed)) == list(range(n))


def test_permutations_differ_and_shuffle() -> None:
    a, b = permute(np.arange(1000), 1000, 1), permute(np.arange(1000), 1000, 2)
    assert (a == b).mean() < 0.02
    assert abs(np.corrcoef(np.arange(1000), a)[0, 1]) < 0.15


def test_every_pass_shows_every_picture_once() -> None:
    source = Batches(Numbered(10), seed=3, size=5)
    first, second = ([int(p[0, 0, 0]) for k in ks for p in source[k].image] for ks in ((0, 1), (2, 3)))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


@pytest.mark.parametrize("data", [Numbered(10), Scenes(length=10)])
def test_a_step_is_the_same_however_it_is_divided(data: object) -> None:
    whole = Batches(data, seed=5, size=8)[2]
    processes, accumulate, part = 2, 2, 2
    pieces = [
        Batches(data, 5, part, stride=part * processes, offset=part * rank)[2 * accumulate + k]
        for k in range(accumulate)
        for rank in range(processes)
    ]
    assert torch.equal(whole.image, torch.cat([piece.image for piece in pieces]))
    assert whole.prompts == [prompt for piece in pieces for prompt in piece.prompts]
    assert whole.positions == [position for piece in pieces for position in piece.positions]


def test_unreadable_pictures_are_replaced_and_reported() -> None:
    batch = Batches(Numbered(6, broken=(0, 3)), seed=0, size=6)[0]
    shown = sorted(int(p[0, 0, 0]) for p in batch.image)
    assert shown == [1, 1, 2, 4, 4, 5]
    assert batch.skipped == {"0": "broken", "3": "broken"}


def test_nothing_readable_or_nothing_at_all_is_an_error() -> None:
    with pytest.raises(TesseraError, match="none of the dataset's 2 pictures"):
        Batches(Numbered(2, broken=(0, 1)), 0, 2)[0]
    with pytest.raises(UsageError, match="empty"):
        Batches(Numbered(0), 0, 2)
    with pytest.raises(UsageError, match="different sizes"):
        Batches(Numbered(4, sizes=(2, 3)), 0, 4)[0]


def test_reading_ahead_changes_nothing() -> None:
    source = Batches(Scenes(length=50), seed=1, size=4)
    here = list(batches(source, 3, 6))
    ahead = list(batches(source, 3, 6, workers=1))
    assert len(here) == len(ahead) == 3
    for a, b in zip(here, ahead, strict=True):
        assert torch.equal(a.image, b.image)
        assert a.prompts == b.prompts


def test_fixed_batches_are_the_first_examples() -> None:
    made = fixed_batches(Numbered(10), examples=7, size=3)
    assert [len(batch.prompts) for batch in made] == [3, 3, 1]
    assert [int(p[0, 0, 0]) for batch in made for p in batch.image] == list(range(7))
