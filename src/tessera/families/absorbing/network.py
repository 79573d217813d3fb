"""The token transformer of absorbing diffusion (Bond-Taylor et al. 2022, arXiv 2111.12701, section 4): x_0 logits from x_t alone.

    h = token embedding of x_t + position embedding
    every block:   h += SelfAttention(LN(h));   h += MLP(LN(h))
    logits = Linear(LN(h)), without a bias

The time is not told: which tokens are masked says it. The autoregressive baseline is the same network with causal attention: a learned
start vector is put before the tokens and the last token left out, so that the logits at position i depend on the tokens before i.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tessera.contexts.context import Context
from tessera.errors import UsageError
from tessera.nn.attention import Past, SelfAttention
from tessera.nn.embeddings import start_from_codebook
from tessera.nn.linear import Linear, alone
from tessera.nn.mlp import LinearMLP
from tessera.nn.neighbours import Neighbours
from tessera.nn.norms import LayerNorm
from tessera.nn.precision import widened
from tessera.nn.residual import add
from tessera.schema import Depth, Positive

__all__ = ["Cache", "Transformer"]


@dataclass
class Cache:
    """What a causal network has computed of a batch so far, for its next call.

    tokens: those it has read, [B, n]: the inputs are the start and these. past: their keys and values, of every block.
    """

    tokens: Int[Tensor, "b n"] | None = None
    past: list[Past] = field(default_factory=list)

    def agrees(self, known: Int[Tensor, "b m"]) -> int:
        """How many inputs are still those of a batch that begins with `known`: the start and the tokens that are equal in all rows."""
        if self.tokens is None or len(self.tokens) != len(known):
            return 0
        both = min(self.tokens.shape[1], known.shape[1])
        equal = (self.tokens[:, :both] == known[:, :both]).all(0)
        return 1 + int(equal.long().cumprod(0).sum())


class Block(nn.Module):
    """Attention between the tokens, then an MLP on each.

    Args:
        width: features per token.
        heads: attention heads.
        mlp_ratio: hidden features of the MLP per feature.
        causal: whether a token sees nothing after itself.
        dropout: probability of dropping a feature of a branch.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: int, causal: bool, dropout: float) -> None:
        super().__init__()
        self.norm_attention = LayerNorm(width)
        self.attention = SelfAttention(width, heads, causal)
        self.norm_mlp = LayerNorm(width)
        self.mlp = LinearMLP(width, mlp_ratio * width, nn.GELU())
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, h: Float[Tensor, "b n d"], past: Past | None = None) -> Float[Tensor, "b n d"]:
        h = add(h, self.dropout(self.attention(self.norm_attention(h), past)))
        normed = self.norm_mlp(h)
        return add(h, self.dropout(self.mlp(normed) if past is None else alone(self.mlp, normed)))


