"""The convolutional encoder and decoder of VQGAN (Esser, Rombach & Ommer 2021, arXiv 2012.09841).

A level is a resolution: level 0 is the picture's own, level i has sides 2^i times smaller and `width · multipliers[i]` channels.
Pictures of any size that 2^(levels - 1) divides go through.
"""

import itertools
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Decoder", "Encoder"]


class ResidualBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))); a 1×1 convolution takes x to another number of channels."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(channels), nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2, self.conv2 = _norm(out_channels), nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        y = self.conv1(_swish(self.norm1(x)))
        y = self.conv2(_swish(self.norm2(y)))
        return _add(y, self.shortcut(x))


class SpatialAttention(nn.Module):
    """x + attention over all positions: one head, 1×1 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.query, self.key, self.value, self.out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        y = self.norm(x)
        query, key, value = (conv(y).flatten(2).transpose(1, 2).unsqueeze(1) for conv in (self.query, self.key, self.value))
        y = F.scaled_dot_product_attention(query, key, value).squeeze(1).transpose(1, 2).reshape(x.shape)
        return _add(self.out(y), x)


class Downsample(nn.Module):
    """Half the sides: a 3×3 convolution of stride 2 over the picture padded at the right and the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the sides: nearest neighbour, then a 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The residual blocks of one resolution, each followed by attention if the level has it, then the change to the next."""

    def __init__(self, channels: int, out_channels: int, blocks: int, attention: bool, resample: nn.Module | None) -> None:
        super().__init__()
        widths = [channels] + [out_channels] * blocks
        self.blocks = nn.ModuleList(ResidualBlock(*pair) for pair in itertools.pairwise(widths))
        self.attentions = nn.ModuleList(SpatialAttention(out_channels) for _ in range(blocks if attention else 0))
        self.resample = resample

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        for i, block in enumerate(self.blocks):
            x = block(x)
            if self.attentions:
                x = self.attentions[i](x)
        return x if self.resample is None else self.resample(x)


class Encoder(nn.Module):
    """Picture → features.

    Args:
        width: channels of level 0 before its multiplier.
        multipliers: channels of each level in units of `width`.
        blocks: residual blocks per level.
        attention_levels: levels with attention after each block.
        out_channels: of the features.
    """

    def __init__(self, width: int, multipliers: Sequence[int], blocks: int, attention_levels: Iterable[int], out_channels: int) -> None:
        super().__init__()
        last, attended = len(multipliers) - 1, set(attention_levels)
        widths = [width] + [width * m for m in multipliers]
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        self.levels = nn.ModuleList(
            Level(widths[i], widths[i + 1], blocks, i in attended, Downsample(widths[i + 1]) if i < last else None) for i in range(last + 1)
        )
        self.middle = _middle(widths[-1])
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b z h2 w2"]:
        x = self.conv_in(image)
        for level in self.levels:
            x = level(x)
        return self.conv_out(_swish(self.norm_out(self.middle(x))))


class Decoder(nn.Module):
    """Features → picture: the encoder backwards, with one residual block more per level. Arguments as in `Encoder`."""

    def __init__(self, width: int, multipliers: Sequence[int], blocks: int, attention_levels: Iterable[int], in_channels: int) -> None:
        super().__init__()
        last, attended = len(multipliers) - 1, set(attention_levels)
        widths = [width * m for m in multipliers]
        self.conv_in = nn.Conv2d(in_channels, widths[-1], 3, padding=1)
        self.middle = _middle(widths[-1])
        self.levels = nn.ModuleList(  # indexed by level; run from the last to level 0
            Level(widths[min(i + 1, last)], widths[i], blocks + 1, i in attended, Upsample(widths[i]) if i > 0 else None)
            for i in range(last + 1)
        )
        self.norm_out = _norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: Float[Tensor, "b z h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        x = self.middle(self.conv_in(z))
        for level in reversed(self.levels):
            x = level(x)
        return self.conv_out(_swish(self.norm_out(x)))


def _middle(channels: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(channels, channels), SpatialAttention(channels), ResidualBlock(channels, channels))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


def _swish(x: Tensor) -> Tensor:
    return F.silu(x, inplace=not torch.is_grad_enabled())  # x is a norm's fresh output; autograd would need it again


def _add(fresh: Tensor, x: Tensor) -> Tensor:
    return fresh + x if torch.is_grad_enabled() else fresh.add_(x)
