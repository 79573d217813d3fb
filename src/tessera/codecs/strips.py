"""Convolutions of maps so large that nothing of their size should be in memory beside what goes in and what comes out.

A map is computed in strips of rows, each from the rows of the input that it sees: norm, activation, enlarging and the copies that a
convolution makes are of a strip. Without gradients only, which would need all of it. The numbers are those of the whole map but for
rounding.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["activated", "add_by_rows", "conv_by_rows", "is_large"]

LARGE = 2**25
"""Elements: 128 MB, those of 128 channels at 512x512 pixels."""
STRIP = 2**21
"""Elements of a strip."""

Rows = Callable[[int, int], Tensor]
"""(first row, the one after the last) → these rows of a map [B, C, rows, W]."""


def is_large(x: Tensor, times: int = 1) -> bool:
    """Whether a map, or one with so many times its elements, is better computed in strips."""
    return times * x.numel() >= LARGE and not torch.is_grad_enabled()


def activated(norm: nn.Module, x: Float[Tensor, "b c h w"]) -> Rows:
    """Rows of swish(norm(x))."""
    if not isinstance(norm, nn.GroupNorm):  # of each position alone
        return lambda first, last: F.silu(norm(x[:, :, first:last]), inplace=True)
    variance, mean = torch.var_mean(x.reshape(len(x), norm.num_groups, -1), -1, correction=0)
    share = x.shape[1] // norm.num_groups
    scale = norm.weight * (variance + norm.eps).rsqrt().repeat_interleave(share, 1)
    shift = (norm.bias - mean.repeat_interleave(share, 1) * scale)[:, :, None, None]
    return lambda first, last: F.silu(torch.addcmul(shift, x[:, :, first:last], scale[:, :, None, None]), inplace=True)


def _parts(height: int, per_row: int) -> list[tuple[int, int]]:
    rows = max(1, STRIP // per_row)
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]


def conv_by_rows(conv: nn.Conv2d, rows: Rows, height: int) -> Float[Tensor, "b d h w"]:
    """The convolution, which keeps the sides, of a map of this `height`."""
    around = conv.kernel_size[0] // 2
    like = rows(0, 1)
    result = like.new_empty(like.shape[0], conv.out_channels, height, like.shape[3])
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    for top, bottom in _parts(height, like.numel()):
        first, last = max(0, top - around), min(height, bottom + around)
        borders = (around, around, around - top + first, around - last + bottom)  # those of the map; of a strip there are more rows
        strip = F.pad(rows(first, last), borders, mode) if around else rows(first, last)
        result[:, :, top:bottom] = F.conv2d(strip, conv.weight, conv.bias)
    return result


def add_by_rows(y: Float[Tensor, "b d h w"], layer: nn.Module, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
    """y + layer(x), in the place of y; the layer sees each position alone."""
    for top, bottom in _parts(x.shape[2], x.shape[0] * x.shape[1] * x.shape[3]):
        y[:, :, top:bottom] += layer(x[:, :, top:bottom])
    return y
