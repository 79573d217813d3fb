"""Mixing of adjacent tokens."""

import pytest
import torch

from tessera.errors import UsageError
from tessera.nn.neighbours import Neighbours
from tests.closeness import assert_same_but_for_rounding


@pytest.mark.parametrize("groups", [1, 32])
def test_a_token_sees_those_around_it(groups: int) -> None:
    torch.manual_seed(0)
    mixing, h = Neighbours(32, (4, 5), groups), torch.randn(1, 20, 32)
    changed = h.clone()
    changed[0, 7] += 1  # row 1, column 2
    seen = ((mixing(changed) - mixing(h)).abs().amax(-1) > 1e-6)[0].view(4, 5)
    expected = torch.zeros(4, 5, dtype=torch.bool)
    expected[0:3, 1:4] = True
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("groups", [1, 160])
def test_the_batch_changes_rounding_alone(groups: int) -> None:
    torch.manual_seed(0)
    mixing, h = Neighbours(160, (8, 8), groups), torch.randn(5, 64, 160)
    with torch.no_grad():
        whole = mixing(h)
        for size in (1, 2, 3):
            assert_same_but_for_rounding(torch.cat([mixing(part) for part in h.split(size)]), whole)


def test_another_grid_is_refused() -> None:
    with pytest.raises(UsageError, match="6 tokens do not fill the network's 2x2 grid"):
        Neighbours(4, (2, 2))(torch.zeros(1, 6, 4))
