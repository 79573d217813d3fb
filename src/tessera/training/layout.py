"""Learning what is in each cell of a picture, as the data know it, beside its tokens.

Which of thousands of tokens a cell gets hides where a prompt puts things: networks that learnt tokens alone drew every thing of a caption
and no relation. So three things learn the coarse target as well, one after the other, and none of them is part of the trained model:

    words      a small decoder that sees the context and nothing else: queries q_i, one per cell, two blocks of cross-attention and MLP
    alone      a linear head over the features of the network on fully masked pictures
    after      both beside the tokens, on masked cells
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tessera.contexts.context import Context
from tessera.nn.attention import CrossAttention

__all__ = ["LayoutLearner"]

BLOCKS = 2
QUERY_STD = 0.5


class LayoutLearner(nn.Module):
    """The decoder over the context and the head over the network's features, with their losses.

    Args:
        classes: of what is in a cell.
        cells: N.
        width: features of the network.
        context_width, heads: of the context; the decoder has these too.
    """

    def __init__(self, classes: int, cells: int, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(QUERY_STD * torch.randn(cells, context_width))
        self.blocks: nn.ModuleList = nn.ModuleList(_Block(context_width, heads) for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(context_width)
        self.of_words = _zero(nn.Linear(context_width, classes))
        self.of_features = _zero(nn.Linear(width, classes))

    def words_loss(self, context: Context, layouts: Int[Tensor, "b n"]) -> Float[Tensor, ""]:
        """Mean cross-entropy of all cells, given the context."""
        assert context.embeddings is not None
        x = self.queries.expand(len(layouts), -1, -1)
        for block in self.blocks:
            x = block(x, context)
        return self._nats(self.of_words(self.norm(x)), layouts).mean()

    def features_loss(self, features: Float[Tensor, "b n d"], layouts: Int[Tensor, "b n"], masked: Tensor) -> Float[Tensor, ""]:
        """Mean cross-entropy over all cells, those that are not masked counting 0."""
        return (self._nats(self.of_features(features), layouts) * masked).mean()

    @staticmethod
    def _nats(logits: Float[Tensor, "b n k"], layouts: Int[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        return cross_entropy(logits.float().flatten(0, 1), layouts.flatten(), reduction="none").view_as(layouts)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CrossAttention(width, heads, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "b n d"], context: Context) -> Float[Tensor, "b n d"]:
        assert context.embeddings is not None
        mask = None if context.mask is None else context.mask[:, None, None]
        x = x + self.attention(self.norm_attention(x), self.attention.keys_values(context.embeddings), mask)
        return x + self.mlp(self.norm_mlp(x))


def _zero(linear: nn.Linear) -> nn.Linear:
    """Starts from no opinion."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
