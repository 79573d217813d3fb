"""Multi-head attention, softmax(q kᵀ / √d) v (Vaswani et al. 2017, equation 1), with one matrix product for all projections."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tessera.nn.linear import Linear, alone

__all__ = ["CrossAttention", "KeysValues", "Past", "SelfAttention", "attend", "merge_heads", "split_heads"]

# Up to this many scores per head (queries × keys) training on a CPU keeps the score matrix. Forward and backward, explicit against
# fused, in ms per core: bfloat16 5 / 26 at 64 tokens (32 images, 5 heads), 37 / 42 at 256 (8, 8); float32 7 / 8 and 44 / 31.
_EXPLICIT_SCORES = 256 * 256


def attend(
    q: Float[Tensor, "b heads n d"],
    k: Float[Tensor, "b heads m d"],
    v: Float[Tensor, "b heads m d"],
    mask: Bool[Tensor, "#b 1 #n m"] | None = None,
) -> Float[Tensor, "b heads n d"]:
    """softmax(q kᵀ / √d) v. Keys where `mask` is False get no weight, for all queries or for one."""
    # The fused kernel's backward pass on CPUs took 40 % of a training step at 64 tokens in bfloat16; keeping the scores makes the whole
    # step 1.6 times faster (73 pictures per second and core in place of 46, at width 192). Without gradients the fused one is faster.
    if torch.is_grad_enabled() and q.device.type == "cpu" and q.shape[2] * k.shape[2] <= _EXPLICIT_SCORES:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(-1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def split_heads(x: Float[Tensor, "b n parts_width"], parts: int, heads: int) -> tuple[Tensor, ...]:
    """[B, N, parts·D] → `parts` tensors [B, heads, N, D / heads], without a copy."""
    b, n, width = x.shape
    return x.view(b, n, parts, heads, width // (parts * heads)).permute(2, 0, 3, 1, 4).unbind(0)


def merge_heads(x: Float[Tensor, "b heads n d"]) -> Float[Tensor, "b n width"]:
    return x.transpose(1, 2).flatten(2)


class KeysValues(NamedTuple):
    """A context's keys and values, per head."""

    keys: Float[Tensor, "b heads m d"]
    values: Float[Tensor, "b heads m d"]


class Past:
    """Keys and values of the tokens before those that a causal attention is given, in memory for `room` tokens."""

    def __init__(self, room: int) -> None:
        self.room, self.length = room, 0
        self._memory: KeysValues | None = None

    def extend(self, keys: Float[Tensor, "b heads n d"], values: Float[Tensor, "b heads n d"]) -> KeysValues:
        """Those of all tokens, the new ones last."""
        if self._memory is None:
            b, heads, _, d = keys.shape
            self._memory = KeysValues(*(new.new_empty(b, heads, self.room, d) for new in (keys, values)))
        start, self.length = self.length, self.length + keys.shape[2]
        for memory, new in zip(self._memory, (keys, values), strict=True):
            memory[:, :, start : self.length] = new
        return KeysValues(*(memory[:, :, : self.length] for memory in self._memory))


class SelfAttention(nn.Module):
    """Every token attends to every token, or to itself and those before it.

    Args:
        width: features per token.
        heads: number of heads; divides `width`.
        causal: whether a token sees nothing after itself.
        bias: of queries, keys and values; the output always has one.
    """

    def __init__(self, width: int, heads: int, causal: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.query_key_value = Linear(width, 3 * width, bias=bias)
        self.out = Linear(width, width)

    def forward(self, x: Float[Tensor, "b n d"], past: Past | None = None) -> Float[Tensor, "b n d"]:
        """`past`: of a causal attention, the tokens before those of x, to which those of x are added."""
        q, k, v = split_heads(self.query_key_value(x) if past is None else alone(self.query_key_value, x), 3, self.heads)
        if past is not None:
            k, v = past.extend(k, v)
        mask = None
        if self.causal and x.shape[1] > 1:
            mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=x.device).tril(k.shape[2] - q.shape[2])[None, None]
        seen = merge_heads(attend(q, k, v, mask))
        return self.out(seen) if past is None else alone(self.out, seen)


class CrossAttention(nn.Module):
    """Tokens attend to a context, whose keys and values are computed once for all steps of a request.

    Args:
        width: features per token.
        heads: number of heads; divides `width`.
        context_width: features per context row.
        bias: of queries, keys and values; the output always has one.
    """

    def __init__(self, width: int, heads: int, context_width: int, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.query = Linear(width, width, bias=bias)
        self.key_value = Linear(context_width, 2 * width, bias=bias)
        self.out = Linear(width, width)

    def keys_values(self, context: Float[Tensor, "b l c"]) -> KeysValues:
        return KeysValues(*split_heads(self.key_value(context), 2, self.heads))

    def forward(
        self, x: Float[Tensor, "b n d"], keys_values: KeysValues, mask: Bool[Tensor, "#b 1 1 l"] | None = None
    ) -> Float[Tensor, "b n d"]:
        (q,) = split_heads(self.query(x), 1, self.heads)
        return self.out(merge_heads(attend(q, *keys_values, mask)))
