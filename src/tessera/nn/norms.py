"""Norms whose scale and shift come from an embedding: norm(x) · (1 + scale) + shift, (scale, shift) = Linear(SiLU(embedding))."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tessera.nn.linear import Linear

__all__ = ["AdaptiveInstanceNorm", "AdaptiveLayerNorm", "LayerNorm", "Modulation"]

_EPSILON = 1e-5


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` in the precision of its input, whatever that of its weights."""

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class Modulation(NamedTuple):
    """gain = 1 + scale and shift, [B, D] each; one row serves a whole batch that shares it."""

    gain: Float[Tensor, "b d"]
    shift: Float[Tensor, "b d"]


class AdaptiveLayerNorm(nn.Module):
    """Layer norm over the features of each token, modulated by an embedding of the time step or class.

    Args:
        embedding: indices [B] → [B, width].
        width: features per token.
    """

    def __init__(self, embedding: nn.Module, width: int) -> None:
        super().__init__()
        self.width = width
        self.embedding = embedding
        self.linear = Linear(width, 2 * width)

    def modulation(self, index: Int[Tensor, " b"]) -> Modulation:
        scale, shift = self.linear(F.silu(self.embedding(index))).chunk(2, dim=-1)
        return Modulation(1 + scale, shift)

    def forward(self, x: Float[Tensor, "b n d"], modulation: Modulation) -> Float[Tensor, "b n d"]:
        gain, shift = modulation
        if len(gain) == 1:  # norm and modulation in one pass over x
            return F.layer_norm(x, (self.width,), gain[0].to(x.dtype), shift[0].to(x.dtype), _EPSILON)  # autocast mixes them
        return torch.addcmul(shift[:, None], F.layer_norm(x, (self.width,), eps=_EPSILON), gain[:, None])


class AdaptiveInstanceNorm(AdaptiveLayerNorm):
    """The same, but each feature is normalised over the tokens of its image (biased variance)."""

    def forward(self, x: Float[Tensor, "b n d"], modulation: Modulation) -> Float[Tensor, "b n d"]:
        variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
        gain, shift = modulation
        return torch.addcmul(shift[:, None], (x - mean) * (variance + _EPSILON).rsqrt(), gain[:, None])
