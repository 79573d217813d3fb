"""Adaptive norms: the formula, and one modulation row standing for many."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tessera.nn.norms import AdaptiveInstanceNorm, AdaptiveLayerNorm


@pytest.mark.parametrize(("kind", "dim"), [(AdaptiveLayerNorm, -1), (AdaptiveInstanceNorm, 1)])
def test_formula(kind: type[AdaptiveLayerNorm], dim: int) -> None:
    torch.manual_seed(0)
    norm, x, index = kind(nn.Embedding(7, 6), 6), 3 + 2 * torch.randn(3, 5, 6), torch.tensor([0, 6, 2])
    scale, shift = F.linear(F.silu(norm.embedding.weight[index]), norm.linear.weight, norm.linear.bias).split(6, dim=-1)
    normalised = (x - x.mean(dim, keepdim=True)) / (x.var(dim, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(norm(x, norm.modulation(index)), normalised * (1 + scale[:, None]) + shift[:, None])


@pytest.mark.parametrize("kind", [AdaptiveLayerNorm, AdaptiveInstanceNorm])
def test_one_row_serves_the_batch(kind: type[AdaptiveLayerNorm]) -> None:
    torch.manual_seed(0)
    norm, x, index = kind(nn.Embedding(7, 6), 6), torch.randn(3, 5, 6), torch.tensor([4, 4, 4])
    torch.testing.assert_close(norm(x, norm.modulation(index[:1])), norm(x, norm.modulation(index)))


@pytest.mark.parametrize("kind", [AdaptiveLayerNorm, AdaptiveInstanceNorm])
@pytest.mark.parametrize("index", [[4], [4, 4]])
def test_autocast_keeps_the_precision_of_its_input(kind: type[AdaptiveLayerNorm], index: list[int]) -> None:
    torch.manual_seed(0)
    norm, x = kind(nn.Embedding(7, 6), 6), torch.randn(2, 5, 6)
    exact = norm(x, norm.modulation(torch.tensor(index)))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = norm(x, norm.modulation(torch.tensor(index)))
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0.05)
