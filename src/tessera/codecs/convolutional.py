"""The convolutional encoder and decoder of VQGAN (Esser, Rombach & Ommer 2021, arXiv 2012.09841).

A level is a resolution: level 0 is the picture's own, level i has sides 2^i times smaller and `width · multipliers[i]` channels.
Pictures of any size that 2^(levels - 1) divides go through.

Layers are of one of two kinds (`Layers`). The usual norms average over the whole picture, attention sees all of it, and padding with zeros
marks the borders, so one flat background gets dozens of codes. Local layers know a position's surroundings and nothing else: norms
over the channels of each position, borders continued, no attention. Then equal surroundings have equal codes.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tessera.codecs.strips import Rows, block_by_rows, enlarged, is_large, norm_by_rows
from tessera.heap import give_back
from tessera.nn.convolutions import overwrites

__all__ = ["Decoder", "Encoder", "Layers"]


class PositionNorm(nn.LayerNorm):
    """Norm over the channels of each position."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


@dataclass(frozen=True)
class Layers:
    """The layers that a network is made of: `local` or not, see the module; `kernel`: side of its convolutions, odd."""

    local: bool = False
    kernel: int = 3

    def norm(self, channels: int) -> nn.Module:
        return PositionNorm(channels, eps=1e-6) if self.local else nn.GroupNorm(32, channels, eps=1e-6)

    def conv(self, channels: int, out_channels: int) -> nn.Conv2d:
        """Keeping the sides."""
        around = self.kernel // 2
        return nn.Conv2d(channels, out_channels, self.kernel, padding=around, padding_mode="replicate" if self.local else "zeros")

    def attention(self, channels: int) -> nn.Module:
        return nn.Identity() if self.local else SpatialAttention(channels)

    def middle(self, channels: int) -> nn.Sequential:
        blocks = (ResidualBlock(self, channels, channels) for _ in range(2))
        return nn.Sequential(next(blocks), self.attention(channels), next(blocks))


class ResidualBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))); a 1×1 convolution takes x to another number of channels."""

    def __init__(self, layers: Layers, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = layers.norm(channels), layers.conv(channels, out_channels)
        self.norm2, self.conv2 = layers.norm(out_channels), layers.conv(out_channels, out_channels)
        self.shortcut = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"] | Rows) -> Float[Tensor, "b d h w"]:
        if isinstance(x, Rows) or is_large(x):
            return block_by_rows((self.norm1, self.norm2), (self.conv1, self.conv2), self.shortcut, x)
        y = self.conv1(_swish(self.norm1(x)))
        y = self.conv2(_swish(self.norm2(y)))
        return _add(y, self.shortcut(x))


class SpatialAttention(nn.Module):
    """x + attention over all positions: one head, 1×1 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Layers().norm(channels)
        self.query, self.key, self.value, self.out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        y = self.norm(x)
        query, key, value = (conv(y).flatten(2).transpose(1, 2).unsqueeze(1) for conv in (self.query, self.key, self.value))
        y = F.scaled_dot_product_attention(query, key, value).squeeze(1).transpose(1, 2).reshape(x.shape)
        return _add(self.out(y), x)


class Downsample(nn.Module):
    """Half the sides: a 3×3 convolution of stride 2 over the picture padded at the right and the bottom only."""

    def __init__(self, layers: Layers, channels: int) -> None:
        super().__init__()
        self.mode = "replicate" if layers.local else "constant"
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.conv(F.pad(x, (0, 1, 0, 1), self.mode))