class Transformer(nn.Module):
    """Logits of x_0 for every token of x_t.

    Args:
        classes: K, the number of token values; value K is the mask, which a causal network has no embedding of.
        grid: (h, w) of the tokens the network is made for.
        width: features per token.
        depth: number of blocks.
        heads: attention heads; divide `width`.
        causal: the autoregressive network.
        mlp_ratio: hidden features of the MLP per feature.
        dropout: probability of dropping a feature of a branch while training.
        positions: rows of the table of positions, of which the first h·w are read; by default no more than these. Originals may have more.
        neighbours: mix adjacent tokens in the embedding and at the start of every block; see `Neighbours`. The original does not.
    """

    def __init__(
        self, classes: Positive, grid: Sequence[int], width: Positive, depth: Depth, heads: Positive, causal: bool = False,
        mlp_ratio: Positive = 4, dropout: float = 0.0, neighbours: bool = False, positions: Positive | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config: dict[str, Any] = {
            "kind": "absorbing", "classes": classes, "grid": list(grid), "width": width, "depth": depth, "heads": heads, "causal": causal,
            "mlp_ratio": mlp_ratio, "dropout": dropout, "neighbours": neighbours, "positions": positions,
        }  # fmt: skip
        if width % heads:
            raise UsageError(f"width {width} is not a multiple of heads {heads}: choose heads that divide it")
        if causal and neighbours:
            raise UsageError("neighbours would show a causal network the tokens that it is to predict: leave one of them out")
        self.classes, self.causal, self.grid, self.positions = classes, causal, (grid[0], grid[1]), grid[0] * grid[1]
        self.token = nn.Embedding(classes if causal else classes + 1, width)
        rows = self.positions if positions is None else positions
        if rows < self.positions:
            raise UsageError(f"{rows} positions are too few for the {self.positions} tokens of the grid {grid[0]}x{grid[1]}")
        self.position = nn.Parameter(torch.zeros(rows, width))
        self.start = nn.Parameter(torch.zeros(width)) if causal else None
        self.around = Neighbours(width, grid) if neighbours else nn.Identity()
        self.mixing: Any = nn.ModuleList(Neighbours(width, grid, width) if neighbours else nn.Identity() for _ in range(depth))
        self.blocks: Any = nn.ModuleList(Block(width, heads, mlp_ratio, causal, dropout) for _ in range(depth))
        self.norm_out = LayerNorm(width)
        self.head = Linear(width, classes, bias=False)

    def start_from_codebook(self, codes: Float[Tensor, "k d"], scale: float) -> None:
        """See `nn.embeddings.start_from_codebook`."""
        start_from_codebook([self.token.weight, self.head.weight], codes, scale)

    def prepare(self, context: Context) -> Context | Cache:
        """For a run of several calls: a causal network then reads no token twice, as long as the tokens that it has read stay."""
        _refuse_prompts(context)
        return Cache() if self.causal else context

    def forward(self, x_t: Int[Tensor, "b n"], t_index: Int[Tensor, " b"], context: Context | Cache) -> Float[Tensor, "b n k"]:
        """Logits of x_0 [B, N, K].

        x_t: tokens, mask token K. t_index: not read. context: without a prompt, or what `prepare` made of it. With a `Cache` only the
        positions not computed before are, up to the first masked token of any row; the logits of the others are 0.
        """
        if x_t.shape[1] > self.positions:
            height, width = self.grid
            raise UsageError(
                f"{x_t.shape[1]} tokens are too many for a network with {height}x{width} positions: choose a smaller picture size"
            )
        if isinstance(context, Cache):
            return self._continued(x_t, context)
        _refuse_prompts(context)
        h = self._inputs(x_t, 0, x_t.shape[1]) if self.causal else self.around(self.token(x_t)) + self.position[: x_t.shape[1]]
        return self._logits(h)

    def _inputs(self, x: Int[Tensor, "b n"], first: int, end: int) -> Float[Tensor, "b m d"]:
        """The causal network's inputs first..end-1: the start vector, and the tokens from the first on; a mask is anything."""
        tokens = self.token(x[:, max(first - 1, 0) : end - 1].clamp(max=self.classes - 1))
        if first == 0:
            assert self.start is not None
            tokens = torch.cat([self.start.expand(len(x), 1, -1), tokens], dim=1)
        return tokens + self.position[first:end]

    def _logits(self, h: Float[Tensor, "b n d"], past: Sequence[Past | None] | None = None) -> Float[Tensor, "b n k"]:
        h = widened(h)  # of a bfloat16 network too: its sums would lose as much as all its products
        for mix, block, before in zip(self.mixing, self.blocks, [None] * len(self.blocks) if past is None else past, strict=True):
            h = block(mix(h), before)
        normed = self.norm_out(h)
        return self.head(normed) if past is None else alone(self.head, normed)

    def _continued(self, x_t: Int[Tensor, "b n"], cache: Cache) -> Float[Tensor, "b n k"]:
        masked = (x_t == self.classes).any(0).nonzero().flatten()
        last = int(masked[0]) if len(masked) else x_t.shape[1] - 1
        first = min(cache.agrees(x_t[:, :last]), last)  # the last one is computed again, for its logits are not kept
        if first == 0:
            cache.past = [Past(self.positions) for _ in range(len(self.blocks))]
        for past in cache.past:
            past.length = first
        logits = self.head.weight.new_zeros(*x_t.shape, self.classes)
        logits[:, first : last + 1] = self._logits(self._inputs(x_t, first, last + 1), cache.past)
        cache.tokens = x_t[:, :last].clone()
        return logits


def _refuse_prompts(context: Context) -> None:
    if context.embeddings is not None or context.labels is not None:
        raise UsageError("this network takes no prompt: leave the context encoder out, or choose another network")
