"""Focus between what a picture shows and how it looks; examples of the original are a recorded case."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera.contexts.focus import RANK, directions, focus, focus_weights
from tessera.errors import UsageError

TOKENS = torch.randn(2, 30, 40, generator=torch.Generator().manual_seed(0)) * 3 + 1
LEVELS = st.floats(0, 1)


def centred(x: torch.Tensor) -> torch.Tensor:
    return x - x.mean(-1, keepdim=True)


@given(LEVELS, st.integers(6, 30), st.integers(6, 40))
def test_the_spread_of_each_pictures_tokens_stays(level, count, width):
    tokens = TOKENS[:, :count, :width] * torch.tensor([1.0, 9.0])[:, None, None]
    changed = focus(tokens, level)
    torch.testing.assert_close(changed.std((1, 2)), tokens.std((1, 2)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(changed[1:], focus(tokens[1:], level), rtol=1e-3, atol=1e-3)  # of each picture alone


def test_the_middle_changes_nothing():
    assert torch.equal(focus(TOKENS, 0.5), TOKENS)
    for level in (0.5 - 1e-9, 0.5 + 1e-9):
        assert torch.allclose(focus_weights(level), torch.ones(RANK), atol=1e-6)


@given(LEVELS, LEVELS)
def test_factors_fall_from_the_middle_to_both_ends(first, second):
    nearer, farther = sorted((first, second), key=lambda level: abs(level - 0.5))
    if (nearer < 0.5) == (farther < 0.5):
        assert (focus_weights(farther) <= focus_weights(nearer) + 1e-6).all()
    assert ((focus_weights(first) >= 0) & (focus_weights(first) <= 1)).all()


def test_both_ends():
    assert focus_weights(0.0).tolist() == [0.0] * 2 + [1.0] * 18
    assert focus_weights(1.0).tolist() == [1.0] * 5 + [0.0] * 15
    assert torch.linalg.matrix_rank(centred(focus(TOKENS, 1.0)), rtol=1e-4).tolist() == [5, 5]


def test_first_directions_and_the_others_add_up():
    first, rest = directions(TOKENS, 0, 7), directions(TOKENS, 7, 50)
    assert torch.linalg.matrix_rank(centred(first), rtol=1e-4).tolist() == [7, 7]
    torch.testing.assert_close(first + rest - TOKENS.mean(-1, keepdim=True), TOKENS, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("level", [-0.1, 1.1, float("nan")])
def test_wrong_levels(level):
    with pytest.raises(UsageError, match="the focus must be between 0"):
        focus(TOKENS, level)
