"""The layers of the multi-flow U-Net that know nothing of data types or context types."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tessera.nn.attention import CrossAttention, KeysValues, SelfAttention
from tessera.nn.convolutions import Conv3x3, in_own_layout, overwrites
from tessera.nn.linear import Linear
from tessera.nn.residual import add

__all__ = ["GROUPS", "ContextBlock", "Down", "GatedMLP", "Head", "Residual", "RowLinear", "TimeEmbedding", "Up"]

GROUPS = 32
"""Of channels that are normalised together."""
_PERIOD = 10000
_TOKENS = 256
"""Tokens whose hidden features fit in the cache."""


def _silu(x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """x σ(x), in place of x where nobody will ask for x again."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class RowLinear(Linear):
    """Linear over one row per example. Products of one row round differently, and an example must not depend on its batch."""

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b e"]:
        if len(x) == 1 and overwrites(x):
            return super().forward(x.expand(2, -1))[:1]
        return super().forward(x)


class TimeEmbedding(nn.Module):
    """Linear, SiLU, Linear, SiLU of [cos(i w), sin(i w)] for a discrete time i, with w_k = 10000^(-k / half), k < half = width / 2.

    Every block takes it after a SiLU, which is therefore computed once, here.

    Args:
        width: features of a time; the embedding has four times as many.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = RowLinear(width, 4 * width), RowLinear(4 * width, 4 * width)

    def forward(self, index: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        half = self.first.in_features // 2
        # In float32 whatever the weights are: in half precision large angles would lose their phase.
        angle = index.float()[:, None] * torch.exp(torch.arange(half, device=index.device) * (-math.log(_PERIOD) / half))
        return F.silu(self.second(F.silu(self.first(torch.cat([angle.cos(), angle.sin()], dim=1)))))


class Residual(nn.Module):
    """skip(x) + layer2(SiLU(norm(layer1(SiLU(norm(x))) + linear(e)))), where layer2 starts at zero.

    Args:
        enter, leave: channels of x and of the result; `skip` takes x from one to the other where they differ.
        time: width of the embedding e.
        layer, skip: make a layer of so many channels in and out.
    """

    def __init__(
        self, enter: int, leave: int, time: int, layer: Callable[[int, int], nn.Module], skip: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        self.norm1, self.layer1 = nn.GroupNorm(GROUPS, enter), layer(enter, leave)
        self.time = RowLinear(time, leave)
        self.norm2, self.layer2 = nn.GroupNorm(GROUPS, leave), _zero(layer(leave, leave))
        self.skip = None if enter == leave else skip(enter, leave)

    def forward(self, x: Float[Tensor, "b c *s"], e: Float[Tensor, "b d"]) -> Float[Tensor, "b c2 *s"]:
        h = self.layer1(_silu(self.norm1(x)))
        time = self.time(e).view(*h.shape[:2], *(1,) * (h.ndim - 2))
        h = h + time if torch.is_grad_enabled() else h.add_(time)
        return add(self.layer2(_silu(self.norm2(h))), x if self.skip is None else self.skip(x))


class Down(nn.Conv2d):
    """3×3 convolution to half the side."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, stride=2, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return in_own_layout(super().forward, x, self.weight) if overwrites(x) else super().forward(x)


class Up(Conv3x3):
    """Every value four times, then a 3×3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return super().forward(F.interpolate(x, scale_factor=2, mode="nearest"))


class Head(nn.Module):
    """norm, SiLU, and a layer that starts at zero."""

    def __init__(self, width: int, layer: nn.Module) -> None:
        super().__init__()
        self.norm, self.layer = nn.GroupNorm(GROUPS, width), _zero(layer)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        h: Tensor = self.layer(_silu(self.norm(x)))
        return h


class GatedMLP(nn.Module):
    """down(a · GELU(g)), (a, g) = up(x) (Shazeer 2020, arXiv 2002.05202, GEGLU).

    Args:
        width: features per token.
        factor: so many times as many between the layers.
    """

    def __init__(self, width: int, factor: int = 4) -> None:
        super().__init__()
        self.up, self.down = Linear(width, 2 * factor * width), Linear(factor * width, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        if torch.is_grad_enabled():
            return self._gated(x)
        out = torch.empty_like(x)
        for part, result in zip(x.flatten(0, 1).split(_TOKENS), out.flatten(0, 1).split(_TOKENS), strict=True):
            result.copy_(self._gated(part))
        return out

    def _gated(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        value, gate = self.up(x).chunk(2, dim=-1)
        return self.down(value * F.gelu(gate))


class ContextBlock(nn.Module):
    """What a context adds to a state: a transformer over the state's positions, whose cross-attention sees the context.

        h = enter(norm(x));  h += self-attention(LN(h));  h += cross-attention(LN(h), context);  h += MLP(LN(h));  leave(h), zero at first

    Args:
        width: channels of the state.
        heads: of both attentions.
        context_width: features per context row.
        factor: of the MLP, see `GatedMLP`.
    """

    def __init__(self, width: int, heads: int, context_width: int, factor: int = 4) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width, eps=1e-6)
        self.enter = Linear(width, width)
        self.self_norm, self.self_attention = nn.LayerNorm(width), SelfAttention(width, heads, bias=False)
        self.cross_norm, self.cross_attention = nn.LayerNorm(width), CrossAttention(width, heads, context_width, bias=False)
        self.mlp_norm, self.mlp = nn.LayerNorm(width), GatedMLP(width, factor)
        self.leave = _zero(Linear(width, width))

    def forward(
        self, x: Float[Tensor, "b c h w"], keys_values: KeysValues, mask: Bool[Tensor, "#b 1 1 l"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """What is added to x."""
        h = self.enter(self.norm(x).permute(0, 2, 3, 1).flatten(1, 2))
        h = add(h, self.self_attention(self.self_norm(h)))
        h = add(h, self.cross_attention(self.cross_norm(h), keys_values, mask))
        h = add(h, self.mlp(self.mlp_norm(h)))
        return self.leave(h).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


def _zero(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