class Upsample(nn.Module):
    """Twice the sides: nearest neighbour, then a 3×3 convolution. A very large map comes as rows, which a `ResidualBlock` takes."""

    def __init__(self, layers: Layers, channels: int) -> None:
        super().__init__()
        self.conv = layers.conv(channels, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"] | Rows:
        if is_large(x, times=4):
            return enlarged(self.conv, x)
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The residual blocks of one resolution, each followed by attention if the level has it, then the change to the next."""

    def __init__(self, layers: Layers, channels: int, out_channels: int, blocks: int, attention: bool, resample: nn.Module | None) -> None:
        super().__init__()
        widths = [channels] + [out_channels] * blocks
        self.blocks = nn.ModuleList(ResidualBlock(layers, *pair) for pair in itertools.pairwise(widths))
        self.attentions = nn.ModuleList(SpatialAttention(out_channels) for _ in range(blocks if attention else 0))
        self.resample = resample

    @property
    def steps(self) -> Iterator[nn.Module]:
        """Its layers in their order. Who runs them one by one holds no more than one map."""
        for i, block in enumerate(self.blocks):
            yield block
            if self.attentions:
                yield self.attentions[i]
        if self.resample is not None:
            yield self.resample

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        for step in self.steps:
            x = step(x)
        return x


class Half(nn.Module):
    """What encoder and decoder share."""

    conv_out: nn.Conv2d

    def vanish(self) -> None:
        """Make the output zero until training changes it."""
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)


class Encoder(Half):
    """Picture → features.

    Args:
        width: channels of level 0 before its multiplier.
        multipliers: channels of each level in units of `width`.
        blocks: residual blocks per level.
        attention_levels: levels with attention after each block; none of local layers.
        out_channels: of the features.
        activation: whether an activation stands between the last norm and the last convolution.
        patch: the picture is first rearranged, patches of this side becoming channels; level 0 has sides so many times smaller.
        layers: what it is made of.
    """

    def __init__(
        self, width: int, multipliers: Sequence[int], blocks: int, attention_levels: Iterable[int], out_channels: int,
        activation: bool = True, patch: int = 1, layers: Layers = Layers(),
    ) -> None:  # fmt: skip
        super().__init__()
        last, attended = len(multipliers) - 1, set(attention_levels)
        widths = [width] + [width * m for m in multipliers]
        self.activation, self.patch = activation, patch
        self.conv_in = layers.conv(3 * patch * patch, width)
        self.levels = nn.ModuleList(
            Level(layers, widths[i], widths[i + 1], blocks, i in attended, Downsample(layers, widths[i + 1]) if i < last else None)
            for i in range(last + 1)
        )
        self.middle = layers.middle(widths[-1])
        self.norm_out = layers.norm(widths[-1])
        self.conv_out = layers.conv(widths[-1], out_channels)

    def maps(self, image: Float[Tensor, "b 3 h w"]) -> Iterator[Float[Tensor, "b c h2 w2"]]:
        """What every level ends with (with the sides of the next one), then what the last convolution sees.

        A large one is written over when the next is asked for, unless gradients are needed.
        """
        x = self.conv_in(F.pixel_unshuffle(image, self.patch))
        for level in self.levels:
            x = level(x)
            yield x
        x = self.norm_out(self.middle(x))
        yield _swish(x) if self.activation else x

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b z h2 w2"]:
        for x in self.maps(image):
            last = x
        return self.conv_out(last)


class Decoder(Half):
    """Features → picture: the encoder backwards. Arguments as in `Encoder`."""

    def __init__(
        self, width: int, multipliers: Sequence[int], blocks: int, attention_levels: Iterable[int], in_channels: int,
        activation: bool = True, patch: int = 1, layers: Layers = Layers(),
    ) -> None:  # fmt: skip
        super().__init__()
        last, attended = len(multipliers) - 1, set(attention_levels)
        widths = [width * m for m in multipliers]
        self.activation, self.patch = activation, patch
        self.conv_in = layers.conv(in_channels, widths[-1])
        self.middle = layers.middle(widths[-1])
        self.levels = nn.ModuleList(  # indexed by level; run from the last to level 0
            Level(layers, widths[min(i + 1, last)], widths[i], blocks, i in attended, Upsample(layers, widths[i]) if i > 0 else None)
            for i in range(last + 1)
        )
        self.norm_out = layers.norm(widths[0])
        self.conv_out = layers.conv(widths[0], 3 * patch * patch)

    def features(self, z: Float[Tensor, "b z h w"]) -> Float[Tensor, "b c h2 w2"]:
        """What the last convolution sees."""
        return self._last(self._levels(z))

    def forward(self, z: Float[Tensor, "b z h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        x = self._levels(z)
        by_rows = self.activation and is_large(x)
        return F.pixel_shuffle(norm_by_rows(self.norm_out, self.conv_out, x) if by_rows else self.conv_out(self._last(x)), self.patch)

    def _last(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        x = self.norm_out(x)
        return _swish(x) if self.activation else x

    def _levels(self, z: Float[Tensor, "b z h w"]) -> Float[Tensor, "b c h2 w2"]:
        """What the last norm sees."""
        x = self.middle(self.conv_in(z))
        for level in reversed(self.levels):
            assert isinstance(level, Level)
            for step in level.steps:
                if isinstance(x, Tensor) and overwrites(x):
                    give_back()
                x = step(x)
        return x


def _swish(x: Tensor) -> Tensor:
    return F.silu(x, inplace=not torch.is_grad_enabled())  # x is a norm's fresh output; autograd would need it again


def _add(fresh: Tensor, x: Tensor) -> Tensor:
    return fresh + x if torch.is_grad_enabled() else fresh.add_(x)
