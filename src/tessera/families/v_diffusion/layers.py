"""The layers of the v-diffusion U-Nets. Nothing is kept between them: the condition of a block is an argument."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tessera.contexts.context import Context
from tessera.errors import UsageError
from tessera.nn.attention import SelfAttention
from tessera.nn.convolutions import Conv1x1, Conv3x3, overwrites
from tessera.nn.linear import Linear

__all__ = [
    "UPSAMPLINGS",
    "Attention",
    "Block",
    "Channels",
    "FourierFeatures",
    "Mapping",
    "Modulation",
    "Rectifier",
    "embedding_of",
    "join",
]

UPSAMPLINGS: dict[str, dict[str, Any]] = {"bilinear": {"mode": "bilinear", "align_corners": False}, "nearest": {"mode": "nearest"}}
"""To twice the side."""

_EPSILON = 1e-5

_TOGETHER = 32
"""Channels that are doubled at a time."""

_CACHED = 1 << 17
"""Numbers that a processor core keeps close at hand."""


class Channels(NamedTuple):
    """Channels that enter a block, those inside it, and those that leave it."""

    enter: int
    hidden: int
    leave: int


def embedding_of(context: Context, width: int) -> Float[Tensor, "b d"]:
    """The embeddings [B, 1, D] of a context at length √D; a zero one, "no prompt", stays zero. UsageError unless they are of `width`."""
    given = context.embeddings
    if given is None or given.shape[1:] != (1, width):
        what = "none" if given is None else f"{given.shape[1]} of width {given.shape[2]}"
        raise UsageError(f"the network needs one embedding of width {width} per picture, not {what}: use its own context encoder")
    return F.normalize(given[:, 0].float(), dim=1) * width**0.5


class FourierFeatures(nn.Module):
    """cos and sin of 2π a W for a number a.

    Args:
        count: number of features; even.
        std: standard deviation of the frequencies at the start.
        frozen: the frequencies do not train.
    """

    def __init__(self, count: int, std: float = 1.0, frozen: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count // 2, 1), requires_grad=not frozen)
        nn.init.normal_(self.weight, std=std)

    def forward(self, a: Float[Tensor, " b"]) -> Float[Tensor, "b m"]:
        angle = 2 * torch.pi * a.float()[:, None] * self.weight.float().T  # in half precision large angles would lose their phase
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class Rectifier(nn.Module):
    """ReLU; there is no condition to heed."""

    def forward(self, h: Float[Tensor, "b c h w"], condition: None) -> Float[Tensor, "b c h w"]:
        return h.relu_()


class Modulation(nn.Module):
    """ReLU(norm(h) (1 + scale) + shift), (scale, shift) linear in the condition; the norm is over all channels and pixels of a picture.

    Args:
        condition: width of the condition, whose first rows are those of the pictures.
        channels: of h.
    """

    def __init__(self, condition: int, channels: int) -> None:
        super().__init__()
        self.linear = Linear(condition, 2 * channels, bias=False)

    def forward(self, h: Float[Tensor, "b c h w"], condition: Float[Tensor, "b2 d"]) -> Float[Tensor, "b c h w"]:
        scale, shift = self.linear(condition)[: len(h), :, None, None].chunk(2, dim=1)
        if not overwrites(h) or h.dtype != torch.float32:
            return torch.addcmul(shift, F.group_norm(h, 1, eps=_EPSILON), 1 + scale).relu_()
        for picture, gain, offset in zip(h, 1 + scale, shift, strict=True):
            _modulate_in_place(picture, gain, offset)
        return h


def _modulate_in_place(h: Float[Tensor, "c h w"], gain: Float[Tensor, "c 1 1"], shift: Float[Tensor, "c 1 1"]) -> None:
    """ReLU(norm(h) gain + shift) into h, some rows at a time: two passes over memory in place of eight, and no new tensor.

    Mean and variance of the parts are combined exactly (Chan et al. 1979). Squares are summed pixel by pixel first, for one running sum of
    millions of them loses three digits.
    """
    parts = h.split(max(1, _CACHED * h.shape[1] // h.numel()), dim=1)
    means = torch.stack([part.mean() for part in parts])
    centred = torch.empty_like(parts[0])  # once: new memory costs more than what is done with it
    squares = torch.stack(
        [_square_sum(torch.sub(part, part_mean, out=centred[:, : part.shape[1]])) for part, part_mean in zip(parts, means, strict=True)]
    )
    sizes = means.new_tensor([part.numel() for part in parts]) / h.numel()
    mean = (sizes * means).sum()
    variance = squares.sum() / h.numel() + (sizes * (means - mean).square()).sum()
    gain = gain * (variance + _EPSILON).rsqrt()
    shift = shift - mean * gain
    for part in parts:
        torch.addcmul(shift, part, gain, out=part).relu_()


def _square_sum(x: Float[Tensor, "c h w"]) -> Float[Tensor, ""]:
    return torch.linalg.vector_norm(x, dim=0).square_().sum()


class Block(nn.Module):
    """x + two 3×3 convolutions with ReLUs, modulated where there is a condition.

    Args:
        channels: a 1×1 convolution takes x from the channels that enter to those that leave, where they differ.
        condition: width of the condition; None: ReLUs alone.
        rectified: whether anything follows the second convolution.
    """

    def __init__(self, channels: Channels, condition: int | None, rectified: bool = True) -> None:
        super().__init__()
        enter, hidden, leave = channels
        self.conv1 = Conv3x3(enter, hidden)
        self.after1 = Rectifier() if condition is None else Modulation(condition, hidden)
        self.conv2 = Conv3x3(hidden, leave)
        self.after2 = None if not rectified else Rectifier() if condition is None else Modulation(condition, leave)
        self.skip = None if enter == leave else Conv1x1(enter, leave, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"], condition: Float[Tensor, "b2 d"] | None) -> Float[Tensor, "b e h w"]:
        h = self.conv2(self.after1(self.conv1(x), condition))
        if self.after2 is not None:
            h = self.after2(h, condition)
        skip = x if self.skip is None else self.skip(x)
        return h.add_(skip) if overwrites(h) else h + skip


class Attention(nn.Module):
    """x + self-attention over all pixels.

    Args:
        channels: of x.
        heads: number of heads; divides `channels`.
        norm: whether x is normalised before.
    """

    def __init__(self, channels: int, heads: int, norm: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels, eps=_EPSILON) if norm else nn.Identity()
        self.attention = SelfAttention(channels, heads)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        pixels = self.norm(x).flatten(2).transpose(1, 2)
        h = self.attention(pixels).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return x.add_(h) if overwrites(x) else x + h


def join(inner: Float[Tensor, "b c h w"], held: list[Tensor], inner_first: bool, upsampling: str) -> Float[Tensor, "b e h2 w2"]:
    """Features from below, doubled, beside those of the level itself, which are taken off the end of `held`."""
    outer, how = held.pop(), UPSAMPLINGS[upsampling]
    if not overwrites(inner):
        doubled = F.interpolate(inner, scale_factor=2, **how)
        return torch.cat([doubled, outer] if inner_first else [outer, doubled], dim=1)
    # The largest tensor of the network: made without a second one of the doubled features, and without the level's own once they are in.
    low, own = inner.shape[1], outer.shape[1]
    size = (len(inner), low + own, *outer.shape[2:])
    joined = torch.empty(size, dtype=inner.dtype, memory_format=torch.channels_last)
    doubled, beside = joined.split([low, own] if inner_first else [own, low], dim=1)[:: 1 if inner_first else -1]
    beside.copy_(outer)
    del outer
    for part, place in zip(inner.split(_TOGETHER, dim=1), doubled.split(_TOGETHER, dim=1), strict=True):
        place.copy_(F.interpolate(part, scale_factor=2, **how))
    return joined


class Mapping(nn.Module):
    """Embedding and time → the condition of all blocks:  m = [e, Fourier(t)],  m ← ReLU(MLP(m)) + S m,  m ← MLP(m) + m.

    Args:
        embedding: width of e.
        width: of the condition.
        frozen: see `FourierFeatures`.
    """

    FEATURES = 128

    def __init__(self, embedding: int, width: int, frozen: bool) -> None:
        super().__init__()
        self.time = FourierFeatures(self.FEATURES, frozen=frozen)
        entering = embedding + self.FEATURES
        self.first = nn.Sequential(Linear(entering, width), nn.ReLU(), Linear(width, width), nn.ReLU())
        self.skip = Linear(entering, width, bias=False)
        self.second = nn.Sequential(Linear(width, width), nn.ReLU(), Linear(width, width))

    def forward(self, e: Float[Tensor, "b e"], t: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        m = self.entering(e, t)
        m = self.first(m) + self.skip(m)
        return self.second(m) + m

    def entering(self, e: Float[Tensor, "b e"], t: Float[Tensor, " b"]) -> Float[Tensor, "b m"]:
        """The embedding beside the features of the time."""
        return torch.cat([e, self.time(t).to(e.dtype)], dim=1)
